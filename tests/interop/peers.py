"""Other programs for the interop tests and the load scripts, found in PATH or unpacked from Debian's packages into a
private prefix, and test data from the sources of such packages. This module installs, configures and starts nothing.

    python tests/interop/peers.py        fetch everything and print the path of each program and file

The prefix is `.peers` in the clone, or the value of IRONPOST_PEERS.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tarfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PREFIX = Path(os.environ.get("IRONPOST_PEERS") or Path(__file__).resolve().parents[2] / ".peers").resolve()


class Program(NamedTuple):
    """The source of a program."""

    path: str
    """The path below the prefix after unpacking."""
    packages: tuple[str, ...]
    """Debian packages: the server and the libraries that a minimal installation lacks."""


class SourceFile(NamedTuple):
    """A file of the source of a Debian package."""

    path: str
    """The path in the archive, below its only folder."""
    package: str
    archives: Mapping[str, str]
    """The versions of the source in which the file is the same, with the SHA-256 of their archives."""


DOVECOT = (
    "dovecot-core",
    "dovecot-imapd",
    "dovecot-pop3d",
    "dovecot-lmtpd",
    "libexttextcat-2.0-0",
    "liblua5.4-0",
    "libwrap0",
)
KERBEROS = ("libgssapi-krb5-2", "libkrb5-3", "libk5crypto3", "libkrb5support0")
OPENDKIM = (
    "opendkim",
    "libdb5.3",
    "libevent-2.1-7",
    "libhashkit2",
    "libldap-2.5-0",
    "liblua5.3-0",
    "libmemcached11",
    "libmilter1.0.1",
    "libopendbx1",
    "libopendkim11",
    "libprotobuf-c1",
    "librbl1",
    "libunbound8",
    "libvbr2",
)
SYSTEMD = ("systemd", "libsystemd-shared", "libapparmor1", "libip4tc2", "libkmod2")

PROGRAMS: dict[str, Program] = {
    "smtp-sink": Program("usr/sbin/smtp-sink", ("postfix", "libicu72")),
    "smtp-source": Program("usr/sbin/smtp-source", ("postfix", "libicu72")),
    "postfix": Program("usr/sbin/postfix", ("postfix", "libicu72")),
    "saslpasswd2": Program(  # with the mechanisms and the user database that Postfix loads
        "usr/sbin/saslpasswd2", ("sasl2-bin", "libsasl2-modules", "libsasl2-modules-db", "libdb5.3", "libsasl2-2")
    ),
    "swaks": Program("usr/bin/swaks", ("swaks",)),
    "msmtp": Program("usr/bin/msmtp", ("msmtp", "libgsasl18", "libgssglue1", "libntlm0", "libsecret-1-0", "libidn12")),
    "exim4": Program("usr/sbin/exim4", ("exim4-daemon-light", "exim4-base", "libidn12")),
    "haproxy": Program(
        "usr/sbin/haproxy",
        ("haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1", "libpcre2-posix3"),
    ),
    "nginx": Program("usr/sbin/nginx", ("nginx", "libnginx-mod-mail")),
    "opensmtpd": Program("usr/sbin/smtpd", ("opensmtpd",)),
    "fetchmail": Program("usr/bin/fetchmail", ("fetchmail", *KERBEROS)),
    "unbound": Program("usr/sbin/unbound", ("unbound", "libevent-2.1-7", "libprotobuf-c1", "libpython3.11")),
    "opendkim": Program("usr/sbin/opendkim", OPENDKIM),
    "opendmarc": Program("usr/sbin/opendmarc", ("opendmarc", "libopendmarc2", "libmilter1.0.1", "libspf2-2")),
    "rspamd": Program("usr/bin/rspamd", ("rspamd", "libhyperscan5", "libluajit-5.1-2", "libsodium23", "libunwind8")),
    "slapd": Program("usr/sbin/slapd", ("slapd", "libodbc2", "libltdl7", "libwrap0")),
    "pg_ctl": Program(
        "usr/lib/postgresql/15/bin/pg_ctl",
        ("postgresql-15", "libpq5", "libicu72", "libldap-2.5-0", "libxml2", *KERBEROS),
    ),
    "dovecot": Program("usr/sbin/dovecot", DOVECOT),
    "doveadm": Program("usr/bin/doveadm", DOVECOT),
    "curl": Program("usr/bin/curl", ("curl", "libcurl4")),
    "systemd-analyze": Program("usr/bin/systemd-analyze", SYSTEMD),
    "systemd-socket-activate": Program("usr/bin/systemd-socket-activate", SYSTEMD),
}

SOURCES: dict[str, SourceFile] = {
    "arc_test_suite": SourceFile(
        "t/arc_test_suite/arc-draft-validation-tests.yml",
        "libmail-dkim-perl",
        {
            "1.20240923": "45de46f5dc4d23bcb6ad6401759881dd43968eab20e73f6f79d9557467de20ee",
            "1.20230212": "f1301a1bcc17b9cc2448c5937bb3bbeff4ba28f1d47ae4dd2004d65242e59a17",
        },
    ),
}
DOWNLOAD = Path("/usr/lib/apt/apt-helper")
"""A program of apt that fetches one file, by its digest."""


class AbsentError(Exception):
    """A program or file is not here and cannot be fetched; the text gives the reason."""


def find(name: str) -> str:
    """Return the path of a program; fetch it if necessary.

    Raises:
        AbsentError: it is not installed and cannot be fetched.
    """
    if found := shutil.which(name):
        return found
    program = PROGRAMS[name]
    if not all(_mark(package).exists() for package in program.packages):
        with _alone():
            _fetch(name, program)
    return str(PREFIX / "root" / program.path)


def find_source(name: str) -> Path:
    """Return the path of a file of a package's source; fetch it if necessary.

    Raises:
        AbsentError: it cannot be fetched.
    """
    source = SOURCES[name]
    path = PREFIX / "sources" / name / Path(source.path).name
    if not path.exists():
        with _alone():
            if not path.exists():
                _fetch_source(name, source, path)
    return path


def environment() -> dict[str, str]:
    """Return the environment that unpacked programs need: library paths, a configuration folder for Postfix, and the
    folder of systemd's own units."""
    root = PREFIX / "root"
    library = root / "usr" / "lib"
    shared = library / f"{os.uname().machine}-linux-gnu"  # may not exist yet
    folders = [library, *(library / name for name in ("postfix", "dovecot", "rspamd")), shared, shared / "systemd"]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(map(str, folders)),
        "MAIL_CONFIG": str(_postfix_configuration()),
        "SYSTEMD_UNIT_PATH": f"{root / 'lib/systemd/system'}:",  # and where an installed systemd has them
    }


def _postfix_configuration() -> Path:
    """Create the main.cf that smtp-sink and smtp-source read."""
    folder = PREFIX / "conf"
    if not (folder / "main.cf").exists():
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f"main.cf.{os.getpid()}"
        fresh.write_text("compatibility_level = 3.6\nmyhostname = peer.example\ninet_protocols = ipv4\n")
        fresh.replace(folder / "main.cf")
    return folder


@contextmanager
def _alone() -> Iterator[None]:
    """Hold a lock, because pytest's workers start together."""
    PREFIX.mkdir(parents=True, exist_ok=True)
    with (PREFIX / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _mark(package: str) -> Path:
    """The file that says that all files of a package are unpacked."""
    return PREFIX / "unpacked" / package


def _fetch(name: str, program: Program) -> None:
    """Unpack the packages that are not unpacked: other processes may be using the files of the others."""
    wanted = [package for package in program.packages if not _mark(package).exists()]
    if not wanted:
        return
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise AbsentError(f"{name} is not installed, and can only be fetched on a Debian system")
    folder = PREFIX / "packages"
    folder.mkdir(exist_ok=True)
    missing = [package for package in wanted if not any(folder.glob(f"{package}_*.deb"))]
    if missing:  # in one call, because each reads all package lists
        done = subprocess.run(
            ["apt-get", "-q", "download", *missing], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise AbsentError(f"{name}: {', '.join(missing)} cannot be fetched: {done.stderr.strip()}")
    for package in wanted:
        for found in folder.glob(f"{package}_*.deb"):
            subprocess.run(["dpkg-deb", "-x", found, PREFIX / "root"], check=True, capture_output=True)
        _mark(package).parent.mkdir(exist_ok=True)
        _mark(package).touch()


def _fetch_source(name: str, source: SourceFile, path: Path) -> None:
    """Fetch the file from the folder in which apt has the package: that of its source, in all versions."""
    if not DOWNLOAD.exists():
        raise AbsentError(f"{name} can only be fetched on a Debian system")
    done = subprocess.run(
        ["apt-get", "-q", "download", "--print-uris", source.package], capture_output=True, text=True, check=False
    )
    folder = re.match("'(.*)/", done.stdout)
    if folder is None:
        raise AbsentError(f"{name}: apt does not know {source.package}: {done.stderr.strip()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    for version, digest in source.archives.items():
        archive = path.parent / f"{source.package}_{version}.orig.tar.gz"
        done = subprocess.run(
            [DOWNLOAD, "download-file", f"{folder[1]}/{archive.name}", archive, f"SHA256:{digest}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if not done.returncode:
            _unpack(archive, source.path, path)
            return
    raise AbsentError(f"{name}: the source of {source.package} cannot be fetched: {done.stderr.strip()}")


def _unpack(archive: Path, name: str, path: Path) -> None:
    """Write one file of an archive to a path, where it appears complete."""
    with tarfile.open(archive) as opened:
        found = next(each for each in opened if each.name.partition("/")[2] == name)
        content = opened.extractfile(found)
        assert content is not None
        fresh = path.with_suffix(".fresh")
        fresh.write_bytes(content.read())
        fresh.replace(path)


def main() -> int:
    """Fetch everything; return 1 if something is missing."""
    missing = 0
    for get, names in ((find, PROGRAMS), (find_source, SOURCES)):
        for name in names:
            try:
                print(f"{name:14} {get(name)}")
            except AbsentError as reason:
                print(f"{name:14} {reason}", file=sys.stderr)
                missing = 1
    return missing


if __name__ == "__main__":
    sys.exit(main())
