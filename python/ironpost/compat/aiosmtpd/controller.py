"""aiosmtpd's controllers: servers in a thread, or in the event loop of the program.

Promises: `start` returns when the server accepts connections, and raises what keeps it from that; `stop` ends the
connections and the thread.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
import threading
import time
import warnings
from abc import ABCMeta, abstractmethod
from contextlib import ExitStack, suppress
from socket import AF_INET6, SOCK_STREAM, create_connection, has_ipv6
from socket import socket as makesock
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from ironpost.compat.aiosmtpd.smtp import SMTP
from ironpost.server.event_loop import new_event_loop

try:
    from socket import AF_UNIX
except ImportError:  # Windows
    AF_UNIX = None  # type: ignore[assignment,misc]

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

DEFAULT_READY_TIMEOUT: float = 5.0
TRIGGER: Final = 1024
"""Octets of the greeting that are read to see that the server is up."""
LATE: Final = "This might happen if the system is too busy. Try increasing the `ready_timeout` parameter."


class IP6_IS:  # noqa: N801 - aiosmtpd's name
    """Errors of binding to `::1`, by what they say about IPv6."""

    NO: Final = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
    YES: Final = {errno.EADDRINUSE}


def _has_ipv6() -> bool:
    return has_ipv6


def get_localhost() -> str:
    """Return the address of this machine: `::1` if it has IPv6, else `127.0.0.1`.

    Raises:
        OSError: neither can be told.
    """
    if not _has_ipv6():
        return "127.0.0.1"
    try:
        with makesock(AF_INET6, SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError as error:
        if error.errno in IP6_IS.NO:
            return "127.0.0.1"
        if error.errno not in IP6_IS.YES:
            raise
    return "::1"


def _server_to_client_ssl_ctx(server_ctx: ssl.SSLContext) -> ssl.SSLContext:
    """Return a context with which the controller connects to its own server."""
    context = ssl.create_default_context()
    context.options = server_ctx.options
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class _FakeServer(asyncio.Protocol):
    """The protocol of a connection for which the factory raised."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop


class BaseController(metaclass=ABCMeta):
    """What all controllers share."""

    smtpd: Any = None
    """The protocol of the latest connection."""
    server: asyncio.AbstractServer | None = None
    server_coro: Any = None
    _thread_exception: Exception | None = None

    def __init__(
        self,
        handler: Any,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        **SMTP_parameters: Any,  # noqa: N803 - aiosmtpd's name
    ) -> None:
        """See aiosmtpd's documentation."""
        self.handler = handler
        self.loop = asyncio.new_event_loop() if loop is None else loop
        self.ssl_context = ssl_context
        self.SMTP_kwargs: dict[str, Any] = {}
        if "server_kwargs" in SMTP_parameters:
            warnings.warn(
                "server_kwargs will be removed in version 2.0. Just specify the keyword arguments to forward to SMTP "
                "as kwargs to this __init__ method.",
                DeprecationWarning,
                stacklevel=2,
            )
            self.SMTP_kwargs = SMTP_parameters.pop("server_kwargs")
        self.SMTP_kwargs.update(SMTP_parameters)
        if server_hostname:
            self.SMTP_kwargs["hostname"] = server_hostname
        self.SMTP_kwargs.setdefault("enable_SMTPUTF8", True)
        self._factory_invoked = threading.Event()
        self._protocols: WeakSet[Any] = WeakSet()

    def factory(self) -> Any:
        """Return the protocol for one connection; to be overridden by programs with their own."""
        return SMTP(self.handler, **self.SMTP_kwargs)

    def _factory_invoker(self) -> Any:
        """Call `factory`, and keep what it raises for `start`."""
        try:
            self.smtpd = self.factory()
            if self.smtpd is None:
                raise RuntimeError("factory() returned None")
        except Exception as error:  # noqa: BLE001 - `start` raises it
            self._thread_exception = error
            return _FakeServer(self.loop)
        else:
            self._protocols.add(self.smtpd)
            return self.smtpd
        finally:
            self._factory_invoked.set()

    @abstractmethod
    def _create_server(self) -> Awaitable[asyncio.AbstractServer]:
        """Return what creates the server, with `_factory_invoker` as its factory."""

    def _cleanup(self) -> None:
        self._thread_exception = None
        self._factory_invoked.clear()
        self.server_coro = None
        self.server = None
        self.smtpd = None

    def cancel_tasks(self, stop_loop: bool = True) -> None:
        """End all connections and cancel all tasks of the loop, in its thread; stop it, too."""
        if stop_loop:
            self.loop.stop()
        for protocol in list(self._protocols):
            if (transport := getattr(protocol, "transport", None)) is not None:
                transport.abort()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()


class BaseThreadedController(BaseController, metaclass=ABCMeta):
    """A server in a thread with an event loop."""

    _thread: threading.Thread | None = None

    def __init__(
        self,
        handler: Any,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        ready_timeout: float = DEFAULT_READY_TIMEOUT,
        **kwargs: Any,
    ) -> None:
        """Create a server; without a `loop` it gets one of uvloop where that is installed.

        `ready_timeout`, in seconds, can be overridden by the environment variable AIOSMTPD_CONTROLLER_TIMEOUT.
        """
        super().__init__(handler, new_event_loop() if loop is None else loop, **kwargs)
        self.ready_timeout = float(os.getenv("AIOSMTPD_CONTROLLER_TIMEOUT", str(ready_timeout)))

    @abstractmethod
    def _trigger_server(self) -> None:
        """Connect to the server, so that it calls the factory."""

    def _run(self, ready_event: threading.Event) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.server_coro = self._create_server()
            self.server = self.loop.run_until_complete(self.server_coro)
        except Exception as error:  # noqa: BLE001 - `start` raises it
            self._thread_exception = error
            ready_event.set()
            return
        self.loop.call_soon(ready_event.set)
        self.loop.run_forever()
        self.server.close()
        self.loop.run_until_complete(self.server.wait_closed())
        self.loop.close()
        self.server = None

    def start(self) -> None:
        """Start the thread, and wait until the server accepts connections.

        Raises:
            TimeoutError: it did not within `ready_timeout`.
            Exception: what the server or the factory raised.
        """
        assert self._thread is None, "SMTP daemon already running"
        self._factory_invoked.clear()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        started = time.monotonic()
        if not ready.wait(self.ready_timeout):
            raise TimeoutError(f"SMTP server failed to start within allotted time. {LATE}")
        if self._thread_exception is not None:
            raise self._thread_exception
        left = self.ready_timeout - (time.monotonic() - started)
        with suppress(TimeoutError):  # the greeting is slow, but the factory may have been called
            self._trigger_server()
        if not self._factory_invoked.wait(left):
            raise TimeoutError(f"SMTP server started, but not responding within allotted time. {LATE}")
        if self._thread_exception is not None:
            raise self._thread_exception
        if self.smtpd is None:
            raise RuntimeError("Unknown Error, failed to init SMTP server")

    def stop(self, no_assert: bool = False) -> None:
        """Stop the server, its tasks and its thread."""
        assert no_assert or self._thread is not None, "SMTP daemon not running"
        self.loop.call_soon_threadsafe(self.cancel_tasks)
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._cleanup()


class BaseUnthreadedController(BaseController, metaclass=ABCMeta):
    """A server in the event loop of the program."""

    def __init__(self, handler: Any, loop: asyncio.AbstractEventLoop | None = None, **kwargs: Any) -> None:
        """See aiosmtpd's documentation."""
        super().__init__(handler, loop, **kwargs)
        self.ended = threading.Event()

    def begin(self) -> None:
        """Create the server; the program runs the loop."""
        asyncio.set_event_loop(self.loop)
        self.server_coro = self._create_server()
        self.server = self.loop.run_until_complete(self.server_coro)

    async def finalize(self) -> None:
        """Close the server."""
        self.ended.clear()
        assert self.server is not None
        self.server.close()
        await self.server.wait_closed()
        self.server_coro.close()
        self._cleanup()
        self.ended.set()

    def end(self) -> None:
        """Call `finalize`, from the thread of the loop; `ended` is set when it is done."""
        self.ended.clear()
        if self.loop.is_running():
            self._finalizing = self.loop.create_task(self.finalize())
        else:
            self.loop.run_until_complete(self.finalize())


class InetMixin(BaseController, metaclass=ABCMeta):
    """A server at an address and a port."""

    def __init__(
        self,
        handler: Any,
        hostname: str | None = None,
        port: int = 8025,
        loop: asyncio.AbstractEventLoop | None = None,
        **kwargs: Any,
    ) -> None:
        """See aiosmtpd's documentation."""
        super().__init__(handler, loop, **kwargs)
        self._localhost = get_localhost()
        self.hostname = self._localhost if hostname is None else hostname
        self.port = port

    def _create_server(self) -> Awaitable[asyncio.AbstractServer]:
        return self.loop.create_server(self._factory_invoker, host=self.hostname, port=self.port, ssl=self.ssl_context)

    def _trigger_server(self) -> None:
        with ExitStack() as stack:
            sock = stack.enter_context(create_connection((self.hostname or self._localhost, self.port), 1.0))
            if self.ssl_context:
                context = _server_to_client_ssl_ctx(self.ssl_context)
                sock = stack.enter_context(context.wrap_socket(sock))
            sock.recv(TRIGGER)


class UnixSocketMixin(BaseController, metaclass=ABCMeta):
    """A server at a Unix socket."""

    def __init__(
        self,
        handler: Any,
        unix_socket: str | Path,
        loop: asyncio.AbstractEventLoop | None = None,
        **kwargs: Any,
    ) -> None:
        """See aiosmtpd's documentation."""
        super().__init__(handler, loop, **kwargs)
        self.unix_socket = str(unix_socket)

    def _create_server(self) -> Awaitable[asyncio.AbstractServer]:
        return self.loop.create_unix_server(self._factory_invoker, path=self.unix_socket, ssl=self.ssl_context)

    def _trigger_server(self) -> None:
        with ExitStack() as stack:
            sock = stack.enter_context(makesock(AF_UNIX, SOCK_STREAM))
            sock.connect(self.unix_socket)
            if self.ssl_context:
                context = _server_to_client_ssl_ctx(self.ssl_context)
                sock = stack.enter_context(context.wrap_socket(sock))
            sock.recv(TRIGGER)


class Controller(InetMixin, BaseThreadedController):
    """A server in a thread, at an address and a port."""


class UnixSocketController(UnixSocketMixin, BaseThreadedController):
    """A server in a thread, at a Unix socket."""


class UnthreadedController(InetMixin, BaseUnthreadedController):
    """A server in the loop of the program, at an address and a port."""


class UnixSocketUnthreadedController(UnixSocketMixin, BaseUnthreadedController):
    """A server in the loop of the program, at a Unix socket."""
