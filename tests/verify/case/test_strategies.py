"""Strategies: what is drawn is a case with the options of its row, and the corners where mistakes show are reached."""

import collections
import dataclasses
import types

import pytest

from attention_gate import reference
from attention_gate.verify.case.coverage import covered_pairs, options_of
from attention_gate.verify.case.options import feasible, feasible_pairs
from attention_gate.verify.case.styles import ONE_SIDED
from attention_gate.verify.checks import BY_NAME, CHECKS
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.run.search import search
from attention_gate.verify.target.layouts import contiguous
from attention_gate.verify.target.target import CLAIMS
from tests.verify.case.test_options import TARGETS
from tests.verify.targets import few

SIZES = (1, 2, 3, 4)


def drawn(check, examples, target=None, seed=0, sizes=SIZES):
    """So many cases as a check's search would draw them, the judgement left out."""
    found = []

    def examine(session, case, parameters):
        found.append(case)
        return Verdict(0.0)

    session = types.SimpleNamespace(
        target=target or TARGETS["whole contract"],
        world_sizes=sizes,
        largest_world=max(sizes),
        fitted=lambda case: case,
        device="cpu",
        examined=[],
    )
    search(dataclasses.replace(check, examine=examine), session, examples=examples, seed=seed)
    return found


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_case_has_options_that_the_check_allows(check):
    claiming = dataclasses.replace(TARGETS["whole contract"], claims=CLAIMS)
    axes = check.space(claiming, SIZES)
    for case in drawn(check, 150, claiming):
        if case.data == ONE_SIDED:  # a case for measuring, which the check has besides those of its axes
            continue
        if check.name == "schedules" and case.world_size > max(SIZES):  # one of larger simulated worlds, likewise
            continue
        options = options_of(case)
        if check.name in ("wire", "traffic"):  # rows are widened there, so that they make up what is sent
            options |= {name: axes[name][0] for name in ("head_dim", "value_dim")}
        assert feasible(options, max(SIZES))
        assert case.world_size <= max(SIZES)
        assert case.group is None or len(case.group) < case.world_size
        for name, values in axes.items():
            if name == "branches":  # a drawn branch may happen to be the dense one
                assert options[name] in values or options[name] == "dense"
            else:
                assert options[name] in values, (name, case)


@pytest.mark.parametrize("sizes", [(2,), (4,), (2, 4), (1, 5)])
@pytest.mark.parametrize("name", ["sub-groups", "schedules", "combinations"])
def test_no_world_is_launched_that_was_not_asked_for(name, sizes):
    launched = {case.world_size for case in drawn(BY_NAME[name], 40, sizes=sizes)}
    assert launched <= set(sizes)
    assert max(sizes) in launched


def test_nothing_is_drawn_that_the_target_does_not_support():
    for case in drawn(BY_NAME["combinations"], 200, few):
        assert (case.segment_lengths, case.dilation_rates) == ((max(case.length, 1),), (1,))
        assert case.dtype == "float32"
        assert case.requires_grad == ""
        assert case.group is None
        assert case.length % case.world_size == 0
        assert case.heads == case.kv_heads


def _starts(case):
    return [int(owned[0]) for s in range(case.shards) if len(owned := contiguous(s, case.shards, case.length))]


def _lone_rows(case):
    """Rows that see nothing."""
    branches = reference.branches(case.segment_lengths, case.dilation_rates)
    seen = reference.multiplicity(case.length, case.heads, branches, case.is_causal).sum(axis=-1)
    return bool((seen == 0).any())


def _seen_twice(case):
    """Keys that a row sees in more than one branch."""
    branches = reference.branches(case.segment_lengths, case.dilation_rates)
    return bool((reference.multiplicity(case.length, case.heads, branches, case.is_causal) > 1).any())


#: Where mistakes that people shipped show, and in how many of 300 cases at least.
CORNERS = {
    "segment mod rate is not 0": (lambda c: any(w % r for w, r in _branches(c)), 60),
    "rate above segment": (lambda c: any(r > w for w, r in _branches(c)), 5),
    "length mod segment is not 0": (lambda c: any(c.length % w for w, _ in _branches(c)), 60),
    "segment longer than the sequence": (lambda c: any(w > c.length for w, _ in _branches(c)), 10),
    "segment longer than a shard": (lambda c: any(w > c.length // c.shards for w, _ in _branches(c)), 60),
    "heads mod branches is not 0": (lambda c: c.heads % len(c.segment_lengths), 40),
    "shard start mod rate is not 0": (lambda c: any(s % r for s in _starts(c) for _, r in _branches(c)), 40),
    "shard start mod segment is not 0": (lambda c: any(s % w for s in _starts(c) for w, _ in _branches(c)), 40),
    "value_dim is not head_dim": (lambda c: c.value_dim != c.head_dim, 60),
    "value_dim below head_dim": (lambda c: c.value_dim < c.head_dim, 15),
    "value_dim above head_dim": (lambda c: c.value_dim > c.head_dim, 15),
    "uneven shards": (lambda c: c.length % c.shards, 60),
    "an empty shard": (lambda c: c.length < c.shards, 20),
    "an empty sequence": (lambda c: c.length == 0, 2),
    "causal": (lambda c: c.is_causal, 60),
    "grouped heads": (lambda c: c.heads > c.kv_heads > 1, 20),
    "more heads than offsets": (lambda c: any(c.heads > r > 1 for _, r in _branches(c)), 40),
    "a head with an offset": (lambda c: c.heads > 1 and any(r > 1 for _, r in _branches(c)), 60),
    "rows that see nothing": (_lone_rows, 40),
    "branches that overlap": (_seen_twice, 40),
    "huge logits": (lambda c: c.data == "huge", 15),
    "huge logits and rows that see nothing": (lambda c: c.data == "huge" and _lone_rows(c), 1),
    "a negative scale": (lambda c: c.scale is not None and c.scale < 0, 5),
    "scale zero": (lambda c: c.scale == 0, 20),
    "two batches": (lambda c: c.batch > 1, 60),
    "heads is the length": (lambda c: c.heads == c.length, 2),
    "the length passed though it need not be": (lambda c: c.pass_length and c.length % c.shards == 0, 30),
    "the length not passed": (lambda c: not c.pass_length, 30),
    "at least three ranks": (lambda c: c.shards >= 3, 60),
}


def _branches(case):
    return list(zip(case.segment_lengths, case.dilation_rates, strict=True))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ["forward", "gradients", "combinations"])
def test_the_corners_are_reached(name, seed):
    found = collections.Counter()
    for case in drawn(BY_NAME[name], 300, seed=seed):
        for corner, (holds, _) in CORNERS.items():
            found[corner] += bool(holds(case))
    short = {corner: (found[corner], least) for corner, (_, least) in CORNERS.items() if found[corner] < least}
    assert not short, "reached too seldom (found, wanted)"


def test_sub_groups_are_not_the_first_ranks():
    groups = {case.group for case in drawn(BY_NAME["sub-groups"], 200)}
    assert None not in groups
    assert any(0 not in group for group in groups)
    assert any(group != tuple(range(group[0], group[0] + len(group))) for group in groups)  # gaps
    assert all(group != tuple(range(len(group))) for group in groups)


@pytest.mark.parametrize("sizes", [(1,), (2,), (1, 2, 3, 4)], ids=str)
def test_every_pair_of_options_occurs_in_the_combinations_however_few_the_examples(sizes):
    check = BY_NAME["combinations"]
    axes = check.space(TARGETS["whole contract"], sizes)
    assert feasible_pairs(axes, max(sizes)) - covered_pairs(drawn(check, 4, sizes=sizes)) == set()


@pytest.mark.parametrize("name", ["forward", "gradients", "precision"])
def test_so_many_examples_are_asked_for_so_many_different_ones_are_judged(name):
    found = drawn(BY_NAME[name], 150)
    assert len(found) == len(set(found)) == 150


def test_the_same_seed_draws_the_same_cases():
    check = BY_NAME["combinations"]
    first, again, other = (drawn(check, 60, seed=seed) for seed in (5, 5, 6))
    assert first == again
    assert first != other
