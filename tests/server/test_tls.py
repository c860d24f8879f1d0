"""TLS on real sockets: STARTTLS and implicit, certificates by name, reload, ends of a connection, hostile octets."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import smtplib
import socket
import ssl
import struct
import subprocess

import pytest
from server_kit import ENVELOPE, Client, Open, codes

from ironpost import Server
from ironpost.protocol import replies
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import MemorySpool, Timeouts, TlsContext, TlsError
from ironpost.server.self_signed import write_self_signed


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Certificates: name to (certificate, key)."""
    folder = tmp_path_factory.mktemp("certificates")
    found = {}
    for name in ("mx.example", "other.example", "*.wild.example", "localhost"):
        stem = name.replace("*", "star")
        found[name] = folder / f"{stem}.pem", folder / f"{stem}.key"
        write_self_signed(*found[name], [name, "127.0.0.1"] if name == "localhost" else [name])
    return found


@pytest.fixture
def tls(files):
    return TlsContext.load([files["localhost"]])


def trusting(files, name="localhost"):
    """Return a client context that trusts only this certificate."""
    return ssl.create_default_context(cafile=files[name][0])


def starttls_server(handler, tls, **options):
    return Server(handler, "127.0.0.1", tls=tls, **options)


async def upgraded(server, context, name="localhost"):
    """A client after STARTTLS."""
    client = await Client.to(server)
    assert b"STARTTLS" in await client.say(b"EHLO x.example\r\n")
    assert codes(await client.say(b"STARTTLS\r\n")) == [b"220"]
    await client.writer.start_tls(context, server_hostname=name)
    return client


class Raw:
    """A TLS client over memory buffers, for behaviour that libraries do not offer."""

    def __init__(self, context, server):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.server = server

    async def __aenter__(self):
        await asyncio.get_running_loop().sock_connect(self.socket, ("127.0.0.1", self.server.port))
        return self

    async def __aexit__(self, *_):
        self.socket.close()

    async def send(self, octets):
        if octets:  # unless it has closed its half
            await asyncio.get_running_loop().sock_sendall(self.socket, octets)

    async def receive(self):
        try:
            return await asyncio.get_running_loop().sock_recv(self.socket, 65536)
        except ConnectionResetError:
            return b""

    async def _until_done(self, what):
        while True:
            try:
                found = what()
                await self.send(self.outgoing.read())
                return found
            except ssl.SSLWantReadError:
                await self.send(self.outgoing.read())
                octets = await self.receive()
                if not octets:
                    return b""
                self.incoming.write(octets)

    async def shake_hands(self):
        await self._until_done(self.tls.do_handshake)

    async def say(self, octets, replies=1):
        if octets:
            self.tls.write(octets)
            await self.send(self.outgoing.read())
        said = b""
        while sum(line[3:4] == b" " for line in said.splitlines(keepends=True) if line.endswith(b"\n")) < replies:
            piece = await self._until_done(lambda: self.tls.read(65536))
            if not piece:
                break
            said += piece
        return said

    def cipher_text(self, octets):
        self.tls.write(octets)
        return self.outgoing.read()

    def close_notify(self):
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.outgoing.read()


class Watched(Open):
    """Records discarded content and every session."""

    def __init__(self):
        super().__init__()
        self.sessions = []
        self.discarded = asyncio.Event()
        handler = self

        class Spool(MemorySpool):
            def discard(self):
                handler.discarded.set()

        self.spool = Spool

    def connect(self, session):
        self.sessions.append(session)

    def content(self, session):
        return self.spool()


# ---------------------------------------------------------------------------------------------------------------------
# Handshakes


def test_starttls_then_a_message(run, files, tls):
    async def scenario():
        handler = Watched()
        async with starttls_server(handler, tls) as server:
            client = await upgraded(server, trusting(files))
            offered = await client.say(b"EHLO x.example\r\n")
            assert b"STARTTLS" not in offered
            assert len(codes(await client.say(ENVELOPE + b"DATA\r\n", 3))) == 3
            assert codes(await client.say(b"x\r\n.\r\nNOOP\r\nQUIT\r\n", 3)) == [b"250", b"250", b"221"]
            assert await client.rest() == b""
            await client.close()
        facts = handler.sessions[0].tls
        assert facts.version == "TLSv1.3"
        assert facts.cipher.startswith("TLS_")
        assert facts.server_name == "localhost"
        assert not facts.stated
        assert handler.messages == [b"x\r\n"]

    run(scenario())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_implicit_tls_carries_large_content_in_both_directions(run, files, tls, version):
    context = trusting(files)
    context.minimum_version = context.maximum_version = version
    content = os.urandom(32).hex().encode() * 40_000  # 2.5 MB

    async def scenario():
        handler = Open()
        settings = ServerSettings(max_size=1 << 24, max_body_line=1 << 24, max_commands=10**6)
        async with Server(handler, "127.0.0.1", tls=tls, implicit_tls=True, settings=settings) as server:
            client = await Client.to(server, ssl=context, server_hostname="localhost")
            assert b"STARTTLS" not in await client.say(b"EHLO x.example\r\n")
            await client.say(ENVELOPE + b"DATA\r\n", 3)
            assert codes(await client.say(content + b"\r\n.\r\n")) == [b"250"]
            answers = await client.say(b"HELP\r\n" * 20_000, 20_000)
            assert len(answers) > 500_000
            assert codes(await client.say(b"QUIT\r\n")) == [b"221"]
            assert await client.rest() == b""
            await client.close()
        assert handler.messages == [content + b"\r\n"]

    run(scenario())


def test_the_old_versions_are_refused(run, files, tls, caplog):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")

    async def scenario():
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        strict = TlsContext.load([files["localhost"]], minimum="TLSv1.3")
        async with Server(Open(), "127.0.0.1", tls=strict, implicit_tls=True) as server:
            with pytest.raises(ssl.SSLError):
                await Client.to(server, ssl=context)

    with caplog.at_level(logging.INFO, "ironpost.server"):
        run(scenario())
    assert "unsupported protocol" in caplog.text


def test_smtplib_with_starttls_and_implicit_tls(run, files, tls):
    def send(port, implicit):
        context = trusting(files)
        if implicit:
            client = smtplib.SMTP_SSL(
                "localhost", port, local_hostname="x.example", context=context, source_address=None
            )
        else:
            client = smtplib.SMTP("localhost", port, local_hostname="x.example")
            client.starttls(context=context)
        with client:
            return client.sendmail("a@b.example", ["c@d.example"], "Subject: x\n\ntext")

    async def scenario():
        handler = Open()
        for implicit in (False, True):
            async with Server(handler, "127.0.0.1", tls=tls, implicit_tls=implicit) as server:
                assert await asyncio.to_thread(send, server.port, implicit) == {}
        assert handler.messages == [b"Subject: x\r\n\r\ntext\r\n"] * 2

    run(scenario())


def test_openssl_speaks_starttls(run, files, tls):
    async def scenario():
        async with starttls_server(Open(), tls) as server:
            process = await asyncio.create_subprocess_exec(
                "openssl", "s_client", "-starttls", "smtp", "-connect", f"127.0.0.1:{server.port}", "-quiet",
                "-verify_return_error", "-CAfile", str(files["localhost"][0]), "-verify_hostname", "localhost",
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            out, err = await process.communicate(b"NOOP\r\nQUIT\r\n")
            assert replies.NOTHING_DONE.octets in out, err
            assert out.endswith(replies.GOODBYE.octets)

    run(scenario())


def test_a_returning_client_resumes_its_tls_session(run, files, tls):
    context = trusting(files)

    def twice(port):
        session = None
        for expected in (False, True):
            with (
                socket.create_connection(("127.0.0.1", port)) as sock,
                context.wrap_socket(sock, server_hostname="localhost", session=session) as wrapped,
            ):
                assert wrapped.recv(100).startswith(b"220")
                assert wrapped.session_reused is expected
                session = wrapped.session

    async def scenario():
        async with Server(Open(), "127.0.0.1", tls=tls, implicit_tls=True) as server:
            await asyncio.to_thread(twice, server.port)

    run(scenario())


# ---------------------------------------------------------------------------------------------------------------------
# Certificates


def test_the_certificate_is_selected_by_server_name(run, files):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    names = {
        None: "mx.example",
        "mx.example": "mx.example",
        "OTHER.example": "other.example",
        "a.wild.example": "*.wild.example",
        "a.b.wild.example": "mx.example",
        "unknown.example": "mx.example",
    }

    async def scenario():
        served = [files[name] for name in ("mx.example", "other.example", "*.wild.example")]
        handler = Watched()
        async with Server(handler, "127.0.0.1", tls=TlsContext.load(served), implicit_tls=True) as server:
            for asked, expected in names.items():
                client = await Client.to(server, ssl=context, server_hostname=asked or "")
                der = client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
                assert der == ssl.PEM_cert_to_DER_cert(files[expected][0].read_text())
                facts = handler.sessions[-1].tls
                assert facts.server_name == (asked or "")
                # ECDSA with SHA-256: the binding is the SHA-256 of the certificate (RFC 5929 §4.1)
                assert facts.bindings["tls-server-end-point"] == hashlib.sha256(der).digest()
                await client.close()

    run(scenario())


def test_a_reload_serves_new_handshakes_and_leaves_sessions_alone(run, files):
    async def scenario():
        async with starttls_server(Open(), TlsContext.load([files["localhost"]])) as server:
            old = await upgraded(server, trusting(files))
            waiting = await Client.to(server)
            server.tls = TlsContext.load([files["other.example"]])
            assert codes(await old.say(b"NOOP\r\n")) == [b"250"]
            new = await upgraded(server, trusting(files, "other.example"), "other.example")
            assert codes(await waiting.say(b"EHLO x.example\r\n") + await waiting.say(b"STARTTLS\r\n")) == [
                b"250",
                b"220",
            ]
            await waiting.writer.start_tls(trusting(files, "other.example"), server_hostname="other.example")
            for client in (old, new, waiting):
                assert codes(await client.say(b"NOOP\r\n")) == [b"250"]
                await client.close()

    run(scenario())


def test_client_certificates_are_optional(run, files):
    async def scenario():
        handler = Watched()
        tls = TlsContext.load([files["localhost"]], client_ca=files["other.example"][0])
        async with Server(handler, "127.0.0.1", tls=tls, implicit_tls=True) as server:
            for shown in (None, "other.example"):
                context = trusting(files)
                if shown:
                    context.load_cert_chain(*files[shown])
                client = await Client.to(server, ssl=context, server_hostname="localhost")
                assert codes(await client.say(b"NOOP\r\n")) == [b"250"]
                await client.close()
            nobody, somebody = (session.tls for session in handler.sessions)
            assert (nobody.subject, nobody.names) == ("", ())
            assert (somebody.subject, somebody.names) == ("CN=other.example", ("other.example",))
            stranger = trusting(files)
            stranger.load_cert_chain(*files["mx.example"])
            client = await Client.to(server, greeted=False, ssl=stranger, server_hostname="localhost")
            with pytest.raises(ssl.SSLError):  # TLS 1.3: the client learns it after its own handshake
                await client.reader.read()
            await client.close()
        assert len(handler.sessions) == 2

    run(scenario())


def test_the_error_for_an_unusable_certificate_gives_the_reason(files, tmp_path, caplog):
    certificate, key = files["mx.example"]
    with pytest.raises(TlsError, match=r"absent.pem: No such file"):
        TlsContext.load([(tmp_path / "absent.pem", key)])
    with pytest.raises(TlsError, match=r"absent.key: No such file"):
        TlsContext.load([(certificate, tmp_path / "absent.key")])
    with pytest.raises(TlsError, match=r"other.example.key: this private key does not match .*mx.example.pem"):
        TlsContext.load([(certificate, files["other.example"][1])])
    with pytest.raises(TlsError, match="no PEM certificate found"):
        TlsContext.load([(key, key)])
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n")
    with pytest.raises(TlsError, match=r"broken.pem: the certificate cannot be read"):
        TlsContext.load([(broken, key)])
    with pytest.raises(TlsError, match="private key cannot be used"):
        TlsContext.load([(certificate, certificate)])
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:x", "-out", locked]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(TlsError, match="encrypted"):
        TlsContext.load([(certificate, locked)])
    with pytest.raises(TlsError, match=r"broken.pem: the authorities cannot be read"):
        TlsContext.load([files["mx.example"]], client_ca=broken)
    with pytest.raises(ValueError, match="needs at least one certificate"):
        TlsContext.load([])
    with pytest.raises(ValueError, match=r"not 'TLSv1.1'"):
        TlsContext.load([files["mx.example"]], minimum="TLSv1.1")
    for options in ({"implicit_tls": True}, {"settings": ServerSettings(starttls=True)}):
        with pytest.raises(ValueError, match="TLS needs certificates"):
            Server(Open(), **options)
    both = tmp_path / "both.pem"
    both.touch(0o600)
    both.write_text(key.read_text() + certificate.read_text())
    assert TlsContext.load([(both, None)]).certificates[0].facts.names == ("mx.example",)
    assert caplog.records == []


def test_a_certificate_that_has_expired_is_used_with_a_warning(tmp_path, caplog):
    pair = tmp_path / "old.pem", tmp_path / "old.key"
    write_self_signed(*pair, ["old.example"], days=-1)
    context = TlsContext.load([pair])
    assert "old.pem expired on" in caplog.text
    assert context.expires == context.certificates[0].facts.not_after


def test_r47_a_written_certificate_is_readable_by_its_owner_only(tmp_path):
    pair = tmp_path / "new" / "a.pem", tmp_path / "new" / "a.key"
    write_self_signed(*pair, ["a.example", "192.0.2.1", "2001:db8::1"])
    assert [path.stat().st_mode & 0o777 for path in pair] == [0o600, 0o600]
    assert sorted(path.name for path in pair[0].parent.iterdir()) == ["a.key", "a.pem"]
    with pytest.raises(ValueError, match="needs at least one name"):
        write_self_signed(*pair, [])


# ---------------------------------------------------------------------------------------------------------------------
# Ends of connections, and hostile input


@pytest.mark.parametrize("start", [b"DATA\r\n", b"BDAT 1000 LAST\r\n"])
@pytest.mark.parametrize(
    "end", ["close_notify", "close_notify and clear text", "clear text", "FIN", "RST", "changed record"]
)
def test_r6_any_end_of_tls_inside_content_aborts_it(run, files, tls, start, end):
    async def scenario():
        handler = Watched()
        async with Server(handler, "127.0.0.1", tls=tls, implicit_tls=True) as server:
            async with Raw(trusting(files), server) as client:
                await client.shake_hands()
                await client.say(b"", 1)
                await client.say(b"EHLO x.example\r\n")
                await client.say(ENVELOPE + start, 3 if start.startswith(b"DATA") else 2)
                await client.send(client.cipher_text(b"half"))
                clear = b"\r\n.\r\n" + b"x" * 1000 + b"\r\n.\r\n" + ENVELOPE
                if end == "close_notify":
                    await client.send(client.close_notify())
                elif end == "close_notify and clear text":
                    await client.send(client.close_notify() + clear)
                elif end == "clear text":
                    await client.send(clear)
                elif end == "changed record":
                    octets = bytearray(client.cipher_text(b"\r\n.\r\n"))
                    octets[-1] ^= 1
                    await client.send(bytes(octets))
                elif end == "RST":
                    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.socket.close()
                else:
                    client.socket.shutdown(socket.SHUT_WR)
                await handler.gone.wait()
                await handler.discarded.wait()
            assert handler.messages == []
            assert handler.sessions[0].messages == 0
            assert not server.connections

    run(scenario())


@pytest.mark.parametrize("cut", [False, True])
def test_r6_a_started_commit_is_answered_after_close_notify(run, files, tls, cut):
    """`cut`: the client closes its half of the TCP connection as well."""

    async def scenario():
        release = asyncio.Event()

        class Slow(Watched):
            async def message(self, session, content, facts):
                await release.wait()
                self.messages.append(content.content)

        handler = Slow()
        server = Server(handler, "127.0.0.1", tls=tls, implicit_tls=True)
        async with server, Raw(trusting(files), server) as client:
            await client.shake_hands()
            await client.say(b"", 1)
            await client.say(b"EHLO x.example\r\n")
            await client.say(ENVELOPE + b"DATA\r\n", 3)
            await client.send(client.cipher_text(b"x\r\n.\r\n") + client.close_notify())
            (connection,) = server.connections
            while not connection.session._eof:
                await asyncio.sleep(0)
            if cut:
                client.socket.shutdown(socket.SHUT_WR)
                for _ in range(100):  # iterations of the loop, in which the server reads it
                    await asyncio.sleep(0)
            release.set()
            assert codes(await client.say(b"", 1)) == [b"250"]
            await handler.gone.wait()
        assert handler.messages == [b"x\r\n"]

    run(scenario())


@pytest.mark.parametrize("pause", [True, False])
def test_r9_plaintext_after_starttls_is_never_a_command(run, tls, pause):
    """In the same segment the session detects it; in a later one it is not a valid TLS record."""

    async def scenario():
        handler = Watched()
        async with starttls_server(handler, tls) as server:
            client = await Client.to(server)
            await client.say(b"EHLO x.example\r\n")
            if pause:
                assert codes(await client.say(b"STARTTLS\r\n")) == [b"220"]
                client.writer.write(b"EHLO injected.example\r\n" + ENVELOPE)
                rest = await client.rest()
                assert rest[:1] in {b"", b"\x15"}  # nothing, or the alert
            else:
                client.writer.write(b"STARTTLS\r\nEHLO injected.example\r\n" + ENVELOPE)
                assert b"250" not in await client.rest()
            await client.close()
            await handler.gone.wait()
        session = handler.sessions[0]
        assert session.helo != "injected.example"
        assert session.transaction is None

    run(scenario())


def test_r9_octets_after_the_handshake_command_are_the_handshake(run, files, tls):
    """A ClientHello sent before the 220 arrived before TLS, so the connection is closed."""

    async def scenario():
        handler = Watched()
        async with starttls_server(handler, tls) as server, Raw(trusting(files), server) as client:
            await client.receive()
            await client.send(b"EHLO x.example\r\n")
            await client.receive()
            with pytest.raises(ssl.SSLWantReadError):
                client.tls.do_handshake()
            await client.send(b"STARTTLS\r\n" + client.outgoing.read())
            while octets := await client.receive():
                assert not octets.startswith(b"\x16")
        assert handler.sessions[0].tls is None

    run(scenario())


@pytest.mark.parametrize(
    "octets", [b"", b"EHLO x.example\r\n", b"\x16\x03\x01\x02\x00", b"\x16\x03\x01\x00\x05hello", b"\x00"]
)
@pytest.mark.parametrize("implicit", [True, False])
def test_r24_an_invalid_handshake_costs_its_connection_only(run, files, tls, octets, implicit, caplog):
    async def scenario():
        handler = Watched()
        timeouts = Timeouts(handshake=0.05)
        async with Server(handler, "127.0.0.1", tls=tls, implicit_tls=implicit, timeouts=timeouts) as server:
            client = await Client.to(server, greeted=not implicit)
            if not implicit:
                await client.say(b"EHLO x.example\r\n")
                await client.say(b"STARTTLS\r\n")
            client.writer.write(octets)
            assert b"250" not in await client.rest()
            await client.close()
            while server.connections:
                await asyncio.sleep(0)
            server.timeouts = Timeouts()  # a busy machine may take longer than the timeout above
            context = trusting(files)
            if implicit:
                other = await Client.to(server, ssl=context, server_hostname="localhost")
            else:
                other = await upgraded(server, context)
            assert codes(await other.say(b"NOOP\r\n")) == [b"250"]
            await other.close()

    with caplog.at_level(logging.INFO, "ironpost.server"):
        run(scenario())
    assert "handshake" in caplog.text


def test_r7_octets_sent_with_the_handshake_are_early(run, files, tls):
    async def scenario():
        server = Server(Open(), "127.0.0.1", tls=tls, implicit_tls=True)
        async with server, Raw(trusting(files), server) as client:
            with pytest.raises(ssl.SSLWantReadError):
                client.tls.do_handshake()
            await client.send(client.outgoing.read())
            client.incoming.write(await client.receive())
            client.tls.do_handshake()
            await client.send(client.outgoing.read() + client.cipher_text(b"EHLO x.example\r\n"))
            assert await client.say(b"", 1) == replies.EARLY_TALKER.octets

    run(scenario())


def test_stop_sends_421_under_tls_and_aborts_handshakes(run, files, tls):
    async def scenario():
        server = Server(Open(), "127.0.0.1", tls=tls, implicit_tls=True)
        await server.start()
        idle = await Client.to(server, ssl=trusting(files), server_hostname="localhost")
        mute = await Client.to(server, greeted=False)
        while len(server.connections) < 2:
            await asyncio.sleep(0)
        await server.stop()
        assert await idle.rest() == replies.SHUTTING_DOWN.octets
        assert await mute.rest() == b""
        await idle.close()
        await mute.close()

    run(scenario())


def test_a_refusal_under_tls_reaches_a_client_that_is_still_sending(run, files, tls):
    """Closing with unread octets would reset the connection, and the reply with it."""

    async def scenario():
        async with Server(Open(), "127.0.0.1", tls=tls, implicit_tls=True) as server:
            client = await Client.to(server, ssl=trusting(files), server_hostname="localhost")
            client.writer.write(b"BDAT nonsense\r\n" + b"x" * 300_000)
            assert codes(await client.rest()) == [b"501", b"421"]
            await client.close()

    run(scenario())
