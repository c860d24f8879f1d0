"""The header field `TLS-Required: No` tags a message when it is accepted (RFC 8689 §4.1)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.mta.test_inbound import Talk

from ironpost.model.envelope import TLS_REQUIRED
from ironpost.protocol.dialect import SUBMISSION
from ironpost.protocol.server.transaction import Identity, TlsInfo
from ironpost.queue.codec import decode_parameters, encode_parameters

if TYPE_CHECKING:
    from ironpost.queue.store import NewMessage


def accepted(content: bytes, mail: str = "", role: str = "mx") -> NewMessage:
    async def run() -> NewMessage:
        talk = Talk(role=role, **({"dialect": SUBMISSION} if role == "submission" else {}))  # type: ignore[arg-type]
        if role == "submission":
            talk.session.tls = TlsInfo("TLSv1.2", "ECDHE-RSA-AES128-GCM-SHA256")
            talk.session.identity = Identity("ada@example.org", "PLAIN")
        assert "354" in talk.start(mail=f"MAIL FROM:<ada@example.org>{mail}")
        talk.say(content + b".\r\n")
        ((message, _),) = talk.store.asked
        talk.store.finish()
        await talk.settle()
        return message

    return asyncio.run(run())


FIELDS = b"From: ada@example.org\r\nMessage-ID: <1@example.org>\r\n"


@pytest.mark.parametrize("role", ["mx", "submission"])
@pytest.mark.parametrize(
    ("field", "tagged"),
    [
        (b"TLS-Required: No\r\n", True),
        (b"tls-required:no\r\n", True),
        (b"TLS-Required:\r\n No\r\n", True),
        (b"TLS-Required: Yes\r\n", False),
        (b"TLS-Required: No\r\nTLS-Required: No\r\n", False),
        (b"X-TLS-Required: No\r\n", False),
        (b"", False),
        (b"\r\nTLS-Required: No\r\n", False),  # in the body
    ],
)
def test_the_field_becomes_a_tag_of_the_envelope(role: str, field: bytes, *, tagged: bool) -> None:
    message = accepted(FIELDS + field + b"\r\nbody\r\n", role=role)
    envelope = message.envelope
    assert envelope.tls_optional is tagged
    assert dict(envelope.parameters) == ({TLS_REQUIRED: "No"} if tagged else {})
    assert message.message_id == "<1@example.org>"
    stored = encode_parameters(envelope.parameters)
    assert dict(decode_parameters(stored) if stored else {}) == dict(envelope.parameters)


def test_the_parameters_of_mail_are_kept() -> None:
    envelope = accepted(FIELDS + b"TLS-Required: No\r\n\r\n", " BODY=8BITMIME").envelope
    assert dict(envelope.parameters) == {"BODY": "8BITMIME", TLS_REQUIRED: "No"}


def test_a_client_cannot_give_the_tag_as_a_parameter() -> None:
    talk = Talk()
    assert "\r\n555 5.5.4 " in talk.start(mail=f"MAIL FROM:<ada@example.org> {TLS_REQUIRED}=No")
