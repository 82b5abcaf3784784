"""The checks, in the order in which they are tried: each builds on earlier ones."""

from verify.checks.calls import PURITY, STATE, STRIDES, SUB_GROUPS, SUBSETS
from verify.checks.check import Check
from verify.checks.claims import MEMORY, OVERLAP
from verify.checks.memory import FRESH_MEMORY
from verify.checks.numbers import DTYPES_CHECK, NON_FINITE
from verify.checks.precision import PRECISION
from verify.checks.refusals import REFUSALS
from verify.checks.schedules import SCHEDULES
from verify.checks.sizes import SIZES
from verify.checks.values import COMBINATIONS, FORWARD, GRADIENTS_CHECK, LSE, WORLD_SIZES
from verify.checks.wire import TRAFFIC, WIRE

CHECKS: tuple[Check, ...] = (
    FORWARD,
    LSE,
    GRADIENTS_CHECK,
    WORLD_SIZES,
    PURITY,
    STRIDES,
    SUBSETS,
    SUB_GROUPS,
    STATE,
    FRESH_MEMORY,
    DTYPES_CHECK,
    PRECISION,
    NON_FINITE,
    REFUSALS,
    SCHEDULES,
    WIRE,
    TRAFFIC,
    OVERLAP,
    MEMORY,
    SIZES,
    COMBINATIONS,
)
BY_NAME = {check.name: check for check in CHECKS}

__all__ = ["BY_NAME", "CHECKS", "Check"]
