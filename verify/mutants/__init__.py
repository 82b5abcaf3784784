"""Known mistakes as mutants: what the gate is judged by."""

from attention_gate.verify.mutants.known_documents import KNOWN_DOCUMENTS
from attention_gate.verify.mutants.known_field import KNOWN_FIELD
from attention_gate.verify.mutants.known_lengths import KNOWN_LENGTHS
from attention_gate.verify.mutants.known_passing import KNOWN_PASSING
from attention_gate.verify.mutants.known_scores import KNOWN_SCORES
from attention_gate.verify.mutants.known_values import KNOWN_VALUES
from attention_gate.verify.mutants.known_windows import KNOWN_WINDOWS
from attention_gate.verify.mutants.mutant import Mutant
from attention_gate.verify.mutants.other_callers import OTHER_CALLERS
from attention_gate.verify.mutants.other_calls import OTHER_CALLS
from attention_gate.verify.mutants.other_lengths import OTHER_LENGTHS
from attention_gate.verify.mutants.other_numbers import OTHER_NUMBERS
from attention_gate.verify.mutants.other_scores import OTHER_SCORES
from attention_gate.verify.mutants.other_values import OTHER_VALUES
from attention_gate.verify.mutants.other_visible import OTHER_VISIBLE
from attention_gate.verify.mutants.same_program import SAME
from attention_gate.verify.mutants.stream_mistakes import STREAM_MISTAKES

#: Mistakes of the contract are numbered M01, M02, …; those with its optional terms T01, T02, ….
_TERMS = sorted((*KNOWN_DOCUMENTS, *KNOWN_WINDOWS, *KNOWN_SCORES, *KNOWN_LENGTHS), key=lambda mutant: mutant.name)
KNOWN: tuple[Mutant, ...] = (*KNOWN_VALUES, *KNOWN_PASSING, *KNOWN_FIELD, *_TERMS)
OTHERS: tuple[Mutant, ...] = (
    *OTHER_VALUES,
    *OTHER_CALLS,
    *OTHER_NUMBERS,
    *OTHER_CALLERS,
    *OTHER_LENGTHS,
    *OTHER_VISIBLE,
    *OTHER_SCORES,
)
MUTANTS: tuple[Mutant, ...] = (*KNOWN, *OTHERS, *SAME)

__all__ = ["KNOWN", "MUTANTS", "OTHERS", "SAME", "STREAM_MISTAKES", "Mutant"]
