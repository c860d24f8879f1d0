"""DANE against a real validating resolver (unbound, zones signed here) and real receivers: ironpost, and others."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import smtplib
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from tests.authority import DAY, Certificate, issue
from tests.conftest import PROGRAM, environment
from tests.loading import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    Launch = Callable[[list[str], dict[str, str], int], None]
    SignedDns = Callable[..., int]

free_port = load(Path(__file__).parent / "conftest.py", "interop_conftest").free_port

CONTENT = b"From: ada@client.example\r\nSubject: onward\r\n\r\nsecret\r\n"
OPTIONAL = b"TLS-Required: No\r\n" + CONTENT

CA = issue(common_name="authority", authority=True)
GOOD = issue("*.signed.test", "signed.test", by=CA)
EXPIRED = issue("*.signed.test", by=CA, since=-9 * DAY, until=-DAY)
OTHER = issue("*.signed.test", by=issue(common_name="authority", authority=True))

needs_root = pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason="needs root")


WORDS = ("STARTTLS", "unencrypted")
"""What a server says at its start about the TLS of a listener."""


def ee(of: Certificate) -> str:
    return f"3 1 1 {hashlib.sha256(of.spki).hexdigest()}"


def ta(of: Certificate) -> str:
    return f"2 0 1 {hashlib.sha256(of.above[0].der).hexdigest()}"


class Case(NamedTuple):
    """A next hop, what it publishes, and what happens to mail for it."""

    host: str
    """`good`, `expired` or `without` (STARTTLS)."""
    records: tuple[str, ...]
    expected: str
    """The level of TLS over which the mail is delivered; `deferred` if it is not."""
    bogus: str = ""
    """`A` or `TLSA`: these records have a wrong signature."""
    plain: bool = False
    """The names are in a zone that is not signed."""


CASES = {
    "ee": Case("good", (ee(GOOD),), "authenticated"),
    "ta": Case("good", (ta(GOOD),), "authenticated"),
    "rollover": Case("good", (ee(OTHER), ee(GOOD)), "authenticated"),
    "wrong-ee": Case("good", (ee(OTHER),), "deferred"),
    "wrong-ta": Case("good", (ta(OTHER),), "deferred"),
    "expired-ee": Case("expired", (ee(EXPIRED),), "authenticated"),
    "expired-ta": Case("expired", (ta(EXPIRED),), "deferred"),
    "stripped-ee": Case("without", (ee(GOOD),), "deferred"),
    "stripped-ta": Case("without", (ta(GOOD),), "deferred"),
    "unusable": Case("good", (f"1 1 1 {'00' * 32}",), "encrypted"),
    "stripped-unusable": Case("without", (f"1 1 1 {'00' * 32}",), "deferred"),
    "bogus": Case("good", (ee(GOOD),), "deferred", bogus="TLSA"),
    "stripped-bogus": Case("without", (ee(GOOD),), "deferred", bogus="TLSA"),
    "bogus-address": Case("good", (ee(GOOD),), "deferred", bogus="A"),
    "none": Case("good", (), "encrypted"),
    "stripped-none": Case("without", (), "none"),
    "plain": Case("good", (ee(OTHER),), "encrypted", plain=True),
    "stripped-plain": Case("without", (ee(GOOD),), "none", plain=True),
}


def tls(served: Certificate, folder: Path) -> str:
    chain, key = written(served, folder)
    return f'[tls]\ncertificates = [{{ chain = "{chain}", key = "file:{key}" }}]\n'


def written(served: Certificate, folder: Path) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    chain, key = folder / "chain.pem", folder / "key.pem"
    served.write(chain, key)
    return chain, key


def submit(port: int, to: Sequence[str], content: bytes = CONTENT, options: Sequence[str] = ()) -> None:
    with smtplib.SMTP("127.0.0.1", port, "client.example") as client:
        if options:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            client.starttls(context=context)
        assert client.sendmail("ada@localhost", to, content, list(options)) == {}


def results(log: str) -> dict[str, list[dict[str, Any]]]:
    """The log records about recipients in other domains, by domain."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in log.splitlines():
        record = json.loads(line)
        if record.get("event") in {"delivered", "deferred", "failed"}:
            found.setdefault(record["recipient"].partition("@")[2], []).append(record)
    return found


def relaying(ports: Mapping[str, tuple[str, int]], resolver: int) -> str:
    """The configuration of a server that sends mail for each domain to a host and port."""
    routes = "".join(
        f'[[route]]\ndomains = ["{domain}"]\nsmart_host = ["{host}:{port}"]\n' for domain, (host, port) in ports.items()
    )
    return f'[dns]\nservers = ["127.0.0.1:{resolver}"]\n{routes}'


def test_each_case_with_our_own_server(
    serve: Callable[..., Any],
    signed_dns: SignedDns,
    tmp_path: Path,
    wait_until: Callable[[Callable[[], bool], Callable[[], str]], None],
) -> None:
    everything = '[local]\ndomains = ["*"]\n'
    good = serve(everything + tls(GOOD, tmp_path / "good"), 'role = "mx"', 'role = "mx"\ntls = "none"')
    expired = serve(everything + tls(EXPIRED, tmp_path / "expired"))
    with_tls, without = (int(re.findall(rf":(\d+) for mx, {words}", "\n".join(good.said))[0]) for words in WORDS)
    receivers = {"good": with_tls, "expired": expired.port, "without": without}
    zones: dict[bool, list[str]] = {False: [], True: []}
    bogus, hops = [], {}
    for name, case in CASES.items():
        port = receivers[case.host]
        host = f"{name}.{'plain' if case.plain else 'signed'}.test"
        owner = f"_{port}._tcp.{host}."
        zones[case.plain] += [f"{host}. 300 IN A 127.0.0.1", *(f"{owner} 300 IN TLSA {each}" for each in case.records)]
        bogus += [f"{owner if case.bogus == 'TLSA' else f'{host}.'} {case.bogus}"] if case.bogus else []
        hops[f"{name}.example"] = host, port
    resolver = signed_dns(zones[False], plain=zones[True], bogus=bogus)
    sender = serve(relaying(hops, resolver))

    submit(sender.port, [f"x@{domain}" for domain in hops])
    wait_until(lambda: len(results(sender.log())) == len(hops), sender.log)
    found = results(sender.log())
    seen = {
        domain.partition(".")[0]: first["tls"] if first["event"] == "delivered" else first["event"]
        for domain, (first, *_) in found.items()
    }
    assert seen == {name: case.expected for name, case in CASES.items()}
    for name, words in (
        ("ee", "matches TLSA 3 1 1"),
        ("ta", "matches TLSA 2 0 1"),
        ("unusable", "no TLSA record is usable"),
    ):
        assert words in found[f"{name}.example"][0]["tls_reason"]
    for name, words in (
        ("wrong-ee", "the certificate does not match"),
        ("expired-ta", "has expired"),
        ("bogus", "SERVFAIL"),
    ):
        assert words in found[f"{name}.example"][0]["detail"]
    expected = {f"x@{name}.example".encode() for name, case in CASES.items() if case.expected != "deferred"}

    def delivered() -> set[bytes]:
        return {text.split(b"Delivered-To: ")[1].split(b"\n")[0] for each in (good, expired) for text in each.mail()}

    wait_until(lambda: delivered() >= expected, lambda: str(delivered()))
    assert delivered() == expected

    # RFC 8689: a message that prefers delivery, and one that requires TLS.
    optional = ["y@wrong-ee.example", "y@stripped-ee.example", "y@bogus.example"]
    submit(sender.port, optional, OPTIONAL)
    submit(sender.port, ["z@ee.example", "z@ta.example", "z@plain.example"], CONTENT, ["REQUIRETLS"])

    def ended() -> dict[str, str]:
        return {
            record["recipient"]: record["event"]
            for records in results(sender.log()).values()
            for record in records
            if record["recipient"][0] in "yz"
        }

    wait_until(lambda: len(ended()) == 6, sender.log)
    required = {"z@ee.example": "delivered", "z@ta.example": "delivered", "z@plain.example": "failed"}
    assert ended() == dict.fromkeys(optional, "delivered") | required
    assert b"secret" not in sender.wait_for_mail()[0], "RFC 8689 §5: the bounce does not return the content"


OTHERS = {
    name: CASES[name]
    for name in ("ee", "ta", "wrong-ee", "wrong-ta", "expired-ee", "expired-ta", "stripped-ee", "unusable")
}
"""The cases that depend on the receiver."""


@needs_root
@pytest.mark.parametrize("kind", ["aiosmtpd", "exim4", "opensmtpd", "postfix"])
def test_other_receivers(
    kind: str,
    serve: Callable[..., Any],
    program: Callable[[str], str],
    signed_dns: SignedDns,
    receivers: Any,
    launch: Launch,
    home: Path,
    wait_until: Callable[[Callable[[], bool], Callable[[], str]], None],
) -> None:
    """With and without REQUIRETLS, which only aiosmtpd offers. A host whose handshakes fail gets nothing."""
    if kind != "aiosmtpd":
        program(kind)
    ports = {host: free_port() for host in ("good", "expired", "without")}
    listeners = {
        ports["good"]: receivers.Served(*written(GOOD, home / "good")),
        ports["expired"]: receivers.Served(*written(EXPIRED, home / "expired")),
        ports["without"]: None,
    }
    launch(*receivers.receiver(kind, home, listeners), ports["good"])
    works = receivers.handshakes(ports["good"])
    records, hops = [], {}
    for name, case in OTHERS.items():
        port = ports[case.host]
        for host in (name, f"required-{name}"):  # a host that has failed is not tried at once with the next message
            owner = f"{host}.signed.test"
            records += [f"{owner}. 300 IN A 127.0.0.1"]
            records += [f"_{port}._tcp.{owner}. 300 IN TLSA {each}" for each in case.records]
            hops[f"{host}.example"] = owner, port
    sender = serve(relaying(hops, signed_dns(records)))
    submit(sender.port, [f"x@{name}.example" for name in OTHERS])
    submit(sender.port, [f"x@required-{name}.example" for name in OTHERS], CONTENT, ["REQUIRETLS"])
    wait_until(lambda: results(sender.log()).keys() >= hops.keys(), sender.log)
    found = {
        domain.removesuffix(".example"): first["tls"] if first["event"] == "delivered" else first["event"]
        for domain, (first, *_) in results(sender.log()).items()
    }
    assert {name: found[name] for name in OTHERS} == {
        name: case.expected if works else "deferred" for name, case in OTHERS.items()
    }
    carried = {"ee", "ta", "expired-ee"} if kind == "aiosmtpd" else set()
    assert {name: found[f"required-{name}"] for name in OTHERS} == {
        name: "authenticated" if name in carried else "failed" for name in OTHERS
    }


@pytest.fixture
def network() -> Iterator[list[str]]:
    """A network namespace with the addresses 192.0.2.1 and .2; the command that runs others in it."""
    if shutil.which("ip") is None and not os.environ.get("CI"):
        pytest.skip("ip is not installed")
    name = f"dane{os.getpid()}"
    created = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if created.returncode and not os.environ.get("CI"):
        pytest.skip(f"no network namespace can be created: {created.stderr.decode()}")
    try:
        for command in ("link set lo up", "addr add 192.0.2.1/24 dev lo", "addr add 192.0.2.2/24 dev lo"):
            subprocess.run(["ip", "-n", name, *command.split()], check=True)
        yield ["ip", "netns", "exec", name]
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


MX = {
    "good.signed.test": ("10 mx.signed.test.",),
    "stripped.signed.test": ("10 mx2.signed.test.",),
    "second.signed.test": ("10 mx2.signed.test.", "20 mx.signed.test."),
    "alias.signed.test": ("10 www.signed.test.",),
    "bogus.signed.test": ("10 mx.signed.test.",),
    "implicit.signed.test": (),
}
"""Signed domains and their exchangers: mx has TLS, mx2 has not; both publish the record of mx."""


@needs_root
def test_exchangers_in_a_network_of_their_own(
    serve: Callable[..., Any],
    signed_dns: SignedDns,
    network: list[str],
    tmp_path: Path,
    wait_until: Callable[[Callable[[], bool], Callable[[], str]], None],
) -> None:
    """MX routing: exchangers on this machine's loopback addresses would be this system itself."""
    inside = (*network, *PROGRAM)
    everything = '[local]\ndomains = ["*"]\n'
    serve(
        everything + tls(GOOD, tmp_path / "good"),
        'role = "mx"\nlisten = ["192.0.2.1:25"]',
        'role = "mx"\ntls = "none"\nlisten = ["192.0.2.2:25"]',
        program=inside,
    )
    records = [f"{domain}. 300 IN MX {each}" for domain, exchangers in MX.items() for each in exchangers]
    records += ["mx.signed.test. 300 IN A 192.0.2.1", "mx2.signed.test. 300 IN A 192.0.2.2"]
    records += ["implicit.signed.test. 300 IN A 192.0.2.1", "www.signed.test. 300 IN CNAME mx.signed.test."]
    records += [f"_25._tcp.{host}.signed.test. 300 IN TLSA {ta(GOOD)}" for host in ("mx", "mx2", "implicit")]
    plain = ["unsigned.plain.test. 300 IN MX 10 mx2.signed.test."]
    signed_dns(records, plain=plain, bogus=["bogus.signed.test. MX"], port=53, prefix=network)
    sender = serve('[dns]\nservers = ["127.0.0.1"]\n', program=inside)
    domains = [*MX, "unsigned.plain.test"]
    to = [word for domain in domains for word in ("--to", f"x@{domain}")]
    send = [*inside, "send", "-", *to, "--from", "ada@localhost", "--port", str(sender.port), "--tls", "never"]
    subprocess.run(send, input=CONTENT, env=environment(), check=True, capture_output=True)
    wait_until(lambda: len(results(sender.log())) == len(domains), sender.log)
    found = {domain: first for domain, (first, *_) in results(sender.log()).items()}
    assert {
        domain: record["tls"] if record["event"] == "delivered" else record["event"] for domain, record in found.items()
    } == {
        "good.signed.test": "authenticated",
        "stripped.signed.test": "deferred",
        "second.signed.test": "authenticated",
        "alias.signed.test": "authenticated",
        "bogus.signed.test": "deferred",
        "implicit.signed.test": "authenticated",
        "unsigned.plain.test": "none",
    }
    assert found["second.signed.test"]["remote"].startswith("mx.signed.test")

    def check(domain: str) -> tuple[int, Any]:
        command = [*inside, "dane", "check", domain, "--connect", "--json", "-c", str(sender.file)]
        done = subprocess.run(command, env=environment(), capture_output=True, check=False, cwd=sender.folder)
        return done.returncode, json.loads(done.stdout)

    code, report = check("good.signed.test")
    assert (code, report["outcome"], report["obstacle"], report["signed"]) == (0, "authenticated", "", True)
    assert report["hosts"][0]["handshakes"][0]["reached"] == "authenticated"
    assert [check(domain)[0] for domain in ("second.signed.test", "stripped.signed.test")] == [1, 75]
