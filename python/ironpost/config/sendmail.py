"""`[sendmail]`: mail from programs on this machine, by the command `ironpost sendmail`."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads annotations

from ironpost.config.values import Domain, Section


class SendmailSection(Section):
    """`[sendmail]`: mail from programs on this machine."""

    directory: Path | None = None
    """The drop directory, in which the command leaves messages for the server; default: `sendmail` in the data
    directory, in which only the server's user may write."""
    domain: Domain | None = None
    """The domain of addresses without one, such as `root`, of senders too; default: `hostname` if it is in
    `local.domains`, else the first name in `local.domains` with a dot, else `hostname`."""
