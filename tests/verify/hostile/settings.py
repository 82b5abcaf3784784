"""Settings under which a hostile target is judged in seconds: few examples, little patience, little memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from attention_gate.verify.checks import profiles
from attention_gate.verify.rank import memory_limits as memory
from attention_gate.verify.world import local
from attention_gate.verify.world import patience as pace


def hurry(change: Callable[[Any, str, Any], None]) -> None:
    """Make the settings by that function, which is called as setattr is."""
    change(profiles, "PROFILES", profiles.PROFILES | {"quick": 4.0})
    change(pace, "RESTING", 0.8)
    change(pace, "BUSY", 4.0)  # printing 100 MB takes a while on a crowded machine
    change(pace, "BUSY_HURRIED", 1.0)
    change(pace, "FIRST", 6.0)
    change(local, "LOAD_SECONDS", 6.0)
    change(local, "LEAK_BYTES", 200 << 20)
    change(memory, "share", lambda size: 700 << 20)
    os.environ["ATTENTION_GATE_TEST_IMPORT_SECONDS"] = "1.2"
