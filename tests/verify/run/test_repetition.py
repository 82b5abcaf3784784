"""What repeating a failure says about it."""

import pytest

from attention_gate.verify.run.repetition import repeat
from attention_gate.verify.world.finding import Finding

WRONG = Finding("fail", "wrong")
HANG = Finding("hang", "rank 0 did not finish (stopped after 0.6 s)")


@pytest.mark.parametrize(
    ("seen", "counts", "words"),
    [
        ([WRONG, WRONG], (2, 2), "it failed again in every repetition (2 of 2)"),
        ([None, None], (0, 2), "repeated in fresh processes it did not fail again (0 of 2)"),
        ([None, WRONG], (1, 2), "in fresh processes the first call is right and a later one fails (1 of 2)"),
        ([WRONG, None], (1, 2), "in fresh processes only the first call failed (1 of 2)"),
    ],
)
def test_the_counts_are_reported_in_words(seen, counts, words):
    calls = iter(["fresh", *seen])
    again = repeat(lambda: next(calls), lambda: next(calls), WRONG)
    assert (again.failed, again.times) == counts
    assert again.words.startswith(words)
    assert again.finding is WRONG


def test_a_hang_is_repeated_once_and_reported_as_seen_with_full_patience():
    patient = Finding("hang", "rank 0 did not finish (stopped after 3.0 s)")
    again = repeat(lambda: patient, lambda: None, HANG)
    assert (again.failed, again.times) == (1, 1)
    assert again.finding is patient
