"""DMARC against OpenDMARC: both evaluate the same results of SPF and DKIM for the same records."""

from __future__ import annotations

import asyncio
import os
import re
import smtplib
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from ironpost.mail_auth import SpfAnswer, SpfResult, evaluate_dmarc
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType

# OpenDMARC 1.4 aligns domains below the author's in strict mode, too.
RECORDS = {
    "_dmarc.mail.test": "v=DMARC1; p=reject; sp=quarantine",
    "_dmarc.shop.test": "v=DMARC1; p=quarantine",
    "_dmarc.sub.shop.test": "v=DMARC1; p=none",
}
AUTHORS = ["mail.test", "a.mail.test", "shop.test", "sub.shop.test", "a.sub.shop.test", "other.test"]
CONFIRMED = ["", "mail.test", "b.mail.test", "shop.test", "sub.shop.test", "other.test"]


class Case(NamedTuple):
    """An author, and the domains for which SPF and DKIM passed, or none."""

    author: str
    spf: str
    dkim: str

    @property
    def content(self) -> bytes:
        """A message with the results of a server that OpenDMARC trusts."""
        spf = f"pass smtp.mailfrom={self.spf}" if self.spf else "none smtp.mailfrom=none.test"
        dkim = f"pass header.d={self.dkim}" if self.dkim else "none"
        return (
            f"Authentication-Results: trusted.test; spf={spf}; dkim={dkim}\r\nFrom: jo@{self.author}\r\n"
            f"Subject: {'/'.join(self)}\r\nDate: Sat, 28 Nov 2026 10:00:00 +0000\r\n\r\nx\r\n"
        ).encode()


class Signed(NamedTuple):
    domain: str
    result: str = "pass"
    testing: bool = False


CASES = [
    *(Case(author, spf, "") for author in AUTHORS for spf in CONFIRMED),
    *(Case(author, "", dkim) for author in AUTHORS for dkim in CONFIRMED[1:]),
    Case("mail.test", "shop.test", "mail.test"),
    Case("a.mail.test", "shop.test", "other.test"),
]


def ours(case: Case) -> tuple[str, str]:
    """Result and policy."""
    resolver = StaticResolver(txt={name: [text.encode()] for name, text in RECORDS.items()})
    spf = SpfAnswer(SpfResult.PASS, "", case.spf, "mailfrom") if case.spf else None
    dkim = [Signed(case.dkim)] if case.dkim else []
    answer = asyncio.run(evaluate_dmarc(case.content, spf=spf, dkim=dkim, resolver=resolver))
    return answer.result, answer.policy if answer.result == "fail" else ""


@pytest.fixture
def opendmarc(
    mtas: ModuleType,
    milters: ModuleType,
    serve: Callable[..., Any],
    launch: Callable[[list[str], dict[str, str], int], None],
    free: Callable[[], int],
    home: Path,
    program: Callable[[str], str],
    listening: Callable[[subprocess.Popen[bytes], int], bool],
) -> Iterator[Any]:
    """Postfix with OpenDMARC in front of a server; the port of Postfix, and the server."""
    program("opendmarc")
    program("postfix")
    here = serve('[local]\ndomains = ["here.test"]\n')
    milter, smtp = free(), free()
    suffixes = home / "suffixes"
    suffixes.write_text("test\n")
    main = f"AuthservID opendmarc.test\nTrustedAuthservIDs trusted.test\nPublicSuffixList {suffixes}"
    ready = milters.opendmarc(home / "opendmarc", milter, main=main, txt=RECORDS)
    process = subprocess.Popen(ready.command, env=ready.env)
    try:
        assert listening(process, milter)
        main = f"relayhost = [127.0.0.1]:{here.port}\nsmtpd_milters = inet:127.0.0.1:{milter}"
        launch(*mtas.postfix(home / "postfix", smtp, main=main), smtp)
        yield smtp, here
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason="needs root")
def test_opendmarc_gives_the_same_results(
    opendmarc: Any, wait_until: Callable[[Callable[[], bool], Callable[[], str]], None]
) -> None:
    smtp, here = opendmarc
    with smtplib.SMTP("127.0.0.1", smtp, "client.test") as client:
        for case in CASES:
            client.sendmail(f"jo@{case.spf or 'none.test'}", ["jo@here.test"], case.content)
    folder = here.data / "mail" / "new"
    wait_until(lambda: folder.is_dir() and len(list(folder.iterdir())) == len(CASES), here.log)
    theirs = {}
    for path in folder.iterdir():
        text = re.sub(r"\r?\n[ \t]+", " ", path.read_text())
        subject = re.search("^Subject: (.*?)\r?$", text, re.MULTILINE)
        found = re.search(r"^Authentication-Results: opendmarc.test; dmarc=(\w+)(?: \(p=(\w+))?", text, re.MULTILINE)
        assert subject, text
        assert found, text
        theirs[subject[1]] = found[1], found[2] if found[1] == "fail" else ""
    assert theirs == {"/".join(case): ours(case) for case in CASES}
