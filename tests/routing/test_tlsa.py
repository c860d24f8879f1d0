"""TLSA records and certificates: usable records, digests, DANE-EE and DANE-TA (RFC 7671, RFC 7672 §3)."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime, timedelta
from itertools import permutations
from math import gcd
from random import Random
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from tests.authority import DAY, Certificate, issue

from ironpost.model import certificate_path
from ironpost.model.certificate import public_key
from ironpost.model.certificate_path import EXPONENT_BITS
from ironpost.model.dns import TLSA
from ironpost.model.tls import TlsFailure, TlsLevel, Verification
from ironpost.routing.tls import tlsa
from ironpost.routing.tls.tlsa import ANCHORS, CHAIN, RECORDS, ByTlsa, defect, usable

NAMES = ("mx.a.example", "a.example")
DOMAIN = x509.DNSName("a.example")


class Now:
    """A clock that the test sets."""

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset

    def now(self) -> float:
        return time.time() + self.offset

    monotonic = now

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


ROOT = issue(common_name="root", authority=True)
MIDDLE = issue(common_name="intermediate", authority=True, by=ROOT)
LEAF = issue("mx.a.example", by=MIDDLE)
OTHER = issue("mx.a.example", by=issue(common_name="root", authority=True))


def record(usage: int, selector: int, matching: int, of: Certificate) -> TLSA:
    selected = of.der if selector == 0 else of.spki
    digest = {0: lambda data: data, 1: _sha256, 2: _sha512}[matching]
    return TLSA(usage, selector, matching, digest(selected))


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _sha512(data: bytes) -> bytes:
    return hashlib.sha512(data).digest()


def verified(
    records: list[TLSA], chain: tuple[bytes, ...], names: tuple[str, ...] = NAMES, offset: float = 0.0
) -> Verification:
    return ByTlsa(usable(records), names, Now(offset)).verify(chain)


def authenticated(records: list[TLSA], chain: tuple[bytes, ...], names: tuple[str, ...] = NAMES) -> bool:
    return verified(records, chain, names).level is TlsLevel.AUTHENTICATED


def test_the_public_key_is_the_one_of_the_library() -> None:
    for each in (ROOT, MIDDLE, LEAF):
        assert public_key(each.der) == each.spki
    for broken in (b"", b"\x30\x03\x02\x01\x01", LEAF.der[:100], b"\x30\x80" + LEAF.der):
        with pytest.raises(ValueError, match="not a valid"):
            public_key(broken)


# -- usable records ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unusable", "why"),
    [
        (TLSA(0, 1, 1, bytes(32)), "only the usages"),
        (TLSA(1, 1, 1, bytes(32)), "only the usages"),
        (TLSA(4, 1, 1, bytes(32)), "only the usages"),
        (TLSA(255, 1, 1, bytes(32)), "only the usages"),
        (TLSA(3, 2, 1, bytes(32)), "selector 2"),
        (TLSA(3, 1, 3, bytes(48)), "matching type 3"),
        (TLSA(3, 1, 1, bytes(20)), "a digest of 20 octets, not 32"),
        (TLSA(3, 1, 2, bytes(32)), "a digest of 32 octets, not 64"),
        (TLSA(3, 1, 1, b""), "a digest of 0 octets"),
        (TLSA(3, 1, 0, b""), "an empty public key"),
        (TLSA(2, 0, 0, b"not a certificate"), "not a certificate"),
    ],
)
def test_r32_records_that_do_not_apply_are_unusable(unusable: TLSA, why: str) -> None:
    assert why in defect(unusable)
    assert usable([unusable]) == frozenset()
    good = record(3, 1, 1, LEAF)
    assert usable([unusable, good]) == {good}


def test_r33_of_several_digests_the_strongest_counts() -> None:
    """RFC 7671 §9: with each usage and selector; a full association always counts."""
    weak, strong, full = (record(3, 1, matching, LEAF) for matching in (1, 2, 0))
    assert usable([weak, strong, full]) == {strong, full}
    assert not authenticated([weak, record(3, 1, 2, OTHER)], LEAF.chain)
    assert authenticated([record(3, 1, 1, OTHER), strong], LEAF.chain)
    # An unusable digest is discarded before; another selector or usage is another group.
    assert authenticated([weak, TLSA(3, 1, 2, bytes(10))], LEAF.chain)
    assert authenticated([weak, record(3, 0, 2, OTHER), record(2, 1, 2, OTHER)], LEAF.chain)


def test_r33_one_match_suffices() -> None:
    """RFC 7671 §8.1: while a key is replaced, there are records of both."""
    new = issue("mx.a.example", by=MIDDLE)
    both = [record(3, 1, 1, LEAF), record(3, 1, 1, new)]
    assert authenticated(both, LEAF.chain)
    assert authenticated(both, new.chain)
    assert authenticated([record(2, 0, 1, OTHER), record(3, 1, 1, LEAF)], LEAF.chain)
    assert authenticated([record(3, 1, 1, OTHER), record(2, 0, 1, ROOT)], LEAF.chain)
    assert not authenticated(both, OTHER.chain)


# -- DANE-EE(3) -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_r31_dane_ee_compares_the_leaf_only(selector: int, matching: int) -> None:
    published = [record(3, selector, matching, LEAF)]
    assert authenticated(published, LEAF.chain)
    assert authenticated(published, LEAF.chain[:1])
    assert not authenticated(published, OTHER.chain)
    assert not authenticated([record(3, selector, matching, MIDDLE)], LEAF.chain), "it must be the leaf"
    assert not authenticated(published, ())


def test_r31_dane_ee_ignores_names_and_dates() -> None:
    for each in (
        issue("other.example"),
        issue(common_name="no name at all"),
        issue("mx.a.example", since=-9 * DAY, until=-DAY),
        issue("mx.a.example", since=DAY),
        issue("mx.a.example", authority=True),
    ):
        assert authenticated([record(3, 1, 1, each)], each.chain)


def test_r31_a_certificate_with_the_same_key_matches_by_key_only() -> None:
    renewed = issue("mx.a.example", by=MIDDLE, key=LEAF.key)
    assert authenticated([record(3, 1, 1, LEAF)], renewed.chain)
    assert not authenticated([record(3, 0, 1, LEAF)], renewed.chain)


def test_r31_a_leaf_that_cannot_be_parsed_is_compared_as_a_whole() -> None:
    odd = b"\x30\x03\x02\x01\x01"
    assert authenticated([TLSA(3, 0, 1, _sha256(odd))], (odd,))
    assert not authenticated([TLSA(3, 1, 1, _sha256(odd))], (odd,))


# -- DANE-TA(2) -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anchor", [ROOT, MIDDLE], ids=["root", "intermediate"])
@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_r34_dane_ta_trusts_an_authority_that_no_store_has(anchor: Certificate, selector: int, matching: int) -> None:
    published = [record(2, selector, matching, anchor)]
    assert authenticated(published, LEAF.chain)
    refused = verified(published, OTHER.chain)
    assert refused.level is TlsLevel.ENCRYPTED


def test_r34_the_anchor_must_be_in_the_chain_unless_dns_has_all_of_it() -> None:
    """RFC 7671 §5.2.2."""
    without = LEAF.chain[:2]
    for selector, matching in ((0, 1), (0, 2), (1, 0), (1, 1), (1, 2)):
        found = verified([record(2, selector, matching, ROOT)], without)
        assert "no authority in the chain that the host sent matches" in found.reason
    assert authenticated([record(2, 0, 0, ROOT)], without)
    assert not authenticated([record(2, 0, 0, ROOT)], LEAF.chain[:1]), "the intermediate is missing"


def test_r34_the_leaf_is_not_its_own_anchor() -> None:
    alone = issue("mx.a.example", authority=True)
    assert not authenticated([record(2, 0, 1, alone)], alone.chain)


def test_r34_a_leaf_cannot_issue_certificates() -> None:
    """The holder of any certificate below the anchor could otherwise issue one for any name."""
    theirs = issue("customer.example", by=ROOT)
    forged = issue("mx.a.example", by=theirs)
    assert not authenticated([record(2, 0, 1, ROOT)], forged.chain)
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    no_signing = issue(common_name="no signing", authority=True, by=ROOT, extensions=[usage])
    assert not authenticated([record(2, 0, 1, ROOT)], issue("mx.a.example", by=no_signing).chain)


def test_r34_an_unrelated_anchor_in_the_chain_proves_nothing() -> None:
    """A chain can contain any certificate: only the path counts."""
    rogue = issue("mx.a.example")
    assert not authenticated([record(2, 0, 1, ROOT)], (*rogue.chain, ROOT.der))
    same_name = issue("mx.a.example", by=issue(common_name="root", authority=True))
    assert not authenticated([record(2, 0, 1, ROOT)], (same_name.der, ROOT.der))


@pytest.mark.parametrize(
    ("names", "accepted"),
    [
        (("mx.a.example",), True),
        (("a.example",), True),  # the next-hop domain, RFC 7672 §3.2.2
        (("expanded.example",), True),
        (("*.a.example",), True),
        (("*.example",), True),  # of a.example
        (("other.example",), False),
        (("*.b.example",), False),
        (("sub.mx.a.example",), False),
        (("m*.a.example",), False),
    ],
)
def test_r30_dane_ta_needs_one_of_the_names(names: tuple[str, ...], *, accepted: bool) -> None:
    leaf = issue(*names, by=ROOT)
    published = [record(2, 0, 1, ROOT)]
    assert authenticated(published, leaf.chain, ("mx.a.example", "a.example", "expanded.example")) is accepted


def test_r30_a_common_name_is_not_a_name() -> None:
    """Stricter than RFC 7672 §3.2.3; the reason says so."""
    found = verified([record(2, 0, 1, ROOT)], issue(common_name="mx.a.example", by=ROOT).chain)
    assert found.level is TlsLevel.ENCRYPTED
    assert "subjectAltName" in found.reason or "X509v3" in found.reason


@pytest.mark.parametrize("offset", [-2 * DAY, 31 * DAY])
def test_dane_ta_needs_valid_dates(offset: float) -> None:
    found = verified([record(2, 0, 1, ROOT)], LEAF.chain, offset=offset)
    assert found.level is TlsLevel.ENCRYPTED
    assert "has expired or is not valid yet" in found.reason
    assert found.failure is TlsFailure.CERTIFICATE_EXPIRED


@pytest.mark.parametrize(
    ("published", "chain", "failure"),
    [
        (record(3, 1, 1, OTHER), LEAF.chain, TlsFailure.VALIDATION_FAILURE),
        (record(2, 0, 1, ROOT), OTHER.chain, TlsFailure.VALIDATION_FAILURE),
        (record(2, 0, 1, ROOT), issue("other.example", by=ROOT).chain, TlsFailure.CERTIFICATE_HOST_MISMATCH),
        (record(2, 0, 1, ROOT), (OTHER.der, ROOT.der), TlsFailure.CERTIFICATE_NOT_TRUSTED),
        (record(3, 1, 1, LEAF), (), TlsFailure.VALIDATION_FAILURE),
    ],
)
def test_a_failure_has_the_category_of_reports(published: TLSA, chain: tuple[bytes, ...], failure: TlsFailure) -> None:
    """RFC 8460 §4.3."""
    assert verified([published], chain).failure is failure


def test_dane_ta_with_damaged_certificates_in_the_chain() -> None:
    published = [record(2, 0, 1, ROOT)]
    assert authenticated(published, (LEAF.der, b"damaged", *LEAF.chain[1:]))
    assert not authenticated(published, (b"damaged", *LEAF.chain[1:]))


def test_r23_the_work_for_hostile_records_and_chains_is_bounded() -> None:
    """DNS and the host may both be an attacker's."""
    many = [TLSA(2, 0, 1, number.to_bytes(32, "big")) for number in range(5000)]
    assert len(usable(many)) == RECORDS
    assert record(3, 1, 1, LEAF) in usable([*many, record(3, 1, 1, LEAF)]), "DANE-EE first, whatever the order"
    long = (LEAF.der, *([MIDDLE.der] * 5000), ROOT.der)
    began = time.process_time()
    refused = verified(many, long)
    assert refused.level is TlsLevel.ENCRYPTED
    assert refused.reason.endswith(f"; and {RECORDS - 5} more")
    assert verified([record(2, 0, 1, MIDDLE)], long).level is TlsLevel.AUTHENTICATED
    assert verified([record(2, 0, 1, ROOT)], long).level is TlsLevel.ENCRYPTED, "beyond the limit"
    assert time.process_time() - began < 1


class Searches:
    """Records the searches for a path that the library makes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.intermediates: list[int] = []
        self.anchors: list[int] = []
        verifier, anchor = certificate_path._first_verifier, tlsa.find_anchor

        def first_verifier(*args: Any) -> Any:
            self._found = verifier(*args)
            return self

        def find_anchor(chain: Any, anchors: Any, *args: Any) -> Any:
            self.anchors.append(len(anchors))
            return anchor(chain, anchors, *args)

        monkeypatch.setattr(certificate_path, "_first_verifier", first_verifier)
        monkeypatch.setattr(tlsa, "find_anchor", find_anchor)

    def verify(self, leaf: x509.Certificate, intermediates: list[x509.Certificate]) -> Any:
        self.intermediates.append(len(intermediates))
        return self._found.verify(leaf, intermediates)


def test_r23_many_anchors_names_and_intermediates_cost_one_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each search may verify 128 signatures: 64 anchors and 3 names were 192 of them, on the event loop."""
    issuer = issue(common_name="X", authority=True)
    twins = [issue(common_name="X", authority=True, key=issuer.key).der for _ in range(14)]
    leaf = issue("mx.a.example", by=issuer)
    whole = [record(2, 0, 0, issue(common_name=f"R{number}", authority=True)) for number in range(RECORDS)]
    searches = Searches(monkeypatch)
    found = verified(whole, (leaf.der, *twins), ("other.example", "a.example", "mx.a.example"))
    assert found.level is TlsLevel.ENCRYPTED
    assert searches.anchors == [ANCHORS]
    assert searches.intermediates == [1], "those with one subject, issuer and key count once"


def test_r23_a_chain_is_read_up_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    above = [issue(common_name="root", authority=True)]
    for number in range(CHAIN + 2):
        above.append(issue(common_name=f"A{number}", authority=True, by=above[-1]))
    searches = Searches(monkeypatch)
    assert not authenticated([record(2, 0, 0, above[0])], issue("mx.a.example", by=above[-1]).chain)
    assert authenticated([record(2, 0, 0, above[0])], issue("mx.a.example", by=above[CHAIN - 1]).chain)
    assert searches.intermediates == [CHAIN - 1, CHAIN - 1]


def test_r23_an_authority_whose_signatures_are_costly_is_not_used() -> None:
    def signed_by(key: rsa.RSAPrivateKey) -> bool:
        name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rsa")]), datetime.now(UTC)
        builder = x509.CertificateBuilder().issuer_name(name).not_valid_before(now - timedelta(1))
        builder = builder.not_valid_after(now + timedelta(1)).serial_number(1)
        authority = builder.subject_name(name).public_key(key.public_key())
        authority = authority.add_extension(x509.BasicConstraints(True, None), True)
        leaf = builder.subject_name(x509.Name([])).public_key(LEAF.key.public_key())
        leaf = leaf.add_extension(x509.SubjectAlternativeName([x509.DNSName("mx.a.example")]), True)
        chain = tuple(each.sign(key, SHA256()).public_bytes(Encoding.DER) for each in (leaf, authority))
        return authenticated([TLSA(2, 0, 0, chain[1])], chain)

    usual = rsa.generate_private_key(65537, 2048)
    assert signed_by(usual)
    numbers = usual.private_numbers()
    for exponent in ((1 << 31) + 11, (1 << 2000) + 1):
        totient = (numbers.p - 1) * (numbers.q - 1)
        while gcd(exponent, totient) != 1:
            exponent += 2
        public, secret = rsa.RSAPublicNumbers(exponent, numbers.p * numbers.q), pow(exponent, -1, totient)
        crt = rsa.rsa_crt_dmp1(secret, numbers.p), rsa.rsa_crt_dmq1(secret, numbers.q), numbers.iqmp
        key = rsa.RSAPrivateNumbers(numbers.p, numbers.q, secret, *crt, public).private_key()
        assert signed_by(key) is (exponent.bit_length() <= EXPONENT_BITS)


@pytest.mark.parametrize(("names", "accepted"), [(100, True), (3000, False)])
def test_r23_the_comparisons_of_names_with_constraints_are_bounded(names: int, *, accepted: bool) -> None:
    constraints = x509.NameConstraints([x509.DNSName(f"{number}.example") for number in range(20)] + [DOMAIN], None)
    constrained = issue(common_name="constrained", authority=True, by=ROOT, extensions=[constraints])
    leaf = issue("mx.a.example", *(f"{number}.a.example" for number in range(names)), by=constrained)
    found = verified([record(2, 0, 1, ROOT)], leaf.chain)
    assert (found.level is TlsLevel.AUTHENTICATED) is accepted
    assert accepted or "too many names and name constraints" in found.reason


def test_r33_another_anchor_that_is_damaged_or_expired_does_not_matter() -> None:
    old = issue(common_name="old", authority=True, since=-9 * DAY, until=-DAY)
    inner = public_key(ROOT.der)
    broken = TLSA(2, 0, 0, ROOT.der.replace(inner, inner[:-1] + bytes([inner[-1] ^ 1])))
    others = [record(2, 0, 0, old), broken, record(2, 0, 0, OTHER.above[0])]
    assert not authenticated(others, LEAF.chain)
    assert authenticated([*others, record(2, 0, 0, ROOT)], LEAF.chain)


def test_r34_variants_of_an_authority_with_one_key_are_all_tried() -> None:
    """One may have expired, and another authority may have signed one."""
    renewed = issue(common_name="intermediate", authority=True, by=ROOT)
    leaf = issue("mx.a.example", by=renewed)
    expired = issue(common_name="intermediate", authority=True, by=ROOT, key=renewed.key, since=-9 * DAY, until=-DAY)
    itself = issue(common_name="intermediate", authority=True, key=renewed.key)
    for order in permutations((renewed.der, expired.der, itself.der)):
        assert authenticated([record(2, 0, 1, ROOT)], (leaf.der, *order, ROOT.der))


@pytest.mark.parametrize("position", [0, 1, 2])
def test_r22_damaged_certificates_never_raise_and_never_match(position: int) -> None:
    """The host chooses the octets; a change of any of them must not be accepted."""
    random = Random(7672 + position)
    published = [record(2, 0, 1, ROOT), record(3, 1, 2, OTHER)]
    refused = 0
    for _ in range(400):
        chain = [bytearray(each) for each in LEAF.chain]
        for _ in range(random.choice((1, 1, 1, 2, 8))):
            damaged = chain[position]
            match random.randrange(3):
                case 0:
                    damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
                case 1:
                    del damaged[random.randrange(len(damaged))]
                case _:
                    damaged.insert(random.randrange(len(damaged)), random.randrange(256))
        octets = tuple(map(bytes, chain))
        found = verified(published, octets)
        refused += found.level is TlsLevel.ENCRYPTED
        if position in (0, 2) and octets != LEAF.chain:
            assert found.level is TlsLevel.ENCRYPTED
    assert refused > 350


def test_without_a_name_nothing_below_an_anchor_matches() -> None:
    found = verified([record(2, 0, 1, ROOT)], LEAF.chain, ())
    assert found.failure is TlsFailure.CERTIFICATE_HOST_MISMATCH


def test_equal_sets_are_equal_verifiers() -> None:
    """R39: connections are shared by equal verifiers only."""
    records = [record(3, 1, 1, LEAF), record(2, 0, 1, ROOT)]
    one, same = (ByTlsa(usable(each), NAMES, Now()) for each in (records, records[::-1]))
    assert one == same
    assert hash(one) == hash(same)
    assert one != ByTlsa(usable(records[:1]), NAMES, Now())
    assert one != ByTlsa(usable(records), NAMES[:1], Now())
