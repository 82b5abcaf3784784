"""Optional terms that are none are refused in words, on every rank, also where one rank's alone are bad."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from attention_gate import impls
from tests.impls.cases import IMPLEMENTATIONS, attend
from tests.impls.worlds import results


class Unhashable:
    """A mask by which no plan can be remembered."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, head: Any, query: Any, key: Any) -> Any:
        """All keys."""
        return key >= 0


#: Two rows of key and value that every rank has.
JOINT = {"joint_key": torch.zeros(1, 2, 2, 3), "joint_value": torch.zeros(1, 2, 2, 3)}

WORDS = {
    "a negative bound": ({"window": (-1, 0)}, ValueError, "window: -1 is negative; it must be at least 0"),
    "a bound that is True": ({"window": (True, 0)}, TypeError, "window: True is not an integer"),
    "one bound": ({"window": 3}, TypeError, "window: 3 is not a pair (left, right) or None"),
    "a negative length": ({"document_lengths": [3, -1]}, ValueError, "document_lengths: -1 is negative"),
    "too many rows": ({"document_lengths": [3, 4]}, ValueError, "add up to 7 rows, and there are 6 keys"),
    "lengths of queries alone": ({"query_lengths": [6]}, ValueError, "are given without document_lengths"),
    "unlike counts": ({"document_lengths": [3, 3], "query_lengths": [6]}, ValueError, "1 entries beside the 2"),
    "a cap of 0": ({"softcap": 0.0}, ValueError, "softcap: 0.0 is not finite and above 0"),
    "an endless cap": ({"softcap": math.inf}, ValueError, "softcap: inf is not finite and above 0"),
    "a text as a cap": ({"softcap": "1"}, TypeError, "softcap: '1' is not a real number or None"),
    "too few slopes": ({"slopes": [0.5]}, ValueError, "slopes: 1 of them; there must be one for each of the 2 heads"),
    "an endless slope": ({"slopes": [0.5, math.inf]}, ValueError, "slopes: [0.5, inf] must be finite"),
    "a mask that cannot be hashed": ({"mask": Unhashable()}, TypeError, "cannot be hashed"),
    "a text as a slope": ({"slopes": ["a", "b"]}, TypeError, "must hold real numbers"),
    "a list as a sink": ({"sink": [0.0, 0.0]}, TypeError, "sink: [0.0, 0.0] is not a torch.Tensor or None"),
    "a sink of one head": ({"sink": torch.zeros(1)}, ValueError, "sink: shape (1,) is not (heads,) = (2,)"),
    "whole numbers as a sink": ({"sink": torch.zeros(2, dtype=torch.int64)}, ValueError, "dtype torch.int64"),
    "a list as a mask": ({"mask": [True]}, TypeError, "is not a function of head, query position and key position"),
    "a number of queries": ({"query_length": -1}, ValueError, "query_length: -1 is negative"),
    "another number of queries": ({"query_length": 4}, ValueError, "query_length: of 4 rows rank "),
    "joint keys alone": ({"joint_key": torch.zeros(1, 2, 2, 3)}, TypeError, "joint_value: None is not a torch.Tensor"),
    "a place of no rows": ({"joint": "front"}, ValueError, "'front' is given without joint_key and joint_value"),
    "an unknown place": ({**JOINT, "joint": "middle"}, ValueError, "joint: 'middle' is not 'front' or 'rear'"),
    "joint rows of one head": (
        {**JOINT, "joint_key": torch.zeros(1, 2, 1, 3)},
        ValueError,
        "joint_key: shape (1, 2, 1, 3) is not (batch, rows, kv_heads, dim) = (1, 2, 2, 3)",
    ),
    "joint rows in half": (
        {**JOINT, "joint_value": torch.zeros(1, 2, 2, 3, dtype=torch.bfloat16)},
        ValueError,
        "joint_value: torch.bfloat16 on cpu is not as query, torch.float32 on cpu",
    ),
    "joint rows beside documents": ({**JOINT, "document_lengths": [6]}, ValueError, "belong to no document"),
    "joint rows in zigzag": ({**JOINT, "layout": "zigzag"}, ValueError, "and joint_key is given"),
    "an unknown option": ({"windows": (1, 1)}, TypeError, "unknown argument 'windows'"),
}


def refuse(rank: int, implementation: str, name: str, where: tuple[int, ...]) -> tuple[str, str] | None:
    """The kind and the text of what a call of 6 rows raises, whose term is bad on some ranks."""
    import torch.distributed as dist

    rows = 6 // dist.get_world_size()
    query, key, value = (torch.zeros(1, rows, 2, 3) for _ in range(3))
    terms: dict[str, Any] = WORDS[name][0] if rank in where else {}
    try:
        attend(implementation)(query, key, value, segment_lengths=[6], dilation_rates=[1], **terms)
    except (TypeError, ValueError) as error:
        return type(error).__name__, str(error)
    return None


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", WORDS)
def test_every_rank_refuses(implementation: str, name: str) -> None:
    _, kind, words = WORDS[name]
    for where in ((0, 1), (0,)):
        for answer in results(2, refuse, implementation, name, where):
            assert answer is not None
            assert answer[0] == kind.__name__
            assert words in answer[1]


def differ(rank: int, implementation: str, terms: tuple[dict[str, Any], dict[str, Any]]) -> str | None:
    query, key, value = (torch.zeros(1, 3, 2, 3) for _ in range(3))
    try:
        attend(implementation)(query, key, value, segment_lengths=[6], dilation_rates=[1], **terms[rank])
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        ({"window": (1, 1)}, {"window": (1, 2)}, "window"),
        ({"document_lengths": [2, 4]}, {"document_lengths": [4, 2]}, "documents"),
        ({"softcap": 1.0}, {"softcap": 2.0}, "softcap"),
        ({"slopes": [0.1, 0.2]}, {"slopes": [0.2, 0.1]}, "slopes"),
        ({"sink": torch.zeros(2)}, {"sink": torch.ones(2)}, "sink"),
    ],
)
def test_terms_that_differ_between_ranks_are_named(implementation: str, one: Any, other: Any, name: str) -> None:
    for answer in results(2, differ, implementation, (one, other)):
        assert answer is not None
        assert answer.startswith(f"{name}: ")
        assert "must be the same on every rank" in answer


def test_branches_take_as_many_queries_as_keys() -> None:
    query, key, value = torch.zeros(1, 4, 2, 3), torch.zeros(1, 6, 2, 3), torch.zeros(1, 6, 2, 3)
    with pytest.raises(ValueError, match="only the dense one"):
        attend("robust")(query, key, value, segment_lengths=[3], dilation_rates=[1], query_length=4)


def test_a_mask_takes_no_more_queries_than_keys() -> None:
    query, key, value = torch.zeros(1, 6, 2, 3), torch.zeros(1, 4, 2, 3), torch.zeros(1, 4, 2, 3)
    with pytest.raises(ValueError, match="a mask takes no more queries than keys"):
        attend("robust")(
            query,
            key,
            value,
            segment_lengths=[4],
            dilation_rates=[1],
            query_length=6,
            mask=lambda head, x, j: j <= x,
        )


def test_the_path_says_which_terms_take_it_off_fused_kernels() -> None:
    query = torch.zeros(1, 6, 2, 3)
    dense = {"segment_lengths": [6], "dilation_rates": [1]}
    path = impls.path_for(query, query, query, **dense, window=(1, 0), mask=_everything, slopes=[0.5, 0.25])
    assert path.kernels == "plain"
    assert path.because == "fused kernels take no mask, slopes"
    for joint in (query, query[:, :0]):
        path = impls.path_for(query, query, query, **dense, joint_key=joint, joint_value=joint)
        assert path.because == "fused kernels take no joint_key"


def _everything(head: Any, x: Any, j: Any) -> Any:
    return (j >= 0) & (x >= 0) & (head >= 0)


def test_the_path_says_why_a_device_or_a_choice_has_no_kernels_of_packed_sequences() -> None:
    query = torch.zeros(1, 6, 2, 8, dtype=torch.bfloat16)
    options: dict[str, Any] = {"segment_lengths": [6], "dilation_rates": [1], "window": (1, 0)}
    assert impls.path_for(query, query, query, **options).because == "there is no fused kernel for cpu"
    with impls.kernels("cudnn"), pytest.raises(ValueError, match="cuDNN's kernels take no documents, windows"):
        impls.path_for(query, query, query, **options)
