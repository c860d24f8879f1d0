"""Test doubles of the ports, for our tests and those of embedders."""
