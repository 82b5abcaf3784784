"""Settings and folders for judging hostile targets."""

from __future__ import annotations

import tempfile

import pytest

from tests.verify.hostile.settings import hurry


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Settings of little patience, and folders of its own that must stay empty."""
    monkeypatch.setenv("ATTENTION_GATE_TEST_IMPORT_SECONDS", "")
    hurry(monkeypatch.setattr)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
    monkeypatch.chdir(tmp_path_factory.mktemp("folder"))
