"""CRLF becomes LF, and nothing else changes, however the content is cut."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ironpost.message.lineends import LineFeeds


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"."])).map(b"".join)))
def test_only_crlf_becomes_lf(pieces: list[bytes]) -> None:
    lines = LineFeeds()
    out = b"".join(lines.feed(piece) for piece in pieces) + lines.finish()
    assert out == b"".join(pieces).replace(b"\r\n", b"\n")
