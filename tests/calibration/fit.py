"""From the data of a sweep to the constants of the gate, by rules that leave no choice.

python -m tests.calibration.fit                 # what the committed sweep says, beside what the gate uses
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from attention_gate.verify.judge.error_budget import CONSTANT
from attention_gate.verify.judge.rms_error import RMS_LIMITS
from attention_gate.verify.judge.tensor_names import VALUES

DATA = Path(__file__).with_name("sweep.json")

#: What is left above the largest root-mean-square figure seen, by tensor, as a factor: no verdict hangs on a hundredth.
#: Of eight blocks the mistakes that the limits are for stand a fifth or more beyond. The lse is merged in float32 as
#: often as an implementation likes, with an error that grows with the root of that number; kept in a half type it is
#: thousands of times as wrong.
ROOM = {"out": 1.25, "value.grad": 1.25, "query.grad": 1.25, "key.grad": 1.25, "lse": 10.0}


def constant(data: dict[str, Any]) -> float:
    """Three times the largest error seen in units of the analysis, rounded up to a half."""
    seen = [one["units"] for found in data["largest error in units of the analysis"].values() for one in found.values()]
    return math.ceil(2 * 3 * max(seen)) / 2


def limits(data: dict[str, Any]) -> dict[tuple[int, str], dict[str, float]]:
    """For each regime and tensor so much above the largest figure seen; several branches allow no less than one."""
    found: dict[tuple[int, str], dict[str, float]] = {}
    for place, rows in sorted(data["root-mean-square error in units of one rounding, by ranks and branches"].items()):
        ranks, branches = place.split(" ranks, ")
        found[int(ranks), branches] = row = {}
        for name in VALUES:
            limit = math.ceil(round(100 * ROOM[name] * rows[name]["largest"], 6)) / 100
            row[name] = max(limit, found.get((int(ranks), "one"), row).get(name, limit))
    return found


def main() -> None:
    """Print both."""
    data = json.loads(DATA.read_text())
    print(f"CONSTANT    fitted {constant(data)}, used {CONSTANT}")
    for regime, row in limits(data).items():
        print(f"{regime[0]} ranks, {regime[1]:8s} fitted {row}\n{'':17s} used   {RMS_LIMITS.get(regime)}")


if __name__ == "__main__":
    main()
