"""The message as text: header fields written and read, trace fields, dates, line ends. Pure: no clock, no I/O.

Promises: what these modules write is well formed whatever a peer said, because every writer goes through
`header.field`, which refuses control characters (SECURITY R43).
"""
