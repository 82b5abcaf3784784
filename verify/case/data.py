"""The values of a case: any rank makes any of its rows by itself, from the seed and the row's position alone.

A counter-based generator (Philox) is moved to the row that is asked for, so that a shard never depends on how the
sequence was split and nothing large has to cross a pipe or be kept in a replay file.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.styles import ONE_SIDED

Name = Literal["query", "key", "value", "upstream"]

_STREAMS: dict[str, int] = {"query": 1, "key": 2, "value": 3, "upstream": 4, "slopes": 5, "sink": 6}
_WORDS_PER_COUNT = 4  # one step of Philox's counter yields four 64-bit words
_WORDS_PER_GENERATOR = 2048  # about as many as are drawn in the time that making a generator takes


def rows(case: Case, name: Name, positions: np.ndarray) -> np.ndarray:
    """Rows of one tensor, float64 (batch, len(positions), heads, dim), rounded to the case's dtype."""
    heads = case.kv_heads if name in ("key", "value") else case.heads
    dim = case.value_dim if name in ("value", "upstream") else case.head_dim
    if case.data == "duplicates" and name in ("key", "value"):
        positions = positions % 3  # equal keys: ties in every softmax
    values = _normal_rows(case.seed, _STREAMS[name], positions, case.batch * heads * dim)
    values = values.reshape(len(positions), case.batch, heads, dim).swapaxes(0, 1)
    if name == "upstream" and case.upstream == "expanded":  # one number for all, as the gradient of out.sum() is
        number = _normal_rows(case.seed, _STREAMS[name], np.zeros(1, int), 1)[0, 0]
        return rounded(np.full_like(values, number), case.dtype)
    return rounded(_styled(case, name, values, positions), case.dtype)


def joint_rows(case: Case, name: Literal["key", "value"]) -> np.ndarray:
    """The rows that every rank has: those that would follow the rows of the sequence."""
    return rows(case, name, np.arange(case.length, case.keys))


def per_head(case: Case, name: Literal["slopes", "sink"]) -> np.ndarray:
    """One number for each query head, float64 (heads,), as the dtype of the sums holds it."""
    values = _normal_rows(case.seed, _STREAMS[name], np.zeros(1, int), case.heads)[0]
    if name == "slopes":
        values = 0.5 * values
    elif case.sink == "off":
        values = np.full_like(values, -np.inf)
    else:
        values = values + {"near": 0.0, "above": 50.0, "far above": 1000.0, "below": -50.0}[case.sink or "near"]
    return rounded(values, sum_dtype(case))


def sum_dtype(case: Case) -> str:
    """The dtype of sums, which is that of the sink and of its gradient."""
    return "float64" if case.dtype == "float64" else "float32"


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """The values as a tensor of that dtype holds them, back in float64."""
    if dtype == "float64":
        return np.ascontiguousarray(values)
    return torch.from_numpy(np.ascontiguousarray(values)).to(getattr(torch, dtype)).to(torch.float64).numpy()


def _styled(case: Case, name: Name, values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Give normal values the style of the case. Every style keeps random, sign-mixed values in what it does not set."""
    scores = name in ("query", "key")
    if case.data == "flat" and scores:
        return values * 0.05
    if case.data == "sharp" and scores:
        return values * 4.0
    if case.data == "huge" and scores:
        # Scores of some 1e4 in float64 and 1e3 in float32 and bfloat16: past exp's range (709 and 88) by far; in
        # float16 every fourth score or so is past its largest number, 65504.
        return values * {"float64": 100.0, "float32": 32.0, "bfloat16": 24.0, "float16": 200.0}[case.dtype]
    if case.data == ONE_SIDED:
        return _one_sided(name, values, positions)
    if case.data == "offset":
        # A large part common to all keys moves every score of a row by the same amount, which softmax forgets.
        return values + (6.0 if name == "key" else 3.0 if name == "value" else 0.0)
    if case.data == "zeros":
        # Whole rows of zeros: scores that are exactly 0, the lse of a single visible key exactly 0.
        keep = (positions + _STREAMS[name]) % 2 == 0
        return values * keep[None, :, None, None]
    return values


def _one_sided(name: Name, values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Values for which the terms of every sum agree in sign, so that independent roundings of the terms average out.

    Weights, values and upstream gradients are mostly positive; dS_ij follows the sign of value j, which key j shares:
    so the terms of out, dV, dK (queries are positive too) and dQ each agree. The signs balance in every part of the
    sequence (they are the Thue-Morse sequence), as D's error, common to a row, counts by the sum of the keys.
    """
    if name == "query":
        return 0.35 + 0.15 * values
    if name == "upstream":
        return 1.5 + 0.5 * values
    parity = positions.copy()
    for shift in (32, 16, 8, 4, 2, 1):
        parity ^= parity >> shift
    sign = (1.0 - 2.0 * (parity & 1))[None, :, None, None]
    return 0.2 * sign + 0.2 * values if name == "key" else 3.0 + sign + 0.25 * values


def _normal_rows(seed: int, stream: int, positions: np.ndarray, width: int) -> np.ndarray:
    """Standard normal values (len(positions), width): row i is a function of seed, stream and positions[i] alone."""
    pairs = (width + 1) // 2
    uniform = _uniform_rows(seed, stream, positions, 2 * pairs)
    radius = np.sqrt(-2.0 * np.log1p(-uniform[:, :pairs]))
    angle = 2.0 * np.pi * uniform[:, pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :width]


def _uniform_rows(seed: int, stream: int, positions: np.ndarray, width: int) -> np.ndarray:
    words = -(-width // _WORDS_PER_COUNT) * _WORDS_PER_COUNT
    if not len(positions):
        return np.empty((0, width))
    first, end = int(positions.min()), int(positions.max()) + 1
    breaks = np.flatnonzero(positions[1:] != positions[:-1] + 1) + 1
    # Of runs that are near to each other, what lies between them is drawn as well and dropped.
    if (end - first) * words <= _WORDS_PER_GENERATOR * (len(breaks) + 1):
        return _words(seed, stream, first, end, words)[positions - first, :width]
    runs = np.split(positions, breaks)
    return np.concatenate([_words(seed, stream, int(run[0]), int(run[-1]) + 1, words)[:, :width] for run in runs])


def _words(seed: int, stream: int, first: int, end: int, words: int) -> np.ndarray:
    """Uniform numbers (end - first, words) of consecutive rows."""
    bits = np.random.Philox(key=np.array([seed, stream], np.uint64), counter=first * (words // _WORDS_PER_COUNT))
    return np.random.Generator(bits).random((end - first, words))
