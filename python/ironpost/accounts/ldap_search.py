"""A process that searches an LDAP directory for `accounts.records_ldap`.

bonsai holds the interpreter lock while it connects, for minutes if the server accepts a connection and then is silent,
so no thread of the mail server may call it. The first line of standard input has the settings, each further one a
filter; each of these gets a line of standard output, with the entries or an error. The connection is opened again after
the server has closed it. The process ends with its input, or is killed when a search takes too long.

This module is run by the path of its file, so it imports nothing of ironpost.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import bonsai


class Searches:
    """The connection to one server."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """Use the settings of `records_ldap.LdapRecords`."""
        self._client = bonsai.LDAPClient(settings["url"], settings["starttls"])
        self._client.set_cert_policy("demand")
        if settings["ca"] is not None:
            self._client.set_ca_cert(settings["ca"])
        if settings["bind_dn"] is not None:
            self._client.set_credentials("SIMPLE", settings["bind_dn"], settings["password"])
        self._base: str = settings["base"]
        self._attributes: list[str] = settings["attributes"]
        self._most: int = settings["most"]
        self._connection: Any = None

    def run(self, wanted: str) -> list[dict[str, list[Any]]]:
        """Return the attributes of the entries that match a filter.

        Raises:
            bonsai.LDAPError: the server cannot be reached, or refuses.
            LookupError: the base cannot be read.
        """
        if self._connection is not None:
            try:
                return self._search(wanted)
            except (bonsai.ConnectionError, bonsai.ClosedConnection):
                pass  # the server has closed it meanwhile
        self._connection = self._client.connect()
        return self._search(wanted)

    def _search(self, wanted: str) -> list[dict[str, list[Any]]]:
        found = self._connection.search(
            self._base, bonsai.LDAPSearchScope.SUBTREE, wanted, self._attributes, sizelimit=self._most
        )
        # bonsai finds nothing below a base that is missing, or hidden from this login.
        if not found and not self._connection.search(self._base, bonsai.LDAPSearchScope.BASE, attrlist=["1.1"]):
            raise LookupError(f"there is no entry {self._base}, or this login may not read it")
        return [{name: list(entry.get(name, ())) for name in self._attributes} for entry in found]


def main() -> None:
    """Answer searches until standard input ends."""
    searches = Searches(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        answer: dict[str, object]
        try:
            answer = {"entries": searches.run(json.loads(line))}
        except (bonsai.LDAPError, LookupError) as error:
            answer = {"error": str(error)}
        print(json.dumps(answer, default=repr), flush=True)  # a value that is not text is bytes


if __name__ == "__main__":
    main()
