"""Explanations of optional terms: the report names what they were taken for, and nothing where they are right."""

from dataclasses import replace

import pytest

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks import BY_NAME as CHECKS
from attention_gate.verify.checks.results import Example
from attention_gate.verify.explain.explain import explain
from attention_gate.verify.mutants import MUTANTS
from attention_gate.verify.target.choices import TERMS
from attention_gate.verify.target.loading import load
from attention_gate.verify.target.source import parse_source
from attention_gate.verify.world.finding import Finding

BY_NAME = {mutant.name: mutant for mutant in MUTANTS}


def dense(world_size, length, **options):
    """One branch that spans the sequence."""
    return Case(world_size=world_size, length=length, segment_lengths=(length,), **options)


#: The case of each mistake, the check that finds it there, and what the explanation says.
NAMED = {
    "T01": (dense(2, 4, is_causal=True, document_lengths=(2, 2)), "forward", "without the documents' boundaries"),
    "T05": (dense(2, 4, document_lengths=(1, 2, 1)), "forward", ""),
    "T06": (dense(2, 4, document_lengths=(1, 1)), "forward", "the rows after the last document taken for rows of it"),
    "T10": (dense(2, 4, document_lengths=(3, 1)), "forward", "documents that begin anew on each shard"),
    "T15": (dense(1, 4, window=(1, 0)), "forward", "it holds one key more"),
    "T16": (dense(1, 4, window=(1, 0)), "forward", "no left bound of the window"),
    "T17": (dense(2, 4, window=(1, 0)), "forward", "without the window"),
    "T21": (dense(2, 4, window=(1, 0)), "gradients", "the window in the forward pass only"),
    "T23": (dense(2, 4, sink="near"), "forward", "without the sink"),
    "T24": (dense(2, 4, heads=2, kv_heads=2, sink="near"), "forward", "sinks by the number of a head on its rank"),
    "T29": (dense(2, 4, softcap=0.5), "forward", "without the soft cap"),
    "T30": (dense(2, 4, slopes=True), "forward", "distances of rows within their shards"),
    "T31": (dense(2, 4, heads=2, kv_heads=2, slopes=True), "forward", "slopes by the number of a head on its rank"),
    "T32": (dense(2, 4, slopes=True), "forward", "slopes of the other sign"),
    "T34": (dense(2, 4, mask="thirds"), "forward", "the mask taken at the rows' places within their shards"),
    "X101": (dense(2, 4, document_lengths=(1, 3)), "forward", "each document ending a row late"),
    "X103": (dense(2, 4, document_lengths=(1, 3)), "gradients", "the documents' boundaries in the forward pass only"),
    "X105": (dense(2, 4, window=(1, 0)), "forward", "no right bound of the window"),
    "X106": (dense(2, 4, window=(1, 2), is_causal=True), "forward", "a window that switches the causal mask off"),
    "X109": (dense(2, 4, heads=2, kv_heads=2, mask="by head"), "forward", "the mask of the first head for all heads"),
    "X110": (dense(2, 4, mask="prefix"), "forward", "the mask asked for query and key exchanged"),
    "X111": (dense(2, 4, mask="prefix"), "gradients", "the mask in the forward pass only"),
    "X121": (dense(2, 4, softcap=0.5), "gradients", "without the derivative of the soft cap"),
    "X123": (dense(2, 4, softcap=0.5), "gradients", "the soft cap in the forward pass only"),
    "X125": (dense(2, 4, slopes=True), "gradients", "the slopes in the forward pass only"),
    "X127": (dense(2, 4, sink="near"), "forward", "the sink counted once for each rank"),
    "X129": (dense(2, 4, sink="near"), "lse", "the log-sum-exp equals the reference without the sink"),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_mistake_is_named(bench, name):
    case, check, words = NAMED[name]
    example = Example(check, case if check == "gradients" else case.replace(requires_grad=""))
    session = bench.session(BY_NAME[name])
    finding = CHECKS[check].examine(session, example.case, {}).finding
    assert finding is not None
    sentences = explain(session, example, finding)
    assert len(sentences) == bool(words), sentences
    assert all(words in sentence for sentence in sentences), sentences
    assert not any("ignored" in sentence for sentence in sentences if "pass only" in sentence or check == "lse")


def session_of(bench, name, **declared):
    """One of the targets with optional terms, and what it declares otherwise."""
    source = parse_source(f"tests.verify.terms.targets:{name}")
    target = replace(load(source), terms=tuple(TERMS), **declared)
    return replace(bench.session(BY_NAME["T28"]), target=target, source=source)


def test_a_mistake_is_named_where_a_mask_allows_no_other_documents(bench):
    """Of documents that begin anew on each shard one would have more queries than keys, which no mask takes."""
    queries = {"document_lengths": (5, 3), "query_length": 5, "query_lengths": (3, 2)}
    case = dense(2, 8, window=(1, 0), mask="thirds", requires_grad="", **queries)
    session = session_of(bench, "window_ignored")
    finding = CHECKS["forward"].examine(session, case, {}).finding
    [sentence] = explain(session, Example("forward", case), finding)
    assert "without the window" in sentence


def test_no_term_is_blamed_for_an_lse_that_is_right_by_the_contract_and_not_as_declared(bench):
    case = dense(1, 4, sink="near", requires_grad="")
    session = session_of(bench, "robust", lse_sink="left-out")
    finding = CHECKS["lse"].examine(session, case, {}).finding
    assert explain(session, Example("lse", case), finding) == ()


def test_a_mistake_is_named_where_values_are_huge(bench):
    case = dense(2, 4, window=(1, 0), data="huge")
    session = bench.session(BY_NAME["T21"])
    finding = CHECKS["gradients"].examine(session, case, {}).finding
    [sentence] = explain(session, Example("gradients", case), finding)
    assert "the window in the forward pass only" in sentence


def test_a_sink_that_counts_once_for_each_branch_is_named(bench):
    case = Case(world_size=1, length=4, segment_lengths=(4, 2), dilation_rates=(1, 1), requires_grad="", sink="near")
    session = bench.session(BY_NAME["X128"])
    finding = CHECKS["forward"].examine(session, case, {}).finding
    [sentence] = explain(session, Example("forward", case), finding)
    assert "the sink counted once for each branch" in sentence


def test_right_programs_are_not_explained(bench):
    session = bench.session(BY_NAME["T28"])  # wrong in half types only
    for case, subject in ((dense(2, 4, sink="near", window=(1, 0)), "out"), (dense(2, 4, softcap=0.5), "query.grad")):
        assert explain(session, Example("gradients", case), Finding("fail", "a rumour", tensor=subject)) == ()
