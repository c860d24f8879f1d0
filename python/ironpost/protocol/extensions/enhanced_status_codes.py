"""ENHANCEDSTATUSCODES: replies carry `class.subject.detail` (RFC 2034).

Every reply of the catalogue carries one, also after HELO, where RFC 2034 does not forbid it: it is text there.
"""

from __future__ import annotations

from ironpost.protocol.extensions.base import Extension


class EnhancedStatusCodes(Extension):
    keyword = "ENHANCEDSTATUSCODES"
