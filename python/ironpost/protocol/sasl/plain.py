"""PLAIN: name and password in one response (RFC 4616 §2). Only under TLS, unless configured otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol.sasl.mechanism import (
    AuthenticatorCall,
    Challenge,
    CredentialsRejected,
    MalformedResponse,
    Mechanism,
    Response,
    acting,
    typed,
)
from ironpost.protocol.sasl.names import PASSWORD

if TYPE_CHECKING:
    from ironpost.protocol.sasl.mechanism import ChannelContext, ClientSide, Credentials, ServerSide


class Plain(Mechanism):
    name = "PLAIN"
    needs = "verify_password"
    ignores_challenges: ClassVar = True

    def server(self, context: ChannelContext) -> ServerSide:  # noqa: ARG002
        message = yield Challenge()
        parts = message.split(b"\0")
        if len(parts) != 3:
            raise MalformedResponse("expected three strings separated by NUL")
        authzid, login = map(typed, parts[:2])
        password = typed(parts[2], PASSWORD)
        if not login or not password:  # RFC 4616 §2: 1*SAFE
            raise CredentialsRejected("missing name or password")
        name = yield AuthenticatorCall("verify_password", login, (login, password))
        if name is None:
            raise CredentialsRejected("unknown name or wrong password")
        return (yield from acting(name, "" if authzid == login else authzid))  # `name` may differ in case

    def usable(self, credentials: Credentials) -> bool:
        return bool(credentials.login) and credentials.password is not None

    def client(self, credentials: Credentials, context: ChannelContext) -> ClientSide:  # noqa: ARG002
        parts = credentials.authzid, credentials.login, credentials.password or ""
        yield Response(b"\0".join(part.encode() for part in parts), final=True)
