"""The server under test: as the caller describes it, and as it described itself to `survey`."""

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
"""What the suite calls itself in EHLO."""


@dataclass(frozen=True)
class Target:
    """Where the server is and what the caller knows about it."""

    host: str
    port: int
    profile: Profile = Profile.MX
    sender: str = "conform@client.example"
    recipient: str = ""
    """Accepted by the server; empty: `survey` looks for one."""
    second: str = ""
    """Another one that is accepted."""
    rejected: str = ""
    """Refused by the server."""
    user: str = ""
    password: str = ""
    starttls: bool = False
    """Cases begin behind STARTTLS, unless they are about the dialogue before it."""
    implicit_tls: bool = False
    insecure: bool = False
    """The server's certificate is not verified."""
    maildir: Path | None = None
    """A folder in which accepted messages appear as files."""
    timeout: float = 5.0
    """Seconds to wait for a reply."""

    def context(self) -> ssl.SSLContext:
        """TLS as the caller wants it."""
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
    """What the server said about itself."""

    greeting: str = ""
    clear: Mapping[str, str] = field(default_factory=dict)
    """Keywords to parameters in the first EHLO reply."""
    offers: Mapping[str, str] = field(default_factory=dict)
    """The same where cases begin: under TLS and behind AUTH, if those were asked for."""
    before_login: Mapping[str, str] = field(default_factory=dict)
    """The same under TLS, before AUTH."""
    secure: bool = False
    """Cases begin under TLS."""


WANTS: Final[Mapping[str, str]] = {
    "second": "no second recipient that the server takes: name one with --to2",
    "rejected": "no recipient that the server refuses: name one with --rejected",
    "login": "no --user and --password",
    "no login": "--user is given",
    "maildir": "no --maildir to look for the message in",
    "tls": "the session is not under TLS: --starttls or --tls",
    "clear": "the session is under TLS",
    "clear connection": "the connection begins with TLS",
}
"""What a case may want, with the reason that stands in the report where it is not there."""


def lacks(want: str, target: Target, survey: Survey) -> bool:
    """Whether what a case wants is not there."""
    there = {
        "second": bool(target.second),
        "rejected": bool(target.rejected),
        "login": bool(target.user),
        "no login": not target.user,
        "maildir": target.maildir is not None,
        "tls": survey.secure,
        "clear": not survey.secure,
        "clear connection": not target.implicit_tls,
    }
    return not there[want]
