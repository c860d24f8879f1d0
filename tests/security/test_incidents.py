"""What ended, emptied or took over other mail servers, done to this one: the tests that no other file has.

The table of incidents in docs/security.md names them, and those in other files. The numbers in the names are the
advisories'; each test does what its advisory describes, by its description, not by anybody's program.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from tests.client.test_client_sockets import lines, peer
from tests.protocol.test_auth import Talk as AuthTalk
from tests.security.test_hostile_words import SECONDS, Talk

from ironpost.client import Client, RecipientsRefused
from ironpost.dns.resolver import DnsResolver
from ironpost.model import Address
from ironpost.model.dns import RecordType, ResolverError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# ---------------------------------------------------------------------------------------------------------------------
# Content


def deliver(serve: Callable[..., Any], content: bytes) -> None:
    """Send the content to a new server, which must deliver it unchanged and continue."""
    running = serve()
    before = Talk(running.port)
    talk = Talk(running.port)
    for line in (b"EHLO client.example", b"MAIL FROM:<a@sender.example> BODY=8BITMIME", b"RCPT TO:<b@localhost>"):
        assert talk.say(line).startswith(b"250"), line
    assert talk.say(b"DATA").startswith(b"354")
    assert talk.say(content + b".").startswith(b"250")
    assert talk.say(b"QUIT").startswith(b"221")
    talk.close()
    (message,) = running.wait_for_mail()
    assert message.endswith(content.replace(b"\r\n", b"\n"))
    assert before.say(b"NOOP").startswith(b"250"), "the session that was open before continues"
    before.close()
    running.wait_until_empty()
    assert running.stop() == 0


def test_cve_2026_34752_a_header_field_may_be_called_as_something_inside_a_program(serve: Callable[..., Any]) -> None:
    """Haraka: a field `__proto__:` ended the worker."""
    names = ("__proto__", "constructor", "prototype", "toString", "__class__", "__dict__", "None", "self", "%s", "{0}")
    deliver(serve, b"".join(f"{name}: x\r\n".encode() for name in names) + b"\r\nhi\r\n")


def test_cve_2026_26312_messages_inside_messages_are_octets(serve: Callable[..., Any]) -> None:
    """Stalwart: message/rfc822 parts within one another, and to themselves, took all memory."""
    part = b"Content-Type: message/rfc822\r\nContent-ID: <self@x.example>\r\nReferences: <self@x.example>\r\n\r\n"
    deliver(serve, part * 20_000 + b"innermost\r\n")


def test_cve_2026_27859_cve_2024_39929_parameters_of_a_field_are_octets(serve: Callable[..., Any]) -> None:
    """Dovecot: RFC 2231 parameters took time without end. Exim: a file name over several lines passed its filter."""
    pieces = b"".join(b";\r\n name*%d*=utf-8''%%00\"x" % number for number in range(10_000))
    name = b'Content-Disposition: attachment; filename*0="a.e\r\n";\r\n filename*1="xe"\r\n'
    deliver(serve, b"Content-Type: text/plain" + pieces + b"\r\n" + name + b"\r\nhi\r\n")


def test_header_fields_of_concurrent_messages_do_not_mix(serve: Callable[..., Any]) -> None:
    """Mailpit: two messages at the same time wrote into one map, which ended the process."""
    running, each = serve(), 10

    def send(client: int) -> None:
        talk = Talk(running.port)
        talk.say(b"EHLO client.example")
        for number in range(each):
            for line in (b"MAIL FROM:<a@sender.example>", b"RCPT TO:<b@localhost>", b"DATA"):
                talk.say(line)
            assert talk.say(b"X-%d-%d: x\r\n\r\n%d-%d\r\n." % (client, number, client, number)).startswith(b"250")
        talk.close()

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    found = {message[message.index(b"\nX-") :] for message in running.wait_for_mail(8 * each)}
    assert found == {b"\nX-%d-%d: x\n\n%d-%d\n" % (a, b, a, b) for a in range(8) for b in range(each)}
    assert running.stop() == 0


# ---------------------------------------------------------------------------------------------------------------------
# Envelopes


LOCAL_PARTS = {
    "Exim": rb'"${run{\x2Fbin\x2Fsh\t-c\t\x22touch\x20x\x22}}"',
    "Exim unquoted": b"${run{touch${substr{0}{1}{$spool_directory}}x}}",
    "OpenSMTPD": b'";for i in 0 1 2 3;do read r;done;sh;exit 0;"',
    "pipe": b"|/bin/touch",
    "file": b'"/etc/x"',
    "include": b'":include:/etc/passwd"',
    "option": b'"-oQ/tmp -D/tmp/x"',
}


def test_cve_2019_10149_cve_2020_7247_nobody_executes_a_local_part(serve: Callable[..., Any]) -> None:
    """Exim expanded it, OpenSMTPD gave it to a shell, both as root; aliases made it a pipe or a file elsewhere."""
    running = serve()
    talk = Talk(running.port)
    talk.say(b"EHLO client.example")
    for name, local in LOCAL_PARTS.items():
        for line in (b"MAIL FROM:<%b@sender.example>" % local, b"RCPT TO:<%b@localhost>" % local):
            assert talk.say(line).startswith(b"250"), line
        assert talk.say(b"DATA").startswith(b"354")
        assert talk.say(b"Subject: %b\r\n\r\ntouch x\r\n." % name.encode()).startswith(b"250")
    talk.close()
    found = {message.partition(b"\nSubject: ")[2].partition(b"\n")[0]: message for message in running.wait_for_mail(7)}
    assert len(found) == 7
    for name, local in LOCAL_PARTS.items():
        path = str(Address.parse(local.decode() + "@sender.example"))  # with quotes only where it needs some
        assert found[name.encode()].startswith(f"Return-Path: <{path}>\n".encode()), name
    running.wait_until_empty()
    assert {path.name for path in running.folder.iterdir()} == {"data", "log", "ironpost.toml"}
    assert running.stop() == 0


def test_kumomta_a_domain_with_a_space_of_no_width_is_refused_or_taken(serve: Callable[..., Any]) -> None:
    """KumoMTA: U+200B in a domain was a panic in its SPF."""
    running = serve()
    talk = Talk(running.port)
    for line in ("EHLO x\u200b.example", "HELO \u200b", "EHLO client.example"):
        said = talk.say(line.encode())
        assert said[:3] in {b"250", b"501"}
    for domain in ("b\u200b.example", "\u200b", "xn--\u200b.example", "\u200b.\u200b"):
        assert talk.say(f"MAIL FROM:<a@{domain}> SMTPUTF8".encode())[:1] in {b"2", b"5"}
        assert talk.say(b"RSET").startswith(b"250")
    talk.close()
    assert running.stop() == 0


def test_cve_2023_42114_cve_2023_42116_there_is_no_ntlm() -> None:
    """Exim: a challenge of SPA, which others call NTLM, was read and written beyond its buffers."""
    talk = AuthTalk()
    for name in ("NTLM", "SPA", "MSN", "GSSAPI", "DIGEST-MD5"):
        assert talk.say(f"AUTH {name} TlRMTVNTUAABAAAAB4IIogAAAAAAAAAAAAAAAAAAAAAGAbEdAAAADw==").startswith("504 ")
    assert talk.say("NOOP").startswith("250 ")


# ---------------------------------------------------------------------------------------------------------------------
# What other servers answer


@pytest.mark.parametrize("ending", [b"", b" ", b"  ", b" \t"], ids=["nothing", "space", "spaces", "tab"])
def test_cve_2026_43964_an_enhanced_code_without_text_is_a_reply(ending: bytes) -> None:
    """Postfix: such a reply was read beyond its end."""
    said = [b"220 mx.example\r\n", b"250 mx.example\r\n", b"250 2.1.0\r\n"]
    script = lines(*said, b"550-5.1.1\r\n550 5.1.1" + ending + b"\r\n", b"221 2.0.0\r\n")

    async def main() -> None:
        async with peer(script) as port, Client("127.0.0.1", port, tls="never") as client:
            with pytest.raises(RecipientsRefused, match=r"550 5\.1\.1"):
                await client.send("a@a.example", "b@b.example", b"Subject: x\r\n\r\ny\r\n")

    asyncio.run(asyncio.wait_for(main(), SECONDS))


@pytest.fixture
def refusing() -> Iterator[int]:
    """The port of a host that defers each recipient with a reply of many lines that look like something else."""
    text = b"".join(
        b"451-" + line + b"\r\n"
        for line in (b"dispatcher: local_mail", b"type: mda", b"mda-exec: touch x", b"sender: <>", b"\x1b[2J\x9b'\";--")
    )
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client, client.makefile("rwb") as file, contextlib.suppress(OSError):
                    file.write(b"220 mx.example\r\n")
                    file.flush()
                    while line := file.readline():
                        verb = line[:4].upper()
                        file.write(text + b"451 end\r\n" if verb == b"RCPT" else b"250 x\r\n")
                        file.flush()
                        if verb == b"QUIT":
                            break

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(SECONDS)


def test_cve_2020_8794_lines_of_a_reply_become_nothing_but_its_text(
    serve: Callable[..., Any], refusing: int, wait_until: Callable[..., None]
) -> None:
    """OpenSMTPD: they became lines of its envelope's file, and so a command that root executed."""
    running = serve(f'[[route]]\ndomains = ["*"]\nsmart_host = ["127.0.0.1:{refusing}"]')
    talk = Talk(running.port)
    for line in (b"EHLO client.example", b"MAIL FROM:<a@sender.example>", b"RCPT TO:<b@far.example>"):
        assert talk.say(line).startswith(b"250"), line
    assert talk.say(b"DATA").startswith(b"354")
    assert talk.say(b"Subject: x\r\n\r\nx\r\n.").startswith(b"250")
    talk.close()

    wait_until(lambda: "mda-exec" in str(running.queue()), running.log)
    (waiting,) = running.json("queue", "list")
    found = running.json("queue", "show", waiting["id"])
    assert found["from"] == "a@sender.example"
    (recipient,) = found["recipients"]
    assert recipient["to"] == "b@far.example"
    assert recipient["last"].startswith("451 ")
    assert recipient["last"].isprintable()
    assert running.stop() == 0
    assert {path.name for path in running.folder.iterdir()} == {"data", "log", "ironpost.toml"}
    again = running.start()
    assert len(again.json("queue", "list")) == 1


class Garbage(asyncio.DatagramProtocol):
    """A name server that answers every question with its number and the same octets."""

    def __init__(self, octets: bytes) -> None:
        self.octets = octets
        self.asked = 0

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.asked += 1
        self.transport.sendto(data[:2] + self.octets if self.octets else b"", address)


HEADER = b"\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00"
QUESTION = b"\x01a\x07example\x00\x00\x0f\x00\x01"


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\x81",
        b"\xff" * 500,
        HEADER,
        HEADER + QUESTION + b"\xc0\x1f" + b"\x00\x0f\x00\x01\x00\x00\x00\x00\x00\x02\x00\x0a",
        HEADER + QUESTION + b"\xc0\x0c\x00\x0f\x00\x01\x00\x00\x00\x00\xff\xff\x00\x0a\x00",
        b"\x81\x80\xff\xff\xff\xff\xff\xff\xff\xff" + QUESTION,
        HEADER + QUESTION + b"\x3f" * 200,
    ],
    ids=["empty", "an octet", "ones", "cut", "a name that is itself", "too long a record", "counts", "labels"],
)
def test_cve_2023_42219_an_invalid_dns_answer_is_an_error(octets: bytes) -> None:
    """Exim: data of DNS were read beyond their end."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, server = await loop.create_datagram_endpoint(lambda: Garbage(octets), local_addr=("127.0.0.1", 0))
        port = transport.get_extra_info("sockname")[1]
        resolver = DnsResolver(nameservers=[("127.0.0.1", port)], lifetime=0.2, cache_size=10, now=loop.time)
        with pytest.raises(ResolverError):
            await resolver.resolve("a.example", RecordType.MX)
        assert server.asked >= 1
        transport.close()

    asyncio.run(asyncio.wait_for(main(), SECONDS))
