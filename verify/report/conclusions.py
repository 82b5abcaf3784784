"""What a run amounts to, in a few lines: counts, coverage, what a pass is worth, the verdict."""

from __future__ import annotations

from attention_gate.verify.report.drift import Drift
from attention_gate.verify.run.judgement import Coverage, Report

VERDICTS = {
    "pass": "CONFORMS",
    "fail": "DOES NOT CONFORM",
    "incomplete": "INCOMPLETE",
    "error": "THE HARNESS FAILED",
}

#: Pairs of options that did not occur together that are named.
_NAMED = 3


def counted(report: Report) -> str:
    """ "ran 21 of 24 checks, 430 examples, world sizes 1, 2, 3, 4, profile quick, seed 0, 15 s"."""
    sizes = report.world_sizes
    worlds = f"world sizes {', '.join(map(str, sizes))}" if len(sizes) > 1 else f"world size {sizes[0]}"
    return (
        f"ran {report.ran} of {len(report.checks)} checks, {report.examples:,} examples, {worlds}, "
        f"profile {report.profile}, seed {report.seed}, {report.seconds:.0f} s"
    )


def covered(coverage: Coverage) -> str:
    """Which options were combined, in words."""
    options = f"of {len(coverage.options)} options ({', '.join(coverage.options)}) "
    if not coverage.missing:
        return f"{options}every two values that can occur together did: {coverage.pairs:,} pairs"
    more = len(coverage.missing) - _NAMED
    named = "; ".join(coverage.missing[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
    return f"{options}{coverage.covered:,} of {coverage.pairs:,} pairs of values occurred; not {named}"


def conclusions(report: Report, changes: Drift | None = None) -> list[str]:
    """The last lines on a run, with what has changed since an earlier one; the verdict at their end."""
    lines = []
    if report.unsupported:
        lines.append(f"not judged (declared as unsupported): {'; '.join(report.unsupported)}")
    if report.error is not None:
        lines.append(f"the run did not finish: {report.error}")
    lines += [f"note: {note}" for note in report.notes]
    lines.append(counted(report))
    if report.coverage.pairs and report.verdict != "fail":  # a failing check ends at its first failure
        lines.append(covered(report.coverage))
    if report.verdict == "pass" and report.strength:
        lines.append(f"what that is worth: {report.strength}")
    verdict = f"{report.shown}: {VERDICTS[report.verdict]}"
    if changes is not None:
        lines += changes.lines()
        verdict += f"; beside the earlier report: {changes.verdict}"
    return [*lines, verdict]
