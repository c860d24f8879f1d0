"""Reads a configuration file, and reports errors that a user can act on.

Promises: every problem is reported at once, each with its line and key path; an unknown key names the nearest one.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from ironpost.config.auth import AuthSection
from ironpost.config.declared import tables
from ironpost.config.delivery import DeliverySection, DestinationSection, TlsRuleSection
from ironpost.config.directory import AliasSection, DirectorySection, MailboxSection, RelaySection
from ironpost.config.dkim import DkimSection
from ironpost.config.listeners import CertificateSection, ListenerSection, ServerLimitsSection, TlsSection
from ironpost.config.local import LocalDeliverySection, LocalSection
from ironpost.config.mta_sts import MtaStsSection
from ironpost.config.policies import PolicySection
from ironpost.config.queue import QueueSection, ReplySection, RetrySection
from ironpost.config.reports import DmarcReportsSection, TlsrptSection
from ironpost.config.rewriting import RewriteSection
from ironpost.config.routes import RouteAuthSection, RouteSection
from ironpost.config.schema import (
    ArchiveSection,
    Configuration,
    DnsSection,
    HttpSection,
    LogSection,
    OnDemandSection,
    SmtpSection,
)
from ironpost.config.sendmail import SendmailSection
from ironpost.model.patterns import EVERY
from ironpost.model.text import error_text

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

DEFAULT_FILE = Path("ironpost.toml")
"""The default file, used if no other is named and it exists."""

Key = tuple[int | str, ...]

RESEMBLES = 0.65
"""Minimum similarity of two keys, from 0 to 1, for one to be suggested for the other."""

TABLES: dict[str, type[BaseModel]] = {
    "the top of the file": Configuration,
    "[smtp]": SmtpSection,
    "[local]": LocalSection,
    "[queue]": QueueSection,
    "[[queue.retry]]": RetrySection,
    "[[queue.reply]]": ReplySection,
    "[tls]": TlsSection,
    "[[tls.certificates]]": CertificateSection,
    "[limits]": ServerLimitsSection,
    "[auth]": AuthSection,
    "[[local.delivery]]": LocalDeliverySection,
    **tables("local.delivery", LocalDeliverySection),
    "[directory]": DirectorySection,
    **tables("directory", DirectorySection),
    "[[mailbox]]": MailboxSection,
    "[[alias]]": AliasSection,
    "[[relay]]": RelaySection,
    "[policy]": PolicySection,
    **tables("policy", PolicySection),
    "[delivery]": DeliverySection,
    "[[delivery.destination]]": DestinationSection,
    "[[delivery.tls]]": TlsRuleSection,
    "[log]": LogSection,
    "[[listener]]": ListenerSection,
    "[[route]]": RouteSection,
    "[route.auth]": RouteAuthSection,
    "[[on_demand]]": OnDemandSection,
    "[[archive]]": ArchiveSection,
    "[[rewrite]]": RewriteSection,
    "[[dkim]]": DkimSection,
    "[sendmail]": SendmailSection,
    "[http]": HttpSection,
    "[[mta_sts]]": MtaStsSection,
    "[tlsrpt]": TlsrptSection,
    "[dmarc_reports]": DmarcReportsSection,
    "[dns]": DnsSection,
}
"""The tables of the file, by what messages call them."""

SENTENCES = {
    "missing": "required key is missing",
    "tuple_type": 'expected a list in brackets, like ["..."]',
    "path_type": "expected a path in quotes",
    "string_type": "expected text in quotes",
    "string_too_short": "must not be empty",
    "bool_type": "expected true or false, without quotes",
    "bool_parsing": "expected true or false, without quotes",
    "int_type": "expected a whole number, without quotes or unit",
    "dict_type": "expected a table of keys and values",
    "literal_error": "expected {expected}",
    "enum": "expected {expected}",
    "greater_than_equal": "minimum: {ge}",
    "less_than_equal": "maximum: {le}",
}
"""Messages for pydantic's error types whose own messages speak of Python types; braces are filled from the error."""

OTHERWISE = "wrong type of value"
"""The message for all other types."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a configuration."""

    sentence: str
    key: str = ""
    """The key path, `smtp.trusted`; empty if the file is not valid TOML."""
    line: int | None = None
    """From 1."""


class ConfigError(Exception):
    """A configuration cannot be used. `problems` holds every problem; the text has one line for each."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        self.source = source
        self.problems = problems
        super().__init__("\n".join(self._line(problem) for problem in problems))

    def _line(self, problem: Problem) -> str:
        where = self.source if problem.line is None else f"{self.source}:{problem.line}"
        return f"{where}: {problem.key}: {problem.sentence}" if problem.key else f"{where}: {problem.sentence}"


def default() -> Configuration:
    """Return the configuration without a file: every domain is local, so trying the program sends no mail to others."""
    return Configuration(local=LocalSection(domains=(EVERY,)))


def load(path: Path) -> Configuration:
    """Read the configuration in a file.

    Raises:
        ConfigError: the file cannot be read, is not valid TOML, or is not a valid configuration.
    """
    return parse(read(path), str(path), path.parent)


def read(path: Path) -> str:
    """Read the text of a file.

    Raises:
        ConfigError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [Problem(f"the file is not UTF-8 (octet {error.start})")]) from None
    except IsADirectoryError:
        raise ConfigError(str(path), [Problem("is a directory, not a configuration file")]) from None
    except OSError as error:
        raise ConfigError(str(path), [Problem(f"cannot read it: {error_text(error)}")]) from None


def parse(text: str, source: str = "configuration", folder: Path = Path()) -> Configuration:
    """Parse a configuration.

    Args:
        text: TOML.
        source: its name in messages.
        folder: the directory of its file.

    Raises:
        ConfigError: see `load`.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, [Problem(f"not valid TOML: {error}")]) from None
    except ValueError:  # from `int`, which limits the number of digits
        raise ConfigError(source, [Problem("a number has too many digits")]) from None
    except RecursionError:
        raise ConfigError(source, [Problem("lists or tables are nested too deeply")]) from None
    try:
        return Configuration.model_validate(values).read_from(folder)
    except ValidationError as error:
        problems = [_problem(text, detail) for detail in error.errors()]
        problems.sort(key=lambda problem: problem.line or 0)
        raise ConfigError(source, problems) from None


def _problem(text: str, detail: ErrorDetails) -> Problem:
    kind, place = detail["type"], detail["loc"]
    line = _line_of(text, place)
    key = _shown(place)
    table = re.sub(r"\[[0-9]+\]", "", key)
    if kind == "extra_forbidden":
        return Problem(_unknown(place), key, line)
    if kind == "model_type":
        header = f"[[{table}]]" if isinstance(place[-1], int) else f"[{table}]"
        return Problem(f"expected a table: write its keys under {header}", key, line)
    if kind == "tuple_type" and isinstance(detail["input"], dict):
        return Problem(f"there may be several of these: write [[{table}]], with two brackets on each side", key, line)
    sentence = detail["msg"].removeprefix("Value error, ")
    if kind != "value_error":  # this project wrote the others
        sentence = SENTENCES.get(kind, OTHERWISE).format(**detail.get("ctx", {}))
    if not sentence[1:2].isupper():  # pydantic's messages are capitalised; ours may start with a name
        sentence = sentence[:1].lower() + sentence[1:]
    return Problem(sentence, key, line)


def _unknown(place: Key) -> str:
    names = sorted(_section(place[:-1]).model_fields)
    near = difflib.get_close_matches(str(place[-1]), names, n=1, cutoff=RESEMBLES)
    if near:
        return f'unknown key; did you mean "{near[0]}"?'
    homes = [table for table, model in TABLES.items() if place[-1] in model.model_fields]
    same = f"[{_shown(place[:-1]).rpartition('.')[2]}]"
    if same in homes:  # a key of `[limits]` in `[listener.limits]`
        homes = [same]
    if homes:
        return f"unknown key; it belongs to {' or '.join(homes)}"
    return f"unknown key; the keys here are {', '.join(names)}" if names else "unknown key; this table has no keys"


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
    """Return the line on which the value at a key path starts; for a missing key, the line of its table.

    The first lines of a TOML file are mostly valid TOML themselves. The key is on the first line with which it appears
    in what parses; a value over several lines starts after the last line at which everything before it parsed.
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
