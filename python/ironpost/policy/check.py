"""The contract of a policy check: options, methods, findings.

Stages are in `policy.facts`, verdicts in `model.verdict`.

Promises: findings and decisions are immutable and carry their reasons. A stage that a check does not define is neutral
and costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, TypeAlias

from ironpost.model.verdict import accept, defer

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.mail_auth import MethodResult
    from ironpost.message.section import Header
    from ironpost.model.verdict import Verdict
    from ironpost.policy.context import Context
    from ironpost.policy.facts import Facts
    from ironpost.routing.directory import DirectoryError

ACCEPT: Final = accept()
NEUTRAL: Final = None
"""No verdict: the next check decides."""


class Finding(NamedTuple):
    """The result of one check and its reason."""

    verdict: Verdict | None = NEUTRAL
    """None (`NEUTRAL`): the next check decides. A quarantine or a tarpit modifies the decision, which later checks
    make; every other verdict is the decision."""
    reason: str = ""
    """The reason, for operators and the log; may be empty."""
    noted: bool = False
    """Log the finding whatever is decided."""
    result: object | None = None
    """A typed result for later checks, which get it by its type (`Facts.result`). An instance of a class that only this
    check uses."""
    fields: tuple[bytes, ...] = ()
    """MAIL, CONTENT: header fields for the message, each with its CRLF, as `message.header.field` returns them. They
    are put above the Received field of this server, in the order of the checks."""
    authentication: tuple[MethodResult, ...] = ()
    """MAIL, CONTENT: results for the field Authentication-Results. The message gets one for all checks (RFC 8601 §4),
    with the name of this server, above `fields`."""


NOTHING: Final = Finding()
"""The check has nothing to say."""


def lookup_failed(what: str, error: DirectoryError) -> Finding:
    """Defer, because the directory could not answer (451 4.3.0); `what` is `Sender` or `Recipient`."""
    return Finding(defer(f"{what} lookup failed", status="3.0"), f"the directory failed: {error}", noted=True)


Opinion: TypeAlias = "Finding | Awaitable[Finding]"
"""The result of a check. Only checks that use a port return an awaitable."""


class PolicyDecision(NamedTuple):
    """The verdict of the pipeline, and the reasons of all findings."""

    verdict: Verdict
    reasons: tuple[str, ...]
    """Each is prefixed with the name of its check: `relay: example.org is local`."""
    noted: bool = False
    """Log the decision even if it accepts."""
    fields: tuple[bytes, ...] = ()
    """See `Finding.fields`."""
    authentication: tuple[MethodResult, ...] = ()
    """See `Finding.authentication`."""


class Scanner:
    """Reads the content of one message for a check. A subclass defines what it needs.

    It sees the content as it was received: before fields are removed (`Check.strip`), but after the repairs of
    submission (`message.submission`). It runs in the event loop, so the work per piece is small.
    """

    shared: object | None = None
    """What scanners of later checks may use; `Check.scanner` gets it by its type (`Facts.result`)."""

    def header(self, header: Header) -> None:
        """The header section, whole, before any piece of the body.

        Of a section beyond the limits of `wire.Limits` it is the start, and `header.section.fault` is set.
        """
        del header

    def body(self, piece: bytes) -> None:
        """The next octets of the body, at least one."""
        del piece

    def finish(self, facts: Facts) -> Opinion:
        """The content is complete: a finding for CONTENT, in the place of the check in the order."""
        del facts
        return NOTHING


@dataclass(frozen=True, slots=True)
class NoOptions:
    """The options of a check without options."""


class Check:
    """A policy rule. A subclass is one file in `policy.checks` and one line in its registry.

    It defines a method for each stage it runs at, and `scanner` if it reads content; what it does not define is
    neutral. One object serves all sessions, so whatever it remembers is bounded.
    """

    name: ClassVar[str]
    """A short name, which prefixes reasons."""
    Options: ClassVar[type[Any]] = NoOptions
    """The check's options: a frozen dataclass in which every field has a default and a docstring.

    Each field is a key of `[policy]`; `model.options` lists the types that it may have. A field whose type is a
    dataclass is a table, `[policy.KEY]`, and one that is a tuple of them an array of tables, `[[policy.KEY]]`.
    """

    def __init__(self, options: Any, context: Context) -> None:
        """A check with these options.

        Args:
            options: an instance of `Options`; a subclass annotates the attribute with it.
            context: the system, the ports, and the options that checks share.

        Raises:
            ValueError: a standard forbids what the options demand; the error cites it.
        """
        self.options = options
        self.context = context

    @property
    def enabled(self) -> bool:
        """Whether the check has anything to do with its options and ports; if not, it is left out."""
        return True

    def connect(self, facts: Facts) -> Opinion:
        """A client has connected."""
        del facts
        return NOTHING

    def hello(self, facts: Facts) -> Opinion:
        """EHLO, HELO or LHLO."""
        del facts
        return NOTHING

    def mail(self, facts: Facts) -> Opinion:
        """MAIL: a transaction begins."""
        del facts
        return NOTHING

    def recipient(self, facts: Facts) -> Opinion:
        """RCPT."""
        del facts
        return NOTHING

    def content(self, facts: Facts) -> Opinion:
        """The content is complete."""
        del facts
        return NOTHING

    def scanner(self, facts: Facts) -> Scanner | None:
        """Content is about to arrive: a scanner for it, or None if this message needs none."""
        del facts
        return None

    def strip(self, facts: Facts) -> frozenset[str]:
        """Content is about to arrive: names of fields to remove from its header section, in lower case.

        It is asked of every check, whatever was decided before. CONTENT is too late: content is stored as it arrives.
        """
        del facts
        return frozenset()

    def services(self, facts: Facts) -> frozenset[str]:
        """Content is about to arrive: services whose fields Authentication-Results are removed, as `strip`.

        They are authserv-ids of this system (RFC 8601 §2.5), in whose name the client may not write.
        """
        del facts
        return frozenset()
