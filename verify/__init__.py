"""The gate: judges an implementation of distributed attention against the float64 oracle.

report = verify.check("my_module:attend")
assert report.verdict == "pass", verify.text(report)
"""

from verify.case import Case
from verify.gate import check
from verify.report import CheckResult, Example, Failure, Report
from verify.target import Target, TargetError
from verify.text import text

__all__ = ["Case", "CheckResult", "Example", "Failure", "Report", "Target", "TargetError", "check", "text"]
