"""Where the time of a pass goes on one GPU of several: how long attention kernels run, and what keeps them waiting.

    torchrun --nproc-per-node 4 benchmarks/profile_passes.py dense-8k-causal:zigzag dense-8k longnet-32k

Each name is a workload of `compare`, by itself or with `:zigzag` for that layout, or `:collective` for Collective. For
each pass, forward and forward with backward: milliseconds of a call on the slowest rank, how long each rank's host
needs to begin one, how long any attention kernel ran meanwhile; and of the rest, what else ran then, or that nothing
did. The latter are of rank 0, per call. `--brief` prints milliseconds alone, `--host` also in which functions the host
of rank 0 spends its time, `--captured` also the milliseconds of the same pass as a CUDA graph, which needs no host,
`--floor` those of the fastest kernels alone, as `compare` takes them. `--kernels` chooses kernels, `--least-elements`
sets how large a part of the rows that travel is at least.
"""

import argparse
import cProfile
import io
import os
import pstats
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[1]))

from attention_gate.impls import collective, kernels, robust
from attention_gate.impls.fused import plan as fused_plan
from attention_gate.verify.compare.cuda_graphs import captured
from attention_gate.verify.compare.timing import floor, timed
from attention_gate.verify.compare.workloads import WORKLOADS

CALLS, HOST_CALLS, HOST_ROUNDS = 5, 10, 5
ATTENTION = ("fmha", "flash", "sdpa", "cudnn_generated_fort_native")  # in names of kernels that attend

Interval = tuple[int, int]


def passes(name: str, device: torch.device) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the passes of a workload."""
    workload_name, _, how = name.partition(":")
    workload, size = WORKLOADS[workload_name], dist.get_world_size()
    torch.manual_seed(dist.get_rank())
    shape = (1, workload.rows, workload.heads, workload.head_dim)
    query, key, value, upstream = (torch.randn(shape, dtype=torch.bfloat16, device=device) for _ in range(4))
    inputs = [tensor.requires_grad_() for tensor in (query, key, value)]
    options: dict[str, Any] = {
        "segment_lengths": list(workload.lengths(size)),
        "dilation_rates": list(workload.dilation_rates),
        "is_causal": workload.is_causal,
        "layout": "zigzag" if how == "zigzag" else "contiguous",
    }
    attend = collective.attend if how == "collective" else robust.attend

    def forward() -> Any:
        with torch.no_grad():
            return attend(*inputs, **options)

    def both() -> Any:
        out = attend(*inputs, **options)
        assert isinstance(out, torch.Tensor)
        return torch.autograd.grad(out, inputs, upstream)

    yield "forward", forward
    yield "both", both


def kernels_of(call: Callable[[], Any]) -> list[tuple[str, int, int]]:
    """Return name, start and end, in nanoseconds, of all that ran on the GPU during some calls in a row."""
    dist.barrier()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(CALLS):
            call()
        torch.cuda.synchronize()
    events = profiled.profiler.kineto_results.events()  # type: ignore[union-attr]
    return [
        (event.name(), event.start_ns(), event.start_ns() + event.duration_ns())
        for event in events
        if event.device_type() == torch.autograd.DeviceType.CUDA and event.duration_ns() > 0
    ]


def host_times(call: Callable[[], Any]) -> list[float]:
    """Return the milliseconds that each rank's host needs to begin a call, of several in a row on an idle GPU."""
    taken = []
    for _ in range(HOST_ROUNDS):
        dist.barrier()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(HOST_CALLS):
            call()
        taken.append(1000 * (time.perf_counter() - start) / HOST_CALLS)
        torch.cuda.synchronize()
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, statistics.median(taken))
    return found


def host_functions(call: Callable[[], Any]) -> str:
    """Return the functions in which the host spends most of its own time, as it begins several calls in a row."""
    profiler = cProfile.Profile()
    for _ in range(HOST_ROUNDS):
        dist.barrier()
        torch.cuda.synchronize()
        profiler.enable()
        for _ in range(HOST_CALLS):
            call()
        profiler.disable()
    text = io.StringIO()
    # A profiled call takes longer; what a function takes of it is its share.
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(40)
    return text.getvalue()


def union(intervals: list[Interval]) -> list[Interval]:
    """Return when at least one of the intervals is under way."""
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def outside(interval: Interval, others: list[Interval]) -> int:
    """Return how much of an interval lies in none of the others, which are sorted and apart."""
    start, end = interval
    return end - start - sum(max(0, min(end, stop) - max(start, begin)) for begin, stop in others)


def report(ran: list[tuple[str, int, int]]) -> str:
    """Return what ran, and what ran while no attention kernel did."""
    attending = union([(start, end) for kernel, start, end in ran if any(part in kernel for part in ATTENTION)])
    anything = union([(start, end) for _, start, end in ran])
    idle = outside((anything[0][0], anything[-1][1]), anything)

    def shown(nanoseconds: int) -> str:
        return f"{nanoseconds / CALLS / 1e6:8.3f} ms"

    exposed: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for kernel, start, end in ran:
        whole[kernel] += end - start
        exposed[kernel] += outside((start, end), attending)
        count[kernel] += 1
    lines = [
        f"    attention runs {shown(sum(end - start for start, end in attending))}, nothing runs {shown(idle)}",
        f"    {'takes':>11} {'exposed':>11} {'a call':>7}",
    ]
    for kernel, _ in whole.most_common(14):
        lines.append(f"    {shown(whole[kernel])} {shown(exposed[kernel])} {count[kernel] / CALLS:7.1f} {kernel[:110]}")
    return "\n".join(lines)


def main() -> None:
    """Print a report of each workload on rank 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="+")
    parser.add_argument("--brief", action="store_true")
    parser.add_argument("--host", action="store_true")
    parser.add_argument("--captured", action="store_true")
    parser.add_argument("--floor", action="store_true")
    parser.add_argument("--kernels", default="auto")
    parser.add_argument("--least-elements", type=int, default=fused_plan.least_elements)
    options = parser.parse_args()
    fused_plan.least_elements = options.least_elements
    rank = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", device_id=device)
    with kernels(options.kernels):
        for name in options.workloads:
            if options.floor:
                alone = floor(name.partition(":")[0], device)
                if rank == 0:
                    print(f"--- {name} floor: {alone['forward_ms']:.3f} and {alone['both_ms']:.3f} ms", flush=True)
            for which, call in passes(name, device):
                milliseconds, hosts = timed(call, device), host_times(call)
                ran = [] if options.brief else kernels_of(call)
                functions = host_functions(call) if options.host else ""
                replayed = timed(captured(call), device) if options.captured else 0.0
                if rank == 0:
                    by_rank = ", ".join(f"{host:.3f}" for host in hosts)
                    print(f"--- {name} {which}: {milliseconds:.3f} ms a call, the hosts {by_rank} ms", flush=True)
                    if options.captured:
                        print(f"    as a CUDA graph {replayed:.3f} ms", flush=True)
                    if ran:
                        print(report(ran), flush=True)
                    if functions:
                        print(functions, flush=True)
            torch.cuda.empty_cache()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
