"""Judge both implementations at a million tokens on the GPUs of this machine, and measure what larger runs follow from.

    python3 benchmarks/million.py --out FOLDER [--gpus 2] [--seconds 560] [--only verdicts,rates]
    python3 benchmarks/million.py --out FOLDER --device cpu --shrink 8      # the same, 2^8 times shorter, without GPUs

Each step has its own limit and is a process of its own. FOLDER gets `million.log` with all that was printed, and what
was measured as JSON. The steps of the first wave run side by side.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.gpus import Running, Step

BOTH = ("impls.robust:attend", "impls.collective:attend")


def waves(out: Path, gpus: int, device: str, shrink: int) -> dict[str, list[Step]]:
    """Return the steps by the name of their wave."""
    where = ["--device", device, "--world-sizes", str(gpus)]
    lengths = f"{1 << 16 >> shrink},{1 << 20 >> shrink}"
    gates = [
        Step(
            f"gate-{target.split('.')[1].split(':')[0]}",
            140,
            ["-m", "attention_gate", "gate", target, "--lengths", lengths, *where],
        )
        for target in BOTH
    ]
    sections = ["benchmarks/million_sections.py", "--gpus", str(gpus), "--device", device, "--shrink", str(shrink)]

    def section(name: str, seconds: float) -> Step:
        return Step(name, seconds, [*sections, "--out", str(out), name])

    oracle = Step("sampled-oracle", 130, ["benchmarks/sampled.py", "--length", str(1 << 20 >> shrink), "--cores", "2"])
    compare = ["-m", "attention_gate", "compare", *BOTH, "--device", device, "--world-size", str(gpus)]
    workloads = "longnet-1m-of-two,dense-32k-causal" if device == "cuda" else "tiny-longnet"
    measured = Step("compare", 45, [*compare, "--workload", workloads, "--json", str(out / "compare.json")], 3)
    return {
        "logic": [*gates, oracle, section("mistakes", 130)],
        "rates": [section("link", 25), measured],
        "verdicts": [section("verdicts", 150)],
        "curve": [section("curve", 150)],
        "elements": [section("elements", 75)],
    }


def main() -> int:
    """Run all steps for which there is time left; 0 if all ended with exit status 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--gpus", type=int)
    parser.add_argument("--seconds", type=float, default=560.0)
    parser.add_argument("--shrink", type=int, default=0)
    parser.add_argument("--only", help="waves, separated by commas")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    gpus = options.gpus or (torch.cuda.device_count() if options.device == "cuda" else 2)
    if not gpus:
        parser.error("there is no GPU")
    end, failed = time.monotonic() + options.seconds, False
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with open(out / "million.log", "w") as log:
        for wave, steps in waves(out, gpus, options.device, options.shrink).items():
            if options.only and wave not in options.only.split(","):
                continue
            for step in steps if wave == "rates" else [None]:
                left = end - time.monotonic()
                chosen = steps if step is None else [step]
                if left < 12:
                    text, failed = "".join(f"=== {one.name}: not begun, as no time was left\n" for one in chosen), True
                else:
                    running = [Running(one, min(one.seconds, left - 4)) for one in chosen]
                    text = "\n".join(each.finish() for each in running)
                    failed = failed or any(each.process.returncode for each in running)
                print(text, flush=True)
                log.write(text + "\n")
                log.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
