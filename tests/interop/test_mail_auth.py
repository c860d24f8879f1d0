"""SPF, DKIM, ARC and DMARC end to end: signed zones in a validating resolver, Postfix with OpenDKIM, a spoofer."""

from __future__ import annotations

import json
import os
import re
import smtplib
import subprocess
from email import message_from_bytes
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.conftest import PROGRAM, environment
from tests.mail_auth.signed import sealed

from ironpost.mail_auth import Key, sign

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

PEM = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
BANK, LIST = (Key.load(f"{name}.test", "s", PEM) for name in ("bank", "lists"))
DIRECT, FORWARDER, SPOOFER = "127.0.0.1", "127.0.0.2", "127.0.0.3"
CONTENT = b"From: Bank <ada@bank.test>\r\nTo: jo@here.test\r\nSubject: Statement\r\nDate: x\r\n\r\nYour balance.\r\n"

needs_root = pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason="needs root")


def txt(name: str, text: str) -> str:
    """A TXT record for a zone file, in strings of at most 255 octets."""
    strings = " ".join(f'"{text[at : at + 255]}"' for at in range(0, len(text), 255))
    return f"{name}. 300 IN TXT {strings}"


ZONE = [
    txt("bank.test", f"v=spf1 ip4:{DIRECT} -all"),
    txt("_dmarc.bank.test", "v=DMARC1; p=reject; rua=mailto:reports@bank.test; ruf=mailto:fraud@here.test; fo=1"),
    txt("bank.test._report._dmarc.here.test", "v=DMARC1"),
    txt(BANK.name, BANK.record),
    txt("lists.test", f"v=spf1 ip4:{FORWARDER} -all"),
    txt(LIST.name, LIST.record),
    txt("forwarder.test", f"v=spf1 ip4:{FORWARDER} -all"),
    txt("bogus.test", f"v=spf1 ip4:{DIRECT} -all"),
    txt("_dmarc.bogus.test", "v=DMARC1; p=none"),
]


class Receiver:
    """A server for here.test, and the mail that it has delivered."""

    def __init__(self, serve: Callable[..., Any], resolver: int, more: str = "") -> None:
        self.server = serve(
            f"""trusted = []
[local]
domains = ["here.test"]
[dns]
servers = ["127.0.0.1:{resolver}"]
[policy]
spf = "record"
dkim = "record"
arc = "record"
dmarc = "reject"
{more}"""
        )

    def take(self, content: bytes, sender: str, source: str) -> tuple[int, bytes]:
        """The reply to a message."""
        with smtplib.SMTP("127.0.0.1", self.server.port, "client.test", 60, (source, 0)) as client:
            client.ehlo()
            assert client.mail(sender)[0] == 250
            assert client.rcpt("jo@here.test")[0] == 250
            return client.data(content)

    def delivered(self) -> list[bytes]:
        folder = self.server.data / "mail" / "new"
        return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.is_dir() else []

    def log(self, event: str) -> list[dict[str, Any]]:
        """The records of an event that are written whole."""
        records = map(json.loads, self.server.log().rpartition("\n")[0].splitlines())
        return [each for each in records if each.get("event") == event]

    def reasons(self, event: str, end: str) -> Callable[[], bool]:
        """Whether the reasons in the last record of an event end like this."""
        return lambda: any(each["reasons"][-1].endswith(end) for each in self.log(event)[-1:])


def results(message: bytes) -> list[str]:
    """The results in the only field Authentication-Results, without reasons and properties."""
    unfolded = message.replace(b"\r\n", b"\n").replace(b"\n ", b" ").decode()
    (field,) = [line for line in unfolded.split("\n\n")[0].splitlines() if line.startswith("Authentication-Results:")]
    service, *found = re.sub('"[^"]*"', "", field.removeprefix("Authentication-Results: ")).split("; ")
    assert service == "mx.example"
    return [each.split()[0] for each in found]


@pytest.fixture
def receiver(serve: Callable[..., Any], signed_dns: Callable[..., int]) -> Callable[..., Receiver]:
    return lambda more="", bogus=(): Receiver(serve, signed_dns(ZONE, bogus=bogus), more)


@needs_root
def test_mail_that_opendkim_signed_passes_directly_and_forwarded(
    receiver: Callable[..., Receiver],
    mtas: ModuleType,
    milters: ModuleType,
    launch: Callable[[list[str], dict[str, str], int], None],
    free: Callable[[], int],
    home: Path,
    program: Callable[[str], str],
    listening: Callable[[subprocess.Popen[bytes], int], bool],
    wait_until: Callable[[Callable[[], bool], Callable[[], str]], None],
) -> None:
    program("opendkim")
    program("postfix")
    here = receiver()
    key, milter, smtp = home / "key.pem", free(), free()
    key.write_bytes(PEM)
    key.chmod(0o600)
    options = f"Mode s\nInternalHosts 127.0.0.1\nDomain bank.test\nSelector s\nKeyFile {key}\nRequireSafeKeys no"
    signing = milters.opendkim(home / "opendkim", milter, main=options)
    process = subprocess.Popen(signing.command, env=signing.env)
    try:
        assert listening(process, milter)
        main = f"relayhost = [127.0.0.1]:{here.server.port}\nsmtpd_milters = inet:127.0.0.1:{milter}"
        launch(*mtas.postfix(home / "postfix", smtp, main=main), smtp)
        with smtplib.SMTP("127.0.0.1", smtp, "client.test") as client:
            client.sendmail("ada@bank.test", ["jo@here.test"], CONTENT)
        wait_until(lambda: len(here.delivered()) == 1, here.server.log)
    finally:
        process.kill()
        process.wait()
    (direct,) = here.delivered()
    assert results(direct) == ["spf=pass", "dkim=pass", "dmarc=pass"]

    # A forwarder keeps sender and content, so SPF fails; or it names itself as the sender.
    original = direct[direct.index(b"DKIM-Signature:") :].replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    for sender in ("ada@bank.test", "bounces@forwarder.test"):
        assert here.take(original, sender, FORWARDER)[0] == 250
    wait_until(lambda: len(here.delivered()) == 3, here.server.log)
    expected = [["spf=fail", "dkim=pass", "dmarc=pass"], ["spf=pass", "dkim=pass", "dmarc=pass"]]
    assert sorted(map(results, here.delivered()[1:])) == expected


def through_list(signed: bytes) -> bytes:
    """What a mailing list makes of a message: another subject, a footer, and its own signature."""
    changed = signed.replace(b"Subject: ", b"Subject: [list] ") + b"-- \r\nThe list\r\n"
    return sign(changed, [LIST], now=0.0) + changed


def test_a_mailing_list_is_accepted_if_the_configuration_names_it(
    receiver: Callable[..., Receiver],
    wait_until: Callable[[Callable[[], bool], Callable[[], str]], None],
) -> None:
    sent = through_list(sign(CONTENT, [BANK], now=0.0) + CONTENT)
    strict = receiver()
    code, text = strict.take(sent, "bounces@lists.test", FORWARDER)
    assert (code, text) == (550, b"5.7.1 Message rejected by the DMARC policy of bank.test")
    wait_until(strict.reasons("refused", "; bank.test asks for reject"), strict.server.log)

    lenient = receiver('[[policy.dmarc_override]]\nreason = "mailing_list"\ndomains = ["lists.test"]')
    assert lenient.take(sent, "bounces@lists.test", FORWARDER)[0] == 250
    wait_until(lambda: len(lenient.delivered()) == 1, lenient.server.log)
    assert results(lenient.delivered()[0]) == ["spf=pass", "dkim=pass", "dkim=fail", "dmarc=fail"]
    wait_until(lenient.reasons("policy", "accepted as mailing_list: spf=pass of lists.test"), lenient.server.log)
    # Who only claims to be the list is refused. A forwarder of the list's mail is not, if the list has sealed it.
    assert lenient.take(sent.replace(b"balance", b"password"), "ada@bank.test", SPOOFER)[0] == 550
    unsigned = sent.partition(b"DKIM-Signature:")[0] + sent[sent.index(b"From:") :]
    assert lenient.take(unsigned, "x@forwarder.test", FORWARDER)[0] == 550
    assert lenient.take(sealed(unsigned, BANK), "x@forwarder.test", FORWARDER)[0] == 550
    assert lenient.take(sealed(unsigned, LIST), "x@forwarder.test", FORWARDER)[0] == 250
    wait_until(lambda: len(lenient.delivered()) == 2, lenient.server.log)
    assert ["spf=pass", "dkim=none", "arc=pass", "dmarc=fail"] in list(map(results, lenient.delivered()))
    wait_until(lenient.reasons("policy", "accepted as mailing_list: arc=pass of lists.test"), lenient.server.log)


def test_a_spoofer_is_refused_and_its_forged_results_are_not_believed(receiver: Callable[..., Receiver]) -> None:
    here = receiver()
    forged = b"Authentication-Results: mx.example; dkim=pass header.d=bank.test; dmarc=pass\r\n" + CONTENT
    for sender in ("ada@bank.test", "", "x@forwarder.test"):
        code, text = here.take(forged, sender, SPOOFER)
        assert (code, text) == (550, b"5.7.1 Message rejected by the DMARC policy of bank.test")
    stolen = (sign(CONTENT, [BANK], now=0.0) + CONTENT).replace(b"balance", b"password")
    assert here.take(stolen, "ada@bank.test", SPOOFER)[0] == 550
    added = sign(CONTENT, [BANK], now=0.0) + b"From: ada@spoofer.test\r\n" + CONTENT
    code, text = here.take(added, "ada@bank.test", SPOOFER)
    assert (code, text) == (550, b"5.7.1 Message rejected by DMARC: the message has 2 fields From; one is required")
    assert here.delivered() == []


def test_a_spoofer_is_reported_in_a_signed_message_and_the_report_is_not(
    receiver: Callable[..., Receiver],
    tmp_path: Path,
    wait_until: Callable[[Callable[[], bool], Callable[[], str]], None],
) -> None:
    key = tmp_path / "here.pem"
    key.write_bytes(PEM)
    key.chmod(0o600)
    here = receiver(f"""
[dmarc_reports]
contact = "postmaster@here.test"
failures = true
[[dkim]]
domain = "here.test"
selector = "s"
key = "file:{key}"
""")
    assert here.take(CONTENT, "x@forwarder.test", SPOOFER)[0] == 550
    wait_until(lambda: len(here.delivered()) == 1, here.server.log)
    (report,) = here.delivered()
    read = message_from_bytes(report)
    assert read["DKIM-Signature"]
    words, fields, section = map(message_from_bytes, (part.as_bytes() for part in read.get_payload()))
    assert "It was received from 127.0.0.3" in words.get_payload()
    assert fields.get_payload(0)["Reported-Domain"] == "bank.test"
    assert fields.get_payload(0)["Original-Mail-From"] == "<x@forwarder.test>"
    assert "Subject: Statement" in section.get_payload()
    assert "jo@here.test" not in section.get_payload()
    assert "balance" not in report.decode()
    # Others can send the same report with a forged author; nobody gets a report about that.
    forged = report.replace(b"\n", b"\r\n").replace(b"From: <postmaster@here.test>", b"From: ada@bank.test")
    assert here.take(forged, "x@forwarder.test", FORWARDER)[0] == 550
    assert here.take(CONTENT, "", FORWARDER)[0] == 550
    done = subprocess.run(
        [*PROGRAM, "metrics", "-c", str(here.server.file)],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    assert 'ironpost_dmarc_failure_reports_total{result="sent"} 1' in done.stdout
    (logged,) = here.log("dmarc-failure-report")
    assert (logged["domain"], logged["uri"], logged["ip"]) == ("bank.test", "mailto:fraud@here.test", SPOOFER)


def test_an_answer_with_a_forged_signature_defers(receiver: Callable[..., Receiver]) -> None:
    here = receiver(bogus=[f"{BANK.name}. TXT"])
    code, text = here.take(sign(CONTENT, [BANK], now=0.0) + CONTENT, "x@forwarder.test", SPOOFER)
    assert (code, text) == (451, b"4.7.1 Message rejected: DMARC lookup failed")


def test_the_commands_show_the_same(
    receiver: Callable[..., Receiver],
    tmp_path: Path,
    wait_until: Callable[[Callable[[], bool], Callable[[], str]], None],
) -> None:
    here = receiver()
    signed = sign(CONTENT, [BANK], now=0.0) + CONTENT
    assert here.take(signed, "ada@bank.test", DIRECT)[0] == 250
    wait_until(lambda: len(here.delivered()) == 1, here.server.log)
    file = tmp_path / "message"
    file.write_bytes(here.delivered()[0])

    def run(*arguments: str) -> str:
        command = [*PROGRAM, *arguments, "-c", str(here.server.file)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "rsa-sha256, 2048 bits" in run("dkim", "check", "bank.test", "s")
    assert "signature  pass of bank.test (s, rsa-sha256)" in run("dkim", "check", str(file))
    assert run("dmarc", "check", str(file), "--ip", DIRECT, "--from", "ada@bank.test").endswith("bank.test: pass\n")
    wait_until(lambda: bool(here.log("accepted")), here.server.log)
    identifier = here.log("accepted")[0]["id"]
    traced = run("trace", identifier)
    assert "spf=pass smtp.mailfrom=bank.test; dkim=pass header.d=bank.test" in traced
    assert 'ironpost_authentication_total{result="dmarc=pass"} 1' in run("metrics")
