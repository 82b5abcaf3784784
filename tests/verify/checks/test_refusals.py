"""What is asked of bad arguments is what a plain Python program can do, and the message says how."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch.distributed as dist

import attention_gate
from attention_gate.verify.case.bad_arguments import BAD_ARGUMENTS
from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.check import Parameters
from attention_gate.verify.checks.refusals import REFUSALS
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.session import Session
from attention_gate.verify.run.search import search
from attention_gate.verify.target.loading import as_target

CASE = Case(world_size=2, length=4, heads=2, kv_heads=2, segment_lengths=(4,), requires_grad="")
HERE = "tests.verify.checks.test_refusals"


def takes_anything(query, key, value, **options):
    """Options that nobody reads."""
    return query.detach().clone() if "dropout_p" in options else _right(query, key, value, **options)


def refuses_alone(query, key, value, **options):
    """The bad rank raises, the other one goes on to a collective."""
    if options["scale"] == "0.5":
        raise TypeError("scale must be a number")
    dist.barrier()
    return _right(query, key, value, **options)


def _right(query, key, value, **options):
    from attention_gate.impls import robust

    return robust.attend(query, key, value, **options)


@pytest.fixture
def session(worlds):
    def of(name: str) -> Session:
        return Session(*as_target(name), worlds, (1, 2))

    return of


@pytest.mark.parametrize("mistake", [name for name, bad in BAD_ARGUMENTS.items() if bad.unbound])
def test_what_python_refuses_while_it_binds_is_asked_of_all_ranks(session, mistake):
    """A plain signature raises on the one rank that is given the option, and nothing inside can tell the others."""
    judged = REFUSALS.examine(session("tests.verify.correct.written:ulysses"), CASE, {"mistake": mistake, "where": 1})
    assert judged.finding is None


def test_the_parameters_that_are_printed_are_those_that_ran(session):
    from hypothesis import given, settings

    @settings(max_examples=200, database=None)
    @given(REFUSALS.parameters(session("tests.verify.correct.written:ulysses")))
    def drawn(parameters):
        assert parameters["where"] is None or not BAD_ARGUMENTS[parameters["mistake"]].unbound

    drawn()


def test_an_option_that_is_ignored_is_still_caught_and_the_message_names_the_remedy(session):
    judged = REFUSALS.examine(session(f"{HERE}:takes_anything"), CASE, {"mistake": "unknown-option", "where": None})
    assert judged.finding is not None
    assert "on every rank: ranks 0 and 1 accepted it and returned a result" in judged.finding.headline
    assert "a plain signature" in judged.finding.details[0]


def test_a_rank_that_refuses_alone_is_shown_how_all_can(session):
    with (opened := session(f"{HERE}:refuses_alone")).worlds.hurried():
        judged = REFUSALS.examine(opened, CASE, {"mistake": "scale-text", "where": 1})
    assert judged.finding is not None
    assert judged.finding.outcome == "hang"
    assert "all_gather_object" in judged.finding.details[0]


def examined(session: Session, examples: int, seed: int) -> list[tuple[Case, Parameters]]:
    """The examples that the check would try, none of which runs."""
    tried: list[tuple[Case, Parameters]] = []

    def note(session: Session, case: Case, parameters: Parameters) -> Verdict:
        tried.append((case, parameters))
        return Verdict(0.0)

    search(replace(REFUSALS, examine=note), session, examples=examples, seed=seed)
    return tried


@pytest.mark.parametrize("seed", range(5))
def test_every_profile_gives_each_bad_argument_to_all_ranks_or_to_one_of_several(session, seed: int) -> None:
    opened = session("tests.verify.correct.written:ulysses")
    tried = examined(opened, REFUSALS.examples("quick"), seed)
    shown = {
        one["mistake"]
        for case, one in tried
        if (case.shards > 1 if BAD_ARGUMENTS[one["mistake"]].differs else one["where"] is None)
    }
    assert shown == set(BAD_ARGUMENTS)
    alone = [one["where"] % 2 for case, one in tried if case.shards == 2 and one["where"] is not None]
    assert set(alone) == {0, 1}


@pytest.mark.parametrize("seed", range(5))
def test_the_standard_profile_also_gives_each_to_one_rank_alone(session, seed: int) -> None:
    opened = session("tests.verify.correct.written:ulysses")
    tried = examined(opened, REFUSALS.examples("standard"), seed)
    alone = {one["mistake"] for case, one in tried if case.shards > 1 and one["where"] is not None}
    assert alone == {name for name, bad in BAD_ARGUMENTS.items() if not bad.unbound}


def test_one_rank_is_given_all_that_can_be_bad_there(worlds) -> None:
    opened = Session(*as_target("tests.verify.correct.written:ulysses"), worlds, (1,))
    tried = {one["mistake"] for _, one in examined(opened, REFUSALS.examples("quick"), 0)}
    assert tried >= {name for name, bad in BAD_ARGUMENTS.items() if not bad.differs}


#: A program that others wrote, and what keeps it from noticing bad shapes.
PROGRAM = Path(__file__).parents[1] / "correct/programs/functional_gather.py"
BLIND = {
    "value-heads": ('found.append((ValueError, "key and value differ in heads"))', "pass"),
    "differs-heads": ("query.shape[2:], key.shape[2:]", "query.shape[3:], key.shape[2:]"),
    "differs-kv-heads": ("key.shape[2:], value.shape[2:]", "key.shape[3:], value.shape[3:]"),
    "differs-value-dim": ("value.shape[2:], tuple", "value.shape[2:3], tuple"),
}


@pytest.mark.parametrize("mistake", BLIND)
def test_heads_and_dimensions_that_do_not_fit_must_be_refused(session, tmp_path: Path, mistake: str) -> None:
    blind = tmp_path / f"blind_to_{mistake.replace('-', '_')}.py"
    old, new = BLIND[mistake]
    assert PROGRAM.read_text().count(old) == 1
    blind.write_text(PROGRAM.read_text().replace(old, new))
    case = CASE.replace(kv_heads=1)
    parameters = {"mistake": mistake, "where": 1 if mistake.startswith("differs") else None}
    assert REFUSALS.examine(session(f"{PROGRAM}:attend"), case, parameters).finding is None
    finding = REFUSALS.examine(session(f"{blind}:attend"), case, parameters).finding
    assert finding is not None
    assert ("value_dim" if mistake.endswith("dim") else "heads") in finding.headline


#: Another such program, and what lets floats pass: a length to which the rows add up once it is rounded up, and one
#: segment length among whole numbers.
FLOATS = {
    "length-float": ('raise TypeError("sequence_length must be an int")', "pass"),
    "segment-float": ("if any(type(x) is not int", "if all(type(x) is not int"),
}


@pytest.mark.parametrize("mistake", FLOATS)
def test_a_float_must_be_refused_though_the_rows_add_up_and_others_are_whole(session, tmp_path, mistake) -> None:
    program = PROGRAM.with_name("sigmoid_ring_manual.py")
    old, new = FLOATS[mistake]
    assert program.read_text().count(old) == 1
    lenient = tmp_path / f"lenient_{mistake.replace('-', '_')}.py"
    lenient.write_text(program.read_text().replace(old, new))
    case = CASE.replace(pass_length=True)
    parameters = {"mistake": mistake, "where": None}
    assert REFUSALS.examine(session(f"{program}:attend"), case, parameters).finding is None
    finding = REFUSALS.examine(session(f"{lenient}:attend"), case, parameters).finding
    assert finding is not None
    assert BAD_ARGUMENTS[mistake].words + " on every rank" in finding.headline


def test_one_bad_argument_that_is_accepted_is_found_by_the_quick_profile_and_replays(tmp_path: Path) -> None:
    lenient = tmp_path / "takes_any_mask.py"
    source = PROGRAM.read_text()
    old = "if not isinstance(is_causal, bool):"
    assert source.count(old) == 1
    lenient.write_text(source.replace(old, "if is_causal is None:"))
    report = attention_gate.check(f"{lenient}:attend", profile="quick", checks=["refusals"], save=str(tmp_path))
    failure = report.checks[0].failure
    assert failure is not None
    assert failure.example.parameters == {"mistake": "causal-text", "where": None}
    assert (failure.example.case.world_size, failure.example.case.length) == (1, 1)
    (saved,) = tmp_path.glob("*.json")
    finding = attention_gate.replay(str(saved))
    assert finding is not None
    assert "a string as is_causal" in finding.headline
