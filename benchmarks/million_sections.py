"""The sections of million.py, each a process: verdicts at sampled rows and by laws, errors by length, link rates."""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from attention_gate.verify.case.case import Case
from attention_gate.verify.judge.session import Session
from attention_gate.verify.long.chosen_rows import Chosen, choose
from attention_gate.verify.long.laws import LAWS
from attention_gate.verify.long.long_cases import cases_of, schedule
from attention_gate.verify.long.sampled_verdict import SampledAnswer, judge_rows, sampled_answer, scores_of
from attention_gate.verify.long.steps import SAMPLES, examine
from attention_gate.verify.rank.jobs import Job
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.target.source import parse_source
from attention_gate.verify.world.failed_runs import finding_of
from attention_gate.verify.world.local import Worlds

BOTH = ("impls.robust:attend", "impls.collective:attend")
MISTAKES = ("past_two_to_the_31", "one_row_in_a_thousand", "last_segment", "row_offset_wraps")
SECONDS = 100.0


def longnet(length: int, world_size: int, heads: int = 8, head_dim: int = 64, **options: object) -> Case:
    """LongNet's schedule to the whole sequence: segments from 2048 on, doubling with their rates."""
    lengths, rates = schedule(length, segment=2048, growth=2)
    return dense(length, world_size, heads, head_dim, segment_lengths=lengths, dilation_rates=rates, **options)


def dense(length: int, world_size: int, heads: int = 8, head_dim: int = 64, **options: object) -> Case:
    """One causal branch, unless the options say otherwise, in bfloat16 on data whose sums do not cancel."""
    plain = {"segment_lengths": (length,), "dilation_rates": (1,), "is_causal": True, "data": "one-sided"}
    shape = {"heads": heads, "kv_heads": heads, "head_dim": head_dim, "value_dim": head_dim}
    return Case(world_size=world_size, length=length, dtype="bfloat16", **(shape | plain | options))


def _share(job: tuple[Case, Chosen]) -> SampledAnswer:
    return sampled_answer(*job, "longnet")


def answered(case: Case, chosen: Chosen, pool: ProcessPoolExecutor, cores: int) -> SampledAnswer:
    """Ask the oracle in many processes, each for a range of neighbouring rows, as these read the same keys."""
    nothing = np.zeros(0, dtype=np.int64)
    jobs = [Chosen(queries, nothing, (0, 0)) for queries in np.array_split(chosen.queries, cores)]
    jobs += [Chosen(nothing, keys, (0, 0)) for keys in np.array_split(chosen.keys, cores)]
    shares = list(pool.map(_share, [(case, job) for job in jobs]))
    of_queries, of_keys = shares[:cores], shares[cores:]
    expected = {}
    for name in shares[0].expected:
        parts = of_keys if name in ("key.grad", "value.grad") else of_queries
        expected[name] = np.concatenate([part.expected[name] for part in parts], axis=2 if name == "lse" else 1)
    return SampledAnswer(expected, np.concatenate([part.column_sums for part in of_keys], axis=1))


class Bench:
    """The worlds, the processes of the oracle, and what was measured."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.size = options, options.gpus
        self.cores = max(1, min(28, (os.cpu_count() or 2) - 2))
        self.pool = ProcessPoolExecutor(self.cores)
        self.worlds = Worlds(device=options.device)
        self.measured: list[dict] = []

    def write(self, name: str) -> None:
        """Write what has been measured."""
        (self.options.out / f"{name}.json").write_text(json.dumps(self.measured, indent=1) + "\n")

    def session(self, name: str) -> Session:
        target, source = as_target(name)
        return Session(target, source, self.worlds, (self.size,))

    def judge(self, case: Case, *, random_queries: int = 6905, key_scores: float = 1e9, targets: tuple = BOTH) -> None:
        """Judge the targets on one case by samples; the oracle is asked once."""
        session = self.session(targets[0])
        chosen = choose(case, session.positions(case).keys, key_scores=key_scores, random_queries=random_queries)
        start = time.monotonic()
        right = answered(case, chosen, self.pool, self.cores)
        print(f"{case!r}")
        queries, keys = chosen.random
        print(
            f"  {len(chosen.queries)} queries ({queries} at random), {len(chosen.keys)} keys ({keys} at random), "
            f"{scores_of(case, chosen, 'longnet'):.3g} scores, oracle {time.monotonic() - start:.1f} s",
            flush=True,
        )
        for name in targets:
            session = self.session(name)
            wanted = {
                "queries": chosen.queries,
                "keys": chosen.keys,
                "dialect": "longnet",
                "lse": session.target.returns_lse,
            }
            start = time.monotonic()
            job = Job("sample", session.source, (case,), (session.positions(case),), wanted, seconds=SECONDS)
            run = self.worlds[self.size].run(job)
            seconds = time.monotonic() - start
            if finding := finding_of(run):
                print(
                    f"  {name}: {finding.outcome}: {finding.headline}", *finding.details[:8], sep="\n    ", flush=True
                )
                continue
            parts = [run.value(rank) for rank in case.ranks]
            judged = judge_rows(case, chosen, parts, right, "longnet")
            laws = [law for law in LAWS if law.procedure == "sample" and case.gradients]
            of_sums = {law.name: max(one[1] for one in law.judge(case, parts)) for law in laws}
            verdict = "FAIL" if judged.lines or any(not used <= 1.0 for used in of_sums.values()) else "ok"
            errors = ", ".join(f"{key} {value:.3f}" for key, value in judged.rms.items())
            sums = ", ".join(f"{key} {value:.2g}" for key, value in of_sums.items())
            print(
                f"  {verdict} {name}: {100 * judged.budget_used:.1f} % of what is allowed, {seconds:.1f} s; root mean "
                f"square errors in roundings: {errors}; shares of the laws: {sums}",
                *judged.lines,
                sep="\n    ",
                flush=True,
            )
            self.measured.append(
                {
                    "target": name,
                    "length": case.length,
                    "branches": len(case.segment_lengths),
                    "verdict": verdict,
                    "used": judged.budget_used,
                    "rms": judged.rms,
                    "laws": of_sums,
                    "queries": len(chosen.queries),
                    "keys": len(chosen.keys),
                    "seconds": seconds,
                    "case": repr(case),
                }
            )

    def laws(self, case: Case, names: tuple = BOTH) -> None:
        """Judge the targets on one case by the other laws."""
        for name in names:
            for law in LAWS:
                if law.procedure != "sample":
                    start = time.monotonic()
                    outcome = examine(self.session(name), case, law.name, seconds=SECONDS)
                    print(
                        f"  {outcome.verdict} {name}, {law.name}: {100 * outcome.used:.2g} % of what is allowed, "
                        f"{time.monotonic() - start:.1f} s",
                        *outcome.lines,
                        sep="\n    ",
                        flush=True,
                    )
                    self.measured.append(
                        {
                            "target": name,
                            "length": case.length,
                            "law": law.name,
                            "verdict": outcome.verdict,
                            "used": outcome.used,
                        }
                    )


def verdicts(bench: Bench) -> None:
    """LongNet's branches at 2^20."""
    length = 1 << 20 >> bench.options.shrink
    bench.judge(longnet(length, bench.size))
    bench.laws(longnet(length, bench.size, heads=4, batch=2, data="normal"))


def curve(bench: Bench) -> None:
    """Errors by length, from 2^10 to 2^20; of dense attention to 2^15 and at 2^18, where its laws are asked too."""
    whole = 1 << 18 >> bench.options.shrink
    bench.judge(dense(whole, bench.size, heads=2), random_queries=500, key_scores=1e8)
    for power in (12, 16, 10, 14, 18, 11, 13, 15, 17, 19, 20):
        length = 1 << power >> bench.options.shrink
        if length >= 64:
            bench.judge(longnet(length, bench.size, heads=4), random_queries=600, key_scores=3e7)
            if power < 16 and power != 12:
                bench.judge(dense(length, bench.size, heads=2), random_queries=300, key_scores=3e7)
            bench.write("curve")
    bench.laws(dense(whole, bench.size, heads=2, batch=2, data="normal"))


def elements(bench: Bench) -> None:
    """More than 2^31 elements in the tensors of one rank, forward."""
    length = (9 << 17) * bench.size // 2 >> bench.options.shrink
    case = longnet(
        length, bench.size, heads=32, head_dim=128 if bench.options.device == "cuda" else 8, requires_grad=""
    )
    print(f"{length // bench.size * 32 * 128 / 2**31:.3f} times 2^31 elements on each rank", flush=True)
    bench.judge(case, random_queries=400, key_scores=0.0, targets=BOTH[:1])


def mistakes(bench: Bench) -> None:
    """The wrong implementations of tests/verify/long, with the true width of a row."""
    os.environ["LONG_WIDTH"] = str(4096 << bench.options.shrink)
    length = 1 << 20 >> bench.options.shrink
    for name in MISTAKES:
        session = bench.session(f"tests/verify/long/wrong_at_length.py:{name}")
        case = cases_of(session.target, bench.size)["logic"](length)
        for step in (SAMPLES, "constant value"):
            outcome = examine(session, case, step, seconds=SECONDS)
            caught = "caught" if outcome.verdict == "fail" else outcome.verdict
            print(f"{name}, {step} at {length}: {caught}", *outcome.lines, sep="\n    ", flush=True)
            bench.measured.append({"mistake": name, "step": step, "length": length, "verdict": outcome.verdict})


def link(bench: Bench) -> None:
    """How fast a ring passes messages of several sizes on, and how long the smallest takes."""
    source = parse_source(f"{Path(__file__).resolve()}:ring_rates")
    run = bench.worlds[bench.size].run(Job("function", source, (), (), {}, seconds=20.0))
    if finding := finding_of(run):
        print(finding.headline, *finding.details, sep="\n")
        return
    for size, seconds in run.value(0):
        print(
            f"{size} bytes to the next rank and from the one before: {1e6 * seconds:.1f} us, "
            f"{size / seconds / 1e9:.2f} GB/s"
        )
        bench.measured.append({"bytes": size, "seconds": seconds})


def ring_rates(device: torch.device) -> list[tuple[int, float]]:
    """Return for each size of message the seconds that a step of a ring takes, the median of 20."""
    rank, size = dist.get_rank(), dist.get_world_size()
    found = []
    for count in (1 << 10, 1 << 16, 1 << 20) + ((1 << 24, 1 << 28) if device.type == "cuda" else ()):
        outgoing = torch.ones(count, dtype=torch.uint8, device=device)
        incoming = torch.empty_like(outgoing)
        times = []
        for _ in range(23):
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            to = dist.P2POp(dist.isend, outgoing, (rank + 1) % size)
            of = dist.P2POp(dist.irecv, incoming, (rank - 1) % size)
            for work in dist.batch_isend_irecv([to, of]):
                work.wait()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        found.append((count, float(np.median(times[3:]))))
    return found


SECTIONS = {"verdicts": verdicts, "curve": curve, "elements": elements, "mistakes": mistakes, "link": link}


def main() -> None:
    """Run one section and write what it measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shrink", type=int, default=0)
    options = parser.parse_args()
    bench = Bench(options)
    try:
        SECTIONS[options.section](bench)
    finally:
        bench.write(options.section)
        bench.worlds.close()
        bench.pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    main()
