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
    Challenge,
    Circumstances,
    ClientExchange,
    Credentials,
    Granted,
    Malformed,
    PrepareError,
    Question,
    Refused,
    ScramCredential,
    ServerExchange,
    Untrusted,
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
SERVER = Circumstances(nonce="serverside", hostname="mx.example", secret=b"key")
CLIENT = Circumstances(nonce="clientside")
ADA = Credentials("ada", "pencil")


def known(question: Question) -> Any:
    """Answers as a server does that has one account: ada, pencil, token abc; she may act as bob."""
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


def settled(exchange: ServerExchange, step: Challenge | Question | Granted) -> Challenge | Granted:
    while isinstance(step, Question):
        step = exchange.answer(known(step))
    return step


def converse(
    name: str, credentials: Credentials, client: Circumstances = CLIENT, server: Circumstances = SERVER
) -> Granted:
    """Both of our sides with each other, over base64, as over a connection."""
    theirs, ours = ServerExchange(BY_NAME[name], server), ClientExchange(BY_NAME[name], credentials, client)
    step = settled(theirs, theirs.start(None if ours.first is None else initial(ours.first)))
    while isinstance(step, Challenge):
        step = settled(theirs, theirs.respond(decode(ours.respond(b64encode(step.octets)))))
    ours.succeeded()
    return step


PASSWORDS = ["PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "CRAM-MD5"]


def circumstances(name: str) -> tuple[Circumstances, Circumstances]:
    bindings = END_POINT if name.endswith("-PLUS") else {}
    return (
        Circumstances(nonce="clientside", bindings=bindings, offers_binding=bool(bindings)),
        Circumstances(nonce="serverside", bindings=bindings, offers_binding=bool(bindings), secret=b"key"),
    )


@pytest.mark.parametrize("name", PASSWORDS)
def test_a_right_password_is_granted(name: str) -> None:
    assert converse(name, ADA, *circumstances(name)) == Granted("ada", "ada")


@pytest.mark.parametrize("name", PASSWORDS)
@pytest.mark.parametrize("wrong", [Credentials("ada", "pen"), Credentials("eve", "pencil"), Credentials("ada", "")])
def test_a_wrong_password_and_an_unknown_name_are_refused(name: str, wrong: Credentials) -> None:
    with pytest.raises(Refused):
        converse(name, wrong, *circumstances(name))


@pytest.mark.parametrize("name", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"])
def test_whom_to_act_as_is_asked_of_the_authenticator(name: str) -> None:
    bob = Credentials("ada", "pencil", authzid="bob")
    assert converse(name, bob, *circumstances(name)) == Granted("bob", "ada")
    with pytest.raises(Refused, match="may not act"):
        converse(name, Credentials("ada", "pencil", authzid="root"), *circumstances(name))


def test_tokens() -> None:
    for name in ("OAUTHBEARER", "XOAUTH2"):
        assert converse(name, Credentials("ada", token="abc", host="mx.example", port=587)) == Granted("ada", "ada")
        with pytest.raises(Refused, match="token"):
            converse(name, Credentials("ada", token="abd"))
    assert converse("OAUTHBEARER", Credentials(token="abc")) == Granted("ada", "ada")
    assert converse("OAUTHBEARER", Credentials("ada", token="abc", authzid="bob")) == Granted("bob", "ada")


def test_external_takes_what_the_connection_says() -> None:
    assert converse("EXTERNAL", Credentials(certificate=True)) == Granted("ada", "ada")
    assert converse("EXTERNAL", Credentials(certificate=True, authzid="ada")) == Granted("ada", "ada")
    with pytest.raises(Refused):
        converse("EXTERNAL", Credentials(certificate=True, authzid="bob"))


# ---------------------------------------------------------------------------------------------------------------------
# The examples of the RFCs


def test_the_example_of_rfc_4616() -> None:  # RFC 4616 §4
    exchange = ServerExchange(BY_NAME["PLAIN"], SERVER)
    assert exchange.start(b"Ursel\0Kurt\0xipj3plmq") == Question("verify_password", "Kurt", ("Kurt", "xipj3plmq"))
    assert exchange.answer("Kurt") == Question("may_act_as", "", ("Kurt", "Ursel"))
    assert exchange.answer(True) == Granted("Ursel", "Kurt")


def test_the_example_of_rfc_2195() -> None:  # RFC 2195 §2
    challenge = b"<1896.697170952@postoffice.reston.mci.net>"
    client = ClientExchange(BY_NAME["CRAM-MD5"], Credentials("tim", "tanstaaftanstaaf"), CLIENT)
    assert client.first is None
    assert b64decode(client.respond(b64encode(challenge))) == b"tim b913a602c7eda7a495b4e6e7334d3890"
    client.succeeded()


def test_the_example_of_rfc_7677() -> None:  # RFC 7677 §3
    client = ClientExchange(
        BY_NAME["SCRAM-SHA-256"], Credentials("user", "pencil"), Circumstances(nonce="rOprNGfwEbeRWgbNEkqO")
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

    server = ServerExchange(BY_NAME["SCRAM-SHA-256"], Circumstances(nonce="%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"))
    question = server.start(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
    assert question == Question("scram", "user", ("user",))
    assert server.answer(credential("pencil", b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)) == Challenge(asked)
    assert server.respond(final) == Challenge(proof)
    assert server.respond(b"") == Granted("user", "user")


def test_the_examples_of_rfc_7628() -> None:  # RFC 7628 §4.1, §4.3
    right = b64decode(
        "bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZGOWRmdDRxbVRjMk5"
        "2YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
    )
    exchange = ServerExchange(BY_NAME["OAUTHBEARER"], SERVER)
    token = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
    assert exchange.start(right) == Question("verify_token", "user@example.com", ("user@example.com", token))
    assert exchange.answer("user@example.com") == Granted("user@example.com", "user@example.com")

    wrong = ServerExchange(BY_NAME["OAUTHBEARER"], SERVER)
    wrong.start(right)
    assert wrong.answer(None) == Challenge(b'{"status":"invalid_token"}')
    with pytest.raises(Refused):
        wrong.respond(b"\1")


def test_an_oauth_client_answers_an_error_and_keeps_the_reason() -> None:
    for name, dummy in (("OAUTHBEARER", b"AQ=="), ("XOAUTH2", b"")):
        client = ClientExchange(BY_NAME[name], Credentials("ada", token="abc"), CLIENT)
        assert client.respond(b64encode(b'{"status":"invalid_token"}')) == dummy
        assert client.said == b'{"status":"invalid_token"}'
        with pytest.raises(Untrusted):
            client.succeeded()


def test_a_token_for_another_host_is_refused() -> None:  # RFC 7628 §3.2
    named = Circumstances(server_name="mx.example")
    assert converse("OAUTHBEARER", Credentials("ada", token="abc", host="MX.example"), server=named).name == "ada"
    with pytest.raises(Refused, match="host"):
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
    assert exchange.respond(b"") == Granted("ada", "ada")

    stored = scramp.ScramMechanism("SCRAM-SHA-256").make_auth_info("pencil", iteration_count=5000, salt=SALT)
    assert credential("pencil", SALT, 5000)[:4] == (stored[0], stored[3], stored[1], stored[2])
    server = scramp.ScramMechanism("SCRAM-SHA-256").make_server(lambda name: stored if name == "ada" else None)
    ours = ClientExchange(BY_NAME["SCRAM-SHA-256"], ADA, CLIENT)
    assert ours.first is not None
    server.set_client_first(b64decode(ours.first).decode())
    server.set_client_final(b64decode(ours.respond(b64encode(server.get_server_first().encode()))).decode())
    assert ours.respond(b64encode(server.get_server_final().encode())) == b""
    ours.succeeded()


def test_scramp_and_we_bind_to_the_channel_alike() -> None:
    bound = ("tls-server-end-point", END_POINT["tls-server-end-point"])
    client = scramp.ScramClient(["SCRAM-SHA-256-PLUS"], "ada", "pencil", channel_binding=bound)
    exchange = ServerExchange(BY_NAME["SCRAM-SHA-256-PLUS"], Circumstances(nonce="s", bindings=END_POINT))
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
        ({"tls-server-end-point": b"m" * 32}, END_POINT, False),  # somebody in the middle
        (END_POINT, {}, False),
    ],
)
def test_r53_plus_binds_to_the_channel(client: dict[str, bytes], server: dict[str, bytes], good: bool) -> None:
    sides = Circumstances(nonce="c", bindings=client, offers_binding=True), Circumstances(nonce="s", bindings=server)
    if good:
        assert converse("SCRAM-SHA-256-PLUS", ADA, *sides) == Granted("ada", "ada")
    else:
        with pytest.raises(Refused):
            converse("SCRAM-SHA-256-PLUS", ADA, *sides)


def test_r53_the_better_binding_is_used() -> None:
    client = ClientExchange(BY_NAME["SCRAM-SHA-256-PLUS"], ADA, Circumstances(nonce="c", bindings=EXPORTER))
    assert b64decode(client.first or b"").startswith(b"p=tls-exporter,,")


def test_r53_a_list_from_which_plus_was_taken_is_noticed() -> None:
    cheated = Circumstances(nonce="clientside", bindings=END_POINT, offers_binding=False)
    honest = Circumstances(nonce="serverside", bindings=END_POINT, offers_binding=True, secret=b"key")
    with pytest.raises(Refused, match="list was changed"):
        converse("SCRAM-SHA-256", ADA, cheated, honest)
    without = Circumstances(nonce="serverside", secret=b"key")
    assert converse("SCRAM-SHA-256", ADA, cheated, without) == Granted("ada", "ada")


@pytest.mark.parametrize("header", ["n", "y", "p=tls-server-end-point", "p=tls-unique"])
def test_r53_a_binding_flag_is_taken_only_by_its_mechanism(header: str) -> None:
    first = f"{header},,n=ada,r=abc".encode()
    able = Circumstances(nonce="s", bindings=END_POINT, offers_binding=True)
    for name, taken in (("SCRAM-SHA-256", {"n"}), ("SCRAM-SHA-256-PLUS", {"p=tls-server-end-point"})):
        exchange = ServerExchange(BY_NAME[name], able)
        if header in taken:
            assert isinstance(exchange.start(first), Question)
        else:
            with pytest.raises(Refused):
                exchange.start(first)


def test_r53_an_unknown_name_is_shown_a_salt_like_any_other() -> None:
    def shown(login: str, secret: bytes = b"key") -> str:
        exchange = ServerExchange(BY_NAME["SCRAM-SHA-256"], Circumstances(nonce="s", secret=secret))
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
def test_a_scram_message_that_is_wrong_is_refused(change: Any) -> None:
    first = b"n,,n=ada,r=abc"
    without = b"c=biws,r=abcserverside"
    asked = b"r=abcserverside,s=" + b64encode(SALT) + b",i=4096"
    salted = hashlib.pbkdf2_hmac("sha256", b"pencil", SALT, 4096)
    key = hmac.digest(salted, b"Client Key", "sha256")
    signed = b",".join((b"n=ada,r=abc", asked, without))
    proof = bytes(a ^ b for a, b in zip(key, hmac.digest(hashlib.sha256(key).digest(), signed, "sha256"), strict=True))
    final = without + b",p=" + b64encode(proof)

    def play(first: bytes, final: bytes) -> Challenge | Granted:
        exchange = ServerExchange(BY_NAME["SCRAM-SHA-256"], SERVER)
        assert isinstance(settled(exchange, exchange.start(first)), Challenge)
        return settled(exchange, exchange.respond(final))

    assert isinstance(play(first, final), Challenge)
    with pytest.raises((Refused, Malformed)):
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
def test_a_scram_client_leaves_a_server_that_it_cannot_trust(asked: bytes) -> None:
    client = ClientExchange(BY_NAME["SCRAM-SHA-256"], ADA, CLIENT)
    with pytest.raises(Untrusted):
        client.respond(b64encode(asked))


def test_a_scram_server_that_proves_nothing_is_no_success() -> None:
    client = ClientExchange(BY_NAME["SCRAM-SHA-256"], ADA, CLIENT)
    with pytest.raises(Untrusted):
        client.succeeded()
    client.respond(b64encode(b"r=clientside1,s=AAECAwQFBgcICQoLDA0ODw==,i=4096"))
    with pytest.raises(Untrusted):
        client.succeeded()
    with pytest.raises(Untrusted, match="does not prove"):
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
    with pytest.raises(Malformed):
        decode(octets)


def test_an_empty_initial_response_is_an_equals_sign() -> None:  # RFC 4954 §4
    assert initial(b"=") == b""
    assert ClientExchange(BY_NAME["EXTERNAL"], Credentials(certificate=True), CLIENT).first == b"="
    with pytest.raises(Malformed):
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
def test_a_message_of_another_form_is_malformed(name: str, message: bytes) -> None:
    exchange = ServerExchange(BY_NAME[name], SERVER)
    with pytest.raises(Malformed):
        exchange.start(message)


def test_a_client_that_is_asked_for_more_stops() -> None:
    client = ClientExchange(BY_NAME["PLAIN"], ADA, CLIENT)
    client.succeeded()
    with pytest.raises(Untrusted, match="more"):
        client.respond(b"")
    with pytest.raises(Untrusted, match="base64"):
        ClientExchange(BY_NAME["LOGIN"], ADA, CLIENT).respond(b"Username:")


def test_names_are_prepared() -> None:
    assert converse("PLAIN", Credentials("\u00ada\u2060da", "pencil")) == Granted("ada", "ada")
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
    with pytest.raises(Refused):
        exchange.start("\u00ad\0ada\0pencil".encode())  # nothing is left of the authorization identity


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


def test_secrets_do_not_show() -> None:
    shown = repr(Credentials("ada", "pencil", token="abc"))
    assert "pencil" not in shown
    assert "abc" not in shown


def test_the_client_chooses_the_best_that_it_can_use() -> None:
    every = [mechanism.name.lower() for mechanism in MECHANISMS]
    bound, free = Circumstances(bindings=UNIQUE), Circumstances()
    by_certificate = Circumstances(bindings=END_POINT)

    def chosen(credentials: Credentials, circumstances: Circumstances, offered: list[str] = every) -> str | None:
        mechanism = choose(offered, credentials, circumstances)
        return None if mechanism is None else mechanism.name

    assert chosen(ADA, bound) == "SCRAM-SHA-256-PLUS"
    assert chosen(ADA, Circumstances(bindings=EXPORTER)) == "SCRAM-SHA-256-PLUS"
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
# Whatever comes

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
def test_r22_whatever_a_client_sends_a_mechanism_refuses_or_grants(
    name: str, data: Any, responses: list[bytes]
) -> None:
    sides = Circumstances(nonce="serverside", bindings=EXPORTER, offers_binding=data.draw(st.booleans()))
    exchange = ServerExchange(BY_NAME[name], sides)
    try:
        step = exchange.start(responses.pop() if data.draw(st.booleans()) and BY_NAME[name].initial else None)
        while not isinstance(step, Granted):
            if isinstance(step, Question):
                step = exchange.answer(data.draw(ANSWERS[step.method]))
            elif responses:
                step = exchange.respond(responses.pop())
            else:
                return
    except (Refused, Malformed):
        return
    assert step.name in {"ada", "bob"} or step.name


@pytest.mark.parametrize("name", list(BY_NAME))
@given(challenges=st.lists(PIECES, max_size=3))
def test_r22_whatever_a_server_sends_a_client_answers_or_leaves(name: str, challenges: list[bytes]) -> None:
    client = ClientExchange(
        BY_NAME[name], Credentials("ada", "pencil", token="abc", certificate=True), Circumstances("c", EXPORTER)
    )
    try:
        for challenge in challenges:
            client.respond(b64encode(challenge))
    except Untrusted:
        return
