"""LOGIN: name and password, one after the other. Obsolete and without a standard, but still what many clients know.

The challenges are those that clients compare with. Some clients send the name with the command, which is allowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol.sasl.mechanism import (
    SERVER_FIRST,
    Challenge,
    Granted,
    Mechanism,
    Question,
    Refused,
    Response,
    typed,
)
from ironpost.protocol.sasl.names import PASSWORD

if TYPE_CHECKING:
    from ironpost.protocol.sasl.mechanism import Circumstances, ClientSide, Credentials, ServerSide


class Login(Mechanism):
    name = "LOGIN"
    needs = "verify_password"
    deaf: ClassVar = True

    def server(self, circumstances: Circumstances) -> ServerSide:  # noqa: ARG002 - the port's
        login = typed((yield Challenge(b"Username:")))
        password = typed((yield Challenge(b"Password:")), PASSWORD)
        if not login or not password:
            raise Refused("no name or no password")
        name = yield Question("verify_password", login, (login, password))
        if name is None:
            raise Refused("unknown name or wrong password")
        return Granted(name, name)

    def usable(self, credentials: Credentials) -> bool:
        return bool(credentials.login) and credentials.password is not None and not credentials.authzid

    def client(self, credentials: Credentials, circumstances: Circumstances) -> ClientSide:  # noqa: ARG002
        # Servers differ in their challenges, not in their order: whatever they say is answered.
        yield SERVER_FIRST
        yield Response(credentials.login.encode())
        yield Response((credentials.password or "").encode(), final=True)
