"""Certificates of peers that OpenSSL accepts and this project cannot read."""

from __future__ import annotations

from typing import Any

from ironpost.client.tls import channel_bindings, peer_chain


class Unreadable:
    """A connection whose peer sent a certificate that is not valid DER."""

    def get_unverified_chain(self) -> list[bytes]:
        return [b"\x30\x03abc"]

    def version(self) -> str:
        return "TLSv1.3"


def test_a_certificate_that_cannot_be_read_costs_only_the_channel_binding() -> None:
    connection: Any = Unreadable()
    assert channel_bindings(connection, peer_chain(connection)) == {}
