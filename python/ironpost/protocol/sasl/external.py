"""EXTERNAL: the connection itself has authenticated the client (RFC 4422, appendix A).

The client is identified by a certificate that TLS verified, or as the Unix user at the other end of a local socket. It
sends the name of the user to act as, or nothing; the authenticator decides whether that is permitted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol.sasl.mechanism import (
    Authenticated,
    AuthenticatorCall,
    Challenge,
    CredentialsRejected,
    Mechanism,
    Response,
    prepared,
    text,
)

if TYPE_CHECKING:
    from ironpost.protocol.sasl.mechanism import ChannelContext, ClientSide, Credentials, ServerSide


class External(Mechanism):
    name = "EXTERNAL"
    needs = "external"
    ignores_challenges: ClassVar = True
    by_connection: ClassVar = True

    def server(self, context: ChannelContext) -> ServerSide:  # noqa: ARG002
        authzid = prepared(text((yield Challenge())))
        name = yield AuthenticatorCall("external", authzid, (authzid,))
        if name is None:
            raise CredentialsRejected(
                f"the connection does not authenticate {authzid!a}"
                if authzid
                else "the connection authenticates no user"
            )
        return Authenticated(name, name)

    def usable(self, credentials: Credentials) -> bool:
        return credentials.certificate

    def client(self, credentials: Credentials, context: ChannelContext) -> ClientSide:  # noqa: ARG002
        yield Response(credentials.authzid.encode(), final=True)
