"""What both twins promise beside the vectors: inputs, misuse, the chooser, the stub, what an import costs."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import sysconfig
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.wire import interface
from ironpost.wire.interface import FAULTS, Ehlo, Limits, Mailbox, Reply, WireFault

if TYPE_CHECKING:
    from types import ModuleType

PACKAGE = Path(interface.__file__).parent
ROOT = Path(__file__).resolve().parents[2]


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a program in a fresh interpreter that finds the same package."""
    path = os.pathsep.join([str(PACKAGE.parents[1]), os.environ.get("PYTHONPATH", "")])
    clean = {name: value for name, value in os.environ.items() if name != "IRONPOST_WIRE"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**clean, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


# ---------------------------------------------------------------------------------------------------------------------
# The package


def test_the_package_loads_nothing_else(wire: ModuleType) -> None:
    done = python(
        "import sys, ironpost.wire\n"
        "ours = {name for name in sys.modules if name.startswith('ironpost.')}\n"
        "loaded = {name for name in ours if not name.startswith('ironpost.wire')}\n"
        "print(sorted(loaded | ({'asyncio', 'socket', 'ssl'} & set(sys.modules))))",
        IRONPOST_WIRE=wire.IMPLEMENTATION,
    )
    assert done.stdout == "[]\n", done.stderr


def test_the_chooser_publishes_its_choice(wire: ModuleType) -> None:
    program = "import ironpost.wire as w; print(w.IMPLEMENTATION, w.parse_command.__module__)"
    done = python(program, IRONPOST_WIRE=wire.IMPLEMENTATION)
    assert done.stdout.split()[0] == wire.IMPLEMENTATION, done.stderr


def test_the_chooser_prefers_native_and_falls_back(wire: ModuleType) -> None:
    native_missing = "import sys; sys.modules['ironpost.wire._native'] = None\n" * (wire.IMPLEMENTATION == "pure")
    done = python(native_missing + "import ironpost.wire as w; print(w.IMPLEMENTATION)")
    assert done.stdout.strip() == wire.IMPLEMENTATION, done.stderr


def test_the_chooser_is_strict() -> None:
    done = python("import ironpost.wire", IRONPOST_WIRE="fast")
    assert done.returncode == 1
    assert "ImportError: IRONPOST_WIRE must be" in done.stderr
    hidden = "import sys; sys.modules['ironpost.wire._native'] = None; import ironpost.wire"
    done = python(hidden, IRONPOST_WIRE="native")
    assert done.returncode == 1
    assert "ModuleNotFoundError: import of ironpost.wire._native" in done.stderr


def test_the_package_exports_what_both_implement(wire: ModuleType) -> None:
    import ironpost.wire as package

    names = {name for name in package.__all__ if not hasattr(interface, name)}
    assert names <= {name for name in vars(wire) if not name.startswith("_")}
    assert {name for name in package.__all__ if not hasattr(package, name)} == set()


def test_the_catalogue_is_the_same(wire: ModuleType) -> None:
    assert wire.faults() == FAULTS
    assert list(wire.faults()) == list(FAULTS)


def test_the_stub_tells_the_truth(wire: ModuleType, tmp_path: Path) -> None:
    """One stub for both. PyO3 makes objects in `__new__` where Python has `__init__`; pure has further modules."""
    stub = (PACKAGE / "_native.pyi").read_text()
    if wire.IMPLEMENTATION == "pure":
        stub = re.sub(
            r"def __new__\(\s*cls,\s*(.*?)\s*\) -> Self:", r"def __init__(self, \1) -> None:", stub, flags=re.DOTALL
        )
    folder = tmp_path / "stubs" / "ironpost" / "wire"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.pyi").touch()
    (folder / "interface.pyi").write_text((PACKAGE / "interface.py").read_text())
    (folder / f"{wire.__name__.rpartition('.')[2]}.pyi").write_text(stub)
    allowed = tmp_path / "allowed"
    modules = "|".join(path.stem for path in (PACKAGE / "pure").glob("[a-z]*.py"))
    allowed.write_text(rf"ironpost\.wire\.pure\.({modules})" + "\n")
    path = os.pathsep.join([str(PACKAGE.parents[1]), os.environ.get("PYTHONPATH", "")])
    options = ["--allowlist", str(allowed), "--ignore-unused-allowlist"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", wire.__name__, *options],
        env={**os.environ, "PYTHONPATH": path, "MYPYPATH": str(tmp_path / "stubs")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_core_declares_that_it_needs_no_lock(twins: tuple[ModuleType, ModuleType]) -> None:
    """On a free-threaded interpreter the import leaves the lock off; elsewhere the source is read."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        assert not sys._is_gil_enabled()  # type: ignore[attr-defined]
        return
    source = ROOT / "src" / "py" / "mod.rs"
    assert re.search(r"#\[pymodule\(.*gil_used = false", source.read_text())


def test_threads_use_one_decoder_and_many(wire: ModuleType) -> None:
    """A shared decoder does not crash and counts every octet; separate decoders per thread decode correctly."""
    shared = wire.DataDecoder()
    block = b"x" * 998 + b"\r\n"
    lock = threading.Lock()
    failures: list[Any] = []

    def work() -> None:
        own = wire.DataDecoder()
        framer = wire.ServerFramer()
        for _ in range(200):
            if wire.IMPLEMENTATION == "pure":
                with lock:
                    shared.feed(block)
            else:
                feed_shared(shared, block)
            if own.feed(block) != (block, len(block), False) or len(framer.feed(b"NOOP\r\n" * 5)) != 5:
                failures.append(own)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert shared.size == 4 * 200 * len(block)


def feed_shared(decoder: Any, block: bytes) -> None:
    """A native object refuses to be used by two threads at once; the caller tries again."""
    while True:
        try:
            decoder.feed(block)
        except RuntimeError:
            continue
        return


# ---------------------------------------------------------------------------------------------------------------------
# Values and misuse


def test_values_are_those_of_the_interface(wire: ModuleType) -> None:
    framer = wire.ServerFramer()
    command, body, end = framer.feed(b"BDAT 1 LAST\r\na")
    assert type(command) is interface.Command
    assert type(command.chunk) is interface.Chunk
    assert type(body) is bytes
    assert type(end) is interface.BodyEnd
    assert type(framer.feed(b"\n")[0]) is interface.Fault
    assert type(wire.parse_command(b"MAIL FROM:<a@b.example>").path) is interface.Mailbox
    reply = wire.parse_reply(b"250 a")
    assert type(reply) is interface.Reply
    assert type(reply.lines) is tuple
    assert type(wire.parse_ehlo(reply)) is Ehlo
    section = wire.scan_header(b"A: b\r\n")
    assert type(section) is interface.HeaderSection
    assert type(section.fields[0]) is interface.HeaderField


def test_the_null_path_and_postmaster_can_be_written(wire: ModuleType) -> None:
    assert wire.format_mailbox(Mailbox("", "")) == ""
    assert wire.format_mailbox(Mailbox("Postmaster", "")) == "Postmaster"
    with pytest.raises(WireFault) as caught:
        wire.format_mailbox(Mailbox("a", ""))
    assert (caught.value.id, caught.value.offset) == ("domain-empty", 0)


def test_a_mailbox_that_no_path_can_hold_is_not_written(wire: ModuleType) -> None:
    for mailbox, fault in (
        (Mailbox("a\nb", "b.example"), ("quoted-string-malformed", 1)),
        (Mailbox("a\x7f", "b.example"), ("quoted-string-malformed", 1)),
        (Mailbox("a", "b..example"), ("domain-malformed", 2)),
        (Mailbox("a", "[192.0.2.1"), ("literal-unclosed", 10)),
        (Mailbox("é\0", "b.example"), ("quoted-string-malformed", 2)),
    ):
        with pytest.raises(WireFault) as caught:
            wire.format_mailbox(mailbox)
        assert (caught.value.id, caught.value.offset) == fault


def test_f27_leniency_is_asked_for_by_name(wire: ModuleType) -> None:
    line = b"MAIL FROM:<.a@b_c.example>"
    for call in (wire.parse_command, wire.ServerFramer, wire.parse_mailbox, wire.format_mailbox):
        assert inspect.signature(call).parameters["lenient"].default is False
        assert inspect.signature(call).parameters["lenient"].kind is inspect.Parameter.KEYWORD_ONLY
    with pytest.raises(TypeError):
        wire.parse_command(line, True)
    assert set(wire.parse_command(line, lenient=True).tolerated) == set(interface.TOLERATED)
    assert wire.parse_command(b"NOOP", lenient=True).tolerated == ()
    assert wire.format_mailbox(Mailbox(".a", "b.example")) == '".a"@b.example'
    with pytest.raises(WireFault):
        wire.format_mailbox(Mailbox("a", "b_c.example"))


def test_replies_are_written_as_the_rfc_has_them(wire: ModuleType) -> None:
    """RFC 5321 §4.2.1, RFC 2034 §4."""
    write = wire.format_reply
    assert write(250, None, ["OK"]) == b"250 OK\r\n"
    assert write(250, None, ["First line", b"Second line", "The last line"]) == (
        b"250-First line\r\n250-Second line\r\n250 The last line\r\n"
    )
    assert write(550, "5.1.1", ["No such user", "here"]) == b"550-5.1.1 No such user\r\n550 5.1.1 here\r\n"
    assert write(250, "2.0.0", [""]) == b"250 2.0.0\r\n"
    assert write(250, None, []) == b"250 \r\n"
    assert write(250, None, ("é",)) == b"250 \xc3\xa9\r\n"


@pytest.mark.parametrize(
    ("code", "enhanced"),
    [(199, None), (600, None), (260, None), (99, None), (250, "5.0.0"), (354, "3.0.0"), (250, "2.0"), (250, "2.0.0 x"),
     (250, ""), (250, "2.1000.0"), (250, "2.0.0\r\n")],
)  # fmt: skip
def test_invalid_codes_are_not_written(wire: ModuleType, code: int, enhanced: str | None) -> None:
    with pytest.raises(ValueError):
        wire.format_reply(code, enhanced, ["x"])


@pytest.mark.parametrize("name", ["dot_stuff", "dot_unstuff", "parse_command", "parse_reply", "scan_header", "unfold"])
@pytest.mark.parametrize("value", ["text", None, 7, [b"x"]])
def test_octets_are_asked_for(wire: ModuleType, name: str, value: object) -> None:
    with pytest.raises(TypeError):
        getattr(wire, name)(value)


def test_feeding_text_is_misuse(wire: ModuleType) -> None:
    incremental = wire.DataDecoder(), wire.DataEncoder(), wire.ServerFramer(), wire.ReplyReader()
    for one in (*incremental, wire.BodyCanonicaliser(True)):
        with pytest.raises(TypeError):
            one.feed("text")


def test_any_buffer_can_be_fed(wire: ModuleType) -> None:
    for kind in (bytes, bytearray, memoryview):
        assert wire.DataDecoder().feed(kind(b"..a\r\n.\r\n")) == (b".a\r\n", 8, True)
        assert wire.DataEncoder().feed(kind(b".a")) == b"..a"
        assert wire.BodyCanonicaliser(True).feed(kind(b"a  b")) == [b"a b"]
        assert wire.ServerFramer().feed(kind(b"NOOP\r\n"))[0].verb == "NOOP"
        assert wire.ReplyReader().feed(kind(b"250 a\r\n")) == [Reply(250, None, (b"a",))]
        assert wire.dot_stuff(kind(b".")) == b".."
    assert wire.dot_stuff(memoryview(b".x.x")[::2]) == b"..."


def test_what_was_fed_may_change_afterwards(wire: ModuleType) -> None:
    block = bytearray(b"DATA\r\nabc")
    framer = wire.ServerFramer()
    framer.feed(block)
    block[:] = b"x" * len(block)
    assert framer.resume(interface.MODE_DATA) == [b"abc"]


def test_names_of_policies_and_modes_are_checked(wire: ModuleType) -> None:
    for make in (wire.DataDecoder, wire.ServerFramer):
        with pytest.raises(ValueError, match="newline"):
            make(newline="lenient")
        with pytest.raises(TypeError):
            make(limits=2048)
    with pytest.raises(ValueError, match="newline"):
        wire.DataEncoder(newline="accept")
    framer = wire.ServerFramer()
    framer.feed(b"DATA\r\n")
    with pytest.raises(ValueError, match="mode"):
        framer.resume(7)
    assert framer.held


def test_resuming_without_a_hold_is_misuse(wire: ModuleType) -> None:
    framer = wire.ServerFramer()
    with pytest.raises(RuntimeError):
        framer.resume(interface.MODE_COMMAND)
    framer.feed(b"QUIT\r\n")
    framer.resume(interface.MODE_CLOSED)
    with pytest.raises(RuntimeError):
        framer.resume(interface.MODE_COMMAND)


def test_a_codec_is_for_one_body(wire: ModuleType) -> None:
    decoder = wire.DataDecoder()
    assert decoder.feed(b".\r\nQUIT\r\n") == (b"", 3, True)
    with pytest.raises(ValueError, match="end"):
        decoder.feed(b"")
    encoder = wire.DataEncoder()
    encoder.finish()
    canonicaliser = wire.BodyCanonicaliser(False)
    canonicaliser.finish()
    for one in (encoder, canonicaliser):
        for call in (one.finish, partial(one.feed, b"x")):
            with pytest.raises(ValueError):
                call()


def test_a_refusing_encoder_is_done(wire: ModuleType) -> None:
    encoder = wire.DataEncoder(newline="reject")
    assert encoder.feed(b"abc") == b"abc"
    with pytest.raises(WireFault) as caught:
        encoder.feed(b"d\ne")
    assert (caught.value.id, caught.value.offset) == ("bare-lf", 4)
    with pytest.raises(ValueError):
        encoder.finish()


def test_nothing_is_held_back_that_is_not_ambiguous(wire: ModuleType) -> None:
    decoder = wire.DataDecoder()
    fed = [b"a", b"\r", b"\n", b".", b".", b"\r", b"\n", b".", b"\r", b"x"]
    assert [decoder.feed(octet)[0] for octet in fed] == [b"a", b"\r", b"\n", b"", b".", b"\r", b"\n", b"", b"", b"\rx"]
    decoder = wire.DataDecoder(newline="normalise")
    assert [decoder.feed(octet)[0] for octet in (b"a", b"\r", b"b", b"\n")] == [b"a", b"", b"\r\nb", b"\r\n"]
    canonicaliser = wire.BodyCanonicaliser(True)
    fed = [b"a", b" ", b"b", b"\r", b"\n", b"\r\n", b"\t", b"c"]
    pieces = [b"".join(canonicaliser.feed(octet)) for octet in fed]
    assert pieces == [b"a", b"", b" b", b"", b"\r\n", b"", b"", b"\r\n c"]


def test_many_empty_lines_are_returned_in_pieces_that_share_their_octets(wire: ModuleType) -> None:
    canonicaliser = wire.BodyCanonicaliser(True)
    lines = 0
    for block in [b"\r\n" * 32768] * 100 + [b" \r\n" * 5]:
        assert canonicaliser.feed(block) == []
        lines += block.count(b"\n")
    pieces = canonicaliser.feed(b"x")
    assert b"".join(pieces) == b"\r\n" * lines + b"x"
    assert max(map(len, pieces)) == 65536
    assert len({id(piece) for piece in pieces if len(piece) == 65536}) == 1
    assert canonicaliser.finish() == [b"\r\n"]


def test_what_is_canonical_is_not_copied(wire: ModuleType) -> None:
    piece = b"a b\r\n\r\nc\r\n"
    (simple,) = wire.BodyCanonicaliser(False).feed(piece)
    assert simple is piece
    if wire.IMPLEMENTATION == "native":  # the twin always replaces white space
        (relaxed,) = wire.BodyCanonicaliser(True).feed(piece)
        assert relaxed is piece


def test_limits_bound_what_a_decoder_returns(wire: ModuleType) -> None:
    decoder = wire.DataDecoder(Limits(content=4))
    assert decoder.feed(b"ab\r\ncd") == (b"ab\r\n", 6, False)
    assert decoder.feed(b"\xff\r\n.\r\n") == (b"", 6, True)
    assert (decoder.size, decoder.eight_bit) == (9, True)


def test_the_fault_says_what_and_where(wire: ModuleType) -> None:
    with pytest.raises(WireFault, match="No space is allowed") as caught:
        wire.parse_command(b"MAIL FROM: <a@b.example>")
    assert isinstance(caught.value, ValueError)
    assert "10" in str(caught.value)
