"""Named choices and the refusal of any other; the floating types that a target may be judged in."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: Floating types a target may be judged in, the widest first.
DTYPES = ("float64", "float32", "bfloat16", "float16")

#: Ways of calling, simplest first, and what they are in words; attention_gate.verify.rank.ways_to_call makes them.
CALLERS = {
    "plain": "as is",
    "non-leaf": "on results of other operations",
    "no-grad": "under no_grad",
    "inference": "under inference_mode",
    "checkpoint": "inside activation checkpointing",
    "checkpoint-reentrant": "inside reentrant activation checkpointing",
    "autocast": "under autocast",
    "twice": "with its graph gone through twice",
    "thread": "from another thread",
    "saved-elsewhere": "with hooks that keep saved tensors elsewhere",
    "default-dtype": "under another default dtype",
}

#: The way of calling that is a claim: torch.compile traces no process groups, so that few attentions take it as is.
COMPILED = "compiled"

#: Of fewer blocks a root-mean-square error says nothing: rounding each block's result, which is correct, costs as much
#: there as keeping the running sum in the inputs' dtype, which is not.
LEAST_BLOCKS = 3


#: The optional terms of attention, in words, by the name that a target declares.
TERMS = {
    "window": "a sliding window (window)",
    "documents": "packed documents (document_lengths)",
    "mask": "any mask (mask)",
    "softcap": "a soft cap of the scores (softcap)",
    "slopes": "ALiBi slopes (slopes)",
    "sink": "a sink for each head (sink)",
    "queries": "queries fewer or more than keys (query_length, query_lengths)",
    "joint": "rows of keys that every rank has (joint_key, joint_value, joint)",
}

#: Where targets differ in what they mean, by field; the first value is the contract's.
CONVENTIONS = {
    "queries": ("sharded", "replicated"),
    "sink_gradient": ("own-rows", "total"),
    "joint_gradient": ("own-rows", "total"),
    "lse_sink": ("included", "left-out"),
    "lse_slopes": ("distance", "key-position"),
    "window_counts": ("distance", "keys"),
}


def one_of(what: str, value: object, allowed: Iterable[object]) -> None:
    """Raise ValueError unless value is among the allowed ones; it names the nearest one.

    >>> one_of("profile", "quik", ("quick", "standard"))
    Traceback (most recent call last):
    ValueError: profile is 'quik'; it must be one of quick, standard; did you mean 'quick'?
    """
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(
            f"{what} is {value!r}; it must be one of {', '.join(map(str, allowed))}{did_you_mean(value, allowed)}"
        )


def did_you_mean(value: object, allowed: Iterable[object]) -> str:
    """ "; did you mean 'quick'?" where a name is near to one of the allowed ones, else ""."""
    names = [name for name in allowed if isinstance(name, str)]
    near = difflib.get_close_matches(value, names, n=2, cutoff=0.7) if isinstance(value, str) else []
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
