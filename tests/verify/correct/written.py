"""The programs that were written from the contract alone, as targets: ``tests.verify.correct.written:ulysses``.

What their first lines name (memory, devices, second derivatives) is no part of the contract. One declares a limit.
"""

from __future__ import annotations

from importlib import import_module

from attention_gate.verify.target.choices import CALLERS
from attention_gate.verify.target.target import Target

NAMES = (
    "dtensor",
    "functional_gather",
    "logaddexp_ring",
    "online_softmax",
    "recompute_checkpoint",
    "sigmoid_ring",
    "sigmoid_ring_manual",
    "two_way_ring",
    "ulysses",
    "wide_gather",
)

TARGETS = {name: Target(attend=import_module(f"tests.verify.correct.programs.{name}").attend) for name in NAMES}
TARGETS["ulysses"] = Target(
    attend=TARGETS["ulysses"].attend,
    callers=tuple(caller for caller in CALLERS if caller != "autocast"),
    because={"callers": "it adds products, which autocast makes bfloat16, to sums in float32 by index_add"},
)
globals().update(TARGETS)
