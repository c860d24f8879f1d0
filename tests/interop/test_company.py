"""The company of docs/company: mail from other systems, from its people, and what they read by IMAP in Dovecot.

The files of the tutorial are used as they are but for paths, ports and the user. The server is started as systemd does
it.
"""

from __future__ import annotations

import hashlib
import imaplib
import os
import re
import shlex
import smtplib
import ssl
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.authority import issue
from tests.conftest import Running
from tests.interop.conftest import free_port
from tests.interop.dovecot import account, own

from ironpost.queue.store import RecipientState

if TYPE_CHECKING:
    from collections.abc import Callable

DOCS = Path(__file__).resolve().parents[2] / "docs"
TUTORIAL = (DOCS / "tutorial.md").read_text()
COMPANY = (DOCS / "company/ironpost.toml").read_text()
ADDRESSES = re.findall(r'^\[\[mailbox\]\]\naddress = "(.*)"', COMPANY, re.M)
PEOPLE = [address for address in ADDRESSES if not address.startswith(("archive@", "dmarc@"))]
EVERYONE = {address for address in PEOPLE if address != "gia@mail.example"}
ADA = "ada@mail.example"
HASTE = """
auth_failure_delay = 0
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
"""
"""Dovecot answers a wrong password after seconds, which a test need not wait for."""


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """The text of a file of the tutorial, with everything replaced that must be."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def password(address: str) -> str:
    """The password of someone; with characters that must be quoted somewhere."""
    return f"{address}: horse"


class Company:
    """The running company."""

    def __init__(
        self,
        folder: Path,
        dovecot: Callable[..., Any],
        activated: Callable[..., dict[str, int]],
        doveadm: Callable[..., str],
        next_hop: int,
    ) -> None:
        tls, keys, self.state, self.people = (folder / name for name in ("tls", "keys", "state", "people"))
        self.spool = self.state / "spool"
        tls.mkdir()
        (self.state / "mail").mkdir(parents=True)
        self.spool.mkdir()
        authority = issue(common_name="Test authority", authority=True)
        self.authority, self.chain = authority.pem, tls / "fullchain.pem"
        self.certificate = issue("mx.mail.example", "localhost", by=authority)
        self.certificate.write(self.chain, tls / "privkey.pem")
        own(tls)
        self.trusting = ssl.create_default_context(cadata=authority.pem.decode())
        self.lines = {each: f"{each}:{doveadm(password(each))}\n" for each in ADDRESSES}
        self.people.write_text("".join(self.lines.values()))
        imaps, user = free_port(), account()
        main = replaced(
            (DOCS / "company/dovecot.conf").read_text(),
            ("protocols = imap\n", ""),
            ("/etc/ironpost/tls", str(tls)),
            ("uid=ironpost gid=ironpost", f"uid={user.pw_uid} gid={user.pw_gid}"),
            ("user = ironpost", f"user = {user.pw_name}"),
            ("/var/lib/ironpost", str(self.state)),
            ("/etc/dovecot/people", str(self.people)),
            ("port = 993", f"port = {imaps}"),
        )
        ready = dovecot({}, main=main + HASTE)
        self.imaps = imaps
        self.server = Running(folder, "")
        self.server.data = self.state / "data"
        self.server.file.write_text(
            replaced(
                COMPANY,
                ("/var/lib/ironpost", str(self.state)),
                ("/etc/ironpost/tls", str(tls)),
                ("/etc/ironpost/dkim", str(keys)),
                ("/run/dovecot", str(ready.lmtp_socket.parent)),
                ("/var/spool/ironpost", str(self.spool)),
            )
            + f'\n[[route]]\ndomains = ["home.example"]\nsmart_host = ["127.0.0.1:{next_hop}"]\n'
            + f'[[route]]\ndomains = ["unreachable.example"]\nsmart_host = ["127.0.0.1:{free_port()}"]\n'
        )
        for line in commands("Signing", "runuser"):
            line = replaced(line, ("runuser -u ironpost -- ironpost ", ""), ("/etc/ironpost/dkim", str(keys)))
            assert self.server.run(*shlex.split(line)).returncode == 0
        assert self.server.run("check", str(self.server.file)).returncode == 0
        self.ports = activated(self.server.file, "25", "465", "587")

    def mx(self) -> smtplib.SMTP:
        """Another system."""
        return smtplib.SMTP("127.0.0.1", self.ports["25"], "client.example", timeout=60)

    def submission(self) -> smtplib.SMTP:
        """The mail program of someone, in TLS from the first octet."""
        return smtplib.SMTP_SSL("localhost", self.ports["465"], "client.example", timeout=60, context=self.trusting)

    def accepts(self, login: str, password: str) -> bool:
        """Whether someone can log in."""
        with self.submission() as client:
            try:
                client.login(login, password)
            except smtplib.SMTPAuthenticationError as error:
                if error.smtp_code != 535:  # such as a password that cannot be checked now
                    raise
                return False
            return True

    def submission_by_starttls(self) -> smtplib.SMTP:
        """Another mail program."""
        client = smtplib.SMTP("localhost", self.ports["587"], "client.example", timeout=60)
        client.starttls(context=self.trusting)
        return client

    def read(self) -> dict[str, list[str]]:
        """Wait until everything is delivered; the subjects in each mailbox that has mail, by IMAP."""
        self.server.wait_until_empty()
        own(self.state / "mail")  # the server runs as another user than Dovecot here
        found: dict[str, list[str]] = defaultdict(list)
        for address in ADDRESSES:
            with imaplib.IMAP4_SSL("localhost", self.imaps, ssl_context=self.trusting, timeout=60) as client:
                client.login(address, password(address))
                client.select()
                _, (numbers,) = client.search(None, "ALL")
                for number in numbers.split():
                    (_, field), _ = client.fetch(number.decode(), "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1]
                    found[address].append(field.decode().removeprefix("Subject: ").strip())
        return dict(found)


@pytest.fixture
def doveadm(call: Callable[..., Any]) -> Callable[[str], str]:
    """Hash a password as the tutorial does."""

    def hashed(text: str) -> str:
        return call("doveadm", "-O", "pw", "-s", "BLF-CRYPT", "-p", text).stdout.decode().strip()

    return hashed


@pytest.fixture
def company(
    home: Path,
    dovecot: Callable[..., Any],
    activated: Callable[..., dict[str, int]],
    doveadm: Callable[[str], str],
    sink: tuple[int, Path],
) -> Company:
    """The company, whose mail to home.example goes to `sink`."""
    return Company(home, dovecot, activated, doveadm, sink[0])


@pytest.fixture
def forwarded(sink: tuple[int, Path]) -> Callable[[], list[str]]:
    """The recipients of the mail that left the company."""
    return lambda: sorted(
        match
        for file in sink[1].iterdir()
        for match in re.findall(r"^X-Rcpt-Args: <(.*)>", file.read_text(errors="replace"), re.M)
    )


def test_there_are_ten_people_in_two_domains() -> None:
    assert len(PEOPLE) == 10
    assert len({address.partition("@")[2] for address in PEOPLE}) == 2


def test_mail_from_other_systems_arrives_where_it_belongs(company: Company, forwarded: Callable[[], list[str]]) -> None:
    expected = {
        "cora@mail.example": {"cora@mail.example"},
        "Jo+lists@shop.example": {"jo@shop.example"},
        "info@mail.example": {ADA, "ben@mail.example"},
        "orders@shop.example": {"hugo@shop.example", "iris@shop.example"},
        "any-name@shop.example": {"hugo@shop.example", "iris@shop.example"},
        "postmaster@shop.example": {ADA},
        "abuse@mail.example": {ADA},
        "hostmaster@mail.example": {ADA},
        "gia@mail.example": set(),
        "all@mail.example": EVERYONE,
    }
    with company.mx() as client:
        for recipient in expected:
            client.sendmail("a@client.example", recipient, f"Subject: to {recipient}\r\n\r\nx\r\n".encode())
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            client.sendmail("a@client.example", "nobody@mail.example", b"Subject: x\r\n\r\nx\r\n")
        assert refused.value.recipients["nobody@mail.example"][0] == 550
    found = company.read()
    subjects = {f"to {recipient}": who | {"archive@mail.example"} for recipient, who in expected.items()}
    assert {subject: {who for who, theirs in found.items() if subject in theirs} for subject in subjects} == subjects
    assert all(len(theirs) == len(set(theirs)) for theirs in found.values())
    assert forwarded() == ["gia@home.example"] * 2 + ["iris@home.example"] * 3


def test_people_send_after_a_login_with_their_own_addresses(company: Company) -> None:
    content = b"From: Ada <ada@mail.example>\r\nSubject: %b\r\n\r\nx\r\n"
    with company.submission() as client:
        client.login(ADA, password(ADA))
        client.sendmail(ADA, "ben@mail.example", content % b"one")
        client.sendmail("info@mail.example", "cora@mail.example", content % b"two")
        with pytest.raises(smtplib.SMTPSenderRefused) as foreign:
            client.sendmail("ben@mail.example", "cora@mail.example", content % b"three")
        assert foreign.value.smtp_code == 553
    with company.submission_by_starttls() as client:
        client.login("hugo@shop.example", password("hugo@shop.example"))
        client.sendmail("orders@shop.example", "dan@mail.example", content % b"four")
    with company.submission_by_starttls() as client:
        with pytest.raises(smtplib.SMTPAuthenticationError) as wrong:
            client.login(ADA, "guess")
        assert wrong.value.smtp_code == 535
        with pytest.raises(smtplib.SMTPSenderRefused) as unknown:
            client.sendmail(ADA, "cora@mail.example", content % b"five")
        assert unknown.value.smtp_code == 530
    assert company.read() == {
        "ben@mail.example": ["one"],
        "cora@mail.example": ["two"],
        "dan@mail.example": ["four"],
        "archive@mail.example": ["one", "two", "four"],
    }


def test_the_mail_of_people_is_signed_by_their_domain(company: Company) -> None:
    for login, author in ((ADA, ADA), ("hugo@shop.example", "hugo@shop.example"), ("hugo@shop.example", ADA)):
        with company.submission() as client:
            client.login(login, password(login))
            client.sendmail(login, "ben@mail.example", f"From: {author}\r\nSubject: x\r\n\r\nx\r\n".encode())
        company.server.wait_until_empty()
    folder = company.state / "mail/mail.example/ben/new"
    signed = [re.findall(rb"^DKIM-Signature: .*? d=(.*?);", each.read_bytes(), re.M) for each in folder.iterdir()]
    assert sorted(signed) == [[], [b"mail.example"], [b"shop.example"]]


# -- the tutorial


def commands(section: str, *first: str) -> list[str]:
    """The commands in a section of the tutorial that begin with one of these words."""
    _, _, rest = TUTORIAL.partition(f"\n## {section}\n")
    text = re.split(r"^## ", rest, maxsplit=1, flags=re.M)[0]
    lines = "".join(re.findall(r"^```\n(.*?)^```", text, re.S | re.M)).splitlines()
    return [line for line in lines if line.split()[0] in first]


def test_the_first_mail_of_the_tutorial(company: Company, call: Callable[..., Any], tmp_path: Path) -> None:
    stranger, ada = commands("The first mail", "swaks")
    call(*shlex.split(replaced(stranger, ("localhost", "127.0.0.1"), ("--port 25", f"--port {company.ports['25']}"))))
    ada = replaced(ada, ("mx.mail.example", "localhost"), ("--port 465", f"--port {company.ports['465']}"))
    call(*shlex.split(ada), "--auth-password", password(ADA))
    assert len(company.read()["ben@mail.example"]) == 2
    (read,) = commands("The first mail", "curl")
    authorities = tmp_path / "authorities.pem"
    authorities.write_bytes(company.authority)
    found = call(
        *shlex.split(
            replaced(read, ("ben@mail.example", f'"ben@mail.example:{password("ben@mail.example")}"'),
                     ("mx.mail.example", f"mx.mail.example:{company.imaps}"))
        ),
        "--resolve", f"mx.mail.example:{company.imaps}:127.0.0.1", "--cacert", authorities,
    ).stdout  # fmt: skip
    assert b"Delivered-To: ben@mail.example" in found
    for line in commands("The first mail", "ironpost") + commands("Changes", "ironpost"):
        done = company.server.run(*shlex.split(line)[1:])
        assert done.returncode == 0, (line, done.stderr)


def test_the_mail_of_cron_arrives_where_the_alias_of_root_leads(
    company: Company, wait_until: Callable[..., None]
) -> None:
    (line,) = commands("The first mail", "printf")
    text, command = map(shlex.split, line.split(" | "))
    content = subprocess.run(text, check=True, capture_output=True).stdout
    done = company.server.run("sendmail", "-C", str(company.server.file), *command[1:], stdin=content)
    assert (done.returncode, done.stderr) == (0, b"")
    company.mx().close()  # starts the server
    wait_until(lambda: not any(company.spool.iterdir()), lambda: "the message is not picked up")
    assert company.read() == {ADA: ["backup"], "archive@mail.example": ["backup"]}


def test_what_the_tutorial_does_about_a_stolen_password(
    company: Company, doveadm: Callable[[str], str], wait_until: Callable[..., None]
) -> None:
    spam = b"From: x@x.example\r\nSubject: buy\r\n\r\nx\r\n"
    thief = company.submission()
    thief.login(ADA, password(ADA))
    thief.sendmail(ADA, ["one@unreachable.example", "two@unreachable.example"], spam)
    thief.sendmail("info@mail.example", "three@unreachable.example", spam)
    with company.submission() as client:
        client.login("ben@mail.example", password("ben@mail.example"))
        client.sendmail("ben@mail.example", "four@unreachable.example", spam)
    people = company.people.read_text().replace(company.lines[ADA], f"{ADA}:{doveadm('changed')}\n")
    company.people.write_text(people)
    wait_until(lambda: not company.accepts(ADA, password(ADA)), lambda: "the old password is accepted")
    assert company.accepts(ADA, "changed")
    with thief:
        thief.sendmail(ADA, "five@unreachable.example", spam)  # until the restart

    hold, *looks = commands("A stolen password", "ironpost")
    *looks, release, drop = looks
    assert company.server.run(*shlex.split(hold)[1:]).returncode == 0
    waiting = {message.id: message for message in company.server.queue()}
    held = [
        each
        for each, message in waiting.items()
        if any(recipient.state is RecipientState.HELD for recipient in message.recipients)
    ]
    assert len(held) == 2
    said = ""
    for line in [*looks, release, drop]:
        done = company.server.run(*shlex.split(line.replace("ID", held[0]))[1:])
        assert done.returncode == 0, (line, done.stderr)
        said += done.stdout.decode()
    assert "info@mail.example" in said  # the other sender of this login
    left = {message.id for message in company.server.queue()}
    assert left == set(waiting) - {held[1]}


def test_the_backup_of_the_tutorial(company: Company, tmp_path: Path) -> None:
    backup, restore = (
        shlex.split(replaced(line, ("runuser -u ironpost -- ironpost ", ""), ("/var/backups/ironpost", str(tmp_path))))
        for line in commands("Backup", "runuser")
    )
    with company.mx() as client:
        client.sendmail("a@client.example", "iris@shop.example", b"Subject: x\r\n\r\nx\r\n")
    assert company.server.run(*backup).returncode == 0
    text = company.server.file.read_text()
    company.server.file.write_text(replaced(text, (str(company.server.data), f"{company.server.data}.restored")))
    done = company.server.run(*restore)
    assert done.returncode == 0, done.stderr
    assert Path(f"{company.server.data}.restored/shards").is_dir()


def test_the_hash_of_the_tlsa_record_is_that_of_the_key(company: Company) -> None:
    (line,) = commands("Certificate", "openssl")
    line = line.replace("/etc/ironpost/tls/fullchain.pem", str(company.chain))
    said = subprocess.run(["sh", "-c", line], capture_output=True, check=True).stdout.decode()
    assert said.split()[0] == hashlib.sha256(company.certificate.spki).hexdigest()


def test_a_new_certificate_is_given_to_both_servers(tmp_path: Path) -> None:
    lineage, tls, programs = tmp_path / "lineage", tmp_path / "tls", tmp_path / "bin"
    for each in (lineage, tls, programs):
        each.mkdir()
    issue("mx.mail.example").write(lineage / "fullchain.pem", lineage / "privkey.pem")
    (programs / "systemctl").write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/called\n')
    (programs / "systemctl").chmod(0o755)
    script = tmp_path / "new-certificate"
    script.write_text(
        replaced((DOCS / "company/new-certificate").read_text(), ("/etc/ironpost/tls", str(tls)), ("-o ironpost ", ""))
    )
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "RENEWED_LINEAGE": str(lineage)}
    subprocess.run(["sh", script], env=environment, check=True)
    for name in ("fullchain.pem", "privkey.pem"):
        assert (tls / name).read_bytes() == (lineage / name).read_bytes()
    assert (tls / "privkey.pem").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "called").read_text() == "try-reload-or-restart ironpost.service dovecot.service\n"
