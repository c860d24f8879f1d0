"""The loops that make a mail system of the parts: mail in, the queue worked off, start and stop."""
