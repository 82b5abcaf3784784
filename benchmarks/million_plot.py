"""Draw what million.py measured: root-mean-square errors by length, in roundings to bfloat16.

python benchmarks/million_plot.py benchmarks/h100x2 docs/long_errors.svg
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg" if sys.argv[-1].endswith("svg") else "agg")
import matplotlib.pyplot as plt

TENSORS = {"out": "output", "query.grad": "dQ", "key.grad": "dK", "value.grad": "dV"}


def main() -> None:
    """Two panels: LongNet's branches and dense causal attention, Robust; Collective runs the same kernels."""
    folder, picture = Path(sys.argv[1]), sys.argv[2]
    measured = [row for name in ("curve", "verdicts") for row in json.loads((folder / f"{name}.json").read_text())]
    rows = [row for row in measured if "rms" in row and "robust" in row["target"]]
    plt.rcParams["svg.hashsalt"] = "million"
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for panel, title in zip(panels, ("LongNet's branches, 2048 keys each", "dense causal"), strict=True):
        dense = title.startswith("dense")
        chosen = [row for row in rows if ("heads=2" in row["case"]) == dense]
        chosen.sort(key=lambda row: row["length"])
        for tensor, label in TENSORS.items():
            points = [(row["length"], row["rms"][tensor]) for row in chosen if row["rms"][tensor] > 0]
            panel.plot(*zip(*points, strict=True), marker="o", markersize=4, label=label)
        panel.axhline(1.0, color="0.6", linewidth=0.8)
        panel.set_xscale("log", base=2)
        panel.set_xticks([1 << power for power in range(10, 21, 2)])
        panel.set_xlim(900, 1.2 * (1 << 20))
        panel.set_ylim(0, 2.8)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("length")
    panels[0].set_ylabel("rms error, in roundings")
    panels[0].legend(frameon=False, fontsize=9, loc="upper left")
    figure.tight_layout()
    figure.savefig(picture, metadata={"Date": None} if picture.endswith("svg") else None)


if __name__ == "__main__":
    main()
