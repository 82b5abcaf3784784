"""A judgement that is broken off says what it had covered, and one that ends leaves no trace of it."""

import json
import os
from dataclasses import replace

import attention_gate
from attention_gate.verify.checks import profiles
from attention_gate.verify.report.saved_run import SavedRun, record_in
from attention_gate.verify.run.observer import Silent
from tests.verify import targets
from tests.verify.reports import check_of, report_of


class _Interrupts(Silent):
    """Presses Ctrl-C when the second check begins."""

    def started(self, check, examples):
        if check.name == "gradients":
            raise KeyboardInterrupt


def test_an_interrupted_judgement_keeps_what_it_had_covered(monkeypatch, tmp_path):
    monkeypatch.setitem(profiles.PROFILES, "quick", 2.0)
    folder = tmp_path / "failures"
    options = {"profile": "quick", "world_sizes": [1], "checks": ["forward", "gradients"], "save": str(folder)}
    report = attention_gate.check(targets.right, **options, progress=_Interrupts())
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
    report = attention_gate.check(targets.right, **options)
    assert report.verdict == "pass"
    assert os.listdir(folder) == []  # the folder was there before this judgement


def test_a_judgement_that_ends_removes_file_and_folder(tmp_path):
    record = SavedRun(str(tmp_path / "a" / "b"), "attend")
    record.so_far(lambda: report_of(check_of()))
    assert os.listdir(tmp_path / "a" / "b") == ["attend-unfinished.json"]
    record.ended(report_of(check_of()))
    assert not (tmp_path / "a" / "b").exists()


def test_a_judgement_with_an_error_keeps_its_report(tmp_path):
    record = SavedRun(str(tmp_path), "attend")
    record.ended(replace(report_of(check_of()), error="interrupted"))
    assert json.loads((tmp_path / "attend-unfinished.json").read_text())["error"] == "interrupted"


def test_a_folder_that_holds_something_stays(tmp_path):
    record = SavedRun(str(tmp_path / "kept"), "attend")
    record.so_far(lambda: report_of(check_of()))
    (tmp_path / "kept" / "other.json").write_text("{}")
    record.ended(report_of(check_of()))
    assert os.listdir(tmp_path / "kept") == ["other.json"]


def test_a_folder_that_cannot_be_made_breaks_nothing_off_and_is_a_note():
    record = SavedRun("/dev/null/failures", "attend")
    record.so_far(lambda: report_of(check_of()))
    trouble = "could not write intermediate results to /dev/null/failures: Not a directory"
    assert record.ended(report_of(check_of())).notes == (trouble,)


def test_without_a_folder_nothing_is_kept():
    report = report_of(check_of())
    record = record_in(None, None)
    record.so_far(lambda: report)
    assert record.ended(report) is report
