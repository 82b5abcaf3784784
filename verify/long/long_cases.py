"""The cases of a length: what a target takes, in a schedule whose cost grows no faster than the length."""

from __future__ import annotations

from collections.abc import Callable

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.precision_cases import half_types
from attention_gate.verify.case.styles import ONE_SIDED
from attention_gate.verify.target.target import Target

#: The shortest branch, and by how much segments and rates grow from one branch to the next, as in LongNet's schedule:
#: every branch has the same number of keys for each query, and the last one spans the sequence.
SEGMENT, GROWTH = 256, 16

#: The shortest length that a failure is brought back to.
SHORTEST = 4


def schedule(length: int, segment: int = SEGMENT, growth: int = GROWTH) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Segment lengths and dilation rates for a length: of w / r keys in each branch.

    >>> schedule(1 << 20)
    ((256, 4096, 65536, 1048576), (1, 16, 256, 4096))
    """
    lengths, rates = [min(segment, max(1, length))], [1]
    while lengths[-1] < length:
        rates.append(rates[-1] * growth)
        lengths.append(min(segment * rates[-1], length))
    return tuple(lengths), tuple(rates)


def cases_of(target: Target, world_size: int, seed: int = 0) -> dict[str, Callable[[int], Case]]:
    """By name, what is judged: a function from the length to the case.

    "logic" in the widest dtype that the target takes, where one dropped key stands far above rounding; "precision" in a
    half type, on data whose sums do not cancel; "terms" with all optional terms that the target declares.
    """

    def fitted(case: Case) -> Case:
        return case if target.fit is None else target.fit(case)

    def plain(length: int) -> Case:
        lengths, rates = schedule(length) if target.branches == "any" else ((max(1, length),), (1,))
        return Case(
            world_size=world_size,
            length=length,
            pass_length=bool(length % world_size),
            batch=2,
            heads=4 if target.grouped_query else 2,
            kv_heads=2,
            head_dim=8,
            value_dim=6 if target.value_dim else 8,
            segment_lengths=lengths,
            dilation_rates=rates,
            is_causal=True in target.masks,
            dtype=target.logic_dtype,
            requires_grad="qkv" if target.gradients else "",
            seed=seed,
        )

    found = {"logic": lambda length: fitted(plain(length))}
    if half_types(target):
        half = half_types(target)[0]
        found["precision"] = lambda length: fitted(plain(length).replace(dtype=half, data=ONE_SIDED))
    if target.terms:
        found["terms"] = lambda length: fitted(with_terms(plain(length), target.terms))
    return found


def with_terms(case: Case, terms: tuple[str, ...]) -> Case:
    """The case with these optional terms; a window bounds the distances that slopes multiply."""
    third = case.length // 3
    rest = case.length - third
    return case.replace(
        window=(200, None if not case.is_causal else 0) if "window" in terms else None,
        document_lengths=(third, 0, rest - min(5, rest)) if "documents" in terms else None,
        mask="prefix" if "mask" in terms else None,
        softcap=20.0 if "softcap" in terms else None,
        slopes="slopes" in terms,
        sink="near" if "sink" in terms else None,
    )


def keys_of_a_query(case: Case) -> int:
    """The most keys that a query sees, each branch counted."""
    seen = sum(-(-min(w, case.length) // r) for w, r in zip(case.segment_lengths, case.dilation_rates, strict=True))
    return max(1, within_window(case, seen))


def within_window(case: Case, pairs: int) -> int:
    """The keys of a query, or queries of a key, each branch counted: fewer where the window bounds both sides."""
    left, right = case.window or (None, None)
    right = 0 if case.is_causal else right
    if left is None or right is None:
        return pairs
    return min(pairs, len(case.segment_lengths) * (left + right + 1))
