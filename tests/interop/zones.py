"""Signed zones in a real validating resolver: unbound from `peers`, loopback only, for the interop tests.

Promises: the root is one signed zone that contains every signed name of a test; `plain.test` is not signed; a record
that is listed as bogus has a signature that does not match. No query leaves the machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dns.dnssec
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TXT
import dns.zone
import peers
from cryptography.hazmat.primitives.asymmetric import ec
from dns.dnssectypes import Algorithm

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

APEX = "@ 300 IN SOA ns.test. root.test. 1 300 300 300 300\n@ 300 IN NS ns.test.\nns.test. 300 IN A 127.0.0.1\n"


def unbound(
    folder: Path,
    port: int,
    signed: Sequence[str],
    *,
    plain: Sequence[str] = (),
    bogus: Sequence[str] = (),
    address: str = "127.0.0.1",
) -> tuple[list[str], dict[str, str]]:
    """Configure unbound; return its command and environment.

    Args:
        folder: for its files; created if necessary.
        port: of the address.
        signed: records as in a zone file, with absolute names.
        plain: records in the unsigned zone `plain.test`, with absolute names.
        bogus: signed records, `name TYPE`, whose signature is damaged.
        address: where it listens.
    """
    program = peers.find("unbound")
    folder.mkdir(parents=True, exist_ok=True)
    anchor = _write_signed(folder, signed, bogus)
    (folder / "plain.zone").write_text(APEX + "\n".join(plain) + "\n")
    zones = "".join(
        f"""auth-zone:
    name: "{name}"
    zonefile: "{folder}/{file}"
    for-downstream: no
    for-upstream: yes
    fallback-enabled: no
"""
        for name, file in ((".", "root.zone"), ("plain.test.", "plain.zone"))
    )
    (folder / "unbound.conf").write_text(f"""server:
    directory: "{folder}"
    chroot: ""
    username: ""
    pidfile: "{folder}/pid"
    use-syslog: no
    logfile: "{folder}/log"
    verbosity: 1
    interface: {address}@{port}
    outgoing-interface: 127.0.0.1
    do-ip6: no
    do-not-query-localhost: no
    module-config: "validator iterator"
    trust-anchor-file: "{anchor}"
    trust-anchor-signaling: no
    domain-insecure: "plain.test."
    local-zone: "test." transparent
    aggressive-nsec: no
remote-control:
    control-enable: no
{zones}""")
    return [program, "-d", "-c", str(folder / "unbound.conf")], peers.environment()


def _write_signed(folder: Path, records: Sequence[str], bogus: Sequence[str]) -> Path:
    """Write the root zone; return the file of its trust anchor."""
    zone = dns.zone.from_text(APEX + "\n".join(records) + "\n", origin=".", relativize=False)
    key = ec.generate_private_key(ec.SECP256R1())
    public = dns.dnssec.make_dnskey(key.public_key(), Algorithm.ECDSAP256SHA256, flags=257)
    with zone.writer() as transaction:
        dns.dnssec.sign_zone(zone, transaction, keys=[(key, public)], lifetime=86400 * 30, dnskey_ttl=300)
    for each in bogus:
        name, kind = each.split()
        found = zone.find_rdataset(name, "RRSIG", covers=kind)
        first = found[0]
        found.clear()
        damaged = bytes([first.signature[0] ^ 1]) + first.signature[1:]
        found.add(first.replace(signature=damaged))
    (folder / "root.zone").write_text(zone.to_text(relativize=False))
    anchor = folder / "root.key"
    anchor.write_text(f". 300 IN DNSKEY {public.to_text()}\n")
    return anchor
