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
