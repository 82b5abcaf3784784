"""What is judged: a callable, and what it says that it supports."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from attention_gate.verify.target.capabilities import NOT_YET, Capability, KnownFailure, NotYet
from attention_gate.verify.target.choices import CALLERS, CONVENTIONS, DTYPES, LEAST_BLOCKS, TERMS, one_of
from attention_gate.verify.target.layouts import Layout, layout_function

DIALECTS = ("longnet", "torchscale", "grouped-mean")
BRANCHES = ("any", "dense")
CLAIMS = ("wire", "traffic", "overlap", "memory", "bitwise", "compiled")

#: Claims of what is sent and held, which are none of what every rank is given in whole.
_OF_RESOURCES = ("wire", "traffic", "overlap", "memory")


@dataclass(frozen=True, kw_only=True)
class Target:
    """An attention to be judged and the part of the contract that it supports.

    >>> target = Target(attend=my_attend, branches="dense", uneven=False, because={"uneven": "it does not pad"})

    A bare callable supports the whole contract. What is not supported is not tried, and the verdict lists it.

    - ``attend``: the callable of the contract; it must be reachable by name, since every process imports it anew.
    - ``layout``: "contiguous", "zigzag", "striped", "interleaved" (in blocks of ``interleave`` rows, an option that is
      then passed; 1 without it), "document-zigzag" or a function (rank, world_size, length) -> positions, perhaps with
      a parameter document_lengths more.
    - ``masks``: the values of is_causal it takes; ``branches``: "any", or "dense" for the single branch (length, 1).
    - ``callers``: the ways in which it may be called, of "plain", "non-leaf", "no-grad", "inference", "checkpoint",
      "checkpoint-reentrant", "autocast", "twice", "thread", "saved-elsewhere", "default-dtype".
    - ``mixed_dtypes``: whether under autocast query and key may be float32 beside a bfloat16 value (optional).
    - ``dtypes``: names of floating types; ``dialect``: which dilated attention it means.
    - ``grouped_query``, ``value_dim`` (other than head_dim), ``uneven`` shards, ``subgroups``, ``gradients``,
      ``strides``, ``scales`` (any but the default), ``refusals`` (bad arguments raise on every rank): True, False, or
      NOT_YET, which the verdict reports as "not yet".
    - ``terms``: the optional terms that it takes, of "window", "documents", "mask", "softcap", "slopes", "sink",
      "queries" and "joint"; no other is passed.
    - ``queries``: "sharded", or "replicated": every rank is given all queries, and returns all rows.
    - ``sink_gradient`` and ``joint_gradient``: "own-rows", each rank returns the part of its own queries and the parts
      sum up, or "total".
    - ``lse_sink``: whether the lse has the sink "included", or "left-out"; ``lse_slopes``: under a causal mask slopes
      are taken times the "distance", or added times the "key-position", by which the lse is larger;
      ``window_counts``: the "distance" of the farthest key, or the "keys" up to it, the own one included.
    - ``replicated``: whether every rank is given the whole sequence, as by ``gather_rows``; what that sends is then not
      judged.
    - ``lse``: whether ``return_lse=True`` is supported; None: if the signature has that parameter.
    - ``least_ranks``: the smallest number of ranks that it runs on.
    - ``heads_shared``: the number of ranks that share the heads of a block, as in Ulysses inside a ring: it divides the
      number of blocks that are merged, and rounding limits depend on that.
    - ``claims``: promises beyond correctness, of "wire" (no more bytes than a dense ring), "traffic" (each row that is
      needed once, and no other), "overlap", "memory", "bitwise" (the same bits from run to run) and "compiled" (right
      inside torch.compile too, which traces no process groups by itself); each is then judged.
    - ``fit``: a function that changes a case as little as possible into one that the target takes, and leaves alone one
      that it takes already: ``lambda case: case.replace(heads=case.heads * case.shards, kv_heads=…)``.
    - ``because``: reasons by field, for each field that declares a limit; the verdict prints them.
    - ``known_failures``: checks that fail and are accepted for a while; one that passes nevertheless is a failure.
    """

    attend: Callable[..., Any]
    layout: str | Layout = "contiguous"
    masks: tuple[bool, ...] = (False, True)
    branches: str = "any"
    dtypes: tuple[str, ...] = DTYPES
    dialect: str = "longnet"
    grouped_query: Capability = True
    value_dim: Capability = True
    uneven: Capability = True
    subgroups: Capability = True
    gradients: Capability = True
    strides: Capability = True
    scales: Capability = True
    refusals: Capability = True
    callers: tuple[str, ...] = tuple(CALLERS)
    mixed_dtypes: Capability = False
    terms: tuple[str, ...] = ()
    queries: str = "sharded"
    sink_gradient: str = "own-rows"
    joint_gradient: str = "own-rows"
    lse_sink: str = "included"
    lse_slopes: str = "distance"
    window_counts: str = "distance"
    replicated: bool = False
    lse: bool | None = None
    least_ranks: int = 1
    heads_shared: int = 1
    claims: tuple[str, ...] = ()
    fit: Callable[[Any], Any] | None = None
    because: Mapping[str, str] = field(default_factory=dict)
    known_failures: tuple[KnownFailure, ...] = ()

    def __post_init__(self) -> None:
        if not callable(self.attend):
            raise TypeError(f"Target.attend is {self.attend!r}; it must be callable")
        layout_function(self.layout)
        one_of("Target.branches", self.branches, BRANCHES)
        one_of("Target.dialect", self.dialect, DIALECTS)
        for name, values in CONVENTIONS.items():
            one_of(f"Target.{name}", getattr(self, name), values)
        self._check_replicated_queries()
        if not isinstance(self.terms, tuple) or len(set(self.terms)) != len(self.terms):
            raise ValueError(f"Target.terms is {self.terms!r}; it must be a tuple without repetition")
        for entry in self.terms:
            one_of("an entry of Target.terms", entry, TERMS)
        if "sink" in self.terms and self.dialect != "longnet":
            raise ValueError(f"Target.terms has 'sink' in the dialect {self.dialect}; only 'longnet' has one")
        for name, allowed in (("masks", (False, True)), ("dtypes", DTYPES), ("callers", CALLERS)):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not value or len(set(value)) != len(value):
                raise ValueError(f"Target.{name} is {value!r}; it must be a non-empty tuple without repetition")
            for entry in value:
                one_of(f"an entry of Target.{name}", entry, allowed)
        if "plain" not in self.callers:
            raise ValueError(f"Target.callers is {self.callers}; 'plain' must be among them")
        for claim in self.claims:
            one_of("an entry of Target.claims", claim, CLAIMS)
        for name in _CAPABILITIES:
            if not isinstance(getattr(self, name), bool | NotYet):
                raise ValueError(f"Target.{name} is {getattr(self, name)!r}; it must be True, False or NOT_YET")
        if type(self.replicated) is not bool:
            raise ValueError(f"Target.replicated is {self.replicated!r}; it must be True or False")
        if self.replicated and set(self.claims) & set(_OF_RESOURCES):
            raise ValueError(
                f"Target.claims is {self.claims}; claims about bytes, memory and overlap cannot be combined with "
                "replicated=True: every rank holds the whole sequence"
            )
        for name in ("least_ranks", "heads_shared"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ValueError(f"Target.{name} is {getattr(self, name)!r}; it must be a positive integer")
        if self.fit is not None and not callable(self.fit):
            raise TypeError(f"Target.fit is {self.fit!r}; it must be a function from Case to Case")
        limits = {name for name, _ in self._limits()}
        if stale := sorted(set(self.because) - limits):
            raise ValueError(
                f"Target.because has a reason for {stale[0]!r}, but that field declares no limit; fields with limits: "
                f"{', '.join(sorted(limits)) or 'none'}"
            )
        known = [entry.check for entry in self.known_failures]
        if twice := sorted({name for name in known if known.count(name) > 1}):
            raise ValueError(f"Target.known_failures has two entries for the check {twice[0]!r}")

    def _check_replicated_queries(self) -> None:
        if self.queries != "replicated":
            return
        if self.gradients:
            raise ValueError(
                "Target.gradients is True beside queries='replicated': of queries that every rank has, only the output "
                "and the lse are judged; declare gradients=False"
            )
        if {"traffic", "overlap"} & set(self.claims):
            raise ValueError(
                f"Target.claims is {self.claims}; claims of traffic and overlap count rows of keys that travel, and "
                "beside queries='replicated' none does"
            )

    @property
    def returns_lse(self) -> bool:
        """Whether the lse can be asked for."""
        if self.lse is not None:
            return self.lse
        try:
            return "return_lse" in inspect.signature(self.attend).parameters
        except (TypeError, ValueError):
            return False

    @property
    def logic_dtype(self) -> str:
        """The widest dtype it takes, in which logic is judged."""
        return next(dtype for dtype in DTYPES if dtype in self.dtypes)

    def unsupported(self) -> tuple[str, ...]:
        """What the target declares that it does not support, in words, each with its reason if one is given."""
        found = []
        for name, words in self._limits():
            because = ("not yet" * (getattr(self, name) is NOT_YET), self.because.get(name, ""))
            reasons = [word for word in because if word]
            found.append(f"{words} ({': '.join(reasons)})" if reasons else words)
        return tuple(found)

    def _limits(self) -> list[tuple[str, str]]:
        """Each limit: the field that declares it, and what is not supported."""
        found = []
        if callable(self.layout) or self.layout != "contiguous":
            name = self.layout if isinstance(self.layout, str) else getattr(self.layout, "__name__", "its own")
            found.append(("layout", f"contiguous shards, the layout is {name}"))
        if len(self.masks) == 1:
            found.append(("masks", f"is_causal={not self.masks[0]}"))
        if self.branches != "any":
            found.append(("branches", "branches other than the dense one (length, 1)"))
        if missing := [dtype for dtype in DTYPES if dtype not in self.dtypes]:
            found.append(("dtypes", f"dtype {', '.join(missing)}"))
        found += [(name, words) for name, words in _CAPABILITIES.items() if not getattr(self, name)]
        if not_taken := [words for name, words in CALLERS.items() if name not in self.callers]:
            found.append(("callers", f"calls {', '.join(not_taken)}"))
        if self.queries == "replicated":
            found.append(("queries", "sharded queries, since every rank is given all of them"))
        if self.replicated:
            found.append(("replicated", "what it sends, since every rank is given the whole sequence"))
        if self.least_ranks > 1:
            found.append(("least_ranks", f"fewer than {self.least_ranks} ranks"))
        if self.heads_shared > 1:
            words = f"precision of sums over fewer than {LEAST_BLOCKS * self.heads_shared} ranks"
            found.append(("heads_shared", f"{words}, because {self.heads_shared} ranks share the heads of a block"))
        if self.fit is not None:
            found.append(("fit", "cases that do not fit it"))
        if not self.returns_lse:
            found.append(("lse", "return_lse (optional)"))
        if missing := [words for name, words in TERMS.items() if name not in self.terms]:
            found.append(("terms", f"{', '.join(missing)} (optional)"))
        return found


#: Yes-or-no fields of a target, and what is not supported where they say no.
_CAPABILITIES = {
    "grouped_query": "grouped-query attention (kv_heads < heads)",
    "value_dim": "value_dim other than head_dim",
    "uneven": "uneven shards",
    "subgroups": "sub-groups",
    "gradients": "gradients",
    "strides": "inputs that are not contiguous",
    "scales": "scale other than the default",
    "refusals": "refusing bad arguments on every rank",
    "mixed_dtypes": "query and key in float32 beside a bfloat16 value under autocast (optional)",
}
