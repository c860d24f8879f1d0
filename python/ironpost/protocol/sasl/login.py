"""LOGIN: name and password in separate responses. Obsolete and without a standard, but widely used.

The challenges are those that clients expect. Some clients send the name as the initial response, which is accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol.sasl.mechanism import (
    SERVER_FIRST,
    Authenticated,
    AuthenticatorCall,
    Challenge,
    CredentialsRejected,
    Mechanism,
    Response,
    typed,
)
from ironpost.protocol.sasl.names import PASSWORD

if TYPE_CHECKING:
    from ironpost.protocol.sasl.mechanism import ChannelContext, ClientSide, Credentials, ServerSide


class LoginMechanism(Mechanism):
    name = "LOGIN"
    needs = "verify_password"
    ignores_challenges: ClassVar = True

    def server(self, context: ChannelContext) -> ServerSide:  # noqa: ARG002
        login = typed((yield Challenge(b"Username:")))
        password = typed((yield Challenge(b"Password:")), PASSWORD)
        if not login or not password:
            raise CredentialsRejected("missing name or password")
        name = yield AuthenticatorCall("verify_password", login, (login, password))
        if name is None:
            raise CredentialsRejected("unknown name or wrong password")
        return Authenticated(name, name)

    def usable(self, credentials: Credentials) -> bool:
        return bool(credentials.login) and credentials.password is not None and not credentials.authzid

    def client(self, credentials: Credentials, context: ChannelContext) -> ClientSide:  # noqa: ARG002
        # Servers differ in the texts of the challenges, not in their order.
        yield SERVER_FIRST
        yield Response(credentials.login.encode())
        yield Response((credentials.password or "").encode(), final=True)
