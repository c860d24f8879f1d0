"""Exit codes, after sysexits.h. docs/operations.md explains each; a test compares the two."""

from __future__ import annotations

from typing import Final

OK: Final = 0
"""Done."""
NOT_CONFORMING: Final = 1
"""`conform`: the server does not keep a MUST."""
USAGE: Final = 64
"""The command line is wrong."""
REFUSED: Final = 65
"""The message was refused for good, or would be."""
NO_INPUT: Final = 66
"""A file, a queue id or a user that was named does not exist."""
UNAVAILABLE: Final = 69
"""Nothing answers: no server at that address or on that data directory, or the MTA parts are not installed."""
SOFTWARE: Final = 70
"""A fault in ironpost; the traceback says where."""
CANNOT_CREATE: Final = 73
"""The data directory cannot be written."""
IO_ERROR: Final = 74
"""The disk failed and the queue's log could not be recovered, or `check --data` found damage."""
TEMPORARY: Final = 75
"""Try again later: a port or the data directory is in use, the peer deferred the message, or the server or one of its
workers does not answer."""
NO_PERMISSION: Final = 77
"""The system forbids it, a port below 1024 for instance; or a login or a certificate was not accepted."""
CONFIGURATION: Final = 78
"""The configuration, or the users file, is wrong."""
