"""All ranks of a case in one process: the same kernels and the same orders as over process groups, without the wire.

A sweep over tens of thousands of examples is for the judge's numbers, and those do not depend on who carries a block.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from attention_gate.verify.case.case import Case
from attention_gate.verify.judge.oracle import inputs_of
from attention_gate.verify.rank.attended import Attended
from attention_gate.verify.target.layouts import contiguous
from tests.verify.correct.kernel import Block, Problem, Queries, backward, forward
from tests.verify.correct.style import Style
from tests.verify.correct.travel import hosts, visits

#: Of fewer ranks there are not two rings.
LEAST_OF_HYBRID = 4


def attended(case: Case, style: Style) -> list[Attended]:
    """What each shard returns of a case whose gradients are all asked for, as the ranks would bring it home."""
    size = case.shards
    inputs = inputs_of(case)
    dtype = getattr(torch, case.dtype)
    tensors = [
        torch.from_numpy(np.ascontiguousarray(array.swapaxes(1, 2))).to(dtype)
        for array in (inputs.query, inputs.key, inputs.value, inputs.upstream)
    ]
    positions = [torch.from_numpy(contiguous(rank, size, case.length)) for rank in range(size)]
    scale = case.head_dim**-0.5 if case.scale is None else case.scale
    problem = Problem(case.segment_lengths, case.dilation_rates, case.is_causal, scale)
    if style.transport == "heads" and case.kv_heads % size == 0:
        results = _by_heads(case, style, problem, tensors, positions)
    elif style.transport == "hybrid" and size >= LEAST_OF_HYBRID:
        results = by_halves(style, problem, tensors, positions)
    else:
        results = by_rows(style, problem, tensors, positions)
    return [_home(case, rows) for rows in results]


def by_halves(style: Style, problem: Problem, tensors: list[Tensor], positions: list[Tensor]) -> list[list[Tensor]]:
    """As `by_rows`, but as a ring computes whose ranks are pairs that have shared the heads out."""
    pairs = [torch.cat(positions[k : k + 2]) for k in range(0, len(positions), 2)]
    halves = by_rows(style, problem, tensors, pairs)
    whole = [torch.cat(parts, dim=2) for parts in zip(*halves, strict=True)]
    return [[tensor[:, :, rows] for tensor in whole] for rows in positions]


def by_rows(style: Style, problem: Problem, tensors: list[Tensor], positions: list[Tensor]) -> list[list[Tensor]]:
    """Out, lse and the gradients of query, key and value of each rank, (batch, heads, rows, dim)."""
    size = len(positions)
    query, key, value, upstream = tensors
    heads = torch.arange(query.shape[1])
    owned = [Block(key[:, :, rows], value[:, :, rows], rows) for rows in positions]
    results: list[list[Tensor]] = []
    grads: list[dict[int, tuple[Tensor, Tensor]]] = []
    for rank, rows in enumerate(positions):
        asking = Queries(query[:, :, rows], rows, heads)
        order = visits(style.transport, rank, size)
        blocks = [owned[source] for source in order]
        out, lse = forward(style, problem, asking, blocks)
        dQ, of_blocks = backward(style, problem, asking, blocks, upstream[:, :, rows], out, lse)
        results.append([out, lse, dQ])
        grads.append(dict(zip(order, of_blocks, strict=True)))
    for rank in range(size):
        for which in range(2):
            total = None
            for host in hosts(style.transport, rank, size):
                part = grads[host][rank][which]
                total = part if total is None else total + part
                if style.narrow_travel:
                    total = total.to(key.dtype).to(part.dtype)
            assert total is not None
            results[rank].append(total)
    return results


def _by_heads(
    case: Case, style: Style, problem: Problem, tensors: list[Tensor], positions: list[Tensor]
) -> list[list[Tensor]]:
    everything = torch.arange(case.length)
    parts = []
    slices = zip(*(tensor.chunk(case.shards, dim=1) for tensor in tensors), strict=True)
    for heads, (query, key, value, upstream) in zip(torch.arange(case.heads).chunk(case.shards), slices, strict=True):
        asking, block = Queries(query, everything, heads), Block(key, value, everything)
        out, lse = forward(style, problem, asking, [block])
        dQ, [(dK, dV)] = backward(style, problem, asking, [block], upstream, out, lse)
        parts.append([out, lse, dQ, dK, dV])
    whole = [torch.cat(of_heads, dim=1) for of_heads in zip(*parts, strict=True)]
    return [[tensor[:, :, rows] for tensor in whole] for rows in positions]


def _home(case: Case, results: list[Tensor]) -> Attended:
    home = Attended()
    dtype = getattr(torch, case.dtype)
    for name, tensor in zip(("out", "lse", "query.grad", "key.grad", "value.grad"), results, strict=True):
        held = tensor if name == "lse" else tensor.transpose(1, 2).to(dtype)
        home.facts[name] = f"tensor {tuple(held.shape)} {str(held.dtype).removeprefix('torch.')} cpu"
        home.arrays[name] = held.double().numpy()
    return home
