"""rspamd from `peers`, configured in a folder to check signatures of DKIM and nothing else, for the interop tests.

Promises: it runs in the foreground, listens on 127.0.0.1 only, and asks one resolver. It takes a message by HTTP, `POST
/checkv2`, and answers with the symbols that it found, as JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import peers
from mtas import Ready

if TYPE_CHECKING:
    from pathlib import Path


def configure(folder: Path, port: int, dns: int) -> Ready:
    """Configure rspamd.

    Args:
        folder: for its files; created if necessary.
        port: where it listens.
        dns: the port of 127.0.0.1 where the resolver listens.
    """
    program = peers.find("rspamd")
    folder.mkdir(parents=True, exist_ok=True)
    domains = folder / "domains"
    domains.write_text("test\n")  # it compiles the public suffixes, and takes seconds for all of them
    file = folder / "rspamd.conf"
    file.write_text(f"""options {{
  filters = "dkim";
  url_tld = "{domains}";
  local_addrs = [];
  dns {{ nameserver = ["127.0.0.1:{dns}"]; timeout = 5s; }}
}}
logging {{ type = "console"; }}
worker "normal" {{ bind_socket = "127.0.0.1:{port}"; count = 1; }}
dkim {{}}
""")
    shared = peers.PREFIX / "root/usr/share/rspamd"
    if not shared.exists():  # rspamd is installed
        return Ready([program, "-f", "-i", "-c", str(file), f"--var=DBDIR={folder}"], peers.environment())
    variables = {"DBDIR": folder, "LUALIBDIR": shared / "lualib", "RULESDIR": shared / "rules"}
    options = [f"--var={name}={value}" for name, value in variables.items()]
    return Ready([program, "-f", "-i", "-c", str(file), *options], peers.environment())
