"""Case: its repr is code, its JSON is data, and what is no case is refused in words that say what would be."""

import dataclasses
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention_gate import Case
from attention_gate.verify.case.styles import BUFFERS, DATA_STYLES, ONE_SIDED, UPSTREAMS
from attention_gate.verify.target.choices import DTYPES


@st.composite
def any_cases(draw):
    """Cases from the whole range of every field, not only those that the gate would draw."""
    world_size = draw(st.integers(1, 64))
    members = draw(st.none() | st.sets(st.integers(0, world_size - 1), min_size=1))
    group = None if members is None else tuple(sorted(members))
    length = draw(st.integers(0, 1 << 24))
    kv_heads = draw(st.integers(1, 8))
    branches = draw(st.lists(st.tuples(st.integers(1, 1 << 40), st.integers(1, 1 << 40)), min_size=1, max_size=5))
    return Case(
        world_size=world_size,
        group=group,
        length=length,
        pass_length=bool(length % (world_size if group is None else len(group))) or draw(st.booleans()),
        batch=draw(st.integers(1, 4096)),
        heads=kv_heads * draw(st.integers(1, 8)),
        kv_heads=kv_heads,
        head_dim=draw(st.integers(1, 4096)),
        value_dim=draw(st.integers(1, 4096)),
        segment_lengths=tuple(w for w, _ in branches),
        dilation_rates=tuple(r for _, r in branches),
        is_causal=draw(st.booleans()),
        scale=draw(st.none() | st.floats(allow_nan=False, allow_infinity=False)),
        dtype=draw(st.sampled_from(DTYPES)),
        data=draw(st.sampled_from(DATA_STYLES)),
        buffers=draw(st.sampled_from(BUFFERS)),
        upstream=draw(st.sampled_from(UPSTREAMS)),
        requires_grad=draw(st.sampled_from(("", "q", "k", "v", "qk", "qv", "kv", "qkv"))),
        seed=draw(st.integers(0, (1 << 63) - 1)),
    )


@given(any_cases())
def test_the_repr_is_code_that_makes_the_same_case(case):
    assert eval(repr(case)) == case


@given(any_cases())
def test_json_brings_the_same_case_back(case):
    again = msgspec.convert(json.loads(json.dumps(dataclasses.asdict(case))), Case)
    assert again == case
    assert repr(again) == repr(case)


def test_the_repr_leaves_defaults_out_but_for_what_every_reader_looks_for():
    assert repr(Case()) == "Case(world_size=1, length=1, segment_lengths=(1,), dilation_rates=(1,))"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"world_size": 0}, "Case.world_size is 0; it must be an integer from 1 to 64"),
        ({"world_size": True}, "Case.world_size is True; it must be an integer from 1 to 64"),
        ({"length": -1}, "Case.length is -1; it must be an integer from 0 to 16777216"),
        ({"length": 2.0}, "Case.length is 2.0; it must be an integer from 0 to 16777216"),
        ({"batch": 0}, "Case.batch is 0; it must be an integer from 1 to 4096"),
        ({"seed": -1}, f"Case.seed is -1; it must be an integer from 0 to {(1 << 63) - 1}"),
        ({"heads": 3, "kv_heads": 2}, "Case.heads is 3; it must be a multiple of kv_heads, which is 2"),
        (
            {"segment_lengths": (2, 3)},
            "Case.segment_lengths (2, 3) and dilation_rates (1,) must have the same number of entries, at least one",
        ),
        (
            {"segment_lengths": (), "dilation_rates": ()},
            "Case.segment_lengths () and dilation_rates () must have the same number of entries, at least one",
        ),
        (
            {"dilation_rates": (0,)},
            "Case.segment_lengths (1,) and dilation_rates (0,) must be tuples of positive integers",
        ),
        (
            {"segment_lengths": (True,)},
            "Case.segment_lengths (True,) and dilation_rates (1,) must be tuples of positive integers",
        ),
        ({"group": (1,)}, "Case.group is (1,); it must be None or a tuple of ascending ranks below world_size 1"),
        ({"group": ()}, "Case.group is (); it must be None or a tuple of ascending ranks below world_size 1"),
        (
            {"world_size": 3, "group": (2, 0), "length": 2},
            "Case.group is (2, 0); it must be None or a tuple of ascending ranks below world_size 3",
        ),
        (
            {"world_size": 2, "length": 3},
            "Case.pass_length is False, but length 3 cannot be split into 2 equal shards; set pass_length=True",
        ),
        ({"requires_grad": "vq"}, "Case.requires_grad is 'vq'; it must be a part of 'qkv', in that order"),
        ({"dtype": "int8"}, "Case.dtype is 'int8'; it must be one of float64, float32, bfloat16, float16"),
        ({"data": "ones"}, f"Case.data is 'ones'; it must be one of {', '.join((*DATA_STYLES, ONE_SIDED))}"),
        ({"buffers": "x"}, f"Case.buffers is 'x'; it must be one of {', '.join(BUFFERS)}"),
        ({"upstream": "x"}, f"Case.upstream is 'x'; it must be one of {', '.join(UPSTREAMS)}"),
        (
            {"segment_lengths": [1]},
            "Case.segment_lengths [1] and dilation_rates (1,) must be tuples of positive integers",
        ),
        ({"is_causal": 1}, "Case.is_causal is 1; it must be True or False"),
        ({"pass_length": "yes"}, "Case.pass_length is 'yes'; it must be True or False"),
        ({"scale": float("nan")}, "Case.scale is nan; it must be None or a finite number"),
        ({"scale": "1"}, "Case.scale is '1'; it must be None or a finite number"),
    ],
)
def test_what_is_no_case_is_refused_in_words(changes, words):
    with pytest.raises(ValueError, match="Case") as refused:
        Case(**changes)
    assert str(refused.value) == words


def test_a_group_takes_part_in_the_order_of_its_ranks():
    case = Case(world_size=4, group=(1, 3), length=4)
    assert (case.ranks, case.shards, case.sequence_length) == ((1, 3), 2, None)
    assert Case(world_size=4, group=(1, 3), length=5, pass_length=True).sequence_length == 5
