"""The record of one evaluation of DMARC, from which aggregate reports are made (RFC 9990)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from ironpost.mail_auth.dmarc import SignatureResult

if TYPE_CHECKING:
    from ironpost.mail_auth.dmarc import DmarcAnswer
    from ironpost.mail_auth.dmarc_record import DmarcPolicy
    from ironpost.mail_auth.spf import SpfAnswer


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


class SelectedSignature(SignatureResult, Protocol):
    """The result of one DKIM signature, with its selector."""

    @property
    def selector(self) -> str:
        """The name of the key, the tag `s`."""
        ...


@dataclass(frozen=True, slots=True)
class DmarcEvaluation:
    """One message: what was found, and what was done."""

    ip: str
    """The address of the client."""
    sender: str
    """The domain of the reverse-path; empty if that is null."""
    answer: DmarcAnswer
    spf: SpfAnswer | None
    """None if SPF was not checked."""
    dkim: tuple[SelectedSignature, ...]
    disposition: DmarcPolicy
    """What was done because of DMARC: `none` if the message passed, or nothing was enforced."""
    overrides: tuple[Override, ...] = ()
    """Why that is not what the owner of the domain asks for, as far as the check knows."""


DmarcRecorder: TypeAlias = Callable[[DmarcEvaluation], None]
"""Called once for each message that was evaluated; returns at once."""
