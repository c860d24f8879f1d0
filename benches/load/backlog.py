"""Queues with much to deliver, beside Postfix and Exim.

    python benches/load/backlog.py recipients [--recipients 10000] [--domains 1000]
    python benches/load/backlog.py returns [--messages 100000]

`recipients` submits one message for all of these recipients, at most 1,000 in a transaction, and waits until a receiver
has them all. `returns` queues messages while their receiver is down, then starts it, and waits until it has them all;
each server tries again every `RETRY` seconds. All send to the receiver as a smart host. One server at a time.

Printed are seconds, recipients (or messages) a second, CPU milliseconds for each, and the transactions or connections
that the receiver has seen.
"""

from __future__ import annotations

import argparse
import smtplib
import tempfile
import time
from pathlib import Path

from contestants import RETRY, Contestant, CountError, Receiver, build, entrants
from measure import STALL
from sources import Load, burst

MOST = 1000
"""Recipients of a transaction."""
PORTION = 5000
"""Messages that the driver sends at a time."""


def submit(port: int, recipients: list[str]) -> None:
    """Sends one message in as few transactions as possible.

    Raises:
        smtplib.SMTPException: a reply was wrong.
    """
    text = b"From: <ada@load.example>\r\nSubject: news\r\n\r\n" + b"A line of a newsletter.\r\n" * 100
    with smtplib.SMTP("127.0.0.1", port) as client:
        for start in range(0, len(recipients), MOST):
            refused = client.sendmail("ada@load.example", recipients[start : start + MOST], text)
            if refused:
                raise CountError(f"{len(refused)} recipients were refused")


def await_all(receiver: Receiver, position: int, wanted: int) -> float:
    """Waits until a count of the receiver (`Receiver.counts`) is complete; the time of that.

    Raises:
        CountError: nothing arrived for `STALL` seconds, or too much did.
    """
    last, since = -1, time.perf_counter()
    while True:
        found, now = receiver.counts[position], time.perf_counter()
        if found > wanted:
            raise CountError(f"{found} arrived, but only {wanted} were sent")
        if found == wanted:
            return now
        if found != last:
            last, since = found, now
        if now - since > STALL:
            raise CountError(f"{wanted} were accepted, but only {found} arrived")
        time.sleep(0.02)


def price(cpu: float, seconds: float, count: int) -> str:
    """What this many took."""
    return f"{seconds:.2f} s | {count / seconds:,.0f}/s | {cpu / count * 1000:.3f} ms"


def newsletter(server: Contestant, folder: Path, asked: argparse.Namespace) -> str:
    """One message for many recipients."""
    receiver = server.receiver
    assert receiver is not None
    server.start(folder)
    recipients = [f"reader{number}@d{number % asked.domains}.example" for number in range(asked.recipients)]
    cpu, start = server.cpu(), time.perf_counter()
    submit(server.port, recipients)
    accepted = time.perf_counter() - start
    seconds = await_all(receiver, 1, asked.recipients) - start
    each = (server.cpu() - cpu) / asked.recipients * 1000
    rate = asked.recipients / seconds
    return (
        f"accepted after {accepted:.2f} s | {seconds:.2f} s | {rate:,.0f}/s | {each:.3f} ms | {receiver.count} copies"
    )


def returning(server: Contestant, folder: Path, asked: argparse.Namespace) -> str:
    """A backlog whose receiver comes back."""
    receiver, server.receiver = server.receiver, None
    assert receiver is not None
    server.start(folder)
    load = Load(server.port, 1000, to="grace@elsewhere.example")
    for begun in range(0, asked.messages, PORTION):
        burst("own", load, min(PORTION, asked.messages - begun))
    time.sleep(2 * RETRY)  # until all of it was deferred
    cpu, start = server.cpu(), time.perf_counter()
    receiver.start(folder)
    server.receiver = receiver
    seconds = await_all(receiver, 0, asked.messages) - start
    cost = price(server.cpu() - cpu, seconds, asked.messages)
    return f"{asked.messages} messages | {cost} | {receiver.counts[2]} connections"


def main() -> None:
    """Makes one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["recipients", "returns"])
    parser.add_argument("--recipients", type=int, default=10_000)
    parser.add_argument("--domains", type=int, default=1000)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--servers", nargs="*", default=[], metavar="NAMES")
    asked = parser.parse_args()
    work = newsletter if asked.what == "recipients" else returning
    for name in entrants("relay", asked.servers):
        with tempfile.TemporaryDirectory(prefix="ironpost-load-") as folder:
            server = build("relay", name, Path(folder))
            try:
                print(f"| {name} | {work(server, Path(folder), asked)} |", flush=True)
            except CountError as error:
                print(f"| {name} | {error} |", flush=True)
            finally:
                server.stop()


if __name__ == "__main__":
    main()
