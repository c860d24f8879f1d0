"""Delay warnings over restarts of a real server."""

from __future__ import annotations

import re
import smtplib
import time
from typing import TYPE_CHECKING, Any

from tests.reports.dsn_kit import groups, read

if TYPE_CHECKING:
    from collections.abc import Callable

WARN_AFTER = 1.0
"""Seconds."""
SETTINGS = (
    '[local]\ndomains = ["localhost"]\n[queue]\nwarn_after = "1s"\n'
    '[[route]]\ndomains = ["later.example"]\nsmart_host = ["127.0.0.1:1"]\n'
)
"""Port 1 is closed, so this mail is deferred."""


def delayed(server: Any) -> list[str]:
    """Return the recipients of which the sender was warned, in the order of their names."""
    found = []
    for octets in server.mail():
        assert read(octets)["To"] == "from@localhost"
        for group in groups(octets)[1:]:
            assert group["Action"] == "delayed"
            found.append(re.sub("^rfc822; *", "", group["Final-Recipient"]))
    return sorted(found)


def test_a_warning_that_is_due_while_the_server_is_stopped_is_sent_once(
    serve: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    server = serve(SETTINGS)

    def defer(to: str) -> float:
        """Send a message; return when its warning is due."""
        with smtplib.SMTP("127.0.0.1", server.port, "client.example", timeout=60) as client:
            client.sendmail("from@localhost", [to], b"Subject: x\r\n\r\nx\r\n")
        wait_until(
            lambda: any(
                str(each.recipient.address) == to and each.last
                for message in server.queue()
                for each in message.recipients
            ),
            server.log,
        )
        return time.time() + WARN_AFTER

    def restart(due: float) -> None:
        assert server.stop() == 0
        wait_until(lambda: time.time() > due, server.log)
        server.start()

    due = defer("one@later.example")
    assert server.mail() == []
    restart(due)
    server.wait_for_mail(1)
    assert delayed(server) == ["one@later.example"]
    # The search for delayed mail begins with the oldest: when the second is found, the first was passed over.
    restart(defer("two@later.example"))
    server.wait_for_mail(2)
    assert delayed(server) == ["one@later.example", "two@later.example"]
    restart(defer("three@later.example"))
    server.wait_for_mail(3)
    assert delayed(server) == ["one@later.example", "three@later.example", "two@later.example"]
    assert server.stop() == 0
    assert server.log().count('"event": "delay-warning"') == 3
