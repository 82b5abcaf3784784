"""Explains calls that influence each other: from which call a result takes its values, options or buffers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.call_sequences import calls_of
from attention_gate.verify.checks.results import Example
from attention_gate.verify.explain.backward_parts import Parts
from attention_gate.verify.explain.failing_case import Array, Guess, Setting
from attention_gate.verify.explain.fit import fits
from attention_gate.verify.explain.wrong_values import LONGEST, setting_of
from attention_gate.verify.judge.comparison import assemble, shares
from attention_gate.verify.judge.oracle import inputs_of
from attention_gate.verify.judge.tensor_names import GRADIENTS
from attention_gate.verify.world.failed_runs import finding_of
from attention_gate.verify.world.finding import Finding

if TYPE_CHECKING:
    from attention_gate.verify.judge.session import Session


def of_sequence(session: Session, example: Example, finding: Finding) -> tuple[str, ...]:
    """Sentences on the first call whose results are wrong."""
    if example.case.length > LONGEST:
        return ()
    made = calls_of(session, example.case, example.parameters)
    run = session.run("interleave", *made, order=example.parameters["order"])
    if finding_of(run) is not None:
        return ()
    for k, case in enumerate(made):
        setting = setting_of(session, case)
        attended = [run.value(rank)[k] for rank in case.ranks]
        got = {
            name: assemble(case, attended, session.positions(case), name)
            for name in ("out", *GRADIENTS)
            if any(part.arrays.get(name) is not None for part in attended)
        }
        wrong = [name for name in got if not _right(setting, got[name], name)]
        if wrong:
            guesses = _outputs(session, made, k) if wrong[0] == "out" else _gradients(session, setting, made, k)
            judged = ("out",) if wrong[0] == "out" else GRADIENTS
            fitting = (
                words
                for words, formula in guesses
                if (guess := formula()) is not None and fits(setting, got, guess, judged)
            )
            return tuple(fitting)[:1]
    return ()


def _right(setting: Setting, got: Array, name: str) -> bool:
    answer = setting.answer
    return bool((shares(got, answer.expected[name], answer.budget[name], setting.case.dtype) <= 1.0).all())


def _outputs(session: Session, made: tuple[Case, ...], k: int) -> Iterator[Guess]:
    for other, case in enumerate(made):
        if case != made[k]:
            yield (
                f"the output of call {k + 1} is that of call {other + 1}: both lie in one buffer",
                partial(_output, session, case),
            )
            yield (
                f"the output of call {k + 1} equals the reference with the options of call {other + 1}: a cache key "
                "leaves out an option that differs",
                partial(_output, session, _mixed(made[k], case)),
            )


def _output(session: Session, case: Case) -> Mapping[str, Array]:
    return {"out": session.answer(case).expected["out"]}


def _gradients(session: Session, setting: Setting, made: tuple[Case, ...], k: int) -> Iterator[Guess]:
    for other, case in enumerate(made):
        if case == made[k]:
            continue
        yield (
            f"the gradients of call {k + 1} are computed with the keys and values of call {other + 1}: both lie in "
            "one buffer that outlives the call",
            partial(_with_keys_of, setting, case),
        )
        yield (
            f"the gradients of call {k + 1} are computed with everything that call {other + 1} saved for its backward "
            "pass",
            partial(_with_all_of, session, setting, case),
        )


@np.errstate(all="ignore")
def _with_keys_of(setting: Setting, case: Case) -> Mapping[str, Array]:
    inputs = inputs_of(case)
    return Parts(setting, key=inputs.key, value=inputs.value).all


@np.errstate(all="ignore")
def _with_all_of(session: Session, setting: Setting, case: Case) -> Mapping[str, Array]:
    return Parts(setting_of(session, case), upstream=setting.inputs.upstream).all


def _mixed(values: Case, options: Case) -> Case:
    """The values of one case under the options of another."""
    return values.replace(
        is_causal=options.is_causal,
        scale=options.scale,
        segment_lengths=options.segment_lengths,
        dilation_rates=options.dilation_rates,
    )
