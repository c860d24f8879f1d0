"""Where the owner of a domain wants reports, and whether those destinations want them.

Promises: a report goes into another organization only if that has a record which says so; otherwise a record could
direct reports to a victim (RFC 9990 §4). At most `MAX_DESTINATIONS` of a record are used. A query that fails decides
nothing (SECURITY R27).
Limitations: only `mailto` URIs are used, as RFC 9990 defines no other transport.
Standards: RFC 9990 §3.4, §3.5, §4; RFC 9991 §5.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ironpost.mail_auth.dmarc import TreeWalker, record_name
from ironpost.mail_auth.dmarc_record import is_record, parse_record, select_record
from ironpost.mail_auth.names import is_name, normalised
from ironpost.model import dns
from ironpost.reports.destination import MAX_DESTINATIONS, Destination, destination

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ironpost.mail_auth import DmarcRecord
    from ironpost.model import Address
    from ironpost.model.dns import Resolver


def aggregate_uris(record: DmarcRecord) -> tuple[str, ...]:
    """Return where a record wants aggregate reports."""
    return record.aggregate


def failure_uris(record: DmarcRecord) -> tuple[str, ...]:
    """Return where a record wants failure reports."""
    return record.failure


async def published_destinations(domain: str, resolver: Resolver) -> tuple[Destination, ...]:
    """Return where aggregate reports go by the record at a domain, which is in A-labels; nowhere if it has none.

    Raises:
        ResolverError: the query failed.
    """
    record = select_record((await dns.txt(resolver, record_name(domain))).data)
    return () if record is None else usable(record.aggregate)


async def willing_recipients(
    domain: str, to: Address, resolver: Resolver, uris: Callable[[DmarcRecord], tuple[str, ...]] = aggregate_uris
) -> tuple[Address, ...]:
    """Return the addresses that get a report about a domain instead of a published one: usually the same.

    Args:
        domain: whose record names the address, in A-labels.
        to: the address.
        resolver: answers the queries.
        uris: returns those of a record for the kind of reports.

    Returns:
        Empty if the organization of the address does not want reports about this domain.

    Raises:
        ResolverError: a query failed.
    """
    try:
        host = normalised(to.domain)
    except ValueError:
        return ()
    walker = TreeWalker(resolver)
    if host == domain or await walker.organization(host) == await walker.organization(domain):
        return (to,)
    name = f"{domain}._report._dmarc.{host}"
    if not is_name(name):
        return ()
    records = [parse_record(each) for each in (await dns.txt(resolver, name)).data if is_record(each)]
    replaced = next(filter(None, map(uris, records)), None)
    if replaced is None:
        return (to,) if records else ()
    addresses = [each.address for each in usable(replaced) if each.address is not None]
    return tuple(addresses) if all(_host(each) == host for each in addresses) else ()


def usable(uris: Iterable[str]) -> tuple[Destination, ...]:
    """Return the first destinations with a mail address, each once."""
    found: dict[str, Destination] = {}
    for uri in uris:
        with suppress(ValueError):
            each = destination(uri)
            if each.address is not None:
                found.setdefault(uri, each)
    return tuple(found.values())[:MAX_DESTINATIONS]


def _host(address: Address) -> str:
    try:
        return normalised(address.domain)
    except ValueError:
        return ""
