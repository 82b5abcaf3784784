"""Documents and windows: only the rows that they leave to be seen may travel, and a ring that sends all is reported."""

from collections.abc import Callable

import numpy as np
import pytest

from attention_gate.verify.case.positions import Positions
from attention_gate.verify.checks.wire import TRAFFIC, WIRE
from attention_gate.verify.judge.session import Session
from attention_gate.verify.network.byte_bounds import least, most, needed_rows
from tests.verify.network.term_patterns import LENGTH, PATTERNS, pattern
from tests.verify.network.test_wire import examined

TERMS = ("documents", "window")
PLAIN_RING = "attention_gate.verify.mutants.bases.term_ring:attend"


def positions_of(size: int) -> Positions:
    """The rows of each rank's contiguous shard."""
    return Positions.as_many(np.array_split(np.arange(LENGTH), size))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_window_needs_its_neighbours_only(size: int) -> None:
    """Each rank but the first needs the three rows before its own, of both kv heads."""
    need = needed_rows(pattern(1, size), "longnet", positions_of(size))
    expected = np.diag([LENGTH // size * 2] * size)
    expected[np.arange(1, size), np.arange(size - 1)] = 3 * 2
    assert need.tolist() == expected.tolist()


@pytest.mark.parametrize(("number", "size"), [(9, 2), (10, 2), (10, 4), (11, 3), (17, 2), (17, 3), (17, 4)])
def test_documents_that_lie_in_one_shard_need_nothing(number: int, size: int) -> None:
    case = pattern(number, size)
    for stage in ("forward", "backward"):
        assert all(part.received == part.sent == 0 for part in least(case, "longnet", positions_of(size), stage))


def test_a_document_over_a_boundary_needs_its_own_rows_only() -> None:
    """Of 13 and 11 rows on two ranks, row 12 lies on rank 1 with the first document's last row."""
    need = needed_rows(pattern(14, 2), "longnet", positions_of(2))
    assert need.tolist() == [[12 * 2, 1 * 2], [12 * 2, 12 * 2]]
    assert needed_rows(pattern(14, 2, is_causal=True), "longnet", positions_of(2))[0, 1] == 0


def test_the_least_is_never_more_than_a_dense_ring() -> None:
    for size in (2, 3, 5, 8):
        for number in range(len(PATTERNS)):
            for stage in ("forward", "backward"):
                case = pattern(number, size)
                bound = most(case, positions_of(size), stage)
                parts = least(case, "longnet", positions_of(size), stage)
                assert all(max(part.received, part.sent) <= bound for part in parts)


@pytest.mark.parametrize("name", ["robust", "collective"])
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_the_projects_own_move_what_is_needed_over_twenty_patterns(
    session_of: Callable[..., Session], name: str, causal: bool
) -> None:
    session = session_of(f"impls.{name}:attend", claims=("traffic",), terms=TERMS)
    for number in range(len(PATTERNS)):
        case = pattern(number, 2 + number % 3, is_causal=causal)
        assert examined(session, TRAFFIC, case) is None, case
        assert examined(session, WIRE, case) is None, case


@pytest.mark.parametrize(
    ("number", "size", "words"),
    [(9, 2, "needed amount to 0 bytes"), (1, 3, "rank 0 receives"), (14, 2, "(12.00 times)")],
)
def test_a_ring_that_sends_everything_is_found(
    session_of: Callable[..., Session], number: int, size: int, words: str
) -> None:
    session = session_of(PLAIN_RING, claims=("traffic",), terms=TERMS)
    finding = examined(session, TRAFFIC, pattern(number, size))
    assert finding is not None
    assert words in finding.headline, finding.headline
    assert examined(session, WIRE, pattern(number, size)) is None  # though no more than a dense ring


def test_what_a_mask_hides_need_not_travel_either(session_of: Callable[..., Session]) -> None:
    for name, outcome in (("impls.robust:attend", True), (PLAIN_RING, False)):
        session = session_of(name, claims=("traffic",), terms=("mask",))
        case = pattern(8, 3).replace(document_lengths=None, mask="by head", heads=2, kv_heads=2)
        assert (examined(session, TRAFFIC, case) is None) == outcome
