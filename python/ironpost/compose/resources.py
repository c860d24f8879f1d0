"""Fits the limits of a configuration to the descriptors that the system allows.

Promises: the connections of all listeners together never need more descriptors than the processes may open, less those
reserved for the queue, deliveries and DNS; if the configuration allows more, each listener gets its share.
"""

from __future__ import annotations

import logging
import resource
from math import ceil
from typing import TYPE_CHECKING

from ironpost.config.declared import read
from ironpost.model.text import counted
from ironpost.processes.resources import ResourceLimits, open_file_limit, reserved

if TYPE_CHECKING:
    from ironpost.config import Configuration, ListenerSection

log = logging.getLogger("ironpost.compose")


def resource_limits(configuration: Configuration) -> ResourceLimits:
    """Return the resource limits of a configuration."""
    return read(ResourceLimits, configuration.limits)


def raise_file_limit(configuration: Configuration, workers: int) -> int:
    """Raise the number of descriptors that this process may open, and return it.

    It is raised to the hard limit; if there is none, to what the limits of connections need. Some systems accept less
    than their hard limit (`kern.maxfilesperproc` of BSD and macOS): then about as far as they accept.

    Args:
        configuration: the limits.
        workers: the number of processes.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        files = hard
        if hard == resource.RLIM_INFINITY:
            files = ceil(_connections(configuration) / workers) + resource_limits(configuration).descriptors
        while files > soft:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
                break
            except (OSError, ValueError):
                files = soft + (files - soft) // 2
    return open_file_limit()


def room_for_connections(configuration: Configuration, open_files: int, workers: int, *, report: bool = True) -> int:
    """Return how many connections the descriptors of all processes permit.

    Args:
        configuration: the limits.
        open_files: the number of descriptors that each process may open.
        workers: the number of processes.
        report: log if the limits are higher.
    """
    room = workers * (open_files - reserved(resource_limits(configuration), open_files))
    wanted = _connections(configuration)
    if report and wanted > room:
        # A default that may need more does not justify a warning.
        log.log(
            logging.WARNING if _asked_for_connections(configuration) else logging.INFO,
            "limits.connections allow %s, but %s permit only %d: the limits are lowered; "
            "raise the limit of open files, or lower limits.connections",
            counted(wanted, "connection"), counted(open_files, "open file"), room,
        )  # fmt: skip
    return room


def permitted_connections(configuration: Configuration, listener: ListenerSection, room: int) -> int:
    """Return the limit of connections of a listener: as configured, or its share of the room if that is less."""
    own, wanted = configuration.limits_of(listener).connections, _connections(configuration)
    return own if wanted <= room else max(1, own * room // wanted)


def _connections(configuration: Configuration) -> int:
    """Return the highest number of connections that the limits allow."""
    return sum(configuration.limits_of(listener).connections for listener in configuration.listener)


def _asked_for_connections(configuration: Configuration) -> bool:
    """Whether the configuration sets a limit of connections explicitly."""
    asked = [configuration.limits]
    if "listener" in configuration.model_fields_set:
        asked += [listener.limits for listener in configuration.listener]
    return any("connections" in limits.model_fields_set for limits in asked)
