"""A smart host for tests of routes: a whole server with TLS and logins, which records how mail arrived."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from ironpost.accounts.authenticator import User, Users, new_user
from ironpost.protocol.sasl import BY_NAME
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import BaseHandler, Server, TlsContext
from ironpost.server.self_signed import write_self_signed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from ironpost.routing.profile import ConnectionProfile
    from ironpost.routing.route import Route

CERTIFIED = "relay.us.example"
"""The account that the client certificate names."""


class Arrived(NamedTuple):
    """One message, and the session in which it came."""

    identity: str
    mechanism: str
    protocol: str
    hello: str
    ip: str
    port: int


class Keeper(BaseHandler):
    """Accepts everything."""

    def __init__(self) -> None:
        self.arrived: list[Arrived] = []
        self.tokens: list[str] = []
        """Those presented."""
        self.valid = {"abc"}
        """Those that are accepted."""

    def recipient(self, session: Any, forward_path: Any, parameters: Any) -> None:
        return None

    def message(self, session: Any, content: Any, facts: Any) -> None:
        who = session.identity
        name, mechanism = (who.name, who.mechanism) if who else ("", "")
        peer = session.peer
        self.arrived.append(Arrived(name, mechanism, session.protocol, session.helo, peer.ip, peer.port))

    def verify_token(self, session: Any, login: str, token: str) -> str | None:
        self.tokens.append(token)
        return "ada" if token in self.valid else None


class Accounts:
    """The account ada with the password pencil, and one named by a certificate."""

    secrets = True

    def __init__(self) -> None:
        self.asked = 0
        """How many logins looked an account up."""

    def find(self, login: str) -> User | None:
        self.asked += 1
        known = {"ada": new_user("ada", "pencil")._replace(secret="pencil"), CERTIFIED: User(CERTIFIED)}
        return known.get(login)


class SmartHost(NamedTuple):
    """A running server."""

    server: Server
    handler: Keeper
    accounts: Accounts

    def route(self, profile: ConnectionProfile | None = None, host: str = "127.0.0.1") -> Route:
        from ironpost.routing.route import Host, Route

        return Route.smart([Host(host, self.server.port)], profile)


@asynccontextmanager
async def smart_host(
    certificate: Path,
    *,
    mechanisms: Iterable[str] = BY_NAME,
    implicit: bool = False,
    client_ca: Path | None = None,
    ip: str = "127.0.0.1",
    port: int = 0,
) -> AsyncIterator[SmartHost]:
    """Run a server; `certificate` and its key have the same name with different endings."""
    handler, accounts = Keeper(), Accounts()
    users = Users([accounts], [handler], mechanisms=tuple(mechanisms))
    tls = TlsContext.load([(certificate, certificate.with_suffix(".key"))], client_ca=client_ca)
    settings = ServerSettings(hostname="hub.example", authenticator=users)
    async with Server(handler, ip, port, settings=settings, tls=tls, implicit_tls=implicit) as server:
        yield SmartHost(server, handler, accounts)


def certificate(folder: Path, *names: str) -> Path:
    """Create a self-signed certificate for these names, and its key beside it."""
    path = folder / f"{names[0]}.pem"
    write_self_signed(path, path.with_suffix(".key"), list(names))
    return path
