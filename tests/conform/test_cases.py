"""The cases as data: named for sections that exist, said in a sentence, and with codes that can be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ironpost.conform import TOPICS, Profile, cases, chosen
from ironpost.conform.case import Level, Topic, codes, say
from ironpost.conform.target import WANTS

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"
TEXTS = Path(__file__).resolve().parents[3] / "shared" / "rfc"


def test_there_are_enough_for_every_profile():
    for profile in Profile:
        assert sum(profile in case.profiles for case in cases()) >= 250


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_each_says_in_a_sentence_what_it_does(topic):
    assert topic.cases
    for case in topic.cases:
        assert case.does.endswith("."), case.id
        assert len(case.does.split()) >= 3, case.id
        assert set(case.wants) <= set(WANTS), case.id


@pytest.mark.skipif(not TEXTS.is_dir(), reason="the RFC texts do not stand beside this clone")
def test_each_is_named_for_a_section_that_exists():
    missing = []
    for case in cases():
        number, section = re.fullmatch(r"RFC (\d+) (?:§|appendix )(\S+)", case.cites).groups()
        text = (TEXTS / f"rfc{number}.txt").read_text(errors="replace")
        if not re.search(rf"^ {{0,6}}{re.escape(section)}\.?(?:\s|$)", text, re.M):
            missing.append(case.id)
    assert missing == []


def test_the_document_names_cases_that_exist_and_says_how_many_there_are():
    text = DOCUMENT.read_text()
    names = {case.id for case in cases()}
    assert set(re.findall(r"`(rfc\d[^`]+)`", text)) <= names
    assert f"{len(names)} cases" in text


def test_an_id_without_a_section_and_a_duplicate_are_refused():
    topic = Topic("t", "T")
    topic.row("rfc5321-3.1-x", Level.MUST, "X.", say(b"NOOP\r\n", "250"))
    with pytest.raises(ValueError, match="duplicate"):
        topic.row("rfc5321-3.1-x", Level.MUST, "X.", say(b"NOOP\r\n", "250"))
    with pytest.raises(ValueError, match="section"):
        topic.row("greeting", Level.MUST, "X.", say(b"NOOP\r\n", "250"))
    with pytest.raises(ValueError, match="not a valid reply code"):
        topic.row("rfc5321-3.1-y", Level.MUST, "X.", say(b"NOOP\r\n", "2500"))


def test_codes_are_read():
    wanted = codes("503 ~5xx close")
    assert [pattern.pattern for pattern in wanted.asked] == ["503"]
    assert [pattern.pattern for pattern in wanted.allowed] == ["5[0-9][0-9]"]
    assert wanted.close
    assert not codes("250").close


def test_cases_are_chosen_by_topic_by_part_of_the_name_and_by_pattern():
    everything = cases()
    assert chosen(everything, []) == everything
    assert {case.topic for case in chosen(everything, ["dsn"])} == {"dsn"}
    assert {case.topic for case in chosen(everything, ["in-any-case"])} > {"dsn", "bdat"}
    assert all(case.id.startswith("rfc3030-2-") for case in chosen(everything, ["rfc3030-2-*"]))
    assert len(chosen(everything, ["rfc5321-3.1-greeting", "rfc5321-3.2-ehlo"])) == 2
