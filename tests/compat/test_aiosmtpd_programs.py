"""Programs that were written for aiosmtpd, unmodified, on `ironpost.compat.aiosmtpd`."""

from __future__ import annotations

import importlib.util
import os
import re

import pytest
from tests.compat.test_judges import run
from tests.interop.conftest import free_port

ALIAS = "from ironpost.compat import aliases\naliases.install('aiosmtpd')\n"
OURS = "import aiosmtpd.smtp\nassert aiosmtpd.smtp.__name__ == 'ironpost.compat.aiosmtpd.smtp'\n"

LOCALSERVER = """
import smtplib

def test_mail(smtpserver):
    with smtplib.SMTP(*smtpserver.addr) as client:
        client.sendmail("ada@mail.example", ["jo@mx.example"], b"Subject: hello\\r\\n\\r\\nworld\\r\\n")
    assert len(smtpserver.outbox) == 1
    assert smtpserver.outbox[0]["Subject"] == "hello"
    assert smtpserver.outbox[0].details.rcpttos == ["jo@mx.example"]
"""

SMTPDFIX = """
import smtplib
import ssl

import pytest

@pytest.fixture
def client(smtpd):
    with smtplib.SMTP(smtpd.hostname, smtpd.port) as client:
        yield client

def mail(client):
    client.sendmail("ada@mail.example", ["jo@mx.example"], b"Subject: hello\\r\\n\\r\\nworld\\r\\n")

def test_mail(smtpd, client):
    mail(client)
    assert [(each["Subject"], each["X-RcptTo"]) for each in smtpd.messages] == [("hello", "jo@mx.example")]

@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "LOGIN"])
def test_login_under_starttls(smtpd, mechanism):
    smtpd.config.use_starttls = True
    smtpd.config.enforce_auth = True
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP(smtpd.hostname, smtpd.port) as client:
        client.starttls(context=context)
        with pytest.raises(smtplib.SMTPSenderRefused, match="530"):
            mail(client)
        client.user, client.password = smtpd.config.login_username, smtpd.config.login_password
        client.auth(mechanism, getattr(client, "auth_" + mechanism.lower().replace("-", "_")))
        mail(client)
    assert len(smtpd.messages) == 1
"""

AEMAIL = """
import json, os, smtplib, sys, threading, time, urllib.request

os.environ |= {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": sys.argv[1], "REST_PORT": sys.argv[2]}
from aemail.server import EmailServer

def fetch(path):
    url = f"http://127.0.0.1:{os.environ['REST_PORT']}{path}"
    while True:
        try:
            with urllib.request.urlopen(url, timeout=20) as response:
                return json.load(response)
        except OSError:
            assert thread.is_alive()

server = EmailServer()
thread = threading.Thread(target=server.start, daemon=True)
thread.start()
fetch("/all")
with smtplib.SMTP("127.0.0.1", int(os.environ["SMTP_PORT"])) as client:
    client.sendmail("ada@mail.example", ["jo@mx.example"], b"Subject: hello\\r\\n\\r\\nworld\\r\\n")
print("shown:", json.dumps(fetch("/to/jo@mx.example")))
server.stop()
"""

SMTP_PROXY = """
import functools, http.server, json, os, signal, smtplib, sys, threading

from smtp_proxy import smtp_proxy

class Api(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        print("forwarded:", self.rfile.read(int(self.headers["Content-Length"])).decode(), flush=True)
        self.send_response(202)
        self.end_headers()
        os.kill(os.getpid(), signal.SIGTERM)

def send():
    while True:
        try:
            client = smtplib.SMTP("127.0.0.1", int(sys.argv[1]))
        except ConnectionRefusedError:
            continue
        with client:
            client.sendmail("ada@mail.example", ["jo@mx.example"], b"Subject: hello\\r\\n\\r\\nworld\\r\\n")
        return

api = http.server.HTTPServer(("127.0.0.1", 0), Api)
threading.Thread(target=api.serve_forever, daemon=True).start()
smtp_proxy.SendgridAPI = functools.partial(smtp_proxy.SendgridAPI, endpoint=f"http://127.0.0.1:{api.server_port}")
threading.Thread(target=send, daemon=True).start()
options = ["--hostname", "127.0.0.1", "--port", sys.argv[1], "--sendgrid", "--sendgrid-api-key", "key"]
smtp_proxy.main(options, standalone_mode=False)
"""


def require(name: str) -> None:
    """Skip, except in CI, if a program is not installed."""
    if importlib.util.find_spec(name) is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed: it is in the extra `test`")
        pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize(
    ("package", "plugin", "tests", "count"),
    [
        ("pytest_localserver", "pytest_localserver.plugin", LOCALSERVER, 1),
        ("smtpdfix", "smtpdfix.fixture", SMTPDFIX, 3),
    ],
    ids=["pytest-localserver", "smtpdfix"],
)
def test_a_fixture_for_pytest(package: str, plugin: str, tests: str, count: int, tmp_path) -> None:
    require(package)
    (tmp_path / "alias.py").write_text(ALIAS + OURS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(tests)
    options = ["-q", "-p", "alias", "-p", plugin, "-p", "no:xdist", "-p", "no:cacheprovider"]
    output = run(tmp_path, "-m", "pytest", *options, plugins=False)
    assert re.search(rf"^{count} passed", output, re.MULTILINE), output[-4000:]


def test_a_catch_all_with_a_web_interface(tmp_path) -> None:
    require("aemail")
    output = run(tmp_path, "-c", ALIAS + AEMAIL + OURS, str(free_port()), str(free_port()))
    assert re.search(r'^shown: .*"hello"', output, re.MULTILINE), output[-4000:]


def test_a_server_that_forwards_to_a_web_service(tmp_path) -> None:
    require("smtp_proxy")
    output = run(tmp_path, "-c", ALIAS + SMTP_PROXY + OURS, str(free_port()))
    assert re.search(r'^forwarded: .*"subject": ?"hello"', output, re.MULTILINE), output[-4000:]
