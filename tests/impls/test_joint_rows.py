"""Rows of keys that every rank has, before or after all others, against the oracle; their gradients sum over ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from attention_gate import reference
from tests.impls.cases import IMPLEMENTATIONS, attend, shard_of
from tests.impls.worlds import results

#: Rows of the sequence, queries (None: as many), joint rows, where they stand, and other terms.
NAMED: dict[str, tuple[int, int | None, int, str, dict[str, Any]]] = {
    "before all others": (7, None, 3, "front", {}),
    "after all others": (7, None, 3, "rear", {}),
    "before, causal": (7, None, 3, "front", {"is_causal": True}),
    "after, causal": (7, None, 3, "rear", {"is_causal": True}),
    "fewer queries, causal": (9, 4, 2, "front", {"is_causal": True}),
    "more queries, causal": (4, 9, 3, "rear", {"is_causal": True}),
    "one query": (5, 1, 2, "rear", {"is_causal": True}),
    "no row of the sequence": (0, 4, 3, "front", {"is_causal": True}),
    "no joint row": (6, None, 0, "rear", {"is_causal": True}),
    "no queries": (6, 0, 2, "front", {}),
    "a window over their border": (9, None, 4, "front", {"window": (3, 1)}),
    "everything": (
        8,
        None,
        3,
        "rear",
        {"is_causal": True, "window": (6, None), "softcap": 0.8, "slopes": [0.5, -0.25, 0.1, 0.0]},
    ),
}


def arrays(name: str) -> list[np.ndarray]:
    """query, key, value, joint_key, joint_value, grad_out."""
    rows, queries, joint, _, _ = NAMED[name]
    queries = rows if queries is None else queries
    source = np.random.default_rng(len(name))
    shapes = [(queries, 4, 3), (rows, 2, 3), (rows, 2, 5), (joint, 2, 3), (joint, 2, 5), (queries, 4, 5)]
    return [source.normal(size=(2, *shape)) for shape in shapes]


def run(rank: int, implementation: str, name: str) -> dict[str, np.ndarray]:
    rows, queries, _, place, terms = NAMED[name]
    size = dist.get_world_size()
    own_queries, own_rows = shard_of(rows if queries is None else queries, size, rank), shard_of(rows, size, rank)
    *inputs, grad_out = arrays(name)
    owned = (own_queries, own_rows, own_rows, slice(None), slice(None))
    tensors = [torch.tensor(array[:, own]).requires_grad_() for array, own in zip(inputs, owned, strict=True)]
    if queries is not None:
        terms = terms | {"query_length": queries}
    shared = {"joint_key": tensors[3], "joint_value": tensors[4], "joint": place}
    branch = {"segment_lengths": [rows + 9], "dilation_rates": [1], "sequence_length": rows}
    out, lse = attend(implementation)(*tensors[:3], return_lse=True, **branch, **shared, **terms)
    out.backward(torch.tensor(grad_out[:, own_queries]))
    names = ("query", "key", "value", "joint_key", "joint_value")
    found = {"out": out, "lse": lse, **{name: each.grad for name, each in zip(names, tensors, strict=True)}}
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


def expected(name: str) -> dict[str, np.ndarray]:
    rows, _, joint, place, terms = NAMED[name]
    query, key, value, joint_key, joint_value, grad_out = arrays(name)
    order = slice(None) if place == "front" else slice(None, None, -1)
    key, value = (np.concatenate(pair[order], axis=1) for pair in ((joint_key, key), (joint_value, value)))
    options = {"segment_lengths": [max(rows + joint, 1)], "dilation_rates": [1], **terms}
    out, lse = reference.dilated_attention(query, key, value, **options)
    grads = reference.dilated_attention_gradients(query, key, value, grad_out, **options)
    first, last = (joint, rows + joint) if place == "front" else (0, rows)
    both = np.arange(rows + joint)
    own, shared = both[first:last], np.setdiff1d(both, both[first:last])
    return {
        "out": out,
        "lse": lse,
        "query": grads.query,
        "key": grads.key[:, own],
        "value": grads.value[:, own],
        "joint_key": grads.key[:, shared],
        "joint_value": grads.value[:, shared],
    }


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_named_cases(implementation: str, name: str, size: int) -> None:
    answers = results(size, run, implementation, name)
    for of, right in expected(name).items():
        parts = [answer[of] for answer in answers]
        found = sum(parts) if of.startswith("joint") else np.concatenate(parts, axis=2 if of == "lse" else 1)
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-12, err_msg=f"{of} of {name}")
