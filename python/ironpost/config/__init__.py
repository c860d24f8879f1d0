"""The configuration: one TOML file, read once into frozen typed values.

Promises: what loads is valid in itself; an unknown key, a missing unit or a value out of range is an error that names
file, line and key path and says what to do; equal configurations have equal hashes; no setting can be written in two
ways.
Refuses: unknown keys and numbers without units. There are no includes, no expansion and no environment variables.
"""

from ironpost.config.auth import AuthSection
from ironpost.config.listeners import CertificateSection, LimitsSection, ListenerSection, TlsSection
from ironpost.config.load import DEFAULT_FILE, ConfigError, Problem, default, load, parse, read
from ironpost.config.queue import QueueSection
from ironpost.config.routes import RouteSection
from ironpost.config.schema import Configuration, SmtpSection

__all__ = [
    "DEFAULT_FILE",
    "AuthSection",
    "CertificateSection",
    "ConfigError",
    "Configuration",
    "LimitsSection",
    "ListenerSection",
    "Problem",
    "QueueSection",
    "RouteSection",
    "SmtpSection",
    "TlsSection",
    "default",
    "load",
    "parse",
    "read",
]
