"""Logins to smart hosts: mechanisms, TLS, rejected passwords and tokens, client certificates, and their reload."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.delivery.route_kit import CERTIFIED, certificate, smart_host
from tests.delivery.test_remote import D, F, P, deliver, delivery, message, one, peer, run
from tests.delivery.test_remote_tls import STARTTLS

from ironpost.delivery import access
from ironpost.delivery.access import AccessError, Accesses
from ironpost.model.tls import TlsLevel
from ironpost.protocol.sasl import BY_NAME
from ironpost.routing.profile import (
    ClientCertificate,
    ConnectionProfile,
    LoginProfile,
    SecretSource,
    TokenCommand,
)
from ironpost.routing.route import Host, Route
from ironpost.routing.tls import TlsUse

if TYPE_CHECKING:
    from ironpost.model import Outcome

TO = "grace@elsewhere.example"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("certificates")
    return {
        "hub": certificate(folder, "hub.example", "127.0.0.1"),
        "other": certificate(folder, "other.example"),
        "client": certificate(folder, CERTIFIED),
    }


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("pencil\n")
    path.chmod(0o600)
    return path


def by_password(files: dict[str, Path], password: Path, **changes: object) -> ConnectionProfile:
    login = LoginProfile("ada", SecretSource("file", str(password)))
    return replace(ConnectionProfile(tls=TlsUse.VERIFY, authorities=files["hub"], login=login), **changes)  # type: ignore[arg-type]


def by_token(files: dict[str, Path], token: SecretSource | TokenCommand) -> ConnectionProfile:
    return ConnectionProfile(tls=TlsUse.VERIFY, authorities=files["hub"], login=LoginProfile("ada", token=token))


# -- passwords --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])
@pytest.mark.parametrize(
    ("offered", "used"),
    [
        (tuple(BY_NAME), "SCRAM-SHA-256"),
        (("PLAIN", "SCRAM-SHA-256", "LOGIN", "CRAM-MD5"), "SCRAM-SHA-256"),
        (("SCRAM-SHA-256-PLUS",), "SCRAM-SHA-256-PLUS"),
        (("LOGIN", "PLAIN"), "PLAIN"),
        (("LOGIN",), "LOGIN"),
    ],
)
def test_the_strongest_mechanism_is_used(
    files: dict[str, Path], password: Path, implicit: bool, offered: tuple[str, ...], used: str
) -> None:
    async def main() -> None:
        async with smart_host(files["hub"], mechanisms=offered, implicit=implicit) as hub, delivery() as made:
            route = hub.route(by_password(files, password, implicit_tls=implicit))
            for _ in range(2):
                outcome = one(await deliver(made, message(TO), route))
                assert outcome.disposition is D
                assert outcome.tls is not None
                assert outcome.tls.level is TlsLevel.AUTHENTICATED
        first, second = hub.handler.arrived
        assert (first.identity, first.mechanism, first.protocol) == ("ada", used, "ESMTPSA")
        assert first.port == second.port

    run(main)


def test_only_the_mechanisms_that_are_allowed_are_used(files: dict[str, Path], password: Path) -> None:
    async def main() -> None:
        login = LoginProfile("ada", SecretSource("file", str(password)), mechanisms=("CRAM-MD5",))
        async with smart_host(files["hub"]) as hub, delivery() as made:
            outcome = one(await deliver(made, message(TO), hub.route(by_password(files, password, login=login))))
        assert outcome.disposition is D
        assert [each.mechanism for each in hub.handler.arrived] == ["CRAM-MD5"]

    run(main)


STRIPPED = {"EHLO": b"250-peer.example\r\n250 AUTH PLAIN LOGIN\r\n"}


def test_r13_without_tls_no_password_is_sent(files: dict[str, Path], password: Path) -> None:
    async def main() -> None:
        async with peer(STRIPPED) as here, delivery() as made:
            for use in (TlsUse.VERIFY, TlsUse.ENCRYPT):
                route = Route.smart([Host("127.0.0.1", here.port)], by_password(files, password, tls=use))
                outcome = one(await deliver(made, message(TO), route))
                assert (outcome.disposition, outcome.ours, outcome.reply.enhanced) == (P, True, "4.7.10")
        assert {command.split()[0] for command in here.commands} == {"EHLO", "QUIT"}

    run(main)


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])
def test_r13_a_host_that_does_not_prove_its_name_gets_no_password(
    files: dict[str, Path], password: Path, implicit: bool
) -> None:
    async def main() -> None:
        async with smart_host(files["other"], implicit=implicit) as hub, delivery() as made:
            profile = by_password(files, password, authorities=files["other"], implicit_tls=implicit)
            outcome = one(await deliver(made, message(TO), hub.route(profile)))
            assert (outcome.disposition, outcome.reply.enhanced) == (P, "4.7.5")
            assert "certificate was not accepted" in outcome.reply.detail
            if not implicit:  # with `encrypt` any certificate is accepted, as configured
                encrypt = hub.route(by_password(files, password, authorities=files["other"], tls=TlsUse.ENCRYPT))
                assert one(await deliver(made, message(TO), encrypt)).disposition is D
        assert hub.accounts.asked == (0 if implicit else 1)

    run(main)


def test_a_rejected_password_defers_is_reported_once_and_is_not_tried_again(
    files: dict[str, Path], password: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither at another host, nor for the next message; other routes are not concerned."""
    password.write_text("brush\n")

    async def main() -> None:
        async with smart_host(files["hub"], mechanisms=("PLAIN",)) as hub, delivery() as made:
            host = Host("127.0.0.1", hub.server.port)
            route = Route.smart([host, Host("localhost", hub.server.port)], by_password(files, password))
            first = one(await deliver(made, message(TO), route))
            second = one(await deliver(made, message(TO), route))
            assert hub.accounts.asked == 1
            assert (first.disposition, first.reply.code, first.ours, first.unreachable) == (P, 535, True, True)
            assert (second.disposition, second.reply.code, second.ours, second.unreachable) == (P, 454, False, True)
            assert "535" in str(second.reply)
            monkeypatch.setattr(access, "REJECTED_SECONDS", 0.0)
            made.accesses.of(route.profile)._rejected_until = 0.0  # type: ignore[union-attr]
            assert one(await deliver(made, message(TO), route)).reply.code == 535
            assert hub.accounts.asked == 2
        assert hub.handler.arrived == []

    run(main)


def test_a_temporary_failure_of_the_login_is_followed_by_the_next_host(files: dict[str, Path], password: Path) -> None:
    """RFC 4954 §6: 454 is about the server, not the credentials."""

    async def main() -> None:
        async with smart_host(files["hub"]) as hub, smart_host(files["hub"], ip="127.0.0.2") as spare:

            def fail(session: object, login: str, password: str) -> str:
                raise OSError("the database is away")

            hub.server.settings = replace(hub.server.settings)  # not shared with the other host
            object.__setattr__(hub.server.settings, "authenticator", Failing(fail))
            certificate_of_both = by_password(files, password, tls=TlsUse.ENCRYPT)
            route = Route.smart(
                [Host("127.0.0.1", hub.server.port), Host("127.0.0.2", spare.server.port)], certificate_of_both
            )
            async with delivery() as made:
                outcome = one(await deliver(made, message(TO), route))
            assert outcome.disposition is D
            assert outcome.remote.startswith("127.0.0.2") or "127.0.0.2" in outcome.remote
            assert (hub.handler.arrived, len(spare.handler.arrived)) == ([], 1)

    run(main)


class Failing:
    """An authenticator whose database does not answer."""

    mechanisms = ("PLAIN",)

    def __init__(self, verify: object) -> None:
        self.verify_password = verify


def test_r13_mail_that_requires_tls_is_kept_if_only_the_login_is_impossible(
    files: dict[str, Path], password: Path
) -> None:
    """RFC 8689 §4.2.1 lets such mail fail for missing TLS, not for our configuration."""

    async def main() -> None:
        login = LoginProfile("ada", SecretSource("file", str(password)), mechanisms=("XOAUTH2",))
        sent = message(TO)
        sent = sent._replace(envelope=sent.envelope._replace(parameters={"REQUIRETLS": None}))
        async with smart_host(files["hub"]) as hub, delivery() as made:
            outcome = one(await deliver(made, sent, hub.route(by_password(files, password, login=login))))
            assert (outcome.disposition, outcome.ours, outcome.reply.enhanced) == (P, True, "4.7.4")
            assert "usable authentication mechanism" in str(outcome.reply)
        async with peer(STRIPPED) as here, delivery() as made:
            route = Route.smart([Host("127.0.0.1", here.port)], by_password(files, password))
            outcome = one(await deliver(made, sent, route))
            assert (outcome.disposition, outcome.reply.enhanced) == (F, "5.7.10")

    run(main)


def test_a_wrong_password_is_tried_once_by_all_deliveries_together(files: dict[str, Path], password: Path) -> None:
    wrong = password.with_name("wrong")
    wrong.write_text("brush")

    async def main() -> None:
        async with smart_host(files["hub"], mechanisms=("PLAIN",)) as hub, delivery() as made:
            for secret, codes in ((wrong, [454] * 4 + [535]), (password, [250] * 5)):
                route = hub.route(by_password(files, secret))
                outcomes = await asyncio.gather(*(deliver(made, message(TO), route) for _ in range(5)))
                assert sorted(one(each).reply.code for each in outcomes) == codes
                assert hub.accounts.asked == (1 if secret == wrong else 6)

    run(main)


@pytest.mark.parametrize(
    ("reply", "final"),
    [
        (b"502 5.5.1 AUTH not available", False),
        (b"503 5.5.1 bad sequence", False),
        (b"504 5.5.4 mechanism not supported", False),
        (b"554 5.7.0 no", False),
        (b"534 5.7.9 Application-specific password required", True),
        (b"535 5.7.8 bad", True),
    ],
)
def test_a_refusal_that_is_not_about_the_credentials_is_followed_by_the_next_host(
    files: dict[str, Path], password: Path, reply: bytes, final: bool
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["hub"], files["hub"].with_suffix(".key"))
    answers = {**STARTTLS, "EHLO under TLS": b"250-peer.example\r\n250 AUTH PLAIN\r\n", "AUTH": reply + b"\r\n"}

    async def main() -> None:
        async with peer(answers, tls=context) as here, smart_host(files["hub"]) as spare, delivery() as made:
            hosts = [Host("127.0.0.1", here.port), Host("127.0.0.1", spare.server.port)]
            for code in (reply[:3], b"454") if final else (b"250", b"250"):
                outcome = one(await deliver(made, message(TO), Route.smart(hosts, by_password(files, password))))
                assert outcome.reply.code == int(code)

    run(main)


# -- reload -----------------------------------------------------------------------------------------------------------


def test_a_reload_reads_the_password_again_and_replaces_connections(files: dict[str, Path], password: Path) -> None:
    async def main() -> None:
        profile = by_password(files, password)
        async with smart_host(files["hub"]) as hub, delivery() as made:
            accesses = made.accesses
            accesses.use({profile: accesses.prepare(profile)})
            for _ in range(2):  # nothing has changed the second time
                assert one(await deliver(made, message(TO), hub.route(profile))).disposition is D
                accesses.use({profile: accesses.prepare(profile)})
            password.write_text("brush")
            accesses.use({profile: accesses.prepare(profile)})
            assert one(await deliver(made, message(TO), hub.route(profile))).reply.code == 535
            password.write_text("pencil")
            accesses.use({profile: accesses.prepare(profile)})
            assert one(await deliver(made, message(TO), hub.route(profile))).disposition is D
        ports = [each.port for each in hub.handler.arrived]
        assert ports[0] == ports[1] != ports[2]

    run(main)


def test_a_file_that_changes_while_it_is_read_is_loaded_again_by_the_next_reload(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, key = tmp_path / "mine.pem", tmp_path / "mine.key"

    def write(name: str) -> None:
        chain.write_bytes(files[name].read_bytes())
        key.write_bytes(files[name].with_suffix(".key").read_bytes())

    def replaced(authorities: Path | None) -> ssl.SSLContext:
        write("other")
        return really(authorities)

    really = access._verifying
    write("client")
    profile = ConnectionProfile(certificate=ClientCertificate(chain, key))
    with monkeypatch.context() as patched:
        patched.setattr(access, "_verifying", replaced)
        first = access.Access.read(profile, files["hub"])
    assert access.Access.read(profile, files["hub"]).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("source", "content", "reason"),
    [
        ("file:missing", None, "missing: No such file or directory"),
        ("file:empty", b"\n", "empty: the file is empty"),
        ("file:large", b"x" * 70_000, "large: the file is too large"),
        ("file:latin", b"caf\xe9\n", "latin: the secret is not UTF-8"),
        ("file:control", b"pen\x07cil\n", "the user name or the password cannot be used"),
        ("env:IRONPOST_TEST_ABSENT", None, "the environment variable IRONPOST_TEST_ABSENT is not set"),
    ],
)
def test_a_secret_that_cannot_be_read_is_named_and_changes_nothing(
    files: dict[str, Path], tmp_path: Path, source: str, content: bytes | None, reason: str
) -> None:
    kind, _, name = source.partition(":")
    key = "auth: " if name == "control" else "auth.password: "
    if kind == "file":
        if content is not None:
            (tmp_path / name).write_bytes(content)
        source = f"file:{tmp_path / name}"
    profile = by_password(files, Path("unused"), login=LoginProfile("ada", SecretSource.parse(source)))
    with pytest.raises(AccessError) as caught:
        Accesses().prepare(profile)
    assert str(caught.value).startswith(key)
    assert reason in str(caught.value)

    async def main() -> None:
        async with delivery() as made:
            outcome = one(await deliver(made, message(TO), Route.smart(["127.0.0.1"], profile)))
        assert (outcome.disposition, outcome.reply.enhanced, outcome.ours) == (P, "4.3.5", True)
        assert reason in outcome.reply.detail

    run(main)


def test_a_password_from_the_environment(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRONPOST_TEST_RELAY", "pencil")

    async def main() -> None:
        login = LoginProfile("ada", SecretSource("env", "IRONPOST_TEST_RELAY"))
        async with smart_host(files["hub"]) as hub, delivery() as made:
            profile = by_password(files, Path("unused"), login=login)
            assert one(await deliver(made, message(TO), hub.route(profile))).disposition is D

    run(main)


# -- tokens -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def printer(tmp_path: Path) -> TokenCommand:
    """A program that prints the next line of `tokens`, and counts in `runs`; it keeps its environment in `environ`."""
    program = tmp_path / "token.py"
    program.write_text(
        "import json, os, pathlib, sys\n"
        "folder = pathlib.Path(__file__).parent\n"
        "runs = len((folder / 'runs').read_text()) if (folder / 'runs').exists() else 0\n"
        "(folder / 'runs').write_text('x' * (runs + 1))\n"
        "(folder / 'environ').write_text(json.dumps(dict(os.environ)))\n"
        "lines = (folder / 'tokens').read_text().splitlines()\n"
        "print(lines[min(runs, len(lines) - 1)])\n"
    )
    return TokenCommand((sys.executable, "-I", str(program)), ("IRONPOST_TEST_ALLOWED",))


def runs(printer: TokenCommand) -> int:
    return len((Path(printer.argv[-1]).parent / "runs").read_text())


def tokens(printer: TokenCommand, *lines: object) -> None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (Path(printer.argv[-1]).parent / "tokens").write_text(text + "\n")


@pytest.mark.parametrize("mechanism", ["OAUTHBEARER", "XOAUTH2"])
def test_r40_a_token_from_a_program_is_kept_until_it_is_rejected(
    files: dict[str, Path], printer: TokenCommand, mechanism: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IRONPOST_TEST_ALLOWED", "yes")
    monkeypatch.setenv("IRONPOST_TEST_SECRET", "no")
    tokens(printer, {"access_token": "abc", "token_type": "Bearer", "expires_in": 3600}, "def", "old")

    async def main() -> None:
        async with smart_host(files["hub"], mechanisms=(mechanism,)) as hub, delivery() as made:
            route = hub.route(by_token(files, printer))

            async def attempt() -> Outcome:
                made._pool._messages = 1  # a connection for each message
                return one(await deliver(made, message(TO), route))

            assert [(await attempt()).disposition for _ in range(2)] == [D, D]
            assert runs(printer) == 1
            hub.handler.valid = {"def"}
            assert (await attempt()).disposition is D  # renewed once, at once
            assert (runs(printer), hub.handler.tokens) == (2, ["abc", "abc", "abc", "def"])
            hub.handler.valid = set()
            rejected = await attempt()
            assert (rejected.disposition, rejected.reply.code, rejected.ours) == (P, 535, True)
            assert (runs(printer), hub.handler.tokens[-2:]) == (3, ["def", "old"])
            assert (await attempt()).reply.code == 454
            assert runs(printer) == 3
        assert [each.mechanism for each in hub.handler.arrived] == [mechanism] * 3

    run(main)
    environ = json.loads((Path(printer.argv[-1]).parent / "environ").read_text())
    assert environ.keys() - {"LC_CTYPE"} == {"PATH", "IRONPOST_TEST_ALLOWED"} & (os.environ.keys())


def test_a_token_from_a_file_is_read_for_each_login(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("abc\n")

    async def main() -> None:
        async with smart_host(files["hub"]) as hub, delivery() as made:
            route = hub.route(by_token(files, SecretSource("file", str(path))))
            made._pool._messages = 1
            assert one(await deliver(made, message(TO), route)).disposition is D
            hub.handler.valid = {"def"}
            path.write_text('{"access_token": "def"}')
            assert one(await deliver(made, message(TO), route)).disposition is D
            assert hub.handler.tokens == ["abc", "def"]
            path.unlink()
            outcome = one(await deliver(made, message(TO), route))
            assert (outcome.disposition, outcome.reply.enhanced, outcome.ours) == (P, "4.7.0", True)
            assert "No such file" in outcome.reply.detail

    run(main)


# -- client certificates ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])
def test_a_client_certificate_identifies_this_server(files: dict[str, Path], implicit: bool) -> None:
    mine = ClientCertificate(files["client"], files["client"].with_suffix(".key"))

    async def main() -> None:
        options = {"mechanisms": ("EXTERNAL",), "client_ca": files["client"], "implicit": implicit}
        async with smart_host(files["hub"], **options) as hub, delivery() as made:  # type: ignore[arg-type]
            profile = ConnectionProfile(
                tls=TlsUse.VERIFY,
                implicit_tls=implicit,
                authorities=files["hub"],
                certificate=mine,
                login=LoginProfile(CERTIFIED),
            )
            outcome = one(await deliver(made, message(TO), hub.route(profile)))
            assert outcome.disposition is D, outcome
        assert [(each.identity, each.mechanism) for each in hub.handler.arrived] == [(CERTIFIED, "EXTERNAL")]

    run(main)


@pytest.mark.parametrize(
    ("mechanisms", "used"), [(None, "SCRAM-SHA-256"), (("EXTERNAL",), "EXTERNAL")], ids=["secret", "certificate"]
)
def test_a_secret_is_preferred_to_the_certificate_unless_the_mechanism_is_named(
    files: dict[str, Path], password: Path, mechanisms: tuple[str, ...] | None, used: str
) -> None:
    """Many hosts require a certificate of us, and the login nevertheless."""
    mine = ClientCertificate(files["client"], files["client"].with_suffix(".key"))
    login = LoginProfile("ada", SecretSource("file", str(password)), mechanisms=mechanisms)

    async def main() -> None:
        async with smart_host(files["hub"], client_ca=files["client"]) as hub, delivery() as made:
            route = hub.route(by_password(files, password, certificate=mine, login=login))
            assert one(await deliver(made, message(TO), route)).disposition is D
        assert [each.mechanism for each in hub.handler.arrived] == [used]

    run(main)


@pytest.mark.parametrize(
    ("chain", "key", "reason"),
    [
        ("client.pem", "missing.key", "missing.key: No such file or directory"),
        ("missing.pem", "client.key", "missing.pem: No such file or directory"),
        ("client.pem", "hub.key", "does not match"),
        ("empty", "client.key", "empty: no PEM certificate found"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_named(
    files: dict[str, Path], tmp_path: Path, chain: str, key: str, reason: str
) -> None:
    for name in ("client", "hub"):
        (tmp_path / f"{name}.pem").write_bytes(files[name].read_bytes())
        (tmp_path / f"{name}.key").write_bytes(files[name].with_suffix(".key").read_bytes())
    (tmp_path / "empty").touch()
    profile = ConnectionProfile(certificate=ClientCertificate(tmp_path / chain, tmp_path / key))
    with pytest.raises(AccessError) as caught:
        Accesses().prepare(profile)
    assert reason in str(caught.value)
    assert str(caught.value).startswith("key: " if key != "client.key" else "certificate: ")
    with pytest.raises(AccessError, match=r"^ca: .*missing\.pem: No such file"):
        Accesses().prepare(ConnectionProfile(authorities=tmp_path / "missing.pem"))
