"""Makes a failing example minimal in every field, and says from which size on it fails.

Each field is taken to its simplest value if the example still fails there; a size is bisected otherwise. What remains
fails, and is right with any one of its sizes a step smaller, as far as the time allowed goes.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.coverage import options_of
from attention_gate.verify.case.extents import LARGEST_SMALL, rows_of
from attention_gate.verify.case.lengths import (
    over,
    with_documents,
    with_joint,
    with_length,
    with_one_row_after,
    with_queries,
    without_rows_after,
)
from attention_gate.verify.case.options import Space
from attention_gate.verify.checks.check import Parameters

#: Whether an example fails as the first one did; None if there was no time left to try it.
Fails = Callable[[Case, Parameters], bool | None]


@dataclass(frozen=True)
class Size:
    """A size of a case: what it is called, its value, its least value, and the case with another one.

    A size past ``limit`` is past a tile: its threshold is worth saying.
    """

    words: str
    of: Callable[[Case], int]
    least: int
    changed: Callable[[Case, int], Case]
    limit: int


class Reduction:
    """One failing example on its way to a minimal one.

    ``axes`` are the options that the check allows, ``fitted`` makes a case one that the target takes.
    """

    def __init__(self, fails: Fails, axes: Space, fitted: Callable[[Case], Case], simplest: Parameters) -> None:
        self._fails = fails
        self._axes = axes
        self._fitted = fitted
        self._simplest = simplest

    def minimal(self, case: Case, parameters: Parameters) -> tuple[Case, Parameters]:
        """The example with every field as simple as it fails with; sizes come first, as small cases are quick."""
        case = self._smaller(case, parameters)
        been: set[tuple[Case, str]] = set()
        while (case, repr(parameters)) not in been:
            been.add((case, repr(parameters)))
            for change in _simpler(case, self._axes):
                if self._still(change, case, parameters):
                    case = self._fitted(change)
                    break
            else:
                case = self._smaller(case, parameters)
                parameters = self._plainer(case, parameters)
        return case, parameters

    def thresholds(self, case: Case, parameters: Parameters) -> tuple[str, ...]:
        """For each size past a tile: from which value on the minimal example fails, if the one below is right."""
        found: dict[Case, str] = {}
        for size in SIZES:
            value = size.of(case)
            below, above = (self._change(size, case, value + step) for step in (-1, 1))
            if value <= size.limit or below is None or self._still(below, case, parameters) is not False:
                continue
            grows = above is not None and self._still(above, case, parameters)
            words = f"fails {'from' if grows else 'at'} {value} {size.words}{' on' if grows else ''}"
            found[below] = f"{words}; {value - 1} are right"
        return tuple(found.values())

    def _still(self, change: Case, case: Case, parameters: Parameters) -> bool | None:
        """Whether the changed case fails too; None if the case is the same, is not allowed, or there is no time."""
        change = self._fitted(change)
        if change == case or not _allowed(change, case, self._axes):
            return None
        return self._fails(change, parameters)

    def _smaller(self, case: Case, parameters: Parameters) -> Case:
        for size in SIZES:
            case = self._bisected(size, case, parameters)
        return case

    def _bisected(self, size: Size, case: Case, parameters: Parameters) -> Case:
        """The case with the least value of that size with which it fails, if all values below a passing one pass."""
        right = size.least - 1
        while (value := size.of(case)) - right > 1:
            between = size.least if right < size.least else (right + value) // 2
            change = self._change(size, case, between)
            if change is not None and size.of(self._fitted(change)) < value and self._still(change, case, parameters):
                case = self._fitted(change)
            else:
                right = between
        return case

    def _change(self, size: Size, case: Case, value: int) -> Case | None:
        try:
            return size.changed(case, value)
        except ValueError:
            return None  # no case has that

    def _plainer(self, case: Case, parameters: Parameters) -> Parameters:
        for name, value in parameters.items():
            for plainer in _plainer_values(value, self._simplest.get(name, value)):
                change = {**parameters, name: plainer}
                if self._fails(case, change):
                    return change
        return parameters


def _allowed(change: Case, case: Case, axes: Space) -> bool:
    """Whether the check draws such cases, or it differs in nothing from one that it drew."""
    now, before = options_of(change), options_of(case)
    return all(
        now[name] == before[name] or now[name] in values or (name == "branches" and now[name] == "dense")
        for name, values in axes.items()
    )


def _simpler(case: Case, axes: Space) -> Iterator[Case]:
    """The case with one of its options simpler, the most telling ones first."""
    yield from _fewer_ranks(case)
    yield from _simpler_branches(case)
    yield from _simpler_lengths(case)
    plain: dict[str, Any] = {
        "window": None,
        "mask": None,
        "softcap": None,
        "slopes": False,
        "sink": None,
        "is_causal": False,
        "scale": None,
        "data": "normal",
        "buffers": "contiguous",
        "upstream": "contiguous",
        "dtype": axes["dtype"][0],
        "requires_grad": axes["requires_grad"][0],
    }
    changes: list[dict[str, Any]] = [{name: value} for name, value in plain.items() if getattr(case, name) != value]
    simpler = itertools.takewhile(lambda caller: caller != case.caller, axes["caller"])
    changes += [{"caller": caller} for caller in simpler]  # of those in which it fails, the simplest
    if case.pass_length and case.length % case.shards == 0 and case.interleave is None:
        changes.append({"pass_length": False})
    if case.kv_heads != case.heads:
        changes.append({"kv_heads": case.heads})  # no groups
    if case.value_dim != case.head_dim <= max(LARGEST_SMALL["head_dim"], case.value_dim):
        changes.append({"value_dim": case.head_dim})
    if case.head_dim > case.value_dim:
        changes.append({"head_dim": case.value_dim})
    if case.head_dim == case.value_dim > LARGEST_SMALL["head_dim"]:
        changes += [{"head_dim": 1}, {"value_dim": 1}]
    if case.seed:
        changes.append({"seed": 0})
    for change in changes:
        with contextlib.suppress(ValueError):  # no case has that beside the rest
            yield case.replace(**change)


def _fewer_ranks(case: Case) -> Iterator[Case]:
    """On fewer ranks, in the smallest worlds that hold them; with the same length, or the same rows per rank."""
    for shards in range(1, case.shards):
        worlds: list[tuple[int, tuple[int, ...] | None]] = [(shards, None)]
        if case.group is not None:
            worlds = [(size, tuple(range(size - shards, size))) for size in range(shards + 1, case.world_size + 1)]
        for world_size, group in worlds:
            for length in dict.fromkeys((case.length, shards * rows_of(case))):
                with contextlib.suppress(ValueError):  # no case has that length beside the rest
                    yield over(case, length, world_size, group)
    if case.group is not None:
        yield case.replace(group=None, world_size=case.shards)
        for size in range(case.shards + 1, case.world_size):
            yield case.replace(world_size=size, group=tuple(range(size - case.shards, size)))


def _simpler_lengths(case: Case) -> Iterator[Case]:
    """Without rows that every rank has, without documents, or rows after them, with as many queries as keys, …"""
    simpler: list[Callable[[], Case]] = []
    if case.joint is not None:
        simpler.append(lambda: with_joint(case, None))
    if case.document_lengths is not None:
        simpler += [
            lambda: with_documents(case, None),
            lambda: without_rows_after(case),
            lambda: with_one_row_after(case),
        ]
    if case.query_length is not None:
        simpler.append(lambda: with_queries(case, None))
    if case.interleave not in (None, 1):
        simpler.append(lambda: case.replace(interleave=1))
    for change in simpler:
        with contextlib.suppress(ValueError):  # no case has that beside the rest
            yield change()


def _simpler_branches(case: Case) -> Iterator[Case]:
    branches = list(zip(case.segment_lengths, case.dilation_rates, strict=True))
    dense = (max(case.keys, 1), 1)

    def complexity(some: list[tuple[int, int]]) -> tuple[int, ...]:
        rates, segments = sum(rate for _, rate in some), sum(segment for segment, _ in some)
        return len(some), sum(branch != dense for branch in some), rates, segments

    candidates = [[dense], *([branch] for branch in branches)]
    candidates += [branches[:k] + branches[k + 1 :] for k in range(len(branches))]
    for k, (segment, rate) in enumerate(branches):
        for simpler in (dense, (segment, 1), (segment, rate - 1), (segment // 2, rate), (segment - 1, rate)):
            candidates.append([*branches[:k], simpler, *branches[k + 1 :]])
    for some in candidates:
        if some and min(map(min, some)) > 0 and complexity(some) < complexity(branches):
            segments, rates = zip(*some, strict=True)
            yield case.replace(segment_lengths=segments, dilation_rates=rates)


def _plainer_values(value: Any, simplest: Any) -> Iterator[Any]:
    if value == simplest:
        return
    yield simplest
    if isinstance(value, list) and len(value) != len(simplest):  # one of a fixed length is an order
        yield value[: len(value) // 2]
        yield from (value[:k] + value[k + 1 :] for k in range(len(value)))
        yield from ([*value[:k], 0, *value[k + 1 :]] for k, entry in enumerate(value) if entry)


def _with_heads(case: Case, heads: int) -> Case:
    """The case with that many heads, on one kv head if there are groups."""
    return case.replace(heads=heads, kv_heads=heads if case.kv_heads == case.heads else 1)


def _with_group(case: Case, group: int) -> Case:
    return case.replace(heads=case.kv_heads * group)


def _with_kv_heads(case: Case, kv_heads: int) -> Case:
    return case.replace(kv_heads=kv_heads, heads=kv_heads * (case.heads // case.kv_heads))


def _with_queries(case: Case, queries: int) -> Case:
    return case if case.query_length is None else with_queries(case, queries)


def _with_joint_rows(case: Case, rows: int) -> Case:
    return case if case.joint is None else with_joint(case, (case.joint[0], rows))


def _with_head_dim(case: Case, head_dim: int) -> Case:
    same = case.value_dim == case.head_dim
    return case.replace(head_dim=head_dim, value_dim=head_dim if same else case.value_dim)


def _per_rank(case: Case, rows: int) -> Case:
    return with_length(case, rows * case.shards)


SIZES = (
    Size("rows of a rank", rows_of, 1, _per_rank, LARGEST_SMALL["rows"] // 4),
    Size("rows", lambda case: case.length, 1, with_length, 1 << 30),
    Size("queries", lambda case: case.queries, 1, _with_queries, 1 << 30),
    Size("rows that every rank has", lambda case: case.joint_rows, 1, _with_joint_rows, 1 << 30),
    Size("sequences", lambda case: case.batch, 1, lambda case, n: case.replace(batch=n), LARGEST_SMALL["batch"]),
    Size("kv heads", lambda case: case.kv_heads, 1, _with_kv_heads, 1 << 30),
    Size("heads", lambda case: case.heads, 1, _with_heads, LARGEST_SMALL["heads"] - 1),
    Size(
        "heads per kv head",
        lambda case: case.heads // case.kv_heads,
        1,
        _with_group,
        LARGEST_SMALL["heads per kv head"] - 1,
    ),
    Size("dimensions of query and key", lambda case: case.head_dim, 1, _with_head_dim, LARGEST_SMALL["head_dim"] - 1),
    Size(
        "dimensions of value",
        lambda case: case.value_dim,
        1,
        lambda case, n: case.replace(value_dim=n),
        LARGEST_SMALL["value_dim"] - 1,
    ),
)
