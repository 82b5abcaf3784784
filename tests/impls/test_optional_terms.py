"""Documents, windows, masks, caps, slopes, sinks and other numbers of queries, against the oracle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from attention_gate import reference
from attention_gate.impls.tiling import Layout
from tests.impls.cases import IMPLEMENTATIONS, attend, shard_of
from tests.impls.worlds import results

pytestmark = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def allowed(head: Any, query: Any, key: Any) -> Any:
    """Hides every third key, others from each head."""
    return (key + query + head) % 3 != 0


@dataclass(frozen=True)
class Case:
    """Sizes and terms of one call; the data follow from the seed."""

    queries: int
    keys: int
    branches: tuple[tuple[int, int], ...] | None = None
    is_causal: bool = False
    documents: tuple[int, ...] | None = None
    query_documents: tuple[int, ...] | None = None
    window: tuple[int | None, int | None] | None = None
    masked: bool = False
    softcap: float | None = None
    slopes: bool = False
    sink: float | None = None
    heads: int = 4
    kv_heads: int = 2
    seed: int = 0

    def arrays(self) -> list[np.ndarray]:
        """query, key, value, grad_out, slopes, sink."""
        source = np.random.default_rng(self.seed)
        shapes = ((self.queries, self.heads, 3), (self.keys, self.kv_heads, 3), (self.keys, self.kv_heads, 5))
        arrays = [source.normal(size=(2, *shape)) for shape in (*shapes, (self.queries, self.heads, 5))]
        return [*arrays, source.normal(size=self.heads), source.normal(size=self.heads) + (self.sink or 0.0)]

    def terms(self) -> dict[str, Any]:
        """What the oracle and the implementations take alike, but for the sink and the number of queries."""
        pairs = self.branches or ((max(1, self.keys), 1),)
        given = {
            "segment_lengths": [length for length, _ in pairs],
            "dilation_rates": [rate for _, rate in pairs],
            "is_causal": self.is_causal,
            "document_lengths": self.documents,
            "query_lengths": self.query_documents,
            "window": self.window,
            "mask": allowed if self.masked else None,
            "softcap": self.softcap,
            "slopes": self.arrays()[4].tolist() if self.slopes else None,
        }
        return {name: value for name, value in given.items() if value is not None}


def run(rank: int, implementation: str, case: Case) -> dict[str, np.ndarray]:
    """This rank's rows of everything, and its part of the sink's gradient."""
    size = dist.get_world_size()
    query, key, value, grad_out, _, logits = case.arrays()
    own_queries, own_keys = shard_of(case.queries, size, rank), shard_of(case.keys, size, rank)
    tensors = [torch.tensor(query[:, own_queries]), torch.tensor(key[:, own_keys]), torch.tensor(value[:, own_keys])]
    tensors = [tensor.requires_grad_() for tensor in tensors]
    terms = case.terms()
    if case.queries != case.keys:
        terms["query_length"] = case.queries
    sink = None
    if case.sink is not None:
        terms["sink"] = sink = torch.tensor(logits, requires_grad=True)
    out, lse = attend(implementation)(*tensors, sequence_length=case.keys, return_lse=True, **terms)
    out.backward(torch.tensor(grad_out[:, own_queries]))
    found = {"out": out, "lse": lse, **dict(zip(("query", "key", "value"), (t.grad for t in tensors), strict=True))}
    if sink is not None:
        found["sink"] = sink.grad
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


def expected(case: Case) -> dict[str, np.ndarray]:
    query, key, value, grad_out, _, logits = case.arrays()
    terms = case.terms() | {"sink": None if case.sink is None else logits}
    out, lse = reference.dilated_attention(query, key, value, **terms)
    gradients = reference.dilated_attention_gradients(query, key, value, grad_out, **terms)
    return {"out": out, "lse": lse, **gradients._asdict()}


def check(implementation: str, case: Case, size: int) -> None:
    answers = results(size, run, implementation, case)
    for name, right in expected(case).items():
        parts = [answer[name] for answer in answers]
        found = sum(parts) if name == "sink" else np.concatenate(parts, axis=2 if name == "lse" else 1)
        assert found.shape == right.shape, f"{name} of {case}"
        scale = max(1.0, float(np.abs(right[np.isfinite(right)]).max(initial=0.0)))
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-12 * scale, err_msg=f"{name} of {case}")


NAMED = {
    "documents within, at and beyond shards": Case(14, 14, documents=(3, 4, 0, 6), is_causal=True),
    "documents that end one before and one after a shard does": Case(12, 12, documents=(2, 2, 4, 4), seed=1),
    "rows after the last document": Case(11, 11, documents=(4, 3), is_causal=True, sink=0.0),
    "more documents than rows": Case(4, 4, documents=(0, 1, 0, 0, 2, 0, 1, 0)),
    "documents cut by dilated branches": Case(13, 13, ((4, 1), (13, 3)), documents=(5, 8), is_causal=True),
    "a window within a shard": Case(16, 16, window=(2, 1)),
    "a window as wide as a shard": Case(16, 16, window=(4, 0), is_causal=True),
    "a window over three shards": Case(16, 16, window=(9, 5)),
    "own position alone": Case(10, 10, window=(0, 0)),
    "a window in dilated branches": Case(15, 15, ((5, 2), (15, 3)), window=(4, 3)),
    "a window in documents": Case(15, 15, documents=(9, 6), window=(3, None), is_causal=True),
    "any mask": Case(11, 11, masked=True),
    "any mask, causal, in branches, with a window": Case(12, 12, ((6, 1), (12, 2)), True, window=(5, 2), masked=True),
    "a cap below the scores": Case(9, 9, softcap=0.4),
    "slopes": Case(9, 9, slopes=True),
    "slopes, causal, in branches": Case(12, 12, ((4, 1), (12, 2)), is_causal=True, slopes=True),
    "a sink near the scores": Case(9, 9, sink=0.0, is_causal=True),
    "a sink far above the scores": Case(9, 9, sink=100.0),
    "a sink far below the scores": Case(9, 9, sink=-1e4),
    "a sink that is none": Case(9, 9, sink=-math.inf),
    "one query": Case(1, 9, is_causal=True, window=(3, 0)),
    "fewer queries than keys": Case(5, 12, is_causal=True, slopes=True),
    "more queries than keys": Case(12, 5, is_causal=True, sink=0.5),
    "more queries than keys, full": Case(12, 5),
    "no queries": Case(0, 5, sink=0.0),
    "no keys": Case(5, 0, sink=0.0),
    "queries of documents": Case(6, 11, documents=(4, 0, 7), query_documents=(2, 1, 3), is_causal=True, slopes=True),
    "queries of documents, as many as keys in all": Case(12, 12, documents=(6, 6), query_documents=(2, 10)),
    "a mask and more queries than keys in a document": Case(
        6, 6, documents=(4, 2), query_documents=(2, 4), masked=True, is_causal=True
    ),
    "everything": Case(
        12, 12, ((6, 1), (12, 2)), True, (5, 7), None, (6, None), True, 1.5, True, 0.2, heads=6, kv_heads=3
    ),
}


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("name", NAMED)
def test_the_named_cases(implementation: str, name: str, size: int) -> None:
    check(implementation, NAMED[name], size)


def random_case(seed: int) -> Case:
    """Terms drawn from the seed, each on about half of the time."""
    source = np.random.default_rng(seed)

    def maybe(value: Any) -> Any:
        return value if source.integers(2) else None

    documents = maybe(tuple(int(n) for n in source.integers(0, 6, source.integers(0, 5))))
    keys = (sum(documents) if documents is not None else int(source.integers(0, 14))) + int(source.integers(0, 2))
    queries, of_queries = keys, None
    dense = bool(source.integers(2))
    if dense and documents is not None and source.integers(2):
        of_queries = tuple(int(n) for n in source.integers(0, 5, len(documents)))
        queries = sum(of_queries)
    elif dense and documents is None and source.integers(2):
        queries = int(source.integers(0, 14))
    branches = tuple((int(source.integers(1, keys + 3)), int(source.integers(1, 5))) for _ in range(2))
    fits_mask = of_queries is None and queries <= keys
    bounds = [maybe(int(source.integers(0, 8))) for _ in range(2)]
    return Case(
        queries,
        keys,
        None if dense else branches,
        bool(source.integers(2)),
        documents,
        of_queries,
        maybe((bounds[0], bounds[1])),
        bool(source.integers(2)) and fits_mask,
        maybe(0.7),
        bool(source.integers(2)),
        maybe(float(source.normal())),
        seed=seed,
    )


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_random_cases(implementation: str, size: int) -> None:
    for seed in range(40):
        check(implementation, random_case(100 * size + seed), size)


def run_zigzag(rank: int, implementation: str, case: Case) -> float:
    """The largest error of this rank's rows of the output in the zigzag layout."""
    rows = [
        row for part in Layout(case.keys, dist.get_world_size(), rank, 1, 1, (), False).zigzag(rank) for row in part
    ]
    shards = (torch.tensor(array[:, rows]) for array in case.arrays()[:3])
    out = attend(implementation)(*shards, layout="zigzag", sequence_length=case.keys, **case.terms())
    return float(np.abs(out.numpy() - expected(case)["out"][:, rows]).max())


@pytest.mark.parametrize(
    "case",
    [Case(12, 12, slopes=True), Case(12, 12, softcap=0.4), Case(12, 12, masked=True), Case(12, 12, window=(5, 2))],
)
def test_rows_in_zigzag_order_have_an_order_if_a_term_gives_them_one(implementation: str, case: Case) -> None:
    assert max(results(2, run_zigzag, implementation, case)) < 1e-12
