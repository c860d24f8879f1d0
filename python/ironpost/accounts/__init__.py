"""Accounts: authentication of users, and mailboxes and aliases, from files, databases and hooks."""
