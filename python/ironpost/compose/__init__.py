"""The composition root: builds a running system from a configuration. No other package knows all components.

`system` builds one process, `workers` several under a supervisor; `listeners`, `auth`, `policy`, `signing`, `delivery`
and `reports` build their parts, and `data_directory` what commands need without a server.
"""
