"""The scripted server in each role, and for each of its flaws the cases that must fail.

A case that a row of `ROWS` names is proven there; each other one by a changed reply (test_every_case.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import sys
import tempfile
import warnings
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ironpost.conform import Profile, Target, cases, survey
from ironpost.conform.topics.framing import CUT, FALSE_ENDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ironpost.conform import Case, Survey

scripted = sys.modules["conform_scripted"]

PATIENT = 10.0
"""Seconds that a right server has for a reply: it needs milliseconds."""
IMPATIENT = 0.5
"""Seconds that a wrong one has: some say nothing."""


class Stage(NamedTuple):
    """The scripted server in a role."""

    profile: Profile = Profile.MX
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed
    tls: bool = False
    """There is STARTTLS."""
    starttls: bool = False
    """Cases begin after STARTTLS."""


STAGES = {
    "mx": Stage(),
    "lmtp": Stage(Profile.LMTP, {"lmtp": True}),
    "submission": Stage(Profile.SUBMISSION, {"auth": True}),
    "tls": Stage(tls=True),
    "submission with tls": Stage(Profile.SUBMISSION, {"auth": True}, tls=True),
    "none": Stage(options={"offers": "none"}),
    "submission with many": Stage(Profile.SUBMISSION, {"auth": True, "offers": "many"}),
    "many": Stage(options={"offers": "many"}, tls=True, starttls=True),
}
PROFILES = ("mx", "lmtp", "submission")
"""Those in which a case that has a question for several is proven in each."""


def tls(certificate: Path, *, old: bool = False) -> ssl.SSLContext:
    """TLS for a server with that certificate; `old`: of versions that nobody may use any more too."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate)
    if old:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            made.minimum_version = ssl.TLSVersion.TLSv1
        made.set_ciphers("ALL:@SECLEVEL=0")
    return made


@contextlib.asynccontextmanager
async def served(
    stage: Stage, certificate: Path, kind: Callable[..., Any] = scripted.Scripted, *, old: bool = False, **more: Any
) -> AsyncIterator[tuple[Target, Survey]]:
    """A server of that stage: what it is as a target, and what it says about itself. `more` are options of `kind`."""
    options = {**stage.options, "context": tls(certificate, old=old) if stage.tls else None, **more}
    with tempfile.TemporaryDirectory(prefix="ironpost-conform-") as name:
        options |= {"folder": Path(name), "server": {"ended": False}}
        server = await asyncio.get_running_loop().create_server(lambda: kind(**options), "127.0.0.1", 0)
        target = Target(
            "127.0.0.1", server.sockets[0].getsockname()[1], stage.profile, insecure=stage.tls,
            starttls=stage.starttls, timeout=PATIENT,
        )  # fmt: skip
        try:
            target, found = await survey(target)
            yield replace(target, maildir=options["folder"]), found
        finally:
            server.close()


FLAWS: dict[str, tuple[str, tuple[str, ...]]] = {
    # Lines, the end of content
    "LF ends a command": (
        "mx", ("rfc5321-2.3.8-lone-lf-is-not-answered", "rfc5321-2.3.8-lf-in-a-path-adds-no-recipient"),
    ),
    "takes a command from each read": (
        "mx",
        (
            "rfc5321-2.3.8-crlf-cut", "rfc5321-2.3.8-command-octet-by-octet", "rfc5321-2.3.8-command-cut-in-the-verb",
            "rfc5321-7.8-slow-octets",
        ),
    ),
    "looks for the end of content in each read": (
        "mx", ("rfc5321-4.1.1.4-end-cut-at-*", "rfc5321-4.1.1.4-end-octet-by-octet", "rfc5321-4.5.2-dots-around-*"),
    ),
    "takes bare line ends": (
        "mx", ("rfc5321-2.3.8-bare-lf-in-content-refused", "rfc5321-2.3.8-bare-cr-in-content-refused"),
    ),
    "accepts cut content": (
        "mx",
        (
            "rfc5321-4.1.1.10-end-of-stream-in-content", "rfc5321-4.1.1.10-end-of-stream-after-the-dot",
            "rfc5321-4.1.1.10-end-of-stream-after-dot-cr",
        ),
    ),
    "delivers cut content": (
        "mx", ("rfc5321-4.1.1.10-end-of-stream-in-content", "rfc3030-2-short-chunk-then-end-of-stream"),
    ),
    # What is stored
    "loses what it accepts": (
        "mx", ("rfc5321-3.2-mail-after-helo", "rfc5321-4.1.1.4-end-cut-at-*", "rfc5321-4.1.1.4-end-octet-by-octet"),
    ),
    "dots stay stuffed": (
        "mx",
        (
            "rfc5321-4.5.2-stuffed-dot", "rfc5321-4.5.2-only-a-stuffed-dot", "rfc5321-4.5.2-three-dots",
            "rfc5321-4.5.2-unstuffed-dot", "rfc5321-4.5.2-dot-first", "rfc5321-4.5.2-stuffed-line-last",
            "rfc5321-4.5.2-many-stuffed", "rfc5321-4.5.3.1.6-stuffed-line-of-998", "rfc5321-4.5.2-dots-around-*",
        ),
    ),
    "takes the dots from the ends of lines": ("mx", ("rfc5321-4.5.2-dots-inside",)),
    "removes empty lines": ("mx", ("rfc5321-4.1.1.4-blank-lines",)),
    "removes white space at the ends of lines": ("mx", ("rfc5321-2.3.1-trailing-space",)),
    "quotes From": ("mx", ("rfc5321-2.3.1-from-line",)),
    "removes verbs": ("mx", ("rfc5321-4.1.1.4-commands-in-text",)),
    "cuts lines": ("mx", ("rfc5321-4.5.3.1.6-line-of-998", "rfc5321-4.5.3.1.6-stuffed-line-of-998")),
    "removes control octets": ("mx", ("rfc5321-2.3.1-control-octets",)),
    "loses every tenth line": ("mx", ("rfc5321-4.5.3.1.7-64k",)),
    "cuts the eighth bit": ("many", ("rfc6152-3-octets", "rfc6531-3.6-message")),
    "writes no Received": ("mx", ("rfc5321-4.4-received",)),
    "writes no Return-Path": ("mx", ("rfc5321-4.4-return-path",)),
    "writes Return-Path twice": ("mx", ("rfc5321-4.4-return-path",)),
    "refolds fields": ("mx", ("rfc5321-3.6.3-header-is-kept",)),
    "counts no hops": ("mx", ("rfc5321-6.3-loop",)),
    "writes no Message-ID": ("submission", ("rfc6409-8.3-message-id", "rfc6409-8-kept")),
    "writes no Date": ("submission", ("rfc6409-8.2-date", "rfc6409-8-kept")),
    "replaces Date": ("submission", ("rfc6409-8-kept",)),
    # Commands and transactions
    "answers 250 to everything": (
        "mx",
        (
            "rfc5321-4.2.4-unknown-verb", "rfc5321-3.3-rcpt-without-mail", "rfc5321-3.3-data-without-rcpt",
            "rfc5321-4.1.1.11-mail-unknown", "rfc5321-4.1.1.11-rcpt-unknown",
        ),
    ),
    "forgets RSET": ("mx", ("rfc5321-4.1.1.5-rset-forgets-the-sender", "rfc5321-4.1.1.5-rset-forgets-the-recipients")),
    "RSET delivers": ("mx", ("rfc5321-4.1.1.5-rset-delivers-nothing",)),
    "EHLO keeps the transaction": ("mx", ("rfc5321-4.1.4-ehlo-forgets-the-sender",)),
    "RCPT needs no MAIL": ("mx", ("rfc5321-3.3-rcpt-without-mail", "rfc5321-4.1.1.4-data-ends-the-transaction")),
    "closes at the first error": ("mx", ("rfc5321-4.1.1.10-open-after-an-error",)),
    "never tires of errors": ("mx", ("rfc5321-7.8-many-errors",)),
    "knows every parameter": (
        "mx",
        (
            "rfc5321-4.1.1.11-mail-unknown", "rfc5321-4.1.1.11-rcpt-unknown",
            "rfc5321-4.1.1.11-mail-smtputf8-not-offered",
        ),
    ),
    "is case-sensitive": ("mx", ("rfc5321-2.4-mail-in-any-case", "rfc3030-2-any-case")),
    "answers QUIT twice": ("mx", ("rfc5321-4.1.1.10-quit-after-ehlo",)),
    "keeps QUIT open": ("mx", ("rfc5321-4.1.1.10-quit-after-rcpt",)),
    "listens after QUIT": ("mx", ("rfc5321-4.1.1.10-nothing-after-quit",)),
    "takes any size": ("mx", ("rfc1870-6.1-beyond-the-maximum",)),
    "takes ten recipients": ("mx", ("rfc5321-4.5.3.1.8-100-recipients",)),
    "takes twenty recipients and forgets them": ("mx", ("rfc5321-4.5.3.1.10-too-many-recipients",)),
    "loses pipelined commands": ("mx", ("rfc2920-3.1-envelope-and-data", "rfc2920-3.1-quit-at-the-end")),
    "executes NOOP that is too long": ("mx", ("rfc5321-4.5.3.1.9-one-answer-to-a-long-line",)),
    "answers NOOP with 999": ("mx", ("rfc5321-4.2-code-digits",)),
    "answers NOOP without a code": ("mx", ("rfc5321-4.2-grammar",)),
    "code without text of its class": ("mx", ("rfc2034-4-unknown-verb", "rfc2034-4-bad-sequence")),
    "an enhanced code after 354": ("mx", ("rfc2034-4-data",)),
    "offers nonsense": (
        "mx",
        (
            "rfc5321-4.1.1.1-keywords", "rfc1870-4-size-line", "rfc4865-4.2-not-for-relay",
        ),
    ),
    "offers REQUIRETLS unencrypted": ("many", ("rfc8689-2-not-without-tls",)),
    # BDAT
    "reads chunks as commands when it refuses them": (
        "mx", ("rfc3030-2-chunk-before-mail-is-consumed", "rfc3030-2-chunk-before-rcpt-is-consumed"),
    ),
    "scans chunks for dots": ("mx", ("rfc3030-2-verbs-in-a-chunk", "rfc3030-2-dot-line", "rfc3030-2-chunk-in-pieces")),
    "unstuffs chunks": ("mx", ("rfc3030-2-no-transparency",)),
    "loses the last octet of chunks": (
        "many",
        (
            "rfc3030-2-one-chunk", "rfc3030-2-two-chunks", "rfc3030-2-empty-last", "rfc3030-2-empty-chunk-first",
            "rfc3030-2-one-octet-chunks", "rfc3030-2-chunks-in-one-write", "rfc3030-2-large-chunk",
            "rfc3030-2-chunk-ends-inside-crlf", "rfc3030-2-chunk-in-pieces",
        ),
    ),
    "keeps chunks at RSET": ("mx", ("rfc3030-2-rset-between-chunks",)),
    # LMTP
    "one reply for all recipients": ("lmtp", ("rfc2033-4.2-two-recipients", "rfc2033-4.3-bdat-last")),
    "answers EHLO in LMTP": ("lmtp", ("rfc2033-4.1-ehlo",)),
    # AUTH
    "says 535 to the star": ("submission", ("rfc4954-4-*-cancelled",)),
    "takes bad base64": ("submission", ("rfc4954-4-plain-bad-base64-*", "rfc4954-4-*-bad-base64")),
    "lets everybody in": (
        "submission", ("rfc4954-4-wrong-password", "rfc4954-4-plain-malformed-*", "rfc4954-4-*-garbage"),
    ),
    "challenges in plain text": ("submission", ("rfc4954-4-*-challenge-is-base64",)),
    # STARTTLS
    "has no handshake": ("tls", ("rfc3207-4-handshake", "rfc3207-4.2-ehlo-works")),
    "executes what stands after STARTTLS": ("tls", ("rfc3207-6-injected-*",)),
    "offers STARTTLS again": ("tls", ("rfc3207-4.2-not-offered-again",)),
    "takes STARTTLS again": ("tls", ("rfc3207-4.2-not-twice",)),
    "keeps EHLO under TLS": ("tls", ("rfc3207-4.2-forgets-ehlo",)),
    "keeps the transaction under TLS": ("tls", ("rfc3207-4.2-forgets-the-transaction",)),
    "answers unencrypted after STARTTLS": ("tls", ("rfc3207-4-no-answer-without-tls",)),
    "ends at a failed handshake": ("tls", ("rfc3207-4-garbage-instead-of-a-handshake",)),
    "continues unencrypted when TLS ends": ("tls", ("rfc3207-4-end-of-tls-inside-content",)),
    "offers AUTH unencrypted": ("submission with tls", ("rfc8314-4.1-auth-not-without-tls",)),
    "offers no STARTTLS": ("submission with tls", ("rfc8314-3.3-tls",)),
}  # fmt: skip
"""Flaw of the scripted server to the role in which it is tried and the cases that must fail."""


class Row(NamedTuple):
    """Cases that fail where the server has a flaw, and pass where it has none."""

    stage: str
    patterns: tuple[str, ...]
    options: dict[str, Any]
    """What makes the server wrong."""

    def cases(self) -> list[Case]:
        """Those that must fail.

        Raises:
            AssertionError: a pattern means none.
        """
        found = {pattern: [case for case in cases() if fnmatchcase(case.id, pattern)] for pattern in self.patterns}
        assert all(found.values()), found
        return [case for each in found.values() for case in each]


LINE_ENDS = {"lf": b"\n", "cr": b"\r", "crcr": b"\r\r", "lfcr": b"\n\r", "nul": b"\0", "nel": b"\x85"}
ODD = {"bare-lf": rb"[^\r]\n", "bare-cr": rb"\r[^\n]", "cr-cr-lf": rb"\r\r\n", "nul": rb"\0"}
"""Patterns of octets that are not allowed in content and do not end it."""
ROWS = {
    **{flaw: Row(stage, patterns, {"flaws": frozenset({flaw})}) for flaw, (stage, patterns) in FLAWS.items()},
    **{
        f"ends content at {name}": Row(
            "mx", tuple(f"rfc5321-4.1.1.4-{name}-does-not-end{cut}" for cut in ("", "-cut")[: 1 + (name in CUT)]),
            {"ends": (re.escape(end),)},
        )
        for name, end in FALSE_ENDS.items()
    },
    **{
        f"ends content at {name} in the body": Row("mx", (f"rfc5321-2.3.8-{name}-in-content",), {"ends": (end,)})
        for name, end in ODD.items()
    },
    **{
        f"ends commands at {name}": Row("mx", (f"rfc5321-2.3.8-{name}-does-not-end-command",), {"line_ends": (end,)})
        for name, end in LINE_ENDS.items()
    },
    **{
        f"ends content inside an endless {name}": Row("mx", (f"rfc5321-4.5.3.1.6-endless-{name}",), {"ends": (end,)})
        for name, end in {"line": b"x{5000}", "field": b"y{5000}"}.items()
    },
    "takes TLS 1.0": Row("tls", ("rfc8996-5-old-versions",), {"old": True}),
    "loses what it accepts under TLS": Row(
        "tls", ("rfc3207-5-message-under-tls",), {"flaws": frozenset({"loses what it accepts"})}
    ),
}  # fmt: skip
"""Every way of being wrong to what it must make fail."""


@cache
def named() -> set[str]:
    """The cases that a row names."""
    return {case.id for row in ROWS.values() for case in row.cases()}
