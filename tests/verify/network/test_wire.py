"""Every byte is counted, and held against what must be moved, what may be, and what is claimed."""

from collections.abc import Callable

import numpy as np
import pytest

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.positions import Positions
from attention_gate.verify.checks.check import Check
from attention_gate.verify.checks.overlap import OVERLAP
from attention_gate.verify.checks.peak_memory import MEMORY
from attention_gate.verify.checks.wire import TRAFFIC, WIRE, widened
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.network.byte_bounds import METADATA, least, most, needed_rows
from attention_gate.verify.network.network import MODELS, Schedule
from attention_gate.verify.network.trace import Load
from attention_gate.verify.run.search import search

RING = "tests.verify.network.ring:attend"

#: Segment lengths and dilation rates over 24 positions, aligned with the shards of 2, 3 and 4 ranks and not.
PATTERNS = [
    ((24,), (1,)),
    ((24,), (2,)),
    ((24,), (5,)),
    ((12,), (1,)),
    ((8,), (1,)),
    ((6,), (1,)),
    ((6,), (2,)),
    ((5,), (1,)),
    ((5,), (2,)),
    ((7,), (3,)),
    ((9,), (2,)),
    ((11,), (4,)),
    ((13,), (1,)),
    ((16,), (3,)),
    ((17,), (5,)),
    ((23,), (1,)),
    ((6, 12, 24), (1, 2, 4)),
    ((4, 8, 24), (1, 2, 5)),
    ((5, 10, 20), (1, 3, 5)),
    ((7, 24), (2, 3)),
]


def pattern(number: int, size: int, *, is_causal: bool = False) -> Case:
    """A case of a pattern, with more heads than offsets and half as many of keys."""
    segments, rates = PATTERNS[number]
    return Case(
        world_size=size,
        length=24,
        pass_length=True,
        heads=4,
        kv_heads=2,
        head_dim=3,
        value_dim=5,
        segment_lengths=segments,
        dilation_rates=rates,
        is_causal=is_causal,
        dtype="float32",
    )


def examined(session: Session, check: Check, case: Case, **parameters: object) -> object:
    """What the check says of one case."""
    return check.examine(session, check.shaped(session, case), dict(parameters)).finding


@pytest.mark.parametrize("model", MODELS)
def test_the_bytes_of_a_ring_are_exact(session_of: Callable[..., Session], model: str) -> None:
    case = Case(
        world_size=3, length=6, heads=2, head_dim=2, value_dim=3, segment_lengths=(6,), dilation_rates=(1,), batch=2
    )
    case = case.replace(kv_heads=2)
    trace = simulate(session_of(RING), case, schedule=Schedule(model, (1, 2))).trace
    shard = 2 * 2 * 2 * (2 + 3) * 8  # batch, rows, heads, widths, bytes
    for rank in range(3):
        assert trace.load(rank, ["forward"]) == Load(2 * shard, 2 * shard, 4, 4)
        assert trace.load(rank, ["backward"]) == Load(5 * shard, 5 * shard, 10, 10)


@pytest.mark.parametrize("causal", [False, True])
def test_the_least_traffic_is_counted_pair_by_pair(causal: bool) -> None:
    case = Case(
        world_size=2,
        length=5,
        pass_length=True,
        heads=2,
        head_dim=1,
        value_dim=2,
        segment_lengths=(5,),
        dilation_rates=(2,),
        is_causal=causal,
        dtype="bfloat16",
    )
    case = case.replace(kv_heads=2)
    positions = Positions.as_many([np.arange(3), np.arange(3, 5)])
    # Head 0 selects 0, 2, 4 and head 1 selects 1, 3: rank 0 owns 0, 1, 2 and rank 1 owns 3, 4.
    expected = [[3, 0 if causal else 2], [3, 2]]
    assert needed_rows(case, "longnet", positions).tolist() == expected
    row, gradient = 3 * 2, 3 * 4
    forward, backward = (least(case, "longnet", positions, stage) for stage in ("forward", "backward"))
    assert (forward[1].received, forward[1].sent) == (3 * row, expected[0][1] * row)
    assert backward[1].received == 3 * row + expected[0][1] * gradient
    assert backward[1].sent == expected[0][1] * row + 3 * gradient


def test_the_least_is_never_more_than_a_dense_ring() -> None:
    for size in (2, 3, 5, 8):
        positions = Positions.as_many(np.array_split(np.arange(24), size))
        for number in range(len(PATTERNS)):
            case = pattern(number, size)
            for stage in ("forward", "backward"):
                bound = most(case, positions, stage)
                assert all(max(part.received, part.sent) <= bound for part in least(case, "longnet", positions, stage))


@pytest.mark.parametrize("name", ["robust", "collective"])
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_the_projects_own_move_what_is_needed_over_twenty_patterns(
    session_of: Callable[..., Session], name: str, causal: bool
) -> None:
    session = session_of(f"impls.{name}:attend", claims=("traffic",))
    for number in range(len(PATTERNS)):
        case = pattern(number, 2 + number % 3, is_causal=causal)
        assert examined(session, TRAFFIC, case) is None
        assert examined(session, WIRE, case) is None


@pytest.mark.parametrize("name", ["wide_gather", "logaddexp_ring"])
def test_bytes_are_a_remark_for_who_claims_nothing_of_them(session_of: Callable[..., Session], name: str) -> None:
    case = Case(world_size=2, length=4, heads=2, kv_heads=2, segment_lengths=(4,), dtype="bfloat16")
    target = f"tests.verify.correct.written:{name}"
    bare, claiming = (session_of(target, claims=claims) for claims in ((), ("wire",)))
    verdict = WIRE.examine(bare, WIRE.shaped(bare, case), {})
    assert verdict.finding is None
    share, words = verdict.remark
    assert share == pytest.approx(2.0, rel=0.15)
    assert words == f"float32 on the wire for a bfloat16 input: {share:.2f} times the bytes of a dense ring"
    finding = examined(claiming, WIRE, case)
    assert finding is not None
    assert "2.0" in finding.headline


def test_the_case_that_is_printed_is_the_case_that_ran(session_of: Callable[..., Session]) -> None:
    session = session_of("tests.verify.network.mistakes:wasteful", claims=("wire",))
    found = search(WIRE, session, examples=4, seed=0, shrink_seconds=20.0)
    assert found.example is not None
    case = found.example.case
    assert WIRE.shaped(session, case) == case
    row = (case.head_dim + case.value_dim) * {"float64": 8, "float32": 4}.get(case.dtype, 2)
    assert row * case.kv_heads >= 8192


def test_a_ring_is_reported_with_what_it_moves(session_of: Callable[..., Session]) -> None:
    session = session_of(RING)
    share, words = WIRE.examine(session, WIRE.shaped(session, pattern(0, 3)), {}).remark
    assert 0.5 < share < 1.0
    assert words == f"at most {share:.2f} times the bytes of a dense ring"


def test_the_least_that_is_reported_has_the_totals_that_ranks_return(session_of: Callable[..., Session]) -> None:
    target = "tests.verify.terms.targets:total_sink_gradient_declared"
    case = Case(world_size=2, length=4, heads=2, kv_heads=2, segment_lengths=(4,), sink="near")
    sessions = [session_of(target, terms=("sink",), sink_gradient=which) for which in ("own-rows", "total")]
    moved = [WIRE.examine(session, WIRE.shaped(session, case), {}).traffic for session in sessions]
    own, total = ({one.stage: one.least for one in traffic} for traffic in moved)
    assert total == {"forward": own["forward"], "backward": own["backward"] + 2 * 8}


def test_no_least_is_reported_of_queries_that_every_rank_has(session_of: Callable[..., Session]) -> None:
    declared = {"layout": "interleaved", "queries": "replicated", "gradients": False, "terms": ("queries",)}
    session = session_of("examples/decoding_target.py:target", **declared)
    shape = {"length": 4, "segment_lengths": (4,), "query_length": 1, "interleave": 1, "pass_length": True}
    verdict = WIRE.examine(session, WIRE.shaped(session, Case(world_size=2, requires_grad="", **shape)), {})
    assert verdict.finding is None
    assert verdict.traffic == ()


def test_rows_that_travel_in_vain_are_found(session_of: Callable[..., Session]) -> None:
    session = session_of(RING, claims=("traffic",))
    case = pattern(4, 3)  # segments that are shards: nothing needs to travel
    finding = examined(session, TRAFFIC, case)
    assert finding is not None
    assert finding.headline.endswith("pass; the rows that are needed amount to 0 bytes")
    assert examined(session, WIRE, case) is None  # though no more than a dense ring


def test_wide_rows_make_metadata_vanish(session_of: Callable[..., Session]) -> None:
    for dtype in ("float64", "float32", "bfloat16"):
        case = widened(session_of(RING), pattern(0, 2).replace(dtype=dtype))
        assert case.head_dim != case.value_dim
        assert (case.head_dim + case.value_dim) * 2 > METADATA


@pytest.mark.parametrize(
    ("target", "check", "words"),
    [
        ("impls.robust:attend", OVERLAP, ""),
        ("impls.robust:attend", MEMORY, ""),
        ("impls.collective:attend", OVERLAP, "computed too little while"),
        ("impls.collective:attend", MEMORY, "grows with the number of ranks"),
        (RING, OVERLAP, "messages of the backward pass"),
        (RING, MEMORY, ""),
    ],
)
def test_claims_of_overlap_and_memory(
    session_of: Callable[..., Session], target: str, check: Check, words: str
) -> None:
    finding = examined(session_of(target), check, Case(world_size=2, length=2), many_rows=False, largest_world=4)
    assert (finding is None) == (not words), finding
    assert finding is None or words in finding.headline


def test_memory_is_compared_with_a_larger_world_where_many_ranks_are_judged(
    session_of: Callable[..., Session],
) -> None:
    case = Case(world_size=2, length=2)
    assert examined(session_of(RING), MEMORY, case, many_rows=False, largest_world=16) is None
    finding = examined(session_of("impls.collective:attend"), MEMORY, case, many_rows=False, largest_world=16)
    assert finding is not None
    assert "bytes on 8 ranks" in finding.headline


def test_blocks_of_scores_that_grow_with_the_rows_are_found(session_of: Callable[..., Session]) -> None:
    assert (
        examined(
            session_of("impls.robust:attend"), MEMORY, Case(world_size=2, length=2), many_rows=True, largest_world=4
        )
        is None
    )
    finding = examined(session_of(RING), MEMORY, Case(world_size=2, length=2), many_rows=True, largest_world=4)
    assert finding is not None
    assert "grows faster than the rows" in finding.headline


def test_a_check_of_a_claim_is_for_those_who_make_it(session_of: Callable[..., Session]) -> None:
    bare, claiming = session_of(RING).target, session_of(RING, claims=("traffic", "overlap", "memory")).target
    for check in (TRAFFIC, OVERLAP, MEMORY):
        assert check.missing(bare, (1, 2)) == f"the target does not claim {check.name}"
        assert check.missing(claiming, (1, 2)) == ""
