"""Whatever is typed or read from a file, the answer is a line that says what is wrong, and never a traceback."""

import contextlib
import dataclasses
import io
import json
import signal
import string

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from attention_gate.verify.commands.command_line import main
from attention_gate.verify.report.saved_examples import ReplayError, load_saved
from attention_gate.verify.target.source import TargetError, look, parse_source
from tests.verify.cases import case_of

COMMANDS = ("gate", "replay", "doctor", "mutants", "compare", "--help")
OPTIONS = ("--profile", "--seed", "--world-sizes", "--checks", "--device", "--json", "--save", "-", "--")
VALUES = ("quick", "-1", "0", "1,2", "1,,2", "99", "forward", "nothing", "cuda", "/not/there/x.json", "")
PLACES = ("none_such:attend", "/not/there.py:attend", "os.path", ":", "a:b:c", "\x00", "é:ü")
WORDS = st.one_of(*(st.sampled_from(words) for words in (COMMANDS, OPTIONS, VALUES, PLACES)))
TYPED = st.lists(st.one_of(WORDS, st.text(max_size=12)), max_size=6)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@pytest.fixture(autouse=True)
def _handler_and_folder(monkeypatch, tmp_path):
    """The command line takes SIGTERM for itself."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)
    yield
    signal.signal(signal.SIGTERM, before)


def _run(arguments: list[str]) -> tuple[int, str, str]:
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            status = main(arguments)
        except SystemExit as exit:
            status = exit.code
    return status, out.getvalue(), error.getvalue()


def _is_harmless(arguments: list[str]) -> bool:
    """Whether no world will be started: the doctor starts some."""
    return not any("doctor".startswith(word) and word for word in arguments[:1]) and arguments[:1] != ["mutants"]


@FUZZ
@example([])
@example(["gate"])
@example(["gate", "none_such:attend"])
@example(["gate", "tests/none.py:attend"])
@example(["gate", "os:getcwdd"])
@example(["gate", "os:sep"])
@example(["gate", "none_such:attend", "--world-sizes", "0"])
@example(["gate", "none_such:attend", "--world-sizes", "1" * 5000])
@example(["gate", "none_such:attend", "--profile", "quik"])
@example(["gate", "none_such:attend", "--checks", "fordward"])
@example(["gate", "none_such:attend", "--device", "cuda"])
@example(["gate", "none_such:attend", "--seed", "-1"])
@example(["gate", "none_such:attend", "--seed", "9" * 5000])
@example(["gate", "none_such:attend", "--json", "/not/there/x.json"])
@example(["gate", "\x00.py:attend"])
@example(["gate", "a" * 5000 + ".py:attend"])
@example(["gate", "\udcff.py:attend"])
@example(["gate", ".:attend"])
@example(["replay", "\x00"])
@example(["replay", "."])
@example(["replay", "/not/there.json"])
@given(TYPED.filter(_is_harmless))
def test_a_command_line_is_answered(arguments):
    status, out, error = _run(arguments)
    assert "Traceback" not in out + error
    assert "the harness failed" not in error
    if status != 0:
        assert status == 2
        assert error.strip()
        # argparse prints its usage first, and in the last line what was typed, in which there may be anything.
        assert any(line.startswith(("attention-gate", "usage: attention-gate")) for line in error.splitlines())


@FUZZ
@example("")
@example("a.b:c.d")
@example("a" * 300 + ":x")
@example("..:x")
@example("a..b:x")
@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from(":./py" + string.ascii_lowercase)), max_size=30))
def test_a_target_is_found_or_refused_and_nothing_else(text):
    with contextlib.suppress(TargetError):
        look(parse_source(text))


SAVED = {
    "schema": 3,
    "target": "none_such:attend",
    "check": "forward",
    "case": dataclasses.asdict(case_of()),
    "parameters": {},
    "device": "cpu",
    "headline": "the output is wrong",
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged(draw):
    """A saved example in which something is missing, of another kind, or besides."""
    data = json.loads(json.dumps(SAVED))
    for _ in range(draw(st.integers(1, 3))):
        place = data if draw(st.booleans()) or not isinstance(data.get("case"), dict) else data["case"]
        name = draw(st.sampled_from(sorted(place) or ["schema"]) | st.text(max_size=8))
        if draw(st.booleans()):
            place.pop(name, None)
        else:
            place[name] = draw(JSON)
    return data


@FUZZ
@given(damaged())
def test_a_damaged_replay_file_is_refused_in_one_line(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("saved") / "saved.json"
    path.write_text(json.dumps(data))
    with contextlib.suppress(ReplayError, TargetError):
        load_saved(str(path))
    status, out, error = _run(["replay", str(path)])
    assert status == 2  # its target is not there, if all else is right
    assert "Traceback" not in out + error
    assert "the harness failed" not in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is not a saved example"),
        (b"\xff\xfe\x00", "is not a saved example"),
        (b"{", "is not a saved example"),
        (b"[" * 100_000, "is not a saved example"),
        (b"[]", "has no 'schema'"),
        (b'{"schema": 1}', "has schema 1; this version reads schema 3"),
        (b'{"schema": 3}', "missing required field `target`"),
        (b" " * (2 << 20), "is larger than"),
    ],
)
def test_a_file_that_is_no_saved_example_is_named(tmp_path, text, words):
    path = tmp_path / "saved.json"
    path.write_bytes(text)
    status, _, error = _run(["replay", str(path)])
    assert status == 2
    assert words in error
    assert len(error.strip().splitlines()) == 1
