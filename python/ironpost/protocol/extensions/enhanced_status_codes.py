"""ENHANCEDSTATUSCODES: replies contain an enhanced status code, `class.subject.detail` (RFC 2034).

The replies in `protocol.replies` contain one even after HELO, when clients read it as text.
"""

from __future__ import annotations

from ironpost.protocol.extensions.base import Extension


class EnhancedStatusCodes(Extension):
    keyword = "ENHANCEDSTATUSCODES"
