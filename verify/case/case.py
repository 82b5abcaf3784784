"""A case: one example, small enough to print, whose repr is valid code and which everything else is made from."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import Any

from attention_gate.verify.case.styles import BUFFERS, DATA_STYLES, MIXED, ONE_SIDED, UPSTREAMS, WITHOUT_GRADIENTS
from attention_gate.verify.case.term_rules import check_terms
from attention_gate.verify.target.choices import CALLERS, COMPILED, DTYPES, one_of

MAX_WORLD_SIZE = 64
MAX_LENGTH = 1 << 24


@dataclass(frozen=True, kw_only=True, repr=False)
class Case:
    """One call of the judged attention, described and not stored: sizes, options, a seed, the style of the data.

    >>> Case(world_size=2, length=5, segment_lengths=(5,), dilation_rates=(1,), is_causal=True)
    Case(world_size=2, length=5, segment_lengths=(5,), dilation_rates=(1,), is_causal=True)

    ``world_size`` processes are launched; ``group`` names those that take part (None: all of them, as the default
    group). ``pass_length`` says whether ``sequence_length`` is given. ``requires_grad`` is a subset of ``"qkv"``, the
    inputs that gradients are asked for; ``data``, ``buffers`` and ``upstream`` name the style of the values, the
    strides of the inputs and the form of the upstream gradient, ``caller`` the way of calling. ``window``,
    ``document_lengths``, ``mask`` (the name of a mask in masks.py), ``softcap``, ``slopes`` (whether there are any),
    ``sink`` (how large beside the scores), ``query_length`` (None: as many queries as ``length``) with
    ``query_lengths`` by document, and ``joint`` (where the rows stand that every rank has, and how many they are) are
    optional terms. ``interleave`` is the number of rows in a block of the interleaved layout. Raises ValueError for
    what is not a case.
    """

    world_size: int = 1
    group: tuple[int, ...] | None = None
    length: int = 1
    pass_length: bool = False
    batch: int = 1
    heads: int = 1
    kv_heads: int = 1
    head_dim: int = 1
    value_dim: int = 1
    segment_lengths: tuple[int, ...] = (1,)
    dilation_rates: tuple[int, ...] = (1,)
    is_causal: bool = False
    scale: float | None = None
    window: tuple[int | None, int | None] | None = None
    document_lengths: tuple[int, ...] | None = None
    mask: str | None = None
    softcap: float | None = None
    slopes: bool = False
    sink: str | None = None
    query_length: int | None = None
    query_lengths: tuple[int, ...] | None = None
    joint: tuple[str, int] | None = None
    interleave: int | None = None
    dtype: str = "float64"
    data: str = "normal"
    buffers: str = "contiguous"
    upstream: str = "contiguous"
    requires_grad: str = "qkv"
    caller: str = "plain"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("world_size", 1, MAX_WORLD_SIZE),
            ("length", 0, MAX_LENGTH),
            ("batch", 1, 1 << 12),
            ("heads", 1, 1 << 12),
            ("kv_heads", 1, 1 << 12),
            ("head_dim", 1, 1 << 12),
            ("value_dim", 1, 1 << 12),
            ("seed", 0, (1 << 63) - 1),
        ):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"Case.{name} is {value!r}; it must be an integer from {low} to {high}")
        if self.heads % self.kv_heads:
            raise ValueError(f"Case.heads is {self.heads}; it must be a multiple of kv_heads, which is {self.kv_heads}")
        if not self.segment_lengths or len(self.segment_lengths) != len(self.dilation_rates):
            raise ValueError(
                f"Case.segment_lengths {self.segment_lengths} and dilation_rates {self.dilation_rates} "
                "must have the same number of entries, at least one"
            )
        tuples = isinstance(self.segment_lengths, tuple) and isinstance(self.dilation_rates, tuple)
        if not tuples or any(type(x) is not int or x < 1 for x in (*self.segment_lengths, *self.dilation_rates)):
            raise ValueError(
                f"Case.segment_lengths {self.segment_lengths} and dilation_rates {self.dilation_rates} "
                "must be tuples of positive integers"
            )
        if self.group is not None and (
            not isinstance(self.group, tuple)
            or not self.group
            or any(type(r) is not int or not 0 <= r < self.world_size for r in self.group)
            or list(self.group) != sorted(set(self.group))
        ):
            raise ValueError(
                f"Case.group is {self.group}; it must be None or a tuple of ascending ranks "
                f"below world_size {self.world_size}"
            )
        if not self.pass_length and self.length % self.shards:
            raise ValueError(
                f"Case.pass_length is False, but length {self.length} cannot be split into {self.shards} equal shards; "
                "set pass_length=True"
            )
        if self.requires_grad not in ("", "q", "k", "v", "qk", "qv", "kv", "qkv"):
            raise ValueError(f"Case.requires_grad is {self.requires_grad!r}; it must be a part of 'qkv', in that order")
        for name in ("pass_length", "is_causal"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"Case.{name} is {getattr(self, name)!r}; it must be True or False")
        # A comparison that NaN fails too.
        if self.scale is not None and not (type(self.scale) in (float, int) and abs(self.scale) <= sys.float_info.max):
            raise ValueError(f"Case.scale is {self.scale!r}; it must be None or a finite number")
        check_terms(self)
        one_of("Case.dtype", self.dtype, DTYPES)
        one_of("Case.data", self.data, (*DATA_STYLES, ONE_SIDED))
        one_of("Case.buffers", self.buffers, BUFFERS)
        one_of("Case.upstream", self.upstream, UPSTREAMS)
        one_of("Case.caller", self.caller, (*CALLERS, COMPILED, MIXED))
        if self.caller == MIXED and self.dtype != "float32":
            raise ValueError(f"Case.caller {MIXED!r} has float32 beside bfloat16; Case.dtype is {self.dtype!r}")

    def __repr__(self) -> str:
        """Valid code; fields at their default are left out, but for the few that every reader looks for."""
        return self.text()

    def text(self, *, branches: bool = True) -> str:
        """The repr, or without its branches: they say nothing if the target takes only the dense one."""
        shown = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if (field.name in _ALWAYS_SHOWN or getattr(self, field.name) != field.default)
            and (branches or field.name not in _BRANCHES)
        ]
        return f"Case({', '.join(shown)})"

    @property
    def ranks(self) -> tuple[int, ...]:
        """Global ranks that take part, in the order of their shards."""
        return tuple(range(self.world_size)) if self.group is None else self.group

    @property
    def shards(self) -> int:
        """Number of ranks that the sequence is split over."""
        return len(self.ranks)

    @property
    def terms(self) -> tuple[str, ...]:
        """The optional terms that it has, by name."""
        on = {
            "window": self.window is not None,
            "documents": self.document_lengths is not None,
            "mask": self.mask is not None,
            "softcap": self.softcap is not None,
            "slopes": self.slopes,
            "sink": self.sink is not None,
            "queries": self.query_length is not None,
            "joint": self.joint is not None,
        }
        return tuple(name for name, given in on.items() if given)

    @property
    def queries(self) -> int:
        """How many queries there are."""
        return self.length if self.query_length is None else self.query_length

    @property
    def joint_rows(self) -> int:
        """How many rows of key and value every rank has."""
        return 0 if self.joint is None else self.joint[1]

    @property
    def keys(self) -> int:
        """How many keys there are: those of the sequence, and those that every rank has."""
        return self.length + self.joint_rows

    @property
    def is_dense(self) -> bool:
        """Whether its one branch is the whole of the keys."""
        return (self.segment_lengths, self.dilation_rates) == ((max(self.keys, 1),), (1,))

    @property
    def sequence_length(self) -> int | None:
        """The argument of that name, as it is passed."""
        return self.length if self.pass_length else None

    @property
    def gradients(self) -> str:
        """The inputs whose gradients are asked for: those that require them, unless the caller asks for none."""
        return "" if self.caller in WITHOUT_GRADIENTS else self.requires_grad

    def replace(self, **changes: Any) -> Case:
        """The same case with some fields changed."""
        return dataclasses.replace(self, **changes)


_BRANCHES = ("segment_lengths", "dilation_rates")
_ALWAYS_SHOWN = ("world_size", "length", *_BRANCHES)
