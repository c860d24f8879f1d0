"""The queue: the store port, the retry law and the scheduler. Pure: no event loop, no socket, no clock."""
