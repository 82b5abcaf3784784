"""Explanations: the report names the mistake that was made, and none that was not."""

import time

import pytest
import torch
import torch.distributed as dist

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks import BY_NAME as CHECKS
from attention_gate.verify.checks.results import Example
from attention_gate.verify.explain.explain import explain
from attention_gate.verify.explain.wrong_outputs import forward_guesses
from attention_gate.verify.explain.wrong_values import fitting, returned, setting_of
from attention_gate.verify.judge.session import Session
from attention_gate.verify.mutants import MUTANTS
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.world.finding import Finding
from tests.verify.targets import _gathered as gathered

BY_NAME = {mutant.name: mutant for mutant in MUTANTS}


def dense(world_size, length, **options):
    """One branch that spans the sequence."""
    return Case(world_size=world_size, length=length, segment_lengths=(length,), dilation_rates=(1,), **options)


def branched(world_size, length, *branches, **options):
    """Branches as pairs of segment length and dilation rate."""
    lengths, rates = zip(*branches, strict=True)
    return Case(world_size=world_size, length=length, segment_lengths=lengths, dilation_rates=rates, **options)


#: The case of each mistake, the check that finds it there, and what the explanation says.
NAMED = {
    "M01": (dense(2, 2), "forward", "base-2 logarithm"),
    "M02": (branched(2, 2, (1, 1)), "forward", "log(1 + exp(block_lse - lse))"),
    "M03": (dense(1, 1), "forward", "the two weights of each merge exchanged"),
    "M04": (dense(3, 3), "forward", "the lse from before the merge"),
    "M05": (branched(3, 9, (9, 3)), "forward", "merges of two empty rows giving NaN"),
    "M07": (dense(1, 2, head_dim=2), "forward", "the scale 1 / sqrt(value_dim)"),
    "M08": (dense(2, 4, is_causal=True), "forward", "positions within the shards instead of in the sequence"),
    "M09": (dense(3, 3, is_causal=True), "forward", "masked as that of rank + hop"),
    "M10": (branched(2, 3, (1, 1), pass_length=True), "forward", "which is wrong for uneven shards"),
    "M11": (dense(2, 2, is_causal=True), "forward", "one block too many skipped"),
    "M12": (dense(2, 2, is_causal=True), "forward", "without its diagonal"),
    "M13": (branched(1, 2, (1, 1)), "forward", "masked scores of 0"),
    "M14": (branched(1, 1, (1, 1), (1, 1), heads=5, kv_heads=5), "forward", "head groups of unequal size"),
    "M15": (branched(2, 6, (5, 2)), "forward", "selected by their index within the shard"),
    "M16": (branched(2, 6, (4, 1)), "forward", "segments counted from the start of each shard"),
    "M17": (branched(1, 3, (1, 1), (3, 1)), "forward", "averaged with equal weights"),
    "M18": (branched(1, 3, (1, 1), (3, 1)), "gradients", "the branches' weights detached"),
    "M19": (branched(1, 4, (4, 2), heads=2, kv_heads=2), "forward", "offset 0 for all heads"),
    "M20": (dense(2, 2), "gradients", "they stop one hop before their owner"),
    "M21": (dense(3, 3), "gradients", "against the ring"),
    "M22": (dense(2, 2), "gradients", "own keys and values at every hop"),
    "M23": (dense(2, 2, is_causal=True), "gradients", "it passes zeros on"),
    "M24": (dense(2, 2), "gradients", "dQ of the last block alone"),
    "M25": (dense(3, 3), "forward", "the keys of the last hop of the ring missing"),
    "M26": (dense(2, 2), "gradients", "normalised by its own lse"),
    "M27": (dense(1, 3, head_dim=3, value_dim=3, upstream="transposed"), "strides", "as if it were contiguous"),
    "M28": (dense(2, 2), "gradients", "divided by the number of ranks"),
    "M29": (dense(1, 1, requires_grad="v"), "grad-subsets", "only if query requires one"),
    "M30": (dense(1, 1), "gradients", "such as torch.distributed.all_gather"),
    "M31": (dense(2, 2), "gradients", "without the sum over the ranks"),
    "M32": (dense(3, 3, is_causal=True), "forward", "in rotated order (own rank first)"),
    "M36": (dense(3, 2, group=(0, 2)), "sub-groups", "confuses ranks in the group with global ranks"),
    "M41": (dense(1, 2), "gradients", "lse taken for a base-2 logarithm in the backward pass alone"),
    "M42": (dense(1, 1), "forward", "one term too many in the denominator"),
    "M47": (dense(2, 2, data="flat", requires_grad=""), "forward", "depends on its own data"),
    "M48": (dense(1, 1), "gradients", "for an upstream gradient of ones: the given one is ignored"),
    "M51": (
        dense(1, 2, heads=2, kv_heads=2, head_dim=2, value_dim=18),
        "gradients",
        "the columns past the last whole tile written into the next head",
    ),
    "X06": (branched(1, 4, (4, 2)), "forward", "masked scores of -10000"),
    "X12": (dense(1, 2, heads=4, kv_heads=2), "forward", "kv head h mod kv_heads"),
    "X14": (dense(1, 2, heads=2, kv_heads=1), "gradients", "of the first query head of each kv head alone"),
    "X16": (branched(1, 6, (3, 2)), "forward", "i mod r instead of (i mod w) mod r"),
    "X17": (branched(1, 5, (3, 1)), "forward", "the short last segment left out"),
    "X19": (branched(1, 4, (2, 3), heads=3, kv_heads=3), "forward", "cut to their segment lengths"),
    "X20": (dense(1, 2, scale=2.0, head_dim=3, value_dim=2), "forward", "the scale ignored"),
    "X21": (dense(1, 2, scale=0.0, head_dim=3, value_dim=2), "forward", "the default scale for scale=0.0"),
    "X22": (dense(1, 2, scale=-0.7), "forward", "the sign of the scale lost"),
    "X23": (branched(1, 3, (1, 1), (3, 1)), "forward", "the branches after the first ignored"),
    "X25": (branched(1, 3, (2, 1), (3, 1)), "forward", "each key counted once"),
    "X27": (dense(1, 2, scale=2.0), "gradients", "without the scale in dK"),
    "X28": (dense(1, 2), "gradients", "without the term D"),
}


def explained(bench, name, case, check, parameters=None):
    """The finding of the check in that case, and its explanation."""
    session = bench.session(BY_NAME[name])
    finding = CHECKS[check].examine(session, case, parameters or {}).finding
    assert finding is not None, f"{check} does not find {name} in {case}"
    return explain(session, Example(check, case, parameters or {}), finding)


@pytest.mark.parametrize("name", NAMED)
def test_the_mistake_is_named(bench, name):
    case, check, words = NAMED[name]
    sentences = explained(bench, name, case, check)
    assert 1 <= len(sentences) <= 3
    assert words in sentences[0], sentences


def test_at_least_25_of_the_forty_are_named():
    assert sum(name.startswith("M") for name in NAMED) >= 25


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("M35", "the gradients of call 2 are computed with the keys and values of call 1"),
        ("X46", "the output of call 2 is that of call 1: both lie in one buffer"),
        ("X72", "computed with everything that call"),
    ],
)
def test_what_calls_do_to_each_other_is_named(bench, name, words):
    sentences = explained(bench, name, dense(1, 2), "state", {"change": "seed", "order": [0, 1, 2]})
    assert any(words in sentence for sentence in sentences), sentences


@pytest.mark.parametrize("name", ["X31", "X34", "X70"])
def test_a_mistake_that_has_no_formula_is_given_no_wrong_name(bench, name):
    case, check = {
        "X31": (branched(1, 4, (4, 2)), "gradients"),
        "X34": (dense(2, 4), "forward"),
        "X70": (dense(1, 3, batch=2), "gradients"),
    }[name]
    assert explained(bench, name, case, check) == ()


def local_queries(query, key, value, *, is_causal, sequence_length, group=None, scale=None, **options):
    """The causal mask takes queries at their place in the shard, and keys at that in the sequence."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    length = sequence_length or query.shape[1] * size
    own = torch.arange(length).tensor_split(size)[rank]
    keys, values = (gathered(x, own, length, group) for x in (key, value))
    scores = (query.shape[-1] ** -0.5 if scale is None else scale) * torch.einsum("bihd,bjhd->bhij", query, keys)
    if is_causal:
        scores = scores.masked_fill(torch.arange(length) > torch.arange(len(own))[:, None], -torch.inf)
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), values)


def test_what_fits_two_elements_by_chance_is_not_named(bench):
    """Of two rows on two ranks the last block is all that the second query sees by such a mask."""
    target, source = as_target("tests.verify.explain.test_explain:local_queries")
    session = Session(target, source, bench._worlds, (1, 2, 3), network=bench._network)
    example = Example("forward", dense(2, 2, is_causal=True, requires_grad=""))
    finding = CHECKS["forward"].examine(session, example.case, {}).finding
    assert finding is not None
    setting = setting_of(session, example.case)
    got = returned(session, example.case)
    assert "the last block alone, in place of all blocks merged" in fitting(setting, got, "out", forward_guesses)
    assert explain(session, example, finding) == ()


def test_a_right_implementation_is_not_explained(bench):
    session = bench.session(BY_NAME["E02"])
    for example in (Example("forward", dense(2, 4)), Example("gradients", dense(2, 4, is_causal=True))):
        assert explain(session, example, Finding("fail", "a rumour", tensor="out")) == ()


def test_an_explanation_is_quick(bench):
    session = bench.session(BY_NAME["M08"])
    example = Example("forward", dense(2, 4, is_causal=True))
    finding = CHECKS["forward"].examine(session, example.case, {}).finding
    explain(session, example, finding)
    start = time.process_time()
    explain(session, example, finding)
    assert time.process_time() - start < 0.5


def test_what_goes_wrong_while_explaining_stays_there(bench, monkeypatch):
    session = bench.session(BY_NAME["M12"])
    monkeypatch.setattr("attention_gate.verify.explain.wrong_values.fits", None)
    assert explain(session, Example("forward", dense(2, 2, is_causal=True)), Finding("fail", "", tensor="out")) == ()


@pytest.mark.parametrize(
    ("name", "case", "words"),
    [
        ("local_ratio", dense(2, 2, heads=8, kv_heads=2), "the ratio of query heads to kv heads taken locally"),
        ("cut_zigzag", dense(2, 9, is_causal=True, pass_length=True), "each shard cut in its middle into two chunks"),
    ],
)
def test_a_mistake_of_how_rows_or_heads_are_shared_is_named(worlds, network, name, case, words):
    target, source = as_target(f"tests.verify.field.sharing_targets:{name}")
    session = Session(target, source, worlds, (1, 2, 3), network=network)
    finding = CHECKS["forward"].examine(session, case, {}).finding
    sentences = explain(session, Example("forward", case), finding)
    assert [words in sentence for sentence in sentences] == [True], sentences
