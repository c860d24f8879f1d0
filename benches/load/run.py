"""Whole servers under load, beside servers that this project did not write, in one run.

    python benches/load/run.py matrix      sizes from 1 KB to 10 MB, plain and TLS, discarded and durable
    python benches/load/run.py relay       the same sizes, plain and TLS, passed on to a receiver that counts
    python benches/load/run.py verify      from 1 KB to 100 KB, durable once SPF, DKIM and DMARC are checked
    python benches/load/run.py sign        the same sizes, signed twice and passed on to a receiver that counts
    python benches/load/run.py mailbox     the same sizes, delivered into one Maildir
    python benches/load/run.py handshakes  TLS connections, one after the other
    python benches/load/run.py outbound    relay with a TLS connection for each message, resumed or not
    python benches/load/run.py idle        memory of connections that only stay open

In bursts, all servers are up and take turns in each round: `--rounds` of about `--seconds`. With `--sustain SECONDS`
each case runs for that long on one server at a time, which is started fresh, alone, and whose data is deleted before
the next one starts; a run for which the disk has no room is refused. Data goes where TMPDIR says.

`--driver` chooses what sends: `own` (driver.py) or `smtp-source` (Postfix's). `--only WORDS` takes the cases whose line
holds all the words, such as `--only durable plain reuse "100 KB"`; `--servers NAMES` takes those servers only. `--json
FILE` keeps every measurement.

Printed are messages a second and CPU milliseconds a message: of the server with all its processes, of the driver, and
of the receiver that a relay delivers to; the last column is our server's CPU divided by its. Bursts print medians;
sustained runs print the slowest and the median interval of 10 s beside the mean.
"""

from __future__ import annotations

import argparse
import json
import smtplib
import statistics
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from contestants import OUTBOUND, Contestant, CountError, Receiver, build, entrants
from measure import Case, Figure, burst, calibrate
from sources import DRIVER, LoadError, able
from sustained import NoRoomError, sustain

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
HANDSHAKES = 300
"""Of one measurement."""


def compare(servers: list[Contestant], case: Case, asked: argparse.Namespace) -> list[Figure]:
    """Rounds over all servers that can take part."""
    counts: dict[str, int] = {}
    for server in servers:
        if case.tls == "no" or server.tls:
            try:
                counts[server.name], _ = calibrate(asked.driver, server, case, asked.seconds)
            except LoadError as error:
                print(f"left out: {error}", file=sys.stderr)
    figures = [
        burst(asked.driver, server, case, counts[server.name])
        for _ in range(asked.rounds)
        for server in servers
        if server.name in counts
    ]
    report(case, figures)
    return figures


def in_turn(what: str, case: Case, asked: argparse.Namespace) -> list[Figure]:
    """One server after the other, each alone."""
    figures: list[Figure] = []
    for name in entrants(what, asked.servers):
        try:
            figures.append(sustain(asked.driver, name, case, asked.sustain))
        except LoadError as error:
            print(f"left out: {error}", file=sys.stderr)
    report(case, figures)
    return figures


def heading(asked: argparse.Namespace) -> None:
    """The first two lines of the table."""
    rates = "messages/s | slowest interval | median interval" if asked.sustain else "messages/s"
    line = f"| case | server | {rates} | CPU ms, server | driver | receiver | ours / its |"
    print(line, "|" + "---|" * (line.count("|") - 1), sep="\n", flush=True)


def report(case: Case | str, figures: list[Figure]) -> None:
    """The medians of one case as a table's rows."""
    rows: dict[str, list[Figure]] = {}
    for figure in figures:
        rows.setdefault(figure.server, []).append(figure)
    cost = {name: statistics.median(figure.cpu for figure in found) for name, found in rows.items()}
    for name, found in rows.items():
        cells = [f"{statistics.median(figure.rate for figure in found):,.4g}"]
        if rates := [rate for figure in found for rate in figure.rates]:
            cells += [f"{min(rates):,.4g}", f"{statistics.median(rates):,.4g}"]
        cells.append(f"{cost[name]:.3g}")
        cells.append(f"{statistics.median(figure.driver_cpu for figure in found):.3g}")
        received = statistics.median(figure.receiver_cpu for figure in found)
        cells.append(f"{received:.3g}" if received else "-")
        compared = name != "ironpost" and "ironpost" in cost and cost[name]
        cells.append(f"{cost['ironpost'] / cost[name]:.2f}" if compared else "")
        print(f"| {case} | {name} | {' | '.join(cells)} |", flush=True)


@contextmanager
def running(what: str, names: list[str], folder: Path) -> Iterator[list[Contestant]]:
    """The servers, up; stopped and checked at the end."""
    servers = [build(what, name, folder) for name in names]
    started: list[Contestant] = []
    try:
        for server in servers:
            started.append(server)
            server.start(folder)
        yield started
    finally:
        for server in started:
            server.stop()
    for server in started:
        server.check()


def cases(what: str) -> list[Case]:
    """Reused connections at every size; a connection each and full pipelining where they matter, at 1 KB."""
    found = []
    for tls in ("no", "starttls"):
        found += [Case(what, tls, "reuse", size) for size in SIZES]
        found.append(Case(what, tls, "conn", SIZES[0]))
        found.append(Case(what, tls, "pipelined", SIZES[0]))
    return found


def wanted(case: Case, asked: argparse.Namespace) -> bool:
    """Whether it was asked for, and the driver can send it."""
    return all(word in str(case) for word in asked.only) and able(asked.driver, case.way, case.tls)


def measure(what: str, chosen: list[Case], asked: argparse.Namespace, folder: Path) -> list[Figure]:
    """The chosen cases, in bursts or sustained."""
    if asked.sustain:
        return [figure for case in chosen for figure in in_turn(what, case, asked)]
    with running(what, entrants(what, asked.servers) if chosen else [], folder) as servers:
        return [figure for case in chosen for figure in compare(servers, case, asked)]


def matrix(asked: argparse.Namespace, folder: Path) -> list[Figure]:
    """Discarded, then durable."""
    heading(asked)
    figures: list[Figure] = []
    for what in ("discard", "durable"):
        figures += measure(what, [case for case in cases(what) if wanted(case, asked)], asked, folder)
    return figures


def relay(asked: argparse.Namespace, folder: Path) -> list[Figure]:
    """From one connection in to one connection out; both unencrypted, then both under TLS."""
    heading(asked)
    figures: list[Figure] = []
    for what, tls in (("relay", "no"), ("relay-tls", "starttls")):
        every = [Case(what, tls, "conn", SIZES[0]), *(Case(what, tls, "reuse", size) for size in SIZES)]
        figures += measure(what, [case for case in every if wanted(case, asked)], asked, folder)
    return figures


def verify(asked: argparse.Namespace, folder: Path) -> list[Figure]:
    """Signed mail, durably; Postfix with OpenDKIM and OpenDMARC. Each proves first that it can tell mail apart."""
    asked.driver = "own"
    heading(asked)
    chosen = [case for size in SIZES[:3] if wanted(case := Case("verify", "no", "reuse", size), asked)]
    with running("verify", entrants("verify", asked.servers), folder) as servers:
        for server in servers:
            server.acknowledged += distinguishes(server)
        return [figure for case in chosen for figure in compare(servers, case, asked)]


def distinguishes(server: Contestant) -> int:
    """Sends two messages that SPF does not confirm; 1, because one is accepted.

    Raises:
        CountError: the server refuses a valid signature, or accepts a message whose body was changed.
    """
    assert server.message is not None
    whole = server.message(SIZES[0]).read_bytes().removesuffix(b".\r\n")
    replies = []
    for content in (whole, whole.replace(b"ABC", b"XYZ")):
        with smtplib.SMTP("127.0.0.1", server.port) as client:
            client.ehlo()
            client.mail("ada@elsewhere.example")
            client.rcpt("grace@localhost")
            replies.append(client.data(content)[0])
    if replies[0] != 250 or replies[1] < 500:
        raise CountError(f"{server.name} answers {replies[0]} to valid mail and {replies[1]} to a forgery")
    return 1


def sign(asked: argparse.Namespace, folder: Path) -> list[Figure]:
    """By Ed25519 and RSA with 2,048 bits; the receiver refuses what has not two signatures."""
    heading(asked)
    chosen = [case for size in SIZES[:3] if wanted(case := Case("sign", "no", "reuse", size), asked)]
    return measure("sign", chosen, asked, folder)


def mailbox(asked: argparse.Namespace, folder: Path) -> list[Figure]:
    """Into one Maildir, durably; Dovecot is the LMTP server that others deliver to, the others take SMTP."""
    heading(asked)
    every = [Case("mailbox", "no", "conn", SIZES[0]), *(Case("mailbox", "no", "reuse", size) for size in SIZES)]
    return measure("mailbox", [case for case in every if wanted(case, asked)], asked, folder)


def handshakes(asked: argparse.Namespace, folder: Path) -> list[Figure]:
    """A whole TLS connection each: EHLO, QUIT."""
    asked.driver, asked.sustain = "own", 0.0
    heading(asked)
    figures: list[Figure] = []
    with running("discard", entrants("discard", asked.servers), folder) as servers:
        for tls in ("starttls", "implicit"):
            willing = [s for s in servers if (s.implicit_port if tls == "implicit" else s.tls)]
            case = Case("handshakes", tls, "handshakes", 0)
            rounds = [burst("own", server, case, HANDSHAKES) for _ in range(asked.rounds) for server in willing]
            report(f"handshakes by {tls}", rounds)
            figures += rounds
    return figures


def outbound(asked: argparse.Namespace, folder: Path) -> list[Figure]:
    """Outgoing handshakes: messages come in over few connections, and each leaves over a new one."""
    asked.sustain = 0.0
    heading(asked)
    figures: list[Figure] = []
    for what in OUTBOUND:
        case = Case(what, "no", "reuse", SIZES[0])
        with running(what, entrants(what, asked.servers), folder) as servers:
            rounds = [connections(server, case) for _ in range(asked.rounds) for server in servers]
        report(f"handshakes out, {what.removeprefix('relay-')}", rounds)
        figures += rounds
    return figures


def connections(server: Contestant, case: Case) -> Figure:
    """One burst; a message is a connection.

    Raises:
        CountError: some messages shared a connection, or sessions were resumed against the receiver's will.
    """
    assert isinstance(server.receiver, Receiver)
    before = server.receiver.counts
    found = burst("own", server, case, HANDSHAKES)
    after = server.receiver.counts
    opened, resumed = after.connections - before.connections, after.resumed - before.resumed
    if opened < HANDSHAKES or (resumed and case.what == "relay-full"):
        raise CountError(f"{server.name}: {HANDSHAKES} messages over {opened} connections, {resumed} resumed")
    print(f"{server.name}, {case.what}: {resumed} of {opened} handshakes resumed", file=sys.stderr)
    return found


def idle(asked: argparse.Namespace, folder: Path) -> list[Figure]:
    """Octets of resident memory for each connection, each time on a fresh process."""
    for count, tls in ((2000, "no"), (10_000, "no"), (2000, "implicit")):
        names = ["ironpost", "aiosmtpd"] if tls == "no" else ["ironpost"]
        able = [name for name in entrants("discard", asked.servers) if name in names]
        with running("discard", able, folder) as servers:
            for server in servers:
                hold(server, count, tls)
    return []


def hold(server: Contestant, count: int, tls: str) -> None:
    """Opens connections, measures, closes them."""
    port = server.implicit_port if tls == "implicit" else server.port
    before, cost = server.memory(), server.cpu()
    command = [sys.executable, str(DRIVER), str(port), "--way", "idle", "--connections", str(count), "--tls", tls]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        said = driver.stdout.readline()
        if not said:
            raise SystemExit(f"{server.name} did not hold {count} connections")
        held = json.loads(said)["idle"]
        each = (server.memory() - before) / held / 1024
        spent = (server.cpu() - cost) / held * 1000
        driver.communicate("")
    print(f"| {held:,} idle, {tls} | {server.name} | {each:.2f} KB | {spent:.3f} ms to accept |", flush=True)


COMPARISONS = {
    "matrix": matrix,
    "relay": relay,
    "verify": verify,
    "sign": sign,
    "mailbox": mailbox,
    "handshakes": handshakes,
    "outbound": outbound,
    "idle": idle,
}


def main() -> None:
    """Runs one comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=COMPARISONS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--sustain", type=float, default=0.0, metavar="SECONDS", help="instead of rounds")
    parser.add_argument("--driver", choices=["own", "smtp-source"], default="own")
    parser.add_argument("--only", nargs="*", default=[], metavar="WORDS")
    parser.add_argument("--servers", nargs="*", default=[], metavar="NAMES")
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ironpost-load-") as name:
        try:
            figures = COMPARISONS[asked.what](asked, Path(name))
        except (NoRoomError, CountError) as error:
            raise SystemExit(str(error)) from None
    if asked.json:
        asked.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1))


if __name__ == "__main__":
    main()
