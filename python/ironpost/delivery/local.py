"""The registry of local delivery agents: what `[[local.delivery]]` offers.

Promises: importing this loads no agent that needs the client or TLS, so commands that only read a configuration start
quickly.

To add a local agent: a module with its options (a frozen dataclass, as `model.options` describes; `Verifiable` if they
name something that this system must have) and a class that implements `RouteAgent`; a member of `routing.route.Kind`; a
line in `agents.AGENTS` and one here.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, runtime_checkable

from ironpost.delivery.discard import DiscardOptions
from ironpost.delivery.dmarc_reports import DmarcReportsOptions
from ironpost.delivery.lmtp import LmtpOptions
from ironpost.delivery.maildir import MaildirOptions
from ironpost.delivery.mbox import MboxOptions
from ironpost.delivery.pipe import PipeOptions
from ironpost.delivery.post import PostOptions
from ironpost.routing.route import Kind, Route

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@runtime_checkable
class Verifiable(Protocol):
    """Options that can be compared with this system."""

    def verify(self) -> None:
        """Look for what the options name, at start, at a reload and for `ironpost check`. Blocks.

        Raises:
            ValueError: something is missing; the text starts with the key.
        """
        ...


class LocalAgent(NamedTuple):
    """One line of the registry."""

    kind: Kind
    options: type[Any]
    route: Callable[[Any], Route] | None = None
    """Makes the route from the options; None for `Route.local`."""

    def route_of(self, options: Any) -> Route:
        """The route of the mail that is delivered with these options."""
        return Route.local(self.kind, options) if self.route is None else self.route(options)


LOCAL_AGENTS: Final[Mapping[str, LocalAgent]] = MappingProxyType(
    {
        "maildir": LocalAgent(Kind.LOCAL, MaildirOptions),
        "mbox": LocalAgent(Kind.MBOX, MboxOptions),
        "discard": LocalAgent(Kind.DISCARD, DiscardOptions),
        "dmarc_reports": LocalAgent(Kind.DMARC_REPORTS, DmarcReportsOptions),
        "pipe": LocalAgent(Kind.PIPE, PipeOptions),
        "post": LocalAgent(Kind.POST, PostOptions),
        "lmtp": LocalAgent(Kind.LMTP, LmtpOptions, LmtpOptions.route),
    }
)
"""The local agents by their key in the configuration."""
