"""Warnings about settings that are allowed but probably a mistake, for `ironpost check`.

Promises: only certificates and keys for signing are opened; of other files only the metadata are read; each warning
names its key and a remedy. Errors are not found here, but by `config`, by the component that a setting concerns, or by
`check`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ironpost.config.quantities import SocketPath
from ironpost.delivery.own_system import is_local, reached
from ironpost.dns.resolver import DnsResolver
from ironpost.mail_auth.names import is_within
from ironpost.model import Address
from ironpost.model.dns import ResolverError
from ironpost.model.network import SUBMISSIONS
from ironpost.model.text import counted
from ironpost.policy.checks.dmarc import Dmarc
from ironpost.policy.options import Enforcement
from ironpost.routing.tls.mta_sts import policy_host
from ironpost.server.tls import TlsError, exposed, read_certificate
from ironpost.storage.ownership import writable_by

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ironpost.config import Configuration
    from ironpost.server.tls import Certificate

DAY: Final = 86400
SOON: Final = 14
"""Days before the expiry of a certificate from which a warning is given; renewals usually come 30 days before."""


def remarks(configuration: Configuration, now: float) -> list[str]:
    """Return the warnings, in the order of the file's tables; `now` is in seconds since 1970.

    Raises:
        TlsError: a certificate cannot be used.
    """
    return [
        *_name(configuration),
        *_data(configuration),
        *_queue(configuration),
        *_sockets(configuration),
        *_certificates(configuration, now),
        *_policies(configuration),
        *_accounts(configuration),
        *_routes(configuration),
        *_logins(configuration, now),
        *_dkim(configuration),
        *_reports(configuration),
        *_dane(configuration),
        *_twins(configuration),
        *_addresses(configuration),
        *_local(configuration),
    ]


def _name(configuration: Configuration) -> Iterator[str]:
    name = configuration.hostname
    if name is None:
        return
    with contextlib.suppress(ValueError):
        ip_address(name)
        yield f"hostname: {name} is an address; use the host's DNS name"


def _data(configuration: Configuration) -> Iterator[str]:
    data = configuration.data
    with contextlib.suppress(OSError):
        if writable_by(data) == stat.S_IWGRP:
            yield f"data: {data} is writable by its group; unless that is intended, run: chmod g-w {data}"


def _queue(configuration: Configuration) -> Iterator[str]:
    queue = configuration.queue
    if queue.warn_after is not None and queue.warn_after >= queue.expire and "warn_after" in queue.model_fields_set:
        yield "queue.warn_after: no sender is warned, because mail expires first (queue.expire)"


def _sockets(configuration: Configuration) -> Iterator[str]:
    for number, listener in enumerate(configuration.listener, 1):
        for where in listener.listen:
            if isinstance(where, SocketPath) and not where.path.parent.is_dir():
                folder = where.path.parent
                yield f"listener[{number}].listen: {folder} does not exist; it must be created before the start"


def _accounts(configuration: Configuration) -> Iterator[str]:
    auth = configuration.auth
    if auth.users is not None and not auth.users.exists():
        yield f"auth.users: {auth.users} does not exist, so there are no accounts; add one: ironpost user add NAME"
    for key, file in (("auth.users", configuration.users), ("auth.database", auth.database)):
        if file is not None:
            yield from _exposed(key, file, "go-w,o-r")
    if auth.dovecot is not None and not auth.dovecot.exists():
        yield f"auth.dovecot: {auth.dovecot} does not exist; until Dovecot creates it, its accounts cannot log in (454)"


def _routes(configuration: Configuration) -> Iterator[str]:
    for number, route in enumerate(configuration.route, 1):
        auth = route.auth
        secrets = [("key", route.key)]
        for name in ("password", "token"):
            source = None if auth is None else getattr(auth, name)
            secrets.append((f"auth.{name}", None if source is None else source.path))
        for name, path in secrets:
            if path is not None:
                yield from _exposed(f"route[{number}].{name}", path, "600")
        for address in route.source or ():
            if not is_local(reached(address)):
                yield f"route[{number}].source: this machine does not have the address {address} now"
        if route.tls != "implicit" and any(hop.port == SUBMISSIONS for hop in route.smart_host or ()):
            yield f'route[{number}].tls: port {SUBMISSIONS} expects TLS from the first octet; set tls = "implicit"'


def _logins(configuration: Configuration, now: float) -> Iterator[str]:
    for number, route in enumerate(configuration.route, 1):
        if route.certificate is not None and route.key is not None:
            with contextlib.suppress(TlsError):  # an error, which `check` finds
                yield from _expiry(f"route[{number}].certificate", read_certificate(route.certificate, route.key), now)
            if route.tls == "none":
                yield f'route[{number}].certificate: it is not used, because tls is "none"'
        auth = route.auth
        if auth is None:
            continue
        if auth.token_command is None:
            for key in sorted(auth.model_fields_set & {"token_timeout", "token_environment"}):
                yield f"route[{number}].auth.{key}: it has no effect without token_command"
        else:
            program = Path(auth.token_command[0])
            if not (program.is_file() and os.access(program, os.X_OK)):
                yield f"route[{number}].auth.token_command: {program} is not an executable file"


def _dkim(configuration: Configuration) -> Iterator[str]:
    if configuration.dkim:
        from ironpost.compose.signing import dkim_keys, key_warnings

        yield from key_warnings(configuration, dkim_keys(configuration))


def _reports(configuration: Configuration) -> Iterator[str]:
    off = configuration.policy.read(Dmarc.Options).dmarc is Enforcement.OFF
    if configuration.dmarc_reports.contact is not None and off:
        yield 'dmarc_reports.contact: nothing is reported, because policy.dmarc is "off"'
    signing = [each.domain for each in configuration.dkim]
    for key, reports in (("tlsrpt", configuration.tlsrpt), ("dmarc_reports", configuration.dmarc_reports)):
        author = "" if reports.contact is None else Address.parse(reports.contact).key
        if author and not any(is_within(author, domain) for domain in signing):
            yield f"{key}.contact: {author} has no key, so reports are not signed, and many refuse them; add [[dkim]]"


def _certificates(configuration: Configuration, now: float) -> Iterator[str]:
    if not configuration.tls.certificates:
        return
    from ironpost.compose.listeners import configured_certificates

    context = configured_certificates(configuration)
    assert context is not None
    names = {name for each in context.certificates for name in each.facts.names}
    needed = [] if configuration.hostname is None else [("hostname", configuration.hostname)]
    if any(not each.takes_mail and each.tls == "implicit" for each in configuration.listener):
        needed += [("policy host", policy_host(domain)) for domain in configuration.sts_policies]
    for what, host in needed:
        if host not in names and f"*.{host.partition('.')[2]}" not in names:
            listed = ", ".join(sorted(names)) or "no name"
            yield f"tls.certificates: no certificate is valid for the {what} {host}, only for {listed}"
    for number, (each, files) in enumerate(zip(context.certificates, configuration.tls.certificates, strict=True), 1):
        yield from _expiry(f"tls.certificates[{number}].chain", each, now)
        yield from _exposed(f"tls.certificates[{number}].key", files.key, "600")


def _policies(configuration: Configuration) -> Iterator[str]:
    serving = [(number, each) for number, each in enumerate(configuration.listener, 1) if not each.takes_mail]
    if configuration.mta_sts and not serving:
        yield "mta_sts: no listener has the role http, so another server must serve these policies"
    for number, listener in serving:
        if not configuration.mta_sts and listener.tls_reports_to is None:
            yield f"listener[{number}]: it serves nothing: there is neither [[mta_sts]] nor tls_reports_to"
        if listener.tls == "implicit" and not configuration.tls.certificates:
            yield f"listener[{number}].tls: others do not trust a self-signed certificate; set tls.certificates"


def _exposed(key: str, file: Path, remedy: str) -> Iterator[str]:
    """Warn of a file that other users may read or change; `remedy` is a mode for chmod."""
    if (mode := exposed(file)) is not None:
        yield f"{key}: other users may read or change {file} ({mode:04o}); run: chmod {remedy} {file}"


def _expiry(key: str, certificate: Certificate, now: float) -> Iterator[str]:
    left = certificate.facts.not_after - now
    if left <= 0:
        yield f"{key}: {certificate.path} has expired; renew it"
    elif left < SOON * DAY:
        days = counted(max(1, round(left / DAY)), "day")
        yield f"{key}: {certificate.path} expires in {days}; renew it"


def _dane(configuration: Configuration) -> Iterator[str]:
    """Compare what the file says about DANE with the name servers; a file that is silent about it expects nothing."""
    expected = "dane" in configuration.delivery.model_fields_set or configuration.dns.model_fields_set
    if not expected or not configuration.delivery.dane:
        return
    with contextlib.suppress(ResolverError):  # the start of the server reports it
        obstacle = DnsResolver(
            nameservers=configuration.dns.servers or None, trusted=configuration.dns.trusted
        ).distrust
        if obstacle:
            yield f"delivery.dane: hosts are not authenticated by DANE, because {obstacle}"


def _twins(configuration: Configuration) -> Iterator[str]:
    yield from _lone("local.domains", configuration.local.domains)
    for number, route in enumerate(configuration.route, 1):
        yield from _lone(f"route[{number}].domains", route.domains)
        senders = [pattern.text for pattern in route.senders or () if pattern is not None]
        yield from _lone(f"route[{number}].senders", senders)
    for number, customer in enumerate(configuration.on_demand, 1):
        yield from _lone(f"on_demand[{number}].domains", customer.domains)


def _addresses(configuration: Configuration) -> list[str]:
    if not (configuration.lists_addresses or configuration.archive or configuration.sendmail.directory):
        return []  # the imports are slow
    from ironpost.cli.address_advice import address_remarks

    return address_remarks(configuration)


def _local(configuration: Configuration) -> Iterator[str]:
    if configuration.local.maildir is not None or configuration.local.delivery:
        from ironpost.compose.delivery import local_warnings

        yield from local_warnings(configuration, _user(configuration))


def _user(configuration: Configuration) -> int | None:
    """The id of the server's user, who owns the data directory; None before it exists if root asks."""
    try:
        return configuration.data.stat().st_uid
    except OSError:
        return os.geteuid() or None


def _lone(key: str, patterns: Sequence[str]) -> Iterator[str]:
    """Find internationalised domains, alone or in addresses, that are listed as U-label or A-label only."""
    listed = {pattern.lower() for pattern in patterns}
    for pattern in patterns:
        local, at, domain = pattern.lower().rpartition("@")
        with contextlib.suppress(UnicodeError):
            other = domain.encode("idna").decode() if not domain.isascii() else domain.encode().decode("idna")
            twin = f"{local}{at}{other}"
            if other != domain and twin not in listed:
                yield f"{key}: {pattern} is listed without its other form {twin}; list both"
