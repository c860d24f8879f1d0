"""`[tlsrpt]` and `[dmarc_reports]`: reports to other domains."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from ironpost.config.values import Section
from ironpost.model import Address
from ironpost.model.text import complaint


def _contact(value: object) -> str:
    """A mail address with A-labels, because it is part of the Report-ID."""
    try:
        address = Address.parse(value) if isinstance(value, str) else None
        if address is None or not address.domain or address.domain.startswith("["):
            raise ValueError('an address in a domain is needed, like "tls-reports@mail.example"')
        return str(address.in_ascii())
    except ValueError as fault:
        raise ValueError(f'"{value}" is not a valid contact: {complaint(str(value), fault)}') from None


class ReportsSection(Section):
    """The keys of a kind of reports."""

    contact: Annotated[str | None, BeforeValidator(_contact)] = None
    """The author of reports, for questions; its domain is named as their submitter. No reports are sent without it."""
    organization: Annotated[str | None, Field(min_length=1, max_length=200)] = None
    """The name of the organisation in reports; default: the domain of `contact`."""


class TlsrptSection(ReportsSection):
    """`[tlsrpt]`: daily reports about TLS to the domains that ask for them (RFC 8460)."""


class DmarcReportsSection(ReportsSection):
    """`[dmarc_reports]`: reports about DMARC to the domains that ask for them, daily (RFC 9990) and about single
    messages (RFC 9991)."""

    failures: bool = False
    """Also send failure reports, which contain header sections of messages."""

    @model_validator(mode="after")
    def _has_contact(self) -> Self:
        if self.failures and self.contact is None:
            raise ValueError("failures: the reports need an author, the key contact")
        return self
