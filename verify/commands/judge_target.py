"""Judging a target, as ``attention_gate.check`` and the command line do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from attention_gate.verify.judge.session import Session
from attention_gate.verify.network.simulated_worlds import SimulatedWorlds
from attention_gate.verify.rank.jobs import Job, Raised
from attention_gate.verify.rank.process_state import State
from attention_gate.verify.report.saved_run import record_in
from attention_gate.verify.run.judgement import Report
from attention_gate.verify.run.judging import judge
from attention_gate.verify.run.observer import Progress, Silent
from attention_gate.verify.run.request import DEFAULT_WORLD_SIZES, Options
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.target.source import Source, TargetError, look, parse_source
from attention_gate.verify.target.target import Target
from attention_gate.verify.world.failed_runs import finding_of
from attention_gate.verify.world.launched_ranks import LaunchedWorlds
from attention_gate.verify.world.local import WorldError, Worlds


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
    claims: str | Sequence[str] = (),
    terms: str | Sequence[str] = (),
    patience: float | None = None,
    pictures: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Judge an attention against the oracle; nothing is printed, all is in the report.

    >>> report = attention_gate.check("my_module:attend", profile="quick")
    >>> report.verdict
    'pass'

    ``target`` is a Target, a callable of the contract at the top level of a module, or what the command line takes;
    ``claims`` and ``terms`` ("all" is all terms) are added to those of the Target; ``patience`` stretches all limits of
    time, so that a call may work for as many seconds (the first one of a process for longer); ``pictures`` keeps for
    each failure what ``attention_gate.html`` draws of it. The same arguments judge the same examples.
    Raises TargetError if the target does not load and ValueError for bad options; a world that cannot be started is
    the report's ``error``.
    """
    options = Options(
        profile=profile,
        world_sizes=tuple(sorted(set(world_sizes))),
        device=device,
        seed=seed,
        checks=None if checks is None else tuple(checks),
        fail_fast=fail_fast,
        save=save,
        claims=(claims,) if isinstance(claims, str) else tuple(claims),
        terms=(terms,) if isinstance(terms, str) else tuple(terms),
        patience=patience,
        pictures=pictures,
    )
    with Worlds(device=device, patience=patience) as worlds:
        if isinstance(target, str):
            import_elsewhere(parse_source(target), worlds, options.world_sizes)
        before = State.now()
        found, source = as_target(target)
        before.restore(State.now())  # what importing a target does to this process is none of the gate's
        network = SimulatedWorlds(device=device, patience=patience)
        session = Session(claiming(found, options), source, worlds, options.world_sizes, network=network)
        with closing(session.network):
            return judge(session, options, progress or Silent(), record_in(options.save, session))


def check_launched(target: str, worlds: LaunchedWorlds, options: Options, progress: Progress | None = None) -> Report:
    """Judge in a world that a launcher has started; rank 0 calls this while the others ``serve``.

    Worlds of fewer ranks are groups of the first ones; a target that takes no sub-groups is judged on all ranks only.
    """
    before = State.now()
    found, source = as_target(target)
    before.restore(State.now())
    sizes = options.world_sizes if found.subgroups else (worlds.size,)
    network = SimulatedWorlds(device=options.device, patience=options.patience)
    session = Session(claiming(found, options), source, worlds, sizes, network=network)
    with closing(session.network):
        return judge(session, options, progress or Silent(), record_in(options.save, session))


def claiming(target: Target, options: Options) -> Target:
    """The target with the claims and terms of the options beside its own."""
    return replace(
        target,
        claims=tuple(dict.fromkeys((*target.claims, *options.claims))),
        terms=tuple(dict.fromkeys((*target.terms, *options.terms))),
    )


def import_elsewhere(source: Source, worlds: Worlds, world_sizes: Sequence[int]) -> None:
    """Import the target in a rank before it is imported here, where it could end, hang or take all memory."""
    look(source)
    try:
        run = worlds[min(world_sizes)].run(Job("load", source, (), ()))
    except WorldError:
        return  # which the run will report
    reply = run.replies[0]
    if isinstance(reply, Raised) and reply.type == TargetError.__name__:
        raise TargetError(reply.message)
    if finding := finding_of(run):
        raise TargetError(f"target {source}: importing it failed: {finding.headline}")
