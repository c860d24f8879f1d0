"""`ironpost check --data`: reads everything that the queue keeps, beside a running server or without one.

Promises: writes nothing. Every database is checked, every body is read to its end and compared with its checksum, and
whatever is damaged is named. A message that leaves while it is read is no damage.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, NamedTuple

from ironpost.model.body import BodyDamaged
from ironpost.storage.bodies import BODIES, SEGMENTS
from ironpost.storage.shards import shard_directories
from ironpost.storage.sqlite_rows import Reader
from ironpost.storage.sqlite_schema import SchemaError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_PAGE = 500
"""Messages asked for at a time."""


class Damage(NamedTuple):
    """One thing that is wrong."""

    shard: Path
    message: str
    """The message's id; empty if it is the shard that is damaged."""
    sentence: str


class Extent(NamedTuple):
    """How much was looked at."""

    messages: int
    octets: int


async def verify(data: Path) -> AsyncIterator[Damage | Extent]:
    """What is damaged in the queue of a data directory; at the end how much was read.

    Raises:
        FileNotFoundError: there is no queue in this directory.
    """
    directories = shard_directories(data)
    if not directories:
        raise FileNotFoundError(f"There is no queue in {data}: it has no shard.")
    messages = octets = 0
    for directory in directories:
        try:
            reader = Reader.open_readonly(directory)
        except (OSError, SchemaError, sqlite3.Error) as error:
            yield Damage(directory, "", f"the database cannot be opened: {error}")
            continue
        try:
            for sentence in reader.faults():
                yield Damage(directory, "", sentence)
            for name in reader.unlisted(f"{BODIES}/*/*", f"{SEGMENTS}/*"):
                yield Damage(directory, "", f"{name} is not listed in the database")
            last = 0
            while seqs := reader.seqs_after(last, _PAGE):
                last = seqs[-1]
                for _, message in reader.by_seq(seqs):
                    messages += 1
                    if message.fault:
                        yield Damage(directory, message.id, message.fault)
                        continue
                    try:
                        async for piece in message.body.pieces():
                            octets += len(piece)
                    except BodyDamaged as error:
                        yield Damage(directory, message.id, error.strerror or str(error))
                    except FileNotFoundError:
                        continue  # it left meanwhile
                    except OSError as error:
                        yield Damage(directory, message.id, str(error))
        except sqlite3.Error as error:
            yield Damage(directory, "", f"the database cannot be read: {error}")
        finally:
            reader.close()
    yield Extent(messages, octets)
