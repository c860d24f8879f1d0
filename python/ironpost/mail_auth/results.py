"""The field Authentication-Results: writing it, reading it in a stored message, and removing forged ones (RFC 8601).

Promises: a field that is written contains only what its grammar allows, whatever the values are: what is not a token or
an address is quoted, other characters than printable ASCII are escaped, and what is long is cut off (SECURITY R43); so
it is in a summary. `without_forged` removes every field that a reader could take for one of ours, however it is quoted,
folded or commented (SECURITY R48). `confirmed_domain` reads only what this server wrote.
Refuses: names of methods, results and properties that are not keywords, with `HeaderError`.
Standards: RFC 8601 §2.2 (grammar), §2.7 (methods), §5 (removing fields); RFC 9989 §9.1 (policy of DMARC).
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.mail_auth.names import normalised
from ironpost.message.address_list import tokens, unquoted
from ironpost.message.header import HeaderError, field, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ironpost.mail_auth.arc import ArcAnswer
    from ironpost.mail_auth.dkim import DkimAnswer
    from ironpost.mail_auth.dmarc import DmarcAnswer
    from ironpost.mail_auth.spf import SpfAnswer
    from ironpost.message.section import Header
    from ironpost.wire import HeaderField

NAME: Final = "Authentication-Results"
VALUE_LIMIT: Final = 300
"""Characters of a reason or another value."""

_KEYWORD: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")
_BARE: Final = re.compile(r"(?:[\w!#$%&'*+.^`{|}~-]*@)?[\w!#$%&'*+.^`{|}~-]+", re.ASCII)
"""A token of RFC 2045 §5.1, or an address or `@domain` that needs no quotes."""
_TESTING: Final = ("policy.testing", "y")
"""The property of a valid signature that does not count, because its domain is testing."""


class MethodResult(NamedTuple):
    """What one method found (RFC 8601 §2.2, resinfo)."""

    method: str
    result: str
    properties: tuple[tuple[str, str], ...] = ()
    """Pairs such as `("smtp.mailfrom", "a.example")`."""
    reason: str = ""

    def __str__(self) -> str:
        """Method and result, such as `spf=pass`."""
        return f"{self.method}={self.result}"

    @property
    def summary(self) -> str:
        """Method, result and properties as in the field, such as `spf=pass smtp.mailfrom=a.example`; for logs."""
        return " ".join((str(self), *(f"{name}={_value(value)}" for name, value in self.properties)))


def of_spf(answer: SpfAnswer) -> MethodResult:
    """What SPF found; the domain stands for the address, because few records look at local parts."""
    return MethodResult("spf", answer.result, ((f"smtp.{answer.identity}", answer.domain),), answer.reason)


def of_arc(answer: ArcAnswer, ip: str = "") -> MethodResult:
    """What ARC found, with the address of the client if it is known (RFC 8617 §6)."""
    return MethodResult("arc", answer.result, (("smtp.remote-ip", ip),) if ip else (), answer.reason)


def of_dkim(answer: DkimAnswer) -> MethodResult:
    """What DKIM found for one signature; of a message without signatures, write `MethodResult("dkim", "none")`."""
    properties = [("header.d", answer.domain), ("header.s", answer.selector), ("header.a", answer.algorithm)]
    if answer.identity != f"@{answer.domain}":
        properties.append(("header.i", answer.identity))
    properties.append(("header.b", answer.signature))
    if answer.testing:
        properties.append(_TESTING)
    return MethodResult("dkim", answer.result, tuple(each for each in properties if each[1]), answer.reason)


def of_dmarc(answer: DmarcAnswer) -> MethodResult:
    """What DMARC found, with the policy that the author's domain asks for."""
    properties = [("header.from", answer.author)] if answer.author else []
    if answer.record is not None:
        properties.append(("policy.dmarc", answer.policy))
    return MethodResult("dmarc", answer.result, tuple(properties), answer.reason)


def results_field(service: str, results: Iterable[MethodResult]) -> bytes:
    """Write the field, with its CRLF.

    Args:
        service: the authserv-id, a name of this organization.
        results: what the methods found, in the order of the field; without any the field says `none`.

    Raises:
        HeaderError: a name is not a keyword, or `service` is empty.
    """
    if not service:
        raise HeaderError("the authserv-id is empty")
    words = [_value(service)]
    for each in results:
        words[-1] += ";"
        words.append(f"{_keyword(each.method)}={_keyword(each.result)}")
        if each.reason:
            words.append(f"reason={_quoted(each.reason)}")
        for name, value in each.properties:
            words.append(f"{_property(name)}={_value(value)}")
    if len(words) == 1:
        words = [f"{words[0]};", "none"]
    return field(NAME, words)


def without_forged(header: Header, services: Iterable[str]) -> bytes:
    """A header section without the fields that seem to be from one of our services (RFC 8601 §5).

    Fields without a valid authserv-id and of an unknown version are removed too. If nothing is removed, the result is
    the octets of the section, the same object.

    Args:
        header: the section of a message from outside.
        services: our authserv-ids.
    """
    ours = {_comparable(each) for each in services}

    def forged(entry: HeaderField) -> bool:
        service = _service(header.octets[entry.value : entry.end])
        return service is None or _comparable(service) in ours

    fields = [entry for entry in header.section.fields if entry.name.lower() == NAME.lower()]
    return header.without_fields(filter(forged, fields))


def confirmed_domain(header: Header) -> str:
    """The domain that this server confirmed for a message that it stored, in lower case; empty if it confirmed none.

    That is the author's domain if DMARC passed, else the signing domain of the first valid signature of a domain that
    is not testing (RFC 6376 §3.6.1). Only fields above the first Received are read: this server put them there, and
    anybody may have written the others.

    Args:
        header: the section of the stored message.
    """
    signing = ""
    for entry in header.section.fields:
        name = entry.name.lower()
        if name == "received":
            break
        if name != NAME.lower():
            continue
        for result, *properties in _results(header.octets[entry.value : entry.end]):
            values = dict(each.partition("=")[::2] for each in properties)
            if result == "dmarc=pass":
                return values.get("header.from", "").lower()
            if result == "dkim=pass" and not signing and _TESTING not in values.items():
                signing = values.get("header.d", "").lower()
    return signing


def _results(body: bytes) -> Iterator[list[str]]:
    """The words between the semicolons of a field body, such as `dmarc=pass` and `header.from=a.example`."""
    words: list[str] = []
    end = 0
    for token in tokens(body):
        text = unquoted(token).decode("utf-8", "backslashreplace")
        if token.kind == ";":
            if words:
                yield words
            words = []
        elif words and token.start == end:  # no space between them: one word
            words[-1] += text
        else:
            words.append(text)
        end = token.end
    if words:
        yield words


def _service(body: bytes) -> str | None:
    """The authserv-id of a field body; None if it is not valid, or the version is not 1."""
    start = list(islice(tokens(body), 3))
    if not start or start[0].kind not in {"atom", "quoted"}:
        return None
    following = start[1:]
    if following and following[0].kind == "atom" and following[0].octets == b"1":
        del following[0]
    if not following or following[0].kind != ";":
        return None
    return unquoted(start[0]).decode("utf-8", "backslashreplace")


def _comparable(service: str) -> str:
    try:
        return normalised(service)
    except ValueError:
        return service.lower()


@lru_cache(64)  # there are few
def _property(name: str) -> str:
    ptype, _, prop = name.partition(".")
    return f"{_keyword(ptype)}.{_keyword(prop)}"


def _keyword(text: str) -> str:
    if _KEYWORD.fullmatch(text) is None:
        raise HeaderError(f"{text!a} is not a keyword")
    return text


def _value(text: str) -> str:
    return text if len(text) <= VALUE_LIMIT and _BARE.fullmatch(text) else _quoted(text)


def _quoted(text: str) -> str:
    if not text:
        return '""'
    escaped = re.sub(r'(["\\])', r"\\\1", shown(text)[:VALUE_LIMIT])
    return f'"{escaped}"'
