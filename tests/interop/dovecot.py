"""Dovecot from `peers`, configured in a folder: IMAP, POP3 and LMTP for users with passwords and quotas.

Promises: it runs in the foreground as one user, listens on 127.0.0.1 and on a Unix socket in the folder, and keeps all
of its files there. Tests that run as root start it as `USER`, because Dovecot opens no mail of root.
"""

from __future__ import annotations

import grp
import os
import pwd
from typing import TYPE_CHECKING, NamedTuple

import peers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

USER = "mail"
PASSWORD = "correct horse"
MAILDIR = "maildir:~"
MBOX = "mbox:~/folders:INBOX=~/inbox"


class Ports(NamedTuple):
    """The ports of the services on 127.0.0.1."""

    imap: int
    pop3: int
    lmtp: int


class Ready(NamedTuple):
    """A configured Dovecot."""

    command: list[str]
    env: dict[str, str]
    ports: Ports
    homes: Path
    """The home of `jo@mail.example` is `mail.example/jo` in here."""
    lmtp_socket: Path
    log: Path


def account() -> pwd.struct_passwd:
    """The user whom Dovecot runs as, and who must own the mail."""
    return pwd.getpwnam(USER) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def own(path: Path, user: pwd.struct_passwd | None = None) -> None:
    """Give a directory, with everything in it, to a user: Dovecot's, if None."""
    user = user or account()
    for folder, _, files in os.walk(path):
        for name in (".", *files):
            os.chown(f"{folder}/{name}", user.pw_uid, user.pw_gid, follow_symlinks=False)


def configure(
    folder: Path,
    ports: Ports,
    users: Mapping[str, int | None],
    *,
    location: str = MAILDIR,
    main: str = "",
) -> Ready:
    """Configure Dovecot.

    Args:
        folder: created if necessary; Dovecot's user must be able to reach it.
        ports: of the services.
        users: addresses with their quotas in KiB, None for no limit; the password of each is `PASSWORD`.
        location: where mail is kept, as `mail_location` of dovecot.conf.
        main: lines for dovecot.conf, which override the defaults here.
    """
    program = peers.find("dovecot")
    library = peers.PREFIX / "root/usr/lib/dovecot"
    homes = folder / "homes"
    homes.mkdir(mode=0o755, parents=True)
    user = account()
    lines = []
    for address, quota in users.items():
        local, _, domain = address.rpartition("@")
        (homes / domain).mkdir(exist_ok=True)
        rule = "" if quota is None else f"userdb_quota_rule=*:storage={quota}k"
        lines.append(f"{address}:{{PLAIN}}{PASSWORD}:{user.pw_uid}:{user.pw_gid}::{homes}/{domain}/{local}::{rule}\n")
    (folder / "users").write_text("".join(lines))
    (folder / "dovecot.conf").write_text(f"""base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
libexec_dir = {library}
mail_plugin_dir = {library}/modules
import_environment = TZ LD_LIBRARY_PATH
default_internal_user = {user.pw_name}
default_internal_group = {grp.getgrgid(user.pw_gid).gr_name}
default_login_user = {user.pw_name}
first_valid_uid = 1
first_valid_gid = 0
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
protocols = imap pop3 lmtp
mail_location = {location}
mail_plugins = quota
passdb {{
  driver = passwd-file
  args = {folder}/users
}}
userdb {{
  driver = passwd-file
  args = {folder}/users
}}
protocol imap {{
  mail_plugins = quota imap_quota
}}
plugin {{
  quota = maildir:mailbox
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {ports.imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    port = {ports.pop3}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    port = {ports.lmtp}
  }}
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
{main}
""")
    run = folder / "run"
    run.mkdir(mode=0o755)
    _relocate(library, run)
    own(folder)
    # Dovecot would start doveconf by its compiled-in path, which reads the configuration and starts Dovecot again.
    conf = str(folder / "dovecot.conf")
    command = [
        str(peers.PREFIX / "root/usr/bin/doveconf"), "-f", "service=master", "-c", conf, "-m", "master", "-e",
        program, "-F", "-c", conf,
    ]  # fmt: skip
    if os.geteuid() == 0:
        command = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *command]
    env = peers.environment()
    env["LD_LIBRARY_PATH"] = f"{run}:{library}/modules/old-stats:{env['LD_LIBRARY_PATH']}"
    return Ready(command, env, ports, homes, run / "lmtp", folder / "log")


def _relocate(library: Path, run: Path) -> None:
    """Put a library into the directory in which Dovecot runs that looks for its modules there.

    The path of the TLS module is compiled into it, and loaded even without TLS.
    """
    compiled = b"/usr/lib/dovecot/modules"
    relative = b"./modules".ljust(len(compiled), b"\0")
    original = library / "libdovecot.so.0"
    (run / original.name).write_bytes(original.read_bytes().replace(compiled, relative))
    (run / "modules").symlink_to(library / "modules")
