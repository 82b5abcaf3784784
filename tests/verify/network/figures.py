"""Figures about the simulated network that a reader may want to measure again.

python -m tests.verify.network.figures table           bytes of Robust and Collective against the least, 20 patterns
python -m tests.verify.network.figures terms           the same for 20 patterns of documents and windows
python -m tests.verify.network.figures throughput      examples per second beside gloo, in one run
python -m tests.verify.network.figures quiet [N]       findings in right targets: N random schedules each (300)
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterable

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.wire import widened
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.network.byte_bounds import least
from attention_gate.verify.network.network import MODELS, Schedule
from attention_gate.verify.network.simulated_worlds import SimulatedWorlds
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.world.local import Worlds
from tests.verify.network import term_patterns
from tests.verify.network.quiet import CORRECT, SIZES, runs
from tests.verify.network.test_wire import PATTERNS, pattern


def table(sessions: dict[str, Session]) -> None:
    """Bytes received by all ranks together; the ratio to what must be."""
    patterns = (
        (f"{segments} / {rates}", pattern(number, 2 + number % 3, is_causal=bool(number // 3 % 2)))
        for number, (segments, rates) in enumerate(PATTERNS)
    )
    _compared(sessions, "segments / rates", patterns)


def terms(sessions: dict[str, Session]) -> None:
    """The same for documents and windows over one dense branch."""
    patterns = (
        (
            f"{documents or 'none'} / {window or 'none'}",
            term_patterns.pattern(number, 2 + number % 3, is_causal=bool(number // 3 % 2)),
        )
        for number, (documents, window) in enumerate(term_patterns.PATTERNS)
    )
    _compared(sessions, "documents / window", patterns)


def _compared(sessions: dict[str, Session], what: str, patterns: Iterable[tuple[str, Case]]) -> None:
    print(f"| {what} | p | mask | least forward | Robust | Collective | least backward | Robust | Collective |")
    print("|---|---|---|---|---|---|---|---|---|")
    for words, case in patterns:
        case = widened(sessions["robust"], case)
        positions = sessions["robust"].positions(case)
        traces = [simulate(session, case, judged=False).trace for session in sessions.values()]
        cells = [words, str(case.world_size), "causal" if case.is_causal else "full"]
        for stage in ("forward", "backward"):
            bound = sum(allowance.received for allowance in least(case, "longnet", positions, stage))
            cells.append(f"{bound:,.0f}")
            for trace in traces:
                got = sum(trace.load(rank, [stage]).bytes_received for rank in case.ranks)
                cells.append(f"{got:,} ({got / bound:.4f})" if bound else f"{got:,}")
        print(f"| {' | '.join(cells)} |")


def throughput(sessions: dict[str, Session], examples: int = 60) -> None:
    """The same cases over gloo and over the simulated network under random schedules, in turns, both judged."""
    for name, session in sessions.items():
        for size in (2, 4):
            case = Case(
                world_size=size,
                length=3 * size + 1,
                pass_length=True,
                heads=2,
                head_dim=3,
                value_dim=2,
                segment_lengths=(3 * size, 4),
                dilation_rates=(1, 2),
            )
            seconds = {"gloo": 0.0, "simulated": 0.0}
            for k in range(-4, examples):
                draws = random.Random(k)
                made = case.replace(seed=max(k, 0), is_causal=bool(k % 2))
                schedule = Schedule(MODELS[k % 3], tuple(draws.randrange(8) for _ in range(draws.randrange(13))))
                for transport in seconds:
                    start = time.perf_counter()
                    if transport == "gloo":
                        finding = session.judged(made).finding
                    else:
                        run = simulate(session, made, schedule=schedule).run
                        finding = session.judge(made, [run.value(rank)[0] for rank in made.ranks]).finding
                    assert finding is None
                    seconds[transport] += (time.perf_counter() - start) * (k >= 0)
            rates = {transport: examples / spent for transport, spent in seconds.items()}
            ratio = rates["simulated"] / rates["gloo"]
            print(
                f"{name}, world {size}: " + ", ".join(f"{t} {r:.1f}/s" for t, r in rates.items()), f"ratio {ratio:.2f}"
            )


def quiet(sessions: dict[str, Session], schedules: str = "300") -> None:
    """Right ones under random schedules, in all delivery models and many sizes of the world; nothing may be found."""
    sizes = ", ".join(map(str, SIZES))
    print(f"{schedules} random schedules each, {', '.join(MODELS)}; worlds of {sizes}")
    for name in CORRECT:
        start, judged, found = time.perf_counter(), 0, []
        for finding in runs(name, int(schedules)):
            judged += 1
            found += [] if finding is None else [finding.headline]
        print(f"{name}: {judged} runs, {len(found)} findings, {time.perf_counter() - start:.0f} s", *found, flush=True)


def main(what: str = "", *arguments: str) -> None:
    """Measure what is asked for."""
    functions = {"table": table, "terms": terms, "throughput": throughput, "quiet": quiet}
    if what not in functions:
        sys.exit(__doc__)
    with SimulatedWorlds() as network, Worlds() as worlds:
        sessions = {}
        for name in ("robust", "collective"):
            target, source = as_target(f"impls.{name}:attend")
            sessions[name] = Session(target, source, worlds, (1, 2, 3, 4), network=network)
        functions[what](sessions, *arguments)  # type: ignore[operator]


if __name__ == "__main__":
    main(*sys.argv[1:])
