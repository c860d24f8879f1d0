"""A listener with the role `http` of the real program: curl, our own fetcher of policies, reload, several workers."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from tests.authority import issue

from ironpost.delivery.sts_cache import fetch
from ironpost.http import HttpClient
from ironpost.model.network import LOOPBACK
from ironpost.reports.tlsrpt.report import Policy, PolicyResult, Report, compressed
from ironpost.routing.tls.mta_sts import StsMode, StsPolicy
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

HTTP = 'role = "http"\ntls_reports_to = "tls@mail.example"'
HOST = "mta-sts.mail.example"
POLICY = StsPolicy(StsMode.TESTING, ("mx.example",), 7 * 86400)
REPORT = Report("Sender", "tls@b.example", "1@b.example", 0, 86399, (PolicyResult(Policy("sts", "a.example"), 3, 1),))


class Site:
    """The certificate of the policy host, the configuration with it, and clients that trust its authority."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = issue(common_name="Test authority", authority=True)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self.authority.pem)
        self.certify(HOST)

    def certify(self, *names: str) -> None:
        """Write a certificate for these names."""
        issue(*names, by=self.authority).write(self.folder / "chain.pem", self.folder / "key.pem")

    def text(self, more: str = "") -> str:
        files = f'{{ chain = "{self.folder}/chain.pem", key = "file:{self.folder}/key.pem" }}'
        return (
            f'[local]\ndomains = ["mail.example"]\n[tls]\ncertificates = [{files}]\n'
            f'[[mta_sts]]\ndomains = ["mail.example"]\n{more}'
        )

    def client(self, *names: str) -> HttpClient:
        resolver = StaticResolver(addresses={name: ["127.0.0.1"] for name in (HOST, *names)})
        return HttpClient(resolver, authorities=self.ca, allowed=LOOPBACK)

    def policy(self, port: int) -> StsPolicy:
        """What our own servers fetch."""
        return result(lambda: fetch("mail.example", self.client(), port))

    def post(self, port: int, octets: bytes) -> int:
        headers = {"Content-Type": "application/tlsrpt+gzip"}
        return result(lambda: self.client().post(f"https://{HOST}:{port}/tlsrpt", octets, headers=headers)).status

    def curl(self, port: int, path: str, *options: str) -> tuple[int, str]:
        """The status and the body."""
        curl = shutil.which("curl")
        if curl is None:
            pytest.skip("curl is not installed")
        done = subprocess.run(
            [curl, "-sS", "--http1.1", "--cacert", str(self.ca), "--resolve", f"{HOST}:{port}:127.0.0.1",
             "-w", "\n%{http_code}", *options, f"https://{HOST}:{port}{path}"],
            capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body


def result(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """The result of a coroutine; returns when its connections are closed."""

    async def bounded() -> Any:
        async with asyncio.timeout(30):
            found = await main()
            transports = asyncio.get_running_loop()._transports  # type: ignore[attr-defined]
            while any(each.get_extra_info("socket").fileno() != -1 for each in list(transports.values())):
                await asyncio.sleep(0)
            return found

    return asyncio.run(bounded())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_policies_and_reports_over_https(serve: Callable[..., Any], site: Site) -> None:
    server = serve(site.text(), 'role = "mx"', HTTP)
    port = server.ports["http"]
    assert "for http, implicit TLS" in "\n".join(server.said)
    assert site.policy(port) == POLICY
    assert site.curl(port, "/.well-known/mta-sts.txt") == (200, POLICY.text.decode().replace("\r\n", "\n"))
    assert site.curl(port, "/")[0] == 404
    assert site.curl(port, "/tlsrpt")[0] == 405
    file = site.folder / "report.json.gz"
    file.write_bytes(compressed(REPORT))
    posted = ("--data-binary", f"@{file}", "-H", "Content-Type: application/tlsrpt+gzip")
    assert site.curl(port, "/tlsrpt", *posted)[0] == 201
    assert site.curl(port, "/tlsrpt", *posted, "-H", "Expect: 100-continue")[0] == 201
    server.wait_for_mail(2)
    (path, _) = sorted((server.data / "mail" / "new").glob("*"))
    shown = server.run("tlsrpt", "show", str(path)).stdout.decode()
    assert "a.example (sts): 3 sessions succeeded, 1 failed" in shown
    metrics = server.run("metrics", "-c", str(server.file)).stdout.decode()
    assert 'ironpost_http_requests_total{status="201"} 2.0' in metrics
    assert 'ironpost_tls_reports_total{result="received"} 2.0' in metrics
    assert f'"host": "{HOST}:{port}"' in server.log()
    assert server.stop() == 0


def test_the_record_that_is_shown_is_that_of_the_policy_which_is_served(serve: Callable[..., Any], site: Site) -> None:
    server = serve(site.text(), HTTP)
    found = server.json("mtasts", "show", "-c", str(server.file))["policies"][0]
    assert found["name"] == "_mta-sts.mail.example"
    assert found["record"] == f"v=STSv1; id={site.policy(server.ports['http']).id};"


def test_a_reload_replaces_policies_certificates_and_who_gets_reports(serve: Callable[..., Any], site: Site) -> None:
    server = serve(site.text(), HTTP)
    port = server.ports["http"]
    assert site.policy(port) == POLICY
    site.certify(HOST, "new.mail.example")
    server.listeners = ('role = "http"',)
    server.configure(site.text('mode = "enforce"\nmx = ["*.mail.example"]\nmax_age = "1d"\n'))
    assert server.run("reload", "-c", str(server.file)).returncode == 0
    assert site.policy(port) == StsPolicy(StsMode.ENFORCE, ("*.mail.example",), 86400)
    client = site.client("new.mail.example")
    assert result(lambda: client.get(f"https://new.mail.example:{port}/")).status == 404
    assert site.post(port, compressed(REPORT)) == 404


def test_reports_do_not_take_the_reserve_of_the_disk(
    serve: Callable[..., Any], site: Site, wait_until: Callable[..., None]
) -> None:
    server = serve(site.text('[queue]\nreserve = "1000000GiB"\n'), HTTP)
    assert site.post(server.ports["http"], compressed(REPORT)) == 503
    wait_until(lambda: "1073741824000000 kept in reserve" in server.log(), server.log)


def test_several_workers_share_the_port(serve: Callable[..., Any], site: Site) -> None:
    server = serve(site.text(), 'role = "mx"', HTTP, workers=2)
    port = server.ports["http"]
    for _ in range(8):
        assert site.policy(port) == POLICY
        assert site.post(port, compressed(REPORT)) == 201
    server.wait_for_mail(8)
    assert server.json("status", "-c", str(server.file))["listening"][1]["role"] == "http"
    assert server.stop() == 0


def test_a_unix_socket_behind_a_proxy_with_tls(serve: Callable[..., Any], site: Site) -> None:
    path = site.folder / "http.sock"
    server = serve(site.text(), f'{HTTP}\ntls = "none"\nlisten = ["unix:{path}"]')
    curl = shutil.which("curl") or pytest.skip("curl is not installed")
    done = subprocess.run(
        [curl, "-sS", "--unix-socket", str(path), f"http://{HOST}/.well-known/mta-sts.txt"],
        capture_output=True, check=True, timeout=30,
    )  # fmt: skip
    assert done.stdout == POLICY.text
    assert server.stop() == 0
    assert not path.exists()


def test_check_warns_of_what_others_would_not_accept(serve: Callable[..., Any], site: Site) -> None:
    server = serve(site.text(), HTTP)

    def warnings() -> str:
        done = server.run("check", str(server.file))
        assert done.returncode == 0
        return done.stderr.decode()

    assert "policy host" not in warnings()
    site.certify("mx.example")
    assert f"no certificate is valid for the policy host {HOST}, only for mx.example" in warnings()
    server.listeners = ('role = "mx"',)
    server.configure(site.text())
    assert "no listener has the role http" in warnings()
    server.listeners = ('role = "http"',)
    server.configure("")
    assert re.search(r"listener\[1\]: it serves nothing", warnings())
    assert "others do not trust a self-signed certificate" in warnings()
