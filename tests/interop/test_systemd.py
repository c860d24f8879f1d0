"""The units in docs/systemd: systemd accepts them, and starts the server with the sockets that they open."""

from __future__ import annotations

import re
import smtplib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

UNITS = Path(__file__).resolve().parents[2] / "docs" / "systemd"


@pytest.fixture
def analyze(program: Callable[[str], str], proxied: dict[str, str], tmp_path: Path) -> Callable[..., str]:
    """Run a command of systemd-analyze on the units; return what it says about them."""
    found = program("systemd-analyze")
    units = []
    for unit in UNITS.iterdir():
        units.append(tmp_path / unit.name.replace("@", "@25"))
        units[-1].write_text(unit.read_text().replace("/opt/ironpost/bin/ironpost", "/bin/true"))

    def run(*command: str, only: str = "") -> str:
        chosen = [str(unit) for unit in units if not only or unit.name == only]
        done = subprocess.run([found, *command, *chosen], env=proxied, capture_output=True, text=True, check=False)
        lines = (done.stdout + done.stderr).splitlines()
        return "\n".join(line for line in lines if re.search(r"ironpost(@25|-backup)?\.(service|socket|timer)", line))

    return run


def test_systemd_accepts_the_units(analyze: Callable[..., str]) -> None:
    assert analyze("verify") == ""


def test_the_service_has_few_rights(analyze: Callable[..., str]) -> None:
    said = analyze("security", "--offline=yes", only="ironpost.service")
    exposure = re.search(r"exposure level for ironpost.service: (\d+\.\d+)", said)
    assert exposure, said
    assert float(exposure[1]) < 2.0  # of 10.0


def test_the_server_listens_on_the_sockets_of_the_units(
    activated: Callable[..., dict[str, int]], tmp_path: Path
) -> None:
    file = tmp_path / "ironpost.toml"
    file.write_text(
        f'data = "{tmp_path / "data"}"\n'
        '[[listener]]\nrole = "mx"\nlisten = ["fd:25"]\n[[listener]]\nrole = "submission"\nlisten = ["fd:587"]\n'
    )
    ports = activated(file, "25", "587")
    with smtplib.SMTP("127.0.0.1", ports["25"], "client.example", timeout=60) as client:
        client.ehlo()
        assert not client.has_extn("auth")
        client.sendmail("a@client.example", ["jo@localhost"], b"Subject: x\r\n\r\nx\r\n")
    with smtplib.SMTP("127.0.0.1", ports["587"], "client.example", timeout=60) as client:
        client.ehlo()
        with pytest.raises(smtplib.SMTPSenderRefused) as refused:
            client.sendmail("a@localhost", ["jo@localhost"], b"Subject: x\r\n\r\nx\r\n")
        assert refused.value.smtp_code == 530
