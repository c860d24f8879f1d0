"""Mail authentication under load: the keys, what DNS has, a signed message, and what runs beside Postfix.

Promises: all servers have the same keys and get the same message. The domain asks receivers to refuse what fails, and
they do, so a message that is acknowledged has passed. OpenDKIM and OpenDMARC find keys and policies in a file, which
costs them no DNS query; SPF is looked up by OpenDMARC, and all records by ironpost, in an unbound each. The CPU time of
unbound is nobody's.
"""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import milters
import zones
from driver import content

from ironpost.mail_auth import Key, sign

if TYPE_CHECKING:
    from pathlib import Path

    from mtas import Ready

DOMAIN = "load.example"
SPF = "v=spf1 ip4:127.0.0.1 -all"
DMARC = "v=DMARC1; p=reject"
ALGORITHMS = {"rsa": ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"], "ed25519": ["ED25519"]}
"""Selectors, and what openssl makes a key of."""


def key_file(folder: Path, selector: str) -> Path:
    """A private key; created at first."""
    path = folder / f"{selector}.pem"
    if not path.exists():
        command = ["openssl", "genpkey", "-algorithm", *ALGORITHMS[selector], "-out", str(path)]
        subprocess.run(command, check=True, capture_output=True)
        path.chmod(0o600)
    return path


def key(folder: Path, selector: str) -> Key:
    """The same, loaded."""
    return Key.load(DOMAIN, selector, key_file(folder, selector).read_bytes())


def signed_message(folder: Path, size: int) -> Path:
    """A message of about that many octets with a signature by RSA, as DATA has it, in a file."""
    path = folder / f"signed-{size}"
    if not path.exists():
        stuffed = content(size)
        message = stuffed.removesuffix(b".\r\n").replace(b"\r\n..", b"\r\n.")
        path.write_bytes(sign(message, keys=[key(folder, "rsa")], now=time.time()) + stuffed)
    return path


def records(folder: Path) -> dict[str, str]:
    """The TXT records of the domain, but for SPF."""
    found = {f"{name}._domainkey.{DOMAIN}": key(folder, name).record for name in ALGORITHMS}
    return found | {f"_dmarc.{DOMAIN}": DMARC}


def unbound(folder: Path, address: str, port: int) -> subprocess.Popen[bytes]:
    """A resolver that knows the domain, running."""
    txt = records(folder) | {DOMAIN: SPF}
    quoted = {
        name: " ".join(f'"{text[at : at + 250]}"' for at in range(0, len(text), 250)) for name, text in txt.items()
    }
    lines = [f"{name}. 300 IN TXT {text}" for name, text in quoted.items()]
    command, environment = zones.unbound(folder / f"unbound-{address}", port, lines, address=address)
    return subprocess.Popen(command, env=environment, start_new_session=True)


def verifying_milters(folder: Path, dkim: Path, dmarc: Path, resolver: str) -> list[str]:
    """The shell commands of OpenDKIM and OpenDMARC that verify, on two sockets; they query this resolver."""
    conf = folder / "resolv.conf"
    conf.write_text(f"nameserver {resolver}\n")
    txt = records(folder)
    mode = "Mode v"
    main = "AuthservID postfix.example\nTrustedAuthservIDs postfix.example\nRejectFailures true\n"
    main += "SPFIgnoreResults true\nSPFSelfValidate true"
    both = [
        milters.opendkim(folder / "opendkim", dkim, main=mode, txt=txt),
        milters.opendmarc(folder / "opendmarc", dmarc, main=main, txt=txt),
    ]
    return [f"mount --bind {conf} /etc/resolv.conf", *map(_shell, both)]


def signing_milters(folder: Path, sockets: dict[str, Path]) -> list[str]:
    """The shell commands of OpenDKIM, one that signs with each key: one process has one algorithm.

    `sockets` has a path for each of `ALGORITHMS`.
    """
    return [
        _shell(
            milters.opendkim(
                folder / f"opendkim-{name}",
                path,
                main=f"Mode s\nCanonicalization relaxed/relaxed\nSignatureAlgorithm {name}-sha256\n"
                f"Domain {DOMAIN}\nSelector {name}\nKeyFile {key_file(folder, name)}\n"
                "RequireSafeKeys no",  # they are below a folder in which all may write
                internal="127.0.0.1",
            )
        )
        for name, path in sockets.items()
    ]


def _shell(ready: Ready) -> str:
    return " ".join(ready.command) + " &"
