"""The names that options may take, ordered from the simplest on, and the loud refusal of any other."""

from __future__ import annotations

from collections.abc import Iterable

#: Floating types a target may be judged in.
DTYPES = ("float64", "float32", "bfloat16", "float16")

#: Styles of the values; verify.data says what each one is.
DATA_STYLES = ("normal", "flat", "sharp", "offset", "duplicates", "zeros", "huge")

#: The style in which rounding is measured; cases of its own have it (verify.measuring).
ONE_SIDED = "one-sided"

#: Of fewer blocks no root-mean-square error tells anything: rounding each block's result, which is correct, costs as
#: much there as keeping the running sum in the inputs' dtype, which is not.
LEAST_BLOCKS = 3

#: Strides of query, key and value.
BUFFERS = ("contiguous", "heads-first", "packed", "sliced")

#: Forms of the upstream gradient.
UPSTREAMS = ("contiguous", "expanded", "transposed", "sliced")


def one_of(what: str, value: object, allowed: Iterable[object]) -> None:
    """Raise ValueError unless value is among the allowed ones."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(f"{what} is {value!r}; it must be one of {', '.join(map(str, allowed))}")
