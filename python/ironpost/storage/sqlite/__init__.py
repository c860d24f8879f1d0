"""The durable store: SQLite in WAL mode with group commit, one database for each shard."""
