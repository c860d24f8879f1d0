"""The composition root: from a configuration to a running system. The one package that knows every name.

`system` is one process, `workers` are several under a supervisor; the rest each build one part: `listeners`, `auth`,
`policy`, `delivery`.
"""
