"""Lookups: implementations of the resolver port. `dns` asks name servers, `static` answers from a table."""
