"""The record of one evaluation of DMARC, from which reports are made (RFC 9990, RFC 9991)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ironpost.message.section import EMPTY

if TYPE_CHECKING:
    from ironpost.mail_auth.dkim import DkimAnswer
    from ironpost.mail_auth.dmarc import DmarcAnswer
    from ironpost.mail_auth.dmarc_record import DmarcPolicy
    from ironpost.mail_auth.spf import SpfAnswer
    from ironpost.message.section import Header
    from ironpost.model import Address
    from ironpost.model.parameters import EnvelopeId


class OverrideType(StrEnum):
    """Why another policy was applied than the published one (RFC 9990 §3.1.6)."""

    LOCAL_POLICY = "local_policy"
    MAILING_LIST = "mailing_list"
    OTHER = "other"
    POLICY_TEST_MODE = "policy_test_mode"
    TRUSTED_FORWARDER = "trusted_forwarder"


class Override(NamedTuple):
    """A reason why another policy was applied than the published one."""

    type: OverrideType
    comment: str = ""
    """Details for the owner of the domain; may be empty."""


@dataclass(frozen=True, slots=True)
class DmarcEvaluation:
    """One message: what was found, and what was done."""

    ip: str
    """The address of the client."""
    reverse_path: Address
    answer: DmarcAnswer
    spf: SpfAnswer | None
    """None if SPF was not checked."""
    dkim: tuple[DkimAnswer, ...]
    disposition: DmarcPolicy
    """What was done because of DMARC: `none` if the message passed, or nothing was enforced."""
    overrides: tuple[Override, ...] = ()
    """Why that is not what the owner of the domain asks for, as far as the check knows."""
    header: Header = EMPTY
    """The header section, as it was received."""
    envelope_id: EnvelopeId | None = None
    """The parameter ENVID of MAIL (RFC 3461 §4.4)."""


DmarcRecorder: TypeAlias = Callable[[DmarcEvaluation], None]
"""Called once for each message that was evaluated; returns at once."""
