"""Strides count where they change the call: the formula says what torch says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_gate import Target
from attention_gate.verify.case.case import Case
from attention_gate.verify.case.coverage import options_of
from attention_gate.verify.case.options import covering_rows, space
from attention_gate.verify.case.strategies import cases
from attention_gate.verify.case.strides import buffers_of, upstream_of
from attention_gate.verify.case.styles import BUFFERS, UPSTREAMS
from attention_gate.verify.rank.tensors import in_form, with_strides


def attend(query, key, value, **options):
    """Only declared, never called."""


@settings(max_examples=300, deadline=None, database=None)
@given(st.tuples(*[st.integers(0, 3)] + [st.integers(1, 3)] * 4), st.sampled_from(BUFFERS), st.sampled_from(UPSTREAMS))
def test_an_option_counts_where_the_tensors_are_not_contiguous(sizes, buffers, upstream):
    rows, batch, heads, head_dim, value_dim = sizes
    case = Case(
        length=rows,
        batch=batch,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        value_dim=value_dim,
        buffers=buffers,
        upstream=upstream,
    )
    made = [with_strides(torch.zeros(batch, rows, heads, dim), buffers) for dim in (head_dim, value_dim)]
    assert (buffers_of(case) == "contiguous") == all(tensor.is_contiguous() for tensor in made)
    flows = in_form(torch.zeros(batch, rows, heads, value_dim), upstream)
    assert (upstream_of(case) == "contiguous") == flows.is_contiguous()
    assert upstream_of(case.replace(requires_grad="")) == "contiguous"


def test_one_head_is_contiguous_in_any_order_and_counts_as_that():
    case = Case(length=6, heads=1, buffers="heads-first", upstream="transposed", value_dim=2)
    assert options_of(case)["buffers"] == "contiguous"
    assert options_of(case)["upstream"] == "transposed"
    assert options_of(case.replace(heads=2))["buffers"] == "heads-first"


@pytest.mark.parametrize("size", [1, 3])
def test_a_row_that_asks_for_strides_yields_cases_that_have_them(size):
    several = {"heads": ("several", "grouped"), "shards": ("even", "uneven")}
    axes = space(Target(attend=attend), (size,), buffers=("heads-first",), group=("default",), **several)

    @settings(max_examples=80, deadline=None, database=None)
    @given(cases(axes, covering_rows(axes, size), (size,), roam=False))
    def drawn(case):
        assert options_of(case)["buffers"] == "heads-first"

    drawn()
