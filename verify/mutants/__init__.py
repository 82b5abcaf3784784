"""Known mistakes as mutants: what the gate is judged by."""

from verify.mutants.known_passing import KNOWN_PASSING
from verify.mutants.known_values import KNOWN_VALUES
from verify.mutants.mutant import Mutant
from verify.mutants.same import SAME

KNOWN: tuple[Mutant, ...] = (*KNOWN_VALUES, *KNOWN_PASSING)
MUTANTS: tuple[Mutant, ...] = (*KNOWN, *SAME)

__all__ = ["KNOWN", "MUTANTS", "SAME", "Mutant"]
