"""From a file to a configuration, with errors that a person can act on.

Promises: every problem is reported at once, each with its line and key path; an unknown key names the nearest one.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from ironpost.config.auth import Auth
from ironpost.config.listeners import Limits, Listener, Tls
from ironpost.config.policies import Policy
from ironpost.config.schema import Configuration, Local, Log, OnDemand, Queue, Route, Smtp
from ironpost.model.patterns import EVERY

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

DEFAULT_FILE = Path("ironpost.toml")
"""Read when no file is named and it exists."""

Key = tuple[int | str, ...]

RESEMBLES = 0.65
"""How alike two keys are, from 0 to 1, for one to be suggested for the other."""

TABLES: dict[str, type[BaseModel]] = {
    "the top of the file": Configuration,
    "[smtp]": Smtp,
    "[local]": Local,
    "[queue]": Queue,
    "[tls]": Tls,
    "[limits]": Limits,
    "[auth]": Auth,
    "[policy]": Policy,
    "[log]": Log,
    "[[listener]]": Listener,
    "[[route]]": Route,
    "[[on_demand]]": OnDemand,
}
"""Where keys stand."""

SENTENCES = {
    "missing": "this key is needed",
    "tuple_type": 'this is a list: write it in brackets, like ["..."]',
    "path_type": "this is a path: write it in quotes",
    "string_type": "this is text: write it in quotes",
    "string_too_short": "this must not be empty",
    "bool_type": "this is true or false, without quotes",
    "bool_parsing": "this is true or false, without quotes",
    "int_type": "this is a whole number, without quotes and without a unit",
    "dict_type": "this is a table of keys and values",
    "literal_error": "this must be {expected}",
    "greater_than_equal": "the least is {ge}",
    "less_than_equal": "the most is {le}",
}
"""What is said for a kind of error whose own message speaks of Python; in braces, what pydantic knows of it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    sentence: str
    key: str = ""
    """The key path, `smtp.trusted`; empty if the file is no TOML at all."""
    line: int | None = None
    """From 1."""


class ConfigError(Exception):
    """A configuration cannot be used. `problems` holds every reason; the text is one line for each."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        self.source = source
        self.problems = problems
        super().__init__("\n".join(self._line(problem) for problem in problems))

    def _line(self, problem: Problem) -> str:
        where = self.source if problem.line is None else f"{self.source}:{problem.line}"
        return f"{where}: {problem.key}: {problem.sentence}" if problem.key else f"{where}: {problem.sentence}"


def default() -> Configuration:
    """What runs without a file: every domain is local, so that whoever tries the program mails nobody."""
    return Configuration(local=Local(domains=(EVERY,)))


def load(path: Path) -> Configuration:
    """The configuration in a file.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or says what no configuration may say.
    """
    return parse(read(path), str(path))


def read(path: Path) -> str:
    """The text of a file.

    Raises:
        ConfigError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [Problem(f"the file is not UTF-8 (octet {error.start})")]) from None
    except IsADirectoryError:
        raise ConfigError(str(path), [Problem("this is a directory; name the configuration file")]) from None
    except OSError as error:
        raise ConfigError(str(path), [Problem(f"cannot read it: {error.strerror}")]) from None


def parse(text: str, source: str = "configuration") -> Configuration:
    """The configuration in `text`; `source` is how messages call it.

    Raises:
        ConfigError: see `load`.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, [Problem(f"this is no TOML: {error}")]) from None
    try:
        return Configuration.model_validate(values)
    except ValidationError as error:
        problems = [_problem(text, detail) for detail in error.errors()]
        problems.sort(key=lambda problem: problem.line or 0)
        raise ConfigError(source, problems) from None


def _problem(text: str, detail: ErrorDetails) -> Problem:
    kind, place = detail["type"], detail["loc"]
    line = _line_of(text, place)
    key = _shown(place)
    if kind == "extra_forbidden":
        return Problem(_unknown(place), key, line)
    if kind == "model_type":
        return Problem(f"this is a table: write its keys under [{key}]", key, line)
    if kind == "tuple_type" and isinstance(detail["input"], dict):
        return Problem(f"there may be several of these: write [[{key}]], with two brackets on each side", key, line)
    sentence = detail["msg"].removeprefix("Value error, ")
    if kind in SENTENCES:
        sentence = SENTENCES[kind].format(**detail.get("ctx", {}))
    if not sentence[1:2].isupper():  # pydantic's sentences have a capital, those of ours start with names too
        sentence = sentence[:1].lower() + sentence[1:]
    return Problem(sentence, key, line)


def _unknown(place: Key) -> str:
    names = sorted(_section(place[:-1]).model_fields)
    near = difflib.get_close_matches(str(place[-1]), names, n=1, cutoff=RESEMBLES)
    if near:
        return f'unknown key; did you mean "{near[0]}"?'
    homes = [table for table, model in TABLES.items() if place[-1] in model.model_fields]
    if homes:
        return f"unknown key; it belongs to {' or '.join(homes)}"
    return f"unknown key; the keys here are {', '.join(names)}"


def _section(place: Key) -> type[BaseModel]:
    """The model of the table at a key path."""
    model: type[BaseModel] = Configuration
    for name in place:
        if isinstance(name, int):
            continue
        annotation: Any = model.model_fields[name].annotation
        found = [
            part
            for part in (annotation, *get_args(annotation))
            if isinstance(part, type) and issubclass(part, BaseModel)
        ]
        model = found[0]
    return model


def _shown(place: Key) -> str:
    text = ""
    for part in place:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _line_of(text: str, place: Key) -> int | None:
    """The line on which the value at a key path starts; for a key that is missing, the line of its table.

    The first lines of a TOML file are mostly TOML themselves. The key is on the first line with which it appears in
    what parses; a value over several lines starts behind the last line at which everything before it parsed.
    """
    lines = text.splitlines(keepends=True)
    for depth in range(len(place), 0, -1):
        whole = 0
        for count in range(1, len(lines) + 1):
            try:
                values = tomllib.loads("".join(lines[:count]))
            except tomllib.TOMLDecodeError:
                continue
            if _holds(values, place[:depth]):
                return whole + 1
            whole = count
    return None


def _holds(values: Any, place: Key) -> bool:
    for part in place:
        if isinstance(part, int):
            if not isinstance(values, list) or part >= len(values):
                return False
        elif not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True
