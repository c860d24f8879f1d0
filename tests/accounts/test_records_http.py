"""Mailboxes and aliases of a web server with TLS on loopback."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote

import pytest
from tests.authority import issue
from tests.http.https_kit import HttpsServer, always, https_server, response, serving

from ironpost.accounts.records_http import RESPONSE_OCTETS, HttpOptions, HttpRecords
from ironpost.config import ConfigError, parse
from ironpost.http import HttpClient
from ironpost.model import Address
from ironpost.model.network import LOOPBACK
from ironpost.routing.directory import DirectoryError
from ironpost.routing.records import Record
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Ask: TypeAlias = Callable[..., tuple[list[Record | DirectoryError | None], HttpsServer]]

NAME = "people.example"
KEY = "ada@mail.example"


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Look keys up at a server that responds as given; the results, and the server with its requests."""
    authority = issue(common_name="Test authority", authority=True)
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    context = serving(issue(NAME, by=authority), tmp_path)

    def run(
        octets: bytes, keys: Sequence[str] = (KEY,), *, path: str = "/v1/{key}", token: str | None = None, **client: Any
    ) -> tuple[list[Record | DirectoryError | None], HttpsServer]:
        async def main() -> tuple[list[Record | DirectoryError | None], HttpsServer]:
            async with asyncio.timeout(30), https_server(context, always(octets)) as server:
                options = HttpOptions(f"https://{NAME}:{server.port}{path}")
                resolver = StaticResolver(addresses={NAME: ["127.0.0.1"]})
                made = HttpClient(resolver, **{"authorities": ca, "allowed": LOOPBACK, **client})
                source = HttpRecords(options, made, token)
                found: list[Record | DirectoryError | None] = []
                for key in keys:
                    try:
                        found.append(await source.lookup(key))
                    except DirectoryError as error:
                        found.append(error)
                return found, server

        return asyncio.run(main())

    return run


def answer(fields: object, status: int = 200) -> bytes:
    return response(status, json.dumps(fields).encode(), Content_Type="application/json")


def test_the_response_is_a_record(ask: Ask) -> None:
    (found,), server = ask(answer({"targets": ["jo@other.example"], "keep": True}), token="secret")
    where = f"https://{NAME}:{server.port}/v1/{{key}}"
    assert found == Record(where, (Address.parse("jo@other.example"),), keep=True)
    (request,) = server.requests
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["accept"] == "application/json"
    (found,), server = ask(answer({}))
    assert found == Record(f"https://{NAME}:{server.port}/v1/{{key}}")
    assert "authorization" not in server.requests[0].headers


def test_404_and_nothing_else_means_that_there_is_no_record(ask: Ask) -> None:
    assert ask(response(404))[0] == [None]
    assert ask(answer({}, 404))[0] == [None]
    for octets, why in (
        (response(204), "HTTP status 204; expected 200, or 404 for no record"),
        (response(302, Location="https://people.example/"), "HTTP status 302"),
        (response(401), "HTTP status 401"),
        (response(410), "HTTP status 410"),
        (response(503), "HTTP status 503"),
        (response(200, b""), "the response is not a JSON object"),
        (response(200, b"not found"), "the response is not a JSON object"),
        (response(200, b"[" * 100_000), "the response is not a JSON object"),
        (response(200, b"\xff"), "the response is not a JSON object"),
        (response(200, b"9" * 5000), "the response is not a JSON object"),
        (answer(None), "the response is not a JSON object"),
        (answer([{}]), "the response is not a JSON object"),
        (answer({"error": "no such address"}), "unknown field 'error'; expected fields are targets"),
        (answer({"targets": [["ada@mail.example"]]}), "targets: expected a text or a list of texts"),
        (response(200, b" " * (RESPONSE_OCTETS + 1)), f"more than {RESPONSE_OCTETS} octets"),
        (b"HTTP/1.1 200 Fine\r\nContent-Length: 9\r\n\r\n{}", ""),
        (b"SMTP\r\n\r\n", ""),
    ):
        ((found,), _) = ask(octets)
        assert isinstance(found, DirectoryError)
        assert why in str(found)
        assert NAME in str(found)


@pytest.mark.parametrize("path", ["/v1/{key}", "/find?address={key}&v=1"])
def test_r42_a_key_is_never_syntax_of_the_url(ask: Ask, path: str) -> None:
    hostile = ("../x", "a/b", "a?b=c", "a#b", "a%2Fb", "a+b", "a&v=2", "a b", "a\r\nX: y", "jörg", '"@"', "{key}", "")
    keys = [f"{local}@mail.example" for local in hostile]
    found, server = ask(response(404), keys, path=path)
    assert found == [None] * len(keys)
    before, after = path.split("{key}")
    for key, request in zip(keys, server.requests, strict=True):
        target = request.line.removeprefix("GET ").removesuffix(" HTTP/1.1")
        assert target.startswith(before)
        assert target.endswith(after)
        sent = target[len(before) : len(target) - len(after)]
        assert unquote(sent) == key
        assert not set(sent) & set("/?#&+ ")


def test_r45_only_addresses_that_are_allowed_are_contacted(ask: Ask) -> None:
    (found,), server = ask(answer({}), allowed=())
    assert isinstance(found, DirectoryError)
    assert "127.0.0.1 is loopback" in str(found) or "http.allow" in str(found)
    assert server.connections == 0


def test_a_server_that_cannot_be_verified_is_an_error(ask: Ask, tmp_path: Path) -> None:
    (found,), server = ask(answer({}), authorities=None)
    assert isinstance(found, DirectoryError)
    assert server.requests == []
    (found,), _ = ask(answer({}), authorities=tmp_path / "absent.pem")
    assert isinstance(found, DirectoryError)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://people.example/{key}", "not an https URL"),
        ("https://jo:secret@people.example/{key}", "not an https URL"),
        ("https://people.example/", "has no {key} in its path or query"),
        ("https://{key}.example/{key}", "it has no valid host name"),
        ("https://people.example:99999/{key}", "its port is not a number"),
        ("https://people.example/#{key}", "has no {key} in its path or query"),
        ("https://people.example/?secret", "has no {key} in its path or query"),
    ],
)
def test_a_url_that_cannot_work_is_refused(url: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f'[[directory.http]]\nurl = "{url}"')
    assert "directory.http[1].url" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert why in str(caught.value)
