"""Operators see why a local delivery failed, and what to do, where they look at the queue."""

from __future__ import annotations

import json
import smtplib
from typing import TYPE_CHECKING

from tests.conftest import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Running


def test_the_commands_about_the_queue_show_the_detail(serve: Callable[..., Running], tmp_path: Path) -> None:
    box = tmp_path / "jo"
    box.touch()
    (tmp_path / "other-name").hardlink_to(box)
    server = serve(
        f'[local]\ndomains = ["mx.example"]\n[[local.delivery]]\nrecipients = ["*"]\nmbox = {{ path = "{box}" }}\n'
    )
    with smtplib.SMTP("127.0.0.1", server.port, "client.example", timeout=60) as client:
        client.sendmail("x@client.example", "jo@mx.example", b"Subject: x\r\n\r\nx\r\n")
    until(lambda: "deferred" in server.log(), server.log)
    (message,) = server.json("queue", "list")
    (recipient,) = message["recipients"]
    detail = f"{box} is not a regular file with one name; move it away"
    assert (recipient["last"], recipient["detail"]) == ("451 4.3.5 The mailbox is not set up correctly", detail)
    for command in (["queue", "list"], ["queue", "show", message["id"]], ["queue", "explain", message["id"]],
                    ["trace", message["id"]]):  # fmt: skip
        done = server.run(*command)
        assert "move it away" in " ".join(done.stdout.decode().split()), command
    (line,) = [line for line in server.log().splitlines() if '"deferred"' in line]
    assert json.loads(line)["level"] == "warning"
