"""PIPELINING: commands are sent without waiting for replies (RFC 2920).

The server replies to a batch in order with one write; its framer reads ahead only where that is safe (§3.2). The client
session looks for the keyword and groups MAIL, RCPT and DATA (§3.1).
"""

from __future__ import annotations

from ironpost.protocol.extensions.base import Extension


class Pipelining(Extension):
    keyword = "PIPELINING"
