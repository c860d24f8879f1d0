"""The domain model: frozen, typed values that are always valid on the wire, and the ports to the outside world.

Promises: an `Address`, a `Reply` or an `Envelope` that exists is valid; none can hold CR, LF or NUL (SECURITY R17,
R20).
Refuses: construction from anything else, with a `ValueError` that names the offset.
"""

from ironpost.model.address import NULL, Address
from ironpost.model.body import Body, Pieces
from ironpost.model.envelope import BodyType, Envelope, Origin, Recipient, Value
from ironpost.model.outcome import Disposition, Outcome
from ironpost.model.reply import RawReply, Reply
from ironpost.model.verdict import Action, Verdict

__all__ = [
    "NULL",
    "Action",
    "Address",
    "Body",
    "BodyType",
    "Disposition",
    "Envelope",
    "Origin",
    "Outcome",
    "Pieces",
    "RawReply",
    "Recipient",
    "Reply",
    "Value",
    "Verdict",
]
