"""The PROXY protocol: the header as a pure function, and a server behind a proxy."""

from __future__ import annotations

import asyncio
import socket
import struct
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server_kit import ENVELOPE, Client, Open, codes

from ironpost import Server
from ironpost.protocol import replies
from ironpost.protocol.server.settings import ServerSettings
from ironpost.protocol.server.transaction import Peer
from ironpost.server import Timeouts
from ironpost.server.proxy import V1_OCTETS, V2_OCTETS, ProxyFault, ProxyHeader, crc32c, parse

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
TCP4 = socket.inet_aton("192.0.2.7") + socket.inet_aton("198.51.100.1") + struct.pack("!HH", 40000, 25)
TCP6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7") * 2 + struct.pack("!HH", 40000, 25)


def tlv(kind, value):
    return struct.pack("!BH", kind, len(value)) + value


def header(content=TCP4, command=0x21, family=0x11):
    return SIGNATURE + struct.pack("!BBH", command, family, len(content)) + content


def summed(content):
    """Return a header of `content` with a checksum at its end."""
    whole = header(content + tlv(3, bytes(4)))
    return whole[:-4] + struct.pack("!I", crc32c(whole))


def secure(client=1, verify=0, *values):
    return tlv(0x20, struct.pack("!BI", client, verify) + b"".join(values))


# ---------------------------------------------------------------------------------------------------------------------
# The header


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\n", ("192.0.2.7", 40000, "198.51.100.1", 25)),
        (b"PROXY TCP6 2001:DB8::7 ::1 0 65535\r\n", ("2001:db8::7", 0, "::1", 65535)),
        (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", ("192.0.2.7", 1, "::1", 2)),
        (b"PROXY UNKNOWN\r\n", ("", 0, "", 0)),
        (b"PROXY UNKNOWN " + b"f" * (V1_OCTETS - 16) + b"\r\n", ("", 0, "", 0)),
        (header(), ("192.0.2.7", 40000, "198.51.100.1", 25)),
        (header(TCP6, family=0x21), ("2001:db8::7", 40000, "2001:db8::7", 25)),
        (header(bytes(216), family=0x31), ("", 0, "", 0)),
        (header(b"", family=0), ("", 0, "", 0)),
        (header(b"whatever", family=0), ("", 0, "", 0)),
    ],
)
def test_r15_a_header_is_parsed_only_when_complete(octets, expected):
    found = parse(octets + b"EHLO x.example\r\n")
    assert found is not None
    assert (found.ip, found.port, found.local_ip, found.local_port) == expected
    assert found.size == len(octets)
    assert not found.local
    for cut in range(len(octets)):
        assert parse(octets[:cut]) is None


def test_a_local_header_is_for_the_proxy_itself():
    assert parse(header(b"", command=0x20, family=0)) == ProxyHeader(16, local=True)
    assert parse(header(b"anything at all", command=0x20, family=0xFF)) == ProxyHeader(31, local=True)


@pytest.mark.parametrize(
    "octets",
    [
        b"EHLO x.example\r\n",
        b"proxy TCP4 192.0.2.7 198.51.100.1 1 2\r\n",
        b"PROXY\r\n",
        b"PROXY  TCP4 192.0.2.7 198.51.100.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\n",
        b"PROXY TCP4 192.0.2.07 198.51.100.1 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 192.0.2.7 198.51.100.1 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 01 2\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 2\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 2\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 \xd9\xa1 2\r\n",
        b"PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n",
        b"PROXY UNKNOWN " + b"f" * V1_OCTETS,
        b"PROXY UNKNOWN " + b"f" * (V1_OCTETS - 15) + b"\r\n",
        SIGNATURE[:-1] + b"X",
        header(command=0x11),
        header(command=0x22),
        header(family=0x12),
        header(family=0x41),
        header(TCP4[:-1]),
        header(TCP4 + b"\x04"),
        header(TCP4 + b"\x04\x00\x05abcd"),
        header(TCP4 + tlv(3, b"abc")),
        header(TCP4 + tlv(3, b"abcd")),
        header(TCP4 + tlv(5, bytes(129))),
        header(TCP4 + tlv(0x20, b"\x01\x00")),
        header(TCP4 + secure(1, 0, b"\x21\x00")),
        header(TCP4 + secure(1, 0, tlv(0x21, b"TLSv1.3\r\nX: y"))),
        SIGNATURE + struct.pack("!BBH", 0x21, 0x11, V2_OCTETS - 15),
    ],
)
def test_r15_the_error_says_why_a_header_is_invalid(octets):
    with pytest.raises(ProxyFault, match=r"\w+ \w+ \w+"):
        parse(octets)


def test_r15_an_endless_header_is_refused_at_its_limit():
    assert parse(b"PROXY UNKNOWN " + b" " * (V1_OCTETS - 15)) is None
    with pytest.raises(ProxyFault, match="longer than 107"):
        parse(b"PROXY UNKNOWN " + b" " * (V1_OCTETS - 14))


def test_the_checksum_of_the_castagnoli_vectors():
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720 §B.4
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_r15_a_checksum_covers_every_octet():
    good = summed(TCP4 + tlv(2, b"mx.example"))
    assert parse(good) is not None
    kind = len(good) - 7  # without its type it does not count as a checksum
    for at in {*range(16, len(good))} - {kind}:
        changed = bytearray(good)
        changed[at] ^= 0x40
        with pytest.raises(ProxyFault):
            parse(bytes(changed))


def test_r16_tls_values_of_a_proxy_header():
    values = tlv(0x21, b"TLSv1.3"), tlv(0x23, b"TLS_AES_256_GCM_SHA384"), tlv(0x22, "Ada, née Byron".encode())
    found = parse(header(TCP4 + tlv(2, b"mx.example") + tlv(5, b"id-1") + tlv(0xE0, b"ours") + secure(7, 0, *values)))
    assert found is not None
    assert found.unique_id == b"id-1"
    assert found.tls is not None
    assert found.tls.stated
    assert found.tls.version == "TLSv1.3"
    assert found.tls.cipher == "TLS_AES_256_GCM_SHA384"
    assert found.tls.server_name == "mx.example"
    assert found.tls.subject == "CN=Ada\\, née Byron"
    assert dict(found.tls.bindings) == {}


@pytest.mark.parametrize(("client", "verify"), [(1, 0), (7, 1)])
def test_r16_a_missing_or_unverified_client_certificate_gives_no_name(client, verify):
    found = parse(header(TCP4 + secure(client, verify, tlv(0x22, b"ada"))))
    assert found is not None
    assert found.tls is not None
    assert found.tls.subject == ""


def test_r16_a_client_without_tls_is_not_secure():
    found = parse(header(TCP4 + secure(0, 1)))
    assert found is not None
    assert found.tls is None


STARTS = st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ::1 ", SIGNATURE, header()[:16], header()])


@given(STARTS, st.binary(max_size=300))
def test_r22_any_octets_are_a_header_or_a_fault_or_unfinished(start, rest):
    octets = start + rest
    try:
        found = parse(octets)
    except ProxyFault:
        return
    if found is None:
        assert len(octets) < V2_OCTETS
    else:
        assert 0 < found.size <= min(len(octets), V2_OCTETS)
        assert parse(octets[: found.size]) == found


@given(st.lists(st.tuples(st.sampled_from([1, 2, 4, 5, 0x20, 0x30, 0xE0]), st.binary(max_size=40)), max_size=6))
def test_r22_any_tlvs_are_read_or_refused(values):
    octets = header(TCP4 + b"".join(tlv(kind, value) for kind, value in values))
    try:
        found = parse(octets)
    except ProxyFault:
        return
    assert found is not None
    assert found.ip == "192.0.2.7"


# ---------------------------------------------------------------------------------------------------------------------
# A server behind a proxy


class Seen(Open):
    """Records the clients that connected."""

    def __init__(self):
        super().__init__()
        self.clients = []

    def connect(self, session):
        self.clients.append((session.peer, session.tls))


def test_r14_a_listed_proxy_names_its_clients(run):
    async def scenario():
        handler = Seen()
        async with Server(handler, "127.0.0.1", proxy=["127.0.0.0/8"]) as server:
            for octets in (b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\n", header(), summed(TCP4)):
                client = await Client.to(server, greeted=False)
                client.writer.write(octets)
                assert codes(await client.reply()) == [b"220"]
                assert codes(await client.say(b"EHLO x.example\r\n")) == [b"250"]
                await client.close()
        expected = Peer("192.0.2.7", 40000, "198.51.100.1", 25, via="127.0.0.1")
        assert handler.clients == [(expected, None)] * 3

    run(scenario())


def test_r2_content_of_a_proxied_client_is_normalised_and_of_the_proxy_not(run):
    async def scenario():
        handler = Open()
        settings = ServerSettings(lenient=(ip_network("192.0.2.0/24"),))
        async with Server(handler, "127.0.0.1", proxy=["127.0.0.0/8"], settings=settings) as server:
            for ip, code in (("192.0.2.7", b"250"), ("192.0.3.7", b"550"), ("", b"550")):
                client = await Client.to(server, greeted=False)
                client.writer.write(f"PROXY TCP4 {ip} {ip} 1 2\r\n".encode() if ip else b"PROXY UNKNOWN\r\n")
                assert codes(await client.reply()) == [b"220"]
                await client.say(b"EHLO x.example\r\n")
                assert codes(await client.say(ENVELOPE + b"DATA\r\n", 3)) == [b"250", b"250", b"354"]
                assert codes(await client.say(b"a\nb\r\n.\r\n")) == [code]
                await client.close()
        assert handler.messages == [b"a\r\nb\r\n"]

    run(scenario())


def test_r14_a_client_unknown_to_its_proxy_has_no_address(run):
    async def scenario():
        handler = Seen()
        async with Server(handler, "127.0.0.1", proxy=["127.0.0.1/32"]) as server:
            for octets in (b"PROXY UNKNOWN\r\n", header(b"", family=0), header(b"", command=0x20, family=0)):
                client = await Client.to(server, greeted=False)
                client.writer.write(octets)
                assert codes(await client.reply()) == [b"220"]
                await client.close()
        unknown, unspecified, local = (peer for peer, _ in handler.clients)
        assert unknown == unspecified == Peer(via="127.0.0.1")
        assert (local.ip, local.via) == ("127.0.0.1", "")

    run(scenario())


@pytest.mark.parametrize("octets", [b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\n", header()])
def test_r14_a_header_from_an_unlisted_address_is_refused(run, octets):
    async def scenario():
        handler = Seen()
        async with Server(handler, "127.0.0.1", proxy=["192.0.2.0/24"]) as server:
            client = await Client.to(server)
            client.writer.write(octets)
            assert codes(await client.reply()) == [b"500"]
            assert [peer.ip for peer, _ in handler.clients] == ["127.0.0.1"]
            await client.close()

    run(scenario())


@pytest.mark.parametrize("octets", [b"EHLO x.example\r\n", b"PROXY TCP4 nonsense\r\n", header(family=0x12)])
def test_r14_r15_a_listed_proxy_without_a_header_is_closed(run, octets):
    async def scenario():
        handler = Seen()
        async with Server(handler, "127.0.0.1", proxy=["127.0.0.1/32"]) as server:
            client = await Client.to(server, greeted=False)
            client.writer.write(octets)
            assert await client.rest() == b""
            await client.close()
            assert not server.connections
        assert handler.clients == []

    run(scenario())


def test_r15_waiting_for_a_header_has_a_timeout(run):
    async def scenario():
        async with Server(Seen(), "127.0.0.1", proxy=["127.0.0.1/32"], timeouts=Timeouts(handshake=0.05)) as server:
            for octets in (b"", b"PROXY TCP4 192."):
                client = await Client.to(server, greeted=False)
                client.writer.write(octets)
                assert await client.rest() == b""
                await client.close()

    run(scenario())


def test_a_connection_accepted_while_the_server_stops_is_closed(run):
    async def scenario():
        server = Server(Seen(), "127.0.0.1", proxy=["127.0.0.1/32"])
        await server.start()
        usual, stopping = server.connection, []

        def stops():  # accepted, and the server stops before the transport tells the protocol
            stopping.append(server.loop.create_task(server.stop()))
            return usual()

        server.connection = stops
        client = await Client.to(server, greeted=False)
        assert await asyncio.wait_for(client.rest(), 20) == b""
        await client.close()
        await asyncio.wait(stopping)
        assert not server.connections

    run(scenario())


def test_r15_a_header_may_arrive_in_pieces(run):
    async def scenario():
        handler = Seen()
        async with Server(handler, "127.0.0.1", proxy=["127.0.0.1/32"]) as server:
            client = await Client.to(server, greeted=False)
            (arrival,) = server.connections
            for octet in header():
                client.writer.write(bytes([octet]))
                await asyncio.sleep(0)
            assert codes(await client.reply()) == [b"220"]
            assert arrival not in server.connections
            await client.close()
        assert handler.clients[0][0].ip == "192.0.2.7"

    run(scenario())


def test_r7_octets_after_the_header_are_early(run):
    async def scenario():
        async with Server(Seen(), "127.0.0.1", proxy=["127.0.0.1/32"]) as server:
            client = await Client.to(server, greeted=False)
            client.writer.write(header() + b"EHLO x.example\r\n")
            assert await client.rest() == replies.EARLY_TALKER.octets
            await client.close()
        async with Server(Seen(), "127.0.0.1", proxy=["127.0.0.1/32"], greeting_delay=None) as server:
            client = await Client.to(server, greeted=False)
            client.writer.write(header() + b"EHLO x.example\r\n")
            assert codes(await client.reply() + await client.reply()) == [b"220", b"250"]
            await client.close()

    run(scenario())


def test_r16_only_a_header_from_a_listed_proxy_marks_a_session_as_tls(run):
    octets = header(TCP4 + secure(1, 0, tlv(0x21, b"TLSv1.2")))

    async def scenario():
        handler = Seen()
        async with Server(handler, "127.0.0.1", proxy=["127.0.0.1/32"]) as server:
            client = await Client.to(server, greeted=False)
            client.writer.write(octets)
            assert codes(await client.reply()) == [b"220"]
            (connection,) = server.connections
            assert connection.session.secure
            assert connection.session.tls.stated
            await client.close()
        async with Server(handler, "127.0.0.1", proxy=["192.0.2.0/24"]) as server:
            client = await Client.to(server)
            client.writer.write(octets)
            await client.reply()
            (connection,) = server.connections
            assert not connection.session.secure
            await client.close()

    run(scenario())
