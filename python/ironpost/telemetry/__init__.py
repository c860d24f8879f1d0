"""Telemetry: log events, their formats, and metrics."""
