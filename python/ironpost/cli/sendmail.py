"""`sendmail`: the interface of sendmail(1), for cron, PHP and other programs.

Promises: exit code 0 means that the message is on the disk, and is sent if the server runs or when it is started; after
another code nothing was stored. The message goes into the drop directory (`storage.drop`), from which the server takes
it, so nothing here waits for a server, and no reply can be lost. Options that do not apply are accepted and ignored.
Refuses: SMTP on standard input (-bs) and other modes (-bd, -bi), a header section that a mail server would refuse, and
a message without recipients.
"""

from __future__ import annotations

import asyncio
import getopt
import os
import pwd
import re
import sys
from email.utils import formataddr, parseaddr
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NamedTuple

from ironpost.cli import exits
from ironpost.cli.app import CommandError
from ironpost.cli.settings import configuration
from ironpost.compose.own_name import own_name
from ironpost.message.header import field, shown
from ironpost.message.lineends import NetworkLines
from ironpost.message.mbox import SeparatorLines
from ironpost.message.recipients import recipients
from ironpost.message.section import Header, HeaderReader
from ironpost.message.submission import SubmittedHeader
from ironpost.model import NULL, Address, Envelope, Recipient
from ironpost.model.body import PIECE
from ironpost.model.text import complaint, counted, error_text
from ironpost.protocol.extensions import checked_parameters
from ironpost.storage import drop

if TYPE_CHECKING:
    from collections.abc import Iterator


SYSTEM_FILE: Final = Path("/etc/ironpost/ironpost.toml")
"""The configuration file, unless -C names another: programs call sendmail in any directory."""
_OPTIONS: Final = "A:B:C:F:GIL:N:O:R:UV:X:b:e:f:h:imno:p:r:stv"
"""The options of Postfix and Sendmail, for getopt(3), but those in `_BARE`."""
_BARE: Final = ("-q", "-d")
"""Options whose value is optional, and attached: they are ignored."""
_VALUE_FOLLOWS: Final = re.compile("-[GIUimnstv]*[ABCFLNORVXbefhopr]")
"""An argument whose value is the next argument, by `_OPTIONS`."""


HELP: Final = """\
Usage: ironpost sendmail [OPTION]... [ADDRESS]...

Queue a message from standard input, whether or not the server runs. The options are those of sendmail(1).

  -t                      Send to the addresses of To, Cc and Bcc too; Bcc is removed.
  -i, -oi                 A line with only a dot does not end the message.
  -f ADDRESS, -r ADDRESS  The reverse-path; default: the user. "<>" is the null reverse-path.
  -F NAME                 The user's full name, for a message without From.
  -N NOTIFY               When to notify: never, or some of success,failure,delay.
  -R RET                  What bounces contain: full or hdrs.
  -V ENVID                An identifier of the message for notifications.
  -C FILE                 The configuration file; default: /etc/ironpost/ironpost.toml if it exists.
  -bm, -bp                Send a message (the default); list the queue.
  -q                      Do nothing: the server attempts delivery by itself.
  --help                  Show this text.

Other options of sendmail(1), such as -B, -G, -v and -o, are accepted and ignored.
"""


class Options(NamedTuple):
    """A command line."""

    addresses: tuple[str, ...]
    mode: str = "m"
    file: Path | None = None
    """The configuration file."""
    sender: str | None = None
    """Given with -f or -r; None: the user who runs the command."""
    name: str = ""
    """The user's full name, for a From that is missing; empty: that of the system."""
    from_header: bool = False
    """Recipients are also those of the header section."""
    dots: bool = True
    """A line with only a dot ends the message."""
    notify: str | None = None
    ret: str | None = None
    envid: str | None = None
    run_queue: bool = False
    """-q: nothing is sent."""


def sendmail(arguments: list[str]) -> None:
    """Run sendmail(1) with these arguments.

    Raises:
        CommandError: the message was not stored.
    """
    if arguments[:1] == ["--help"]:
        sys.stdout.write(HELP)
        return
    options = parsed(arguments)
    if options.mode == "p":
        from ironpost.cli import queue
        from ironpost.operations.selection import SelectionRequest

        queue.show_all(_file(options), SelectionRequest(), as_json=False, limit=1000)
        return
    if options.run_queue:
        return  # the server attempts delivery by itself
    if options.mode != "m":
        hint = "send it to the server's listener" if options.mode == "s" else "use ironpost serve and ironpost reload"
        raise CommandError(exits.USAGE, f"sendmail -b{options.mode} is not supported: {hint}")
    found = configuration(_file(options))
    domain = found.domain_of_programs(found.hostname or asyncio.run(own_name(found)))
    if not (options.addresses or options.from_header):
        raise CommandError(exits.USAGE, "no recipients: name them, or use -t for those of the header section")
    content = _normalised(sys.stdin.buffer, dots=options.dots)
    head, rest = _head(content)
    user = _user()
    sender = _sender(options, user.pw_name, domain)
    if "from" not in {entry.name.lower() for entry in head.section.fields}:
        head = Header(_from_field(options, user, sender, domain) + head.octets)
    checked = SubmittedHeader()
    checked.feed(head.octets)
    if checked.fault:
        raise CommandError(exits.REFUSED, checked.fault)
    envelope = _envelope(options, sender, head, domain, found.smtp.max_recipients)
    _leave(found.drop, envelope, _limited(head.octets, rest, content, found.smtp.max_message))


def parsed(arguments: list[str]) -> Options:
    """Parse a command line.

    Raises:
        CommandError: an option is unknown, or lacks its value.
    """
    before = _before_dashes(arguments)
    known: list[str] = []
    run_queue = is_value = False
    for each in before:
        if each.startswith(_BARE) and not is_value:
            run_queue = run_queue or each.startswith("-q")
            continue
        known.append(each)
        is_value = not is_value and _VALUE_FOLLOWS.fullmatch(each) is not None
    known += arguments[len(before) :]
    try:
        pairs, addresses = getopt.gnu_getopt(known, _OPTIONS)
    except getopt.GetoptError as error:
        hint = "the options are those of sendmail(1), such as -t, -i and -f ADDRESS"
        raise CommandError(exits.USAGE, f"sendmail: {error}; {hint}") from None
    options = Options(tuple(addresses), run_queue=run_queue)
    for option, value in pairs:
        match option:
            case "-b":
                options = options._replace(mode=value)
            case "-C":
                options = options._replace(file=Path(value))
            case "-f" | "-r":
                options = options._replace(sender=value)
            case "-F":
                options = options._replace(name=value)
            case "-t":
                options = options._replace(from_header=True)
            case "-i":
                options = options._replace(dots=False)
            case "-o" if value == "i":
                options = options._replace(dots=False)
            case "-N":
                options = options._replace(notify=value)
            case "-R":
                options = options._replace(ret=value)
            case "-V":
                options = options._replace(envid=value)
    return options


def _before_dashes(arguments: list[str]) -> list[str]:
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _file(options: Options) -> Path | None:
    if options.file is None and SYSTEM_FILE.exists():
        return SYSTEM_FILE
    return options.file


def _user() -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:
        raise CommandError(exits.NO_INPUT, f"the user id {os.getuid()} has no account: create one") from None


# -- the content


def _normalised(file: IO[bytes], *, dots: bool) -> Iterator[bytes]:
    """Content with CRLF, up to the end of the input, or the line with only a dot."""
    separators, lines = SeparatorLines(bare_lf=True), NetworkLines()
    whole = True
    while line := file.readline(PIECE):
        if dots and whole and line.rstrip(b"\r\n") == b".":
            break
        whole = line.endswith(b"\n")
        yield lines.feed(separators.feed(line))
    yield lines.feed(separators.finish())
    yield lines.finish()


def _head(content: Iterator[bytes]) -> tuple[Header, bytes]:
    """The header section with its empty line, and what was read of the body.

    Programs send text without a header section, and omit the empty line: the first line that is not a field starts the
    body.
    """
    reader = HeaderReader()
    rest = b""
    for piece in content:
        body = reader.feed(piece)
        if body >= 0:
            rest = piece[body:]
            break
    header = reader.finish()
    fault = header.section.fault
    if fault is not None and fault.id == "header-field-malformed":
        header, rest = Header(header.octets[: fault.offset]), header.octets[fault.offset :] + rest
    octets = header.octets
    if octets.endswith(b"\r\n\r\n") or octets == b"\r\n":
        return header, rest
    return Header(octets + b"\r\n"), rest


def _limited(head: bytes, rest: bytes, content: Iterator[bytes], limit: int) -> Iterator[bytes]:
    size = 0
    for part in ((head, rest), content):
        for piece in part:
            size += len(piece)
            if size > limit:
                raise CommandError(exits.REFUSED, f"the message is larger than {limit} octets (smtp.max_message)")
            if b"\0" in piece:
                raise CommandError(exits.REFUSED, "the message has a NUL octet, which mail cannot have")
            yield piece


def _from_field(options: Options, user: pwd.struct_passwd, sender: Address, domain: str) -> bytes:
    name = shown(options.name or user.pw_gecos.partition(",")[0], utf8=True)
    address = f"{user.pw_name}@{domain}" if sender.is_null else str(sender)
    return field("From", (formataddr((name, address)),), utf8=True)


# -- the envelope


def _sender(options: Options, user: str, domain: str) -> Address:
    if options.sender is None:
        return _address(user, domain)
    if options.sender in ("", "<>"):
        return NULL
    return _address(parseaddr(options.sender)[1] or options.sender, domain)


def _envelope(options: Options, sender: Address, header: Header, domain: str, limit: int) -> Envelope:
    texts = [parseaddr(each)[1] or each for each in options.addresses]
    try:
        if options.from_header:
            texts += recipients(header)
        mail = {"RET": options.ret, "ENVID": options.envid}
        parameters = checked_parameters({key: value for key, value in mail.items() if value is not None})
        notify = checked_parameters({} if options.notify is None else {"NOTIFY": options.notify})
    except ValueError as error:
        raise CommandError(exits.REFUSED if options.from_header else exits.USAGE, str(error)) from None
    addresses = dict.fromkeys(_address(each, domain) for each in texts)
    if not addresses:
        raise CommandError(exits.REFUSED, "the header section names no recipient")
    if len(addresses) > limit:
        raise CommandError(exits.REFUSED, f"more than {counted(limit, 'recipient')} (smtp.max_recipients)")
    if any(each.needs_smtputf8 for each in (sender, *addresses)):
        parameters = {**parameters, "SMTPUTF8": None}
    return Envelope(sender, tuple(Recipient(each, notify) for each in addresses), parameters)


def _address(text: str, domain: str) -> Address:
    full = text if "@" in text else f"{text}@{domain}"
    try:
        return Address.parse(full)
    except ValueError as fault:
        raise CommandError(exits.REFUSED, f"invalid address {text}: {complaint(full, fault)}") from None


def _leave(directory: Path, envelope: Envelope, content: Iterator[bytes]) -> None:
    try:
        drop.leave(directory, envelope, content)
    except FileNotFoundError:
        sentence = f"the drop directory {directory} does not exist: start the server once, or create it"
        raise CommandError(exits.CANNOT_CREATE, sentence) from None
    except PermissionError:
        sentence = f"permission denied: you may not write in the drop directory {directory} (sendmail.directory)"
        raise CommandError(exits.NO_PERMISSION, sentence) from None
    except OSError as error:
        raise CommandError(exits.TEMPORARY, f"{directory}: {error_text(error)}") from None
