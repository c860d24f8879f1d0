"""What is encoded for a store comes back equal."""

from __future__ import annotations

import dataclasses
import json

import pytest

from ironpost.model import Disposition, Origin, Outcome, Reply
from ironpost.model.parameters import Notify
from ironpost.model.tls import TlsLevel, TlsResult
from ironpost.queue.codec import (
    LOCAL_ORIGIN,
    decode_origin,
    decode_parameters,
    decode_update,
    encode_origin,
    encode_parameters,
    encode_update,
)
from ironpost.queue.store import RecipientState, Update


@pytest.mark.parametrize("state", list(RecipientState))
def test_an_update_comes_back_from_json(state: RecipientState) -> None:
    reply = Reply(451, "4.7.1", ("Later", 'with "quotes" and ü'), "only for the log")
    tls = TlsResult("mx.example", TlsLevel.ENCRYPTED, TlsLevel.NONE, "opportunistic")
    outcome = Outcome(
        Disposition.DEFERRED, reply, "mx.example [192.0.2.1]",
        asked=True, ours=True, tls=tls, unreachable=True, relayed=True, wait=90.0,
    )  # fmt: skip
    for update in (
        Update("m1", 3, state, 7, 1.25, outcome),
        Update("m1", 3, state, 7, 1.25),
        Update("m1", 3, state, 7, 1.25, warned=True, late=True, put_off=9.5),
    ):
        back = decode_update(json.loads(json.dumps(encode_update(update))))
        assert back == update
        assert repr(back) == repr(update), "with what comparing leaves out"
    assert len([each for each in dataclasses.fields(Outcome) if each.name != "crash"]) == 9
    assert len(dataclasses.fields(Reply)) == 5


def test_parameters_come_back_typed_and_read_as_in_a_command() -> None:
    parameters = {"NOTIFY": Notify.FAILURE | Notify.DELAY, "X": None, "Y": "a=b"}
    text = encode_parameters(parameters)
    assert text == "NOTIFY=FAILURE,DELAY X Y=a=b"
    assert decode_parameters(text) == parameters
    assert encode_parameters({}) == ""
    with pytest.raises(ValueError, match="a parameter contains a space"):
        encode_parameters({"X": "a b"})


def test_an_origin_comes_back_and_a_forged_one_is_refused() -> None:
    origin = Origin("192.0.2.1", "client.example", "ESMTP")
    assert decode_origin(encode_origin(origin)) == origin
    assert encode_origin(LOCAL_ORIGIN) == ""
    with pytest.raises(TypeError):
        decode_origin("[1]")
