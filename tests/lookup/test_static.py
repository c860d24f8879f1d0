"""The resolver from a table keeps data, NODATA, NXDOMAIN and silence apart."""

from __future__ import annotations

import asyncio

import pytest

from ironpost.lookup.static import StaticResolver
from ironpost.model.ports import MX, Answer, ResolverError

RESOLVER = StaticResolver(
    mx={"A.example": [(10, "mx.a.example."), (20, "mx2.a.example")], "null.example": [(0, ".")]},
    addresses={"mx.a.example": ["192.0.2.1"], "empty.example": []},
    failing=["dead.example"],
)


def test_answers() -> None:
    def mx(name: str) -> Answer:
        return asyncio.run(RESOLVER.mx(name))

    assert mx("a.EXAMPLE.") == Answer(True, exchangers=(MX(10, "mx.a.example"), MX(20, "mx2.a.example")))
    assert mx("null.example") == Answer(True, exchangers=(MX(0, ""),))
    assert mx("mx.a.example") == Answer(True)
    assert mx("nowhere.example") == Answer(False)
    assert asyncio.run(RESOLVER.addresses("MX.a.example")).addresses == ("192.0.2.1",)
    assert asyncio.run(RESOLVER.addresses("empty.example")) == Answer(True)
    assert asyncio.run(RESOLVER.addresses("nowhere.example")) == Answer(False)


def test_r27_silence_is_an_error() -> None:
    with pytest.raises(ResolverError):
        asyncio.run(RESOLVER.mx("dead.example"))
    with pytest.raises(ResolverError):
        asyncio.run(RESOLVER.addresses("Dead.example."))
