"""EXTERNAL: the connection has authenticated the client already (RFC 4422, appendix A).

By a certificate that TLS verified, or by the Unix user at the other end of a local socket. What the client sends is
whom it wants to act as, or nothing; the authenticator decides whether its credentials carry that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol.sasl.mechanism import Challenge, Granted, Mechanism, Question, Refused, Response, prepared, text

if TYPE_CHECKING:
    from ironpost.protocol.sasl.mechanism import Circumstances, ClientSide, Credentials, ServerSide


class External(Mechanism):
    name = "EXTERNAL"
    needs = "external"
    deaf: ClassVar = True
    by_connection: ClassVar = True

    def server(self, circumstances: Circumstances) -> ServerSide:  # noqa: ARG002 - the port's
        authzid = prepared(text((yield Challenge())))
        name = yield Question("external", authzid, (authzid,))
        if name is None:
            raise Refused(f"the connection does not authenticate {authzid!a}" if authzid else "nobody is known by it")
        return Granted(name, name)

    def usable(self, credentials: Credentials) -> bool:
        return credentials.certificate

    def client(self, credentials: Credentials, circumstances: Circumstances) -> ClientSide:  # noqa: ARG002
        yield Response(credentials.authzid.encode(), final=True)
