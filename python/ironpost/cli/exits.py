"""Exit codes, after sysexits.h. docs/operations.md explains each; a test compares the two."""

from __future__ import annotations

from typing import Final

OK: Final = 0
"""Done."""
NOT_CONFORMING: Final = 1
"""`conform`: the server violates a MUST. `mtasts check`, `tlsrpt check`, `dmarc check`: what the domain publishes has a
fault. `spf check`, `dkim check` and `dmarc check` of a message: another result than pass. `dkim check`: the key has a
fault. `dkim show`: a key is not published. `tlsrpt show`, `tlsrpt report`, `dmarc show`: not a valid report.
`dane check`: DANE does not authenticate every host."""
USAGE: Final = 64
"""The command line is wrong."""
REFUSED: Final = 65
"""The message was, or would be, rejected permanently; or the domain accepts no mail (`dane check`)."""
NO_INPUT: Final = 66
"""A file, queue id or user that was named does not exist, or a domain or the configuration (`dkim show`, `mtasts
show`) has no policy, record or key; there are no reports (`dmarc report`, `tlsrpt report`); a change of the queue
concerns nothing; or a directory has no complete backup (`restore`)."""
UNAVAILABLE: Final = 69
"""No server answers at that address or on that data directory, or a package that the command needs is not installed."""
SOFTWARE: Final = 70
"""A bug in ironpost; the traceback shows where."""
CANNOT_CREATE: Final = 73
"""The data directory cannot be written. `backup`, `restore`: a directory cannot be written, or is not empty."""
IO_ERROR: Final = 74
"""The disk failed and the queue's log could not be recovered, `check --data` or `backup` found damage, or a
backup was changed (`restore`)."""
TEMPORARY: Final = 75
"""Temporary failure, try again later: a port or the data directory is in use, the peer deferred the message, or the
server, one of its workers or DNS does not answer, or mail to the domain would be deferred (`dane check`)."""
NO_PERMISSION: Final = 77
"""Permission denied, for a port below 1024 for instance; or a login or a certificate was not accepted."""
CONFIGURATION: Final = 78
"""The configuration, or the users file, is not valid; or every user may write in the data directory."""
