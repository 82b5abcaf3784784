"""Passes of packed sequences over a transport that gives rows as late, and takes them away as early, as it may."""

from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from attention_gate import reference
from attention_gate.impls.fused import packed_engine
from attention_gate.impls.fused.engine import Result
from attention_gate.impls.fused.packed_plan import PackedPlan, packed_plan_of
from attention_gate.impls.fused.pipeline import Task, Tensors
from attention_gate.impls.tiling import Branch, Document, Layout
from tests.impls.test_packed import Case
from tests.impls.test_pipeline import Member, Post

CASES = {
    "a window": Case(16, 16, True, window=(5, None), heads=8, kv_heads=8),
    "documents": Case(32, 32, True, documents=(17, 3, 12), heads=8, kv_heads=8, batch=2),
    "a cap, grouped heads": Case(16, 16, True, softcap=0.7, heads=8, kv_heads=4),
    "zigzag, several kernels that see the same keys": Case(
        32, 32, True, documents=(3, 0, 29), layout="zigzag", heads=4, kv_heads=4
    ),
    "fewer queries": Case(8, 16, True, heads=6, kv_heads=3),
    "blind queries": Case(16, 8, True, heads=4, kv_heads=4),
}


def layout_of(case: Case, member: Member) -> Layout:
    documents = None
    if case.documents is not None:
        firsts = accumulate(case.documents, initial=0)
        documents = tuple(
            Document(first, length, first, length) for first, length in zip(firsts, case.documents, strict=False)
        )
    return Layout(
        case.keys,
        member.size,
        member.rank,
        case.heads,
        case.kv_heads,
        (Branch(case.keys, 1),),
        case.is_causal,
        case.queries,
        documents,
        case.window or (None, None),
    )


def run(case: Case, member: Member, in_parts: bool, moves_home: bool) -> dict[str, torch.Tensor]:
    """Run both passes of a rank and return its rows of all results."""
    made = packed_plan_of(layout_of(case, member), case.layout == "zigzag")
    assert isinstance(made, PackedPlan), made
    queries, keys = case.rows(member.size, member.rank)
    query, key, value, grad_out, _ = (torch.from_numpy(array) for array in case.arrays())
    inputs = Tensors(query[:, queries], key[:, keys], value[:, keys])
    task = Task(made, query.shape[-1] ** -0.5, member, in_parts, softcap=case.softcap)  # type: ignore[arg-type]
    with torch.device("meta"):  # a caller's default device is not that of the tensors
        out, lse = packed_engine.forward(inputs, task)
        grads = packed_engine.backward(inputs, Result(out, lse, grad_out[:, queries]), task, moves_home)
    assert len(member.transports) == (2 if made.span else 0)
    for transport, is_backward in zip(member.transports, (False, moves_home), strict=False):
        transport.assert_whole(is_backward)
    found = {"out": out, "lse": lse.transpose(1, 2), "query": grads.query}
    return found | ({"key": grads.key, "value": grads.value} if moves_home else {})


def expected(case: Case) -> dict[str, Any]:
    query, key, value, grad_out, _ = case.arrays()
    out, lse = reference.dilated_attention(query, key, value, **case.terms())
    gradients = reference.dilated_attention_gradients(query, key, value, grad_out, **case.terms())
    return {"out": out, "lse": lse, "query": gradients.query, "key": gradients.key, "value": gradients.value}


@pytest.mark.parametrize("moves_home", [False, True])
@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_all_rows_come_when_they_are_due(name: str, size: int, in_parts: bool, moves_home: bool) -> None:
    case, post = CASES[name], Post()
    members = [Member(rank, size, post) for rank in range(size)]
    with (
        patch("attention_gate.impls.fused.pipeline.dist.get_world_size", lambda member: member.size),
        patch(
            "attention_gate.impls.fused.pipeline._transport",
            lambda span, like, parts, widths, of: of.transport(span, like, parts, widths),
        ),
        patch("attention_gate.impls.fused.plan.least_elements", 0),
        ThreadPoolExecutor(size) as pool,
    ):
        answers = list(pool.map(lambda member: run(case, member, in_parts, moves_home), members))
    right = expected(case)
    for rank, found in enumerate(answers):
        queries, keys = case.rows(size, rank)
        for name, mine in found.items():
            due = right[name]
            due = due[:, :, queries] if name == "lse" else due[:, keys if name in ("key", "value") else queries]
            np.testing.assert_allclose(mine.numpy(), due, rtol=0, atol=1e-12, err_msg=f"{name} on rank {rank}")
    parts = {transport.parts for member in members for transport in member.transports}
    assert len(parts) == 1
    assert (parts != {1}) == in_parts


def test_what_kernels_and_ranks_add_to_a_gradient_is_rounded_once() -> None:
    like = torch.zeros(1, 3, 1, 1, dtype=torch.bfloat16)
    one, tiny = (
        torch.ones_like(like),
        torch.full_like(like, 2.0**-8),
    )  # tiny is half of what lies between 1 and the next
    shares = [packed_engine._Share((range(3),), one), *[packed_engine._Share((range(2),), tiny[:, :2])] * 2]
    total = packed_engine._total(shares, like)
    assert total.dtype == torch.bfloat16
    assert total.flatten().tolist() == [1 + 2.0**-7] * 2 + [1.0]


def test_the_lse_of_half_types_is_of_single_precision() -> None:
    layout = Layout(8, 1, 0, 1, 1, (Branch(8, 1),), True, documents=(Document(0, 3, 0, 3),))  # five rows are blind
    made = packed_plan_of(layout, False)
    assert isinstance(made, PackedPlan)
    rows = torch.ones(1, 8, 1, 8, dtype=torch.bfloat16)
    out, lse = packed_engine.forward(Tensors(rows, rows, rows), Task(made, 1.0, None, True))
    assert (out.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    grads = packed_engine.backward(Tensors(rows, rows, rows), Result(out, lse, rows), Task(made, 1.0, None, True), True)
    assert all(grad.shape == rows.shape for grad in grads)
    assert not grads.value[:, 3:].any()
