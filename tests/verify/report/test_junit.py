"""JUnit XML: every outcome in its element, and XML that parses whatever the target printed."""

import xml.etree.ElementTree as ElementTree

import pytest

from attention_gate.verify.checks.results import OUTCOMES
from attention_gate.verify.report.junit import junit
from tests.verify.reports import check_of, failure_of, report_of


def parsed(report):
    """The suite."""
    [suite] = ElementTree.fromstring(junit(report))
    return suite


ELEMENTS = {
    "pass": None,
    "fail": "failure",
    "stale": "failure",
    "crash": "error",
    "hang": "error",
    "not run": "error",
    "unsupported": "skipped",
    "blocked": "skipped",
    "known": "skipped",
}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_outcome_has_its_element(outcome):
    suite = parsed(report_of(check_of("forward", outcome)))
    [case] = suite.iter("testcase")
    assert case.get("name") == "forward"
    assert [child.tag for child in case] == ([] if ELEMENTS[outcome] is None else [ELEMENTS[outcome]])
    for child in case:
        assert child.get("type") == outcome
        assert child.get("message")


def test_the_counts_are_those_of_the_elements():
    suite = parsed(report_of(*(check_of(outcome, outcome) for outcome in OUTCOMES)))
    for attribute, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.get(attribute)) == len(list(suite.iter(tag))), attribute


def test_a_failure_has_the_whole_report_of_its_check():
    [failure] = parsed(report_of(check_of("forward", "fail"))).iter("failure")
    assert failure.get("message") == "the output is wrong"
    assert "minimal case: Case(" in failure.text
    assert "python -m attention_gate replay failures/attend-forward.json" in failure.text


def test_what_xml_cannot_hold_is_shown_as_escapes():
    nasty = "".join(map(chr, range(0x20))) + "\x7f\ud800\ufffe\uffff ]]> <&\"'> é 🙂"
    failure = failure_of(nasty, details=[nasty])
    [element] = parsed(report_of(check_of("forward", "fail", failure=failure))).iter("failure")
    for text in (element.get("message"), element.text):
        assert "\\x00" in text
        assert "\\x1b" in text
        assert "\\ud800" in text
        assert "]]> <&\"'> é 🙂" in text


def test_a_huge_message_is_cut_in_the_middle():
    failure = failure_of("start" + "x" * 10_000_000 + "end")
    report = report_of(check_of("forward", "fail", failure=failure))
    assert len(junit(report)) < 100_000
    [element] = parsed(report).iter("failure")
    assert element.get("message").startswith("startxxx")
    assert element.get("message").endswith("xxxend")
    assert "characters left out" in element.get("message")


def test_an_error_of_the_harness_is_reported():
    suite = parsed(report_of(check_of("forward", "not run"), verdict="error", error="the harness failed:\x00 so"))
    assert suite.find("system-err").text == "the harness failed:\\x00 so"
