"""The recorded sessions have what is said of them: another signature, its adapter, a failure, its replay, CONFORMS."""

from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("columns", [80, 160])
def test_the_recording_fits_its_terminal_and_has_all_five_steps(columns: int) -> None:
    text = (DOCS / f"transcript-{columns}.txt").read_text()
    assert "/tmp/" not in text
    assert max(map(len, text.splitlines())) <= columns
    statuses = [line for line in text.splitlines() if line.startswith("(exit status")]
    assert statuses == [f"(exit status {status})" for status in (2, 0, 1, 1, 0)]
    refused, written, failed, replayed, conforms = text.split("(exit status")[:5]
    assert "does not take the arguments that the" in " ".join(refused.split())
    assert "wrote mine_target.py" in written
    assert "FAIL  gradients: the gradient of key is wrong" in failed
    assert failed.rstrip().splitlines()[-3 if columns == 80 else -2].startswith("  replay: attention-gate replay")
    assert "fail: the gradient of key is wrong" in replayed
    assert "CONFORMS" in conforms
