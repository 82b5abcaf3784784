"""One run of the gate: the target and its worlds, the oracle, and the cases tried so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.coverage import options_of
from attention_gate.verify.case.options import pairs
from attention_gate.verify.case.positions import Positions
from attention_gate.verify.case.styles import AUTOCAST, UNDER_AUTOCAST
from attention_gate.verify.judge.comparison import Verdict, judge
from attention_gate.verify.judge.device_memory import refuse_without_memory
from attention_gate.verify.judge.oracle import Answer, answer
from attention_gate.verify.judge.tensor_names import ALL_VALUES
from attention_gate.verify.network.simulated_worlds import NoSimulatedWorlds, SimulatedWorlds
from attention_gate.verify.rank.attended import Attended
from attention_gate.verify.rank.jobs import Job, Run
from attention_gate.verify.target.layouts import INTERLEAVED, interleaved, layout_function, takes_documents
from attention_gate.verify.target.source import Source, TargetError
from attention_gate.verify.target.target import Target
from attention_gate.verify.world.failed_runs import finding_of
from attention_gate.verify.world.finding import Finding
from attention_gate.verify.world.launched_ranks import LaunchedWorlds
from attention_gate.verify.world.local import Worlds


@dataclass
class Session:
    """What every check works with. ``tried`` has cases whose runs returned, ``covered`` their pairs of options.

    ``examined`` has the examples that were examined, in their order: check, case and parameters.
    ``network`` has worlds on the simulated network: who creates the session closes it. ``meanwhile`` is called while
    the ranks work.
    """

    target: Target
    source: Source
    worlds: Worlds | LaunchedWorlds
    world_sizes: tuple[int, ...]
    tried: set[Case] = field(default_factory=set)
    covered: set[tuple[tuple[str, Any], tuple[str, Any]]] = field(default_factory=set)
    network: SimulatedWorlds = field(default_factory=NoSimulatedWorlds)
    meanwhile: Callable[[], None] | None = None
    examined: list[tuple[str, Case, dict[str, Any]]] = field(default_factory=list)
    _rows: set[tuple[object, ...]] = field(default_factory=set)
    _placed: dict[Case, Positions] = field(default_factory=dict)

    def __post_init__(self) -> None:
        least = self.target.least_ranks
        taken = tuple(size for size in self.world_sizes if size >= least)
        if not taken:
            sizes = ",".join(map(str, self.world_sizes))
            raise TargetError(f"target {self.source} needs at least {least} ranks, but --world-sizes is {sizes}")
        self.world_sizes = taken

    @property
    def device(self) -> str:
        """Where the target computes: "cpu" or "cuda"."""
        return self.worlds.device

    @property
    def largest_world(self) -> int:
        """The most processes that a case may use."""
        return max(self.world_sizes)

    def positions(self, case: Case) -> Positions:
        """The rows that each shard owns; of replicated queries all."""
        if case not in self._placed:  # an example asks several times, for one to three cases
            while len(self._placed) > 3:
                del self._placed[next(iter(self._placed))]
            self._placed[case] = self._positions(case)
        return self._placed[case]

    def _positions(self, case: Case) -> Positions:
        keys = self._owned(case, case.length, case.document_lengths)
        if self.target.queries == "replicated":
            return Positions(keys, (np.arange(case.queries),) * case.shards, replicated=True)
        # Of queries the documents are as long as they have queries.
        documents = case.document_lengths if case.query_lengths is None else case.query_lengths
        if (case.queries, documents) == (case.length, case.document_lengths):
            return Positions(keys, keys)
        return Positions(keys, self._owned(case, case.queries, documents))

    def _owned(self, case: Case, length: int, documents: tuple[int, ...] | None) -> tuple[np.ndarray, ...]:
        layout = layout_function(self.target.layout)
        if self.target.layout == INTERLEAVED:
            layout = partial(interleaved, rows=case.interleave or 1)
        if takes_documents(layout):
            layout = partial(layout, document_lengths=documents)
        try:
            owned = tuple(np.asarray(layout(shard, case.shards, length)) for shard in range(case.shards))
        except Exception as error:
            raise TargetError(
                f"target {self.source}: its layout raised {type(error).__name__}: {error} for {case!r}"
            ) from error
        if not np.array_equal(np.sort(np.concatenate(owned)), np.arange(length)):
            raise TargetError(
                f"target {self.source}: its layout assigns {length} positions to {case.shards} ranks as "
                f"{[part.tolist() for part in owned]}; each position must have exactly one owner"
            )
        return owned

    def fitted(self, case: Case) -> Case:
        """The case as the target's ``fit`` changes it."""
        if self.target.fit is None:
            return case
        try:
            fitting = self.target.fit(case)
        except Exception as error:
            raise TargetError(
                f"target {self.source}: its fit raised {type(error).__name__}: {error} for {case!r}"
            ) from error
        if not isinstance(fitting, Case):
            raise TargetError(f"target {self.source}: its fit returned {fitting!r}, which is not a Case, for {case!r}")
        return fitting

    def answer(self, case: Case) -> Answer:
        """The oracle's answer in the target's dialect, its lse by the target's convention."""
        autocast = AUTOCAST if case.caller in UNDER_AUTOCAST else None
        right = answer(case, self.target.dialect, autocast)
        if case.sink is not None and self.target.lse_sink == "left-out":
            right = right.with_lse_of(answer(case.replace(sink=None), self.target.dialect, autocast))
        if case.slopes and case.is_causal and self.target.lse_slopes == "key-position":
            right = right.with_lse_by_key_position(case)
        return right

    def spoken(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options of a procedure, with what the target means otherwise by the arguments of a call."""
        counts = self.target.window_counts
        return options if counts == "distance" else {"window_counts": counts, **options}

    def totals(self) -> tuple[str, ...]:
        """The gradients of what every rank has that the target returns whole on each."""
        joint = ("joint_key.grad", "joint_value.grad") if self.target.joint_gradient == "total" else ()
        return (*joint, *(("sink.grad",) if self.target.sink_gradient == "total" else ()))

    def run(self, procedure: str, *cases: Case, **options: Any) -> Run:
        """Run a procedure on the ranks; meanwhile the oracle answers here, on the other core."""
        world = self.worlds[cases[0].world_size]
        positions = tuple(self.positions(case) for case in cases)
        placed = tuple(world.place(case) for case in cases) if isinstance(world, LaunchedWorlds) else cases
        world.submit(Job(procedure, self.source, placed, positions, self.spoken(options)))
        if procedure != "refuse":
            for case in cases:
                self.answer(case)
        if self.meanwhile is not None:
            self.meanwhile()
        run = world.collect()
        refuse_without_memory(run)
        if run.outcome == "returned":
            self.note(cases)
        return run

    def renew(self) -> None:
        """Let the next call in any world be the first in its processes, where they can be replaced."""
        if isinstance(self.worlds, Worlds):
            self.worlds.close()
        else:
            self.worlds.renew()
        self.network.close()

    def note(self, cases: Sequence[Case]) -> None:
        """Remember cases for the coverage: one for each row of options, so that a long run needs no more memory."""
        for case in cases:
            options = options_of(case)
            row = tuple(options.values())
            if row not in self._rows:
                self._rows.add(row)
                self.tried.add(case)
                self.covered.update(pairs(options))

    def attend(self, case: Case, **options: Any) -> tuple[list[Attended], Finding | None]:
        """One call on every rank: the shards' results in their order, or the finding if it did not return."""
        run = self.run("attend", case, **options)
        if finding := finding_of(run):
            return [], finding
        return [run.value(rank) for rank in case.ranks], None

    def judged(
        self,
        case: Case,
        *,
        names: Sequence[str] = ALL_VALUES,
        purity: bool = False,
        **options: Any,
    ) -> Verdict:
        """One call on every rank, judged against the oracle."""
        attended, finding = self.attend(case, **options)
        if finding:
            return Verdict(np.inf, finding)
        return self.judge(case, attended, names=names, purity=purity)

    def judge(
        self, case: Case, attended: Sequence[Attended], *, names: Sequence[str] = ALL_VALUES, purity: bool = False
    ) -> Verdict:
        """Judge results that have been computed already."""
        positions, right = self.positions(case), self.answer(case)
        return judge(
            case,
            attended,
            positions,
            right,
            device=self.device,
            names=names,
            purity=purity,
            totals=self.totals(),
        )
