"""OpenDKIM and OpenDMARC from `peers`, configured in a folder as milters of Postfix, for the interop tests and the load
scripts.

Promises: each runs in the foreground, listens on 127.0.0.1 only, and takes keys and policies from a file, as if DNS had
answered. Mail from 127.0.0.1 is verified like that of others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import peers
from mtas import Ready

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def opendkim(
    folder: Path, port: int | Path, *, main: str, txt: Mapping[str, str] | None = None, internal: str = "192.0.2.1"
) -> Ready:
    """Configure OpenDKIM.

    Args:
        folder: for its files; created if necessary.
        port: of the milter; or the path of its Unix socket, which does not wait for delayed acknowledgements.
        main: lines for opendkim.conf, such as `Mode v`.
        txt: the TXT records that DNS has, by name; None to query DNS.
        internal: the clients whose mail is signed; that of others is verified.
    """
    lines = [f"InternalHosts {internal}", "UserID root", "AlwaysAddARHeader yes", main]
    return _milter(folder, "opendkim", port, lines, txt)


def opendmarc(folder: Path, port: int | Path, *, main: str, txt: Mapping[str, str] | None = None) -> Ready:
    """Configure OpenDMARC; arguments as for `opendkim`. SPF records are not in `txt`: it queries DNS for them."""
    ignored = folder / "ignored"
    folder.mkdir(parents=True, exist_ok=True)
    ignored.write_text("192.0.2.1\n")
    return _milter(folder, "opendmarc", port, [f"IgnoreHosts {ignored}", main], txt)


def _milter(folder: Path, name: str, port: int | Path, lines: Sequence[str], txt: Mapping[str, str] | None) -> Ready:
    program = peers.find(name)
    folder.mkdir(parents=True, exist_ok=True)
    socket = f"inet:{port}@127.0.0.1" if isinstance(port, int) else f"local:{port}"
    main = [f"Socket {socket}", "UMask 000", "Syslog no", f"PidFile {folder / 'pid'}", *lines]
    if txt is not None:
        records = folder / "dns.txt"
        records.write_text("".join(f"{host} {text}\n" for host, text in txt.items()))
        main.append(f"TestDNSData {'file:' if name == 'opendkim' else ''}{records}")
    configuration = folder / f"{name}.conf"
    configuration.write_text("\n".join(main) + "\n")
    return Ready([program, "-f", "-c" if name == "opendmarc" else "-x", str(configuration)], peers.environment())
