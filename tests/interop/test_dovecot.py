"""Dovecot as the reader of local mail: what it serves by IMAP and POP3."""

from __future__ import annotations

import imaplib
import os
import poplib
import pwd
import smtplib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.interop.dovecot import MBOX, PASSWORD, own

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

JO = "jo@mail.example"


@contextmanager
def imap(port: int, address: str = JO) -> Iterator[imaplib.IMAP4]:
    """A session with the INBOX selected."""
    with imaplib.IMAP4("127.0.0.1", port, timeout=30) as client:
        client.login(address, PASSWORD)
        client.select()
        yield client


def by_imap(port: int, address: str = JO, folder: str = "INBOX") -> dict[int, bytes]:
    """The content of each message by its UID."""
    with imap(port, address) as client:
        client.select(folder)
        _, (uids,) = client.uid("search", "ALL")
        return {int(uid): client.uid("fetch", uid.decode(), "(BODY.PEEK[])")[1][0][1] for uid in uids.split()}


def by_pop3(port: int, address: str = JO) -> list[bytes]:
    """The content of each message."""
    client = poplib.POP3("127.0.0.1", port, timeout=30)
    try:
        client.user(address)
        client.pass_(PASSWORD)
        count, _ = client.stat()
        return [b"\r\n".join([*client.retr(number)[1], b""]) for number in range(1, count + 1)]
    finally:
        client.quit()


def test_dovecot_serves_what_it_was_given_by_lmtp(dovecot: Callable[..., Any]) -> None:
    """The harness by itself: over TCP and the Unix socket, for users that exist."""
    ready = dovecot({JO: None, "flo@mail.example": 100})
    content = b"Subject: x\r\n\r\n.dot\r\n"
    with smtplib.LMTP("127.0.0.1", ready.ports.lmtp) as client:
        refused = client.sendmail("a@example.org", [JO, "nobody@mail.example"], content)
        assert refused["nobody@mail.example"][0] == 550
    with smtplib.LMTP(str(ready.lmtp_socket)) as client:
        client.sendmail("a@example.org", ["flo@mail.example"], content)
    for address in (JO, "flo@mail.example"):
        (stored,) = by_imap(ready.ports.imap, address).values()
        assert stored.endswith(content)
        assert by_pop3(ready.ports.pop3, address) == [stored]
    with imap(ready.ports.imap, "flo@mail.example") as client:
        assert b" 100)" in client.getquotaroot("INBOX")[1][1][0]


NO_QUOTA = "mail_plugins =\nprotocol imap {\n  mail_plugins =\n}"
"""Dovecot keeps no quotas of mbox files with the settings of the others."""
MESSAGES = (
    b"Subject: dots\r\n\r\n.\r\n..two\r\n.",
    b"Subject: =?utf-8?q?eight_bits?=\r\n\r\nj\xc3\xb6 and \xff\r\n",
    b"Subject: long\r\nX-Folded: a\r\n\tb\r\n\r\n" + b"x" * 998 + b"\r\n",
    b"Subject: quotes\r\n\r\n> quoted\r\nfrom here\r\n From there\r\n",
)
"""Contents that smtplib sends as they are."""


class Mailboxes:
    """Dovecot and our server with the same homes, which change hands if this is root: Dovecot opens no mail of root."""

    def __init__(
        self, dovecot: Callable[..., Any], serve: Callable[..., Any], *, quota: int | None = None, mbox: bool = False
    ) -> None:
        self.ready = dovecot({JO: quota}, location=MBOX, main=NO_QUOTA) if mbox else dovecot({JO: quota})
        limit = "" if quota is None else f'quota = "{quota}KiB"'
        home = f"{self.ready.homes}/{{domain}}/{{local}}"
        self.server = serve(f"""[local]
domains = ["mail.example"]
[[local.delivery]]
recipients = ["mail.example"]
{f'mbox.path = "{home}/inbox"' if mbox else f'maildir.path = "{home}"'}
[[mailbox]]
address = "{JO}"
{limit}
""")
        self.home = self.ready.homes / "mail.example" / "jo"

    def send(self, *contents: bytes) -> None:
        """Send messages and wait until they are delivered."""
        self.transmit(*contents)
        self.server.wait_until_empty()

    def transmit(self, *contents: bytes) -> None:
        """Send messages."""
        self.take_back()
        with smtplib.SMTP("127.0.0.1", self.server.port) as client:
            for content in contents:
                client.sendmail("ada@example.org", JO, content)

    def take_back(self) -> None:
        """Give the homes back to our server."""
        own(self.ready.homes, pwd.getpwuid(os.geteuid()))

    def read(self) -> dict[int, bytes]:
        """What Dovecot serves by IMAP."""
        own(self.ready.homes)
        return by_imap(self.ready.ports.imap)


def test_dovecot_serves_what_was_delivered_into_a_maildir(
    dovecot: Callable[..., Any], serve: Callable[..., Any]
) -> None:
    both = Mailboxes(dovecot, serve)
    both.send(*MESSAGES)
    found = both.read()
    assert sorted(found) == [1, 2, 3, 4]
    assert by_pop3(both.ready.ports.pop3) == list(found.values())
    for content in MESSAGES:
        whole = content if content.endswith(b"\r\n") else content + b"\r\n"
        (stored,) = (each for each in found.values() if each.endswith(whole))
        trace = stored.removesuffix(whole)
        assert trace.startswith(b"Return-Path: <ada@example.org>\r\nDelivered-To: jo@mail.example\r\nReceived: from ")
    both.send(b"Subject: later\r\n\r\nlater\r\n")
    later = both.read()
    assert {uid: later[uid] for uid in found} == found  # the UIDs stay
    assert later[5].endswith(b"Subject: later\r\n\r\nlater\r\n")
    assert "Error" not in both.ready.log.read_text()


def test_dovecot_and_ironpost_share_the_quota(
    dovecot: Callable[..., Any], serve: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    both = Mailboxes(dovecot, serve, quota=100)
    large = b"Subject: large\r\n\r\n" + (b"x" * 76 + b"\r\n") * 500
    both.send(large, large)
    assert (both.home / "maildirsize").read_text().startswith("102400S\n")
    both.read()
    sizes = sum(each.stat().st_size for part in ("new", "cur") for each in (both.home / part).iterdir())
    with imap(both.ready.ports.imap) as client:
        assert client.getquotaroot("INBOX")[1][1][0] == b"mailbox (STORAGE %d 100)" % -(-sizes // 1024)
    both.transmit(large)
    wait_until(lambda: "452 4.2.2" in both.server.log(), both.server.log)
    assert len(both.read()) == 2
    with imap(both.ready.ports.imap) as client:
        client.uid("store", "1", "+FLAGS", r"(\Deleted)")
        client.expunge()
    both.take_back()
    (waiting,) = both.server.queue()
    assert both.server.run("queue", "retry", waiting.id).returncode == 0
    both.server.wait_until_empty()
    assert sorted(both.read()) == [2, 3]


def test_dovecot_serves_what_was_appended_to_an_mbox(dovecot: Callable[..., Any], serve: Callable[..., Any]) -> None:
    both = Mailboxes(dovecot, serve, mbox=True)
    forged = b"Subject: forged\r\nStatus: RO\r\nX-UID: 99\r\nContent-Length: 9\r\n\r\nseen?\r\n"
    separators = b"Subject: separators\r\n\r\nFrom a@b.example Fri Feb 13 23:31:30 2009\r\n\r\nFrom x\r\n>From y\r\n"
    both.send(*MESSAGES, forged, separators)
    found = both.read()
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    with imap(both.ready.ports.imap) as client:
        assert client.uid("search", "SEEN")[1] == [b""]
    assert by_pop3(both.ready.ports.pop3) == list(found.values())
    expected = [each if each.endswith(b"\r\n") else each + b"\r\n" for each in MESSAGES]
    expected.append(b"Subject: forged\r\n\r\nseen?\r\n")
    expected.append(separators.replace(b"From ", b">From "))  # Dovecot shows the quoting of mboxrd
    for whole in expected:
        (stored,) = (each for each in found.values() if each.endswith(b"\r\n" + whole))
        trace = stored.removesuffix(whole)
        assert trace.startswith(b"Return-Path: <ada@example.org>\r\nDelivered-To: jo@mail.example\r\nReceived: from ")
    with imap(both.ready.ports.imap) as client:
        client.uid("store", "2", "+FLAGS", r"(\Deleted)")
        client.expunge()
    both.send(b"Subject: later\r\n\r\nlater\r\n")
    later = both.read()
    assert {uid: later[uid] for uid in (1, 3, 4, 5, 6)} == {uid: found[uid] for uid in (1, 3, 4, 5, 6)}
    assert later[7].endswith(b"Subject: later\r\n\r\nlater\r\n")
    assert "Error" not in both.ready.log.read_text()
