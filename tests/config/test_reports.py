"""`[tlsrpt]` and `[dmarc_reports]`: who reports to other domains."""

from __future__ import annotations

import pytest

from ironpost.config import ConfigError, parse


@pytest.mark.parametrize("table", ["tlsrpt", "dmarc_reports"])
def test_reports_have_an_ascii_contact_in_a_domain(table: str) -> None:
    assert getattr(parse(""), table).contact is None
    found = getattr(parse(f'[{table}]\ncontact = "reports@b\u00fccher.example"'), table)
    assert found.contact == "reports@xn--bcher-kva.example"
    for wrong in ('"tls"', '"postmaster"', '"tls@[192.0.2.1]"', '"j\u00f6@mx.example"', '"a@b@c"', "7", '""'):
        with pytest.raises(ConfigError, match=rf"{table}\.contact"):
            parse(f"[{table}]\ncontact = {wrong}\n")
    with pytest.raises(ConfigError, match=rf"{table}\.organization"):
        parse(f'[{table}]\norganization = ""\n')


def test_failure_reports_are_off_by_default_and_need_an_author() -> None:
    assert not parse("").dmarc_reports.failures
    assert parse('[dmarc_reports]\ncontact = "x@mx.example"\nfailures = true').dmarc_reports.failures
    with pytest.raises(ConfigError, match="failures: the reports need an author, the key contact"):
        parse("[dmarc_reports]\nfailures = true")
