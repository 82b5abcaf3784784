"""The example with packed documents conforms, and one that ignores their boundaries does not."""

from pathlib import Path

import attention_gate
from examples import documents_target


def test_it_conforms_with_documents_among_its_options() -> None:
    checks = ["forward", "gradients", "schedules", "combinations"]
    report = attention_gate.check("examples/documents_target.py:target", profile="quick", checks=checks)
    assert report.verdict == "pass", attention_gate.text(report)
    assert documents_target.target.terms == ("documents",)
    assert not any("document_lengths" in words for words in report.unsupported)


def test_without_the_boundaries_it_is_rejected_by_name(tmp_path: Path) -> None:
    text = Path(documents_target.__file__).read_text()
    boundaries = "documents[own][:, None] == documents"
    assert boundaries in text
    (tmp_path / "ignoring.py").write_text(text.replace(boundaries, "documents[own][:, None] >= -1"))
    report = attention_gate.check(f"{tmp_path}/ignoring.py:target", profile="quick", checks=["forward"])
    assert report.verdict == "fail"
    assert "without the documents' boundaries" in attention_gate.text(report)
