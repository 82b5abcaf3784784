"""One attention problem, small enough to name in a test's id, and what each rank does with it."""

from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from attention_gate import reference

IMPLEMENTATIONS = ("collective", "robust")


@dataclass(frozen=True)
class Case:
    """Sizes and options; the data follow from the seed, and so every rank can make its own part of them."""

    length: int
    branches: tuple[tuple[int, int], ...] = ((4, 1),)
    is_causal: bool = False
    batch: int = 1
    heads: int = 3
    kv_heads: int = 3
    head_dim: int = 2
    value_dim: int = 5
    dtype: str = "float64"
    scale: float | None = None
    spread: float = 1.0
    seed: int = 0

    @property
    def options(self) -> dict[str, Any]:
        return {
            "segment_lengths": [length for length, _ in self.branches],
            "dilation_rates": [rate for _, rate in self.branches],
            "is_causal": self.is_causal,
            "scale": self.scale,
        }


def whole(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return query, key, value and grad_out of the whole sequence, rounded to the dtype of the case."""
    source = np.random.default_rng(case.seed)
    heads, kv_heads = case.heads, case.kv_heads
    arrays = [
        source.normal(size=(case.batch, case.length, *shape)) * spread
        for shape, spread in (
            ((heads, case.head_dim), case.spread),
            ((kv_heads, case.head_dim), case.spread),
            ((kv_heads, case.value_dim), 1.0),
            ((heads, case.value_dim), 1.0),
        )
    ]
    dtype = getattr(torch, case.dtype)
    query, key, value, grad_out = (torch.from_numpy(array).to(dtype).double().numpy() for array in arrays)
    return query, key, value, grad_out


@lru_cache(maxsize=512)
def expected(case: Case) -> dict[str, np.ndarray]:
    """Return what the oracle says of the whole sequence."""
    query, key, value, grad_out = whole(case)
    out, lse = reference.dilated_attention(query, key, value, **case.options)
    gradients = reference.dilated_attention_gradients(query, key, value, grad_out, **case.options)
    return {"out": out, "lse": lse, **dict(zip(("grad_query", "grad_key", "grad_value"), gradients, strict=True))}


def attend(implementation: str) -> Any:
    return import_module(f"attention_gate.impls.{implementation}").attend


def shard_of(length: int, size: int, rank: int) -> slice:
    """Return the rows of a rank as torch.tensor_split deals them out."""
    rows = np.array_split(np.arange(length), size)[rank]
    return slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)


def own_tensors(case: Case, size: int, rank: int) -> list[torch.Tensor]:
    """Return this rank's rows of query, key and value, which require gradients, and of grad_out."""
    rows = shard_of(case.length, size, rank)
    dtype = getattr(torch, case.dtype)
    tensors = [torch.from_numpy(array[:, rows].copy()).to(dtype) for array in whole(case)]
    return [tensor.requires_grad_(place < 3) for place, tensor in enumerate(tensors)]


def run_case(rank: int, implementation: str, case: Case, group: dist.ProcessGroup | None = None) -> dict[str, Any]:
    """Run a case on this rank, forward and backward, and return its rows of everything as float64 arrays."""
    size, group_rank = dist.get_world_size(group), dist.get_rank(group)
    query, key, value, grad_out = own_tensors(case, size, group_rank)
    out, lse = attend(implementation)(
        query, key, value, sequence_length=case.length, return_lse=True, group=group, **case.options
    )
    out.backward(grad_out)
    return collect(out, lse, query, key, value)


def collect(out: torch.Tensor, lse: torch.Tensor, *inputs: torch.Tensor) -> dict[str, Any]:
    results = {"out": out, "lse": lse} | {
        f"grad_{name}": tensor.grad for name, tensor in zip(("query", "key", "value"), inputs, strict=True)
    }
    return {name: result.detach().double().numpy() for name, result in results.items()}


def assert_close(answers: list[dict[str, np.ndarray]], case: Case, tolerance: float = 1e-12) -> None:
    """Assert that the ranks' rows, put together, are the oracle's, NaN and -inf in the same places."""
    for name, right in expected(case).items():
        rows = np.concatenate([answer[name] for answer in answers], axis=2 if name == "lse" else 1)
        assert rows.shape == right.shape, f"{name} of {case}: {rows.shape} is not {right.shape}"
        size = max(1.0, float(np.abs(right[np.isfinite(right)]).max(initial=0.0)))
        np.testing.assert_allclose(rows, right, rtol=0, atol=tolerance * size, err_msg=f"{name} of {case}")


def random_case(seed: int, **fixed: Any) -> Case:
    """Return a case drawn from the seed: lengths, rates and shards misaligned more often than not."""
    source = np.random.default_rng(seed)
    length = int(source.integers(0, 23))
    kv_heads = int(source.integers(1, 4))
    branches = tuple(
        (int(source.integers(1, length + 3)), int(source.integers(1, 6))) for _ in range(source.integers(1, 4))
    )
    drawn = {
        "length": length,
        "branches": branches,
        "is_causal": bool(source.integers(2)),
        "batch": int(source.integers(1, 3)),
        "heads": kv_heads * int(source.integers(1, 4)),
        "kv_heads": kv_heads,
        "head_dim": int(source.integers(1, 5)),
        "value_dim": int(source.integers(1, 5)),
        "seed": seed,
    }
    return Case(**drawn | fixed)
