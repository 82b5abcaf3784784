"""The report of a long run as text: a line for each part, each failure with the length from which on it is there."""

from __future__ import annotations

from attention_gate.verify.long.long_run import Finished, LongReport

_MARKS = {"pass": "ok", "fail": "FAIL", "crash": "CRASH", "hang": "HANG", "not asked": "-"}


def text_of_lengths(report: LongReport) -> str:
    """The whole report, without a newline at its end."""
    lines = [line for part in report.finished for line in _lines(part)]
    asked = [part for part in report.finished if part.outcome.verdict != "not asked"]
    wrong = sum(part.outcome.failed for part in report.finished)
    lengths = ", ".join(map(str, sorted({part.length for part in report.finished})))
    verdict = "DOES NOT CONFORM" if report.failed else "CONFORMS"
    lines += ["", f"{verdict} at lengths {lengths}: {wrong} of {len(asked)} parts failed, {report.seconds:.0f} s"]
    lines.append("judged were sampled rows and laws on every row; docs/long.md says what these cannot show")
    return "\n".join(lines)


def _lines(part: Finished) -> list[str]:
    outcome = part.outcome
    head = f"{_MARKS[outcome.verdict]:5} {part.length} {part.case}, {part.step}"
    if outcome.verdict == "not asked":
        return [f"{head}: not asked: {outcome.lines[0]}"]
    if not outcome.failed:
        measured = "".join(f"; {line}" for line in outcome.lines)
        return [f"{head}: {100 * outcome.used:.2g} % of what is allowed, {part.seconds:.1f} s{measured}"]
    where = "" if outcome.first is None else [f"first wrong position: {outcome.first}"]
    more = [*outcome.lines[1:], *where, part.begins, part.example]
    return [f"{head}: {outcome.lines[0]}", *(f"  {line.strip()}" for line in more)]
