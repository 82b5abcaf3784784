"""Styles of a case's tensors: their values, their strides, the form of the upstream gradient, simplest first."""

from __future__ import annotations

#: Styles of the values; data.py says what each one is.
DATA_STYLES = ("normal", "flat", "sharp", "offset", "duplicates", "zeros", "huge")

#: The style in which rounding is measured; precision_cases.py has the cases.
ONE_SIDED = "one-sided"

#: Strides of query, key and value.
BUFFERS = ("contiguous", "heads-first", "packed", "sliced")

#: Forms of the upstream gradient.
UPSTREAMS = ("contiguous", "expanded", "transposed", "sliced")

#: Query and key in float32 beside a value in bfloat16, under autocast: an option that few targets have.
MIXED = "autocast-mixed"

#: Callers that ask for no gradients, whatever the inputs require.
WITHOUT_GRADIENTS = ("no-grad", "inference")

#: Ways of calling that make a difference only where there are gradients.
OF_GRADIENTS = ("non-leaf", "checkpoint", "checkpoint-reentrant", "twice", "saved-elsewhere")

#: Callers under autocast, and the dtype that it computes in.
UNDER_AUTOCAST = ("autocast", MIXED)
AUTOCAST = "bfloat16"

#: Masks by name, and sinks by how large they are beside the scores; "off" is -inf, which is as none.
MASK_NAMES = ("prefix", "thirds", "by head")
SINKS = ("near", "above", "far above", "below", "off")

#: Where rows that every rank has stand: before all others, or after them.
JOINT_PLACES = ("front", "rear")
