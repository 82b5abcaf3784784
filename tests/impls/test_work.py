"""What the problems of a branch are padded and masked with: nothing where they are of one size and all is seen."""

import torch

from attention_gate.impls.schedule import gathering
from attention_gate.impls.tiling import Branch, Layout
from attention_gate.impls.work import Work


def work_of(segment_length: int, is_causal: bool, length: int = 16) -> Work:
    layout = Layout(length, 1, 0, 2, 1, (Branch(segment_length, 1),), is_causal)
    (work,) = gathering(layout, torch.device("cpu")).works
    return work


def test_problems_of_one_size_in_which_all_see_all_have_neither_mask_nor_padding() -> None:
    for segment_length in (1, 8, 16):
        work = work_of(segment_length, False)
        assert work.visible is None
        assert work.kept is None
        assert work.reach == (segment_length,) * segment_length
        assert torch.equal(work.rows, work.query_index.flatten())


def test_causality_needs_a_mask_and_no_padding() -> None:
    work = work_of(8, True)
    assert work.visible is not None
    assert torch.equal(work.visible, torch.arange(1, 9).expand(4, 8))
    assert work.kept is None
    assert work.reach == tuple(range(1, 9))


def test_a_shorter_problem_is_padded_and_its_padding_sees_nothing() -> None:
    work = work_of(6, False)
    short = torch.tensor([6] * 6), torch.tensor([4] * 4 + [0] * 2)
    assert work.visible is not None
    assert work.visible.tolist() == [each.tolist() for each in (short[0],) * 4 + (short[1],) * 2]
    assert work.kept is not None
    assert torch.equal(work.kept, work.visible.flatten().nonzero().flatten())
    assert torch.equal(work.rows, work.query_index.flatten()[work.kept])
    assert sorted(work.rows.tolist()) == list(range(32))
