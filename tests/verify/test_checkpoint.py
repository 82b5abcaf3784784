"""A judgement that is broken off says what it had covered, and one that ends leaves no trace of it."""

import json
import os

import verify
from tests.verify import targets
from tests.verify.reports import check_of, report_of
from verify import profiles
from verify.checkpoint import Checkpoint
from verify.gate import Silent


class _Interrupts(Silent):
    """Presses Ctrl-C when the second check begins."""

    def started(self, check, examples):
        if check.name == "gradients":
            raise KeyboardInterrupt


def test_an_interrupted_judgement_keeps_what_it_had_covered(monkeypatch, tmp_path):
    monkeypatch.setitem(profiles.PROFILES, "quick", 2.0)
    folder = tmp_path / "failures"
    options = {"profile": "quick", "world_sizes": [1], "checks": ["forward", "gradients"], "save": str(folder)}
    report = verify.check(targets.right, **options, progress=_Interrupts())
    assert report.verdict == "incomplete"
    assert report.error == "interrupted"
    (name,) = os.listdir(folder)
    kept = json.loads((folder / name).read_text())
    assert kept["schema"] == 1
    assert kept["verdict"] == "incomplete"
    assert [(check["name"], check["verdict"]) for check in kept["checks"]] == [
        ("forward", "pass"),
        ("gradients", "not run"),
    ]
    assert kept["checks"][0]["examples"] == report.checks[0].examples > 0
    report = verify.check(targets.right, **options)
    assert report.verdict == "pass"
    assert os.listdir(folder) == []  # the folder was there before this judgement


def test_a_judgement_that_ends_removes_file_and_folder(tmp_path):
    checkpoint = Checkpoint(str(tmp_path / "a" / "b"), "attend")
    checkpoint.write(report_of(check_of()))
    assert os.listdir(tmp_path / "a" / "b") == ["attend-unfinished.json"]
    checkpoint.remove()
    assert not (tmp_path / "a" / "b").exists()


def test_a_folder_that_holds_something_stays(tmp_path):
    checkpoint = Checkpoint(str(tmp_path / "kept"), "attend")
    checkpoint.write(report_of(check_of()))
    (tmp_path / "kept" / "other.json").write_text("{}")
    checkpoint.remove()
    assert os.listdir(tmp_path / "kept") == ["other.json"]


def test_a_folder_that_cannot_be_made_breaks_nothing_off():
    checkpoint = Checkpoint("/dev/null/failures", "attend")
    checkpoint.write(report_of(check_of()))
    assert checkpoint.trouble == "what was judged so far could not be kept in /dev/null/failures: Not a directory"
    checkpoint.remove()


def test_without_a_folder_nothing_is_kept():
    checkpoint = Checkpoint(None, "attend")
    checkpoint.write(report_of(check_of()))
    checkpoint.remove()
    assert checkpoint.trouble == ""
