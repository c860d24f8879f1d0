"""Delivery by HTTP to a server with TLS on loopback: the request, its signature, and what each status means."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from tests.authority import issue
from tests.http.https_kit import HttpsServer, always, https_server, response, serving

from ironpost.config import ConfigError, parse
from ironpost.delivery import post as module
from ironpost.delivery.post import Post, PostOptions
from ironpost.http import HttpClient
from ironpost.model import Address, Disposition, Envelope, Outcome, Recipient
from ironpost.model.body import BodyDamaged
from ironpost.model.network import LOOPBACK
from ironpost.queue.store import QueuedMessage, QueuedRecipient
from ironpost.routing.profile import SecretSource
from ironpost.routing.route import Kind, Route
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


NAME = "hooks.example"
CONTENT = b"Delivered-To: forged@here.example\r\nSubject: x\r\n\r\nbody\r\n"
JO = QueuedRecipient(3, Recipient(Address.parse("jö/x@here.example"), original=Address.parse("info@here.example")))


@dataclass
class Content:
    octets: bytes = CONTENT
    fails: bool = False

    @property
    def size(self) -> int:
        return len(self.octets)

    async def pieces(self) -> AsyncIterator[bytes]:
        yield self.octets
        if self.fails:
            raise BodyDamaged(errno.EIO, "the checksum differs")

    async def head(self, limit: int) -> bytes:
        return self.octets[:limit]


class Clock:
    def now(self) -> float:
        return 1_700_000_000.5

    def monotonic(self) -> float:
        return 0.0


@pytest.fixture
def deliver(tmp_path: Path) -> Callable[..., tuple[Outcome, HttpsServer]]:
    """Deliver to a server that responds as given; the outcome, and the server with its requests."""
    authority = issue(common_name="Test authority", authority=True)
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    context = serving(issue(NAME, by=authority), tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("key\n")

    def run(
        octets: bytes, body: Content | None = None, secret: Path = secret, *, public_only: bool = False
    ) -> tuple[Outcome, HttpsServer]:
        async def main() -> tuple[Outcome, HttpsServer]:
            async with asyncio.timeout(30), https_server(context, always(octets)) as server:
                client = HttpClient(
                    StaticResolver(addresses={NAME: ["127.0.0.1"]}),
                    authorities=ca,
                    allowed=() if public_only else LOOPBACK,
                )
                options = PostOptions(f"https://{NAME}:{server.port}/in?t=1", SecretSource("file", str(secret)))
                envelope = Envelope(Address.parse("a@b.example"), (JO.recipient,))
                message = QueuedMessage("id1", envelope, 0.0, body or Content(), (JO,))
                agent = Post(client, Clock(), "mx.here.example")
                ((number, outcome),) = await agent.deliver(message, [JO], Route.local(Kind.POST, options))
                assert number == JO.number
                return outcome, server

        return asyncio.run(main())

    return run


def test_the_request_has_the_message_the_envelope_and_a_signature(
    deliver: Callable[..., tuple[Outcome, HttpsServer]],
) -> None:
    outcome, server = deliver(response(204))
    assert outcome.disposition is Disposition.DELIVERED
    (request,) = server.requests
    assert request.line == "POST /in?t=1 HTTP/1.1"
    assert (
        request.body
        == (
            "Return-Path: <a@b.example>\r\nDelivered-To: jö/x@here.example\r\nX-Original-To: info@here.example\r\n"
            "Subject: x\r\n\r\nbody\r\n"
        ).encode()
    )
    values = ["1700000000", "id1-3", "a@b.example", "j%C3%B6%2Fx@here.example", "info@here.example"]
    names = ["timestamp", "id", "sender", "recipient", "original-recipient"]
    assert [request.headers[f"ironpost-{name}"] for name in names] == values
    signed = "".join(f"{value}\n" for value in values).encode() + request.body
    assert request.headers["ironpost-signature"] == "sha256=" + hmac.new(b"key", signed, hashlib.sha256).hexdigest()
    assert request.headers["content-type"] == "message/rfc822"


@pytest.mark.parametrize(
    ("status", "disposition", "enhanced"),
    [
        (200, Disposition.DELIVERED, "2.0.0"),
        (202, Disposition.DELIVERED, "2.0.0"),
        (400, Disposition.FAILED, "5.3.0"),
        (410, Disposition.FAILED, "5.3.0"),
        (408, Disposition.DEFERRED, "4.3.0"),
        (425, Disposition.DEFERRED, "4.3.0"),
        (429, Disposition.DEFERRED, "4.3.0"),
        (500, Disposition.DEFERRED, "4.3.0"),
        (503, Disposition.DEFERRED, "4.3.0"),
    ],
)
def test_the_status_decides(
    deliver: Callable[..., tuple[Outcome, HttpsServer]], status: int, disposition: Disposition, enhanced: str
) -> None:
    outcome, _ = deliver(response(status))
    assert (outcome.disposition, outcome.reply.enhanced) == (disposition, enhanced)


@pytest.mark.parametrize(
    ("status", "value", "wait"),
    [
        (503, "3600", 3600.0),
        (429, " 90 ", 90.0),
        (503, "0", module.SHORTEST_WAIT),
        (503, "999999999999", module.LONGEST_WAIT),
        (503, "Tue, 14 Nov 2023 22:33:20 GMT", 1199.5),
        (503, "Tuesday, 14-Nov-23 22:33:20 GMT", 1199.5),
        (503, "Tue Nov 14 22:33:20 2023", 1199.5),
        (503, "Tue, 14 Nov 2000 22:33:20 GMT", module.SHORTEST_WAIT),
        (503, "Fri, 31 Dec 9999 23:59:59 GMT", module.LONGEST_WAIT),
        (503, "Fri, 31 Dec 99999 23:59:59 GMT", None),
        (503, "Tue, 14 Nov 2023 22:33:20 +99999999999999999999", None),
        (503, "-5", None),
        (503, "1e3", None),
        (503, "٣٠", None),
        (503, "soon", None),
        (410, "3600", None),
    ],
)
def test_a_receiver_may_ask_to_wait(
    deliver: Callable[..., tuple[Outcome, HttpsServer]], status: int, value: str, wait: float | None
) -> None:
    outcome, _ = deliver(response(status, Retry_After=value))
    assert outcome.wait == wait


def test_a_redirect_is_not_followed_and_is_our_fault(deliver: Callable[..., tuple[Outcome, HttpsServer]]) -> None:
    outcome, server = deliver(response(307, location="/elsewhere"))
    assert (outcome.disposition, outcome.ours, len(server.requests)) == (Disposition.DEFERRED, True, 1)
    assert "t=1" not in outcome.reply.detail


def test_a_server_that_sends_no_response_defers(deliver: Callable[..., tuple[Outcome, HttpsServer]]) -> None:
    outcome, _ = deliver(b"")
    assert (outcome.disposition, outcome.ours) == (Disposition.DEFERRED, False)


def test_r45_mail_is_not_posted_into_private_networks(deliver: Callable[..., tuple[Outcome, HttpsServer]]) -> None:
    outcome, server = deliver(response(200), public_only=True)
    assert (outcome.disposition, server.connections) == (Disposition.DEFERRED, 0)
    assert "http.allow" in outcome.reply.detail


def test_a_message_that_is_too_large_or_damaged_is_not_posted(
    deliver: Callable[..., tuple[Outcome, HttpsServer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome, server = deliver(response(200), Content(fails=True))
    assert (outcome.disposition, server.connections) == (Disposition.HELD, 0)
    monkeypatch.setattr(module, "LARGEST", 10)
    outcome, server = deliver(response(200))
    assert (outcome.disposition, outcome.reply.enhanced, server.connections) == (Disposition.FAILED, "5.3.4", 0)


def test_an_error_does_not_end_the_request_for_another_recipient(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key\n")
    raised = asyncio.Event()

    class Client:
        async def post(self, url: str, body: bytes, *, headers: dict[str, str], limits: object) -> object:
            del url, body, limits
            if headers["Ironpost-Id"] == "id1-4":
                raised.set()
                raise RuntimeError("a bug")
            await raised.wait()
            await asyncio.sleep(0)
            return SimpleNamespace(status=204)

    recipients = (JO, JO._replace(number=4))
    message = QueuedMessage("id1", Envelope(Address.parse("a@b.example"), (JO.recipient,)), 0.0, Content(), recipients)
    options = PostOptions("https://hooks.example/", SecretSource("file", str(tmp_path / "secret")))
    agent = Post(cast("HttpClient", Client()), Clock(), "mx.here.example")

    async def main() -> None:
        outcomes = dict(await agent.deliver(message, recipients, Route.local(Kind.POST, options)))
        assert outcomes[3].disposition is Disposition.DELIVERED
        assert str(outcomes[4].crash) == "a bug"

    asyncio.run(main())


def test_a_secret_that_is_missing_defers_and_is_our_fault(
    deliver: Callable[..., tuple[Outcome, HttpsServer]], tmp_path: Path
) -> None:
    outcome, server = deliver(response(200), secret=tmp_path / "absent")
    assert (outcome.disposition, outcome.ours, server.connections) == (Disposition.DEFERRED, True, 0)
    with pytest.raises(ValueError, match=r"secret: .*absent: No such file"):
        PostOptions("https://hooks.example/", SecretSource("file", str(tmp_path / "absent"))).verify()


@pytest.mark.parametrize(
    ("url", "secret", "sentence"),
    [
        ("http://hooks.example/", "env:HOOK", "not an https URL"),
        ("https://jo@hooks.example/", "env:HOOK", "not an https URL"),
        ("https:///in", "env:HOOK", "not an https URL"),
        ("https://hooks.example:99999/", "env:HOOK", "not an https URL .*: its port is not a number"),
        ("https://jo:secret@\u2100/", "env:HOOK", "not an https URL .*: it has no valid host name$"),
        ("https://hooks.example:0/", "env:HOOK", "not an https URL .*: its port is not a number"),
        ("https://hooks.example/a b", "env:HOOK", "it has a space"),
        ("https://[::1/", "env:HOOK", "it has no valid host name"),
        ("https://hooks.example/", "hook", "a secret is named by its file"),
    ],
)
def test_a_wrong_url_or_secret_is_refused(url: str, secret: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        parse(f'[[local.delivery]]\nrecipients = ["*"]\npost = {{ url = "{url}", secret = "{secret}" }}\n')
    assert url not in str(caught.value)
    assert "jo:secret" not in str(caught.value)
