"""Mail authentication: what DNS says about the client, the sender and the author of a message.

A library for any program: nothing here opens a socket or reads a clock. The resolver is the port
`ironpost.model.dns.Resolver`, which `ironpost.dns.resolver.DnsResolver` implements, and the time is passed in. A query
that fails (`ResolverError`) makes a result `temperror`, never `none` or `fail` (SECURITY R27). ARC has no
such result: it is `fail`, and `ArcAnswer.temporary` is true.
"""

from ironpost.mail_auth.arc import ArcAnswer, ArcResult, ArcVerifier, verify_arc
from ironpost.mail_auth.dkim import DkimAnswer, DkimVerifier, verify_dkim
from ironpost.mail_auth.dmarc import Authenticated, DmarcAnswer, DmarcResult, SignatureResult, evaluate_dmarc
from ironpost.mail_auth.dmarc_evaluation import DmarcEvaluation, DmarcRecorder, Override, OverrideType
from ironpost.mail_auth.dmarc_record import DmarcPolicy, DmarcRecord
from ironpost.mail_auth.keys import Key, KeyFault, KeyRecord, key_name, parse_key_record
from ironpost.mail_auth.results import MethodResult, of_arc, of_dkim, of_dmarc, of_spf, results_field, without_forged
from ironpost.mail_auth.signature import DkimFailure, DkimResult
from ironpost.mail_auth.signing import Signer, sign
from ironpost.mail_auth.spf import SpfAnswer, check_spf
from ironpost.mail_auth.spf_record import SpfResult
from ironpost.model.dns import MX, Records, RecordType, Resolver, ResolverError

__all__ = [
    "MX",
    "ArcAnswer",
    "ArcResult",
    "ArcVerifier",
    "Authenticated",
    "DkimAnswer",
    "DkimFailure",
    "DkimResult",
    "DkimVerifier",
    "DmarcAnswer",
    "DmarcEvaluation",
    "DmarcPolicy",
    "DmarcRecord",
    "DmarcRecorder",
    "DmarcResult",
    "Key",
    "KeyFault",
    "KeyRecord",
    "MethodResult",
    "Override",
    "OverrideType",
    "RecordType",
    "Records",
    "Resolver",
    "ResolverError",
    "SignatureResult",
    "Signer",
    "SpfAnswer",
    "SpfResult",
    "check_spf",
    "evaluate_dmarc",
    "key_name",
    "of_arc",
    "of_dkim",
    "of_dmarc",
    "of_spf",
    "parse_key_record",
    "results_field",
    "sign",
    "verify_arc",
    "verify_dkim",
    "without_forged",
]
