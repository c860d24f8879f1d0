"""Processes: lifecycle, signals, worker pool, the channel and bus between processes, and the limits workers share."""
