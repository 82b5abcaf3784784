"""Every style as a target of the gate: ``tests.verify.correct.targets:flash`` and so on."""

from __future__ import annotations

from functools import partial

from attention_gate.verify.target.target import Target
from tests.verify.correct.attend import attend
from tests.verify.correct.style import STYLES

#: They refuse no bad arguments: what they are here for is numbers.
TARGETS = {
    name: Target(
        attend=partial(attend, style=style), refusals=False, heads_shared=2 if style.transport == "hybrid" else 1
    )
    for name, style in STYLES.items()
}
globals().update(TARGETS)
