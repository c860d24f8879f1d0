"""The server under test: what the caller knows about it (`Target`) and what it announced (`Survey`)."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Final

from ironpost.conform.case import Profile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NAME: Final = "conform.example"
"""The name that the suite gives in EHLO."""


@dataclass(frozen=True)
class Target:
    """Where the server is and what the caller knows about it."""

    host: str
    port: int
    profile: Profile = Profile.MX
    sender: str = "conform@client.example"
    recipient: str = ""
    """A recipient that the server accepts; if empty, `survey` looks for one."""
    second: str = ""
    """Another recipient that the server accepts."""
    rejected: str = ""
    """A recipient that the server refuses."""
    user: str = ""
    password: str = ""
    starttls: bool = False
    """Cases begin after STARTTLS, except those about the dialogue before it."""
    implicit_tls: bool = False
    insecure: bool = False
    """The server's certificate is not verified."""
    maildir: Path | None = None
    """A folder in which accepted messages appear as files."""
    timeout: float = 5.0
    """Seconds to wait for a reply."""

    def context(self) -> ssl.SSLContext:
        """Return the TLS settings for a connection to the server."""
        return _context(self.insecure)

    @property
    def hello(self) -> str:
        """The verb that opens a session."""
        return "LHLO" if self.profile is Profile.LMTP else "EHLO"


@cache
def _context(insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()  # reads the system's authorities: once is enough
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@dataclass(frozen=True)
class Survey:
    """What the server announced."""

    greeting: str = ""
    unencrypted: Mapping[str, str] = field(default_factory=dict)
    """Keywords to parameters in the first EHLO reply."""
    offers: Mapping[str, str] = field(default_factory=dict)
    """The same where cases begin: under TLS and after AUTH, if the target asks for them."""
    before_login: Mapping[str, str] = field(default_factory=dict)
    """The same under TLS, before AUTH."""
    secure: bool = False
    """Cases begin under TLS."""


WANTS: Final[Mapping[str, str]] = {
    "second": "no second recipient that the server accepts: name one with --to2",
    "rejected": "no recipient that the server refuses: name one with --rejected",
    "login": "no --user and --password",
    "no login": "--user is given",
    "maildir": "no --maildir in which to look for the message",
    "tls": "the session is not under TLS: use --starttls or --tls",
    "unencrypted": "the session is under TLS",
    "unencrypted connection": "the connection begins with TLS",
}
"""What a case may require, and the reason reported if it is missing."""


def lacks(want: str, target: Target, survey: Survey) -> bool:
    """Return whether a requirement of a case is missing."""
    there = {
        "second": bool(target.second),
        "rejected": bool(target.rejected),
        "login": bool(target.user),
        "no login": not target.user,
        "maildir": target.maildir is not None,
        "tls": survey.secure,
        "unencrypted": not survey.secure,
        "unencrypted connection": not target.implicit_tls,
    }
    return not there[want]
