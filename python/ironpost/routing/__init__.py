"""Routing: where mail for an address goes next, and why. Pure: decisions from values, nothing is looked up here."""
