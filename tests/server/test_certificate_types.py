"""f29: certificates for one name with several key types, and errors for keys that do not match."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from base64 import b64encode
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID
from server_kit import Client, Open

from ironpost import Server
from ironpost.accounts.authenticator import Users, new_user
from ironpost.protocol.sasl import BY_NAME, ChannelContext, ClientExchange, Credentials
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import TlsContext, TlsError

MAKERS = {
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "EC": lambda: ec.generate_private_key(ec.SECP256R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "Ed448": ed448.Ed448PrivateKey.generate,
}
CIPHERS = {"RSA": "ECDHE-RSA-AES128-GCM-SHA256", "EC": "ECDHE-ECDSA-AES128-GCM-SHA256"}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Create certificates: `made(kind, name, ...)` returns the files of certificate and key."""
    folder = tmp_path_factory.mktemp("kinds")

    def make(kind, *names, key_format=serialization.PrivateFormat.PKCS8):
        key, stem = MAKERS[kind](), f"{kind}-{len(list(folder.iterdir()))}"
        subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example")])
        now = datetime.now(UTC)
        built = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=9))
        )
        if names:
            alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            built = built.add_extension(alternatives, critical=False)
        signed = built.sign(key, None if kind.startswith("Ed") else hashes.SHA256())
        chain, secret = folder / f"{stem}.pem", folder / f"{stem}.key"
        chain.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        secret.touch(0o600)
        secret.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, key_format, serialization.NoEncryption())
        )  # fmt: skip
        return chain, secret

    return make


@pytest.fixture(scope="session")
def pairs(made):
    """The certificates for mx.example by key type."""
    return {kind: made(kind, "mx.example", "mail.example") for kind in ("RSA", "EC")}


class Account:
    """One account in memory."""

    secrets = False

    def find(self, login):
        return USER


USER = new_user("ada", "pencil")


def der(pair):
    return ssl.PEM_cert_to_DER_cert(pair[0].read_text())


def unverified(**options):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for name, value in options.items():
        setattr(context, name, value)
    return context


def only(kind):
    """Return a context of a TLS 1.2 client that supports only one key type."""
    context = unverified(maximum_version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(CIPHERS[kind])
    return context


async def shown(server, context, name):
    """Return the certificate that a client gets, the offered extensions, and the connection."""
    client = await Client.to(server, ssl=context, server_hostname=name)
    secured = client.writer.get_extra_info("ssl_object")
    return secured.getpeercert(binary_form=True), await client.say(b"EHLO x.example\r\n"), client


async def bound(client, certificate):
    """Log in with a binding to `certificate`; return the reply."""
    binding = {"tls-server-end-point": hashlib.sha256(certificate).digest()}
    facts = ChannelContext("fyko+d2lbbFgONRv9qkx", binding, offers_binding=True)
    ours = ClientExchange(BY_NAME["SCRAM-SHA-256-PLUS"], Credentials("ada", "pencil"), facts)
    reply = await client.say(b"AUTH SCRAM-SHA-256-PLUS %b\r\n" % ours.first)
    while reply.startswith(b"334 "):
        reply = await client.say(ours.respond(reply[4:].strip()) + b"\r\n")
    return reply[:3]


def serving(pairs, **options):
    settings = ServerSettings(hostname="mx.example", authenticator=Users([Account()], mechanisms=BY_NAME))
    return Server(Open(), "127.0.0.1", settings=settings, tls=TlsContext.load(pairs, **options), implicit_tls=True)


@pytest.mark.parametrize("order", [("RSA", "EC"), ("EC", "RSA")])
@pytest.mark.parametrize("name", ["mx.example", "MAIL.example", "unknown.example", ""])
def test_f29_each_client_gets_a_certificate_that_it_supports(run, pairs, order, name):
    async def scenario():
        async with serving([pairs[kind] for kind in order]) as server:
            for kind in order:
                certificate, offered, client = await shown(server, only(kind), name)
                assert certificate == der(pairs[kind])
                assert b"SCRAM-SHA-256-PLUS" in offered
                assert await bound(client, certificate) == b"235"
                await client.close()
                other = der(next(pair for each, pair in pairs.items() if each != kind))
                _, _, client = await shown(server, only(kind), name)
                assert await bound(client, other) == b"535"
                await client.close()

    run(scenario())


def test_f29_no_channel_binding_if_the_sent_certificate_is_unknown(run, pairs):
    """Under TLS 1.3 the server does not know which of two was sent: SCRAM works, PLUS is not offered."""

    async def scenario():
        async with serving([pairs["RSA"], pairs["EC"]]) as server:
            certificate, offered, client = await shown(server, unverified(), "mx.example")
            assert client.writer.get_extra_info("ssl_object").version() == "TLSv1.3"
            assert certificate in {der(pair) for pair in pairs.values()}
            assert b"SCRAM-SHA-256" in offered
            assert b"SCRAM-SHA-256-PLUS" not in offered
            # A client that supports PLUS but was not offered it says so ("y"), and is accepted.
            ours = b64encode(b"y,,n=ada,r=fyko").replace(b"\n", b"")
            assert (await client.say(b"AUTH SCRAM-SHA-256 %b\r\n" % ours)).startswith(b"334")
            await client.close()
        async with serving([pairs["EC"]]) as server:
            _, offered, client = await shown(server, unverified(), "mx.example")
            assert b"SCRAM-SHA-256-PLUS" in offered
            await client.close()

    run(scenario())


def test_f29_a_name_of_only_one_certificate_has_only_its_key_type(run, made):
    both = made("RSA", "mx.example"), made("EC", "mx.example", "other.example", "*.wild.example")

    async def scenario():
        async with serving(both) as server:
            for name, kind in (("mx.example", 0), ("mx.example", 1), ("other.example", 1), ("a.wild.example", 1)):
                certificate, _, client = await shown(server, only(("RSA", "EC")[kind]), name)
                assert certificate == der(both[kind])
                await client.close()
            with pytest.raises(ssl.SSLError):
                await shown(server, only("RSA"), "other.example")
            # It is the only one, so it can be bound to under TLS 1.3 as well.
            _, offered, client = await shown(server, unverified(), "other.example")
            assert b"SCRAM-SHA-256-PLUS" in offered
            await client.close()

    run(scenario())


def test_f29_a_certificate_that_no_client_could_get_is_an_error(made):
    first = made("EC", "mx.example", "mail.example")
    for names in (["mx.example"], ["mail.example", "mx.example"]):
        second = made("EC", *names)
        with pytest.raises(TlsError) as caught:
            TlsContext.load([first, made("RSA", "mx.example"), second])
        assert str(caught.value) == (
            f"{second[0]}: this certificate would never be used: like {first[0]}, it is for {', '.join(names)} and has "
            "a key of kind EC: remove one of the two"
        )
    nameless = [made("EC"), made("EC")]
    with pytest.raises(TlsError, match="it is for no name"):
        TlsContext.load(nameless)
    # With a name that the first lacks it is needed; the first serves the common name.
    wider = made("EC", "mx.example", "new.example")
    assert TlsContext.load([first, wider]).pick("mx.example").certificates[0].path == first[0]
    assert TlsContext.load([first, wider]).pick("new.example").certificates[0].path == wider[0]


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("other", MAKERS)
def test_f62_the_error_for_a_key_of_another_type_than_its_certificate(made, kind, other):
    (chain, _), (_, key) = made(kind, "mx.example"), made(other, "mx.example")
    with pytest.raises(TlsError) as caught:
        TlsContext.load([(chain, key)])
    if kind == other:
        assert str(caught.value) == f"{key}: this private key does not match the certificate in {chain}"
    else:
        assert str(caught.value) == f"{key}: this {other} key does not match the {kind} certificate in {chain}"


@pytest.mark.parametrize("kind", ["RSA", "EC"])
def test_f62_older_key_formats_are_recognised(made, kind):
    form = serialization.PrivateFormat.TraditionalOpenSSL
    other = "EC" if kind == "RSA" else "RSA"
    pair = made(kind, "mx.example", key_format=form)
    TlsContext.load([pair])
    with pytest.raises(TlsError, match=f"this {kind} key does not match the {other} certificate in "):
        TlsContext.load([(made(other, "mx.example")[0], pair[1])])


def test_f62_an_unusable_key_is_refused(made, tmp_path):
    chain, _ = made("EC", "mx.example")
    key = tmp_path / "key"
    key.touch(0o600)
    for text in ("", "no key", "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"):
        key.write_text(text)
        with pytest.raises(TlsError, match="the private key cannot be used"):
            TlsContext.load([(chain, key)])


def test_f29_a_key_that_others_may_read_is_logged(made, caplog):
    chain, key = made("EC", "mx.example")
    for mode, told in ((0o600, 0), (0o640, 0), (0o644, 1), (0o660, 1), (0o666, 1)):
        key.chmod(mode)
        TlsContext.load([(chain, key)])
        assert [f"({mode:04o})" in record.getMessage() for record in caplog.records] == [True] * told
        caplog.clear()


def test_f29_a_resumed_session_is_bound_to_the_certificate_it_began_with(run, pairs):
    async def scenario():
        async with serving([pairs["RSA"], pairs["EC"]]) as server:
            context = only("EC")
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", server.port, ssl=context, server_hostname="mx.example"
            )
            session = writer.get_extra_info("ssl_object").session
            writer.close()
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(incoming, outgoing, server_hostname="mx.example", session=session)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            said = b""
            while not said.endswith(b"\n"):
                try:
                    said += tls.read(65536)
                except ssl.SSLWantReadError:
                    writer.write(outgoing.read())
                    incoming.write(await reader.read(65536))
            assert tls.session_reused
            (found,) = server.connections
            assert found.session.tls.bindings["tls-server-end-point"] == hashlib.sha256(der(pairs["EC"])).digest()
            writer.close()

    run(scenario())
