"""What a call needs on each rank at sizes that no one machine has: bytes, messages and time; and a check of the counts.

    python benchmarks/beyond.py   # 2^27 tokens on 512 ranks, and counts on 2, 4 and 16 simulated ranks

Rows are computed from the index sets: those that a rank's queries see and other ranks own, each once. The same
computation is compared with what Robust sends on the simulated network, where a rank has 4096 times fewer rows.
"""

import sys
from contextlib import closing
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from attention_gate.verify.case.case import Case
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.long.long_cases import schedule
from attention_gate.verify.network.network import Schedule
from attention_gate.verify.network.simulated_worlds import SimulatedWorlds
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.world.local import Worlds

HEADS, DIM = 16, 128

#: Measured on two H100 GPUs: benchmarks/h100x2/logic.log has both. Bytes a second of a step of a ring with 256 MiB,
#: seconds of one with 1 KiB; seconds of a call on 2^19 rows a rank, forward and with gradients, and rows a rank.
LINK, LATENCY = 276e9, 62e-6
FORWARD, BOTH, ROWS = 36.25e-3, 138.87e-3, 1 << 19


def branches(length: int, segment: int) -> list[tuple[int, int]]:
    """LongNet's schedule to the whole sequence."""
    return list(zip(*schedule(length, segment=segment, growth=2), strict=True))


def rows_in(rank: int, ranks: int, rows: int, pairs: list[tuple[int, int]], head: int) -> dict[int, int]:
    """How many rows of a head a rank gets from each other rank: all selected ones of its segments, causality aside."""
    length, found = rows * ranks, {}
    needed = []
    for w, r in pairs:
        for start in range(rank * rows // w * w, (rank + 1) * rows, w):
            offset = head % r
            positions = np.arange(start + offset, min(start + w, length), r)
            own = (positions >= rank * rows) & (positions < (rank + 1) * rows)
            if own.any():
                needed.append(positions[~own])
    each = np.unique(np.concatenate(needed)) if needed else np.zeros(0, dtype=np.int64)
    for owner, count in zip(*np.unique(each // rows, return_counts=True), strict=True):
        found[int(owner)] = int(count)
    return found


def counted(ranks: int, rows: int, segment: int) -> tuple[int, int]:
    """The most bytes and messages that a rank of Robust sends in a call with gradients, on the simulated network."""
    lengths, rates = schedule(rows * ranks, segment=segment, growth=2)
    case = Case(
        world_size=ranks, length=rows * ranks, heads=2, kv_heads=2, head_dim=4, value_dim=4, dtype="float32",
        segment_lengths=lengths, dilation_rates=rates,
    )  # fmt: skip
    target, source = as_target("impls.robust:attend")
    with Worlds() as worlds, closing(SimulatedWorlds()) as network:
        session = Session(target, source, worlds, (ranks,), network=network)
        run = simulate(session, case, schedule=Schedule("stream"), judged=False)
    assert run.finding is None, run.finding
    loads = [run.trace.load(rank) for rank in range(ranks)]
    return max(load.bytes_sent for load in loads), max(load.messages_sent for load in loads)


def predicted(ranks: int, rows: int, segment: int, heads: int) -> list[dict[int, int]]:
    """For each rank, the rows (of all heads) that it gets from each other rank."""
    pairs, found = branches(rows * ranks, segment), []
    for rank in range(ranks):
        total: dict[int, int] = {}
        for head in range(heads):
            for owner, count in rows_in(rank, ranks, rows, pairs, head).items():
                total[owner] = total.get(owner, 0) + count
        found.append(total)
    return found


def main() -> None:
    """Compare counts on 2, 4 and 16 ranks, then compute 512."""
    print("64 rows a rank, segments from 16 on, 2 heads of 4, float32, with gradients, the most of a rank")
    for ranks in (2, 4, 16):
        into = predicted(ranks, 64, 16, 2)
        out = [sum(each.get(rank, 0) for each in into) for rank in range(ranks)]
        wide = 4 * (4 + 4)
        # Forward and backward rows leave for their users, and the gradients of those that came in go home.
        computed = max((2 * out[rank] + sum(into[rank].values())) * wide for rank in range(ranks))
        peers = max(len(each) for each in into)
        sent, messages = counted(ranks, 64, 16)
        print(
            f"{ranks:3} ranks: computed {computed} bytes to {peers} ranks; counted {sent} bytes in {messages} messages"
        )
    ranks, rows = 512, 1 << 18
    pairs = branches(rows * ranks, 2048)
    per_rank = [[rows_in(rank, ranks, rows, pairs, head) for head in range(HEADS)] for rank in (0, 1, 255, 256, 511)]
    for rank, of_heads in zip((0, 1, 255, 256, 511), per_rank, strict=True):
        total = sum(sum(each.values()) for each in of_heads)
        peers = len(set().union(*of_heads))
        print(f"rank {rank} of {ranks}, {rows} rows each: {total} rows of a head in, from {peers} ranks")
    most = max(sum(sum(each.values()) for each in of_heads) for of_heads in per_rank)
    forward = most * 2 * DIM * 2
    home = most * 2 * DIM * 4
    print(f"forward {forward / 2**20:.0f} MiB in; backward as much, and {home / 2**20:.0f} MiB of gradients home")
    held = 7 * rows * HEADS * DIM * 2 / 2**30
    print(f"{len(pairs)} branches of 2048 keys; {held:.1f} GiB of inputs, results and gradients in bfloat16")
    # Of each branch a head selects 1 / r of the queries: longer branches hardly add to the work of a row.
    work = rows / ROWS
    for name, seconds, moved, hops in (
        ("forward", FORWARD, forward, ranks - 1),
        ("forward and backward", BOTH, 2 * forward + home, 3 * (ranks - 1)),
    ):
        print(
            f"{name}: kernels {1e3 * seconds * work:.0f} ms, bytes {1e3 * moved / LINK:.1f} ms, "
            f"messages {1e3 * hops * LATENCY:.0f} ms if each waits for the one before"
        )


if __name__ == "__main__":
    main()
