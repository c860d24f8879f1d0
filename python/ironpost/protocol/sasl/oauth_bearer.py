"""OAUTHBEARER: an OAuth 2.0 bearer token (RFC 7628 §3).

A failure is reported in JSON as an additional challenge, to which the client responds with one octet before the
exchange fails (§3.2.2, §3.2.3). The port that the client names is not checked, because port forwarding may change it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ironpost.protocol.sasl.mechanism import (
    AuthenticatorCall,
    Challenge,
    CredentialsRejected,
    MalformedResponse,
    Mechanism,
    Response,
    acting,
    prepared,
    text,
)
from ironpost.protocol.sasl.scram import decoded_name, encoded_name

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import NoReturn

    from ironpost.protocol.sasl.mechanism import ChannelContext, ClientSide, Credentials, ServerSide

DUMMY: Final = b"\1"
"""The response to an error (RFC 7628 §3.2.3)."""
_HEADER: Final = re.compile(r"[ny],(?:a=([^,]+))?,")  # RFC 5801: the gs2-header; without channel binding
_PAIR: Final = re.compile(r"([A-Za-z]+)=([\t\r\n -~]*)")
_BEARER: Final = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.I)  # RFC 6750: b64token


class OAuthBearer(Mechanism):
    name = "OAUTHBEARER"
    needs = "verify_token"

    def server(self, context: ChannelContext) -> ServerSide:
        message = text((yield Challenge()))
        header, separator, rest = message.partition("\1")
        gs2 = _HEADER.fullmatch(header)
        if gs2 is None or not separator or not rest.endswith("\1"):
            raise MalformedResponse("expected a GS2 header and key-value pairs")
        authzid = prepared(decoded_name(gs2[1] or ""))
        pairs = dict(_pairs(rest[:-1]))
        host = pairs.get("host", "")
        if host and context.server_name and host.lower() != context.server_name.lower():
            return (yield from failing("invalid_request", f"the client named the host {host!a}"))  # §3.2
        token = bearer(pairs.get("auth", ""))
        if token is None:
            return (yield from failing("invalid_request", "missing bearer token"))
        name = yield AuthenticatorCall("verify_token", authzid, (authzid, token))
        if name is None:
            return (yield from failing("invalid_token", "invalid token"))
        return (yield from acting(name, authzid))

    def usable(self, credentials: Credentials) -> bool:
        return credentials.token is not None

    def client(self, credentials: Credentials, context: ChannelContext) -> ClientSide:  # noqa: ARG002
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
            raise MalformedResponse("invalid key-value pair")
        yield match[1].lower(), match[2]


def bearer(value: str) -> str | None:
    """Return the token in the value of an HTTP Authorization header; None if there is none."""
    match = _BEARER.fullmatch(value)
    return None if match is None else match[1]


def failing(status: str, reason: str, **more: str) -> Generator[Challenge, bytes, NoReturn]:
    """Report the error to the client, ignore its dummy response, and refuse."""
    import json  # not at the top: it would add a millisecond to the start of every client

    yield Challenge(json.dumps({"status": status, **more}, separators=(",", ":")).encode())
    raise CredentialsRejected(reason)
