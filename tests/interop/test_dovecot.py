"""Dovecot as the reader of local mail: what it serves by IMAP and POP3."""

from __future__ import annotations

import imaplib
import poplib
import smtplib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.interop.dovecot import PASSWORD

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
