"""`serve`: run the server in this process, and explain why it cannot start."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import sys
from typing import TYPE_CHECKING, Final

from ironpost import wire
from ironpost.accounts.file import UsersFile, UsersFileError
from ironpost.cli import exits, release
from ironpost.cli.app import CommandError
from ironpost.cli.refusals import cannot_use
from ironpost.cli.settings import configuration, source
from ironpost.compose.auth import AuthError
from ironpost.compose.data_lock import DataError
from ironpost.compose.directory import SourceError
from ironpost.compose.listeners import ListenError
from ironpost.compose.system import System
from ironpost.compose.workers import ConfigurationSource, Supervised, TooManyWorkers
from ironpost.config import Configuration, default, load, parse, read
from ironpost.config.local import LocalSection
from ironpost.config.quantities import Endpoint, Inherited
from ironpost.delivery.access import AccessError
from ironpost.model.patterns import EVERY, Domains
from ironpost.model.text import error_text
from ironpost.processes import gc_tuning
from ironpost.processes.worker_pool import WorkerFailed
from ironpost.queue.store import StoreUnusable
from ironpost.server.event_loop import new_event_loop
from ironpost.server.tls import TlsError
from ironpost.telemetry import formatters as log_output

log = logging.getLogger("ironpost.serve")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ironpost.compose.auth import InitialLogin
    from ironpost.compose.listeners import BoundListener
    from ironpost.compose.workers import ReservedAddress
    from ironpost.config.quantities import SocketPath, Where


def serve(named: Path | None, workers: int) -> None:
    """Run until SIGTERM or SIGINT.

    Args:
        named: the configuration file, if one was named.
        workers: the number of processes that serve mail. A single one is this process; several run under it as their
            supervisor.

    Raises:
        CommandError: it cannot start; the text gives the reason and a remedy.
    """
    log_output.open_standard_streams()
    found = configuration(named)
    log_output.write_to(sys.stderr, found.log.level, found.log.format)
    log_output.log_uncaught()
    file = source(named)
    system: System | Supervised
    if workers == 1:
        system = System(found, lambda: reload_configuration(named))
    else:
        system = Supervised(reload_source(named), lambda: reload_source(named), workers)

    def ready() -> None:
        gc_tuning.settle()
        log.info("ironpost %s serves with configuration %s", release(), found.hash)
        log_output.print_lines("\n".join(_banner(system, file)))

    run(system, ready)


def run(system: System | Supervised, ready: Callable[[], None]) -> None:
    """Run a system on a new event loop.

    Raises:
        CommandError: it cannot start.
    """
    data = system.configuration.data
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(system.run(ready))
    except ListenError as error:
        raise _cannot_listen(error) from None
    except DataError as error:
        raise cannot_use(error) from None
    except (AccessError, AuthError, SourceError, TlsError) as error:
        raise CommandError(exits.CONFIGURATION, str(error)) from None
    except StoreUnusable as error:
        raise CommandError(exits.CONFIGURATION, f"{data}: {error}") from None
    except TooManyWorkers as error:
        raise CommandError(exits.USAGE, str(error)) from None
    except WorkerFailed as error:
        raise CommandError(error.code, str(error)) from None
    finally:
        log_output.flush()


def _cannot_listen(error: ListenError) -> CommandError:
    cause = error.__cause__
    assert isinstance(cause, OSError)
    if isinstance(error.place, Inherited) and cause.errno == errno.ENOENT:
        sentence = f"{error}: no socket of that name was passed\n" + (
            "the service manager that starts ironpost passes it with LISTEN_FDS, and its name with LISTEN_FDNAMES"
        )
        return CommandError(exits.UNAVAILABLE, sentence)
    if cause.errno == errno.EADDRINUSE:
        sentence = f"{error}: another program listens there\n" + (
            f"find it with: {_finder(error.place)}, or choose another address with listener.listen"
        )
        return CommandError(exits.TEMPORARY, sentence)
    if cause.errno in {errno.EACCES, errno.EPERM}:
        sentence = f"{error}: permission denied\n" + (
            "ports below 1024 need root or CAP_NET_BIND_SERVICE; choose another port with listener.listen"
        )
        return CommandError(exits.NO_PERMISSION, sentence)
    return CommandError(exits.UNAVAILABLE, f"{error}: {_reason(cause)}")


def _finder(where: Where) -> str:
    if isinstance(where, Endpoint):
        return f"ss -ltnp 'sport = :{where.port}'"
    return f"ss -lxp src {where}".replace("unix:", "")


def _reason(error: OSError) -> str:
    """Return the error's text; for errors of the resolver, which have negative numbers, the resolver's text."""
    if error.errno and error.errno > 0:
        return os.strerror(error.errno)
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    return error_text(cause)


def reload_source(named: Path | None) -> ConfigurationSource:
    """Read the configuration again, with its text for the workers."""
    file = source(named)
    if file is None:
        return ConfigurationSource(default(), None, "built-in default")
    text = read(file)
    return ConfigurationSource(parse(text, str(file), file.parent), text, str(file))


def reload_configuration(named: Path | None) -> Configuration:
    """Read the configuration again, for a reload: raises instead of exiting.

    Raises:
        ConfigError: it cannot be used.
    """
    file = source(named)
    return default() if file is None else load(file)


def _banner(system: System | Supervised, file: Path | None) -> list[str]:
    found, login = system.configuration, system.first_login
    name, password = _account(found, login)
    to = sample_recipient(found)
    origin = file or "built-in default"
    lines = [f"ironpost {release()}, {wire.IMPLEMENTATION} wire, configuration {found.hash} ({origin})"]
    tries: list[str] = []
    for listener, bound in _bound(system):
        section = found.listener[listener.listener]
        about = f"listening on {bound} for {listener.role}, {TLS_WORDS[listener.tls]}"
        if not section.takes_mail:
            lines.append(about)
            continue
        lines.append(f"{about}, {AUTH_WORDS[section.auth]}")
        if section.auth != "required":
            tries.append(f"{_try(listener, bound)} --to {to}")
        elif name:
            sender = name if "@" in name else f"{name}@{found.local.sample_domain}"
            account = f"--auth PLAIN --auth-user {name} --from {sender}{password}"
            tries.append(f"{_try(listener, bound)} {account} --to {to}")
    if not found.tls.certificates and any(listener.tls != "none" for listener in found.listener):
        lines.append(f"no certificate is configured: a self-signed one is in {found.data / 'tls'}")
    if login is not None:
        lines.append(f"created the user {login.name} with the password {login.password} (shown only once)")
        lines.append(f"change it with: ironpost user add --replace {login.name}")
    elif not name and any(listener.auth == "required" for listener in found.listener):
        lines.append(f"no user can log in yet; add one with: ironpost user add you@{found.local.sample_domain}")
    lines += [f"{'try: ' if number == 0 else 'or:  '} {line}" for number, line in enumerate(tries)]
    everywhere = EVERY in found.local.domains
    whose = "every domain" if everywhere else ", ".join(f"*@{name}" for name in found.local.domains)
    if file is None:
        lines.append("no configuration file: mail for every domain is delivered here")
    but = ", but for what [[local.delivery]] names" if found.local.delivery else ""
    lines.append(f"mail for {whose or 'postmaster'} is delivered to the Maildir {found.maildir}{but}")
    if everywhere:
        lines.append("nothing is sent to other systems")
    lines.append("stop with Ctrl-C")
    return lines


TLS_WORDS: Final = {"none": "unencrypted", "starttls": "STARTTLS", "implicit": "implicit TLS"}
AUTH_WORDS: Final = {"none": "no login", "offered": "login offered", "required": "login required"}


def _try(listener: BoundListener | ReservedAddress, bound: Endpoint | SocketPath) -> str:
    """Return the start of a command line that sends a message through one listener."""
    if isinstance(bound, Endpoint):
        words = [f"swaks --server {bound.host} --port {bound.port}"]
    else:
        words = [f"swaks --socket {bound.path}"]
    if listener.role == "lmtp":
        words.append("--protocol LMTP")
    if listener.tls == "implicit":
        words.append("--tls-on-connect")
    elif listener.tls == "starttls" and listener.role == "submission":
        words.append("--tls")
    return " ".join(words)


def _account(found: Configuration, login: InitialLogin | None) -> tuple[str, str]:
    """Return a user name for examples, and the option with its password if it is known."""
    if login is not None:
        return login.name, f" --auth-password {login.password}"
    with contextlib.suppress(UsersFileError, OSError):
        names = UsersFile(found.users).names()
        if names:
            return names[0], ""
    elsewhere = any(each is not None for each in (found.auth.database, found.auth.dovecot, found.auth.hook))
    return (f"you@{found.local.sample_domain}" if elsewhere else ""), ""


def sample_recipient(found: Configuration) -> str:
    """Return an address that the configuration accepts, for examples."""
    local = found.local
    domains = Domains(local.domains)
    for mailbox in found.mailbox:
        if mailbox.address.key in domains and not mailbox.disabled:
            return str(mailbox.address)
    for alias in found.alias:
        local_part, _, domain = (alias.address or "").rpartition("@")
        if domain in domains:
            return f"{local_part or 'you'}@{domain}"
    if not found.lists_addresses:
        return f"you@{local.sample_domain}"
    for each in local.recipients or ():
        local_part, _, domain = each.rpartition("@")
        sample = local.sample_domain if domain == EVERY else LocalSection(domains=(domain,)).sample_domain
        if sample in domains:
            return f"{'you' if local_part == EVERY else local_part}@{sample}"
    return f"postmaster@{local.sample_domain}" if local.domains else "postmaster"  # RFC 5321 §4.5.1


def _bound(system: System | Supervised) -> Iterator[tuple[BoundListener | ReservedAddress, Endpoint | SocketPath]]:
    for listener in system.listeners:
        for bound in listener.bound:
            yield listener, bound
