"""The report as JUnit XML, which continuous integration reads: one testcase for each check."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from attention_gate.verify.checks.results import CheckResult
from attention_gate.verify.report.text import failure_text
from attention_gate.verify.run.judgement import Report

#: Longer texts are cut in the middle: some readers give up on a file with one huge message.
_LONGEST = 20_000

#: What XML 1.0 allows in no form, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: Report) -> str:
    """The whole report as one test suite.

    >>> write_whole("report.xml", junit(attention_gate.check("my_module:attend")))

    A check that failed is a failure, one that crashed, hung or did not run an error, one that the target does not
    support or that is blocked by another's failure is skipped, with the reason.
    """
    suite = ElementTree.Element(
        "testsuite",
        name="attention-gate",
        tests=str(len(report.checks)),
        failures=str(_count(report, "fail", "stale")),
        errors=str(_count(report, "crash", "hang", "not run")),
        skipped=str(_count(report, "unsupported", "blocked", "known")),
        time=f"{report.seconds:.3f}",
    )
    properties = ElementTree.SubElement(suite, "properties")
    facts = {"target": report.target, "verdict": report.verdict, "profile": report.profile, "seed": report.seed}
    for name, value in {**facts, "examples": report.examples, **report.environment}.items():
        ElementTree.SubElement(properties, "property", name=name, value=_legal(str(value)))
    for check in report.checks:
        suite.append(_testcase(check, report))
    if report.error is not None:
        ElementTree.SubElement(suite, "system-err").text = _legal(report.error)
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=False) + "\n"


def _testcase(check: CheckResult, report: Report) -> ElementTree.Element:
    case = ElementTree.Element(
        "testcase", classname=_legal(report.target), name=check.name, time=f"{check.seconds:.3f}"
    )
    if check.failure is not None:
        kind = "failure" if check.outcome == "fail" else "error"
        headline = check.failure.finding.headline
        entry = ElementTree.SubElement(case, kind, type=check.outcome, message=_legal(headline))
        entry.text = _legal(failure_text(check, check.failure, dense=report.dense))
    elif check.outcome == "stale":
        ElementTree.SubElement(case, "failure", type="stale", message=_legal(f"stale: {check.reason}"))
    elif check.outcome in ("unsupported", "blocked", "known"):
        ElementTree.SubElement(case, "skipped", type=check.outcome, message=_legal(f"{check.outcome}: {check.reason}"))
    elif check.outcome != "pass":
        ElementTree.SubElement(case, "error", type=check.outcome, message=_legal(f"{check.outcome}: {check.reason}"))
    return case


def _count(report: Report, *outcomes: str) -> int:
    return sum(check.outcome in outcomes for check in report.checks)


def _legal(text: str) -> str:
    """The text with what XML cannot hold shown as escapes, cut in the middle if it is very long."""
    text = _FORBIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
    if len(text) > _LONGEST:
        cut = len(text) - _LONGEST
        text = f"{text[: _LONGEST // 2]}\n… {cut} characters left out …\n{text[-_LONGEST // 2 :]}"
    return text
