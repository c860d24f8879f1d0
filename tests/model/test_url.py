"""HTTPS URLs: what is accepted, and that an error does not show what may be secret."""

from __future__ import annotations

import pytest

from ironpost.model.url import https_parts


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://Mail.example:443/a?b#c", "https://mail.example/a?b"),
        ("https://mail.example.:8443/", "https://mail.example:8443/"),
        ("https://mail.example:/", "https://mail.example/"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ("https://[2001:DB8::1]/", "https://[2001:db8::1]/"),
    ],
)
def test_the_host_and_the_port_are_normalised(url: str, parts: str) -> None:
    assert https_parts(url).geturl() == parts


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://jo:secret/path", "its port is not a number from 1 to 65535"),
        ("https://jo:secret/word@mail.example/", "its port is not a number from 1 to 65535"),
        ("https://secret.example:65536/", "its port is not a number from 1 to 65535"),
        ("https://secret.example:0/", "its port is not a number from 1 to 65535"),
        ("https://jo:secret@mail.example/", "it has a user name"),
        ("https://secret\xad.example/", "it has no valid host name"),
        (f"https://secret{'ü' * 64}.example/", "it has no valid host name"),
        ("https://secret\u2100.example/", "it has no valid host name"),
        ("https://[secret/", "it has no valid host name"),
    ],
)
def test_an_error_contains_nothing_of_the_url(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{why}$"):
        https_parts(url)
