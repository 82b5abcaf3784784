"""Making a failing example minimal, without any ranks: what fails is decided by the test."""

import pytest

from attention_gate import Case, Target
from attention_gate.verify.checks import BY_NAME
from attention_gate.verify.run.minimal import Reduction


def attend(query, key, value, **options):
    """Only declared, never called."""


LARGE = Case(
    world_size=4,
    length=203,
    pass_length=True,
    batch=3,
    heads=34,
    kv_heads=2,
    head_dim=129,
    value_dim=72,
    segment_lengths=(60, 203, 7),
    dilation_rates=(3, 1, 2),
    is_causal=True,
    dtype="bfloat16",
    seed=77,
)


def reduced(fails, case=LARGE, parameters=None, simplest=None):
    """The minimal case, its parameters, and its thresholds."""
    axes = BY_NAME["shapes"].space(Target(attend=attend), (1, 2, 3, 4))
    reduction = Reduction(fails, axes, lambda case: case, simplest or {})
    case, parameters = reduction.minimal(case, parameters or {})
    return case, parameters, reduction.thresholds(case, parameters)


def test_rows_after_the_documents_are_no_matter_of_how_many_rows_there_are():
    packed = Case(length=20, segment_lengths=(20,), document_lengths=(9, 6))
    axes = BY_NAME["forward"].space(Target(attend=attend, terms=("documents",)), (1, 2))

    def fails(case, parameters):
        return case.document_lengths is not None and sum(case.document_lengths) < case.length

    reduction = Reduction(fails, axes, lambda case: case, {})
    case, _ = reduction.minimal(packed, {})
    assert (case.length, sum(case.document_lengths)) == (1, 0)
    assert reduction.thresholds(case, {}) == ()


def test_what_always_fails_becomes_the_simplest_case():
    case, _, thresholds = reduced(lambda case, parameters: True)
    assert case.replace(heads=1, kv_heads=1) == Case()
    assert case.heads == 1 or case.heads == 2  # the check draws no single heads
    assert thresholds == ()


@pytest.mark.parametrize(
    ("fails", "minimal", "words"),
    [
        (lambda case: case.heads >= 17, {"heads": 17, "kv_heads": 17}, "fails from 17 heads on; 16 are right"),
        (
            lambda case: case.heads // case.kv_heads > 16,
            {"heads": 17, "kv_heads": 1},
            "fails from 17 heads per kv head on; 16 are right",
        ),
        (lambda case: case.batch >= 3, {"batch": 3}, "fails from 3 sequences on; 2 are right"),
        (lambda case: -(-case.length // case.shards) > 40, {"length": 41}, "fails from 41 rows of a rank on; 40"),
        (lambda case: case.head_dim > 100, {"head_dim": 101, "value_dim": 1}, "101 dimensions of query and key on"),
        (lambda case: case.value_dim > 64, {"value_dim": 65}, "fails from 65 dimensions of value on; 64 are right"),
        (lambda case: case.value_dim == 72, {"value_dim": 72}, "fails at 72 dimensions of value; 71 are right"),
        (lambda case: case.is_causal and case.shards > 1, {"world_size": 2, "is_causal": True}, ""),
        (lambda case: max(case.dilation_rates) > 1, {"length": 1, "dilation_rates": (2,)}, ""),
    ],
)
def test_a_size_is_taken_to_its_threshold_and_all_else_is_simple(fails, minimal, words):
    case, _, thresholds = reduced(lambda case, parameters: fails(case))
    assert {name: getattr(case, name) for name in minimal} == minimal
    assert any(words in threshold for threshold in thresholds) if words else thresholds == ()
    assert (case.dtype, case.seed) == ("float64", 0)
    assert case.world_size == minimal.get("world_size", 1)


def test_nothing_is_said_of_what_there_was_no_time_to_try():
    case, _, thresholds = reduced(lambda case, parameters: True if case == LARGE else None)
    assert case == LARGE
    assert thresholds == ()


def test_parameters_become_the_simplest_with_which_it_fails():
    parameters = {"choices": [3, 0, 5, 1], "model": "late", "calls": 2}
    _, found, _ = reduced(
        lambda case, parameters: 5 in parameters["choices"],
        parameters=parameters,
        simplest={"choices": [], "model": "early", "calls": 1},
    )
    assert found == {"choices": [5], "model": "early", "calls": 1}
