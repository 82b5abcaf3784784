"""Which known mistake fits: wrong formulas are tried on the failing case, and those that give the target's output."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attention_gate.verify.checks.results import Example
from attention_gate.verify.world.finding import Finding

if TYPE_CHECKING:
    from attention_gate.verify.judge.session import Session


def explain(session: Session, example: Example, finding: Finding) -> tuple[str, ...]:
    """Sentences on the known mistakes whose formula gives what the target returned; none if none fits."""
    from attention_gate.verify.explain.crashes_and_hangs import of_conduct
    from attention_gate.verify.explain.earlier_calls import of_sequence
    from attention_gate.verify.explain.ignored_terms import of_terms
    from attention_gate.verify.explain.wrong_values import of_values

    explanations: tuple[Callable[[Session, Example, Finding], tuple[str, ...]], ...]
    if finding.outcome != "fail":
        explanations = (of_conduct,)
    elif example.case.terms:  # the other formulas know none
        explanations = (of_terms,)
    elif example.case.interleave is not None:
        explanations = (of_terms, of_values)
    elif example.check == "state":
        explanations = (of_sequence, of_values)
    else:
        explanations = (of_values,)
    for explanation in explanations:
        try:
            if sentences := explanation(session, example, finding):
                return sentences
        except Exception:  # a finding stands without its explanation, and an error here must not end the run
            return ()
    return ()
