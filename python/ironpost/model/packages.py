"""Packages of other projects that not every installation has."""

from __future__ import annotations


class PackageMissing(ModuleNotFoundError):
    """A package is not installed; the text says what needs it, and how to install it."""
