"""Find out what the server offers, once before the first case.

Promises: the survey lists the extensions offered before TLS, under TLS and after AUTH, and looks for addresses that the
server accepts where the caller named none. It sends a message only if a Maildir was named, to check that it arrives
there.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from ironpost import wire
from ironpost.conform.case import Failed, Start
from ironpost.conform.connection import MalformedReply, Silence, TlsFailed, UntrustedCertificate
from ironpost.conform.talk import Talk
from ironpost.conform.target import Survey, Target
from ironpost.model.text import error_text


class Unusable(Exception):
    """The server cannot be tested: no connection or no session. The text says why."""


async def survey(target: Target) -> tuple[Target, Survey]:
    """Find out what the server offers and which addresses it accepts.

    Raises:
        Unusable: no session can be opened with these settings, or no recipient is accepted.
    """
    found = Survey(secure=target.implicit_tls or target.starttls)
    talk = Talk(target, found)
    try:
        await talk.begin(Start.GREETED)
        words = talk.greeting.lines[0].decode("ascii", "replace") if talk.greeting else ""
        unencrypted = await talk.hello()
        if target.starttls:
            await talk.start_tls()
            before = await talk.hello()
        else:
            before = unencrypted
        offers = before
        if target.user:
            found = replace(found, before_login=before)
            talk.survey = found
            await talk.log_in()
            with contextlib.suppress(Failed):  # some servers accept only one EHLO
                offers = await talk.hello()
        found = replace(found, greeting=words, unencrypted=unencrypted, before_login=before, offers=offers)
        talk.survey = found
        target = await _addresses(talk, target)
        with contextlib.suppress(Failed):
            await talk.say(b"QUIT\r\n", "2xx")
        if target.maildir is not None:
            await _appears(target, found)
    except OSError as error:
        raise Unusable(f"{target.host}:{target.port}: {error_text(error)}") from None
    except (Failed, TlsFailed, UntrustedCertificate, MalformedReply, Silence) as error:
        raise Unusable(f"no session with {target.host}:{target.port}: {error or 'no answer'}") from None
    finally:
        await talk.close()
    return target, found


async def _addresses(talk: Talk, target: Target) -> Target:
    """Fill in the addresses that the caller did not name with ones that the server accepts or refuses."""
    domain = wire.parse_ehlo(talk.last_hello).domain if talk.last_hello is not None else ""
    domains = [target.recipient.rpartition("@")[2]] if target.recipient else ["localhost", domain]
    candidates = [f"{local}@{name}" for name in domains if name for local in ("postmaster", "conform", "abuse")]
    await talk.say(b"MAIL FROM:<{from}>\r\n", "2xx")
    recipient, second, rejected = target.recipient, target.second, target.rejected
    if recipient and not await _takes(talk, recipient):
        raise Failed(f"the server does not accept {recipient}; name a recipient that it accepts with --to")
    for address in candidates:
        if recipient and second:
            break
        if address != recipient and await _takes(talk, address):
            recipient, second = recipient or address, address if recipient else second
    if not recipient:
        raise Failed(f"the server accepts none of {', '.join(candidates)}; name a recipient that it accepts with --to")
    if not rejected and not await _takes(talk, "conform@refused.invalid"):
        rejected = "conform@refused.invalid"
    return replace(target, recipient=recipient, second=second, rejected=rejected)


async def _takes(talk: Talk, address: str) -> bool:
    """Whether RCPT with this address is accepted."""
    await talk.send(b"RCPT TO:<" + address.encode() + b">\r\n")
    return (await talk.reply()).code // 100 == 2


async def _appears(target: Target, found: Survey) -> None:
    """Send a message and look for it, so that a wrong folder is reported before hundreds of cases wait for mail."""
    talk = Talk(target, found)
    try:
        await talk.begin(Start.DATA)
        await talk.finish(b"{message}.\r\n", "250")
        await talk.in_step()
        await talk.delivered()
    except Failed as reason:
        raise Failed(f"a message for {target.recipient} does not appear in {target.maildir}: {reason}") from None
    finally:
        await talk.close()
