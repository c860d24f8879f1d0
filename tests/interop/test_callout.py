"""The recipients of a relay domain are verified at Postfix and at Exim."""

from __future__ import annotations

import os
import smtplib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    Launch = Callable[[list[str], dict[str, str], int], None]

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("CI"), reason="Postfix and Exim change to other users, so they need root"
)


def relay(port: int) -> str:
    """A gateway for branch.example, whose mail server listens on `port`; its clients are not trusted."""
    return (
        "trusted = []\n"  # of [smtp]
        '[[relay]]\ndomains = ["branch.example"]\nverify = "callout"\n'
        f'[[route]]\ndomains = ["branch.example"]\nsmart_host = ["127.0.0.1:{port}"]\n'
    )


def replies(port: int, *recipients: str) -> list[str]:
    """Code and enhanced code of the reply to each recipient of one transaction."""
    with smtplib.SMTP("127.0.0.1", port, "client.example") as client:
        client.ehlo()
        client.mail("ada@client.example")
        found = [client.rcpt(each) for each in recipients]
    return [f"{code} {text.decode().split()[0]}" for code, text in found]


def test_postfix_is_asked(
    serve: Callable[..., Any],
    program: Callable[[str], str],
    mtas: Any,
    launch: Launch,
    home: Path,
    port: int,
    sink: tuple[int, Path],
) -> None:
    program("postfix")
    main = (
        "relay_domains = branch.example\nrelay_recipient_maps = inline:{{jo@branch.example=ok}}\n"
        f"relayhost = [127.0.0.1]:{sink[0]}"
    )
    launch(*mtas.postfix(home, port, main=main), port)
    server = serve(relay(port))
    assert replies(server.port, "jo@branch.example", "no@branch.example", "jo@elsewhere.example") == [
        "250 2.1.5", "550 5.1.1", "550 5.7.1",
    ]  # fmt: skip
    with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
        assert client.sendmail("ada@client.example", ["jo@branch.example"], b"Subject: x\r\n\r\nhello\r\n") == {}
    server.wait_until_empty()
    server.wait_for_log("its next hop refuses no@branch.example")


def test_exim_is_asked(
    serve: Callable[..., Any], program: Callable[[str], str], mtas: Any, launch: Launch, home: Path, port: int
) -> None:
    program("exim4")
    routers = "known:\n  driver = redirect\n  domains = branch.example\n  local_parts = jo\n  data = :blackhole:"
    acl = "require verify = recipient\n  accept"
    launch(*mtas.exim(home, port, routers=routers, acl=acl), port)
    server = serve(relay(port))
    assert replies(server.port, "jo@branch.example", "no@branch.example") == ["250 2.1.5", "550 5.1.1"]


def test_a_next_hop_that_is_down_defers(serve: Callable[..., Any], port: int) -> None:
    server = serve(relay(port))
    assert replies(server.port, "jo@branch.example") == ["451 4.3.0"]
