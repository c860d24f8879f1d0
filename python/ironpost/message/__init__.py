"""The message format: reading and writing header fields, trace fields, dates, line endings. Pure: no clock, no I/O.

Promises: the output of these modules is well formed whatever a peer sent, because every writer uses
`header.field`, which refuses control characters (SECURITY R43).
"""
