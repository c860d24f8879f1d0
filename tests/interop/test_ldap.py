"""Mailboxes and aliases in OpenLDAP's slapd."""

from __future__ import annotations

import asyncio
import gc
import os
import smtplib
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from tests.authority import issue

from ironpost.accounts.record_sources import SourceContext
from ironpost.accounts.records_cache import CacheOptions, RecordCache
from ironpost.accounts.records_ldap import PROGRAM, LdapOptions, LdapRecords
from ironpost.model import Address
from ironpost.model.options import Seconds
from ironpost.processes.clock import SystemClock
from ironpost.routing.directory import DirectoryError
from ironpost.routing.profile import SecretSource
from ironpost.routing.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

if not os.environ.get("CI"):
    pytest.importorskip("bonsai", reason="bonsai is not installed: pip install '.[ldap]'")

BASE = "dc=mail,dc=example"
ADMIN = f"cn=admin,{BASE}"
FILTER = "(|(mail={key})(&(objectClass=nisMailAlias)(cn={key})))"
ATTRIBUTES = {"targets": "rfc822MailMember", "disabled": "employeeType"}
LITERAL = r"a*b(c)\d@mail.example"
PEOPLE = f"""
dn: {BASE}
objectClass: dcObject
objectClass: organization
dc: mail
o: Mail

dn: uid=ada,{BASE}
objectClass: inetOrgPerson
uid: ada
cn: Ada
sn: Ada
mail: Ada@mail.example

dn: uid=left,{BASE}
objectClass: inetOrgPerson
uid: left
cn: Left
sn: Left
mail: left@mail.example
employeeType: TRUE

dn: uid=literal,{BASE}
objectClass: inetOrgPerson
uid: literal
cn: Literal
sn: Literal
mail: {LITERAL}

dn: cn=team@mail.example,{BASE}
objectClass: nisMailAlias
cn: team@mail.example
rfc822MailMember: ada@mail.example
rfc822MailMember: bob@other.example

dn: cn=@mail.example,{BASE}
objectClass: nisMailAlias
cn: @mail.example
rfc822MailMember: ada@mail.example
"""


class Slapd:
    """One slapd; nobody may search without a login."""

    def __init__(self, program: str, folder: Path, prefix: Path, env: dict[str, str], port: Callable[[], int]) -> None:
        self._program, self._folder, self._env = program, folder, env
        self.certificate = issue("localhost", "127.0.0.1")
        self.certificate.write(folder / "ca.pem", folder / "key.pem")
        (folder / "password").write_text("secret\n")
        self.ldap, self.ldaps = (f"{scheme}://127.0.0.1:{port()}" for scheme in ("ldap", "ldaps"))
        self.ldapi = "ldapi://" + quote(str(folder / "Socket"), safe="")
        schema = prefix / "root/etc/ldap/schema"
        schema = schema if schema.is_dir() else Path("/etc/ldap/schema")
        includes = "".join(f"include {schema}/{name}.schema\n" for name in ("core", "cosine", "inetorgperson", "misc"))
        (folder / "db").mkdir()
        (folder / "slapd.conf").write_text(f"""{includes}
pidfile {folder}/pid
TLSCertificateFile {folder}/ca.pem
TLSCertificateKeyFile {folder}/key.pem
database ldif
suffix "{BASE}"
directory {folder}/db
rootdn "{ADMIN}"
rootpw secret
access to * by users read by anonymous auth
""")
        (folder / "people.ldif").write_text(PEOPLE)
        self._run("-T", "add", "-l", str(folder / "people.ldif"))
        self._process: subprocess.Popen[bytes] | None = None

    def options(self, **more: Any) -> LdapOptions:
        secret = SecretSource("file", str(self._folder / "password"))
        given = {"url": self.ldap, "base": BASE, "filter": FILTER, "attributes": ATTRIBUTES,
                 "bind_dn": ADMIN, "password": secret, **more}  # fmt: skip
        return LdapOptions(**given)

    def start(self) -> None:
        urls = f"{self.ldap} {self.ldaps} {self.ldapi}"
        log = (self._folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [self._program, "-f", self._folder / "slapd.conf", "-h", urls, "-d", "0"],
                env=self._env, stdout=log, stderr=log,
            )  # fmt: skip

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(
            [self._program, *arguments, "-f", self._folder / "slapd.conf"],
            env=self._env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@pytest.fixture
def slapd(
    program: Callable[[str], str], tmp_path: Path, peers_prefix: Path, proxied: dict[str, str],
    listening: Callable[..., bool], free: Callable[[], int],
) -> Iterator[Slapd]:  # fmt: skip
    """A running slapd."""
    server = Slapd(program("slapd"), tmp_path, peers_prefix, proxied, free)
    gc.collect()  # sources of other tests, whose processes would be counted
    server.start()
    assert listening(server.process, int(server.ldap.rpartition(":")[2])), (tmp_path / "log").read_text()
    yield server
    server.stop()


def opened(options: LdapOptions) -> LdapRecords:
    return options.open(SourceContext(SystemClock(), Path()))


def looked_up(options: LdapOptions, *keys: str) -> list[Record | None]:
    async def main() -> list[Record | None]:
        async with asyncio.timeout(30):
            source = opened(options)
            return [await source.lookup(key) for key in keys]

    return asyncio.run(main())


def test_entries_are_records(slapd: Slapd) -> None:
    ada, bob = Address.parse("ada@mail.example"), Address.parse("bob@other.example")
    names = [f"{name}@mail.example" for name in ("ada", "left", "team", "", "nobody")]
    where = slapd.ldap
    assert looked_up(slapd.options(), *names) == [
        Record(where), Record(where, disabled=True), Record(where, (ada, bob)), Record(where, (ada,)), None,
    ]  # fmt: skip
    assert looked_up(slapd.options(attributes={}, filter="(uid={local})"), *names) == [
        Record(where), Record(where), None, None, None,
    ]  # fmt: skip


def test_r42_a_key_is_a_value_and_never_syntax(slapd: Slapd) -> None:
    everybody = "(|(mail={key})(uid={local})(cn={local}@{domain}))"
    hostile = (
        "*",
        "a*",
        "*)(uid=*",
        "x)(|(uid=*",
        "x))(|(uid=*)",
        "\\2a",
        "a\\64a",
        "\0",
        "a\0da",
        "ada\0",
        "(uid=ada)",
    )
    keys = [f"{local}@mail.example" for local in hostile]
    assert looked_up(slapd.options(filter=everybody), *keys, "*@*") == [None] * (len(keys) + 1)
    assert looked_up(slapd.options(), LITERAL, LITERAL.replace("*", "")) == [Record(slapd.ldap), None]


@pytest.mark.parametrize("transport", ["starttls", "ldaps", "ldapi"])
def test_each_transport_works(slapd: Slapd, tmp_path: Path, transport: str) -> None:
    more: dict[str, Any] = {"ca": tmp_path / "ca.pem"}
    more |= {"starttls": True} if transport == "starttls" else {"url": getattr(slapd, transport)}
    assert looked_up(slapd.options(**more), "ada@mail.example", "eve@mail.example")[1] is None


@pytest.mark.parametrize("transport", ["starttls", "ldaps"])
def test_r13_a_server_that_cannot_be_verified_gets_no_password(slapd: Slapd, tmp_path: Path, transport: str) -> None:
    issue("localhost", "127.0.0.1").write(tmp_path / "other.pem", tmp_path / "other.key")
    more: dict[str, Any] = {"ca": tmp_path / "other.pem"}
    more |= {"starttls": True} if transport == "starttls" else {"url": slapd.ldaps}
    with pytest.raises(DirectoryError):
        looked_up(slapd.options(**more), "ada@mail.example")


def test_what_the_server_refuses_is_an_error(slapd: Slapd, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("wrong\n")
    for more in (
        {"password": SecretSource("file", str(tmp_path / "wrong"))},
        {"bind_dn": None, "password": None},
        {"base": "dc=other,dc=example"},
    ):
        with pytest.raises(DirectoryError, match=slapd.ldap):
            looked_up(slapd.options(**more), "ada@mail.example")


def test_a_server_that_is_down_is_an_error_and_is_found_again(slapd: Slapd, listening: Callable[..., bool]) -> None:
    async def main() -> None:
        source = opened(slapd.options())
        assert await source.lookup("ada@mail.example") is not None
        await asyncio.to_thread(slapd.stop)
        with pytest.raises(DirectoryError):
            await source.lookup("ada@mail.example")
        slapd.start()
        assert await asyncio.to_thread(listening, slapd.process, int(slapd.ldap.rpartition(":")[2]))
        assert await source.lookup("ada@mail.example") is not None
        assert len(searches(os.getpid())) == 1

    asyncio.run(main())


@pytest.mark.parametrize("scheme", ["ldap", "ldaps"])
def test_a_server_that_is_silent_does_not_stop_the_event_loop(slapd: Slapd, tmp_path: Path, scheme: str) -> None:
    async def main(port: int) -> None:
        source = opened(slapd.options(url=f"{scheme}://127.0.0.1:{port}", ca=tmp_path / "ca.pem"))
        times = CacheOptions(timeout=Seconds(2.0))
        cache = RecordCache(source, "people", SystemClock(), times)
        asked = asyncio.ensure_future(cache.lookup("ada@mail.example"))
        turns = 0
        while not asked.done():
            await asyncio.wait([asked], timeout=0.01)
            turns += 1
        with pytest.raises(DirectoryError, match="people: no answer after 2 s"):
            asked.result()
        assert turns > 3  # else the loop was blocked until the end

    with socket.create_server(("127.0.0.1", 0)) as silent:
        asyncio.run(main(silent.getsockname()[1]))
    assert searches(os.getpid()) == []


def test_processes_end_with_their_source(slapd: Slapd) -> None:
    async def main() -> None:
        source = opened(slapd.options())
        found = await asyncio.gather(*(source.lookup("ada@mail.example") for _ in range(10)))
        assert found == [Record(slapd.ldap)] * 10
        assert len(searches(os.getpid())) == 4

    asyncio.run(main())
    gc.collect()
    assert searches(os.getpid()) == []


def test_a_server_uses_the_directory(slapd: Slapd, serve: Callable[..., Any], tmp_path: Path) -> None:
    server = serve(f"""
[local]
domains = ["mail.example"]
[directory]
cache = "0s"
cache_missing = "0s"
[[directory.ldap]]
url = "{slapd.ldap}"
base = "{BASE}"
filter = "(mail={{key}})"
attributes = {{ disabled = "employeeType" }}
bind_dn = "{ADMIN}"
password = "file:{tmp_path}/password"
""")

    def replies() -> list[int]:
        with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
            client.ehlo()
            client.mail("jo@client.example")
            return [client.rcpt(f"{name}@mail.example")[0] for name in ("ada", "left", "nobody", "*", "postmaster")]

    assert replies() == [250, 550, 550, 550, 250]
    (before,) = searches(server.process.pid)
    assert server.run("reload", "-c", str(server.file)).returncode == 0
    assert replies() == [250, 550, 550, 550, 250]
    (process,) = searches(server.process.pid)
    assert process != before
    slapd.stop()
    assert replies() == [451] * 5
    assert server.stop() == 0
    assert not Path(f"/proc/{process}").exists()


def searches(parent: int) -> list[int]:
    """The search processes of a process."""
    children = [
        each for task in Path(f"/proc/{parent}/task").iterdir() for each in (task / "children").read_text().split()
    ]
    return [int(each) for each in children if str(PROGRAM).encode() in Path(f"/proc/{each}/cmdline").read_bytes()]
