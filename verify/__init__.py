"""The gate: judges an implementation of distributed attention against the float64 oracle.

report = verify.check("my_module:attend")
assert report.verdict == "pass", verify.text(report)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verify.adapters import gather_rows, own_rows
    from verify.capabilities import NOT_YET, KnownFailure
    from verify.case import Case
    from verify.gate import check
    from verify.report import CheckResult, Example, Failure, Report
    from verify.report_text import text
    from verify.target import Target, TargetError

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
    "own_rows",
    "text",
]

#: Where each public name lives. Imported when it is asked for: every pytest run that has the plugin installed imports
#: this package, and must not pay for torch. No submodule may have a public name, or importing it would hide the name.
_HOMES = {
    "NOT_YET": "verify.capabilities",
    "Case": "verify.case",
    "CheckResult": "verify.report",
    "Example": "verify.report",
    "Failure": "verify.report",
    "KnownFailure": "verify.capabilities",
    "Report": "verify.report",
    "Target": "verify.target",
    "TargetError": "verify.target",
    "check": "verify.gate",
    "gather_rows": "verify.adapters",
    "own_rows": "verify.adapters",
    "text": "verify.report_text",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
