"""The mail transfer agent: incoming mail, the queue runner, bounces, and mail on demand (ETRN, ATRN)."""
