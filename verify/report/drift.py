"""A report beside an earlier one of the same target: what fails now, what passes now, whose budgets and bytes grew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_gate.verify.run.report_document import CheckEntry, ReportDocument
from attention_gate.verify.target.source import near

#: A share of an error budget has grown if it is this many times the earlier one, and this much of the budget more.
GROWN, LEAST = 1.25, 0.02

#: Bytes have grown if their ratio to the least is this many times the earlier one.
GROWN_BYTES = 1.02

_BAD = ("fail", "crash", "hang", "stale", "blocked", "not run")

#: Facts that must agree for the same examples to be judged.
_SAME = ("profile", "seed", "world_sizes")


@dataclass(frozen=True)
class Drift:
    """What has changed, in lines. ``notes`` say what could not be compared, and why."""

    regressions: tuple[str, ...] = ()
    passes: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ()
    traffic: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def worse(self) -> bool:
        """Whether something regressed, uses more of its error budget, or moves more bytes."""
        return bool(self.regressions or self.budgets or self.traffic)

    @property
    def verdict(self) -> str:
        """ "UNCHANGED", "BETTER" or "WORSE"."""
        return "WORSE" if self.worse else "BETTER" if self.passes else "UNCHANGED"

    def lines(self) -> list[str]:
        """All of it, each line with what kind of change it is."""
        kinds = (
            ("regression", self.regressions),
            ("passes now", self.passes),
            ("more of the error budget", self.budgets),
            ("more bytes", self.traffic),
            ("note", self.notes),
        )
        return [f"{kind}: {line}" for kind, found in kinds for line in found]


def read_report(path: str) -> ReportDocument:
    """A report that ``gate --json`` wrote; ValueError says in one line what is wrong with the file."""
    import msgspec

    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=ReportDocument)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is no report of gate --json: {error}") from error


def drift(earlier: ReportDocument, now: ReportDocument) -> Drift:
    """What has changed between two reports.

    Shares of error budgets are compared only if the same examples were judged: the same profile, seed, numbers of ranks
    and version of Hypothesis.
    """
    notes = list(_unlike(earlier, now))
    before = {check.name: check for check in earlier.checks}
    regressions, passes = [], []
    for check in now.checks:
        was = before.pop(check.name, None)
        if was is None:
            notes.append(f"{check.name} was not in the earlier report")
        elif was.verdict == "pass" and check.verdict in _BAD:
            regressions.append(f"{check.name} passed then; now {_said(check)}")
        elif was.verdict == "pass" and check.verdict != "pass":
            regressions.append(f"{check.name} passed then; now it is {check.verdict}: {check.reason}")
        elif was.verdict in _BAD and check.verdict == "pass":
            passes.append(f"{check.name}; then {_said(was)}")
    notes += [f"{name} is in the earlier report alone" for name, check in before.items() if check.verdict == "pass"]
    if unlike := [note for note in notes if note.startswith("other examples")]:
        return Drift(tuple(regressions), tuple(passes), notes=(*unlike, *(n for n in notes if n not in unlike)))
    return Drift(
        tuple(regressions),
        tuple(passes),
        tuple(_budgets(earlier, now)),
        tuple(_traffic(earlier, now)),
        tuple(notes),
    )


def _unlike(earlier: ReportDocument, now: ReportDocument) -> Iterator[str]:
    facts: list[tuple[str, Any, Any]] = [(name, getattr(earlier, name), getattr(now, name)) for name in _SAME]
    name = "hypothesis"
    facts.append((name, earlier.environment.get(name), now.environment.get(name)))
    for name, then, today in facts:
        if then != today:
            yield f"other examples were judged, so budgets and bytes are not compared: {name} was {then}, now {today}"
    for name in ("torch", "device"):
        if earlier.environment.get(name) != now.environment.get(name):
            yield f"{name} was {earlier.environment.get(name)}, now {now.environment.get(name)}"
    if earlier.target.rpartition("/")[2] != now.target.rpartition("/")[2]:
        yield f"the target was {near(earlier.target)}, now {near(now.target)}"


def _said(check: CheckEntry) -> str:
    headline = check.failure.message.splitlines()[0] if check.failure is not None else check.reason
    return f"{check.verdict}: {headline}"


def _budgets(earlier: ReportDocument, now: ReportDocument) -> Iterator[str]:
    """For each check and tensor the number of ranks and dtype at which its share has grown most."""
    before = {
        (check.name, one.tensor, one.ranks, one.dtype): one.worst
        for check in earlier.checks
        for one in check.measured.budgets
    }
    for check in now.checks:
        if check.verdict != "pass":
            continue
        grown: dict[str, tuple[float, str]] = {}
        for one in check.measured.budgets:
            then = before.get((check.name, one.tensor, one.ranks, one.dtype))
            if then is not None and one.worst > GROWN * then and one.worst > then + LEAST:
                words = f"{one.dtype} on {one.ranks} rank{'s' * (one.ranks > 1)}: {then:.1%} then, {one.worst:.1%} now"
                line = (one.worst - then, f"{check.name}: {one.tensor} in {words}")
                grown[one.tensor] = max(grown.get(one.tensor, line), line)
        yield from (line for _, line in grown.values())


def _traffic(earlier: ReportDocument, now: ReportDocument) -> Iterator[str]:
    before = {(one.ranks, one.stage): one for check in earlier.checks for one in check.measured.traffic}
    for check in now.checks:
        for one in check.measured.traffic:
            then = before.get((one.ranks, one.stage))
            if then is not None and one.excess > GROWN_BYTES * then.excess:
                words = f"{then.excess:.2f} times the least then, {one.excess:.2f} times now"
                yield f"{check.name}: {one.stage} pass on {one.ranks} ranks: {words}"
