"""What the AUTH mechanisms send (RFC 4954), in Base64.

Standards: RFC 4616 (PLAIN), RFC 2195 (CRAM-MD5).
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode

from .errors import SMTPAuthenticationError
from .typing import SMTPStatus

__all__ = ("auth_crammd5_verify", "auth_login_encode", "auth_plain_encode", "auth_xoauth2_encode")


def auth_crammd5_verify(username: str | bytes, password: str | bytes, challenge: str | bytes, /) -> bytes:
    """Return the response to a challenge of CRAM-MD5.

    Raises:
        SMTPAuthenticationError: the challenge is not Base64.
    """
    try:
        octets = b64decode(challenge)
    except ValueError as error:
        text = f"Invalid CRAM-MD5 challenge from server: {challenge!r}"
        raise SMTPAuthenticationError(SMTPStatus.auth_continue, text) from error
    digest = hmac.new(_octets(password), octets, "md5").hexdigest()
    return b64encode(_octets(username) + b" " + digest.encode("ascii"))


def auth_plain_encode(username: str | bytes, password: str | bytes, /) -> bytes:
    """Return the initial response of PLAIN."""
    return b64encode(b"\0" + _octets(username) + b"\0" + _octets(password))


def auth_login_encode(username: str | bytes, password: str | bytes, /) -> tuple[bytes, bytes]:
    """Return the two responses of LOGIN."""
    return b64encode(_octets(username)), b64encode(_octets(password))


def auth_xoauth2_encode(username: str | bytes, access_token: str | bytes, /) -> bytes:
    """Return the initial response of XOAUTH2."""
    return b64encode(b"user=%b\x01auth=Bearer %b\x01\x01" % (_octets(username), _octets(access_token)))


def _octets(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8")
