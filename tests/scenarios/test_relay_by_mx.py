"""A trusted client's mail is relayed by MX records."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT = b"Subject: x\r\n\r\n.dot\r\n..\r\nlast\r\n"


def test_mail_goes_to_the_exchanger_of_its_domain(system: Callable) -> None:
    async def scenario() -> None:
        async with system() as here:
            await here.submit("flo@here.example", ["jo@by-mx.example", "mo@by-mx.example"], CONTENT)
            await here.queue_empty()
            ((sender, recipients, content),) = here.next_hop.taken
            assert sender == "flo@here.example"
            assert sorted(recipients) == ["jo@by-mx.example", "mo@by-mx.example"]
            assert content.endswith(b"\r\n" + CONTENT)
            assert b"by-mx.example" not in content

    asyncio.run(scenario())
