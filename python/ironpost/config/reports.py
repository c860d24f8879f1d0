"""`[tlsrpt]` and `[dmarc_reports]`: daily reports to other domains."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

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
    """`[dmarc_reports]`: daily reports about DMARC to the domains that ask for them (RFC 9990)."""
