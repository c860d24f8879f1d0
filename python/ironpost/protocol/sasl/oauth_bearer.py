"""OAUTHBEARER: an OAuth 2.0 bearer token (RFC 7628 §3).

A failure is told in JSON as one more challenge, which the client answers with one octet before the exchange fails
(§3.2.2, §3.2.3). The port that a client says it connected to is not compared: behind a forwarder it is another.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from ironpost.protocol.sasl.mechanism import (
    Challenge,
    Malformed,
    Mechanism,
    Question,
    Refused,
    Response,
    acting,
    prepared,
    text,
)
from ironpost.protocol.sasl.scram import decoded_name, encoded_name

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import NoReturn

    from ironpost.protocol.sasl.mechanism import Circumstances, ClientSide, Credentials, ServerSide

DUMMY: Final = b"\1"
"""What answers an error (RFC 7628 §3.2.3)."""
_HEADER: Final = re.compile(r"[ny],(?:a=([^,]+))?,")  # RFC 5801: the gs2-header; this mechanism binds to no channel
_PAIR: Final = re.compile(r"([A-Za-z]+)=([\t\r\n -~]*)")
_BEARER: Final = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.I)  # RFC 6750: b64token


class OAuthBearer(Mechanism):
    name = "OAUTHBEARER"
    needs = "verify_token"

    def server(self, circumstances: Circumstances) -> ServerSide:
        message = text((yield Challenge()))
        header, separator, rest = message.partition("\1")
        gs2 = _HEADER.fullmatch(header)
        if gs2 is None or not separator or not rest.endswith("\1"):
            raise Malformed("OAUTHBEARER is a GS2 header and pairs")
        authzid = prepared(decoded_name(gs2[1] or ""))
        pairs = dict(_pairs(rest[:-1]))
        host = pairs.get("host", "")
        if host and circumstances.server_name and host.lower() != circumstances.server_name.lower():
            return (yield from failing("invalid_request", f"the client means the host {host!a}"))  # §3.2
        token = bearer(pairs.get("auth", ""))
        if token is None:
            return (yield from failing("invalid_request", "no bearer token"))
        name = yield Question("verify_token", authzid, (authzid, token))
        if name is None:
            return (yield from failing("invalid_token", "the token is not accepted"))
        return (yield from acting(name, authzid))

    def usable(self, credentials: Credentials) -> bool:
        return credentials.token is not None

    def client(self, credentials: Credentials, circumstances: Circumstances) -> ClientSide:  # noqa: ARG002
        name = credentials.authzid or credentials.login
        header = f"n,a={encoded_name(name)}," if name else "n,,"
        pairs = [("host", credentials.host), ("port", str(credentials.port or ""))]
        shown = "".join(f"{key}={value}\1" for key, value in pairs if value)
        message = f"{header}\1{shown}auth=Bearer {credentials.token}\1\1"
        yield Response(message.encode(), final=True)
        yield Response(DUMMY)  # a challenge is an error


def _pairs(octets: str) -> Generator[tuple[str, str], None, None]:
    for pair in octets.split("\1"):
        if not pair:
            continue
        match = _PAIR.fullmatch(pair)
        if match is None:
            raise Malformed("a pair is a key of letters, an equals sign and printable text")
        yield match[1].lower(), match[2]


def bearer(value: str) -> str | None:
    """The token in what would be an HTTP Authorization header, None if there is none."""
    match = _BEARER.fullmatch(value)
    return None if match is None else match[1]


def failing(status: str, reason: str, **more: str) -> Generator[Challenge, bytes, NoReturn]:
    """Tells the client why, takes its dummy response, whatever it is, and refuses."""
    yield Challenge(json.dumps({"status": status, **more}, separators=(",", ":")).encode())
    raise Refused(reason)
