"""Saved examples: what was written is read again, and a file that is none is reported in one line."""

import json
import os
import types

import pytest

from attention_gate.verify.checks.results import Example, Failure
from attention_gate.verify.report.saved_examples import ReplayError, load_saved, save
from attention_gate.verify.report.whole_files import write_whole
from attention_gate.verify.target.source import Source
from attention_gate.verify.world.finding import Finding
from tests.verify.cases import case_of

CASE = case_of(world_size=4, group=(1, 3), length=5, scale=-0.7, is_causal=True, dtype="bfloat16")
EXAMPLE = Example("state", CASE, {"change": "mask", "order": [2, 0, 1]})
HISTORY = (Example("forward", case_of(caller="no-grad")), EXAMPLE)
FAILURE = Failure(Finding("fail", "the output is wrong"), EXAMPLE, (2, 2), history=HISTORY)


@pytest.fixture
def saved(tmp_path):
    session = types.SimpleNamespace(source=Source("my.module", None, "attend"), device="cpu")
    return save(str(tmp_path / "failures"), session, FAILURE)


def test_what_was_saved_is_loaded_again(saved):
    found = load_saved(saved)
    assert found.example == EXAMPLE
    assert found.history == HISTORY
    assert (found.source, found.device, found.headline) == (
        Source("my.module", None, "attend"),
        "cpu",
        "the output is wrong",
    )


def _changed(path, **changes):
    with open(path) as file:
        data = json.load(file)
    data.update(changes)
    with open(path, "w") as file:
        json.dump({name: value for name, value in data.items() if value is not ...}, file, default=str)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 1}, "has schema 1; this version reads schema 3"),
        ({"schema": "2"}, "has schema '2'; this version reads schema 3"),
        ({"check": "everything"}, "unknown check 'everything'; the checks are forward, "),
        ({"check": "foward"}, "did you mean 'forward'?"),
        ({"device": "tpu"}, "Invalid enum value 'tpu' - at `$.device`"),
        ({"case": []}, "Expected `object`, got `array` - at `$.case`"),
        ({"case": {"lenght": 3}}, "a case has no field 'lenght'"),
        ({"case": {"lenght": 3}}, "did you mean 'length'?"),
        ({"case": {"length": -1}}, "Case.length is -1; it must be an integer from 0"),
        ({"case": {"length": 10**30}}, "Case.length is 1000000000000000000000000000000; it must be"),
        ({"case": {"length": "3"}}, "Expected `int`, got `str` - at `$.case.length`"),
        ({"case": {"is_causal": 1}}, "Expected `bool`, got `int` - at `$.case.is_causal`"),
        ({"case": {"segment_lengths": 3}}, "Expected `array`, got `int` - at `$.case.segment_lengths`"),
        ({"case": {"segment_lengths": ["3"]}}, "Expected `int`, got `str` - at `$.case.segment_lengths[0]`"),
        ({"case": {"group": "01"}}, "Expected `array | null`, got `str` - at `$.case.group`"),
        ({"case": {"scale": "half"}}, "got `str` - at `$.case.scale`"),
        ({"case": {"world_size": True}}, "Expected `int`, got `bool` - at `$.case.world_size`"),
        ({"history": [{"check": "foward", "case": {}, "parameters": {}}]}, "did you mean 'forward'?"),
        ({"history": [{"check": "forward", "case": {"lenght": 3}, "parameters": {}}]}, "a case has no field 'lenght'"),
        ({"history": [{"check": "forward", "cases": {}}]}, "a call before has no field 'cases'"),
        ({"history": None}, "Expected `array`, got `null` - at `$.history`"),
        ({"parameters": None}, "Expected `object`, got `null` - at `$.parameters`"),
        ({"extra": 1}, "a saved example has no field 'extra'"),
    ],
)
def test_a_file_that_was_changed_is_refused_in_words(saved, changes, words):
    _changed(saved, **changes)
    with pytest.raises(ReplayError) as refused:
        load_saved(saved)
    assert str(refused.value).startswith(saved)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["schema", "target", "check", "case", "parameters", "history", "device", "headline"])
def test_a_field_that_is_missing_is_named(saved, name):
    with open(saved) as file:
        data = json.load(file)
    del data[name]
    with open(saved, "w") as file:
        json.dump(data, file)
    with pytest.raises(ReplayError, match=f"'{name}'|`{name}`"):
        load_saved(saved)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"schema": NaN}'])
def test_what_is_no_saved_example_is_refused(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ReplayError, match=r"x\.json"):
        load_saved(str(path))


def test_a_file_cut_anywhere_is_refused(saved):
    with open(saved, "rb") as file:
        whole = file.read()
    for length in range(0, len(whole) - 2, 7):
        with open(saved, "wb") as file:
            file.write(whole[:length])
        with pytest.raises(ReplayError):
            load_saved(saved)


def test_a_huge_file_is_not_read(tmp_path):
    path = tmp_path / "huge.json"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ReplayError, match="larger than 1048576 bytes"):
        load_saved(str(path))


def test_a_file_that_is_not_there_and_a_folder(tmp_path):
    with pytest.raises(ReplayError, match="does not exist"):
        load_saved(str(tmp_path / "none.json"))
    with pytest.raises(ReplayError, match="not a saved example"):
        load_saved(str(tmp_path))


def test_a_target_that_is_no_place_is_refused_as_the_file_s_fault(saved):
    _changed(saved, target="rm -rf")
    with pytest.raises(ReplayError, match="neither the name of a module nor a file"):
        load_saved(saved)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    path.write_text("before")

    def fails(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no space"):
        write_whole(str(path), "after")
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["report.json"]
    monkeypatch.undo()
    write_whole(str(path), "after")
    assert path.read_text() == "after"
    assert os.stat(path).st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
