"""Aggregate and failure reports about DMARC (RFC 9990, RFC 9991). Pure: no I/O and no clock; DNS is a port.

`report` is an aggregate report and its XML, `reading` reads the XML of others, `mail` is its form as a message, and
`counts` adds up evaluations. `mta.dmarc_reports` sends them, and `delivery.dmarc_reports` receives those of others.
`failure` says whether a message is reported by itself, and `failure_mail` is the form of that report, which
`mta.dmarc_failures` sends; `failure_reading` reads those of others. `received` finds the report of either kind in a
message. `destinations` says where reports go.
"""
