"""What operators, and clients that ask for their mail, have done to the mail in the queue.

Promises: what is being attempted is left alone. Mail that waits in memory is given back to the store first, so that
nothing is attempted as it was before. An operator's probe of a destination that is down does not lengthen its wait.
"""

from __future__ import annotations

from typing import Final

PROBED: Final = 1000
"""Maximum number of messages whose destinations are probed for one request."""
LOOKUP_SECONDS: Final = 5.0
"""Seconds for which these destinations are looked up; the mail is due before that."""
