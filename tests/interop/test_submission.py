"""Common programs submit mail, which arrives unchanged in the Maildir."""

from __future__ import annotations

import email
import email.policy
import smtplib
from email.message import EmailMessage
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    Call = Callable[..., subprocess.CompletedProcess[bytes]]

ATTACHED = bytes(range(256)) * 40


def message() -> EmailMessage:
    """Return a message with an attachment and lines that start with a dot, and without lines that clients rewrite."""
    made = EmailMessage(email.policy.SMTP)
    made["From"] = "Ada <ada@client.example>"
    made["To"] = "grace@localhost"
    made["Subject"] = "dots and octets"
    made["Date"] = "Mon, 23 Nov 2026 12:00:00 +0000"
    made["Message-ID"] = "<one@client.example>"
    made.set_content("first\n.a line that begins with a dot\n..two\n.\nlast\n", cte="7bit")
    made.add_attachment(ATTACHED, maintype="application", subtype="octet-stream", filename="all.bin")
    made.set_boundary("frontier")
    return made


def whole(text: EmailMessage) -> bytes:
    """Return the message with LF line endings, as in a file."""
    return text.as_bytes(policy=text.policy.clone(linesep="\n", cte_type="8bit"))


def delivered(received: bytes, reverse_path: str) -> bytes:
    """Check the trace fields of the delivered message; return the rest."""
    assert b"\r" not in received
    first, _, rest = received.partition(b"\n")
    assert first.decode() == f"Return-Path: <{reverse_path}>"
    second, _, rest = rest.partition(b"\n")
    assert second.startswith(b"Delivered-To: ")
    assert rest.startswith(b"Received: from ")
    lines = rest.splitlines(keepends=True)
    after = 1
    while lines[after][:1] in b" \t":
        after += 1
    trace = b"".join(lines[:after])
    assert b"by mx.example" in trace
    return b"".join(lines[after:])


def test_swaks(serve: Callable[[str], object], call: Call, tmp_path: Path) -> None:
    server = serve("")
    file = tmp_path / "message"
    file.write_bytes(whole(message()))
    call("swaks", "--server", "127.0.0.1", "--port", server.port, "--helo", "client.example", "--silent", "2",
         "--from", "ada@client.example", "--to", "grace@localhost", "--data", f"@{file}")  # fmt: skip
    (found,) = server.wait_for_mail()
    # swaks adds a line ending to the data.
    assert delivered(found, "ada@client.example").rstrip(b"\n") == whole(message()).rstrip(b"\n")


def test_curl(serve: Callable[[str], object], call: Call, tmp_path: Path) -> None:
    server = serve("")
    file = tmp_path / "message"
    file.write_bytes(bytes(message()))
    call("curl", "--silent", "--show-error", "--url", f"smtp://127.0.0.1:{server.port}/client.example",
         "--mail-from", "ada@client.example", "--mail-rcpt", "grace@localhost", "--upload-file", file)  # fmt: skip
    (found,) = server.wait_for_mail()
    assert delivered(found, "ada@client.example") == whole(message())


def test_curl_utf8_address(serve: Callable[[str], object], call: Call, tmp_path: Path) -> None:
    server = serve("")
    file = tmp_path / "message"
    file.write_bytes("Subject: grüße\r\n\r\nà bientôt\r\n".encode())
    call("curl", "--silent", "--show-error", "--url", f"smtp://127.0.0.1:{server.port}/client.example",
         "--mail-from", "adà@client.example", "--mail-rcpt", "grâce@localhost", "--upload-file", file)  # fmt: skip
    (found,) = server.wait_for_mail()
    assert delivered(found, "adà@client.example") == "Subject: grüße\n\nà bientôt\n".encode()
    assert b"with UTF8SMTP" in found


def test_msmtp(serve: Callable[[str], object], call: Call) -> None:
    server = serve("")
    call("msmtp", "--host=127.0.0.1", f"--port={server.port}", "--auth=off", "--tls=off", "--domain=client.example",
         "--from=ada@client.example", "--file=/dev/null", "grace@localhost", stdin=whole(message()))  # fmt: skip
    (found,) = server.wait_for_mail()
    assert delivered(found, "ada@client.example") == whole(message())


def test_smtplib(serve: Callable[[str], object]) -> None:
    server = serve("")
    with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
        assert client.sendmail("ada@client.example", ["grace@localhost"], bytes(message())) == {}
    (found,) = server.wait_for_mail()
    assert delivered(found, "ada@client.example") == whole(message())
    read = email.message_from_bytes(found, policy=email.policy.default)
    assert next(read.iter_attachments()).get_content() == ATTACHED


def test_smtplib_utf8_address(serve: Callable[[str], object]) -> None:
    server = serve("")
    made = message()
    made.replace_header("To", "grâce@localhost")
    with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
        assert client.send_message(made, "adà@client.example", ["grâce@localhost"]) == {}
    (found,) = server.wait_for_mail()
    sent = made.as_bytes(policy=email.policy.SMTPUTF8.clone(linesep="\n"))
    assert delivered(found, "adà@client.example") == sent


def test_ironpost_send(serve: Callable[[str], object], tmp_path: Path) -> None:
    server = serve("")
    file = tmp_path / "message"
    file.write_bytes(whole(message()))
    done = server.run("send", "--from", "ada@client.example", "--to", "grace@localhost", "--port", str(server.port),
                      str(file))  # fmt: skip
    assert (done.returncode, done.stdout[:9]) == (0, b"250 2.0.0"), done.stderr
    (found,) = server.wait_for_mail()
    assert delivered(found, "ada@client.example") == whole(message())


def test_ironpost_send_from_standard_input(serve: Callable[[str], object]) -> None:
    server = serve("")
    done = server.run("send", "--to", "grâce@localhost", "--port", str(server.port), "-", stdin=b"Subject: x\n\n.\n")
    assert done.returncode == 0, done.stderr
    (found,) = server.wait_for_mail()
    assert delivered(found, "") == b"Subject: x\n\n.\n"


def test_each_recipient_gets_a_copy(serve: Callable[[str], object]) -> None:
    server = serve("")
    with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
        client.sendmail("ada@client.example", ["a@localhost", "b@localhost"], b"Subject: x\r\n\r\ny\r\n")
    first, second = server.wait_for_mail(2)
    assert delivered(first, "ada@client.example") == delivered(second, "ada@client.example") == b"Subject: x\n\ny\n"


def test_an_untrusted_client_cannot_relay(serve: Callable[[str], object]) -> None:
    server = serve('trusted = ["192.0.2.0/24"]')
    with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            client.sendmail("ada@client.example", ["grace@elsewhere.example"], b"Subject: x\r\n\r\ny\r\n")
        assert refused.value.recipients["grace@elsewhere.example"][0] == 550
        assert refused.value.recipients["grace@elsewhere.example"][1].startswith(b"5.7.1")
        # The same client reaches the local domain.
        client.sendmail("ada@client.example", ["grace@localhost"], b"Subject: x\r\n\r\ny\r\n")
    server.wait_for_mail()
