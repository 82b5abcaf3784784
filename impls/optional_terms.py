"""The optional terms of a call: documents, window, mask, soft cap, slopes and sink, checked and made plain."""

import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attention_gate.impls.given_values import integer, shown
from attention_gate.impls.tiling import Document, Mask


class Terms(NamedTuple):
    """The optional terms as they were given, right or wrong; each is None where it is off."""

    query_length: Any = None
    document_lengths: Any = None
    query_lengths: Any = None
    window: Any = None
    mask: Any = None
    softcap: Any = None
    slopes: Any = None
    sink: Any = None
    joint_key: Any = None
    joint_value: Any = None
    joint: Any = None

    @property
    def given(self) -> tuple[str, ...]:
        """Return the names of those that are on."""
        return tuple(name for name, value in zip(self._fields, self, strict=True) if value is not None)


class Checked(NamedTuple):
    """The optional terms, sound."""

    documents: tuple[Document, ...] | None
    window: tuple[int | None, int | None]
    mask: Mask | None
    softcap: float | None
    slopes: tuple[float, ...] | None
    sink: Tensor | None
    joint: tuple[Tensor, Tensor] | None
    joint_first: bool


def check_terms(terms: Terms, queries: int, keys: int, query: Tensor, value: Tensor, is_dense: bool) -> Checked:
    """Return them, or raise TypeError or ValueError with the argument, its value and the rule.

    `queries` and `keys` are the rows of all ranks; `query` and `value` are this rank's.
    """
    joint, joint_first = _joint(terms, query, value)
    if joint is not None:
        keys += joint[0].shape[1]
    documents = _documents(terms, queries, keys)
    window = _window(terms.window)
    mask = terms.mask
    if mask is not None and not callable(mask):
        raise TypeError(f"mask: {shown(mask)} is not a function of head, query position and key position, or None")
    try:
        hash(mask)
    except TypeError:
        raise TypeError(f"mask: {shown(mask)} cannot be hashed; which rows travel is remembered by it") from None
    if joint is not None and documents is not None:
        raise ValueError("joint_key: its rows belong to no document; they are not taken beside document_lengths")
    as_many = queries == keys if documents is None else all(one.queries == one.keys for one in documents)
    if not as_many and not is_dense:
        raise ValueError(
            f"segment_lengths: {queries} queries and {keys} keys, document by document as many of each, are needed by "
            "branches; only the dense one (length, 1) takes other numbers"
        )
    whole = (Document(0, queries, 0, keys),) if documents is None else documents
    if mask is not None and any(one.queries and one.first_query + one.shift < 0 for one in whole):
        raise ValueError("mask: a query stands before the first key; a mask takes no more queries than keys")
    heads = query.shape[2]
    softcap, slopes, sink = _softcap(terms.softcap), _slopes(terms.slopes, heads), _sink(terms, query)
    return Checked(documents, window, mask, softcap, slopes, sink, joint, joint_first)


def stated(checked: Checked) -> dict[str, object]:
    """Return what of them must be the same on every rank.

    The values of a sink on a GPU are left out: reading them would wait for the GPU.
    """
    mask, sink = checked.mask, checked.sink
    values = sink.detach().tolist() if sink is not None and sink.device.type == "cpu" else None
    return {
        "documents": checked.documents,
        "window": checked.window,
        "mask": None if mask is None else getattr(mask, "__qualname__", type(mask).__name__),
        "softcap": checked.softcap,
        "slopes": checked.slopes,
        "sink": None if sink is None else [str(sink.dtype), sink.requires_grad, values],
        "joint": [checked.joint_first, [[each.shape[1], each.requires_grad] for each in checked.joint or ()]],
    }


def _documents(terms: Terms, queries: int, keys: int) -> tuple[Document, ...] | None:
    if terms.document_lengths is None:
        if terms.query_lengths is not None:
            raise ValueError(f"query_lengths: {shown(terms.query_lengths)} are given without document_lengths")
        return None
    of_keys = _lengths("document_lengths", terms.document_lengths, keys, "keys")
    given = terms.document_lengths if terms.query_lengths is None else terms.query_lengths
    name = "document_lengths" if terms.query_lengths is None else "query_lengths"
    of_queries = _lengths(name, given, queries, "queries")
    if len(of_queries) != len(of_keys):
        raise ValueError(
            f"query_lengths: {len(of_queries)} entries beside the {len(of_keys)} of document_lengths; there must be as "
            "many of one as of the other"
        )
    found, first_query, first_key = [], 0, 0
    for q, k in zip(of_queries, of_keys, strict=True):
        found.append(Document(first_query, q, first_key, k))
        first_query, first_key = first_query + q, first_key + k
    return tuple(found)


def _lengths(name: str, lengths: Any, most: int, what: str) -> list[int]:
    if isinstance(lengths, str | bytes) or not isinstance(lengths, Sequence):
        raise TypeError(f"{name}: {shown(lengths)} is not a list or tuple of integers of at least 0")
    found = [_count(name, length) for length in lengths]
    if sum(found) > most:
        raise ValueError(f"{name}: {shown(lengths)} add up to {sum(found)} rows, and there are {most} {what}")
    return found


def _window(window: Any) -> tuple[int | None, int | None]:
    if window is None:
        return None, None
    if not isinstance(window, tuple | list) or len(window) != 2:
        raise TypeError(f"window: {shown(window)} is not a pair (left, right) or None")
    left, right = (None if bound is None else _count("window", bound) for bound in window)
    return left, right


def _softcap(softcap: Any) -> float | None:
    if softcap is None:
        return None
    if isinstance(softcap, bool) or not isinstance(softcap, numbers.Real):
        raise TypeError(f"softcap: {shown(softcap)} is not a real number or None")
    cap = float(softcap)
    if not 0 < cap < math.inf:
        raise ValueError(f"softcap: {shown(softcap)} is not finite and above 0")
    return cap


def _slopes(slopes: Any, heads: int) -> tuple[float, ...] | None:
    if slopes is None:
        return None
    values = slopes.tolist() if isinstance(slopes, Tensor) else slopes
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise TypeError(f"slopes: {shown(slopes)} is not a list, a tuple or a tensor of real numbers")
    if any(isinstance(value, bool) or not isinstance(value, numbers.Real) for value in values):
        raise TypeError(f"slopes: {shown(slopes)} must hold real numbers")
    if len(values) != heads:
        raise ValueError(f"slopes: {len(values)} of them; there must be one for each of the {heads} heads of query")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"slopes: {shown(slopes)} must be finite")
    return tuple(float(value) for value in values)


def _sink(terms: Terms, query: Tensor) -> Tensor | None:
    sink = terms.sink
    if sink is None:
        return None
    if not isinstance(sink, Tensor):
        raise TypeError(f"sink: {shown(sink)} is not a torch.Tensor or None")
    if not sink.is_floating_point():
        raise ValueError(f"sink: dtype {sink.dtype} is not a floating one")
    if sink.shape != query.shape[2:3]:
        raise ValueError(f"sink: shape {tuple(sink.shape)} is not (heads,) = ({query.shape[2]},)")
    if sink.device != query.device:
        raise ValueError(f"sink: device {sink.device} is not that of query, {query.device}")
    return sink


def _joint(terms: Terms, query: Tensor, value: Tensor) -> tuple[tuple[Tensor, Tensor] | None, bool]:
    """Return the rows that every rank has, and whether they stand before all others."""
    key_rows, value_rows, place = terms.joint_key, terms.joint_value, terms.joint
    if key_rows is None and value_rows is None:
        if place is not None:
            raise ValueError(f"joint: {shown(place)} is given without joint_key and joint_value")
        return None, True
    if place not in (None, "front", "rear"):
        raise ValueError(f"joint: {shown(place)} is not 'front' or 'rear'")
    batch, _, heads, dim = value.shape
    for name, rows, width in (("joint_key", key_rows, query.shape[3]), ("joint_value", value_rows, dim)):
        if not isinstance(rows, Tensor):
            raise TypeError(f"{name}: {shown(rows)} is not a torch.Tensor; both or neither are given")
        wanted = (batch, key_rows.shape[1] if key_rows.ndim == 4 else "rows", heads, width)
        if tuple(rows.shape) != wanted:
            raise ValueError(f"{name}: shape {tuple(rows.shape)} is not (batch, rows, kv_heads, dim) = {wanted}")
        if rows.dtype != query.dtype or rows.device != query.device:
            raise ValueError(f"{name}: {rows.dtype} on {rows.device} is not as query, {query.dtype} on {query.device}")
    return (key_rows, value_rows), place != "rear"


def _count(name: str, value: Any) -> int:
    count = integer(name, value)
    if count < 0:
        raise ValueError(f"{name}: {count} is negative; it must be at least 0")
    return count


def with_sink(out: Tensor, lse: Tensor, sink: Tensor | None, rows: int) -> tuple[Tensor, Tensor]:
    """Return rows of out, in place, and lse (batch, rows * heads, …) with one term more in each row's denominator."""
    if sink is None:
        return out, lse
    logits = sink.detach().to(lse.dtype).repeat(rows)
    whole = torch.logaddexp(lse, logits)
    # A row without any term, not even a sink, stays as it is: 0 and -inf.
    share = (lse - whole.masked_fill(whole.isneginf(), 0.0)).exp_()
    return out.mul_(share.unsqueeze(-1)), whole


def sink_gradient(sink: Tensor, lse: Tensor, delta: Tensor, rows: int) -> Tensor:
    """Return the gradient of the sink (heads,) from this rank's rows: - sum of exp(sink - lse) delta.

    `lse` (batch, rows * heads) includes the sink; `delta` is sum(grad_out * out), of the same shape.
    """
    logits = sink.detach().to(lse.dtype).repeat(rows)
    share = (logits - lse).exp_().masked_fill_(logits.isneginf(), 0.0)
    of_rows = (share * delta).unflatten(1, (rows, len(sink))) if rows else share.new_zeros((0, 0, len(sink)))
    return -of_rows.sum((0, 1)).to(sink.dtype)
