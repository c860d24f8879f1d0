"""A listener with the role `http`, and the policies that it serves."""

from __future__ import annotations

import pytest

from ironpost.config import ConfigError, parse
from ironpost.routing.tls.mta_sts import StsMode, StsPolicy

HTTP = '[[listener]]\nrole = "http"\nlisten = ["127.0.0.1:0"]\n'


def test_it_has_tls_by_default_and_limits_of_connections() -> None:
    found = parse(HTTP + '[listener.limits]\nconnections = 7\nhandshake_timeout = "5s"\n')
    (listener,) = found.listener
    assert (listener.tls, listener.takes_mail, found.limits_of(listener).connections) == ("implicit", False, 7)
    assert parse(HTTP + 'tls = "none"').listener[0].tls == "none"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f'{HTTP}pause = "1s"\nauth = "none"', 'auth, pause: no effect with role = "http", which takes no mail'),
        (f'{HTTP}tls = "starttls"', "HTTP has no STARTTLS"),
        (f"{HTTP}[listener.limits]\nerrors = 3", 'limits.errors has no effect with role = "http"'),
        (f'{HTTP}tls_reports_to = "postmaster"', "an address is like"),
        (f"{HTTP}unknown = 1", "listener[1].unknown: unknown key"),
        (HTTP.replace("http", "mx") + 'tls_reports_to = "a@b.example"', "tls_reports_to is for a listener with role"),
        ("[[mta_sts]]\ndomains = []", "the list is empty"),
        ('[[mta_sts]]\ndomains = ["a.example"]', "mta_sts[1].mx: name the hosts in the MX records, or set hostname"),
        ('[[mta_sts]]\ndomains = ["localhost"]\nmode = "none"', "a policy needs a domain with a dot"),
        ('[[mta_sts]]\ndomains = ["a.example"]\nmx = ["mx_1.a.example"]', "neither the name of a host, nor *. before"),
        ('[[mta_sts]]\ndomains = ["a.example"]\nmx = ["*"]', "neither the name of a host, nor *. before"),
        ('[[mta_sts]]\ndomains = ["a.example"]\nmax_age = "366d"', "maximum: 365d"),
        ('[[mta_sts]]\ndomains = ["a.example"]\nmax_age = "1m"', "minimum: 1h"),
        ('[[mta_sts]]\ndomains = ["a.example", "A.example"]\nmode = "none"', "a.example is listed twice"),
    ],
)
def test_what_is_wrong_is_explained(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "c.toml")
    assert sentence in str(caught.value)


def test_a_policy_names_this_server_and_domains_in_a_labels() -> None:
    found = parse(
        'hostname = "MX.example"\n[[mta_sts]]\ndomains = ["B\u00fccher.example"]\n'
        '[[mta_sts]]\ndomains = ["a.example"]\nmode = "enforce"\nmx = ["*.B\u00fccher.example"]\nmax_age = "1h"\n'
    )
    assert found.sts_policies == {
        "xn--bcher-kva.example": StsPolicy(StsMode.TESTING, ("mx.example",), 7 * 86400),
        "a.example": StsPolicy(StsMode.ENFORCE, ("*.xn--bcher-kva.example",), 3600),
    }
