"""The remote hosts of the delivery torture: what they reply to a recipient is part of its address.

Promises: a recipient is `CONDUCT.NAME@DOMAIN`; what it was asked before decides the reply, as in CONDUCTS. A recipient
that was accepted once is accepted ever after, so that a second copy has its reason in the client alone. Each request,
copy and reply is in the ledger. A trap is a function that is called once, right after the next reply of a kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger import Copy, Peer, Progress, identify

if TYPE_CHECKING:
    import asyncio
    import random
    from collections.abc import Callable

    from delivery_ledger import DeliveryLedger

MIXED, LATE, LOOSE, NEVER = DOMAINS = ("mixed.example", "late.example", "loose.example", "never.example")
"""The domains; each has a port, so that they are different destinations."""
HOME = "home.example"
"""The domain of the senders, whose mail is local."""

CONDUCTS: dict[str, str] = {
    "accepted": MIXED,  # 250
    "greylisted": MIXED,  # the first time 450 4.7.1
    "deferred": MIXED,  # 451, twice
    "refused": MIXED,  # 550
    "late-accepted": LATE,  # 250
    "late-deferred": LATE,  # the first time 451 to the content
    "late-refused": LATE,  # 554 to the content
    "loose-accepted": LOOSE,  # 250
    "unanswered": LOOSE,  # the first time the content is taken and the connection closed without a reply
    "broken-off": LOOSE,  # the first time the connection is closed instead of a reply to RCPT
    "turned-away": LOOSE,  # the first time 421 to RCPT, and the connection is closed
    "never": NEVER,  # 451, always
}
"""The domain of each conduct."""
BOUNCED = frozenset({"refused", "late-refused", "never"})
"""Conducts whose recipients must be reported to the sender; all others must get their mail."""
MOMENTS = ("250", "4yz", "5yz", "a disconnect")
"""After which replies a trap can be called."""


def conduct(recipient: str) -> str:
    """Return the conduct that an address names."""
    return recipient.partition(".")[0]


class Remote(Peer):
    """All remote hosts."""

    def __init__(self, ledger: DeliveryLedger, chance: random.Random) -> None:
        super().__init__()
        self.ledger = ledger
        self.progress = Progress()
        """Counts the replies about recipients."""
        self.traps: dict[str, Callable[[], None]] = {}
        """By moment; each is removed when it is called."""
        self._chance = chance

    def routes(self) -> str:
        """Return the configuration that leads to these hosts."""
        return "".join(
            f'[[route]]\ndomains = ["{domain}"]\nsmart_host = ["127.0.0.1:{port}"]\n'
            for domain, port in zip(DOMAINS, self.ports, strict=True)
        )

    def envelope(self, name: str) -> tuple[str, tuple[str, ...]]:
        """Return the reverse-path and the recipients of a message: at least one, at most six."""
        chance = self._chance
        chosen = chance.sample([each for each, domain in CONDUCTS.items() if domain == MIXED], chance.randint(1, 3))
        for domain, share in ((LATE, 0.3), (LOOSE, 0.4), (NEVER, 0.1)):
            if chance.random() < share:
                chosen.append(chance.choice([each for each, where in CONDUCTS.items() if where == domain]))
        return f"from.{name}@{HOME}", tuple(f"{each}.{name}@{CONDUCTS[each]}" for each in chosen)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        recipients: list[str] = []
        writer.write(b"220 remote.example\r\n")
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb == b"EHLO":
                writer.write(b"250-remote.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE\r\n")
            elif verb == b"RCPT":
                recipient = line.partition(b"<")[2].partition(b">")[0].decode()
                reply = self._to_recipient(recipient)
                if reply[:1] == "2":
                    recipients.append(recipient)
                    writer.write(f"{reply}\r\n".encode())
                elif not await self._answer(writer, reply):
                    return
            elif verb == b"DATA":
                if not recipients:
                    writer.write(b"554 5.5.1 Nobody\r\n")
                    continue
                epoch = self.ledger.epoch()
                writer.write(b"354 Go on\r\n")
                reply = self._to_content(recipients, await reader.readuntil(b"\r\n.\r\n"), epoch)
                recipients = []
                if not await self._answer(writer, reply):
                    return
            elif verb == b"QUIT":
                writer.write(b"221 2.0.0 Bye\r\n")
                return
            else:
                if verb == b"RSET":
                    recipients = []
                writer.write(b"250 2.0.0 Yes\r\n")

    async def _answer(self, writer: asyncio.StreamWriter, reply: str) -> bool:
        """Send a reply, if it is not empty, and spring the trap; return whether the connection stays open."""
        if reply:
            writer.write(f"{reply}\r\n".encode())
            await writer.drain()
        closes = not reply or reply.startswith("421")
        if closes:
            writer.close()
        moment = "a disconnect" if closes else "250" if reply[:1] == "2" else f"{reply[:1]}yz"
        if moment in self.traps:
            self.traps.pop(moment)()
        self.progress.advance()
        return not closes

    def _to_recipient(self, recipient: str) -> str:
        """Return the reply to RCPT; empty to close the connection."""
        times = self.ledger.asked(recipient)
        if recipient in self.ledger.copies:
            return "250 2.1.5 Yes"
        kind = conduct(recipient)
        if kind == "greylisted" and times == 1:
            return "450 4.7.1 Greylisted, try again in 1 second"
        if (kind == "deferred" and times <= 2) or kind == "never":
            return "451 4.2.1 Not now"
        if kind == "refused":
            return "550 5.1.1 Nobody of that name"
        if kind == "turned-away" and times == 1:
            return "421 4.3.2 Closing"
        if kind == "broken-off" and times == 1:
            return ""
        return "250 2.1.5 Yes"

    def _to_content(self, recipients: list[str], text: bytes, epoch: int) -> str:
        """Return the reply to the content; empty to close the connection."""
        ledger = self.ledger
        known = all(each in ledger.copies for each in recipients)
        kinds = {conduct(each) for each in recipients}
        first = any(len(ledger.asks[each]) == 1 for each in recipients)
        if "late-refused" in kinds:
            return "554 5.6.0 Not this"
        if "late-deferred" in kinds and first and not known:
            return "451 4.3.0 Not now"
        answered = "unanswered" not in kinds or not first
        name, what = identify(text)
        for each in recipients:
            copy = Copy(what if f".{name}@" in each else "of another message", epoch, ledger.records(), answered)
            ledger.copies.setdefault(each, []).append(copy)
        return "250 2.6.0 Taken" if answered else ""
