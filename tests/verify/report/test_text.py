"""The report in words: nothing is said twice, and nothing that says nothing."""

from __future__ import annotations

from dataclasses import replace

import attention_gate
from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.results import Example
from attention_gate.verify.target.target import Target
from tests.verify.reports import check_of, failure_of, report_of

STACK = ("ranks 0 and 1 were at", '  File "mine.py", line 7, in attend', "    dist.barrier()")


def attend(query, key, value, **options):
    """Only declared, never called."""


def test_the_same_traceback_is_printed_once():
    hangs = [
        check_of(name, "hang", failure=failure_of(f"{name} hangs", outcome="hang", details=STACK))
        for name in ("forward", "schedules")
    ]
    text = attention_gate.text(report_of(*hangs))
    assert text.count("mine.py") == 1
    assert text.count("ranks 0 and 1 were at") == 2
    assert "(where schedules was, above)" in text


def test_another_traceback_is_printed_too():
    other = (STACK[0], STACK[1].replace("7", "8"), STACK[2])
    hangs = [
        check_of(name, "hang", failure=failure_of(f"{name} hangs", outcome="hang", details=details))
        for name, details in (("forward", STACK), ("schedules", other))
    ]
    assert attention_gate.text(report_of(*hangs)).count("mine.py") == 2


def test_branches_are_shown_to_who_takes_any():
    case = Case(world_size=2, length=4, segment_lengths=(4,), dilation_rates=(1,), is_causal=True)
    failed = check_of("forward", "fail", failure=replace(failure_of(), example=Example("forward", case)))
    declared = Target(attend=attend, branches="dense")
    assert "minimal case: Case(world_size=2, length=4, is_causal=True)" in attention_gate.text(
        report_of(failed, declared=declared)
    )
    assert f"minimal case: {case!r}" in attention_gate.text(report_of(failed))


def test_a_remark_stands_beside_the_budget():
    text = attention_gate.text(report_of(check_of("wire", remark="2.00 times the bytes of a dense ring")))
    assert "40% of the error budget used; 2.00 times the bytes of a dense ring" in text
