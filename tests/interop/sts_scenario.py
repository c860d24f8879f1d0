"""A whole server under MTA-STS, in a network namespace of its own with real ports; run by `test_mta_sts.py`.

    unshare --net --mount python -m tests.interop.sts_scenario FOLDER

The domain publishes a policy, and mail is sent under it. Then an attacker removes its record, its policy host and the
STARTTLS of its receiver, and the server is restarted: the policy still applies.
"""

from __future__ import annotations

import asyncio
import re
import smtplib
import subprocess
import sys
from pathlib import Path

from tests.authority import issue
from tests.conftest import Running, until
from tests.dns.test_resolver import NameServer
from tests.http.https_kit import HttpsServer, always, response, serving

from ironpost import BaseHandler, Server
from ironpost.model.url import HTTPS_PORT
from ironpost.server.tls import TlsContext

DNS, HTTPS, MX = "192.0.2.53", "192.0.2.80", "192.0.2.25"
HOST = "mx1.a.example"
ZONE = {
    "a.example. MX": [f"a.example. 1 IN MX 10 {HOST}."],
    f"{HOST}. A": [f"{HOST}. 1 IN A {MX}"],
    f"{HOST}. AAAA": [],
    "mta-sts.a.example. A": [f"mta-sts.a.example. 1 IN A {HTTPS}"],
    "mta-sts.a.example. AAAA": [],
    "_mta-sts.a.example. TXT": ['_mta-sts.a.example. 1 IN TXT "v=STSv1; id=1;"'],
}
POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: *.a.example\r\nmax_age: 604800\r\n"


class Receiver(BaseHandler):
    """Accepts all mail; records how each message was protected."""

    def __init__(self) -> None:
        self.secure: list[bool] = []

    def recipient(self, *arguments: object) -> None:
        pass

    def message(self, session: object, *arguments: object) -> None:
        self.secure.append(bool(getattr(session, "secure", False)))


def prepare(folder: Path) -> None:
    """Bring up the addresses of the namespace, and replace the configuration of the resolver in it."""
    for address in (DNS, HTTPS, MX):
        subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    (folder / "resolv.conf").write_text(f"nameserver {DNS}\n")
    subprocess.run(["mount", "--bind", folder / "resolv.conf", "/etc/resolv.conf"], check=True)


async def scenario(folder: Path) -> None:
    """The acts of the scenario; the blocking ones in threads, because the servers run in this event loop."""
    authority = issue(common_name="Test authority", authority=True)
    (folder / "ca.pem").write_bytes(authority.pem)
    issue(HOST, by=authority).write(folder / "mx.pem", folder / "mx.key")
    tls = TlsContext.load([(folder / "mx.pem", folder / "mx.key")])
    loop = asyncio.get_running_loop()
    _, dns = await loop.create_datagram_endpoint(NameServer, local_addr=(DNS, 53))
    dns.zone = dict(ZONE)
    policy_host = HttpsServer(always(response(200, POLICY, Content_Type="text/plain")))
    context = serving(issue("mta-sts.a.example", by=authority), folder)
    await asyncio.start_server(policy_host.serve, HTTPS, HTTPS_PORT, ssl=context)
    receiver = Receiver()
    with_tls = Server(receiver, MX, 25, tls=tls)
    await with_tls.start()
    running = Running(
        folder, f'[delivery]\nca = "{folder}/ca.pem"\n[http]\nca = "{folder}/ca.pem"\nallow = ["192.0.2.0/24"]\n'
    )
    await asyncio.to_thread(running.start, "--workers", "2")
    try:
        checked = await asyncio.to_thread(running.run, "mtasts", "check", "a.example", "-c", str(running.file))
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert b"a.example: good" in checked.stdout
        for count in (1, 2):
            await asyncio.to_thread(submit, running)
            await asyncio.to_thread(running.wait_until_empty)
            assert receiver.secure == [True] * count
        assert running.log().count('"mta-sts-policy"') == 1, "the workers share the policy"
        await asyncio.to_thread(running.stop)

        # The attack.
        del dns.zone["_mta-sts.a.example. TXT"]
        policy_host.respond = always(response(404))
        await with_tls.stop(1.0)
        stripped = Server(receiver, MX, 25)
        await stripped.start()
        await asyncio.to_thread(running.start)
        await asyncio.to_thread(submit, running)
        await asyncio.to_thread(until, lambda: "4.7.10" in running.log(), running.log)
        explained = await asyncio.to_thread(
            running.run, "route", "explain", "jo@a.example", "--client", "127.0.0.1", "-c", str(running.file)
        )
        assert b"the MTA-STS policy of a.example (enforce) lists *.a.example" in explained.stdout, explained.stdout
        (waiting,) = await asyncio.to_thread(running.queue)
        assert waiting.recipients
        assert re.search(r"MTA-STS policy of a\.example", running.log())
        assert len(receiver.secure) == 2, "nothing was sent to the attacker"

        # The attacker has left.
        await stripped.stop(1.0)
        await Server(receiver, MX, 25, tls=tls).start()
        retried = await asyncio.to_thread(running.run, "queue", "retry", "--all", "-c", str(running.file))
        assert retried.returncode == 0, retried.stderr
        await asyncio.to_thread(running.wait_until_empty)
        assert receiver.secure == [True] * 3
    finally:
        if running.process is not None and running.process.poll() is None:
            await asyncio.to_thread(running.stop)


def submit(running: Running) -> None:
    with smtplib.SMTP("127.0.0.1", running.port, "client.example") as client:
        client.sendmail("", ["jo@a.example"], b"Subject: x\r\n\r\nhi\r\n")


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
    asyncio.run(asyncio.wait_for(scenario(Path(sys.argv[1])), 120))
