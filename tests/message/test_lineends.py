"""Line endings of content, however it is cut."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from ironpost.message.lineends import LineFeeds, NetworkLines


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"."])).map(b"".join)))
def test_only_crlf_becomes_lf(pieces: list[bytes]) -> None:
    lines = LineFeeds()
    out = b"".join(lines.feed(piece) for piece in pieces) + lines.finish()
    assert out == b"".join(pieces).replace(b"\r\n", b"\n")


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"."])).map(b"".join)))
def test_every_line_end_becomes_crlf(pieces: list[bytes]) -> None:
    lines = NetworkLines()
    out = b"".join(lines.feed(piece) for piece in pieces) + lines.finish()
    texts = re.split(rb"\r\n|\r|\n", b"".join(pieces))
    assert out == b"".join(text + b"\r\n" for text in (texts if texts[-1] else texts[:-1]))
