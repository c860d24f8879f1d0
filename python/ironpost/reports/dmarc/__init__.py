"""Aggregate reports about DMARC (RFC 9990). Pure: no I/O and no clock; DNS is a port.

`report` is the report and its XML, `reading` reads the XML of others, `mail` is its form as a message, `counts` adds up
evaluations, and `destinations` says where reports go. `mta.dmarc_reports` sends them, and
`delivery.dmarc_reports` receives those of others.
"""
