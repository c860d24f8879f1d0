"""Each mechanism against its other side and against the examples of its RFC (RFC 4422 §3)."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from typing import Any

import pytest
import scramp
from hypothesis import example, given
from hypothesis import strategies as st

from ironpost.protocol.sasl import (
    BY_DEFAULT,
    BY_NAME,
    MECHANISMS,
    Authenticated,
    AuthenticatorCall,
    Challenge,
    ChannelContext,
    ClientExchange,
    Credentials,
    CredentialsRejected,
    MalformedResponse,
    PrepareError,
    ScramCredential,
    ServerExchange,
    UntrustedServer,
    choose,
    prepare,
)
from ironpost.protocol.sasl.exchange import decode, initial
from ironpost.protocol.sasl.scram import credential

SALT = bytes(range(16))
STORED = credential("pencil", SALT, 4096)
EXPORTER = {"tls-exporter": b"x" * 32, "tls-server-end-point": b"e" * 32}
UNIQUE = {"tls-unique": b"u" * 12, "tls-server-end-point": b"e" * 32}
END_POINT = {"tls-server-end-point": b"e" * 32}
SERVER = ChannelContext(nonce="serverside", hostname="mx.example", secret=b"key")
CLIENT = ChannelContext(nonce="clientside")
ADA = Credentials("ada", "pencil")


def known(question: AuthenticatorCall) -> Any:
    """Answer the lookups of a server with one account: ada, password pencil, token abc, which may act as bob."""
    login, *more = question.arguments
    if question.method == "may_act_as":
        return (login, *more) == ("ada", "bob")
    if question.method == "external":
        return {"": "ada", "ada": "ada"}.get(login)
    if question.method == "verify_token":
        return "ada" if more == ["abc"] and login in {"", "ada", "bob"} else None
    if login != "ada":
        return None
    return {"verify_password": "ada" if more == ["pencil"] else None, "scram": STORED, "shared_secret": "pencil"}[
        question.method
    ]


def settled(exchange: ServerExchange, step: Challenge | AuthenticatorCall | Authenticated) -> Challenge | Authenticated:
    while isinstance(step, AuthenticatorCall):
        step = exchange.answer(known(step))
    return step


def converse(
    name: str, credentials: Credentials, client: ChannelContext = CLIENT, server: ChannelContext = SERVER
) -> Authenticated:
    """Run our client and server sides against each other, in base64."""
    theirs, ours = ServerExchange(BY_NAME[name], server), ClientExchange(BY_NAME[name], credentials, client)
    step = settled(theirs, theirs.start(None if ours.first is None else initial(ours.first)))
    while isinstance(step, Challenge):
        step = settled(theirs, theirs.respond(decode(ours.respond(b64encode(step.octets)))))
    ours.succeeded()
    return step


PASSWORDS = ["PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "CRAM-MD5"]


def context(name: str) -> tuple[ChannelContext, ChannelContext]:
    bindings = END_POINT if name.endswith("-PLUS") else {}
    return (
        ChannelContext(nonce="clientside", bindings=bindings, offers_binding=bool(bindings)),
        ChannelContext(nonce="serverside", bindings=bindings, offers_binding=bool(bindings), secret=b"key"),
    )


@pytest.mark.parametrize("name", PASSWORDS)
def test_a_right_password_is_granted(name: str) -> None:
    assert converse(name, ADA, *context(name)) == Authenticated("ada", "ada")


@pytest.mark.parametrize("name", PASSWORDS)
@pytest.mark.parametrize("wrong", [Credentials("ada", "pen"), Credentials("eve", "pencil"), Credentials("ada", "")])
def test_a_wrong_password_and_an_unknown_name_are_refused(name: str, wrong: Credentials) -> None:
    with pytest.raises(CredentialsRejected):
        converse(name, wrong, *context(name))


@pytest.mark.parametrize("name", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"])
def test_the_authenticator_decides_about_authorization_identities(name: str) -> None:
    bob = Credentials("ada", "pencil", authzid="bob")
    assert converse(name, bob, *context(name)) == Authenticated("bob", "ada")
    with pytest.raises(CredentialsRejected, match="may not act"):
        converse(name, Credentials("ada", "pencil", authzid="root"), *context(name))


def test_a_valid_token_is_granted_and_an_invalid_one_refused() -> None:
    for name in ("OAUTHBEARER", "XOAUTH2"):
        assert converse(name, Credentials("ada", token="abc", host="mx.example", port=587)) == Authenticated(
            "ada", "ada"
        )
        with pytest.raises(CredentialsRejected, match="token"):
            converse(name, Credentials("ada", token="abd"))
    assert converse("OAUTHBEARER", Credentials(token="abc")) == Authenticated("ada", "ada")
    assert converse("OAUTHBEARER", Credentials("ada", token="abc", authzid="bob")) == Authenticated("bob", "ada")


def test_external_uses_the_identities_of_the_connection() -> None:
    assert converse("EXTERNAL", Credentials(certificate=True)) == Authenticated("ada", "ada")
    assert converse("EXTERNAL", Credentials(certificate=True, authzid="ada")) == Authenticated("ada", "ada")
    with pytest.raises(CredentialsRejected):
        converse("EXTERNAL", Credentials(certificate=True, authzid="bob"))


# ---------------------------------------------------------------------------------------------------------------------
# The examples of the RFCs


def test_the_example_of_rfc_4616() -> None:  # RFC 4616 §4
    exchange = ServerExchange(BY_NAME["PLAIN"], SERVER)
    assert exchange.start(b"Ursel\0Kurt\0xipj3plmq") == AuthenticatorCall(
        "verify_password", "Kurt", ("Kurt", "xipj3plmq")
    )
    assert exchange.answer("Kurt") == AuthenticatorCall("may_act_as", "", ("Kurt", "Ursel"))
    assert exchange.answer(True) == Authenticated("Ursel", "Kurt")


def test_the_example_of_rfc_2195() -> None:  # RFC 2195 §2
    challenge = b"<1896.697170952@postoffice.reston.mci.net>"
    client = ClientExchange(BY_NAME["CRAM-MD5"], Credentials("tim", "tanstaaftanstaaf"), CLIENT)
    assert client.first is None
    assert b64decode(client.respond(b64encode(challenge))) == b"tim b913a602c7eda7a495b4e6e7334d3890"
    client.succeeded()


def test_the_example_of_rfc_7677() -> None:  # RFC 7677 §3
    client = ClientExchange(
        BY_NAME["SCRAM-SHA-256"], Credentials("user", "pencil"), ChannelContext(nonce="rOprNGfwEbeRWgbNEkqO")
    )
    assert client.first == b64encode(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
    asked = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    final = (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert b64decode(client.respond(b64encode(asked))) == final
    proof = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    assert client.respond(b64encode(proof)) == b""
    client.succeeded()

    server = ServerExchange(BY_NAME["SCRAM-SHA-256"], ChannelContext(nonce="%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"))
    question = server.start(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
    assert question == AuthenticatorCall("scram", "user", ("user",))
    assert server.answer(credential("pencil", b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)) == Challenge(asked)
    assert server.respond(final) == Challenge(proof)
    assert server.respond(b"") == Authenticated("user", "user")


def test_the_examples_of_rfc_7628() -> None:  # RFC 7628 §4.1, §4.3
    right = b64decode(
        "bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZGOWRmdDRxbVRjMk5"
        "2YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
    )
    exchange = ServerExchange(BY_NAME["OAUTHBEARER"], SERVER)
    token = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
    assert exchange.start(right) == AuthenticatorCall("verify_token", "user@example.com", ("user@example.com", token))
    assert exchange.answer("user@example.com") == Authenticated("user@example.com", "user@example.com")

    wrong = ServerExchange(BY_NAME["OAUTHBEARER"], SERVER)
    wrong.start(right)
    assert wrong.answer(None) == Challenge(b'{"status":"invalid_token"}')
    with pytest.raises(CredentialsRejected):
        wrong.respond(b"\1")


def test_an_oauth_client_acknowledges_an_error_and_stores_the_reason() -> None:
    for name, dummy in (("OAUTHBEARER", b"AQ=="), ("XOAUTH2", b"")):
        client = ClientExchange(BY_NAME[name], Credentials("ada", token="abc"), CLIENT)
        assert client.respond(b64encode(b'{"status":"invalid_token"}')) == dummy
        assert client.last_challenge == b'{"status":"invalid_token"}'
        with pytest.raises(UntrustedServer):
            client.succeeded()


def test_a_token_for_another_host_is_refused() -> None:  # RFC 7628 §3.2
    named = ChannelContext(server_name="mx.example")
    assert converse("OAUTHBEARER", Credentials("ada", token="abc", host="MX.example"), server=named).name == "ada"
    with pytest.raises(CredentialsRejected, match="host"):
        converse("OAUTHBEARER", Credentials("ada", token="abc", host="other.example"), server=named)


# ---------------------------------------------------------------------------------------------------------------------
# SCRAM


def test_scramp_logs_in_to_us_and_we_to_scramp() -> None:
    client = scramp.ScramClient(["SCRAM-SHA-256"], "ada", "pencil")
    exchange = ServerExchange(BY_NAME["SCRAM-SHA-256"], SERVER)
    step = settled(exchange, exchange.start(client.get_client_first().encode()))
    assert isinstance(step, Challenge)
    client.set_server_first(step.octets.decode())
    step = exchange.respond(client.get_client_final().encode())
    assert isinstance(step, Challenge)
    client.set_server_final(step.octets.decode())
    assert exchange.respond(b"") == Authenticated("ada", "ada")

    stored = scramp.ScramMechanism("SCRAM-SHA-256").make_auth_info("pencil", iteration_count=5000, salt=SALT)
    assert credential("pencil", SALT, 5000)[:4] == (stored[0], stored[3], stored[1], stored[2])
    server = scramp.ScramMechanism("SCRAM-SHA-256").make_server(lambda name: stored if name == "ada" else None)
    ours = ClientExchange(BY_NAME["SCRAM-SHA-256"], ADA, CLIENT)
    assert ours.first is not None
    server.set_client_first(b64decode(ours.first).decode())
    server.set_client_final(b64decode(ours.respond(b64encode(server.get_server_first().encode()))).decode())
    assert ours.respond(b64encode(server.get_server_final().encode())) == b""
    ours.succeeded()


def test_channel_binding_agrees_with_scramp() -> None:
    bound = ("tls-server-end-point", END_POINT["tls-server-end-point"])
    client = scramp.ScramClient(["SCRAM-SHA-256-PLUS"], "ada", "pencil", channel_binding=bound)
    exchange = ServerExchange(BY_NAME["SCRAM-SHA-256-PLUS"], ChannelContext(nonce="s", bindings=END_POINT))
    step = settled(exchange, exchange.start(client.get_client_first().encode()))
    assert isinstance(step, Challenge)
    client.set_server_first(step.octets.decode())
    assert isinstance(exchange.respond(client.get_client_final().encode()), Challenge)


@pytest.mark.parametrize(
    ("client", "server", "good"),
    [
        (EXPORTER, EXPORTER, True),
        (END_POINT, EXPORTER, True),
        (UNIQUE, UNIQUE, True),
        (EXPORTER, END_POINT, False),  # the server's TLS library does not offer what the client binds to
        ({"tls-server-end-point": b"m" * 32}, END_POINT, False),  # an attacker in the middle
        (END_POINT, {}, False),
    ],
)
def test_r53_plus_binds_to_the_channel(client: dict[str, bytes], server: dict[str, bytes], good: bool) -> None:
    sides = ChannelContext(nonce="c", bindings=client, offers_binding=True), ChannelContext(nonce="s", bindings=server)
    if good:
        assert converse("SCRAM-SHA-256-PLUS", ADA, *sides) == Authenticated("ada", "ada")
    else:
        with pytest.raises(CredentialsRejected):
            converse("SCRAM-SHA-256-PLUS", ADA, *sides)


def test_r53_the_better_binding_is_used() -> None:
    client = ClientExchange(BY_NAME["SCRAM-SHA-256-PLUS"], ADA, ChannelContext(nonce="c", bindings=EXPORTER))
    assert b64decode(client.first or b"").startswith(b"p=tls-exporter,,")


def test_r53_removing_plus_from_the_list_is_detected() -> None:
    cheated = ChannelContext(nonce="clientside", bindings=END_POINT, offers_binding=False)
    honest = ChannelContext(nonce="serverside", bindings=END_POINT, offers_binding=True, secret=b"key")
    with pytest.raises(CredentialsRejected, match="downgrade"):
        converse("SCRAM-SHA-256", ADA, cheated, honest)
    without = ChannelContext(nonce="serverside", secret=b"key")
    assert converse("SCRAM-SHA-256", ADA, cheated, without) == Authenticated("ada", "ada")


@pytest.mark.parametrize("header", ["n", "y", "p=tls-server-end-point", "p=tls-unique"])
def test_r53_a_binding_flag_must_match_its_mechanism(header: str) -> None:
    first = f"{header},,n=ada,r=abc".encode()
    able = ChannelContext(nonce="s", bindings=END_POINT, offers_binding=True)
    for name, taken in (("SCRAM-SHA-256", {"n"}), ("SCRAM-SHA-256-PLUS", {"p=tls-server-end-point"})):
        exchange = ServerExchange(BY_NAME[name], able)
        if header in taken:
            assert isinstance(exchange.start(first), AuthenticatorCall)
        else:
            with pytest.raises(CredentialsRejected):
                exchange.start(first)


def test_r53_an_unknown_name_is_shown_a_salt_like_any_other() -> None:
    def shown(login: str, secret: bytes = b"key") -> str:
        exchange = ServerExchange(BY_NAME["SCRAM-SHA-256"], ChannelContext(nonce="s", secret=secret))
        step = settled(exchange, exchange.start(f"n,,n={login},r=c".encode()))
        assert isinstance(step, Challenge)
        return step.octets.decode()

    assert shown("eve") == shown("eve")
    assert shown("eve") != shown("mallory")
    assert shown("eve") != shown("eve", b"another")
    parts = dict(part.split("=", 1) for part in shown("eve").split(","))
    assert len(b64decode(parts["s"])) == len(STORED.salt)
    assert int(parts["i"]) == credential("x", SALT).iterations


@pytest.mark.parametrize(
    "change",
    [
        lambda first, final: (b"n,,m=1,n=ada,r=abc", final),  # RFC 5802 §5.1: an extension that must be understood
        lambda first, final: (b"n,,n=a=41da,r=abc", final),
        lambda first, final: (b"n,,n=ada,r=", final),
        lambda first, final: (first, final.replace(b"c=biws", b"c=eSws")),
        lambda first, final: (first, final.replace(b"r=abc", b"r=abd")),
        lambda first, final: (first, final[:-4]),
        lambda first, final: (first, final.partition(b",p=")[0]),
        lambda first, final: (first, b"c=biws,r=abcserverside,p=AA=="),
        lambda first, final: (first, b"c=biws,r=abcserverside,p=A"),
        lambda first, final: (b"\xff", final),
    ],
)
def test_an_invalid_scram_message_is_refused(change: Any) -> None:
    first = b"n,,n=ada,r=abc"
    without = b"c=biws,r=abcserverside"
    asked = b"r=abcserverside,s=" + b64encode(SALT) + b",i=4096"
    salted = hashlib.pbkdf2_hmac("sha256", b"pencil", SALT, 4096)
    key = hmac.digest(salted, b"Client Key", "sha256")
    signed = b",".join((b"n=ada,r=abc", asked, without))
    proof = bytes(a ^ b for a, b in zip(key, hmac.digest(hashlib.sha256(key).digest(), signed, "sha256"), strict=True))
    final = without + b",p=" + b64encode(proof)

    def play(first: bytes, final: bytes) -> Challenge | Authenticated:
        exchange = ServerExchange(BY_NAME["SCRAM-SHA-256"], SERVER)
        assert isinstance(settled(exchange, exchange.start(first)), Challenge)
        return settled(exchange, exchange.respond(final))

    assert isinstance(play(first, final), Challenge)
    with pytest.raises((CredentialsRejected, MalformedResponse)):
        play(*change(first, final))


@pytest.mark.parametrize(
    "asked",
    [
        b"r=other,s=AAECAwQFBgcICQoLDA0ODw==,i=4096",
        b"r=clientside,s=AAECAwQFBgcICQoLDA0ODw==,i=4096",
        b"r=clientside1,s=AAECAwQFBgcICQoLDA0ODw==,i=4095",
        b"r=clientside1,s=AAECAwQFBgcICQoLDA0ODw==,i=9999999",
        b"r=clientside1,s=A,i=4096",
        b"e=unknown-user",
        b"",
        b"\xff",
    ],
)
def test_a_scram_client_aborts_if_the_server_is_not_trustworthy(asked: bytes) -> None:
    client = ClientExchange(BY_NAME["SCRAM-SHA-256"], ADA, CLIENT)
    with pytest.raises(UntrustedServer):
        client.respond(b64encode(asked))


def test_a_scram_server_without_proof_is_not_trusted() -> None:
    client = ClientExchange(BY_NAME["SCRAM-SHA-256"], ADA, CLIENT)
    with pytest.raises(UntrustedServer):
        client.succeeded()
    client.respond(b64encode(b"r=clientside1,s=AAECAwQFBgcICQoLDA0ODw==,i=4096"))
    with pytest.raises(UntrustedServer):
        client.succeeded()
    with pytest.raises(UntrustedServer, match="did not prove"):
        client.respond(b64encode(b"v=" + b64encode(b"x" * 32)))


# ---------------------------------------------------------------------------------------------------------------------
# Messages, names, choice


@pytest.mark.parametrize(
    "octets",
    [
        b"=AAA",
        b"AAA=BBB",
        b"AAAA=",
        b"AAAA====",
        b"A",
        b"AA",
        b"AA=A",
        b"QUFB QUFB",
        b"QUFB\tQUFB",
        b"*",
        b"\xff",
        b"-_-_",
    ],
)
def test_base64_is_strict(octets: bytes) -> None:  # RFC 4954 §4
    with pytest.raises(MalformedResponse):
        decode(octets)


def test_an_empty_initial_response_is_an_equals_sign() -> None:  # RFC 4954 §4
    assert initial(b"=") == b""
    assert ClientExchange(BY_NAME["EXTERNAL"], Credentials(certificate=True), CLIENT).first == b"="
    with pytest.raises(MalformedResponse):
        decode(b"=")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("PLAIN", b""),
        ("PLAIN", b"ada\0pencil"),
        ("PLAIN", b"\0ada\0pencil\0"),
        ("OAUTHBEARER", b"\1"),
        ("OAUTHBEARER", b"p=tls-exporter,,\1auth=Bearer abc\1\1"),
        ("OAUTHBEARER", b"n,,\1auth=Bearer abc"),
        ("OAUTHBEARER", b"n,,\1au-th=Bearer abc\1\1"),
        ("XOAUTH2", b"user=ada\1auth=Bearer abc\1"),
        ("EXTERNAL", b"\xff"),
    ],
)
def test_a_message_with_invalid_syntax_is_malformed(name: str, message: bytes) -> None:
    exchange = ServerExchange(BY_NAME[name], SERVER)
    with pytest.raises(MalformedResponse):
        exchange.start(message)


def test_a_client_aborts_on_an_unexpected_challenge() -> None:
    client = ClientExchange(BY_NAME["PLAIN"], ADA, CLIENT)
    client.succeeded()
    with pytest.raises(UntrustedServer, match="more"):
        client.respond(b"")
    with pytest.raises(UntrustedServer, match="base64"):
        ClientExchange(BY_NAME["LOGIN"], ADA, CLIENT).respond(b"Username:")


def test_names_are_prepared() -> None:
    assert converse("PLAIN", Credentials("\u00ada\u2060da", "pencil")) == Authenticated("ada", "ada")
    assert prepare("I\u00adX") == "IX"  # RFC 4013 §3
    assert prepare("user") == "user"
    assert prepare("USER") == "USER"
    assert prepare("\u00aa") == "a"
    assert prepare("\u2168") == "IX"
    assert prepare("pässwörd\u00a0\U0001fae0") == "pässwörd \U0001fae0"
    for wrong in ("\x07", "\u0627\u0031", "a\0", "\ue000", "\u202e"):
        with pytest.raises(PrepareError):
            prepare(wrong)
    with pytest.raises(PrepareError):
        Credentials("ada", "a\r\nb")
    exchange = ServerExchange(BY_NAME["PLAIN"], SERVER)
    with pytest.raises(CredentialsRejected):
        exchange.start("\u00ad\0ada\0pencil".encode())  # the authorization identity is empty after preparation


@given(st.text(st.characters(exclude_categories=["Cs", "Cn"])))
@example("\u1680")
def test_preparing_agrees_with_scramp(text: str) -> None:
    from scramp.utils import saslprep

    try:
        theirs = saslprep(text)
    except scramp.ScramException as refusal:
        if "unassigned" not in str(refusal):
            with pytest.raises(PrepareError):
                prepare(text)
        return
    assert prepare(text) == theirs


def test_repr_shows_no_secrets() -> None:
    shown = repr(Credentials("ada", "pencil", token="abc"))
    assert "pencil" not in shown
    assert "abc" not in shown


def test_the_client_chooses_the_best_usable_mechanism() -> None:
    every = [mechanism.name.lower() for mechanism in MECHANISMS]
    bound, free = ChannelContext(bindings=UNIQUE), ChannelContext()
    by_certificate = ChannelContext(bindings=END_POINT)

    def chosen(credentials: Credentials, context: ChannelContext, offered: list[str] = every) -> str | None:
        mechanism = choose(offered, credentials, context)
        return None if mechanism is None else mechanism.name

    assert chosen(ADA, bound) == "SCRAM-SHA-256-PLUS"
    assert chosen(ADA, ChannelContext(bindings=EXPORTER)) == "SCRAM-SHA-256-PLUS"
    assert chosen(ADA, by_certificate) == "SCRAM-SHA-256"  # a server that binds need not know that type
    assert choose(every, ADA, by_certificate, ["SCRAM-SHA-256-PLUS"]) is BY_NAME["SCRAM-SHA-256-PLUS"]
    assert choose(every, ADA, free, ["SCRAM-SHA-256-PLUS"]) is None
    assert chosen(ADA, free) == "SCRAM-SHA-256"
    assert chosen(ADA, free, ["login", "PLAIN"]) == "PLAIN"
    assert chosen(ADA, free, ["LOGIN"]) == "LOGIN"
    assert chosen(ADA, free, ["CRAM-MD5"]) is None
    assert choose(["CRAM-MD5"], ADA, free, [*BY_DEFAULT, "CRAM-MD5"]) is BY_NAME["CRAM-MD5"]
    assert chosen(Credentials("ada", token="abc"), free) == "OAUTHBEARER"
    assert chosen(Credentials("ada", token="abc"), free, ["PLAIN", "XOAUTH2"]) == "XOAUTH2"
    assert chosen(Credentials(certificate=True), free) == "EXTERNAL"
    assert chosen(Credentials("ada", "pencil", authzid="bob"), free, ["LOGIN"]) is None
    assert chosen(ADA, free, ["GSSAPI"]) is None


# ---------------------------------------------------------------------------------------------------------------------
# Arbitrary input

ANSWERS = {
    "verify_password": st.sampled_from([None, "ada"]),
    "verify_token": st.sampled_from([None, "ada"]),
    "external": st.sampled_from([None, "ada"]),
    "may_act_as": st.booleans(),
    "shared_secret": st.sampled_from([None, "pencil"]),
    "scram": st.sampled_from([None, STORED, ScramCredential(b"", 1, b"", b"")]),
}
PIECES = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.sampled_from(
            [
                b"n,,",
                b"y,,",
                b"p=tls-exporter,,",
                b"a=bob,",
                b"n=ada",
                b",r=abc",
                b",r=abcserverside",
                b"c=biws",
                b",p=",
                b"AAAA",
                b"\0",
                b"ada",
                b"pencil",
                b"\1",
                b"auth=Bearer abc",
                b"user=ada",
                b"=2C",
                b" ",
                b"\xc3\x28",
            ]
        ),
    ),
    max_size=8,
).map(b"".join)


@pytest.mark.parametrize("name", list(BY_NAME))
@given(data=st.data(), responses=st.lists(PIECES, min_size=1, max_size=4))
def test_r22_a_mechanism_refuses_or_grants_any_client_input(name: str, data: Any, responses: list[bytes]) -> None:
    sides = ChannelContext(nonce="serverside", bindings=EXPORTER, offers_binding=data.draw(st.booleans()))
    exchange = ServerExchange(BY_NAME[name], sides)
    try:
        step = exchange.start(responses.pop() if data.draw(st.booleans()) and BY_NAME[name].initial else None)
        while not isinstance(step, Authenticated):
            if isinstance(step, AuthenticatorCall):
                step = exchange.answer(data.draw(ANSWERS[step.method]))
            elif responses:
                step = exchange.respond(responses.pop())
            else:
                return
    except (CredentialsRejected, MalformedResponse):
        return
    assert step.name in {"ada", "bob"} or step.name


@pytest.mark.parametrize("name", list(BY_NAME))
@given(challenges=st.lists(PIECES, max_size=3))
def test_r22_a_client_answers_or_aborts_on_any_server_input(name: str, challenges: list[bytes]) -> None:
    client = ClientExchange(
        BY_NAME[name], Credentials("ada", "pencil", token="abc", certificate=True), ChannelContext("c", EXPORTER)
    )
    try:
        for challenge in challenges:
            client.respond(b64encode(challenge))
    except UntrustedServer:
        return
