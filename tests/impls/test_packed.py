"""Documents, windows, caps, sinks and other numbers of queries through fused kernels, plain products in their place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist

from attention_gate import reference
from attention_gate.impls import document_zigzag
from attention_gate.impls.tiling import Layout
from tests.impls.cases import IMPLEMENTATIONS, attend, shard_of
from tests.impls.test_fused import fused
from tests.impls.worlds import results


@dataclass(frozen=True)
class Case:
    """Sizes and terms of one call; the data follow from the seed."""

    queries: int
    keys: int
    is_causal: bool = False
    documents: tuple[int, ...] | None = None
    query_documents: tuple[int, ...] | None = None
    window: tuple[int | None, int | None] | None = None
    softcap: float | None = None
    sink: bool = False
    layout: str = "contiguous"
    batch: int = 1
    heads: int = 4
    kv_heads: int = 2
    seed: int = 0

    def arrays(self) -> list[np.ndarray]:
        """query, key, value, grad_out, sink."""
        source = np.random.default_rng(self.seed)
        shapes = ((self.queries, self.heads, 3), (self.keys, self.kv_heads, 3), (self.keys, self.kv_heads, 5))
        arrays = [source.normal(size=(self.batch, *shape)) for shape in (*shapes, (self.queries, self.heads, 5))]
        return [*arrays, source.normal(size=self.heads)]

    def terms(self) -> dict[str, Any]:
        """What the oracle and the implementations take alike, but for the sink and the number of queries."""
        given = {
            "document_lengths": self.documents,
            "query_lengths": self.query_documents,
            "window": self.window,
            "softcap": self.softcap,
        }
        terms = {name: value for name, value in given.items() if value is not None}
        return terms | {"segment_lengths": [self.keys], "dilation_rates": [1], "is_causal": self.is_causal}

    def rows(self, size: int, rank: int) -> tuple[list[int], list[int]]:
        """The positions of a rank's queries and keys."""
        if self.layout == "document-zigzag":
            mine = document_zigzag(rank, size, self.documents or (), self.keys)
        elif self.layout == "zigzag" and size > 1:
            mine = [row for part in Layout(self.keys, size, rank, 1, 1, (), False).zigzag(rank) for row in part]
        else:
            queries, keys = (range(length)[shard_of(length, size, rank)] for length in (self.queries, self.keys))
            return list(queries), list(keys)
        return mine, mine


def run(rank: int, implementation: str, case: Case) -> dict[str, np.ndarray]:
    """This rank's rows of everything, and its part of the sink's gradient; fails if another path is taken."""
    size = dist.get_world_size()
    query, key, value, grad_out, logits = case.arrays()
    own_queries, own_keys = case.rows(size, rank)
    tensors = [torch.tensor(query[:, own_queries]), torch.tensor(key[:, own_keys]), torch.tensor(value[:, own_keys])]
    tensors = [tensor.requires_grad_() for tensor in tensors]
    terms = case.terms() | {"layout": case.layout}
    if case.queries != case.keys:
        terms["query_length"] = case.queries
    sink = None
    if case.sink:
        terms["sink"] = sink = torch.tensor(logits, requires_grad=True)
    with fused(), patch("attention_gate.impls.fused.packed_kernels.objection", lambda *_: None):
        out, lse = attend(implementation)(*tensors, sequence_length=case.keys, return_lse=True, **terms)
        out.backward(torch.tensor(grad_out[:, own_queries]))
    grads = dict(zip(("query", "key", "value"), (tensor.grad for tensor in tensors), strict=True))
    found = {"out": out, "lse": lse, **grads} | ({"sink": sink.grad} if sink is not None else {})
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


def check(implementation: str, case: Case, size: int) -> None:
    query, key, value, grad_out, logits = case.arrays()
    terms = case.terms() | {"sink": logits if case.sink else None}
    out, lse = reference.dilated_attention(query, key, value, **terms)
    gradients = reference.dilated_attention_gradients(query, key, value, grad_out, **terms)
    answers = results(size, run, implementation, case)
    if case.sink:
        np.testing.assert_allclose(sum(answer["sink"] for answer in answers), gradients.sink, rtol=0, atol=1e-12)
    for rank, answer in enumerate(answers):
        queries, keys = case.rows(size, rank)
        for name, right in {"out": out, "lse": lse, **gradients._asdict()}.items():
            if name == "sink":
                continue
            mine = right[:, :, queries] if name == "lse" else right[:, keys if name in ("key", "value") else queries]
            assert answer[name].shape == mine.shape, f"{name} of {case}"
            np.testing.assert_allclose(answer[name], mine, rtol=0, atol=1e-12, err_msg=f"{name} of {case}, rank {rank}")


NAMED = {
    "a window within a shard": Case(16, 16, window=(2, 1), batch=2),
    "a window over three shards": Case(16, 16, True, window=(9, None)),
    "own position alone": Case(12, 12, window=(0, 0)),
    "documents that end one before and one after a shard does": Case(16, 16, True, documents=(3, 2, 6, 5), batch=2),
    "documents that are shards": Case(16, 16, True, documents=(4, 4, 4, 4)),
    "rows after the last document": Case(16, 16, documents=(4, 7), sink=True),
    "a window in documents": Case(17, 17, documents=(9, 8), window=(3, 1)),
    "a cap": Case(16, 16, True, softcap=0.4),
    "a cap in the zigzag layout": Case(17, 17, True, softcap=0.4, layout="zigzag"),
    "documents in the zigzag layout": Case(24, 24, True, documents=(9, 0, 13), layout="zigzag"),
    "each document by itself": Case(32, 32, True, documents=(17, 3, 10), layout="document-zigzag"),
    "each document by itself, with a window": Case(
        32, 32, documents=(17, 3, 12), window=(5, 3), layout="document-zigzag", batch=2, sink=True
    ),
    "fewer queries than keys": Case(6, 12, True),
    "more queries than keys": Case(12, 6, True, sink=True),
    "queries of documents": Case(7, 12, True, documents=(4, 0, 8), query_documents=(2, 1, 4)),
    "a sink": Case(12, 12, True, sink=True),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("name", NAMED)
def test_the_named_cases(implementation: str, name: str, size: int) -> None:
    check(implementation, NAMED[name], size)


def run_for_some(rank: int, implementation: str, case: Case, wanted: tuple[str, ...]) -> dict[str, np.ndarray | None]:
    """This rank's gradients where only some of the inputs want one: None where there is none."""
    query, key, value, grad_out, logits = case.arrays()
    own_queries, own_keys = case.rows(dist.get_world_size(), rank)
    arrays = {"query": query[:, own_queries], "key": key[:, own_keys], "value": value[:, own_keys], "sink": logits}
    tensors = {name: torch.tensor(array, requires_grad=name in wanted) for name, array in arrays.items()}
    with fused(), patch("attention_gate.impls.fused.packed_kernels.objection", lambda *_: None):
        out = attend(implementation)(**tensors, sequence_length=case.keys, layout=case.layout, **case.terms())
        out.backward(torch.tensor(grad_out[:, own_queries]))
    return {name: None if tensor.grad is None else tensor.grad.numpy() for name, tensor in tensors.items()}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("wanted", [("query",), ("key",), ("value",), ("sink",), ("value", "sink")])
def test_gradients_are_computed_for_the_inputs_that_want_one(implementation: str, wanted: tuple[str, ...]) -> None:
    case = Case(17, 17, True, documents=(3, 14), window=(9, None), sink=True)
    query, key, value, grad_out, logits = case.arrays()
    gradients = reference.dilated_attention_gradients(query, key, value, grad_out, sink=logits, **case.terms())
    right = gradients._asdict()
    answers = results(2, run_for_some, implementation, case, wanted)
    for rank, answer in enumerate(answers):
        assert {name for name, found in answer.items() if found is not None} == set(wanted)
        for name in set(wanted) - {"sink"}:
            mine = right[name][:, case.rows(2, rank)[name != "query"]]
            np.testing.assert_allclose(answer[name], mine, rtol=0, atol=1e-12, err_msg=f"{name} on rank {rank}")
    if "sink" in wanted:
        np.testing.assert_allclose(sum(answer["sink"] for answer in answers), right["sink"], rtol=0, atol=1e-12)


def random_case(seed: int, size: int) -> Case:
    """Terms drawn from the seed, each on about half of the time; each rank has rows of queries and of keys."""
    source = np.random.default_rng(seed)

    def maybe(value: Any) -> Any:
        return value if source.integers(2) else None

    keys = int(source.integers(2 * size, 30))
    cuts = np.sort(source.integers(0, keys + 1, source.integers(1, 5)))
    documents = maybe(tuple(int(length) for length in np.diff(cuts, prepend=0)))
    layouts = ["contiguous", "zigzag"] + ["document-zigzag"] * (documents is not None)
    layout = layouts[source.integers(len(layouts))]
    queries, of_queries = keys, None
    if layout == "contiguous" and source.integers(2):
        if documents is None:
            queries = int(source.integers(size, 30))
        else:
            of_queries = tuple(int(length) for length in source.integers(0, 9, len(documents)))
            queries = max(size, sum(of_queries))
    bounds = [maybe(int(source.integers(0, 12))) for _ in range(2)]
    case = Case(
        queries,
        keys,
        bool(source.integers(2)),
        documents,
        of_queries,
        maybe((bounds[0], bounds[1])),
        maybe(0.7),
        bool(source.integers(2)),
        layout,
        batch=int(source.integers(1, 3)),
        seed=seed,
    )
    is_packed = case.documents is not None or case.window not in (None, (None, None))
    return case if is_packed else replace(case, softcap=0.7)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_random_cases(implementation: str, size: int) -> None:
    for seed in range(15):
        check(implementation, random_case(100 * size + seed, size), size)
