"""Reports about TLS (RFC 8460). Pure: no I/O and no clock.

`record` is what a domain publishes about reports, `report` the report itself, `mail` its form as a message, and
`counts` adds up what reports are made of. `mta.tls_reports` sends them.
"""
