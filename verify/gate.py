"""Judges a target: every check in order, each on its own examples, in worlds that are kept."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from verify.checkpoint import Checkpoint
from verify.checks import BY_NAME, CHECKS, Check
from verify.choices import one_of
from verify.coverage import covered_pairs
from verify.explain import explain
from verify.findings import Finding, of_run
from verify.known import with_known_failures
from verify.network.drawing import draw
from verify.profiles import PROFILES, examples
from verify.repeat import repeat
from verify.replay import save
from verify.report import CheckResult, Coverage, Example, Failure, Report, verdict_of
from verify.search import Searched, search
from verify.session import Session
from verify.space import feasible_pairs
from verify.target import CLAIMS, Source, Target, TargetError, as_target, look, parse_source
from verify.world.joined import JoinedWorlds, launched_by_torchrun
from verify.world.local import WorldError, Worlds
from verify.world.messages import Job, Raised
from verify.world.state import State

DEFAULT_WORLD_SIZES = (1, 2, 3, 4)


class Progress(Protocol):
    """Is told how a judgement goes, as it goes."""

    def started(self, check: Check, examples: int) -> None:
        """A check begins, with that many examples to try."""

    def advanced(self, examples: int) -> None:
        """So many examples of the present check have been judged."""

    def finished(self, result: CheckResult) -> None:
        """A check has ended, or was not tried."""


class Silent:
    """Progress that nobody watches."""

    def started(self, check: Check, examples: int) -> None: ...

    def advanced(self, examples: int) -> None: ...

    def finished(self, result: CheckResult) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to judge: ``profile`` "quick", "standard" or "thorough"; ``checks`` by name, None for all of them.

    ``save`` is the folder for failing examples, ``claims`` what the target promises besides what it declares itself.
    Raises ValueError for what there is not.
    """

    profile: str = "standard"
    world_sizes: tuple[int, ...] = DEFAULT_WORLD_SIZES
    device: str = "cpu"
    seed: int = 0
    checks: tuple[str, ...] | None = None
    fail_fast: bool = False
    save: str | None = None
    claims: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for claim in self.claims:
            one_of("claim", claim, CLAIMS)
        one_of("profile", self.profile, PROFILES)
        one_of("device", self.device, ("cpu", "cuda"))
        for name in self.checks or ():
            one_of("check", name, BY_NAME)
        if self.checks is not None and not self.checks:
            raise ValueError(f"checks is empty; name at least one of {', '.join(BY_NAME)}")
        sizes = self.world_sizes
        if not sizes or any(type(size) is not int or not 1 <= size <= 64 for size in sizes):
            raise ValueError(f"world_sizes is {sizes}; it must hold integers from 1 to 64")
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"seed is {self.seed!r}; it must be a non-negative integer")
        if self.device == "cuda" and not launched_by_torchrun():
            present = torch.cuda.device_count() if torch.cuda.is_available() else 0
            if present < max(sizes):
                raise ValueError(
                    f"device is cuda and the largest world size {max(sizes)}, but this machine has {present} CUDA "
                    "device(s): NCCL needs one per rank"
                )


def check(
    target: Target | Callable[..., Any] | str,
    *,
    profile: str = "standard",
    world_sizes: Sequence[int] = DEFAULT_WORLD_SIZES,
    device: str = "cpu",
    seed: int = 0,
    checks: Sequence[str] | None = None,
    fail_fast: bool = False,
    save: str | None = None,
    claims: Sequence[str] = (),
    progress: Progress | None = None,
) -> Report:
    """Judge an attention against the oracle; nothing is printed, all is in the report.

    >>> report = verify.check("my_module:attend", profile="quick")
    >>> report.verdict
    'pass'

    ``target`` is a Target, a callable of the contract at the top level of a module, or what the command line takes;
    ``claims`` are added to those of the Target. The same arguments judge the same examples. Raises TargetError if the
    target does not load and ValueError for bad options; a world that cannot be started is the report's ``error``.
    """
    options = Options(
        profile=profile,
        world_sizes=tuple(sorted(set(world_sizes))),
        device=device,
        seed=seed,
        checks=None if checks is None else tuple(checks),
        fail_fast=fail_fast,
        save=save,
        claims=tuple(claims),
    )
    with Worlds(device=device) as worlds:
        if isinstance(target, str):
            import_elsewhere(parse_source(target), worlds, options.world_sizes)
        before = State.now()
        found, source = as_target(target)
        before.restore(State.now())  # what importing a target does to this process is none of the gate's
        session = Session(_claiming(found, options), source, worlds, options.world_sizes)
        with closing(session.network):
            return judge(session, options, progress or Silent())


def check_launched(target: str, worlds: JoinedWorlds, options: Options, progress: Progress | None = None) -> Report:
    """Judge in a world that a launcher has started; rank 0 calls this while the others ``serve``.

    Worlds of fewer ranks are groups of the first ones; a target that takes no sub-groups is judged on all ranks only.
    """
    before = State.now()
    found, source = as_target(target)
    before.restore(State.now())
    sizes = options.world_sizes if found.subgroups else (worlds.size,)
    session = Session(_claiming(found, options), source, worlds, sizes)
    with closing(session.network):
        return judge(session, options, progress or Silent())


def _claiming(target: Target, options: Options) -> Target:
    return replace(target, claims=tuple(dict.fromkeys((*target.claims, *options.claims))))


def import_elsewhere(source: Source, worlds: Worlds, world_sizes: Sequence[int]) -> None:
    """Import the target in a rank before it is imported here, where it could end, hang or take all memory."""
    look(source)
    try:
        run = worlds[min(world_sizes)].run(Job("load", source, (), ()))
    except WorldError:
        return  # which the judgement will report
    reply = run.replies[0]
    if isinstance(reply, Raised) and reply.type == TargetError.__name__:
        raise TargetError(reply.message)
    if finding := of_run(run):
        raise TargetError(f"target {source}: importing it failed: {finding.headline}")


def judge(session: Session, options: Options, progress: Progress) -> Report:
    """Run the checks of the options in a session whose worlds the caller closes."""
    start = time.monotonic()
    wanted = [check for check in CHECKS if options.checks is None or check.name in options.checks]
    results: dict[str, CheckResult] = {}
    error = None
    checkpoint = Checkpoint(options.save, session.source.name)
    try:
        load_everywhere(session)
        for one in wanted:
            results[one.name] = result = run_check(one, session, options, results, progress)
            progress.finished(result)
            checkpoint.write(_report(session, options, wanted, results, "not finished yet", start))
            if options.fail_fast and verdict_of((result,)) == "fail":
                break
    except KeyboardInterrupt:
        error = "interrupted"
    except TargetError:
        raise
    except Exception as failure:
        error = f"the harness failed: {type(failure).__name__}: {failure}"
    report = _report(session, options, wanted, results, error, start)
    if error is None:
        checkpoint.remove()
    else:
        checkpoint.write(report)
    return replace(report, notes=report.notes + ((checkpoint.trouble,) if checkpoint.trouble else ()))


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
        target=str(session.source),
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
        notes=session.worlds.notes() + _larger_worlds(session) + _whole_contract(session, checks),
    )


def _larger_worlds(session: Session) -> tuple[str, ...]:
    """A note on simulated worlds that are larger than was asked for; no real one is."""
    if not (sizes := session.network.beyond(session.largest_world)):
        return ()
    ranks = ", ".join(map(str, sizes))
    return (f"beyond the world sizes, simulated worlds of {ranks} ranks were judged, which use no transport",)


def _whole_contract(session: Session, checks: Sequence[CheckResult]) -> tuple[str, ...]:
    """A note for who has not said yet what the target does not do, where it raised: perhaps it was never meant to."""
    declares = session.target != Target(attend=session.target.attend)
    if declares or not any(check.outcome == "crash" for check in checks):
        return ()
    return (
        "the target declares no limits, and so the whole contract is tried: grouped queries, uneven shards, many "
        "branches, …; what it does not support can be declared, as Target(branches='dense'), and is then not tried",
    )


def load_everywhere(session: Session) -> None:
    """Import the target on every rank of every world, so that no example pays for it; TargetError if one cannot."""
    for entry in session.target.known_failures:
        if entry.check not in BY_NAME:
            raise TargetError(f"target {session.source}: a known failure names {entry.check!r}, which is no check")
    # A launched world is the same one for every size.
    worlds = {id(world): world for world in (session.worlds[size] for size in session.world_sizes)}.values()
    for world in worlds:  # all at once: importing may take long
        world.submit(Job("load", session.source, (), ()))
    for world in worlds:
        run = world.collect()
        if finding := of_run(run):
            raise TargetError(f"target {session.source} loads here, but not in a rank: {finding.headline}")


def run_check(
    check: Check, session: Session, options: Options, earlier: Mapping[str, CheckResult], progress: Progress
) -> CheckResult:
    """Run one check; it is blocked if one of the ``earlier`` results that it builds on is a failure, known or not."""
    return with_known_failures(_run_check(check, session, options, earlier, progress), session.target)


def _run_check(
    check: Check, session: Session, options: Options, earlier: Mapping[str, CheckResult], progress: Progress
) -> CheckResult:
    if reason := check.missing(session.target, session.world_sizes):
        return _untried(check, "unsupported", reason)
    if session.device != "cpu" and check.name in session.network.checks:
        return _untried(check, "unsupported", "the simulated network carries CPU tensors: judge with --device cpu, too")
    for name in check.builds_on:
        if name in earlier and _blocks(earlier[name], check):
            return _untried(check, "blocked", f"builds on {name}, which did not pass")
    planned = examples(options.profile, check.weight)
    progress.started(check, planned)
    start = time.monotonic()
    searched = search(check, session, examples=planned, seed=options.seed, progress=progress.advanced)
    failure = None if searched.finding is None else _failure(session, searched, options)
    return CheckResult(
        name=check.name,
        promise=check.promise,
        outcome="pass" if failure is None else failure.finding.outcome,
        examples=searched.examples,
        seconds=time.monotonic() - start,
        worst=searched.worst,
        failure=failure,
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
    again = repeat(lambda: examine(session, example), lambda: session.renew(example.case), searched.finding)
    failure = Failure(
        again.finding,
        example,
        (again.failed, again.times),
        explain(session, example, again.finding),
        steadiness=again.words,
    )
    if options.save is not None:
        try:
            failure = replace(failure, replay=save(options.save, session, failure))
            draw(options.save, session, failure)
        except OSError as error:
            failure = replace(failure, steadiness=f"{failure.steadiness}; its example could not be saved: {error}")
    return failure


def examine(session: Session, example: Example) -> Finding | None:
    """Judge one example once."""
    return BY_NAME[example.check].examine(session, example.case, example.detail).finding


def _coverage(session: Session, checks: list[Check]) -> Coverage:
    possible: set[Any] = set()
    for check in checks:
        possible |= feasible_pairs(check.space(session.target, session.world_sizes), session.largest_world)
    return Coverage(len(possible), len(possible & covered_pairs(session.tried)))


def environment(session: Session) -> dict[str, str]:
    """Versions and places that a reader needs to see the same again."""
    worlds = {"cpu": "gloo", "cuda": "nccl"}
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": f"{sys.platform} {platform.machine()}",
        "cores": str(os.cpu_count()),
        "device": session.device,
        "backend": session.worlds.backend or worlds[session.device],
    }
    if session.device == "cuda":
        found["gpu"] = torch.cuda.get_device_name(0)
    return found


def source_text(source: Source) -> str:
    """The source as the command line takes it."""
    return str(source)
