"""Hypothesis writes nothing into the user's folder, and its version is where a reader looks for it."""

from __future__ import annotations

from pathlib import Path

import hypothesis
from hypothesis import configuration

import attention_gate
from attention_gate.verify.report.saved_examples import load_saved
from attention_gate.verify.run.hypothesis_storage import storage_elsewhere
from tests.verify import targets


def test_the_folder_of_the_user_stays_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configuration.set_hypothesis_home_dir(tmp_path / "mine")
    try:
        with storage_elsewhere():
            held = configuration.storage_directory("examples").path
            assert tmp_path not in held.parents
        assert configuration.storage_directory("examples").path == tmp_path / "mine" / "examples"
    finally:
        configuration.set_hypothesis_home_dir(None)


def test_a_judgement_stores_elsewhere_and_says_which_version_drew_its_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    where = []
    original = configuration.storage_directory

    def noted(*names, **options):
        where.append(original(*names, **options))
        return where[-1]

    monkeypatch.setattr("hypothesis.database.storage_directory", noted)
    monkeypatch.setattr("hypothesis.internal.charmap.storage_directory", noted)
    options = {"profile": "quick", "world_sizes": [1], "checks": ["forward"], "save": str(tmp_path / "failures")}
    report = attention_gate.check(targets.causal_ignored, **options)
    assert report.environment["hypothesis"] == hypothesis.__version__
    assert report.checks[0].failure is not None
    path = report.checks[0].failure.replay
    assert f'"hypothesis": "{hypothesis.__version__}"' in Path(path).read_text()
    assert load_saved(path).example == report.checks[0].failure.example
    assert not (tmp_path / ".hypothesis").exists()
    assert not [one.path for one in where if tmp_path in one.path.parents]
