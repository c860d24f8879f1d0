"""The client side of each extension: parameters added to MAIL, and reasons to refuse a next hop."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar

import pytest

from ironpost.model import NULL, Address, BodyType, Envelope, Recipient
from ironpost.model.parameters import Return
from ironpost.protocol import replies
from ironpost.protocol.extensions import EXTENSIONS, Extension, Outgoing, outgoing, typed_parameters, wire_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

ALL = {"SIZE": "1000", "8BITMIME": "", "SMTPUTF8": "", "PIPELINING": "", "CHUNKING": ""}


def message(
    size: int | None = 10, eight_bit: bool = False, smtputf8: bool = False, body: str | None = None
) -> Outgoing:
    parameters = {} if body is None else {"BODY": body}
    envelope = Envelope(NULL, (Recipient(Address.parse("c@d.example")),), parameters)
    return Outgoing(envelope, size, eight_bit, smtputf8)


@pytest.mark.parametrize(
    ("what", "offered", "answer"),
    [
        (message(), {}, {}),
        (message(), ALL, {"SIZE": 10}),
        (message(size=None), ALL, {}),
        # RFC 1870 §4: zero, or the absence of a number, means no limit.
        (message(size=1001), ALL, replies.PEER_TOO_SMALL),
        (message(size=1001), {"SIZE": "0"}, {"SIZE": 1001}),
        (message(size=1001), {"SIZE": ""}, {"SIZE": 1001}),
        # RFC 6152 §3
        (message(eight_bit=True), ALL, {"SIZE": 10, "BODY": "8BITMIME"}),
        (message(body="8BITMIME"), ALL, {"SIZE": 10, "BODY": "8BITMIME"}),
        (message(body="8bitmime"), {}, {}),
        (message(eight_bit=True), {}, replies.PEER_LACKS_8BIT),
        (message(body="BINARYMIME"), ALL, replies.PEER_LACKS_BINARY),
        # RFC 6531 §3.5
        (message(smtputf8=True), ALL, {"SIZE": 10, "SMTPUTF8": None}),
        (message(smtputf8=True), {"8BITMIME": ""}, replies.PEER_LACKS_UTF8_HEADER),
    ],
)
def test_parameters_and_refusals_of_the_client_for_each_extension(
    what: Outgoing, offered: dict[str, str], answer: object
) -> None:
    assert outgoing(what, offered) == answer


def test_keywords_are_unique_and_every_parameter_has_one_owner() -> None:
    keywords = [extension.keyword for extension in EXTENSIONS]
    assert len(set(keywords)) == len(keywords)
    for attribute in ("mail_parameters", "rcpt_parameters", "verbs"):
        names = [name for extension in EXTENSIONS for name in getattr(extension, attribute)]
        assert len(set(names)) == len(names)


def test_parameters_survive_the_store_unchanged() -> None:
    parameters = {"SIZE": 10, "BODY": BodyType.EIGHT_BIT, "SMTPUTF8": None, "XOTHER": "text"}
    wire = wire_parameters(parameters)
    assert wire == {"SIZE": "10", "BODY": "8BITMIME", "SMTPUTF8": None, "XOTHER": "text"}
    back = typed_parameters(json.loads(json.dumps(wire)))
    assert back == parameters
    assert [type(value) for value in back.values()] == [int, BodyType, type(None), str]


def test_r25_stored_parameters_that_cannot_be_parsed_stay_text() -> None:
    typed = typed_parameters({"BODY": "8bitmime", "NOTIFY": "SOMETIMES", "RET": "HDRS"})
    assert typed == {"BODY": "8bitmime", "NOTIFY": "SOMETIMES", "RET": Return.HDRS}


def test_typed_parameters_are_typed_again_when_read_from_the_store() -> None:
    for extension in EXTENSIONS:
        owned = {*extension.mail_parameters, *extension.rcpt_parameters}
        assert set(extension.stored) == owned - {"SMTPUTF8", "REQUIRETLS"}, extension.keyword


def test_an_on_request_extension_is_consulted_only_on_request() -> None:
    asked = []

    class Curious(Extension):
        keyword = "CURIOUS"
        on_request = True
        mail_parameters: ClassVar = {"X": lambda session, value: value, "Y": lambda session, value: value}

        def outgoing(self, message: Outgoing, offered: Mapping[str, str]) -> dict[str, str]:
            asked.append(dict(message.envelope.parameters))
            return {"X": "1"}

    extensions = (*EXTENSIONS, Curious())
    to = (Recipient(Address.parse("c@d.example")),)
    for parameters in ({}, {"SIZE": 10}, {"X": "1", "Y": "2"}):
        outgoing(Outgoing(Envelope(NULL, to, parameters), 10, False, False), ALL, extensions)
    assert asked == [{"X": "1", "Y": "2"}]
