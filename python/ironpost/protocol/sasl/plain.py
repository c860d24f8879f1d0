"""PLAIN: the password itself, in one message (RFC 4616 §2). Only under TLS, unless the configuration names it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol.sasl.mechanism import (
    Challenge,
    Malformed,
    Mechanism,
    Question,
    Refused,
    Response,
    acting,
    typed,
)
from ironpost.protocol.sasl.names import PASSWORD

if TYPE_CHECKING:
    from ironpost.protocol.sasl.mechanism import Circumstances, ClientSide, Credentials, ServerSide


class Plain(Mechanism):
    name = "PLAIN"
    needs = "verify_password"
    deaf: ClassVar = True

    def server(self, circumstances: Circumstances) -> ServerSide:  # noqa: ARG002 - the port's
        message = yield Challenge()
        parts = message.split(b"\0")
        if len(parts) != 3:
            raise Malformed("PLAIN is three texts with NUL between them")
        authzid, login = map(typed, parts[:2])
        password = typed(parts[2], PASSWORD)
        if not login or not password:  # RFC 4616 §2: 1*SAFE
            raise Refused("no name or no password")
        name = yield Question("verify_password", login, (login, password))
        if name is None:
            raise Refused("unknown name or wrong password")
        return (yield from acting(name, "" if authzid == login else authzid))  # its name may be in another case

    def usable(self, credentials: Credentials) -> bool:
        return bool(credentials.login) and credentials.password is not None

    def client(self, credentials: Credentials, circumstances: Circumstances) -> ClientSide:  # noqa: ARG002
        parts = credentials.authzid, credentials.login, credentials.password or ""
        yield Response(b"\0".join(part.encode() for part in parts), final=True)
