"""Sections of the configuration, generated from options that are declared elsewhere (`model.options`).

Promises: the keys, defaults and restrictions are those of the declaration, and an error names the key as in any other
section. The inner tiers declare options without knowing pydantic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Mapping
from enum import Enum
from functools import cache
from types import UnionType
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BaseModel, Field, PlainSerializer, create_model

from ironpost.config import values
from ironpost.config.quantities import MANY, duration
from ironpost.config.values import Section
from ironpost.delivery.path_template import PathTemplate
from ironpost.model.network import Network
from ironpost.model.options import Key, Seconds, Unit, key_of
from ironpost.model.patterns import AddressPattern, DomainPattern
from ironpost.policy.options import Quota
from ironpost.processes.resources import MemoryLimit
from ironpost.routing.profile import SecretSource
from ironpost.routing.route import NextHop

T = TypeVar("T")
S = TypeVar("S", bound=Section)

READERS: Final[dict[Any, Any]] = {
    bool: values.Switch,
    int: Annotated[int, Field(strict=True)],
    Seconds: values.Duration,
    SecretSource: values.Secret,
    Network: values.Network,
    AddressPattern: values.AddressMatch,
    DomainPattern: values.Pattern,
    PathTemplate: values.PathText,
    Quota: values.Quota,
    MemoryLimit: values.Memory,
    NextHop: values.NextHop,
}
"""Types of options to the types by which pydantic reads them from text. Others stay as they are."""


UNITS: Final[dict[Unit, Any]] = {
    Unit.SECONDS: values.Duration,
    Unit.PER_SECOND: values.Rate,
    Unit.OCTETS_PER_SECOND: values.SizeRate,
}
"""Units of `model.options.option` to the types by which pydantic reads them."""


class Table(Section):
    """A table within a section, from a dataclass."""

    declared: ClassVar[type[Any]]


def section(name: str, declared: Iterable[type[Any]], base: type[S]) -> type[S]:
    """A section with the keys of several dataclasses; each key may be declared once.

    Raises:
        ValueError: two of them declare the same key.
    """
    fields: dict[str, Any] = {}
    for options in declared:
        for key, field in _fields(options).items():
            if key in fields:
                raise ValueError(f"{options.__qualname__}: the key {key} is already declared")
            fields[key] = field
    return create_model(name, __base__=base, **fields)


def read(options: type[T], section: BaseModel) -> T:
    """The options of one dataclass, with the values of a section that has its keys."""
    fields = dataclasses.fields(cast("Any", options))
    return options(**{field.name: _plain(getattr(section, field.name)) for field in fields})


def options_of(declared: type[Any], section: BaseModel) -> dict[str, Any]:
    """The fields of a dataclass that are keys (`model.options.option`), with the values of a section that has them."""
    return {field.name: getattr(section, key.name) for field, key in _keys(declared)}


def _keys(declared: type[Any]) -> list[tuple[dataclasses.Field[Any], Key]]:
    return [(field, key) for field in dataclasses.fields(declared) if (key := key_of(field)) is not None]


def tables(path: str, model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The tables in a generated section, by what messages call them: `[policy.NAME]`, `[[policy.NAME]]`."""
    found: dict[str, type[BaseModel]] = {}
    for key, field in model.model_fields.items():
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, Table):
                name = f"{path}.{key}"
                found[f"[[{name}]]" if get_origin(field.annotation) is tuple else f"[{name}]"] = part
    return found


def _fields(options: type[Any]) -> dict[str, Any]:
    if marked := _keys(options):
        return {key.name: (_quantity(key), field.default) for field, key in marked}
    hints = get_type_hints(options, include_extras=True)
    return {field.name: (_read_as(hints[field.name]), _default(field)) for field in dataclasses.fields(options)}


def _quantity(key: Key) -> Any:
    if key.unit is Unit.COUNT:
        return Annotated[int, Field(strict=True, ge=key.minimum, le=MANY if key.maximum is None else key.maximum)]
    if key.unit is Unit.SECONDS:
        return Annotated[UNITS[key.unit], values.least(duration, f"{key.minimum}s")]
    if key.unit is Unit.PER_SECOND:
        return Annotated[UNITS[key.unit], AfterValidator(_above_zero)]
    return UNITS[key.unit]


def _above_zero(rate: float) -> float:
    if rate <= 0:
        raise ValueError("the rate must be above 0")
    return rate


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return Field(default_factory=field.default_factory)
    return ... if field.default is dataclasses.MISSING else field.default


def _read_as(declared: Any) -> Any:
    """The type by which pydantic reads a declared type."""
    if declared in READERS:
        return READERS[declared]
    if isinstance(declared, type) and dataclasses.is_dataclass(declared):
        return table(cast("Hashable", declared))
    if isinstance(declared, type) and issubclass(declared, Enum):
        return _choice(tuple(declared))
    origin, parts = get_origin(declared), get_args(declared)
    if origin is Annotated:
        return Annotated[(_read_as(parts[0]), *map(AfterValidator, parts[1:]))]
    if origin is Literal and isinstance(parts[0], Enum):
        return _choice(parts)
    if origin is tuple:
        return tuple[_read_as(parts[0]), ...]  # type: ignore[misc]
    if origin is Mapping:
        return dict[str, _read_as(parts[1])]  # type: ignore[misc]
    if origin in {Union, UnionType}:
        return Union[tuple(map(_read_as, parts))]  # noqa: UP007 - of types that are not known here
    return declared


def _choice(members: tuple[Enum, ...]) -> Any:
    """One of some members of an enumeration, written as their values."""
    texts: Any = Literal[tuple(member.value for member in members)]
    return Annotated[texts, AfterValidator(type(members[0])), PlainSerializer(lambda member: member.value)]


@cache
def table(declared: type[Any]) -> type[Table]:
    """The table with the fields of a dataclass as its keys."""
    model = create_model(declared.__name__, __base__=Table, **_fields(declared))
    model.declared = declared
    return model


def _plain(value: Any) -> Any:
    """A value with the dataclasses in place of their tables."""
    if isinstance(value, Table):
        return read(value.declared, value)
    if type(value) is tuple:  # not a named one
        return tuple(map(_plain, value))
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value
