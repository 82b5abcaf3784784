"""The arrays that come in: real numbers, made float64, of shapes that fit each other."""

from numbers import Real
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

LAYOUTS = {
    "query": ("batch", "length", "heads", "head_dim"),
    "key": ("batch", "length", "kv_heads", "head_dim"),
    "value": ("batch", "length", "kv_heads", "value_dim"),
    "grad_out": ("batch", "length", "heads", "value_dim"),
}


class Shaped(Protocol):
    """An array, or what is read in pieces as one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """batch, length, heads or kv_heads, dim."""
        ...


def query_and_key(query: ArrayLike, key: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both in float64, once it is sure that they can be multiplied."""
    query, key = real("query", query), real("key", key)
    can_be_multiplied(query, key)
    return query, key


def can_be_multiplied(query: Shaped, key: Shaped) -> None:
    """Their shapes fit each other."""
    for name, array in (("query", query), ("key", key)):
        if array.shape[2] < 1 or array.shape[3] < 1:
            count, width = LAYOUTS[name][2:]
            raise ValueError(f"{name} must have at least one of {count} and of {width}, got shape {array.shape}")
    agree("key", key, "query", query, "batch", "head_dim")
    heads, kv_heads = query.shape[2], key.shape[2]
    if heads % kv_heads:
        raise ValueError(
            "the heads of query must be a multiple of the kv_heads of key, got "
            f"{heads} heads (query of shape {query.shape}) and {kv_heads} kv_heads (key of shape {key.shape})"
        )


def query_key_value(
    query: ArrayLike, key: ArrayLike, value: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    query, key = query_and_key(query, key)
    value = real("value", value)
    agree("value", value, "key", key, "batch", "length", "kv_heads")
    return query, key, value


def sources_agree(query: Shaped, key: Shaped, value: Shaped, grad_out: Shaped) -> None:
    """The shapes of tensors that are read in pieces fit each other."""
    for name, source in (("query", query), ("key", key), ("value", value), ("grad_out", grad_out)):
        if len(source.shape) != 4:
            raise ValueError(f"{name} must have the shape ({', '.join(LAYOUTS[name])}), got {source.shape}")
    can_be_multiplied(query, key)
    agree("value", value, "key", key, "batch", "length", "kv_heads")
    agree("grad_out", grad_out, "query", query, "batch", "length", "heads")
    agree("grad_out", grad_out, "value", value, "value_dim")


def ascending(name: str, values: ArrayLike, length: int) -> NDArray[np.int64]:
    """Indices of rows: integers from 0 to length - 1, each larger than the one before."""
    array = np.asarray(values)
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got dtype {array.dtype}")
    if array.ndim != 1 or (np.diff(array.astype(np.int64)) <= 0).any() or array[0] < 0 or array[-1] >= length:
        raise ValueError(
            f"{name} must be ascending row indices from 0 to {length - 1} without repetition, got {values!r}"
        )
    return array.astype(np.int64)


def like_out(grad_out: ArrayLike, query: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.float64]:
    grad_out = real("grad_out", grad_out)
    agree("grad_out", grad_out, "query", query, "batch", "length", "heads")
    agree("grad_out", grad_out, "value", value, "value_dim")
    return grad_out


def real(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, which become float64, got dtype {array.dtype}")
    if array.ndim != 4:
        raise ValueError(f"{name} must have the shape ({', '.join(LAYOUTS[name])}), got {array.shape}")
    return array.astype(np.float64, copy=False)


def agree(name: str, array: Shaped, other: str, beside: Shaped, *dimensions: str) -> None:
    """Two arrays must have the named dimensions in common."""
    if any(array.shape[LAYOUTS[name].index(d)] != beside.shape[LAYOUTS[other].index(d)] for d in dimensions):
        raise ValueError(
            f"{name} must share ({', '.join(dimensions)}) with {other}, "
            f"got {name} of shape {array.shape} beside {other} of shape {beside.shape}"
        )


def counts(multiplicity: ArrayLike, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """The multiplicity as float64 (heads, queries, keys), exact as long as no count exceeds 2^53."""
    array = np.asarray(multiplicity)
    if array.dtype.kind not in "biu":
        raise TypeError(f"multiplicity must hold non-negative integers or bool, got dtype {array.dtype}")
    if array.dtype.kind == "i" and (array < 0).any():
        raise ValueError(f"multiplicity must hold non-negative integers or bool, got {array.min()}")
    try:
        return np.broadcast_to(array, shape).astype(np.float64)
    except ValueError:
        raise ValueError(
            f"multiplicity must broadcast to (heads, queries, keys) = {shape}, got shape {array.shape}"
        ) from None


def scale_or_default(scale: float | None, head_dim: int) -> float:
    if scale is None:
        return head_dim**-0.5
    if isinstance(scale, (bool, np.bool_)) or not isinstance(scale, Real):
        raise TypeError(f"scale must be a real number, or None for 1 / sqrt(head_dim), got {scale!r}")
    return float(scale)


def positive(name: str, value: float) -> float:
    """A finite number above 0."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a finite number above 0, or None, got {value!r}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a finite number above 0, or None, got {value!r}")
    return float(value)


def per_head(name: str, values: ArrayLike, heads: int) -> NDArray[np.float64]:
    """One real number for each query head."""
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if array.shape != (heads,):
        raise ValueError(f"{name} must have the shape (heads,) = ({heads},), got {array.shape}")
    return array.astype(np.float64, copy=False)


def positions_or_last(
    positions: tuple[ArrayLike, ArrayLike] | None, queries: int, keys: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The positions of queries and keys; without any, keys from 0 on and queries at the last ones."""
    if positions is None:
        return np.arange(keys - queries, keys), np.arange(keys)
    x, j = (np.asarray(one) for one in positions)
    if x.dtype.kind not in "iu" or j.dtype.kind not in "iu":
        raise TypeError(f"positions must be integers, got dtypes {x.dtype} and {j.dtype}")
    if x.shape != (queries,) or j.shape != (keys,):
        raise ValueError(
            f"positions must have the shapes ({queries},) of queries and ({keys},) of keys, got {x.shape} and {j.shape}"
        )
    return x.astype(np.int64), j.astype(np.int64)
