"""Postfix, Exim and OpenSMTPD from `peers`, configured in a folder, for the interop tests and the load scripts.

Promises: each runs in the foreground, listens on 127.0.0.1 only, does not query DNS, and keeps its files in the folder.
Requires root: all change to other users. Those of Exim and OpenSMTPD are compiled in, so they are created if necessary;
OpenSMTPD's folders are, too, so it runs in a mount namespace where they lie in the folder.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, NamedTuple

import peers

if TYPE_CHECKING:
    from pathlib import Path

EXIM = "Debian-exim"
QUEUES = ["active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace"]


class Ready(NamedTuple):
    """A configured server: its command and environment."""

    command: list[str]
    env: dict[str, str]


def owned(path: Path, user: str = "mail") -> None:
    """Create a directory for another user, which every user may traverse."""
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    subprocess.run(["chown", user, path], check=True)


def postfix(folder: Path, port: int, *, options: str = "", main: str = "") -> Ready:
    """Configure Postfix with one SMTP listener.

    Args:
        folder: created if necessary.
        port: of the listener.
        options: options of that listener in master.cf: `-o name=value`.
        main: lines for main.cf, which override the defaults here.
    """
    peers.find("postfix")
    root, queue, conf, data = peers.PREFIX / "root", folder / "queue", folder / "conf", folder / "data"
    for path in (folder, conf, queue, queue / "pid"):
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    for path in (data, queue / "public", *(queue / name for name in QUEUES)):
        owned(path)
    (conf / "main.cf").write_text(f"""compatibility_level = 3.6
queue_directory = {queue}
data_directory = {data}
command_directory = {root}/usr/sbin
daemon_directory = {root}/usr/lib/postfix/sbin
shlib_directory = {root}/usr/lib/postfix
meta_directory = {conf}
import_environment = LD_LIBRARY_PATH MAIL_CONFIG TZ LANG=C
mail_owner = mail
setgid_group = news
myhostname = postfix.example
mydestination =
local_recipient_maps =
alias_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions =
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
message_size_limit = 0
in_flow_delay = 0
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_client_new_tls_session_rate_limit = 0
{main}
""")
    (conf / "master.cf").write_text(f"""{port} inet n - n - - smtpd {options}
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
lmtp unix - - n - - lmtp
virtual unix - n n - - virtual
retry unix - - n - - error
error unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
""")
    return Ready(
        [str(root / "usr/lib/postfix/sbin/master"), "-c", str(conf), "-d"],
        peers.environment() | {"MAIL_CONFIG": str(conf)},
    )


def exim(
    folder: Path,
    port: int | str,
    *,
    main: str = "",
    acl: str = "accept",
    routers: str,
    transports: str = "",
    retry: str = "F,1h,1m",
) -> Ready:
    """Configure Exim with one SMTP listener.

    Args:
        folder: created if necessary.
        port: of the listener; several as Exim lists them, `1 : 2`.
        main: options of the main section.
        acl: the ACL that is applied to RCPT.
        routers: the routers' section.
        transports: the transports' section.
        retry: the retry schedule of all addresses and errors.
    """
    program = peers.find("exim4")
    user_exists(EXIM)
    for path in (folder, folder / "spool", folder / "log"):
        owned(path, EXIM)
    (folder / "exim.conf").write_text(f"""primary_hostname = exim.example
spool_directory = {folder}/spool
log_file_path = {folder}/log/%slog
pid_file_path = {folder}/exim.pid
exim_path = {program}
exim_user = {EXIM}
exim_group = {EXIM}
never_users =
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
disable_ipv6 = true
acl_smtp_rcpt = acl_rcpt
host_lookup =
rfc1413_hosts =
message_size_limit = 0
split_spool_directory = true
deliver_drop_privilege = true
smtp_accept_max = 12000
smtp_accept_max_per_connection = 0
smtp_accept_queue_per_connection = 0
smtp_connect_backlog = 1024
recipients_max = 0
keep_environment =
{main}
begin acl
acl_rcpt:
  {acl}
begin routers
{routers}
begin transports
{transports}
begin retry
* * {retry}
""")
    return Ready([program, "-C", str(folder / "exim.conf"), "-bdf"], peers.environment())


def opensmtpd(folder: Path, main: str) -> Ready:
    """Configure OpenSMTPD, paused: it keeps all mail in its queue.

    Args:
        folder: created if necessary; the queue is its `spool/smtpd/queue`.
        main: lines of smtpd.conf with the listeners.
    """
    program = peers.find("opensmtpd")
    user_exists("opensmtpd")
    user_exists("opensmtpq")
    spool, empty = folder / "spool" / "smtpd", folder / "lib" / "opensmtpd" / "empty"
    for path in (folder, spool, empty):
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    for name in ("purge", "temporary", "incoming", "queue", "corrupt"):
        path = spool / name
        path.mkdir(mode=0o700, exist_ok=True)
        subprocess.run(["chown", "opensmtpq", path], check=True)
    spool.chmod(0o711)
    offline = spool / "offline"
    offline.mkdir(exist_ok=True)
    offline.chmod(0o770)
    subprocess.run(["chown", "root:opensmtpq", offline], check=True)
    (folder / "smtpd.conf").write_text(f"""{main}
action "out" relay host "smtp://127.0.0.1:9"
match from any for any action "out"
""")
    (folder / "resolv.conf").write_text("lookup file\n")  # it asks DNS about every client
    mounts = {"resolv.conf": "/etc/resolv.conf", "spool": "/var/spool", "lib": "/var/lib"}
    inner = "".join(f"mount --bind {folder}/{source} {target}; " for source, target in mounts.items())
    inner += f"exec {program} -d -P mta -f {folder}/smtpd.conf"
    return Ready(["unshare", "-m", "sh", "-ec", inner], peers.environment())


def user_exists(name: str) -> None:
    """Create a user whose name is compiled into a program."""
    subprocess.run(["useradd", "-r", "-M", "-d", "/nonexistent", name], check=False, capture_output=True)
