"""`check`: validate a configuration and the files it names, without the running system.

Promises: reports every problem it finds, one line each; changes nothing, opens no listener, queries no DNS. The
operator's hook is loaded, as by the server. Settings that are allowed but probably a mistake are warnings (`advice`).
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import stat
import time
from typing import TYPE_CHECKING

import typer

from ironpost.accounts.record_sources import SourceContext
from ironpost.cli import exits
from ironpost.cli.advice import remarks
from ironpost.cli.app import CommandError
from ironpost.cli.refusals import cannot_use
from ironpost.cli.settings import configuration, source
from ironpost.compose.auth import AuthError, sources
from ironpost.compose.data_lock import DataError, used
from ironpost.compose.directory import SourceError, opened_sources
from ironpost.config.quantities import SocketPath
from ironpost.operations.control_socket import reachable
from ironpost.processes.clock import SystemClock
from ironpost.server.tls import TlsError, trust
from ironpost.storage.lock import refuse_unfinished
from ironpost.storage.ownership import refuse_exposed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ironpost.config import Configuration


def check(named: Path | None) -> None:
    """Read a configuration and the files that it names, and report problems.

    Warnings go to standard error, and do not change the exit code.

    Raises:
        CommandError: the configuration cannot be used.
    """
    found = configuration(named)
    logging.getLogger("ironpost").setLevel(logging.ERROR)  # its warnings are among the remarks
    problems = list(_problems(found))
    warnings: list[str] = []
    try:
        warnings = remarks(found, time.time())
    except TlsError as error:
        problems.append(CommandError(exits.CONFIGURATION, str(error)))
    file = source(named) or "built-in default"
    for warning in warnings:
        typer.echo(f"{file}: warning: {warning}", err=True)
    if problems:
        raise CommandError(problems[0].code, "\n".join(str(each) for each in problems))
    typer.echo(f"{file}: good (configuration {found.hash})")


def _problems(found: Configuration) -> Iterator[CommandError]:
    try:
        _data(found)
    except DataError as error:
        yield cannot_use(error)
        return  # accounts and mail are there by default
    for number, listener in enumerate(found.listener, 1):
        for where in listener.listen:
            if isinstance(where, SocketPath) and (why := _occupied(where.path)):
                yield CommandError(exits.CONFIGURATION, f"listener[{number}].listen: {where.path}: {why}")
    for key, path in (
        ("tls.client_ca", found.tls.client_ca),
        ("delivery.ca", found.delivery.ca),
        ("http.ca", found.http.ca),
    ):
        if path is not None:
            try:
                trust(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), path)
            except TlsError as error:
                yield CommandError(exits.CONFIGURATION, f"{key}: {error}")
    yield from _routes(found)
    yield from _local(found)
    yield from _dkim(found)
    for opened in opened_sources(found, SourceContext(SystemClock(), found.folder)):
        if isinstance(opened, SourceError):
            yield CommandError(exits.CONFIGURATION, str(opened))
    if found.auth.model_fields_set or any(listener.auth != "none" for listener in found.listener):
        try:
            sources(found)
        except AuthError as error:
            yield CommandError(exits.CONFIGURATION, str(error))


def _routes(found: Configuration) -> Iterator[CommandError]:
    if not any(route.profile() for route in found.route):
        return  # the imports are slow
    from ironpost.compose.delivery import route_accesses
    from ironpost.delivery.access import AccessError, Accesses

    for access in route_accesses(found, Accesses(found.delivery.ca)):
        if isinstance(access, AccessError):
            yield CommandError(exits.CONFIGURATION, str(access))


def _local(found: Configuration) -> Iterator[CommandError]:
    local = found.local
    named = (local.delivery, local.maildir, found.directory.forward_files, found.sendmail.directory)
    if not any(named):
        return  # the imports are slow
    from ironpost.compose.delivery import local_errors

    for error in local_errors(found):
        yield CommandError(exits.CONFIGURATION, str(error))


def _dkim(found: Configuration) -> Iterator[CommandError]:
    if not found.dkim:
        return  # the imports are slow
    from ironpost.compose.signing import dkim_keys
    from ironpost.delivery.access import AccessError

    for key in dkim_keys(found):
        if isinstance(key, AccessError):
            yield CommandError(exits.CONFIGURATION, str(key))


def _data(found: Configuration) -> None:
    with used(found.data):
        reachable(found.control)
        with contextlib.suppress(FileNotFoundError):  # created at start
            if not stat.S_ISDIR(found.data.stat().st_mode):
                raise NotADirectoryError
            refuse_exposed(found.data)
            refuse_unfinished(found.data)


def _occupied(path: Path) -> str:
    """Return why no socket can be created there; empty if one can, or if that is unknown."""
    try:
        return "" if stat.S_ISSOCK(path.lstat().st_mode) else "a file that is not a socket is in the way"
    except OSError:
        return ""
