"""Settings under which a hostile target is judged in seconds."""

from __future__ import annotations

import tempfile

import pytest

from verify import profiles
from verify.world import local, memory, pace


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Few examples, little patience, little memory, and folders of its own that must stay empty."""
    monkeypatch.setitem(profiles.PROFILES, "quick", 4.0)
    monkeypatch.setattr(pace, "RESTING", 0.8)
    monkeypatch.setattr(pace, "BUSY", 1.5)
    monkeypatch.setattr(pace, "BUSY_HURRIED", 1.0)
    monkeypatch.setattr(local, "LOAD_SECONDS", 6.0)
    monkeypatch.setattr(local, "LEAK_BYTES", 200 << 20)
    monkeypatch.setattr(memory, "share", lambda size: 700 << 20)
    monkeypatch.setenv("ATTENTION_GATE_TEST_IMPORT_SECONDS", "1.2")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
    monkeypatch.chdir(tmp_path_factory.mktemp("folder"))
