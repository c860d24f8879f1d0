"""`serve`: the server in this process, and the sentences for what keeps it from starting."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import sys
from typing import TYPE_CHECKING, Final

from ironpost import wire
from ironpost.cli import exits, release
from ironpost.cli.app import Stop
from ironpost.cli.settings import configuration, source
from ironpost.compose.auth import AuthError
from ironpost.compose.listeners import ListenError
from ironpost.compose.system import DataError, System
from ironpost.compose.workers import Source, Supervised, TooManyWorkers
from ironpost.config import Configuration, default, load, parse, read
from ironpost.config.quantities import Endpoint, Inherited
from ironpost.config.schema import Local
from ironpost.lookup.users_file import UsersFile, UsersFileError
from ironpost.model.patterns import EVERY, Domains
from ironpost.server.tls import TlsError
from ironpost.service import collector, records
from ironpost.service.workers import WorkerFailed
from ironpost.storage.lock import DirectoryInUse
from ironpost.storage.sqlite_schema import SchemaError

log = logging.getLogger("ironpost.serve")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ironpost.compose.auth import Login
    from ironpost.compose.listeners import Place
    from ironpost.compose.workers import Reserved
    from ironpost.config.quantities import SocketPath, Where


def serve(named: Path | None, workers: int) -> None:
    """Runs until SIGTERM or SIGINT.

    Args:
        named: the configuration file, if one was named.
        workers: how many processes take and deliver mail; one does it in this process, several have it for supervisor.

    Raises:
        Stop: it cannot start; the sentence says why and what to do.
    """
    records.keep_descriptors()
    found = configuration(named)
    records.write_to(sys.stderr, found.log.level, found.log.format)
    records.take_uncaught()
    file = source(named)
    system: System | Supervised
    if workers == 1:
        system = System(found, lambda: configuration_again(named))
    else:
        system = Supervised(source_again(named), lambda: source_again(named), workers)

    def ready() -> None:
        collector.settle()
        log.info("ironpost %s serves with configuration %s", release(), found.hash)
        records.say("\n".join(_banner(system, file)))

    run(system, ready)


def run(system: System | Supervised, ready: Callable[[], None]) -> None:
    """Runs a system on an event loop of its own.

    Raises:
        Stop: it cannot start.
    """
    data = system.configuration.data
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(system.run(ready))
    except ListenError as error:
        raise _cannot_listen(error) from None
    except DataError as error:
        raise _cannot_use(error) from None
    except (AuthError, TlsError) as error:
        raise Stop(exits.CONFIGURATION, str(error)) from None
    except SchemaError as error:
        raise Stop(exits.CONFIGURATION, f"{data}: {error}") from None
    except TooManyWorkers as error:
        raise Stop(exits.USAGE, str(error)) from None
    except WorkerFailed as error:
        raise Stop(error.code, str(error)) from None
    finally:
        records.flush()


def _cannot_listen(error: ListenError) -> Stop:
    cause = error.__cause__
    assert isinstance(cause, OSError)
    if isinstance(error.place, Inherited) and cause.errno == errno.ENOENT:
        sentence = f"{error}: no socket of that name was handed over\n" + (
            "the service manager that starts ironpost passes it with LISTEN_FDS, and its name with LISTEN_FDNAMES"
        )
        return Stop(exits.UNAVAILABLE, sentence)
    if cause.errno == errno.EADDRINUSE:
        sentence = f"{error}: another program listens there\n" + (
            f"find it with: {_finder(error.place)}, or choose another address with listener.listen"
        )
        return Stop(exits.TEMPORARY, sentence)
    if cause.errno in {errno.EACCES, errno.EPERM}:
        sentence = f"{error}: this user may not\n" + (
            "ports below 1024 need root or CAP_NET_BIND_SERVICE; choose another port with listener.listen"
        )
        return Stop(exits.NO_PERMISSION, sentence)
    return Stop(exits.UNAVAILABLE, f"{error}: {_reason(cause)}")


def _finder(where: Where) -> str:
    if isinstance(where, Endpoint):
        return f"ss -ltnp 'sport = :{where.port}'"
    return f"ss -lxp src {where}".replace("unix:", "")


def _cannot_use(error: DataError) -> Stop:
    cause = error.__cause__
    assert isinstance(cause, OSError)
    if isinstance(cause, DirectoryInUse):
        return Stop(exits.TEMPORARY, f"{error.path}: {cause.strerror}")
    if isinstance(cause, FileExistsError | NotADirectoryError):
        return Stop(exits.CANNOT_CREATE, f"{error}: it is no directory")
    elsewhere = cause.filename is not None and not str(cause.filename).startswith(str(error.path))
    if elsewhere:  # a program that should be started, for instance
        return Stop(exits.SOFTWARE, f"{cause.filename}: {cause.strerror}")
    if isinstance(cause, PermissionError):
        return Stop(exits.CANNOT_CREATE, f"{error}: this user may not write there")
    return Stop(exits.CANNOT_CREATE, f"{error}: {cause.strerror or cause}")


def _reason(error: OSError) -> str:
    """The system's words; those of the resolver, which is the cause, have negative numbers."""
    if error.errno and error.errno > 0:
        return os.strerror(error.errno)
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    return cause.strerror or str(cause)


def source_again(named: Path | None) -> Source:
    """As `configuration_again`, with the text for the workers."""
    file = source(named)
    if file is None:
        return Source(default(), None, "built-in default")
    text = read(file)
    return Source(parse(text, str(file)), text, str(file))


def configuration_again(named: Path | None) -> Configuration:
    """The configuration as it stands now; for a reload, which wants an exception and no exit.

    Raises:
        ConfigError: it cannot be used.
    """
    file = source(named)
    return default() if file is None else load(file)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _banner(system: System | Supervised, file: Path | None) -> list[str]:
    found, login = system.configuration, system.first_login
    name, password = _account(found, login)
    to = sample_recipient(found.local)
    origin = file or "built-in default"
    lines = [f"ironpost {release()}, {wire.IMPLEMENTATION} wire, configuration {found.hash} ({origin})"]
    tries: list[str] = []
    for place, bound in _bound(system):
        listener = found.listener[place.listener]
        lines.append(f"listening on {bound} for {place.role}, {TLS_WORDS[place.tls]}, {AUTH_WORDS[listener.auth]}")
        if listener.auth != "required":
            tries.append(f"{_try(place, bound)} --to {to}")
        elif name:
            sender = name if "@" in name else f"{name}@{found.local.sample_domain}"
            account = f"--auth PLAIN --auth-user {name} --from {sender}{password}"
            tries.append(f"{_try(place, bound)} {account} --to {to}")
    if not found.tls.certificates and any(listener.tls != "none" for listener in found.listener):
        lines.append(f"no certificate is configured: a self-signed one is in {found.data / 'tls'}")
    if login is not None:
        lines.append(f"made the user {login.name} with the password {login.password}, which is shown only now")
        lines.append(f"choose another one with: ironpost user add --replace {login.name}")
    elif not name and any(listener.auth == "required" for listener in found.listener):
        lines.append(f"nobody can log in yet; add a user with: ironpost user add you@{found.local.sample_domain}")
    lines += [f"{'try: ' if number == 0 else 'or:  '} {line}" for number, line in enumerate(tries)]
    everywhere = EVERY in found.local.domains
    whose = "every domain" if everywhere else ", ".join(f"*@{name}" for name in found.local.domains)
    if file is None:
        lines.append("there is no configuration file, so that mail for every domain stays here")
    lines.append(f"mail for {whose or 'postmaster'} goes to the Maildir {found.maildir}")
    if everywhere:
        lines.append("nothing is sent to other systems")
    lines.append("stop with Ctrl-C")
    return lines


TLS_WORDS: Final = {"none": "in clear", "starttls": "STARTTLS", "implicit": "TLS from the start"}
AUTH_WORDS: Final = {"none": "no login", "offered": "login offered", "required": "login required"}


def _try(place: Place | Reserved, bound: Endpoint | SocketPath) -> str:
    """The start of a line that sends a message through one listener."""
    if isinstance(bound, Endpoint):
        words = [f"swaks --server {bound.host} --port {bound.port}"]
    else:
        words = [f"swaks --socket {bound.path}"]
    if place.role == "lmtp":
        words.append("--protocol LMTP")
    if place.tls == "implicit":
        words.append("--tls-on-connect")
    elif place.tls == "starttls" and place.role == "submission":
        words.append("--tls")
    return " ".join(words)


def _account(found: Configuration, login: Login | None) -> tuple[str, str]:
    """Who may log in, for examples, and the option with the password where it is known."""
    if login is not None:
        return login.name, f" --auth-password {login.password}"
    with contextlib.suppress(UsersFileError, OSError):
        names = UsersFile(found.users).names()
        if names:
            return names[0], ""
    elsewhere = found.auth.database is not None or found.auth.hook is not None
    return (f"you@{found.local.sample_domain}" if elsewhere else ""), ""


def sample_recipient(local: Local) -> str:
    """An address that the configuration accepts, for examples."""
    if local.recipients is None:
        return f"you@{local.sample_domain}"
    domains = Domains(local.domains)
    for each in local.recipients:
        local_part, _, domain = each.rpartition("@")
        sample = local.sample_domain if domain == EVERY else Local(domains=(domain,)).sample_domain
        if sample in domains:
            return f"{'you' if local_part == EVERY else local_part}@{sample}"
    return f"postmaster@{local.sample_domain}" if local.domains else "postmaster"  # RFC 5321 §4.5.1


def _bound(system: System | Supervised) -> Iterator[tuple[Place | Reserved, Endpoint | SocketPath]]:
    for place in system.places:
        for bound in place.bound:
            yield place, bound
