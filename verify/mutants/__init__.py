"""Known mistakes as mutants: what the gate is judged by."""

from attention_gate.verify.mutants.known_field import KNOWN_FIELD
from attention_gate.verify.mutants.known_lengths import KNOWN_LENGTHS
from attention_gate.verify.mutants.known_passing import KNOWN_PASSING
from attention_gate.verify.mutants.known_values import KNOWN_VALUES
from attention_gate.verify.mutants.mutant import Mutant
from attention_gate.verify.mutants.other_callers import OTHER_CALLERS
from attention_gate.verify.mutants.other_calls import OTHER_CALLS
from attention_gate.verify.mutants.other_lengths import OTHER_LENGTHS
from attention_gate.verify.mutants.other_numbers import OTHER_NUMBERS
from attention_gate.verify.mutants.other_values import OTHER_VALUES
from attention_gate.verify.mutants.same_program import SAME
from attention_gate.verify.mutants.stream_mistakes import STREAM_MISTAKES

KNOWN: tuple[Mutant, ...] = (*KNOWN_VALUES, *KNOWN_PASSING, *KNOWN_FIELD, *KNOWN_LENGTHS)
OTHERS: tuple[Mutant, ...] = (*OTHER_VALUES, *OTHER_CALLS, *OTHER_NUMBERS, *OTHER_CALLERS, *OTHER_LENGTHS)
MUTANTS: tuple[Mutant, ...] = (*KNOWN, *OTHERS, *SAME)

__all__ = ["KNOWN", "MUTANTS", "OTHERS", "SAME", "STREAM_MISTAKES", "Mutant"]
