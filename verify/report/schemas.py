"""The JSON Schemas of what is written, for programs that read it.

python -m attention_gate.verify.report.schemas writes them anew beside this file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attention_gate.verify.report.saved_examples import SavedDocument
from attention_gate.verify.report.whole_files import write_whole
from attention_gate.verify.run.report_document import ReportDocument

#: What is described, by the file that describes it.
DOCUMENTS: dict[str, type] = {"report.schema.json": ReportDocument, "saved-example.schema.json": SavedDocument}


def schema_of(document: type) -> dict[str, Any]:
    """The JSON Schema of a document."""
    import msgspec

    return msgspec.json.schema(document)


def write_schemas(folder: Path = Path(__file__).parent) -> None:
    """Write each schema into its file."""
    for name, document in DOCUMENTS.items():
        write_whole(str(folder / name), json.dumps(schema_of(document), indent=2) + "\n")


if __name__ == "__main__":
    write_schemas()
