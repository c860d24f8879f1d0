"""A tripwire for phrases that make readers stop; docs/glossary.md has the words to use instead.

It reads code, messages, names of tests, and documents. Passing it does not make a text good.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
from tests.architecture.test_files import tracked

ROOT = Path(__file__).resolve().parents[2]

PROXY: Final = r"(?:a|the|an|this|your|one) (?:\w+ )?(?:prox|front end|NAT|firewall|forwarder|load balancer|gateway)"

PHRASES: Final = {
    "is no": r"(?<!there )\b(?:is|are) no (?!(?:longer|more|less|later|earlier|need|way|reason|such|other)\b)",
    "is none": r"(?<!there )\b(?:is|are) (?-i:none)\b(?!\()",
    "in clear": r"\bin (?:the )?clear\b",
    "meets": r"\bmeets\b",
    "is told": r"\b(?:is|are) told\b",
    "one's own": r"\bone's own\b|\b(?:our|its|his) own\b(?= ?[.,;:)\"`]|$)",
    "behind": rf"(?<!-)\bbehind\b(?!-)(?! {PROXY})",
    "mend": r"\bmend(?:s|ed|ing)?\b",
    "whoever": r"\bwho(?:m|so)?ever\b",
    "lets go": r"\blets? go\b",
    "in circles": r"\bgoes in circles\b",
    "heard out": r"\bhear[sd]? out\b",
    "vouch": r"\bvouch(?:es)?\b",
    "kept apart": r"\bkept apart\b",
    "see there": r"\bsee there\b",
    "so many": r"\bso many\b",
    "anew": r"\banew\b",
    "if need be": r"\bif need be\b",
    "to be had": r"\bbe had\b",
    "for ever": r"\bfor ever\b",
    "as ever": r"\bas ever\b",
    "becomes of": r"\bbec(?:ame|omes) of\b",
    "called off": r"\bcall(?:s|ed|ing)? (?:it |them |the start )?off\b",
    "said otherwise": r"\bunless (?:it is )?said otherwise\b",
    "at one time": r"\bat one time\b",
    "goes on": r"\bgoes on\b",
    "time-out": r"\btime-outs?\b",
}
"""What is looked for in each line, without regard to case; underscores count as spaces. Add what you stumble over."""

READ: Final = ("python/*.py", "python/*.pyi", "src/*.rs", "tests/*.py", "tests/*.rs", "benches/*.py", "*.md")
EXEMPT: Final = {"docs/glossary.md", "tests/architecture/test_language.py"}
"""They list the phrases."""


def found(name: str, text: str) -> bool:
    return re.search(PHRASES[name], text.replace("_", " "), re.IGNORECASE) is not None


@pytest.mark.parametrize("name", PHRASES)
def test_texts_avoid_a_phrase(name: str) -> None:
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked(*READ)
        if str(path.relative_to(ROOT)) not in EXEMPT
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if found(name, line)
    ]
    assert lines == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("is no", "this is no X.509 certificate"),
        ("is none", "a header that is none"),
        ("behind", "octets behind the command"),
        ("one's own", "a handler of one's own begins here"),
        ("meets", "def test_what_a_peer_meets():"),
    ],
)
def test_the_tripwire_finds_what_it_is_for(name: str, text: str) -> None:
    assert found(name, text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("is no", "it is no longer valid"),
        ("is none", "value is None"),
        ("is none", "there is none"),
        ("behind", "a server behind a proxy"),
        ("behind", "rfc5321-4.1.1.1-octets-behind-the-verb"),
    ],
)
def test_the_tripwire_leaves_plain_english_alone(name: str, text: str) -> None:
    assert not found(name, text)
