"""Servers that accept all mail and deliver none, as receivers for the tests of outgoing TLS."""

from __future__ import annotations

import os
import shutil
import smtplib
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import mtas

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mtas import Ready

HERE = Path(__file__).parent


class Served(NamedTuple):
    """The certificate of a listener."""

    chain: Path
    key: Path


def aiosmtpd(folder: Path, listeners: Mapping[int, Served | None]) -> Ready:
    """It knows REQUIRETLS, the others do not."""
    names = []
    for port, served in listeners.items():
        both = folder / f"{port}.pem"
        if served is not None:
            both.write_bytes(served.key.read_bytes() + served.chain.read_bytes())
        names.append(f"{port}={both}" if served is not None else str(port))
    return mtas.Ready([sys.executable, str(HERE / "aiosmtpd_server.py"), "--requiretls", *names], dict(os.environ))


def exim(folder: Path, listeners: Mapping[int, Served | None]) -> Ready:
    """One listener for all ports, whose options depend on the port."""

    def by_port(values: Mapping[int, object]) -> str:
        found = ""
        for port, value in values.items():
            found = f"${{if eq{{$received_port}}{{{port}}}{{{value}}}{{{found}}}}}"
        return found

    secure = {port: served for port, served in listeners.items() if served is not None}
    for served in secure.values():
        subprocess.run(["chown", mtas.EXIM, *served], check=True)
    main = f"""tls_advertise_hosts = {by_port(dict.fromkeys(secure, "*"))}
tls_certificate = {by_port({port: served.chain for port, served in secure.items()})}
tls_privatekey = {by_port({port: served.key for port, served in secure.items()})}
"""
    routers = "discarding:\n  driver = redirect\n  data = :blackhole:\n"
    return mtas.exim(folder / "mta", " : ".join(map(str, listeners)), main=main, routers=routers)


def opensmtpd(folder: Path, listeners: Mapping[int, Served | None]) -> Ready:
    """It keeps the mail in its queue."""
    lines = []
    for port, served in listeners.items():
        if served is not None:
            lines += [f'pki p{port} cert "{served.chain}"', f'pki p{port} key "{served.key}"']
        tls = "" if served is None else f"tls pki p{port} "
        lines.append(f"listen on 127.0.0.1 port {port} {tls}hostname opensmtpd.example")
    return mtas.opensmtpd(folder / "mta", "\n".join(lines))


def postfix(folder: Path, listeners: Mapping[int, Served | None]) -> Ready:
    """A service for each port."""
    services = []
    for port, served in listeners.items():
        files = "" if served is None else f" -o smtpd_tls_chain_files={served.key},{served.chain}"
        level = "none" if served is None else "may"
        services.append(f"{port} inet n - n - - smtpd -o smtpd_tls_security_level={level}{files}")
    (_, _, options), *more = (each.partition(" smtpd ") for each in services)
    main = "default_transport = discard:\nrelay_transport = discard:\n"
    return mtas.postfix(
        folder / "mta", next(iter(listeners)), options="\n".join((options, *map("".join, more))), main=main
    )


def handshakes(port: int) -> bool:
    """Whether a listener with STARTTLS can do a handshake: OpenSMTPD before 7 cannot with OpenSSL 3."""
    with smtplib.SMTP("127.0.0.1", port, "client.example") as client:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            client.starttls(context=context)
        except ssl.SSLError:
            client.close()
            return False
    return True


KINDS: Mapping[str, Callable[[Path, Mapping[int, Served | None]], Ready]] = {
    "aiosmtpd": aiosmtpd,
    "exim4": exim,
    "opensmtpd": opensmtpd,
    "postfix": postfix,
}


def receiver(kind: str, folder: Path, listeners: Mapping[int, Served | None]) -> Ready:
    """Configure a server.

    Args:
        kind: of `KINDS`.
        folder: for its files, which other users may traverse.
        listeners: the certificate of each port; None for one without STARTTLS.
    """
    copies: dict[int, Served | None] = {}
    for port, served in listeners.items():
        copies[port] = None
        if served is not None:  # owned and readable as the server demands
            copy = Served(folder / f"chain-{port}.pem", folder / f"key-{port}.pem")
            for source, target in zip(served, copy, strict=True):
                shutil.copyfile(source, target)
                target.chmod(0o600)
            copies[port] = copy
    return KINDS[kind](folder, copies)
