"""MTA-STS against real receivers: our own server and others, with DNS over UDP and policies over HTTPS."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tests.authority import DAY, issue
from tests.conftest import ROOT, environment
from tests.delivery.test_remote import D, P, deliver, delivery, message, one
from tests.dns.test_resolver import name_server
from tests.http.https_kit import always, https_server, response, serving
from tests.loading import load

from ironpost import BaseHandler, Server
from ironpost.compose.keyed_state import NAMESPACES
from ironpost.delivery.sts_cache import StsCache
from ironpost.http import HttpClient
from ironpost.model.keyed_state import MemoryState
from ironpost.model.network import LOOPBACK
from ironpost.model.tls import PolicyType, TlsFailure, TlsLevel, TlsOutcome
from ironpost.routing.tls import tls_policies
from ironpost.server.tls import TlsContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.authority import Certificate

    from ironpost.model import Disposition

free_port = load(Path(__file__).parent / "conftest.py", "interop_conftest").free_port

HOST = "mx1.a.example"
ZONE = {
    "a.example. MX": [f"a.example. 60 IN MX 10 {HOST}."],
    f"{HOST}. A": [f"{HOST}. 60 IN A 127.0.0.1"],
    f"{HOST}. AAAA": [],
    "mta-sts.a.example. A": ["mta-sts.a.example. 60 IN A 127.0.0.1"],
    "mta-sts.a.example. AAAA": [],
    "_mta-sts.a.example. TXT": ['_mta-sts.a.example. 60 IN TXT "v=STSv1; " "id=1;"'],
}
CERTIFICATES: dict[str, dict[str, Any]] = {
    "valid": {"names": (HOST,)},
    "other": {"names": ("mx.b.example",)},
    "expired": {"names": (HOST,), "until": -DAY / 2},
}
"""The receivers with TLS, and their certificates; `stripped` is one without STARTTLS."""


class Case(NamedTuple):
    """A receiver, the pattern in the policy, and what follows for each mode."""

    receiver: str
    mx: str
    enforced: Disposition
    enhanced: str
    """Of the reply in `enforce` mode, if it is a deferral."""
    testing: TlsLevel
    """The level in `testing` mode, in which the message is always delivered."""
    failure: TlsFailure | None


CASES = [
    Case("valid", "*.a.example", D, "", TlsLevel.AUTHENTICATED, None),
    Case("valid", "mx2.a.example", P, "4.7.5", TlsLevel.ENCRYPTED, TlsFailure.VALIDATION_FAILURE),
    Case("other", HOST, P, "4.7.5", TlsLevel.ENCRYPTED, TlsFailure.CERTIFICATE_HOST_MISMATCH),
    Case("expired", HOST, P, "4.7.5", TlsLevel.ENCRYPTED, TlsFailure.CERTIFICATE_EXPIRED),
    Case("stripped", HOST, P, "4.7.10", TlsLevel.NONE, TlsFailure.STARTTLS_NOT_SUPPORTED),
]


@pytest.fixture(scope="module")
def authority() -> Certificate:
    return issue(common_name="Test authority", authority=True)


@pytest.fixture(scope="module")
def files(authority: Certificate) -> Iterator[Path]:
    """A folder that Postfix may read, with `ca.pem`, and `NAME.pem` and `NAME.key` for each receiver."""
    with tempfile.TemporaryDirectory(prefix="ironpost-sts-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "ca.pem").write_bytes(authority.pem)
        for receiver, options in CERTIFICATES.items():
            names = options["names"]
            made = issue(*names, by=authority, until=options.get("until", 30 * DAY))
            made.write(folder / f"{receiver}.pem", folder / f"{receiver}.key")
        yield folder


class Accepting(BaseHandler):
    """Accepts all mail, and discards it."""

    def recipient(self, *arguments: object) -> None:
        pass

    def message(self, *arguments: object) -> None:
        pass


def broken(case: Case) -> Case:
    """What follows if the handshakes of the receiver fail."""
    if case.receiver == "stripped":
        return case
    failure = case.failure or TlsFailure.VALIDATION_FAILURE
    return case._replace(enforced=P, enhanced="4.7.5", testing=TlsLevel.NONE, failure=failure)


async def examine(
    ports: Mapping[str, int], authority: Certificate, files: Path, expected: Sequence[Case] = CASES
) -> None:
    """Deliver to the receivers under each policy; check outcomes and records."""
    made = issue("mta-sts.a.example", by=authority)
    folder = files / "policy-host"
    folder.mkdir(exist_ok=True)
    async with https_server(serving(made, folder), always(b"")) as policy_host:
        for case in expected:
            for mode in ("enforce", "testing"):
                body = f"version: STSv1\nmode: {mode}\nmx: {case.mx}\nmax_age: 86400\n".encode()
                policy_host.respond = always(response(200, body, Content_Type="text/plain"))
                await attempt(case, mode, ports[case.receiver], policy_host.port, files / "ca.pem")


async def attempt(case: Case, mode: str, port: int, policy_port: int, trusted: Path) -> None:
    """Deliver one message by MX, with an empty cache."""
    outcomes: list[TlsOutcome] = []
    async with name_server() as (dns, server, _):
        server.zone = ZONE
        http = HttpClient(dns, authorities=trusted, allowed=LOOPBACK)
        cache = StsCache(dns, http, MemoryState(NAMESPACES, lambda: 1e9), port=policy_port)
        options = {"resolver": dns, "policies": tls_policies(sts=cache), "recorder": outcomes.append}
        async with delivery(port, authorities=trusted, **options) as agent:
            outcome = one(await deliver(agent, message("jo@a.example", sender="")))
    what = (case, mode, outcome)
    assert outcome.tls is not None, what
    if mode == "testing" or case.enforced is D:
        assert (outcome.disposition, outcome.tls.level) == (D, case.testing), what
    else:
        assert (outcome.disposition, outcome.reply.enhanced) == (P, case.enhanced), what
        assert "MTA-STS policy" in str(outcome.reply), what
    (record,) = outcomes
    assert (record.policy.type, record.policy.domain, record.failure) == (PolicyType.STS, "a.example", case.failure)
    assert f"mode: {mode}" in record.policy.strings


def test_r37_our_own_server(authority: Certificate, files: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), AsyncExitStack() as stack:
            ports = {}
            for receiver in (*CERTIFICATES, "stripped"):
                tls = None
                if receiver in CERTIFICATES:
                    tls = TlsContext.load([(files / f"{receiver}.pem", files / f"{receiver}.key")])
                server = await stack.enter_async_context(Server(Accepting(), "127.0.0.1", 0, tls=tls))
                ports[receiver] = server.addresses[0][1]
            await examine(ports, authority, files)

    asyncio.run(main())


@pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("CI"), reason="the servers change to other users, so they need root"
)
@pytest.mark.parametrize("kind", ["aiosmtpd", "exim4", "opensmtpd", "postfix"])
def test_r37_other_receivers(
    kind: str,
    program: Callable[[str], str],
    receivers: Any,
    launch: Callable[..., None],
    home: Path,
    authority: Certificate,
    files: Path,
) -> None:
    if kind != "aiosmtpd":
        program(kind)
    ports = {receiver: free_port() for receiver in (*CERTIFICATES, "stripped")}
    listeners = {
        ports[receiver]: receivers.Served(files / f"{receiver}.pem", files / f"{receiver}.key")
        for receiver in CERTIFICATES
    }
    launch(*receivers.receiver(kind, home, listeners | {ports["stripped"]: None}), ports["stripped"])
    expected = CASES if receivers.handshakes(ports["valid"]) else list(map(broken, CASES))
    asyncio.run(asyncio.wait_for(examine(ports, authority, files, expected), 60))


def test_r37_a_whole_server_applies_a_policy_after_a_restart_under_attack(tmp_path: Path) -> None:
    """See `sts_scenario`."""
    apart = ["unshare", "--net", "--mount"]
    if not os.environ.get("CI") and subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs network namespaces, as root")
    done = subprocess.run(
        [*apart, sys.executable, "-m", "tests.interop.sts_scenario", tmp_path],
        cwd=ROOT, env=environment(PYTHONPATH=f"{ROOT}:{ROOT / 'python'}"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
