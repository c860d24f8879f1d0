"""CPU time per message of stock aiosmtpd, smtplib and aiosmtplib, with our wire underneath, and of our
replacements of the two clients.

    python benches/load/compat.py [--rounds N]

One process serves or sends, and reports its own user and system time; this one is the other side, on one connection;
as a client it does not pipeline. The time of a run without messages is subtracted. The variants take turns, and the
median is printed. The server counts the octets of content, and so does the receiver of a client, which offers
PIPELINING.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import statistics
import subprocess
import sys
import threading
from time import process_time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = {1_000: 2000, 100_000: 200, 10_000_000: 8}
"""Octets of content, to the number of messages of a run."""
START = (b"MAIL FROM:<ada@mail.example>\r\n", b"RCPT TO:<jo@mx.example>\r\n", b"DATA\r\n")
ANSWERS = {b"EHLO": b"250-mx.example\r\n250 PIPELINING\r\n", b"DATA": b"354 go\r\n", b"QUIT": b"221 bye\r\n"}


def content(size: int) -> bytes:
    """Content of that size in lines of 74 octets, the last one shorter or longer; every tenth starts with a dot."""
    lines = [b"." * (number % 10 == 0) + b"x" * (72 - (number % 10 == 0)) + b"\r\n" for number in range(size // 74)]
    return b"".join(lines) + b"y" * (size % 74) + b"\r\n"


VARIANTS = {
    "aiosmtpd": ("stock", "wire"),
    "smtplib": ("stock", "wire", "ours"),
    "aiosmtplib": ("stock", "wire", "ours"),
}


def install(library: str, variant: str) -> None:
    """Put the wire under the library, or our replacement into its place."""
    from ironpost.compat import aliases, backends

    if variant == "wire":
        backends.install(library)
    elif variant == "ours":
        aliases.install(library)


def serve_aiosmtpd() -> None:
    """Serve until standard input ends; print the CPU time, and the octets of content."""
    from aiosmtpd.smtp import SMTP

    octets = 0

    class Handler:
        async def handle_DATA(self, _server, _session, envelope):  # noqa: N802 - aiosmtpd's name
            nonlocal octets
            octets += len(envelope.content)
            return "250 OK"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: SMTP(Handler(), hostname="mx.example"), "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await loop.run_in_executor(None, sys.stdin.read)

    SMTP.__init__.__kwdefaults__["data_size_limit"] = None
    asyncio.run(main())
    print(process_time(), octets)


def send_smtplib(port: int, count: int, octets: bytes) -> None:
    """Send messages on one connection; print the CPU time."""
    import smtplib

    with smtplib.SMTP("127.0.0.1", port) as client:
        for _ in range(count):
            client.sendmail("ada@mail.example", ["jo@mx.example"], octets)
    print(process_time())


def send_aiosmtplib(port: int, count: int, octets: bytes) -> None:
    """Send messages on one connection; print the CPU time."""
    import aiosmtplib

    async def main() -> None:
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False) as client:
            for _ in range(count):
                await client.sendmail("ada@mail.example", ["jo@mx.example"], octets)

    asyncio.run(main())
    print(process_time())


def server_run(variant: str, size: int, count: int) -> float:
    """CPU seconds of aiosmtpd for `count` messages."""
    octets = content(size)
    stuffed = octets.replace(b"\r\n.", b"\r\n..")
    stuffed = b"." * stuffed.startswith(b".") + stuffed + b".\r\n"
    command = [sys.executable, __file__, "--child", "aiosmtpd", variant]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        with socket.create_connection(("127.0.0.1", int(server.stdout.readline()))) as client:
            replies = client.makefile("rb")
            for step in (None, b"HELO client.example\r\n", *(*START, stuffed) * count, b"QUIT\r\n"):
                if step:
                    client.sendall(step)
                reply = replies.readline()
                assert reply[:1] in b"23", reply
        seconds, seen = server.communicate()[0].split()
    assert int(seen) == len(octets) * count, (seen, len(octets) * count)
    return float(seconds)


def client_run(library: str, variant: str, size: int, count: int) -> float:
    """CPU seconds of a client for `count` messages."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ends = []
        receiver = threading.Thread(target=lambda: ends.append(receive(listener)))
        receiver.start()
        command = [sys.executable, __file__, "--child", library, variant]
        command += [str(listener.getsockname()[1]), str(size), str(count)]
        seconds = float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
        receiver.join()
    assert ends == [count * len(content(size))], ends
    return seconds


def receive(listener: socket.socket) -> int:
    """Accept mail on one connection; return the number of octets of content.

    Commands that arrived together are answered together (RFC 2920 §3.2).
    """
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    received, in_content, rest, replies = 0, False, b"", [b"220 mx.example\r\n"]
    with connection:
        while True:
            connection.sendall(b"".join(replies))
            replies.clear()
            octets = connection.recv(1 << 18)
            if not octets:
                return received
            *lines, rest = (rest + octets).split(b"\r\n")
            for line in lines:
                if in_content and line != b".":
                    received += len(line) + len(b"\r\n") - line.startswith(b".")
                    continue
                verb = line[:4].upper()
                in_content = verb == b"DATA"
                replies.append(ANSWERS.get(verb, b"250 OK\r\n"))


def per_message(run: Callable[[str, int, int], float], variant: str, size: int) -> float:
    """CPU milliseconds per message."""
    return (run(variant, size, SIZES[size]) - run(variant, size, 0)) / SIZES[size] * 1000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        library, variant, *rest = options.child
        install(library, variant)
        if library == "aiosmtpd":
            serve_aiosmtpd()
        else:
            port, size, count = map(int, rest)
            {"smtplib": send_smtplib, "aiosmtplib": send_aiosmtplib}[library](port, count, content(size))
        return
    print(f"{'library':<12}{'octets':>12}{'stock, ms':>12}{'wire, ms':>12}{'ours, ms':>12}   ratios")
    for library, variants in VARIANTS.items():
        run = server_run if library == "aiosmtpd" else lambda *what, library=library: client_run(library, *what)
        for size in SIZES:
            rounds = [[per_message(run, variant, size) for variant in variants] for _ in range(options.rounds)]
            found = [statistics.median(each) for each in zip(*rounds, strict=True)]
            figures = "".join(f"{each:>12.3f}" for each in found)
            ratios = "  ".join(f"{each / found[0]:.2f}" for each in found[1:])
            print(f"{library:<12}{size:>12,}{figures:<36}   {ratios}", flush=True)


if __name__ == "__main__":
    main()
