"""Judges a target: every check in order, each on its own examples, in worlds that outlive a single check."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from attention_gate.verify.case.options import feasible_pairs
from attention_gate.verify.case.precision_cases import RANKS, half_types, why_not_measured
from attention_gate.verify.checks import BY_NAME, CHECKS, Check
from attention_gate.verify.checks.results import CheckResult, Example, Failure
from attention_gate.verify.explain.explain import explain
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.network.trace import Trace
from attention_gate.verify.rank.jobs import Job
from attention_gate.verify.run.environment import environment
from attention_gate.verify.run.history import CONFIRMED, before
from attention_gate.verify.run.judgement import Coverage, Report, verdict_of
from attention_gate.verify.run.known_failures import with_known_failures
from attention_gate.verify.run.observer import NOT_KEPT, Progress, Record
from attention_gate.verify.run.repetition import examine, repeat
from attention_gate.verify.run.request import Options
from attention_gate.verify.run.search import Searched, search
from attention_gate.verify.target.source import TargetError
from attention_gate.verify.target.target import Target
from attention_gate.verify.world.failed_runs import finding_of
from attention_gate.verify.world.local import Worlds


def judge(session: Session, options: Options, progress: Progress, record: Record = NOT_KEPT) -> Report:
    """Run the checks of the options in a session whose worlds the caller closes; what fails goes into the record."""
    start = time.monotonic()
    wanted = [check for check in CHECKS if options.checks is None or check.name in options.checks]
    results: dict[str, CheckResult] = {}
    error = None
    try:
        load_everywhere(session)
        for one in wanted:
            results[one.name] = result = run_check(one, session, options, results, progress, record)
            progress.finished(result)
            if result.examples:
                record.so_far(partial(_report, session, options, wanted, results, "not finished yet", start))
            if options.fail_fast and verdict_of((result,)) == "fail":
                break
    except KeyboardInterrupt:
        error = "interrupted"
    except TargetError:
        raise
    except Exception as failure:
        error = f"the harness failed: {type(failure).__name__}: {failure}"
    return record.ended(_report(session, options, wanted, results, error, start))


def _report(
    session: Session,
    options: Options,
    wanted: Sequence[Check],
    results: Mapping[str, CheckResult],
    error: str | None,
    start: float,
) -> Report:
    """The report on what there is; checks without a result were not run."""
    reason = error or "an earlier check failed (fail-fast)"
    checks = tuple(results.get(one.name) or _untried(one, "not run", reason) for one in wanted)
    verdict = verdict_of(checks)
    if error is not None and verdict != "fail":
        verdict = "error" if error.startswith("the harness") else "incomplete"
    return Report(
        target=session.source.address,
        verdict=verdict,
        seconds=time.monotonic() - start,
        checks=checks,
        unsupported=session.target.unsupported(),
        environment=environment(session),
        profile=options.profile,
        seed=options.seed,
        world_sizes=session.world_sizes,
        coverage=_coverage(session, [BY_NAME[c.name] for c in checks if c.examples]),
        error=error,
        notes=(
            _transports(session, checks)
            + session.worlds.notes()
            + _larger_worlds(session)
            + _running_sums(session, checks)
            + _whole_contract(session, checks)
        ),
        declared=session.target,
    )


def _running_sums(session: Session, checks: Sequence[CheckResult]) -> tuple[str, ...]:
    """A note where precision was judged element by element alone, which a rounded running sum passes."""
    ranks = RANKS if session.device == "cpu" else min(RANKS, session.largest_world)
    reason = why_not_measured(session.target, session.world_sizes, ranks)
    judged = any(check.name == "precision" and check.outcome == "pass" for check in checks)
    if not reason or not judged or not half_types(session.target):
        return ()
    return (f"not judged: running sums rounded to {' or '.join(half_types(session.target))}, as {reason}",)


def _transports(session: Session, checks: Sequence[CheckResult]) -> tuple[str, ...]:
    """A note on what carried the messages between GPUs, as ranks may share them."""
    if session.device != "cuda":
        return ()
    simulated = [check.name for check in checks if check.examples and check.name in session.network.checks]
    note = f"transport: {session.worlds.transport(session.world_sizes)}"
    return (f"{note}; the simulated network for {', '.join(simulated)}" if simulated else note,)


def _larger_worlds(session: Session) -> tuple[str, ...]:
    """A note on simulated worlds that are larger than was asked for; no real one is."""
    if not (sizes := session.network.beyond(session.largest_world)):
        return ()
    ranks = ", ".join(map(str, sizes))
    return (f"simulated worlds of {ranks} ranks were judged in addition (simulated network only, no gloo or NCCL)",)


def _whole_contract(session: Session, checks: Sequence[CheckResult]) -> tuple[str, ...]:
    """A note for bare callables that raised: they may not be meant to support the whole contract."""
    declares = session.target != Target(attend=session.target.attend)
    if declares or not any(check.outcome == "crash" for check in checks):
        return ()
    return (
        "the target declares no limits, so the whole contract was tried (grouped queries, uneven shards, many "
        "branches, …); declare what it does not support, for example Target(branches='dense')",
    )


def load_everywhere(session: Session) -> None:
    """Import the target on every rank of every world, so that no example pays for it; TargetError if one cannot."""
    for entry in session.target.known_failures:
        if entry.check not in BY_NAME:
            raise TargetError(f"target {session.source}: a known failure names {entry.check!r}, which is not a check")
    # A launched world serves every size.
    worlds = {id(world): world for world in (session.worlds[size] for size in session.world_sizes)}.values()
    for world in worlds:  # all at once: importing may take long
        world.submit(Job("load", session.source, (), ()))
    for world in worlds:
        run = world.collect()
        if finding := finding_of(run):
            raise TargetError(
                f"target {session.source} can be imported by the gate, but not in a rank: {finding.headline}"
            )


def run_check(
    check: Check,
    session: Session,
    options: Options,
    earlier: Mapping[str, CheckResult],
    progress: Progress,
    record: Record = NOT_KEPT,
) -> CheckResult:
    """Run one check; it is blocked if one of the ``earlier`` results that it builds on is a failure, known or not."""
    return with_known_failures(_run_check(check, session, options, earlier, progress, record), session.target)


def _run_check(
    check: Check,
    session: Session,
    options: Options,
    earlier: Mapping[str, CheckResult],
    progress: Progress,
    record: Record,
) -> CheckResult:
    if reason := check.missing(session.target, session.world_sizes):
        return _untried(check, "unsupported", reason)
    if not check.runs_on(session.device):
        return _untried(check, "unsupported", f"judged with --device {' or '.join(check.devices)} alone")
    if options.profile not in check.profiles:
        return _untried(check, "unsupported", f"profile {options.profile} has no time for it; {check.profiles[0]} has")
    for name in check.builds_on:
        if name in earlier and _blocks(earlier[name], check):
            return _untried(check, "blocked", f"builds on {name}, which did not pass")
    planned = check.examples(options.profile)
    progress.started(check, planned)
    start = time.monotonic()
    searched = search(check, session, examples=planned, seed=options.seed, progress=progress.advanced)
    failure = None if searched.finding is None else record.failed(session, _failure(session, searched, options))
    return CheckResult(
        name=check.name,
        promise=check.promise,
        outcome="pass" if failure is None else failure.finding.outcome,
        examples=searched.examples,
        seconds=time.monotonic() - start,
        budget_used=searched.budget_used,
        failure=failure,
        remark=searched.remark[1],
        measured=searched.tally.measured(),
    )


def _blocks(earlier: CheckResult, check: Check) -> bool:
    """Whether that result keeps a check that builds on it from being tried."""
    several = earlier.failure is not None and earlier.failure.example.case.shards > 1
    if several and earlier.outcome in check.explains:
        return False
    return earlier.outcome in ("fail", "crash", "hang", "blocked", "known")


def _untried(check: Check, outcome: str, reason: str) -> CheckResult:
    return CheckResult(check.name, check.promise, outcome, 0, 0.0, reason=reason)


def _failure(session: Session, searched: Searched, options: Options) -> Failure:
    assert searched.finding is not None
    assert searched.example is not None
    example = searched.example
    again = repeat(lambda: examine(session, example), session.renew, searched.finding)
    trace = _trace(session, example) if options.pictures else None
    explanation = explain(session, example, again.finding)
    times = (again.failed, again.times)
    failure = Failure(
        again.finding,
        example,
        times,
        explanation,
        steadiness=again.words,
        trace=trace,
        positions=session.positions(example.case),
    )
    if again.failed < again.times and isinstance(session.worlds, Worlds):
        return _with_history(session, failure)
    return failure


def _trace(session: Session, example: Example) -> Trace | None:
    """The example's run on the simulated network, for its picture; None if it cannot run there."""
    if example.check in session.network.checks:
        return None if session.network.latest is None else session.network.latest.trace
    if session.device != "cpu" or example.case.shards < 2:
        return None
    try:
        return simulate(session, example.case, judged=False, count_work=True).trace
    except Exception:  # the picture is not worth the report
        return None


def _with_history(session: Session, failure: Failure) -> Failure:
    """The failure with the calls before that lead to it, if they can be found again."""
    if not (history := before(session, failure.example, failure.finding)):
        return failure
    calls = "1 call" if len(history) == 1 else f"{len(history)} calls"
    words = f"in fresh processes it fails after {calls} that came before ({CONFIRMED} of {CONFIRMED})"
    return replace(failure, history=history, repeated=(CONFIRMED, CONFIRMED), steadiness=words)


def _coverage(session: Session, checks: list[Check]) -> Coverage:
    possible: set[Any] = set()
    options: dict[str, None] = {}
    for check in checks:
        axes = check.space(session.target, session.world_sizes)
        options.update(dict.fromkeys(name for name, values in axes.items() if len(values) > 1))
        possible |= feasible_pairs(axes, session.largest_world)
    covered = possible & session.covered
    missing = sorted(f"{one}={a} with {other}={b}" for (one, a), (other, b) in possible - covered)
    return Coverage(len(possible), len(covered), tuple(options), tuple(missing))
