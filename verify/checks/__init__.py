"""The checks, in the order in which they are tried: each builds on earlier ones."""

from attention_gate.verify.checks.bitwise import BITWISE
from attention_gate.verify.checks.call_sequences import STATE
from attention_gate.verify.checks.callers import CALLERS_CHECK, COMPILED_CHECK
from attention_gate.verify.checks.calling import PURITY, STRIDES, SUB_GROUPS, SUBSETS
from attention_gate.verify.checks.check import Check
from attention_gate.verify.checks.dtypes import DTYPES_CHECK
from attention_gate.verify.checks.fresh_memory import FRESH_MEMORY
from attention_gate.verify.checks.non_finite import NON_FINITE
from attention_gate.verify.checks.oracle_values import COMBINATIONS, FORWARD, GRADIENTS_CHECK, LSE, WORLD_SIZES
from attention_gate.verify.checks.overlap import OVERLAP
from attention_gate.verify.checks.peak_memory import MEMORY
from attention_gate.verify.checks.precision import PRECISION
from attention_gate.verify.checks.refusals import REFUSALS
from attention_gate.verify.checks.schedules import SCHEDULES
from attention_gate.verify.checks.shapes import SHAPES
from attention_gate.verify.checks.streams import STREAMS
from attention_gate.verify.checks.wire import TRAFFIC, WIRE

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
    CALLERS_CHECK,
    COMPILED_CHECK,
    FRESH_MEMORY,
    DTYPES_CHECK,
    PRECISION,
    NON_FINITE,
    REFUSALS,
    SCHEDULES,
    STREAMS,
    WIRE,
    TRAFFIC,
    OVERLAP,
    MEMORY,
    BITWISE,
    SHAPES,
    COMBINATIONS,
)
BY_NAME = {check.name: check for check in CHECKS}

__all__ = ["BY_NAME", "CHECKS", "Check"]
