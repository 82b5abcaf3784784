"""Judges distributed attention (ring, context-parallel, dilated) against a float64 oracle, gradients included.

>>> import attention_gate
>>> report = attention_gate.check("my_module:attend", profile="quick")
>>> report.verdict
'pass'

``attention_gate.reference`` is the oracle, ``attention_gate.impls`` has two implementations of the contract, and
``attention_gate.verify`` is the gate itself.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

#: In a checkout the three packages are folders beside this one; in an installation they are inside it.
_BESIDE = Path(__file__).resolve().parents[1]
if not (_BESIDE / "attention_gate" / "verify").is_dir() and (_BESIDE / "verify" / "__init__.py").is_file():
    __path__.append(str(_BESIDE))

if TYPE_CHECKING:
    from attention_gate.verify.case.case import Case
    from attention_gate.verify.checks.results import CheckResult, Example, Failure
    from attention_gate.verify.commands.judge_target import check
    from attention_gate.verify.commands.replay import replay
    from attention_gate.verify.report.page import html
    from attention_gate.verify.report.text import text
    from attention_gate.verify.run.judgement import Report
    from attention_gate.verify.target.adapters import gather_rows, own_rows
    from attention_gate.verify.target.capabilities import NOT_YET, KnownFailure
    from attention_gate.verify.target.source import TargetError
    from attention_gate.verify.target.target import Target

__all__ = [
    "NOT_YET",
    "Case",
    "CheckResult",
    "Example",
    "Failure",
    "KnownFailure",
    "Report",
    "Target",
    "TargetError",
    "check",
    "gather_rows",
    "html",
    "impls",
    "own_rows",
    "reference",
    "replay",
    "text",
    "verify",
]

#: Where each public name lives. Imported when it is asked for: every pytest run that has the plugin installed imports
#: this package and must not wait for torch.
_HOMES = {
    "NOT_YET": "target.capabilities",
    "Case": "case.case",
    "CheckResult": "checks.results",
    "Example": "checks.results",
    "Failure": "checks.results",
    "KnownFailure": "target.capabilities",
    "Report": "run.judgement",
    "Target": "target.target",
    "TargetError": "target.source",
    "check": "commands.judge_target",
    "gather_rows": "target.adapters",
    "html": "report.page",
    "own_rows": "target.adapters",
    "replay": "commands.replay",
    "text": "report.text",
}


def __getattr__(name: str) -> Any:
    if name in ("impls", "reference", "verify"):
        return importlib.import_module(f"attention_gate.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"attention_gate.verify.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
