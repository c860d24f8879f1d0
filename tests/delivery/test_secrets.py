"""Access tokens: what a program or a file may print, their expiry, and programs that hang, flood or fail (R40)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ironpost.delivery import programs, secrets
from ironpost.delivery.secrets import SecretError, Token, Tokens
from ironpost.routing.profile import SecretSource, TokenCommand

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
with contextlib.suppress(ImportError):
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop


def run(main: Callable[[], Awaitable[None]], loop: str = "asyncio") -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(bounded())


def program(code: str, **options: object) -> TokenCommand:
    return TokenCommand((sys.executable, "-I", "-c", code), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("printed", "token"),
    [
        ("abc.DEF-1~2_3/+==", "abc.DEF-1~2_3/+=="),
        ("abc\n", "abc"),
        ('{"access_token": "abc"}', "abc"),
        ('{"token_type": "Bearer", "expires_in": 3599, "access_token": "abc"}\n', "abc"),
        ('{"access_token": "abc", "expires_in": "60"}', "abc"),
    ],
)
def test_what_is_printed_is_the_token(printed: str, token: str, loop: str) -> None:
    async def main() -> None:
        tokens = Tokens(program(f"print({printed!r}, end='')"))
        assert await tokens.get() == (token, True)
        assert await tokens.get() == (token, False)

    run(main, loop)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("", "it contains no access token"),
        ("print('two words')", "it contains no access token"),
        ("print('a\\r\\nRCPT TO:<x@y.example>')", "it contains no access token"),
        ("print('{}')", "it contains no access token"),
        ("print('{\"access_token\": 5}')", "it contains no access token"),
        ('print(\'{"access_token": "a", "expires_in": "soon"}\')', "expected a token, or JSON"),
        ("print('{' * 5000)", "expected a token, or JSON"),
        ("import sys; sys.stdout.buffer.write(b'\\xff')", "its output is not UTF-8"),
        ("print('secret'); raise SystemExit(3)", "it exited with 3"),
        ("import os; os.kill(os.getpid(), 9)", "it exited with -9"),
        ("print('x' * 70000)", "it printed more than 65536 octets"),
        ("while True: print('x' * 9999)", "it printed more than 65536 octets"),
    ],
)
def test_r40_what_a_program_must_not_do_is_an_error_without_its_output(code: str, reason: str) -> None:
    async def main() -> None:
        with pytest.raises(SecretError) as caught:
            await Tokens(program(code)).get()
        assert str(caught.value) == f"command {sys.executable}: {reason}" or reason in str(caught.value)
        assert "secret" not in str(caught.value)

    run(main)


@pytest.mark.parametrize("loop", LOOPS)
def test_r40_a_program_that_hangs_is_killed_with_its_children(tmp_path: Path, loop: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    child = f"import time; end = open({str(fifo)!r}, 'wb', 0); end.write(b'x'); time.sleep(600)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-c', {child!r}])"

    async def main() -> None:
        end = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        try:
            with pytest.raises(SecretError, match="did not finish within 5 seconds"):
                await Tokens(program(code, timeout=5.0)).get()
            os.set_blocking(end, True)
            assert os.read(end, 1) == b"x", "the child was started"
            assert os.read(end, 1) == b"", "the child that had it open has ended"
        finally:
            os.close(end)

    run(main, loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_r40_a_child_that_left_the_session_and_keeps_the_output_open_delays_nothing(
    tmp_path: Path, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program exited with success, so its output counts; no descriptor is left open."""
    monkeypatch.setattr(programs, "END_SECONDS", 0.05)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    child = f"import sys; open({str(fifo)!r}, 'rb').read()"
    code = (
        "import subprocess, sys; "
        f"subprocess.Popen([sys.executable, '-I', '-c', {child!r}], start_new_session=True); print('abc')"
    )

    async def main() -> None:
        await Tokens(program("print('abc')")).get()  # opens what the loop keeps
        before = len(list(Path("/dev/fd").iterdir()))
        assert (await Tokens(program(code)).get()).text == "abc"
        await asyncio.sleep(0)
        assert len(list(Path("/dev/fd").iterdir())) == before
        await asyncio.to_thread(lambda: fifo.open("wb").close())  # the child ends

    run(main, loop)


def test_a_program_that_does_not_exist_is_named() -> None:
    async def main() -> None:
        with pytest.raises(SecretError, match=r"command /no/such/program: No such file"):
            await Tokens(TokenCommand(("/no/such/program",))).get()

    run(main)


def test_r40_arguments_are_not_read_by_a_shell() -> None:
    async def main() -> None:
        code = "import sys; print(sys.argv[1].encode().hex())"
        tokens = Tokens(TokenCommand((sys.executable, "-I", "-c", code, "$(id); `id` | x > y")))
        assert bytes.fromhex((await tokens.get()).text) == b"$(id); `id` | x > y"

    run(main)


def test_an_expiry_beyond_any_number_is_an_error() -> None:
    async def main() -> None:
        with pytest.raises(SecretError, match="expected a token, or JSON"):
            await Tokens(program("""print('{"access_token": "abc", "expires_in": 1' + '0' * 400 + '}')""")).get()

    run(main)


def test_one_program_runs_at_a_time_and_all_get_its_result(tmp_path: Path) -> None:
    count = tmp_path / "count"
    code = f"open({str(count)!r}, 'a').write('x'); print('abc')"

    async def main() -> None:
        tokens = Tokens(program(code))
        waiting = [asyncio.ensure_future(tokens.get()) for _ in range(20)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # who asked first does not take the result away from the others
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert results[1:] == [Token("abc", new=True)] * 19
        assert count.read_text() == "x"
        tokens.rejected("another")
        assert not (await tokens.get()).new
        tokens.rejected("abc")
        assert (await tokens.get()).new
        assert count.read_text() == "xx"

    run(main)


@pytest.mark.parametrize(("lifetime", "kept"), [(3600, 3540), (100, 50), (0, 1)])
def test_a_token_is_renewed_before_it_expires(lifetime: int, kept: float) -> None:
    async def main() -> None:
        now = 1000.0
        tokens = Tokens(program(f"""print('{{"access_token": "abc", "expires_in": {lifetime}}}')"""), lambda: now)
        await tokens.get()
        now += kept - 0.1
        assert not (await tokens.get()).new
        now += 0.1
        assert (await tokens.get()).new

    run(main)


def test_a_file_is_read_for_each_login_and_a_variable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"

    async def main() -> None:
        tokens = Tokens(SecretSource("file", str(path)))
        for text in ("abc\n", '{"access_token": "def", "expires_in": 3600}'):
            path.write_text(text)
            assert (await tokens.get()).text in {"abc", "def"}
        assert (await tokens.get()).text == "def"
        monkeypatch.setenv("IRONPOST_TEST_TOKEN", "ghi")
        assert (await Tokens(SecretSource("env", "IRONPOST_TEST_TOKEN")).get()).text == "ghi"

    run(main)


def test_closing_ends_a_program_that_runs(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def main() -> None:
        tokens = Tokens(program(f"import time; end = open({str(fifo)!r}, 'wb', 0); end.write(b'x'); time.sleep(600)"))
        getting = asyncio.ensure_future(tokens.get())
        with await asyncio.to_thread(fifo.open, "rb") as end:
            await asyncio.to_thread(end.read, 1)
            await tokens.close()
            with pytest.raises(asyncio.CancelledError):
                await getting
            assert await asyncio.to_thread(end.read) == b""

    run(main)


def test_secrets_are_not_shown() -> None:
    assert "abc" not in repr(Token("abc", new=True))
    assert secrets.SECRET_OCTETS == 65536
