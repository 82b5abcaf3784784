"""The published schemas are those of what is written, and a report and a saved example keep to them."""

import dataclasses
import json
from pathlib import Path

import msgspec
import pytest

from attention_gate.verify.checks.results import OUTCOMES
from attention_gate.verify.report import schemas
from attention_gate.verify.report.schemas import DOCUMENTS, schema_of, write_schemas
from attention_gate.verify.run.report_document import ReportDocument
from tests.verify.reports import check_of, report_of

PUBLISHED = Path(schemas.__file__).parent


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_published_file_is_what_the_code_says(name: str, tmp_path: Path) -> None:
    write_schemas(tmp_path)
    assert (PUBLISHED / name).read_text() == (tmp_path / name).read_text()


def test_a_report_with_every_outcome_keeps_to_its_schema() -> None:
    written = json.dumps(report_of(*(check_of(outcome, outcome) for outcome in OUTCOMES)).to_json(), allow_nan=False)
    again = msgspec.json.decode(written, type=ReportDocument)
    assert [check.verdict for check in again.checks] == list(OUTCOMES)
    assert json.loads(json.dumps(dataclasses.asdict(again))) == json.loads(written)


def test_every_field_of_a_report_is_required() -> None:
    described = schema_of(ReportDocument)["$defs"]["ReportDocument"]
    assert set(described["required"]) == set(described["properties"]) == set(report_of().to_json())
