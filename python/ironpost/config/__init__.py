"""The configuration: one TOML file, read once into frozen typed values.

Promises: what loads is valid in itself; an unknown key, a missing unit or a value out of range is an error that says
where (file, line, key path) and what to do; the same configuration has the same hash; nothing can be said in two ways.
Refuses: unknown keys, numbers without units, relative cleverness (no includes, no expansion, no environment).
"""

from ironpost.config.auth import Auth
from ironpost.config.listeners import Certificate, Limits, Listener, Tls
from ironpost.config.load import DEFAULT_FILE, ConfigError, Problem, default, load, parse, read
from ironpost.config.schema import Configuration, Queue, Route, Smtp

__all__ = [
    "DEFAULT_FILE",
    "Auth",
    "Certificate",
    "ConfigError",
    "Configuration",
    "Limits",
    "Listener",
    "Problem",
    "Queue",
    "Route",
    "Smtp",
    "Tls",
    "default",
    "load",
    "parse",
    "read",
]
