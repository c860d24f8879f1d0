"""The server side of the protocol: a sans-IO session driven by a table of commands."""
