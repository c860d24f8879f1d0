"""The queue: store port, retry policy and scheduler. Pure: no event loop, sockets or clock."""
