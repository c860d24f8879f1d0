"""Declaration of options: frozen dataclasses in the modules that they configure.

Each field has a docstring, which is its row in docs/configuration.md, and a default, unless the key is required.
`config.declared` generates the keys of the configuration from the fields. A field may be a `bool`, an `int`, a `str`,
`Seconds`, a `Literal`, an enumeration whose values are text, one of the types in `config.declared.READERS`, a dataclass
(a table), a tuple of these or a mapping from `str` to these, or None if that is its default.
`Annotated[TYPE, FUNCTION]` restricts the values: the function returns the value, or raises ValueError with a message
for the operator.

In a dataclass that is also part of the Python API, only the fields created by `option` are keys; the first sentence of
the docstring is the row.
"""

from __future__ import annotations

from dataclasses import field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NewType, TypeVar

from ironpost.model.url import https_parts

if TYPE_CHECKING:
    from dataclasses import Field

T = TypeVar("T")

Seconds = NewType("Seconds", float)
"""A duration in seconds; `"10s"` in a configuration."""


def not_empty(values: tuple[T, ...]) -> tuple[T, ...]:
    """Refuse an empty list.

    Raises:
        ValueError: `values` is empty.
    """
    if not values:
        raise ValueError("the list is empty; at least one entry is needed")
    return values


def at_least_a_second(seconds: Seconds) -> Seconds:
    """Refuse a shorter duration.

    Raises:
        ValueError: it is shorter.
    """
    if seconds < 1:
        raise ValueError("minimum: 1s")
    return seconds


def https_url(text: str) -> str:
    """Refuse what `model.url.https_parts` refuses.

    Raises:
        ValueError: it is not one; the text contains nothing of it, since a URL may have credentials.
    """
    try:
        https_parts(text)
    except ValueError as error:
        raise ValueError(f'not an https URL like "https://hooks.example/in": {error}') from None
    return text


class Unit(Enum):
    """The unit of a number, which determines how it is written in a configuration."""

    COUNT = "count"
    """A whole number."""
    SECONDS = "seconds"
    """A duration, `"30s"`."""
    PER_SECOND = "per second"
    """A rate, `"60/m"`."""
    OCTETS_PER_SECOND = "octets per second"
    """A rate of data, `"100B/s"`."""


class Key(NamedTuple):
    """The configuration key of a field, and the values that it accepts."""

    name: str
    unit: Unit
    minimum: int
    """The smallest count or duration. Rates must be above 0, except those of data."""
    maximum: int | None
    """The largest value; None for no limit."""


_KEY: Final = "ironpost.key"


def option(default: T, name: str, unit: Unit, *, minimum: int = 1, maximum: int | None = None) -> T:
    """Declare a field of a dataclass that is also a key of the configuration.

    Args:
        default: the default of the field and the key.
        name: the name of the key.
        unit: the unit of the value.
        minimum: the smallest value that the key accepts.
        maximum: the largest value that the key accepts; None for no limit.
    """
    created: Any = field(default=default, metadata={_KEY: Key(name, unit, minimum, maximum)})
    return created  # type: ignore[no-any-return] # as `dataclasses.field` is declared


def key_of(declared: Field[Any]) -> Key | None:
    """Return the key of a field that `option` created; None for other fields."""
    return declared.metadata.get(_KEY)
