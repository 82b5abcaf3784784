"""Optional terms: right programs that declare them conform, and each that ignores or alters one is named."""

from __future__ import annotations

import pytest

import attention_gate
from attention_gate.verify.case.case import Case
from attention_gate.verify.target.choices import TERMS

HERE = "tests.verify.terms.targets"

#: The gate's sentence on each wrong program, or the headline where no formula is tried.
WRONG = {
    "window_ignored": "without the window: it is accepted and ignored",
    "documents_ignored": "without the documents' boundaries: it is accepted and ignored",
    "mask_ignored": "without the mask: it is accepted and ignored",
    "softcap_ignored": "without the soft cap: it is accepted and ignored",
    "slopes_ignored": "without the slopes: it is accepted and ignored",
    "sink_ignored": "without the sink: it is accepted and ignored",
    "window_one_too_many": "it holds one key more",
    "documents_lost_on_ranks": "without the documents' boundaries: it is accepted and ignored",
    "slopes_of_other_sign": "with slopes of the other sign",
    "no_sink_gradient": "the gradient of sink is wrong in",
    "total_sink_gradient": "the gradient of sink is wrong in",
    "sink_clamped": "the output is wrong in",
    "window_forward_only": "the gradients equal the reference without the window",
    "cap_forward_only": "the gradients equal the reference without the soft cap",
    "sink_by_branch": "the output is wrong in",
    "lse_zero": "the log-sum-exp is wrong in",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_program_is_rejected_and_named(name: str) -> None:
    report = attention_gate.check(f"{HERE}:{name}", profile="quick", checks=["forward", "lse", "gradients"])
    assert report.verdict == "fail", attention_gate.text(report)
    assert WRONG[name] in attention_gate.text(report)


@pytest.mark.parametrize("name", ["robust", "collective"])
def test_right_programs_conform_with_every_pair_of_options(name: str) -> None:
    checks = ["forward", "lse", "gradients", "schedules", "combinations"]
    report = attention_gate.check(f"{HERE}:{name}", profile="quick", checks=checks)
    assert report.verdict == "pass", attention_gate.text(report)
    assert report.coverage.covered >= 0.998 * report.coverage.pairs


def test_a_total_on_every_rank_is_right_where_it_is_declared() -> None:
    report = attention_gate.check(f"{HERE}:total_sink_gradient_declared", profile="quick", checks=["gradients"])
    assert report.verdict == "pass", attention_gate.text(report)


def test_no_term_is_passed_that_is_not_declared() -> None:
    """A bare callable would refuse it; and the verdict says what is not judged."""
    report = attention_gate.check("impls.robust:attend", profile="quick", checks=["forward"], world_sizes=[1, 2])
    assert report.verdict == "pass"
    assert any("packed documents (document_lengths)" in words for words in report.unsupported)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"window": (-1, 0)}, "Case.window is (-1, 0)"),
        ({"window": (1,)}, "Case.window is (1,)"),
        ({"document_lengths": (2, 2)}, "add up to no more than the length, 3"),
        ({"mask": "none"}, "Case.mask is 'none'; it must be one of prefix, thirds, by head"),
        ({"softcap": 0.0}, "Case.softcap is 0.0"),
        ({"slopes": 1}, "Case.slopes is 1"),
        ({"sink": "far"}, "Case.sink is 'far'; it must be one of near, above, far above, below, off"),
    ],
)
def test_what_is_no_term_is_refused_in_words(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match="Case") as refused:
        Case(length=3, segment_lengths=(3,), **fields)  # type: ignore[arg-type]
    assert words in str(refused.value)


def test_a_target_names_its_terms() -> None:
    with pytest.raises(ValueError, match="did you mean 'window'"):
        attention_gate.Target(attend=print, terms=("windows",))
    assert attention_gate.Target(attend=print, terms=tuple(TERMS)).terms == tuple(TERMS)
