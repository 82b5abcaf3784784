"""Which kernels a call runs on: reported beforehand, settled by the caller, the same on every rank."""

from typing import Any
from unittest.mock import Mock, patch

import pytest
import torch
import torch.distributed as dist

from attention_gate import impls
from attention_gate.impls import agreement, fused
from attention_gate.impls.agreement import _as_given
from attention_gate.impls.arguments import Arguments, check
from tests.impls.cases import IMPLEMENTATIONS, Case, assert_close, attend, own_tensors, run_case
from tests.impls.test_fused import CASES
from tests.impls.worlds import Raised, results, world

REGULAR, ODD = CASES["dense causal"], Case(15, ((4, 2),), heads=4, kv_heads=4)


def reported(case: Case, size: int, rank: int, **options: Any) -> impls.Path:
    query, key, value, _ = own_tensors(case, size, rank)
    return impls.path_for(query, key, value, sequence_length=case.length, **case.options | options)


def test_without_a_fused_kernel_it_is_plain_products_and_why() -> None:
    assert reported(REGULAR, 1, 0)[:4] == ("plain", "there is no fused kernel for cpu", "plain products", "")


def run_and_tell(rank: int, implementation: str, case: Case, choice: str) -> Any:
    """Return the path that is reported, whether fused kernels ran, and the results, as if the CPU had some."""
    with (
        patch("attention_gate.impls.fused.kernels.objection", lambda *_: None),
        patch("attention_gate.impls.fused.kernels.least_rows", 1),
        impls.kernels(choice),
    ):
        with (
            patch("attention_gate.impls.exchange.gather_bytes", None),
            patch("attention_gate.impls.agreement.gather_bytes", None),
        ):
            path = reported(case, dist.get_world_size(), rank)
        from attention_gate.impls.fused import engine

        with patch.object(engine, "forward", Mock(wraps=engine.forward)) as forward:
            answer = run_case(rank, implementation, case)
        return tuple(path[:2]), forward.called, answer


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("case", "choice", "kernels", "because"),
    [
        (REGULAR, "auto", "fused", ""),
        (REGULAR, "fused", "fused", ""),
        (REGULAR, "plain", "plain", "plain products are chosen"),
        (ODD, "auto", "plain", "15 rows are not equal shards on 2 ranks"),
    ],
)
def test_what_is_reported_is_what_is_taken(
    implementation: str, case: Case, choice: str, kernels: str, because: str
) -> None:
    answers = results(2, run_and_tell, implementation, case, choice)
    assert [answer[0] for answer in answers] == [(kernels, because)] * 2
    assert [answer[1] for answer in answers] == [kernels == "fused"] * 2
    assert_close([answer[2] for answer in answers], case)


def test_the_zigzag_layout_is_reported_too() -> None:
    with (
        patch("attention_gate.impls.fused.kernels.objection", lambda *_: None),
        patch("attention_gate.impls.fused.kernels.least_rows", 1),
    ):
        assert reported(REGULAR, 1, 0, layout="zigzag").kernels == "fused"


def run_reported(rank: int, case: Case) -> list[str]:
    """Return what is reported of both layouts of two ranks."""
    with (
        patch("attention_gate.impls.fused.kernels.objection", lambda *_: None),
        patch("attention_gate.impls.fused.kernels.least_rows", 1),
    ):
        return [reported(case, 2, rank, layout=layout).kernels for layout in ("contiguous", "zigzag")]


def test_what_is_fused_in_one_layout_only_is_reported_so() -> None:
    assert results(2, run_reported, CASES["two dense branches"]) == [["fused", "plain"]] * 2
    assert results(2, run_reported, REGULAR) == [["fused", "fused"]] * 2


def run_chosen(rank: int, implementation: str, case: Case, choices: list[str]) -> Any:
    with impls.kernels(choices[rank]):
        return run_case(rank, implementation, case)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_fused_kernels_that_do_not_serve_are_refused_on_every_rank(implementation: str) -> None:
    for answer in world(2).run(run_chosen, implementation, REGULAR, ["fused", "fused"], deadline=20.0):
        assert isinstance(answer, Raised)
        assert answer.kind == "ValueError"
        assert "fused ones are chosen and do not serve: there is no fused kernel for cpu" in answer.text
    assert_close(world(2).run(run_case, implementation, REGULAR), REGULAR)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_different_choices_are_refused_on_every_rank(implementation: str) -> None:
    for answer in world(2).run(run_chosen, implementation, REGULAR, ["auto", "plain"], deadline=20.0):
        assert isinstance(answer, Raised)
        assert answer.kind == "ValueError"
        assert "kernels: auto on rank 0, plain on rank 1; it must be the same on every rank" in answer.text


TRANSPORTS: list[tuple[Case, dict[str, Any], tuple[str, str]]] = [
    (REGULAR, {}, ("messages", "cpu has no memory that ranks share")),
    (
        REGULAR,
        {"is_cuda": True},
        ("shared memory", "if the GPUs share it, which the first call of the group finds out"),
    ),
    (REGULAR, {"is_cuda": True, "refusal": ""}, ("shared memory", "")),
    (REGULAR, {"is_cuda": True, "refusal": "several hosts"}, ("messages", "several hosts")),
    (REGULAR, {"is_cuda": True, "is_wanted": False}, ("messages", "shared memory is switched off")),
    (Case(16, ((8, 1),), heads=4, kv_heads=4), {"is_cuda": True}, ("", "")),
    (Case(15, ((6, 2),), heads=4, kv_heads=4), {}, ("messages", "plain products send them")),
    (Case(15, ((4, 2),), heads=3, kv_heads=3), {"size": 1}, ("", "")),
]


@pytest.mark.parametrize(("case", "changes", "transport"), TRANSPORTS)
def test_how_rows_travel_and_why(case: Case, changes: dict[str, Any], transport: tuple[str, str]) -> None:
    size = changes.get("size", 2)
    query, key, value, _ = own_tensors(case, size, 0)
    device = torch.device("cuda" if changes.get("is_cuda") else "cpu")
    with (
        patch("attention_gate.impls.fused.kernels.objection", lambda *_: None),
        patch("attention_gate.impls.fused.kernels.least_rows", 1),
        patch("attention_gate.impls.path.transport_of", lambda task, _: fused.transport_of(task, device)),
        patch("attention_gate.impls.fused.symmetric.refusal", lambda _: changes.get("refusal")),
        patch("attention_gate.impls.fused.symmetric.is_wanted", changes.get("is_wanted", True)),
        patch("torch.distributed.is_initialized", lambda: True),
        patch("torch.distributed.get_rank", lambda _: 0),
        patch("torch.distributed.get_world_size", lambda _: size),
    ):
        path = impls.path_for(query, key, value, sequence_length=case.length, **case.options)
    assert path[4:] == transport


@pytest.mark.parametrize("backend", ["cudnn", "flash-attn-4"])
def test_a_library_can_be_chosen_and_is_refused_where_it_does_not_serve(backend: str) -> None:
    objection = {"cudnn": "attention_gate.impls.fused.kernels.objection"}.get(
        backend, "attention_gate.impls.fused.flash_kernels.objection"
    )
    with impls.kernels(backend):
        with (
            pytest.raises(ValueError, match=f"kernels: {backend} ones are chosen and do not serve: there is no such"),
            patch(objection, lambda *_: "there is no such kernel"),
        ):
            reported(REGULAR, 1, 0)
        with patch(objection, lambda *_: None), patch("attention_gate.impls.fused.kernels.least_rows", 1):
            assert reported(REGULAR, 1, 0)[0] == "fused"
            with patch("attention_gate.impls.autograd.engine.forward", side_effect=KeyError) as forward:
                query, key, value, _ = own_tensors(REGULAR, 1, 0)
                with pytest.raises(KeyError):
                    attend("robust")(query, key, value, **REGULAR.options)
            assert forward.call_args.args[1].backend == backend


def test_a_choice_ends_with_its_context() -> None:
    with impls.kernels("plain"):
        assert reported(REGULAR, 1, 0).because == "plain products are chosen"
    assert reported(REGULAR, 1, 0).because == "there is no fused kernel for cpu"


def test_an_unknown_choice_is_refused() -> None:
    words = "kernels: 'quick' is not one of 'fused', 'plain', 'auto', 'cudnn', 'flash-attn-4'"
    with pytest.raises(ValueError, match=words), impls.kernels("quick"):
        pass


def test_what_is_not_said_is_as_in_the_call() -> None:
    rows = torch.zeros(1, 4, 2, 8)
    with patch("attention_gate.impls.path.check", Mock(wraps=check)) as checked:
        impls.path_for(rows, rows, rows, segment_lengths=[4], dilation_rates=[1])
    arguments = Arguments(rows, rows, rows, [4], [1], False, None, None, False, "contiguous", {})
    checked.assert_called_once_with(arguments, 0, 1)


def test_bad_arguments_are_refused_as_by_the_call() -> None:
    with pytest.raises(ValueError, match="segment_lengths"):
        reported(REGULAR, 1, 0, segment_lengths=[0])


def run_remembering(rank: int, implementation: str, case: Case) -> Any:
    """Do on the CPU as on a GPU: what was agreed upon is not checked again, whatever is new is."""
    with patch("attention_gate.impls.agreement._is_remembered", lambda _: True):
        run_case(rank, implementation, case)
        with patch("attention_gate.impls.agreement.check", None):
            answer = run_case(rank, implementation, case)
        agreement.forget()
        with patch("attention_gate.impls.agreement.check", Mock(wraps=agreement.check)) as check:
            run_case(rank, implementation, case)
        assert check.called, "what was forgotten is checked again"
        refused = 0
        query, key, value, _ = own_tensors(case, dist.get_world_size(), rank)
        good = case.options | {"sequence_length": case.length, "return_lse": True}
        for changes in (
            {"segment_lengths": [float(length) for length in good["segment_lengths"]]},
            {"dilation_rates": [True]},
            {"is_causal": 1},
            {"scale": "1"},
            {"sequence_length": case.length + 2},
            {"dropout": 0.0},
        ):
            try:
                attend(implementation)(query, key, value, **good | changes)
            except (TypeError, ValueError):
                refused += 1
        return answer, refused


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_what_was_agreed_upon_is_not_checked_again(implementation: str) -> None:
    answers = results(2, run_remembering, implementation, REGULAR)
    assert_close([answer for answer, _ in answers], REGULAR)
    assert [refused for _, refused in answers] == [6, 6]


def arguments(**changes: Any) -> Arguments:
    tensors = dict.fromkeys(("query", "key", "value"), torch.zeros(1, 4, 2, 8))
    options = {
        "segment_lengths": [4],
        "dilation_rates": [1],
        "is_causal": True,
        "scale": 1.0,
        "sequence_length": 4,
        "return_lse": False,
        "layout": "contiguous",
        "unknown": {},
    }
    return Arguments(**tensors | options | changes)


DIFFERENT: dict[str, dict[str, Any]] = {
    "shape": {"query": torch.zeros(1, 4, 4, 8)},
    "dtype": {"value": torch.zeros(1, 4, 2, 8, dtype=torch.float64)},
    "device": {"key": torch.zeros(1, 4, 2, 8, device="meta")},
    "requires_grad": {"key": torch.zeros(1, 4, 2, 8, requires_grad=True)},
    "float length": {"segment_lengths": [4.0]},
    "bool rate": {"dilation_rates": [True]},
    "tuple": {"segment_lengths": (4,)},
    "integer flag": {"is_causal": 1},
    "integer scale": {"scale": 1},
    "length": {"sequence_length": 5},
    "lse": {"return_lse": True},
    "layout": {"layout": "zigzag"},
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_no_two_calls_are_taken_for_one_another(name: str) -> None:
    with patch("attention_gate.impls.agreement._is_remembered", lambda _: True):
        assert _as_given("attention_gate.impls.robust", arguments()) == _as_given(
            "attention_gate.impls.robust", arguments()
        )
        assert _as_given("attention_gate.impls.robust", arguments()) != _as_given(
            "attention_gate.impls.robust", arguments(**DIFFERENT[name])
        )
        assert _as_given("attention_gate.impls.robust", arguments()) != _as_given(
            "attention_gate.impls.collective", arguments()
        )
        with impls.kernels("plain"):
            plain = _as_given("attention_gate.impls.robust", arguments())
        assert plain != _as_given("attention_gate.impls.robust", arguments())
        with torch.no_grad():
            assert plain != _as_given("attention_gate.impls.robust", arguments())
            assert _as_given("attention_gate.impls.robust", arguments()) != given_with_gradients()


def given_with_gradients() -> Any:
    with torch.enable_grad():
        return _as_given("attention_gate.impls.robust", arguments())


def test_what_cannot_be_remembered_is_checked() -> None:
    assert _as_given("attention_gate.impls.robust", arguments()) is None, "on the CPU every call is checked"
    with patch("attention_gate.impls.agreement._is_remembered", lambda _: True):
        for changes in (
            {"unknown": {"dropout": 0}},
            {"query": [1.0]},
            {"segment_lengths": [[4]]},
            {"segment_lengths": [4, [4]]},
            {"scale": torch.ones(1)},
        ):
            assert _as_given("attention_gate.impls.robust", arguments(**changes)) is None
