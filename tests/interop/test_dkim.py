"""DKIM against OpenDKIM, which verifies what we sign and signs what we verify, and against rspamd as a receiver. In the
end the server signs, and Postfix receives."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.interop.test_next_hop import AnyPort, Kept, route, submit
from tests.loading import load

from ironpost.mail_auth import DkimAnswer, Key, sign, verify_dkim
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType
    from typing import Any

HERE = Path(__file__).parent
HEADER = b"From: Jo <jo@mail.test>\r\nTo: ada@mx.test\r\nSubject: Hello\r\nDate: Sat, 28 Nov 2026 10:00:00 +0000\r\n"
MESSAGES = {
    "plain": HEADER + b"\r\nHello\r\n",
    "without a body": HEADER + b"\r\n",
    "empty lines": HEADER + b"\r\n\r\n\r\na\r\n\r\nb\r\n\r\n\r\n",
    "nothing but empty lines": HEADER + b"\r\n\r\n\r\n",
    "white space": HEADER + b"\r\n  a \t b\t\r\n \r\n\tc  \r\n \t \r\n",
    "folded": HEADER + b"References: <a@mail.test>\r\n \t<b@mail.test>  \r\n  <c@mail.test>\r\nCC: b \t \r\n\r\na\r\n",
    "octets": HEADER + b"X-Name: \xc3\xa9 \xff\r\n\r\n\xc3\xa9 \xff \x7f\r\n",
    "100 KB": HEADER + b"\r\n" + b"Of runs  of blanks,\tthis line has three.  \r\n" * 2_500,
}
FORMS = ("simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed")
# OpenDKIM 2.11 refuses its own signatures with Ed25519 and a simple header section.
SIGNED = [("rsa", form) for form in FORMS] + [("ed25519", form) for form in FORMS if form.startswith("relaxed")]


def private(kind: str) -> bytes:
    """A new private key in PEM."""
    key = generate_private_key(65537, 2048) if kind == "rsa" else Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


PEM = {kind: private(kind) for kind in ("rsa", "ed25519")}
KEYS = [Key.load("mail.test", kind, pem) for kind, pem in PEM.items()]


def verify(message: bytes) -> list[DkimAnswer]:
    resolver = StaticResolver(txt={key.name: [key.record.encode()] for key in KEYS})
    return list(asyncio.run(verify_dkim(message, resolver=resolver, now=time.time())))


@pytest.fixture
def opendkim(program: Callable[[str], str], milters: ModuleType, tmp_path: Path) -> Callable[[str, bytes], str]:
    """Run OpenDKIM with lines of its configuration over a message, without a mail server; return what it says."""
    program("opendkim")
    message = tmp_path / "message"

    def run(main: str, content: bytes) -> str:
        ready = milters.opendkim(tmp_path, 0, main=main, txt={key.name: key.record for key in KEYS})
        message.write_bytes(content)
        done = subprocess.run(
            [*ready.command, "-t", str(message), "-vv"],
            env=ready.env, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("name", MESSAGES)
def test_opendkim_verifies_both_our_signatures(opendkim: Callable[[str, bytes], str], name: str) -> None:
    said = opendkim("Mode v", sign(MESSAGES[name], KEYS, time.time()) + MESSAGES[name])
    for key in KEYS:
        assert re.search(rf"dkim=pass .*header.d=mail.test .*header.a={key.algorithm} header.s={key.selector}", said)


def test_opendkim_refuses_our_signatures_of_another_message(opendkim: Callable[[str, bytes], str]) -> None:
    fields = sign(MESSAGES["plain"], KEYS, time.time())
    for changed in (b"Subject: Hallo", b"Subject: Hello\r\nFrom: eve@evil.test"):
        said = opendkim("Mode v", fields + MESSAGES["plain"].replace(b"Subject: Hello", changed))
        assert "dkim=pass" not in said
        assert said.count("dkim=fail") == len(KEYS)


@pytest.mark.parametrize(("kind", "form"), SIGNED)
def test_we_verify_the_signatures_of_opendkim(
    opendkim: Callable[[str, bytes], str], tmp_path: Path, kind: str, form: str
) -> None:
    pem = tmp_path / "key"
    pem.write_bytes(PEM[kind])
    main = (
        f"Mode s\nInternalHosts 127.0.0.1\nDomain mail.test\nSelector {kind}\nKeyFile {pem}\nRequireSafeKeys no\n"
        f"SignatureAlgorithm {kind}-sha256\nCanonicalization {form}"
    )
    for name, message in MESSAGES.items():
        found = re.search("hname='DKIM-Signature' hvalue='(.*?)'$", opendkim(main, message), re.MULTILINE | re.DOTALL)
        assert found is not None, name
        field = f"DKIM-Signature: {found[1]}\n".replace("\n", "\r\n").encode()
        (answer,) = verify(field + message)
        assert (answer.result, answer.algorithm) == ("pass", f"{kind}-sha256"), f"{name}: {answer.reason}"
        (answer,) = verify(field + message.replace(b"Subject: Hello", b"Subject: Hallo"))
        assert answer.result == "fail"


def strings(text: str) -> str:
    """A TXT record as in a zone file, in strings of at most 255 octets."""
    return " ".join(f'"{part}"' for part in re.findall(".{1,255}", text))


@pytest.fixture
def rspamd(
    program: Callable[[str], str],
    mtas: ModuleType,
    signed_dns: Callable[..., int],
    listening: Callable[[subprocess.Popen[bytes], int], bool],
    port: int,
    tmp_path: Path,
) -> Iterator[Callable[[bytes], dict[str, Any]]]:
    """Start rspamd with our keys in DNS; hand a message to it, and return the symbols that it found."""
    program("rspamd")
    assert mtas.__name__ in sys.modules
    records = [f"{key.name}. 300 IN TXT {strings(key.record)}" for key in KEYS]
    ready = load(HERE / "rspamd.py").configure(tmp_path / "rspamd", port, signed_dns(records))
    log = tmp_path / "rspamd.log"
    with log.open("wb") as out:
        process = subprocess.Popen(ready.command, env=ready.env, stdout=out, stderr=out)
    assert listening(process, port), log.read_text()

    def check(content: bytes) -> dict[str, Any]:
        request = Request(f"http://127.0.0.1:{port}/checkv2", content, {"IP": "192.0.2.1"})
        with urlopen(request, timeout=60) as response:
            symbols: dict[str, Any] = json.load(response)["symbols"]
        return symbols

    yield check
    process.terminate()
    process.wait()


def test_rspamd_verifies_both_our_signatures(rspamd: Callable[[bytes], dict[str, Any]]) -> None:
    signers = {f"mail.test:s={key.selector}" for key in KEYS}
    for name, message in MESSAGES.items():
        symbols = rspamd(sign(message, KEYS, time.time()) + message)
        assert set(symbols["R_DKIM_ALLOW"]["options"]) == signers, name
    changed = MESSAGES["plain"].replace(b"Subject: Hello", b"Subject: Hallo")
    symbols = rspamd(sign(MESSAGES["plain"], KEYS, time.time()) + changed)
    assert "R_DKIM_ALLOW" not in symbols
    assert set(symbols["R_DKIM_REJECT"]["options"]) == signers


def signing(kind: str, folder: Path) -> str:
    """The configuration of a key."""
    file = folder / f"{kind}.pem"
    file.write_bytes(PEM[kind])
    file.chmod(0o600)
    return f'[[dkim]]\ndomain = "mail.test"\nselector = "{kind}"\nkey = "file:{file}"\n'


@pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason="needs root")
def test_what_the_server_signs_passes_at_postfix_with_opendkim_and_at_rspamd(
    serve: Callable[[str], Any],
    program: Callable[[str], str],
    mtas: ModuleType,
    milters: ModuleType,
    launch: Callable[[list[str], dict[str, str], int], None],
    listening: Callable[[subprocess.Popen[bytes], int], bool],
    free: Callable[[], int],
    rspamd: Callable[[bytes], dict[str, Any]],
    wait_until: Callable[[Callable[[], bool], Callable[[], str]], None],
    home: Path,
) -> None:
    for name in ("opendkim", "postfix"):
        program(name)
    milter, smtp = free(), free()
    records = {key.name: key.record for key in KEYS}
    verifying = milters.opendkim(home / "opendkim", milter, main="Mode v", txt=records)
    process = subprocess.Popen(verifying.command, env=verifying.env)
    handler = Kept()
    controller = AnyPort(handler, "127.0.0.1", 0, decode_data=False)
    controller.start()
    try:
        assert listening(process, milter)
        main = f"relayhost = [127.0.0.1]:{controller.port}\nsmtpd_milters = inet:127.0.0.1:{milter}"
        launch(*mtas.postfix(home / "postfix", smtp, main=main), smtp)
        server = serve(route(smtp) + "".join(signing(kind, home) for kind in PEM))
        submit(server.port, ["ada@mx.test"], MESSAGES["white space"])
        server.wait_until_empty()
        wait_until(lambda: len(handler.envelopes) == 1, server.log)
    finally:
        controller.stop()
        process.kill()
        process.wait()
    content = handler.envelopes[0].original_content
    for key in KEYS:
        result = rf"dkim=pass [^;]*header.d=mail.test [^;]*header.s={key.selector}"
        assert re.search(result.encode(), content)
    assert len(rspamd(content)["R_DKIM_ALLOW"]["options"]) == len(KEYS)
