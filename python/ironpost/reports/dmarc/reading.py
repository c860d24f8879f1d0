"""Reads the XML of an aggregate report about DMARC, as RFC 9990 has it or RFC 7489.

Promises: memory and time are bounded, whatever a report contains (SECURITY R23): the limits are `MAX_OCTETS`,
`MAX_DEPTH`, `MAX_ROWS`, `MAX_ELEMENTS`, `MAX_TEXT` and `MAX_MARKUP`. The namespace of the root does not matter;
elements in another one are ignored, as are those that are not known. Text is returned as it is, so it must be escaped
before it is shown (SECURITY R20).
Refuses: a report with a document type declaration, and so with entities; one that lacks what makes it usable: who
reports what period, the domain, and for each row client, count and evaluation; all with `ReportError`.
Standards: RFC 9990 §3.1.1, RFC 7489 appendix C.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn
from xml.parsers import expat

from ironpost.model.network import parse_ip
from ironpost.reports.dmarc.report import DkimResult, PublishedPolicy, Reason, Report, Row, SpfResult
from ironpost.reports.received import ReportError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_OCTETS: Final = 20_000_000
"""Octets of a report after decompression."""
MAX_DEPTH: Final = 16
"""Levels of nested elements; the schema has 6."""
MAX_ROWS: Final = 10_000
"""Rows of a report. Some large systems send thousands."""
MAX_ELEMENTS: Final = 2_000
"""Elements of one row, and of everything before the rows."""
MAX_TEXT: Final = 10_000
"""Characters of the text of one element."""
MAX_MARKUP: Final = 65_536
"""Octets of one tag or comment. The parser gets as many at once, because no other thread runs until it returns."""
MAX_NUMBER: Final = 2**32 - 1
"""The largest count, and the latest time in seconds since 1970; larger ones count as this."""

_SEPARATOR: Final = " "
"""Between the namespace of an element and its name; no URI contains it."""


class _Node:
    """An element with its text and its children, without those of other namespaces."""

    __slots__ = ("children", "name", "text")

    def __init__(self, name: str) -> None:
        self.name = name
        self.text: list[str] = []
        self.children: list[_Node] = []

    def all(self, name: str) -> Iterator[_Node]:
        return (each for each in self.children if each.name == name)

    def one(self, name: str) -> _Node:
        found = next(self.all(name), None)
        if found is None:
            raise ReportError(f"the element {self.name} has no {name}")
        return found

    @property
    def content(self) -> str:
        return "".join(self.text).strip()

    def value(self, name: str) -> str:
        """The text of a child that must exist."""
        return self.one(name).content

    def optional(self, name: str) -> str:
        """The text of a child; empty if it does not exist."""
        return next((each.content for each in self.all(name)), "")

    def number(self, name: str) -> int:
        text = self.value(name)
        if not (text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_NUMBER))):
            raise ReportError(f"{name} is not a number of at most {len(str(MAX_NUMBER))} digits")
        return min(int(text), MAX_NUMBER)


class _Reader:
    """Handles the events of the parser, and turns each row into a value as soon as it ends."""

    def __init__(self) -> None:
        self.root: _Node | None = None
        self.rows: list[tuple[Row, int]] = []
        self._namespace = ""
        self._open: list[_Node] = []
        self._skipped = 0
        """Open elements of another namespace, and those in them."""
        self._elements = 0
        self._characters = 0
        """Of the text of the current element."""
        self.parser = expat.ParserCreate(namespace_separator=_SEPARATOR)
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._doctype

    def read(self, octets: bytes) -> None:
        for start in range(0, len(octets), MAX_MARKUP):
            piece = octets[start : start + MAX_MARKUP]
            self.parser.Parse(piece, False)
            # The index is where markup starts that has not been read to its end.
            if start + len(piece) - self.parser.CurrentByteIndex > MAX_MARKUP:
                raise ReportError(f"a tag or comment of more than {MAX_MARKUP} octets")
        self.parser.Parse(b"", True)

    def _start(self, full_name: str, attributes: object) -> None:
        del attributes
        namespace, _, name = full_name.rpartition(_SEPARATOR)
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            raise ReportError("too many elements")
        if len(self._open) + self._skipped >= MAX_DEPTH:
            raise ReportError(f"nested more than {MAX_DEPTH} levels deep")
        if self.root is None:
            if name != "feedback":
                raise ReportError("the root element is not feedback")
            self._namespace = namespace
        elif self._skipped or namespace != self._namespace:
            self._skipped += 1
            return
        node = _Node(name)
        self._characters = 0
        if self._open:
            self._open[-1].children.append(node)
        else:
            self.root = node
        self._open.append(node)

    def _end(self, full_name: str) -> None:
        del full_name
        if self._skipped:
            self._skipped -= 1
            return
        node = self._open.pop()
        if node.name == "record" and len(self._open) == 1:
            if len(self.rows) >= MAX_ROWS:
                raise ReportError(f"more than {MAX_ROWS} rows")
            self.rows.append(_row(node))
            self._open[0].children.pop()
            self._elements = 0

    def _text(self, text: str) -> None:
        if self._skipped:
            return
        self._characters += len(text)
        if self._characters > MAX_TEXT:
            raise ReportError(f"a text of more than {MAX_TEXT} characters")
        self._open[-1].text.append(text)

    def _doctype(self, *declaration: object) -> NoReturn:
        del declaration
        raise ReportError("it has a document type declaration")


def decoded(octets: bytes) -> Report:
    """Read a report from XML.

    Raises:
        ReportError: it is invalid, or exceeds a limit.
    """
    if len(octets) > MAX_OCTETS:
        raise ReportError(f"more than {MAX_OCTETS} octets")
    reader = _Reader()
    try:
        reader.read(octets)
    except ReportError:
        raise
    except (expat.ExpatError, LookupError, ValueError) as error:  # the latter of encodings that Python lacks
        raise ReportError(f"invalid XML: {error}") from None
    root = reader.root
    if root is None:
        raise ReportError("it is empty")
    metadata = root.one("report_metadata")
    period = metadata.one("date_range")
    return Report(
        metadata.value("org_name"),
        metadata.optional("email"),
        metadata.value("report_id"),
        period.number("begin"),
        period.number("end"),
        _policy(root.one("policy_published")),
        tuple(reader.rows),
        metadata.optional("error"),
    )


def _policy(node: _Node) -> PublishedPolicy:
    return PublishedPolicy(
        node.value("domain"),
        node.optional("p"),
        node.optional("sp"),
        node.optional("np"),
        node.optional("adkim"),
        node.optional("aspf"),
        node.optional("fo"),
        node.optional("testing"),
    )


def _row(node: _Node) -> tuple[Row, int]:
    described = node.one("row")
    evaluated = described.one("policy_evaluated")
    identifiers = node.one("identifiers")
    results = next(node.all("auth_results"), _Node("auth_results"))
    ip = parse_ip(described.value("source_ip"))
    if ip is None:
        raise ReportError("source_ip is not an IP address")
    sender = next((each.content for each in identifiers.all("envelope_from")), None)
    row = Row(
        str(ip),
        evaluated.value("disposition"),
        evaluated.value("dkim"),
        evaluated.value("spf"),
        tuple(Reason(each.optional("type"), each.optional("comment")) for each in evaluated.all("reason")),
        identifiers.value("header_from"),
        sender,
        tuple(
            DkimResult(each.optional("domain"), each.optional("selector"), each.optional("result"))
            for each in results.all("dkim")
        ),
        tuple(SpfResult(each.optional("domain"), each.optional("result")) for each in results.all("spf")),
    )
    return row, described.number("count")
