"""Reads everything in the queue, for `ironpost check --data`, whether or not a server is running.

Promises: writes nothing. Every database is checked, every body is read to its end and compared with its checksum, and
all damage is reported. A message that leaves the queue meanwhile is not reported as damaged.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from ironpost.model.body import BodyDamaged
from ironpost.model.text import error_text
from ironpost.storage.backend import CheckedAmount, Damage
from ironpost.storage.bodies import BODIES, SEGMENTS
from ironpost.storage.sqlite.rows import Reader
from ironpost.storage.sqlite.schema import SchemaError
from ironpost.storage.sqlite.shards import shard_directories

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_PAGE = 500
"""Number of messages read at a time."""


async def verify(data: Path) -> AsyncIterator[Damage | CheckedAmount]:
    """Read the whole queue of a data directory; yield each damage, then the amount that was read.

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
                        yield Damage(directory, message.id, error_text(error))
                    except FileNotFoundError:
                        continue  # removed meanwhile
                    except OSError as error:
                        yield Damage(directory, message.id, str(error))
        except sqlite3.Error as error:
            yield Damage(directory, "", f"the database cannot be read: {error}")
        finally:
            reader.close()
    yield CheckedAmount(messages, octets)
