"""XOAUTH2: the predecessor of OAUTHBEARER at Google and Microsoft, which most mail clients still use with them.

    user=NAME ^A auth=Bearer TOKEN ^A ^A

A failure is reported in JSON as an additional challenge, to which the client sends an empty response; then the exchange
fails.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ironpost.protocol.sasl.mechanism import (
    Authenticated,
    AuthenticatorCall,
    Challenge,
    MalformedResponse,
    Mechanism,
    Response,
    prepared,
    text,
)
from ironpost.protocol.sasl.oauth_bearer import bearer, failing

if TYPE_CHECKING:
    from ironpost.protocol.sasl.mechanism import ChannelContext, ClientSide, Credentials, ServerSide

_MESSAGE: Final = re.compile("user=([^\1]*)\1auth=([^\1]*)\1\1")


class XOAuth2(Mechanism):
    name = "XOAUTH2"
    needs = "verify_token"

    def server(self, context: ChannelContext) -> ServerSide:  # noqa: ARG002
        message = _MESSAGE.fullmatch(text((yield Challenge())))
        if message is None:
            raise MalformedResponse("expected user= and auth=")
        login, token = prepared(message[1]), bearer(message[2])
        if not login or token is None:
            return (yield from failing("400", "missing name or bearer token", schemes="bearer"))
        name = yield AuthenticatorCall("verify_token", login, (login, token))
        if name is None:
            return (yield from failing("401", "invalid token", schemes="bearer"))
        return Authenticated(name, name)

    def usable(self, credentials: Credentials) -> bool:
        return credentials.token is not None and bool(credentials.login) and not credentials.authzid

    def client(self, credentials: Credentials, context: ChannelContext) -> ClientSide:  # noqa: ARG002
        message = f"user={credentials.login}\1auth=Bearer {credentials.token}\1\1"
        yield Response(message.encode(), final=True)
        yield Response(b"")  # a challenge is an error
