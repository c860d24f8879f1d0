"""XOAUTH2: what Google and Microsoft had before OAUTHBEARER, and what most mail clients still use with them.

    user=NAME ^A auth=Bearer TOKEN ^A ^A

An error is one more challenge in JSON, which the client answers with an empty response; then the exchange fails.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ironpost.protocol.sasl.mechanism import (
    Challenge,
    Granted,
    Malformed,
    Mechanism,
    Question,
    Response,
    prepared,
    text,
)
from ironpost.protocol.sasl.oauth_bearer import bearer, failing

if TYPE_CHECKING:
    from ironpost.protocol.sasl.mechanism import Circumstances, ClientSide, Credentials, ServerSide

_MESSAGE: Final = re.compile("user=([^\1]*)\1auth=([^\1]*)\1\1")


class XOAuth2(Mechanism):
    name = "XOAUTH2"
    needs = "verify_token"

    def server(self, circumstances: Circumstances) -> ServerSide:  # noqa: ARG002 - the port's
        message = _MESSAGE.fullmatch(text((yield Challenge())))
        if message is None:
            raise Malformed("XOAUTH2 is user= and auth=")
        login, token = prepared(message[1]), bearer(message[2])
        if not login or token is None:
            return (yield from failing("400", "no name or no bearer token", schemes="bearer"))
        name = yield Question("verify_token", login, (login, token))
        if name is None:
            return (yield from failing("401", "the token is not accepted", schemes="bearer"))
        return Granted(name, name)

    def usable(self, credentials: Credentials) -> bool:
        return credentials.token is not None and bool(credentials.login) and not credentials.authzid

    def client(self, credentials: Credentials, circumstances: Circumstances) -> ClientSide:  # noqa: ARG002
        message = f"user={credentials.login}\1auth=Bearer {credentials.token}\1\1"
        yield Response(message.encode(), final=True)
        yield Response(b"")  # a challenge is an error
