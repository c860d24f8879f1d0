"""ironpost under programs that were written for other libraries.

Promises: importing this package imports none of those libraries.
"""
