"""What one rank measures: how long a target, or the floor, takes for a workload, and what it holds and sends."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from attention_gate.verify.compare.cuda_graphs import captured
from attention_gate.verify.compare.floor_kernels import Kernel, differ, kernels, objection, sequence_kernels
from attention_gate.verify.compare.nvlink import Links
from attention_gate.verify.compare.workloads import WORKLOADS, Workload
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.target.target import Target

_ROUNDS, _WARM_UPS = 5, 2

#: The least and the most calls in a row, and the seconds that they should fill.
_LEAST, _MOST, _SECONDS = 3, 10, 0.1

#: A kernel that takes as many times longer than the fastest is not timed further.
_NEAR = 1.5

FLOOR = "floor"

#: By the name of a kernel: a forward pass, and a forward and a backward pass.
Passes = dict[str, tuple[Callable[[], Any], Callable[[], Any]]]


def measured(*, workload: str, row: str, device: torch.device, as_graphs: bool = False) -> dict[str, Any]:
    """One row of a workload's table: a target, given as the command line takes it, or the floor.

    Call by call, or ``as_graphs``, each pass captured in a CUDA graph.
    """
    found = floor(workload, device, as_graphs) if row == FLOOR else target(workload, row, device, as_graphs)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def floor(name: str, device: torch.device, as_graphs: bool = False) -> dict[str, Any]:
    """The time of the fastest attention kernels that can be imported, for a rank's share of the work, evenly balanced.

    "kernels" names those that were the fastest, "by_kernel" has the times of each that took part in all problems, and
    "without" says why others did not.
    """
    workload, world_size = WORKLOADS[name], dist.get_world_size()
    total, by_kernel, fastest = [0.0, 0.0], dict[str, list[float]](), [list[str](), list[str]()]
    for share, calls in _shares(workload, world_size, device):
        for kind in (0, 1):
            taken = _taken({kernel: passes[kind] for kernel, passes in calls.items()}, device, as_graphs)
            best = min(taken, key=taken.__getitem__)
            total[kind] += share * taken[best]
            fastest[kind].append(best)
            for kernel, milliseconds in taken.items():
                by_kernel.setdefault(kernel, []).append(share * milliseconds)
    return {
        "forward_ms": total[0],
        "both_ms": total[1],
        "kernels": [sorted(set(names)) for names in fastest],
        "by_kernel": {
            kernel: [sum(times[0::2]), sum(times[1::2])]
            for kernel, times in by_kernel.items()
            if len(times) == 2 * len(fastest[0])
        },
        "without": {"flash-attn-4": reason} if (reason := objection(device)) else {},
    }


def target(name: str, path: str, device: torch.device, as_graphs: bool = False) -> dict[str, Any]:
    """Time forward, and forward and backward; peak bytes beyond the inputs; or why the target does not take it.

    Bytes are those of calls that are not captured.
    """
    workload = WORKLOADS[name]
    judged, _ = as_target(path)
    if reason := refusal(judged, workload):
        return {"refused": reason}
    world_size = dist.get_world_size()
    shape = (1, workload.rows, workload.heads, workload.head_dim)
    dtype = getattr(torch, workload.dtype)
    torch.manual_seed(dist.get_rank())
    query, key, value, upstream = (torch.randn(shape, dtype=dtype, device=device) for _ in range(4))
    inputs = [tensor.requires_grad_() for tensor in (query, key, value)]
    options: dict[str, Any] = {
        "segment_lengths": list(workload.lengths(world_size)),
        "dilation_rates": list(workload.dilation_rates),
        "is_causal": workload.is_causal,
        "scale": None,
        "sequence_length": None,
        "group": None,
        **workload.terms(world_size),
    }

    def forward() -> Any:
        with torch.no_grad():
            return judged.attend(*inputs, **options)

    def both() -> Any:
        return torch.autograd.grad(judged.attend(*inputs, **options), inputs, upstream)

    outside = _outside(device)
    measured = dict[str, Any]()
    if not as_graphs:
        measured |= {"forward_ms": timed(forward, device), "both_ms": timed(both, device)}
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        kept = both()
        torch.cuda.synchronize()
        measured["peak_bytes"] = torch.cuda.max_memory_allocated() - before
        measured["outside_bytes"] = max(0, _outside(device) - outside)
        del kept
        if (sent := _sent(both, device)) is not None:
            measured["sent_bytes"] = sent
    if as_graphs:
        for kind, call in (("forward_ms", forward), ("both_ms", both)):
            try:
                replay = captured(call)
            except Exception as error:  # whatever a target does that no graph can hold
                reason = str(error).partition("\n")[0]
                return {"refused": f"it cannot be captured in a CUDA graph: {type(error).__name__}: {reason}"}
            measured[kind] = timed(replay, device)
    return measured


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """The median time of a call in milliseconds, on the slowest rank, of calls in a row, as in training.

    The host runs ahead of the device: host time counts only where it exceeds device time.
    """
    for _ in range(_WARM_UPS):
        once = _round(call, 1, device)
    calls = max(_LEAST, min(_MOST, math.ceil(_SECONDS / _slowest(once, device))))
    taken = [_round(call, calls, device) / calls for _ in range(_ROUNDS)]
    return 1000 * _slowest(statistics.median(taken), device)


def _round(call: Callable[[], Any], calls: int, device: torch.device) -> float:
    dist.barrier()
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        call()
    _synchronize(device)
    return time.perf_counter() - start


def _slowest(seconds: float, device: torch.device) -> float:
    slowest = torch.tensor(seconds, dtype=torch.float64, device=device)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return float(slowest)


def refusal(judged: Target, workload: Workload) -> str | None:
    """Why the target cannot be asked for that workload; None if it can."""
    if workload.is_causal not in judged.masks:
        return f"is_causal={workload.is_causal} is not supported"
    if workload.dtype not in judged.dtypes:
        return f"{workload.dtype} is not supported"
    if judged.branches == "dense" and (workload.segment_lengths or workload.dilation_rates != (1,)):
        return "only dense attention is supported"
    if missing := [name for name in workload.term_names if name not in judged.terms]:
        return f"it takes no {' and no '.join(missing)}"
    return None


def _shares(workload: Workload, world_size: int, device: torch.device) -> Iterator[tuple[float, Passes]]:
    """A rank's share of the work in problems: the part of each one's time that counts, and it through each kernel."""
    if workload.term_names:
        # The whole sequence with a share of the heads: as much work for each rank, whatever sees whatever.
        lengths = workload.document_lengths(world_size) if workload.documents else None
        of_sequences = sequence_kernels(device, workload.window, lengths)
        is_even = workload.heads % world_size == 0
        heads, rows = workload.heads // (world_size if is_even else 1), workload.rows * world_size
        shape = (1, rows, rows, heads)
        yield 1.0 if is_even else 1 / world_size, _passes(workload, device, shape, workload.is_causal, of_sequences)
        return
    for batch, queries, keys, is_causal, share in _problems(workload, world_size):
        yield share, _passes(workload, device, (batch, queries, keys, workload.heads), is_causal, kernels(device))


def _problems(workload: Workload, world_size: int) -> list[tuple[int, int, int, bool, float]]:
    """Dense problems as (batch, queries, keys, is_causal, share of the time), all heads each."""
    rows, found = workload.rows, []
    for length, rate in zip(workload.lengths(world_size), workload.dilation_rates, strict=True):
        if length <= rows:
            found.append((rows // length, length // rate, length // rate, workload.is_causal, 1.0))
        elif workload.is_causal and rate == 1 and length == rows * world_size:
            half = rows // 2
            found.append((2, half, half, True, 1.0))
            found.append((1, half, half * (2 * world_size - 1), False, 1.0))
        else:
            found.append((1, rows // rate, length // rate, False, 0.5 if workload.is_causal else 1.0))
    return found


def _passes(
    workload: Workload,
    device: torch.device,
    shape: tuple[int, int, int, int],
    is_causal: bool,
    by_name: dict[str, Kernel],
) -> Passes:
    """A problem of so many (batch, queries, keys, heads) through each kernel: forward, and forward and backward."""
    dtype = getattr(torch, workload.dtype)
    batch, queries, keys, heads = shape
    query, key, value, upstream = (
        torch.randn((batch, rows, heads, workload.head_dim), dtype=dtype, device=device).transpose(1, 2)
        for rows in (queries, keys, keys, queries)
    )
    inputs = [tensor.requires_grad_() for tensor in (query, key, value)]

    def of(kernel: Kernel) -> tuple[Callable[[], Any], Callable[[], Any]]:
        def forward() -> Any:
            with torch.no_grad():
                return (kernel(query, key, value, is_causal),)

        def both() -> Any:
            return torch.autograd.grad(kernel(query, key, value, is_causal), inputs, upstream)

        return forward, both

    return {name: of(kernel) for name, kernel in by_name.items()}


def _taken(calls: dict[str, Callable[[], Any]], device: torch.device, as_graphs: bool) -> dict[str, float]:
    """The times of the call by those kernels that are right and near the fastest, which one call of each shows."""
    once, said, right = dict[str, float](), list[str](), None
    steady = dict[str, Callable[[], Any]]()
    for name, call in calls.items():
        try:
            steady[name] = captured(call) if as_graphs else call
            result = steady[name]()
        except Exception as error:  # it does not take such tensors, which each library says in its own way
            result = ()
            said.append(f"{name}: {type(error).__name__}: {error}")
        wrong = not result or (right is not None and any(map(differ, result, right)))
        if _slowest(float(wrong), device):  # on any rank
            continue
        right = result if right is None else right
        once[name] = _slowest(_round(steady[name], 1, device), device)
    del right
    if not once:
        raise RuntimeError(f"no attention kernel takes this workload: {'; '.join(said)}")
    near = [name for name in once if once[name] <= _NEAR * min(once.values())]
    return {name: timed(steady[name], device) for name in near}


def _sent(call: Callable[[], Any], device: torch.device) -> int | None:
    """The most bytes that any rank sends to other ranks' GPUs in one call; None where they cannot be counted."""
    links = Links(device)
    before = _counted(links, device)
    if min(_on_all(before, device)) < 0:
        return None
    _round(call, _LEAST, device)
    return max(_on_all((_counted(links, device) - before) // _LEAST, device))


def _counted(links: Links, device: torch.device) -> int:
    """Bytes that this rank's GPU has sent once all ranks are here; -1 where they cannot be counted."""
    dist.barrier()
    _synchronize(device)
    sent = links.sent()
    return -1 if sent is None else sent


def _on_all(number: int, device: torch.device) -> list[int]:
    found = [torch.tensor(0, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(found, torch.tensor(number, device=device))
    return [int(each) for each in found]


def _outside(device: torch.device) -> int:
    """Bytes of the device in use that torch's allocator did not reserve: shared memory, NCCL, code."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info(device)
    return total - free - torch.cuda.memory_reserved(device)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
