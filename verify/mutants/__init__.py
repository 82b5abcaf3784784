"""Known mistakes as mutants: what the gate is judged by."""

from verify.mutants.known_passing import KNOWN_PASSING
from verify.mutants.known_values import KNOWN_VALUES
from verify.mutants.mutant import Mutant
from verify.mutants.other_calls import OTHER_CALLS
from verify.mutants.other_numbers import OTHER_NUMBERS
from verify.mutants.other_values import OTHER_VALUES
from verify.mutants.same import SAME

KNOWN: tuple[Mutant, ...] = (*KNOWN_VALUES, *KNOWN_PASSING)
OTHERS: tuple[Mutant, ...] = (*OTHER_VALUES, *OTHER_CALLS, *OTHER_NUMBERS)
MUTANTS: tuple[Mutant, ...] = (*KNOWN, *OTHERS, *SAME)

__all__ = ["KNOWN", "MUTANTS", "OTHERS", "SAME", "Mutant"]
