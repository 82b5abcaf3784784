"""The judgement as a whole: outcomes, counts, verdicts and what stops them."""

import json

import pytest

import attention_gate
from attention_gate.verify.checks import CHECKS
from attention_gate.verify.checks.results import CheckResult
from attention_gate.verify.judge.session import Session
from attention_gate.verify.report.saved_examples import load_saved
from attention_gate.verify.run import judging
from attention_gate.verify.run.judging import judge
from attention_gate.verify.target.choices import TERMS
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.world.local import Worlds
from tests.verify import targets


def outcomes(report):
    """What became of each check."""
    return {check.name: check.outcome for check in report.checks}


def test_a_right_implementation_conforms_in_a_world_of_one():
    checks = ["forward", "gradients", "world-sizes", "sub-groups", "dtypes"]
    report = attention_gate.check(targets.right, profile="quick", world_sizes=[1], checks=checks)
    assert report.verdict == "pass", attention_gate.text(report)
    assert outcomes(report)["world-sizes"] == "unsupported"
    assert outcomes(report)["sub-groups"] == "unsupported"
    assert report.world_sizes == (1,)
    assert report.exit_status == 0


def test_a_target_of_few_capabilities_is_judged_by_those():
    unsupported = ["lse", "gradients", "grad-subsets", "sub-groups", "precision", "refusals"]
    tried = ["forward", "world-sizes", "purity", "strides", "state", "dtypes", "non-finite"]
    report = attention_gate.check(targets.few, profile="quick", world_sizes=[1, 2, 3], checks=unsupported + tried)
    assert report.verdict == "pass", attention_gate.text(report)
    assert outcomes(report) == dict.fromkeys(unsupported, "unsupported") | dict.fromkeys(tried, "pass")
    assert report.coverage.covered <= report.coverage.pairs
    assert len(report.unsupported) > 5


def test_another_layout_is_judged_by_that_layout():
    report = attention_gate.check(
        targets.zigzag_target, profile="quick", world_sizes=[1, 2, 3], checks=["forward", "purity"]
    )
    assert report.verdict == "pass", attention_gate.text(report)
    report = attention_gate.check(
        targets.zigzag_called_contiguous, profile="quick", world_sizes=[2], checks=["forward"]
    )
    assert report.verdict == "fail"
    assert report.checks[0].failure.example.case.is_causal


def test_what_builds_on_a_failure_is_blocked_and_the_verdict_is_that_it_fails(tmp_path):
    report = attention_gate.check(
        targets.causal_ignored,
        profile="quick",
        world_sizes=[1, 2],
        checks=["forward", "gradients", "state", "purity"],
        save=str(tmp_path / "failures"),
    )
    assert outcomes(report) == {"forward": "fail", "gradients": "blocked", "state": "blocked", "purity": "blocked"}
    assert report.checks[1].reason == "builds on forward, which did not pass"
    assert (report.verdict, report.exit_status, report.ran) == ("fail", 1, 1)
    failure = report.checks[0].failure
    assert failure.repeated == (2, 2)
    assert load_saved(failure.replay).example == failure.example
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("blocking_send_first", "deadlock: rank 0 waits for rank 1, which waits for rank 0"),
        ("nobody_else_casts", "ranks 0 and 1 differ in the root of broadcast"),
    ],
)
def test_the_simulated_network_names_the_cause_of_a_hang_or_crash(name, words):
    target = f"tests.verify.network.mistakes:{name}"
    report = attention_gate.check(target, profile="quick", world_sizes=[2], checks=["forward", "purity", "schedules"])
    found = outcomes(report)
    assert found["forward"] in ("hang", "crash")
    assert found["purity"] == "blocked"
    assert words in attention_gate.text(report)


@pytest.mark.parametrize("name", ["causal_ignored", "raises_alone"])
def test_wrong_values_and_a_rank_that_is_alone_leave_it_nothing_to_name(name):
    options = {"profile": "quick", "world_sizes": [1, 2], "checks": ["forward", "schedules"]}
    assert outcomes(attention_gate.check(getattr(targets, name), **options))["schedules"] == "blocked"


def test_the_first_failure_ends_it_if_that_is_asked_for():
    report = attention_gate.check(
        targets.causal_ignored, profile="quick", world_sizes=[1], checks=["forward", "dtypes"], fail_fast=True
    )
    assert outcomes(report) == {"forward": "fail", "dtypes": "not run"}
    assert report.verdict == "fail"


@pytest.mark.parametrize(("error", "verdict"), [(KeyboardInterrupt(), "incomplete"), (RuntimeError("x"), "error")])
def test_a_judgement_that_did_not_finish_is_no_pass(worlds, error, verdict):
    class Stops:
        """Progress that ends the judgement at the second check."""

        def started(self, check, examples):
            if check.name == "gradients":
                raise error

        def advanced(self, examples):
            pass

        def finished(self, result):
            pass

    target, source = as_target(targets.right)
    session = Session(target, source, worlds, (1,))
    options = attention_gate.verify.run.judging.Options(
        profile="quick", world_sizes=(1,), checks=("forward", "gradients", "state")
    )
    report = judge(session, options, Stops())
    assert outcomes(report) == {"forward": "pass", "gradients": "not run", "state": "not run"}
    assert (report.verdict, report.exit_status) == (verdict, 3)
    assert report.error in attention_gate.text(report)


def test_a_failure_outweighs_what_did_not_finish(worlds):
    class Stops:
        """Progress that ends the judgement once a check has ended."""

        def started(self, check, examples):
            pass

        def advanced(self, examples):
            pass

        def finished(self, result):
            raise KeyboardInterrupt

    target, source = as_target(targets.causal_ignored)
    options = attention_gate.verify.run.judging.Options(profile="quick", world_sizes=(1,), checks=("forward", "dtypes"))
    report = judge(Session(target, source, worlds, (1,)), options, Stops())
    assert (report.verdict, report.error) == ("fail", "interrupted")


def test_terms_and_claims_are_one_word_or_several():
    options = attention_gate.verify.run.judging.Options
    assert options(terms=("all",)).terms == tuple(TERMS)
    assert options(terms=("sink", "window")).terms == ("sink", "window")
    with pytest.raises(ValueError, match="term is 'all'"):
        options(terms=("all", "window"))
    with pytest.raises(ValueError, match="term is 'windows'"):
        attention_gate.check(targets.right, terms="windows")
    with pytest.raises(ValueError, match="claim is 'trafic'"):
        attention_gate.check(targets.right, claims="trafic")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"profile": "fast"}, "profile is 'fast'; it must be one of quick, standard, thorough"),
        ({"device": "tpu"}, "device is 'tpu'; it must be one of cpu, cuda"),
        ({"checks": ["nothing"]}, "check is 'nothing'; it must be one of forward, lse, "),
        ({"checks": []}, "checks is empty; name at least one of forward, lse, "),
        ({"world_sizes": []}, "world_sizes is (); it must hold integers from 1 to 64"),
        ({"world_sizes": [0]}, "world_sizes is (0,); it must hold integers from 1 to 64"),
        ({"seed": -1}, "seed is -1; it must be a non-negative integer"),
    ],
)
def test_options_that_there_are_not_are_refused_in_words(options, words):
    with pytest.raises(ValueError, match=" is ") as refused:
        attention_gate.check(targets.right, **options)
    assert str(refused.value).startswith(words)


def test_checks_build_on_checks_before_them():
    seen = set()
    for check in CHECKS:
        assert set(check.builds_on) <= seen
        assert check.promise
        assert check.promise[0].islower()
        seen.add(check.name)
    assert len(seen) == len(CHECKS)


def test_the_report_says_what_carried_messages_between_gpus(session_of, monkeypatch):
    session = session_of("attention_gate.verify.mutants.bases.ring:attend")
    checks = (CheckResult("forward", "", "pass", 3, 0.0), CheckResult("wire", "", "pass", 2, 0.0))
    assert judging._transports(session, checks) == ()
    monkeypatch.setattr(session, "worlds", Worlds(device="cuda", backend="staged"))
    assert judging._transports(session, checks) == ("transport: staged; the simulated network for wire",)
    assert judging._transports(session, checks[:1]) == ("transport: staged",)
