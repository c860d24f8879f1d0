"""Local mail that Dovecot stores: delivered by LMTP over TCP and a Unix socket, read by IMAP and POP3."""

from __future__ import annotations

import smtplib
from typing import TYPE_CHECKING, Any

import pytest
from tests.interop.test_dovecot import JO, by_imap, by_pop3

if TYPE_CHECKING:
    from collections.abc import Callable

FLO, FULL, NOBODY = "flo@mail.example", "full@mail.example", "nobody@mail.example"
CONTENT = b"Subject: x\r\n\r\n.dot\r\n..\r\n" + "Grüße\r\n".encode() + b"y" * 900 + b"\r\n" + b"line\r\n" * 2000


@pytest.mark.parametrize("unix", [False, True])
def test_each_recipient_has_its_own_result(
    dovecot: Callable[..., Any], serve: Callable[[str], Any], unix: bool
) -> None:
    ready = dovecot({JO: None, FLO: None, FULL: 1})
    host = f"unix:{ready.lmtp_socket}" if unix else f"127.0.0.1:{ready.ports.lmtp}"
    server = serve(
        f'[local]\ndomains = ["mail.example"]\n[[local.delivery]]\nrecipients = ["*"]\nlmtp = {{host = "{host}"}}\n'
    )
    with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
        assert client.sendmail("", [JO, FULL, NOBODY, FLO], CONTENT, ["BODY=8BITMIME"]) == {}
    server.wait_until_empty()
    for address in (JO, FLO):
        (stored,) = by_imap(ready.ports.imap, address).values()
        assert stored.endswith(CONTENT)
        assert by_pop3(ready.ports.pop3, address) == [stored]
    assert by_imap(ready.ports.imap, FULL) == {}
    assert by_pop3(ready.ports.pop3, FULL) == []
    log = server.log()
    assert "5.1.1" in log, log
    assert "5.2.2" in log, log
