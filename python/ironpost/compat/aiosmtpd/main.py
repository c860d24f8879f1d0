"""aiosmtpd's command: `python -m ironpost.compat.aiosmtpd -n -l 127.0.0.1:8025`.

Promises: options, messages and defaults are aiosmtpd's. Refuses: wrong arguments, with a message and status 2.
"""

from __future__ import annotations

import logging
import os
import signal
import ssl
import sys
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ironpost.compat.aiosmtpd import __version__, _get_or_new_eventloop
from ironpost.compat.aiosmtpd.smtp import DATA_SIZE_DEFAULT, SMTP

try:
    import pwd
except ImportError:  # Windows
    pwd = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_HOST: Final = "localhost"
DEFAULT_PORT: Final = 8025
DEFAULT_CLASS: Final = "aiosmtpd.handlers.Debugging"
"""The handlers of aiosmtpd are those of this package."""
PROGRAM = "aiosmtpd" if "__main__.py" in sys.argv[0] else sys.argv[0]


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog=PROGRAM, description="An RFC 5321 SMTP server with extensions.")
    add = parser.add_argument
    add("-v", "--version", action="version", version=f"%(prog)s {__version__}")
    add(
        "-n",
        "--nosetuid",
        dest="setuid",
        default=True,
        action="store_false",
        help="Do not become the user nobody, which only root can.",
    )
    add(
        "-c",
        "--class",
        dest="classpath",
        metavar="CLASSPATH",
        default=DEFAULT_CLASS,
        help=f"The class of the handler, as module.name. Default: {DEFAULT_CLASS}.",
    )
    add(
        "-s",
        "--size",
        metavar="SIZE",
        type=int,
        help=f"Maximum octets of a message (SIZE, RFC 1870), such as {DATA_SIZE_DEFAULT:,}.",
    )
    add("-u", "--smtputf8", default=False, action="store_true", help="Offer SMTPUTF8 (RFC 6531).")
    add("-d", "--debug", default=0, action="count", help="Log more; may be given three times.")
    add(
        "-l",
        "--listen",
        metavar="[HOST][:PORT]",
        nargs="?",
        default=None,
        help=f"The address to listen on. Default: {DEFAULT_HOST}:{DEFAULT_PORT}.",
    )
    for kind, name in (("smtps", "implicit TLS"), ("tls", "STARTTLS")):
        add(f"--{kind}cert", metavar="CERTFILE", type=Path, help=f"The certificate for {name}.")
        add(f"--{kind}key", metavar="KEYFILE", type=Path, help=f"The private key for {name}.")
    add(
        "--no-requiretls",
        dest="requiretls",
        default=True,
        action="store_false",
        help="Accept mail without STARTTLS although there is a certificate for it.",
    )
    add("classargs", metavar="CLASSARGS", nargs="*", default=(), help="Arguments of the handler.")
    return parser


def parseargs(args: Sequence[str] | None = None) -> tuple[ArgumentParser, Namespace]:
    """Return the parser, and the arguments with `handler`, `host` and `port`."""
    parser = _parser()
    parsed = parser.parse_args(args)
    parsed.handler = _handler(parser, parsed.classpath, parsed.classargs)
    parsed.host, parsed.port = _address(parser, parsed.listen)
    for kind in ("smtps", "tls"):
        certificate, key = getattr(parsed, f"{kind}cert"), getattr(parsed, f"{kind}key")
        if bool(certificate) != bool(key):
            parser.error(f"--{kind}cert and --{kind}key must be specified together")
        if certificate and not certificate.exists():
            parser.error(f"Cert file {certificate} not found")
        if key and not key.exists():
            parser.error(f"Key file {key} not found")
    return parser, parsed


def _handler(parser: ArgumentParser, classpath: str, arguments: Sequence[str]) -> Any:
    path, _, name = classpath.rpartition(".")
    if path == "aiosmtpd.handlers":
        path = f"{__package__}.handlers"
    try:
        cls = getattr(import_module(path), name)
    except (ImportError, ValueError, AttributeError) as error:
        parser.error(f"cannot load the handler {classpath}: {error}")
    if hasattr(cls, "from_cli"):
        return cls.from_cli(parser, *arguments)
    if arguments:
        parser.error(f"Handler class {path} takes no arguments")
    return cls()


def _address(parser: ArgumentParser, listen: str | None) -> tuple[str, int]:
    if listen is None:
        return DEFAULT_HOST, DEFAULT_PORT
    host, colon, port = listen.rpartition(":")
    if not colon:
        return port, DEFAULT_PORT
    try:
        return host or DEFAULT_HOST, int(port or DEFAULT_PORT)
    except ValueError:
        parser.error(f"Invalid port number: {port}")


def _context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None or key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


def _become_nobody() -> None:
    if pwd is None:
        print('Cannot import module "pwd"; try running with -n option.', file=sys.stderr)
        sys.exit(1)
    try:
        os.setuid(pwd.getpwnam("nobody").pw_uid)
    except PermissionError:
        print('Cannot setuid "nobody"; try running with -n option.', file=sys.stderr)
        sys.exit(1)


def main(args: Sequence[str] | None = None) -> None:
    """Serve until SIGINT."""
    _, ns = parseargs(args)
    if ns.setuid:
        _become_nobody()
    factory = partial(
        SMTP,
        ns.handler,
        data_size_limit=ns.size,
        enable_SMTPUTF8=ns.smtputf8,
        tls_context=_context(ns.tlscert, ns.tlskey),
        require_starttls=ns.requiretls,
    )
    logging.basicConfig(level=logging.ERROR)
    log = logging.getLogger("mail.log")
    loop = _get_or_new_eventloop()
    if ns.debug > 0:
        log.setLevel(logging.INFO if ns.debug == 1 else logging.DEBUG)
    if ns.debug > 2:
        loop.set_debug(enabled=True)
    log.debug("Attempting to start server on %s:%s", ns.host, ns.port)
    smtps = _context(ns.smtpscert, ns.smtpskey)
    server = loop.run_until_complete(loop.create_server(factory, host=ns.host, port=ns.port, ssl=smtps))
    log.info("Server is listening on %s:%s", ns.host, ns.port)
    with suppress(NotImplementedError):  # Windows
        loop.add_signal_handler(signal.SIGINT, loop.stop)
    log.debug("Starting asyncio loop")
    with suppress(KeyboardInterrupt):
        loop.run_forever()
    server.close()
    log.debug("Completed asyncio loop")
    loop.run_until_complete(server.wait_closed())
    loop.close()
