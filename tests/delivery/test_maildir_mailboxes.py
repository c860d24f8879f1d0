"""A Maildir for each mailbox: paths, folders, quotas, trace fields, loops, and what is wrong with a mailbox."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from tests.delivery.mailbox_kit import Content, queued
from tests.delivery.test_maildir import deliver, files

from ironpost.delivery.maildir import MaildirOptions
from ironpost.delivery.path_template import PathTemplate
from ironpost.model import Address, Disposition, Outcome, Recipient
from ironpost.model.options import Seconds
from ironpost.queue.store import QueuedRecipient
from ironpost.routing.directory import DirectoryError, Mailbox

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

    from ironpost.queue.store import QueuedMessage
    from ironpost.routing.directory import Entry

JO = "jo@mail.example"


class Directory:
    """Each address has a mailbox: what is before `+`, with a quota."""

    has_aliases = False

    def __init__(self, quota: int | None = None, *, later: bool = False, fails: bool = False) -> None:
        self.quota, self.later, self.fails = quota, later, fails

    def find(self, address: Address) -> Entry | Awaitable[Entry]:
        if self.fails:
            raise DirectoryError("the database is down")
        local, _, detail = address.local_part.partition("+")
        found = Mailbox("here", Address(local, address.domain), detail, self.quota)
        return self._later(found) if self.later else found

    async def _later(self, found: Mailbox) -> Mailbox:
        return found


def options(path: Path, **more: object) -> MaildirOptions:
    return MaildirOptions(PathTemplate(f"{path}/{{domain}}/{{local}}"), **more)  # type: ignore[arg-type]


def codes(outcomes: list[Outcome]) -> list[tuple[Disposition, int, str]]:
    return [(each.disposition, each.reply.code, each.reply.enhanced) for each in outcomes]


def of_size(octets: int) -> QueuedMessage:
    """A message to `JO` whose file has this size in octets."""
    content = b"Subject: x\r\n\r\n"
    top = b"Return-Path: <sender@example.org>\nDelivered-To: jo@mail.example\n"
    return queued(JO, content=Content(content + b"a" * (octets - len(top) - len(content) + 2)))


def test_each_mailbox_has_its_own_maildir(tmp_path: Path) -> None:
    message = queued(JO, "flo@mail.example", "jo@other.example", "JO@mail.example")
    outcomes = deliver(tmp_path, message, options(tmp_path))
    assert {each.disposition for each in outcomes} == {Disposition.DELIVERED}
    assert len(files(tmp_path / "mail.example" / "jo")) == 2
    assert len(files(tmp_path / "mail.example" / "flo")) == 1
    assert len(files(tmp_path / "other.example" / "jo")) == 1


def test_more_mailboxes_than_a_batch_are_all_delivered(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(100)]
    outcomes = deliver(tmp_path, queued(*(f"{name}@mail.example" for name in names)), options(tmp_path))
    assert {each.disposition for each in outcomes} == {Disposition.DELIVERED}
    assert sorted(each.name for each in (tmp_path / "mail.example").iterdir()) == sorted(names)
    for name in names:
        (stored,) = files(tmp_path / "mail.example" / name)
        assert b"Delivered-To: %b@mail.example\n" % name.encode() in stored


@pytest.mark.parametrize("later", [False, True])
def test_the_directory_says_whose_mailbox_it_is(tmp_path: Path, later: bool) -> None:
    outcomes = deliver(tmp_path, queued("jo+news@mail.example"), options(tmp_path), Directory(later=later))
    assert outcomes[0].disposition is Disposition.DELIVERED
    (stored,) = files(tmp_path / "mail.example" / "jo")
    assert b"\nDelivered-To: jo+news@mail.example\n" in stored


def test_a_directory_that_cannot_answer_defers(tmp_path: Path) -> None:
    (outcome,) = deliver(tmp_path, queued(JO), options(tmp_path), Directory(fails=True))
    assert codes([outcome]) == [(Disposition.DEFERRED, 451, "4.3.0")]
    assert outcome.reply.detail == "the database is down"


def test_the_recipient_before_an_alias_is_named(tmp_path: Path) -> None:
    content = Content(b"X-Original-To: forged@mail.example\r\nSubject: x\r\n\r\nbody\r\n")
    message = queued(JO, "flo@mail.example", content=content)
    aliased = Recipient(Address.parse(JO), original=Address.parse("Team@mail.example"))
    message = message._replace(recipients=(QueuedRecipient(0, aliased), message.recipients[1]))
    deliver(tmp_path, message, options(tmp_path))
    (jo,), (flo,) = files(tmp_path / "mail.example" / "jo"), files(tmp_path / "mail.example" / "flo")
    assert jo == (
        b"Return-Path: <sender@example.org>\nDelivered-To: jo@mail.example\nX-Original-To: Team@mail.example\n"
        b"Subject: x\n\nbody\n"
    )
    assert b"X-Original-To" not in flo


def test_mail_that_was_delivered_to_a_mailbox_before_loops(tmp_path: Path) -> None:
    content = Content(b"Received: a\r\nDelivered-To: Jo@Mail.example\r\nSubject: x\r\n\r\nbody\r\n")
    outcomes = deliver(
        tmp_path, queued(JO, "flo@mail.example", content=content), MaildirOptions(PathTemplate.fixed(tmp_path))
    )
    assert codes(outcomes) == [(Disposition.FAILED, 554, "5.4.6"), (Disposition.DELIVERED, 250, "2.0.0")]
    assert files(tmp_path) == [
        b"Return-Path: <sender@example.org>\nDelivered-To: flo@mail.example\nReceived: a\nSubject: x\n\nbody\n"
    ]
    assert list((tmp_path / "tmp").iterdir()) == []


# -- folders


def folder(maildir: Path, name: str) -> Path:
    for part in ("cur", "new", "tmp"):
        (maildir / name / part).mkdir(parents=True)
    return maildir / name


@pytest.mark.parametrize(
    ("address", "name"),
    [("jo+news@mail.example", ".news"), ("jo+NEWS@mail.example", ".news"), ("jo+a.b@mail.example", ".a.b")],
)
def test_mail_with_a_detail_goes_into_the_folder_that_exists(tmp_path: Path, address: str, name: str) -> None:
    jo = tmp_path / "mail.example" / "jo"
    news = folder(jo, name)
    folder(jo, ".")
    deliver(tmp_path, queued(address), options(tmp_path, folders=True), Directory())
    assert (len(files(news)), len(files(jo))) == (1, 0)
    deliver(tmp_path, queued(address), options(tmp_path), Directory())
    assert (len(files(news)), len(files(jo))) == (1, 1)


@pytest.mark.parametrize("detail", ["absent", '"..\\\\"', "..", ".", "a..b", "a.", "ö", "%2e"])
def test_r42_no_folder_is_created_from_an_address(tmp_path: Path, detail: str) -> None:
    local = f'"jo+{detail.strip(chr(34))}"' if detail != "absent" else "jo+absent"
    (outcome,) = deliver(tmp_path, queued(f"{local}@mail.example"), options(tmp_path, folders=True), Directory())
    assert outcome.disposition is Disposition.DELIVERED
    jo = tmp_path / "mail.example" / "jo"
    assert sorted(each.name for each in jo.iterdir()) == ["cur", "new", "tmp"]
    assert len(files(jo)) == 1


def test_folders_are_created_if_that_is_wanted(tmp_path: Path) -> None:
    wanted = options(tmp_path, folders=True, create_folders=True)
    deliver(tmp_path, queued("jo+news@mail.example", '"jo+../x"@mail.example'), wanted, Directory())
    jo = tmp_path / "mail.example" / "jo"
    assert sorted(each.name for each in jo.iterdir()) == [".news", "cur", "new", "tmp"]
    assert (jo / ".news" / "maildirfolder").is_file()
    assert (len(files(jo / ".news")), len(files(jo))) == (1, 1)


# -- quotas


def used(maildir: Path) -> tuple[str, int, int]:
    """The first line of maildirsize, and the sums of its octets and messages."""
    limit, *lines = (maildir / "maildirsize").read_text().splitlines()
    numbers = [tuple(map(int, line.split())) for line in lines]
    return limit, sum(each[0] for each in numbers), sum(each[1] for each in numbers)


def test_a_mailbox_with_a_quota_counts_what_it_holds(tmp_path: Path) -> None:
    for octets in (400, 500):
        assert deliver(tmp_path, of_size(octets), options(tmp_path), Directory(1000))[0].reply.code == 250
    jo = tmp_path / "mail.example" / "jo"
    assert used(jo) == ("1000S", 900, 2)
    assert sorted(each.name.rpartition(",")[2] for each in (jo / "new").iterdir()) == ["S=400", "S=500"]
    assert all(each.name.endswith(f",S={each.stat().st_size}") for each in (jo / "new").iterdir())


def test_a_full_mailbox_defers_and_later_refuses(tmp_path: Path) -> None:
    jo = tmp_path / "mail.example" / "jo"
    deliver(tmp_path, of_size(600), options(tmp_path), Directory(1000))
    now = 1234567890.0
    fresh = of_size(401)._replace(accepted=now)
    (outcome,) = deliver(tmp_path, fresh, options(tmp_path), Directory(1000))
    assert codes([outcome]) == [(Disposition.DEFERRED, 452, "4.2.2")]
    assert outcome.reply.detail == f"{jo}: the quota is 1000 octets; raise it, or delete mail"
    waited = fresh._replace(accepted=now - 3600)
    (outcome,) = deliver(tmp_path, waited, options(tmp_path, full_wait=Seconds(3600.0)), Directory(1000))
    assert codes([outcome]) == [(Disposition.FAILED, 552, "5.2.2")]
    (outcome,) = deliver(tmp_path, of_size(1001)._replace(accepted=now), options(tmp_path), Directory(1000))
    assert codes([outcome]) == [(Disposition.FAILED, 552, "5.2.3")]
    assert used(jo) == ("1000S", 600, 1)
    assert list((jo / "tmp").iterdir()) == []
    next((jo / "new").iterdir()).unlink()  # its owner deletes it, and tells nobody
    for age, code in ((10, 452), (15 * 60, 250)):
        os.utime(jo / "maildirsize", (now - age, now - age))
        assert deliver(tmp_path, fresh, options(tmp_path), Directory(1000))[0].reply.code == code
    assert used(jo) == ("1000S", 401, 1)


def test_all_folders_count_and_a_changed_quota_counts_again(tmp_path: Path) -> None:
    jo = tmp_path / "mail.example" / "jo"
    news = folder(jo, ".news")
    (news / "cur" / "1.x:2,S").write_bytes(b"a" * 300)
    (news / "cur" / "2.x,S=200:2,").write_bytes(b"a")  # the name decides
    (jo / "maildirsize").write_text("9S\n5 1\n")
    assert deliver(tmp_path, of_size(500), options(tmp_path), Directory(1000))[0].reply.code == 250
    assert used(jo) == ("1000S", 1000, 3)
    full = of_size(200)._replace(accepted=1234567890.0)
    assert deliver(tmp_path, full, options(tmp_path), Directory(1000))[0].reply.code == 452


@pytest.mark.parametrize("text", ["1000S\nnonsense\n", "1000S\n" + "1 1\n" * 2000])
def test_a_damaged_or_long_count_is_made_again(tmp_path: Path, text: str) -> None:
    jo = tmp_path / "mail.example" / "jo"
    for part in ("cur", "new", "tmp"):
        (jo / part).mkdir(parents=True)
    (jo / "maildirsize").write_text(text)
    assert deliver(tmp_path, of_size(400), options(tmp_path), Directory(1000))[0].reply.code == 250
    assert used(jo) == ("1000S", 400, 1)


def test_without_a_quota_a_count_of_others_is_kept_up_to_date(tmp_path: Path) -> None:
    jo = tmp_path / "mail.example" / "jo"
    deliver(tmp_path, of_size(400), options(tmp_path))
    assert not (jo / "maildirsize").exists()
    (jo / "maildirsize").write_text("1000S\n400 1\n")
    deliver(tmp_path, of_size(300), options(tmp_path))
    assert used(jo) == ("1000S", 700, 2)


def test_what_could_not_be_delivered_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(tmp_path, of_size(400), options(tmp_path), Directory(1000))

    def no_links(source: Path, target: Path) -> None:
        raise OSError(5, "no", str(target))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", no_links)
        assert deliver(tmp_path, of_size(300), options(tmp_path), Directory(1000))[0].reply.code == 451
    assert used(tmp_path / "mail.example" / "jo") == ("1000S", 400, 1)


# -- what is wrong with a mailbox


def test_a_missing_home_a_wrong_owner_and_a_file_in_the_way_have_their_own_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (missing,) = deliver(tmp_path, queued(JO), options(tmp_path / "absent"))
    assert codes([missing]) == [(Disposition.DEFERRED, 450, "4.2.1")]
    assert f"{tmp_path}/absent does not exist; create it, or mount" in missing.reply.detail
    (closed,) = deliver(tmp_path, queued(JO), options(tmp_path, create=False))
    assert codes([closed]) == [(Disposition.DEFERRED, 450, "4.2.1")]
    assert "set create = true" in closed.reply.detail
    assert list(tmp_path.iterdir()) == []

    jo = tmp_path / "mail.example" / "jo"
    jo.mkdir(parents=True)
    ours = os.geteuid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: ours + 1)
        (foreign,) = deliver(tmp_path, queued(JO), options(tmp_path))
    assert codes([foreign]) == [(Disposition.DEFERRED, 451, "4.3.5")]
    assert f"{jo} belongs to user id {ours}; give it to user id {ours + 1} with chown" in foreign.reply.detail

    jo.rmdir()
    jo.touch()
    (in_the_way,) = deliver(tmp_path, queued(JO), options(tmp_path))
    assert codes([in_the_way]) == [(Disposition.DEFERRED, 451, "4.3.0")]
    assert "move it away" in in_the_way.reply.detail


def test_an_address_that_is_too_long_for_a_path_is_refused(tmp_path: Path) -> None:
    long = MaildirOptions(PathTemplate(f"{tmp_path}/{'x' * 250}{{local}}"))
    (outcome,) = deliver(tmp_path, queued("a-long-name@mail.example"), long)
    assert codes([outcome]) == [(Disposition.FAILED, 553, "5.1.3")]
    assert list(tmp_path.iterdir()) == []
