"""Routing: where mail for an address goes next, and why. Pure: no I/O except through the directory port."""
