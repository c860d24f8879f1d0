"""Addresses are rewritten by the real program between smtplib and aiosmtpd, before and after a reload."""

from __future__ import annotations

import email
import email.policy
import smtplib
from typing import TYPE_CHECKING

from tests.interop.test_next_hop import AnyPort, Kept, route

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CONTENT = (
    b"From: =?utf-8?q?J=C3=B6?= <jo@host.mail.example>\r\nTo: Team: grace@old.example, linus@other.example;\r\n"
    b"Subject: onward\r\n\r\nhello\r\n"
)


def rules(domain: str) -> str:
    return (
        '[[rewrite]]\naddresses = ["*.mail.example"]\nto = "@mail.example"\n'
        f'[[rewrite]]\naddresses = ["old.example", "jo@mail.example"]\nto = "@{domain}"\nat = "delivery"\n'
    )


def test_rules_apply_and_a_reload_replaces_them(serve: Callable[[str], Any]) -> None:
    handler = Kept()
    controller = AnyPort(handler, "127.0.0.1", 0, decode_data=False)
    controller.start()
    try:
        server = serve(route(controller.port) + rules("new.example"))
        for domain in ("new.example", "newer.example"):
            with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
                assert client.sendmail("jo@host.mail.example", ["grace@old.example"], CONTENT) == {}
            server.wait_until_empty()
            envelope = handler.envelopes.pop()
            assert (envelope.mail_from, envelope.rcpt_tos) == (f"jo@{domain}", [f"grace@{domain}"])
            found = email.message_from_bytes(envelope.original_content, policy=email.policy.default)
            (author,) = found["From"].addresses
            assert (author.display_name, author.addr_spec) == ("Jö", f"jo@{domain}")
            assert [each.addr_spec for each in found["To"].addresses] == [f"grace@{domain}", "linus@other.example"]
            server.configure(route(controller.port) + rules("newer.example"))
            assert server.run("reload").returncode == 0
    finally:
        controller.stop()
    assert server.log().count('"event": "rewritten"') == 4
