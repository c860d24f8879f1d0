"""Received reports about DMARC: those of RFC 9990 and RFC 7489, in every packing, and hostile ones."""

from __future__ import annotations

import base64
import gzip
import io
import re
import zipfile
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reports.dmarc_kit import FAILING, MIDNIGHT, PASSING, POLICY, REPORT

from ironpost.model import Address
from ironpost.reports.dmarc import mail, reading
from ironpost.reports.dmarc.reading import MAX_DEPTH, MAX_ELEMENTS, MAX_MARKUP, MAX_OCTETS, MAX_ROWS, MAX_TEXT, decoded
from ironpost.reports.dmarc.report import DkimResult, Reason, SpfResult, encoded
from ironpost.reports.received import ReportError
from ironpost.storage.sqlite import received_reports

if TYPE_CHECKING:
    from collections.abc import Callable

XML = encoded(REPORT)
OLD = b"""<?xml version="1.0" encoding="UTF-8" ?>
<!-- as of RFC 7489, without a namespace -->
<feedback>
  <report_metadata>
    <org_name>Theirs</org_name><email>noreply@theirs.example</email>
    <extra_contact_info>https://theirs.example/?a&amp;b</extra_contact_info>
    <report_id>123</report_id>
    <date_range><begin> 1700000000 </begin><end>1700086399</end></date_range>
  </report_metadata>
  <policy_published><domain>a.example</domain><adkim>r</adkim><p>none</p><pct>100</pct></policy_published>
  <record>
    <row>
      <source_ip>192.0.2.7</source_ip><count>4</count>
      <policy_evaluated>
        <disposition>none</disposition><dkim>pass</dkim><spf>fail</spf>
        <reason><type>forwarded</type><comment/></reason>
      </policy_evaluated>
    </row>
    <identifiers><header_from>a.example</header_from></identifiers>
    <auth_results>
      <dkim><domain>a.example</domain><result>pass</result><selector>k</selector></dkim>
      <spf><domain>b.example</domain><result>softfail</result></spf>
      <spf><domain>mx.b.example</domain><scope>helo</scope><result>none</result></spf>
    </auth_results>
  </record>
</feedback>
"""


def test_a_report_of_rfc_7489() -> None:
    report = decoded(OLD)
    assert (report.organization, report.contact, report.id) == ("Theirs", "noreply@theirs.example", "123")
    assert (report.start, report.end) == (1_700_000_000, 1_700_086_399)
    assert report.policy == POLICY._replace(
        policy="none", subdomains="", nonexistent="", spf_alignment="", failure_options="", testing=""
    )
    ((row, count),) = report.rows
    assert count == 4
    assert (row.ip, row.passed, row.author, row.sender) == ("192.0.2.7", True, "a.example", None)
    assert row.reasons == (Reason("forwarded"),)
    assert row.dkim_results == (DkimResult("a.example", "k", "pass"),)
    assert row.spf_results == (SpfResult("b.example", "softfail"), SpfResult("mx.b.example", "none"))


@pytest.mark.parametrize(
    "xml",
    [
        XML.replace(b"urn:ietf:params:xml:ns:dmarc-2.0", b"http://dmarc.org/dmarc-xml/0.1"),
        XML.replace(b"<feedback", b"<d:feedback", 1)
        .replace(b"</feedback", b"</d:feedback")
        .replace(b'xmlns="', b'xmlns:d="')
        .replace(b"<", b"<d:")
        .replace(b"<d:/", b"</d:")
        .replace(b"<d:?", b"<?")
        .replace(b"d:d:", b"d:"),
        XML.decode().replace("utf-8", "utf-16").encode("utf-16"),
    ],
)
def test_namespaces_prefixes_and_encodings_do_not_matter(xml: bytes) -> None:
    assert decoded(xml) == REPORT


def test_extensions_are_ignored() -> None:
    extension = b'<x:record xmlns:x="urn:x"><x:row/><row/>words</x:record>'
    xml = XML.replace(b"<record>", b"<extension>" + extension + b"</extension><record>", 1)
    xml = xml.replace(b"</auth_results>", b"</auth_results>" + extension).replace(b"<row>", b"<row>" + extension)
    assert decoded(xml) == REPORT


# -- files and messages -----------------------------------------------------------------------------------------------


def zipped(content: bytes, *, method: int = zipfile.ZIP_DEFLATED, streamed: bool = False) -> bytes:
    class Stream(io.BytesIO):
        def tell(self) -> int:
            raise OSError("a pipe has no position")

    packed = Stream() if streamed else io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        # With a fixed time: the names of tests contain it, and must be the same in all processes of a run.
        archive.writestr(zipfile.ZipInfo("theirs.example!a.example!1!2.xml", (2023, 11, 15, 0, 0, 0)), content, method)
    return packed.getvalue()


def attached(media_type: str, octets: bytes) -> bytes:
    fields = f"Subject: Report Domain: a.example\nContent-Type: {media_type}\nContent-Transfer-Encoding: base64\n\n"
    return fields.encode() + base64.encodebytes(octets)


@pytest.mark.parametrize(
    "octets",
    [
        XML,
        b"\xef\xbb\xbf" + XML,
        b"\r\n " + XML.partition(b"?>\n")[2],
        gzip.compress(XML, mtime=0),
        zipped(XML),
        zipped(XML, method=zipfile.ZIP_STORED),
        zipped(XML, streamed=True),
        attached("application/gzip", gzip.compress(XML, mtime=0)),
        attached("application/zip; name=x.zip", zipped(XML)),
        attached("text/xml", XML),
        attached("application/octet-stream", gzip.compress(XML, mtime=0)),
        mail.message(REPORT, [Address.parse("dmarc@a.example")], now=MIDNIGHT, token="T0KEN"),
    ],
    ids=count(),  # what is packed holds the time, so it differs between processes
)
def test_a_report_is_found_in_every_packing(octets: bytes) -> None:
    assert decoded(mail.extracted(octets).content) == REPORT


DEFLATED = zipped(XML)
ENCRYPTED = DEFLATED[:6] + b"\1\0" + DEFLATED[8:]
OTHER_METHOD = DEFLATED[:8] + b"\x0c\0" + DEFLATED[10:]


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"", "neither a report"),
        (b"Subject: hello\n\n<feedback/>\n", "neither a report"),
        (attached("application/octet-stream", b"MZ"), "neither a report"),
        (gzip.compress(XML, mtime=0)[:-9], "incomplete"),
        (b"PK\3\4", "incomplete"),
        (DEFLATED[:200], "incomplete"),
        (ENCRYPTED, "encrypted"),
        (OTHER_METHOD, "method 12"),
        (DEFLATED[:60] + b"\xff" * 40, "invalid zip"),
        (zipped(XML, method=zipfile.ZIP_STORED, streamed=True), "size of the file"),
        (zipped(XML, method=zipfile.ZIP_STORED)[:300], "size of the file"),
    ],
    ids=count(),
)
def test_other_files_are_refused(octets: bytes, why: str) -> None:
    with pytest.raises(ReportError, match=why):
        mail.extracted(octets)


@pytest.mark.parametrize("pack", [gzip.compress, zipped])
def test_r23_decompression_is_limited(pack: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ReportError, match="octets after decompression"):
        mail.extracted(pack(b"\0" * 50_000_000))


# -- hostile reports --------------------------------------------------------------------------------------------------


BOMB = b'<!DOCTYPE feedback [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
EXTERNAL = b'<!DOCTYPE feedback SYSTEM "file:///etc/passwd">'


@pytest.mark.parametrize("doctype", [BOMB, EXTERNAL, b"<!DOCTYPE feedback>"])
def test_r23_document_types_and_entities_are_refused(doctype: bytes) -> None:
    for xml in (doctype + b"<feedback>&b;</feedback>", XML.replace(b"<feedback", doctype + b"<feedback")):
        with pytest.raises(ReportError, match="document type declaration"):
            decoded(xml)


@pytest.mark.parametrize(
    ("xml", "why"),
    [
        (b"", "invalid XML"),
        (b"<feedback>", "invalid XML"),
        (b"<feedback>&undefined;</feedback>", "invalid XML"),
        (b"\xff" + XML, "invalid XML"),
        (XML.replace(b"utf-8", b"utf-9"), "invalid XML: unknown encoding"),
        (XML.replace(b"utf-8", b"cp932"), "invalid XML: multi-byte encodings"),
        (XML.replace(b"utf-8", b"zlib_codec"), "invalid XML"),
        (b"<html/>", "root element"),
        (b"<feedback/>", "no report_metadata"),
        (XML.replace(b"org_name", b"name"), "no org_name"),
        (re.sub(rb"<date_range>.*</date_range>", b"", XML, flags=re.DOTALL), "no date_range"),
        (XML.replace(b"policy_published", b"policy"), "no policy_published"),
        (XML.replace(b"<count>3", b"<count>-3"), "count is not a number"),
        (XML.replace(b"<count>3", b"<count>" + b"3" * 5000), "count is not a number"),
        (XML.replace(b"<begin>", b"<begin>x"), "begin is not a number"),
        (XML.replace(b"<source_ip>192.0.2.1", b"<source_ip>mx.a.example"), "source_ip"),
        (XML.replace(b"header_from", b"from"), "no header_from"),
        (XML.replace(b"policy_evaluated", b"evaluated"), "no policy_evaluated"),
    ],
)
def test_what_is_not_a_report_is_refused(xml: bytes, why: str) -> None:
    with pytest.raises(ReportError, match=why):
        decoded(xml)


def padded(piece: bytes, count: int) -> bytes:
    return XML.replace(b"<row>", b"<row>" + piece * count, 1)


@pytest.mark.parametrize(
    ("xml", "why"),
    [
        (padded(b"<a>", MAX_DEPTH), "levels deep"),
        (padded(b'<x:a xmlns:x="urn:x">', MAX_DEPTH), "levels deep"),
        (padded(b"<a/>", MAX_ELEMENTS), "too many elements"),
        (padded(b'<x:a xmlns:x="urn:x"/>', MAX_ELEMENTS), "too many elements"),
        (padded(b"x", MAX_TEXT + 1), f"more than {MAX_TEXT} characters"),
        (XML.replace(b"<row>", b"<row " + b"".join(b'a%d="" ' % each for each in range(20_000)) + b">"), "a tag"),
        (padded(b"<!--" + b" " * 2 * MAX_MARKUP + b"-->", 1), "a tag or comment"),
        (b" " * (MAX_OCTETS + 1), "octets"),
    ],
)
def test_r23_the_form_is_limited(xml: bytes, why: str) -> None:
    with pytest.raises(ReportError, match=why):
        decoded(xml)


def test_pieces_of_the_parser_may_end_anywhere() -> None:
    for at in range(MAX_MARKUP - len(XML), MAX_MARKUP):
        assert decoded(XML.replace(b"<feedback", b"<!--" + b" " * (at - 60) + b"-->\n<feedback", 1)) == REPORT


def test_r23_rows_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_ROWS <= received_reports.MAX_ROWS / 50, "it takes many reports to displace the others"
    monkeypatch.setattr(reading, "MAX_ROWS", 2)
    assert len(decoded(XML).rows) == 2
    more = encoded(REPORT._replace(rows=((PASSING, 1), (FAILING, 1), (PASSING, 1))))
    with pytest.raises(ReportError, match="rows"):
        decoded(more)


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(0, len(XML)))
def test_r22_any_octets_are_read_or_refused(octets: bytes, at: int) -> None:
    readers: list[Any] = [mail.extracted, decoded]
    for read in readers:
        for hostile in (octets, XML[:at] + octets + XML[at:], b"PK\3\4" + octets, b"\x1f\x8b" + octets):
            with suppress(ReportError):
                read(hostile)
