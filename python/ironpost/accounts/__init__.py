"""Accounts: authentication of users against sources (file, SQL database, Python hook)."""
