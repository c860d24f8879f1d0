"""What a configuration says that is allowed, and most likely not meant: for `ironpost check`.

Promises: nothing is opened but the certificates and the metadata of their keys; each remark names its key and says what
to do. What cannot work at all is an error of `config` or of the part that it concerns, and is not looked for here.
"""

from __future__ import annotations

import contextlib
import stat
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ironpost.config import Configuration

DAY: Final = 86400
SOON: Final = 14
"""Days before its end from which on a certificate is mentioned; renewals come 30 days before, as a rule."""


def remarks(configuration: Configuration, now: float) -> list[str]:
    """The remarks, in the order of the file's tables; `now` is in seconds since 1970.

    Raises:
        TlsError: a certificate cannot be used.
    """
    return [*_name(configuration), *_certificates(configuration, now), *_twins(configuration)]


def _name(configuration: Configuration) -> Iterator[str]:
    name = configuration.hostname
    if name is None:
        return
    with contextlib.suppress(ValueError):
        ip_address(name)
        yield f"hostname: {name} is an address; write the name that DNS has for it"


def _certificates(configuration: Configuration, now: float) -> Iterator[str]:
    if not configuration.tls.certificates:
        return
    from ironpost.compose.listeners import configured_certificates

    context = configured_certificates(configuration)
    assert context is not None
    names = {name for each in context.certificates for name in each.facts.names}
    host = configuration.hostname
    if host is not None and host not in names and f"*.{host.partition('.')[2]}" not in names:
        listed = ", ".join(sorted(names)) or "nobody"
        yield f"tls.certificates: none is for the hostname {host}, only for {listed}"
    for number, (each, files) in enumerate(zip(context.certificates, configuration.tls.certificates, strict=True), 1):
        left = each.facts.not_after - now
        if left <= 0:
            yield f"tls.certificates[{number}].chain: {files.chain} has expired; renew it"
        elif left < SOON * DAY:
            yield f"tls.certificates[{number}].chain: {files.chain} expires in {left / DAY:.0f} days; renew it"
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(files.key.stat().st_mode)
            if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
                yield (
                    f"tls.certificates[{number}].key: other users may read or change {files.key} ({mode:04o}); "
                    f"run: chmod 600 {files.key}"
                )


def _twins(configuration: Configuration) -> Iterator[str]:
    yield from _lone("local.domains", configuration.local.domains)
    for number, route in enumerate(configuration.route, 1):
        yield from _lone(f"route[{number}].domains", route.domains)
    for number, customer in enumerate(configuration.on_demand, 1):
        yield from _lone(f"on_demand[{number}].domains", customer.domains)


def _lone(key: str, domains: Sequence[str]) -> Iterator[str]:
    """The internationalised domains that are there in one of their two forms only."""
    for domain in domains:
        with contextlib.suppress(UnicodeError):
            twin = domain.encode("idna").decode() if not domain.isascii() else domain.encode().decode("idna")
            if twin != domain and twin not in domains:
                yield f"{key}: mail comes for {twin} as well as for {domain}; write both"
