"""Bad arguments raise on every rank, also where one rank's alone are bad, and say what, what it was and what may be."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.impls.cases import IMPLEMENTATIONS, Case, assert_close, attend, own_tensors, run_case
from tests.impls.worlds import Raised, world

pytestmark = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)

CASE = Case(8, ((4, 1), (8, 2)), heads=4, kv_heads=2)

# What replaces a sound argument, the error, and what its message must quote: the argument, its value, the rule.
BAD: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "query is no tensor": ({"query": [1.0]}, "TypeError", ["query", "[1.0]", "torch.Tensor"]),
    "query has three dimensions": (
        {"query": torch.zeros(1, 2, 4)},
        "ValueError",
        ["query", "(1, 2, 4)", "(batch, local_length, heads, head_dim)"],
    ),
    "integers": ({"value": torch.zeros(1, 2, 2, 5, dtype=torch.int64)}, "ValueError", ["value", "int64", "float16"]),
    "two dtypes": (
        {"key": torch.zeros(1, 2, 2, 2, dtype=torch.float32)},
        "ValueError",
        ["dtype", "key torch.float32", "must share one dtype"],
    ),
    "two devices": (
        {"key": torch.zeros(1, 2, 2, 2, dtype=torch.float64, device="meta")},
        "ValueError",
        ["device", "key meta", "must share one device"],
    ),
    "two batches": ({"key": torch.zeros(3, 2, 2, 2, dtype=torch.float64)}, "ValueError", ["batch", "key (3, 2, 2, 2)"]),
    "two lengths": (
        {"value": torch.zeros(1, 5, 2, 5, dtype=torch.float64)},
        "ValueError",
        ["local_length", "value (1, 5, 2, 5)"],
    ),
    "kv heads differ": (
        {"value": torch.zeros(1, 2, 4, 5, dtype=torch.float64)},
        "ValueError",
        ["kv_heads", "value (1, 2, 4, 5)"],
    ),
    "heads do not divide": (
        {"query": torch.zeros(1, 2, 3, 2, dtype=torch.float64)},
        "ValueError",
        ["heads", "3", "multiple of the 2 kv_heads"],
    ),
    "head_dim differs": (
        {"query": torch.zeros(1, 2, 4, 3, dtype=torch.float64)},
        "ValueError",
        ["head_dim", "(1, 2, 4, 3)", "must be the same"],
    ),
    "no heads": (
        {"query": torch.zeros(1, 2, 0, 2, dtype=torch.float64)},
        "ValueError",
        ["heads", "0 of query", "positive multiple"],
    ),
    "no kv_heads": (
        {name: torch.zeros(1, 2, 0, dim, dtype=torch.float64) for name, dim in (("key", 2), ("value", 5))},
        "ValueError",
        ["heads", "positive multiple of the 0 kv_heads"],
    ),
    "no head_dim": (
        {name: torch.zeros(1, 2, heads, 0, dtype=torch.float64) for name, heads in (("query", 4), ("key", 2))},
        "ValueError",
        ["head_dim", "(1, 2, 4, 0)", "not 0"],
    ),
    "segment length 0": ({"segment_lengths": [4, 0]}, "ValueError", ["segment_lengths", "[4, 0]", "positive"]),
    "segment length 2.0": ({"segment_lengths": [4, 2.0]}, "TypeError", ["segment_lengths", "2.0", "integer"]),
    "segment length True": ({"segment_lengths": [4, True]}, "TypeError", ["segment_lengths", "True", "integer"]),
    "one number": ({"segment_lengths": 4}, "TypeError", ["segment_lengths", "4", "list or tuple"]),
    "a string": ({"dilation_rates": "12"}, "TypeError", ["dilation_rates", "'12'", "list or tuple"]),
    "no branch": ({"segment_lengths": [], "dilation_rates": []}, "ValueError", ["segment_lengths", "at least one"]),
    "rate -1": ({"dilation_rates": [1, -1]}, "ValueError", ["dilation_rates", "[1, -1]", "positive"]),
    "counts differ": ({"dilation_rates": [1]}, "ValueError", ["segment_lengths", "dilation_rates", "as many"]),
    "is_causal 1": ({"is_causal": 1}, "TypeError", ["is_causal", "1", "True or False"]),
    "return_lse None": ({"return_lse": None}, "TypeError", ["return_lse", "None", "True or False"]),
    "scale is text": ({"scale": "0.5"}, "TypeError", ["scale", "'0.5'", "real number"]),
    "scale True": ({"scale": True}, "TypeError", ["scale", "True", "real number"]),
    "scale nan": ({"scale": float("nan")}, "ValueError", ["scale", "nan", "finite"]),
    "scale beyond floats": ({"scale": 10**400}, "ValueError", ["scale", "finite"]),
    "sequence_length 8.0": ({"sequence_length": 8.0}, "TypeError", ["sequence_length", "8.0", "integer"]),
    "sequence_length -1": ({"sequence_length": -1}, "ValueError", ["sequence_length", "-1", "negative"]),
    "sequence_length of others": ({"sequence_length": 20}, "ValueError", ["sequence_length", "20", "owns"]),
    "layout is no text": ({"layout": 1}, "TypeError", ["layout", "1", "text"]),
    "layout of others": ({"layout": "striped"}, "ValueError", ["layout", "'striped'", "'contiguous', 'zigzag'"]),
    "group is a number": ({"group": 5}, "TypeError", ["group", "5", "process group"]),
    "group is text": ({"group": "world"}, "TypeError", ["group", "'world'", "process group"]),
    "an option of others": ({"dropout": 0.0}, "TypeError", ["dropout", "no such option"]),
}

# What is sound by itself but must not differ between ranks.
DIFFERENT: dict[str, tuple[dict[str, Any], list[str]]] = {
    "segment_lengths": ({"segment_lengths": [4, 6]}, ["segment_lengths", "[4, 8] on rank 0", "[4, 6] on rank 1"]),
    "dilation_rates": ({"dilation_rates": [1, 3]}, ["dilation_rates", "[1, 3] on rank 1"]),
    "is_causal": ({"is_causal": True}, ["is_causal", "True on rank 1"]),
    "scale": ({"scale": 0.25}, ["scale", "None on rank 0", "0.25 on rank 1"]),
    "dtype": ({"to": torch.float32}, ["dtype", "torch.float32 on rank 1"]),
    "batch": ({"shapes": (2, 2, 4, 2, 2, 5)}, ["batch", "2 on rank 1"]),
    "local_length": ({"shapes": (1, 3, 4, 2, 2, 5)}, ["sequence_length", "12 on rank 1", "uneven shards"]),
    "heads": ({"shapes": (1, 2, 6, 2, 2, 5)}, ["heads", "6 on rank 1"]),
    "kv_heads": ({"shapes": (1, 2, 4, 4, 2, 5)}, ["kv_heads", "4 on rank 1"]),
    "head_dim": ({"shapes": (1, 2, 4, 2, 3, 5)}, ["head_dim", "3 on rank 1"]),
    "value_dim": ({"shapes": (1, 2, 4, 2, 2, 6)}, ["value_dim", "6 on rank 1"]),
    "gradients": ({"frozen": "key"}, ["requires_grad", "['query', 'value'] on rank 1"]),
    "layout": ({"layout": "zigzag"}, ["layout", "contiguous on rank 0", "zigzag on rank 1"]),
    "implementation": (
        {"implementation": "other"},
        ["implementation", "attention_gate.impls.collective", "attention_gate.impls.robust"],
    ),
}


def run_badly(rank: int, implementation: str, changes: dict[str, Any], bad_ranks: list[int]) -> None:
    names = ("query", "key", "value")
    arguments = dict(zip(names, own_tensors(CASE, dist.get_world_size(), rank), strict=False)) | CASE.options
    if rank in bad_ranks:
        changes = dict(changes)
        if "to" in changes:
            dtype = changes.pop("to")
            arguments |= {name: arguments[name].detach().to(dtype).requires_grad_() for name in names}
        if "shapes" in changes:
            batch, length, heads, kv_heads, head_dim, value_dim = changes.pop("shapes")
            shapes = ((heads, head_dim), (kv_heads, head_dim), (kv_heads, value_dim))
            arguments |= {
                name: torch.zeros(batch, length, *shape, dtype=torch.float64, requires_grad=True)
                for name, shape in zip(names, shapes, strict=True)
            }
        if "frozen" in changes:
            arguments[changes.pop("frozen")].requires_grad_(False)
        if "implementation" in changes:
            del changes["implementation"]
            implementation = "robust" if implementation == "collective" else "collective"
        arguments |= changes
    attend(implementation)(**arguments)


def refusals(size: int, *arguments: Any) -> list[Raised]:
    """Return what each rank raised; then see that the world is as good as new."""
    answers = world(size).run(run_badly, *arguments, deadline=20.0)
    assert_close(world(size).run(run_case, arguments[0], CASE), CASE)
    for answer in answers:
        assert isinstance(answer, Raised), "a rank did not raise"
    return answers


@pytest.mark.parametrize("name", BAD)
def test_bad_on_every_rank(implementation: str, name: str) -> None:
    changes, kind, quoted = BAD[name]
    for answer in refusals(4, implementation, changes, [0, 1, 2, 3]):
        assert answer.kind == kind, answer.trace
        assert all(text in answer.text for text in quoted), answer.text


@pytest.mark.parametrize("name", BAD)
def test_bad_on_one_rank(implementation: str, name: str) -> None:
    changes, kind, quoted = BAD[name]
    answers = refusals(4, implementation, changes, [1])
    for rank, answer in enumerate(answers):
        assert answer.kind == kind, answer.trace
        assert all(text in answer.text for text in quoted), answer.text
        assert ("rank 1 of 4 refused its arguments" in answer.text) == (rank != 1), answer.text


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_on_one_rank(implementation: str, name: str) -> None:
    changes, quoted = DIFFERENT[name]
    answers = refusals(4, implementation, changes, [1])
    assert len({answer.text for answer in answers}) == 1
    for answer in answers:
        assert answer.kind == "ValueError", answer.trace
        assert all(text in answer.text for text in quoted), answer.text
        assert "must be the same on every rank" in answer.text


def test_bad_in_a_world_of_one(implementation: str) -> None:
    for changes, kind, quoted in BAD.values():
        if "sequence_length" in changes or "value" in changes or "query" in changes or "key" in changes:
            continue  # Their shapes are those of four ranks.
        query, key, value, _ = own_tensors(CASE, 1, 0)
        with pytest.raises((TypeError, ValueError)) as caught:
            attend(implementation)(query, key, value, **CASE.options | changes)
        assert caught.type.__name__ == kind
        assert all(text in str(caught.value) for text in quoted)
