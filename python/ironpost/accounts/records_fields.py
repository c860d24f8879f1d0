"""The records of databases and programs: mappings from the names of fields to values, validated.

    {"targets": ["ada@mail.example", "bob@other.example"], "keep": true}
    {"disabled": false}

Promises: all sources share these fields and their forms. Every field may be absent; an empty text and NULL are absent
too. A mapping without targets is a mailbox. A disabled mailbox keeps no copies.
Refuses: unknown fields and invalid values, with a `RecordError` that names the source and the field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ironpost.model import Address
from ironpost.model.text import complaint, escape
from ironpost.routing.directory import DirectoryError
from ironpost.routing.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FIELDS: Final = ("targets", "keep", "disabled", "quota", "senders")
"""The fields of `routing.records.Record` that a source may give."""
MERGED: Final = frozenset({"targets", "senders"})
"""Fields to which every row of a record adds."""
FLAGS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
"""The texts of `keep` and `disabled`, in any case."""
QUOTA_DIGITS: Final = 18
"""Most digits of a quota: SQLite and Maildir++ have 63 bits."""


class RecordError(DirectoryError):
    """What a source returned is not a valid record; the text names the source, the field and the reason."""


def record_of(rows: Sequence[Mapping[str, object]], where: str) -> Record | None:
    """Return the record in the rows of one answer; None if there are none.

    Several rows are one record, whose targets and senders are those of all rows; the other fields must be the same in
    all of them.

    Args:
        rows: mappings from the names of fields to values.
        where: the source, for reasons and errors.

    Raises:
        RecordError: a row is not valid, or two contradict each other.
    """
    if not rows:
        return None
    first, *others = (_read(row, where) for row in rows)
    for name in FIELDS:
        if name not in MERGED and any(getattr(other, name) != getattr(first, name) for other in others):
            raise RecordError(f"{where}: {name} differs between the rows of one record")
    targets = tuple(dict.fromkeys(target for row in (first, *others) for target in row.targets))
    senders = tuple(dict.fromkeys(login for row in (first, *others) for login in row.senders))
    keep = first.keep and bool(targets) and not first.disabled
    return first._replace(targets=targets, keep=keep, senders=senders)


def _read(row: Mapping[str, object], where: str) -> Record:
    fields: dict[str, Any] = {}
    for name, value in row.items():
        read = _READERS.get(name)
        if read is None:
            raise RecordError(f"{where}: unknown field {name!a}; expected fields are {', '.join(FIELDS)}")
        if value is None or value == "":
            continue
        try:
            fields[name] = read(value)
        except ValueError as fault:
            raise RecordError(f"{where}: {name}: {fault}") from None
    return Record(where, **fields)


def _addresses(value: object) -> tuple[Address, ...]:
    return tuple(map(_address, _list(value)))


def _address(text: str) -> Address:
    try:
        address = Address.parse(text)
    except ValueError as fault:
        raise ValueError(f"{_shown(text)} is not a valid address: {complaint(text, fault)}") from None
    if not address.domain:
        raise ValueError(f"{_shown(text)} is an address without a domain")
    return address


def _logins(value: object) -> tuple[str, ...]:
    return tuple(_list(value))


def _list(value: object) -> Sequence[str]:
    """The entries of a list, or of a text that has commas or spaces between them."""
    if isinstance(value, str):
        return value.replace(",", " ").split()
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"expected a text or a list of texts, found {_shown(value)}")
    return value


def _flag(value: object) -> bool:
    found = FLAGS.get(str(value).lower()) if isinstance(value, bool | int | str) else None
    if found is None:
        raise ValueError(f"expected true or false, found {_shown(value)}")
    return found


def _quota(value: object) -> int | None:
    """The octets of a quota; None for 0, which means no limit."""
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not (text.isascii() and text.isdecimal()) or len(text) > QUOTA_DIGITS:
        raise ValueError(f"expected a whole number of octets, 0 for no limit, found {_shown(value)}")
    return int(text) or None


def _shown(value: object) -> str:
    """A value for an error, shortened."""
    text = repr(value)
    return escape(text if len(text) <= 80 else text[:80] + "...")


_READERS: Final[Mapping[str, Callable[[object], Any]]] = {
    "targets": _addresses,
    "keep": _flag,
    "disabled": _flag,
    "quota": _quota,
    "senders": _logins,
}
