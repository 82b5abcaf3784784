"""Judge and measure what is here on two GPUs within seven minutes: each step has its own limit, the surest value first.

    python3 benchmarks/two_gpus.py --out FOLDER [--seconds 420]

Judgements of one wave run side by side, as their small cases leave a GPU idle; measurements run alone. A step that does
not finish is ended and says so. FOLDER gets `session.log` with all that was printed, and what was measured as JSON and
as a plot.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TARGETS, PEERS = "benchmarks/targets.py", "benchmarks/peers.py"


class Step(NamedTuple):
    """A command of this repository, how long it may take, and among how many rows it divides that, if it does."""

    name: str
    seconds: float
    arguments: list[str]
    rows: int = 0


def gate(name: str, target: str, seconds: float) -> Step:
    """Return a judgement of a target on one and on two GPUs."""
    arguments = [
        "-m",
        "attention_gate",
        "gate",
        target,
        "--device",
        "cuda",
        "--world-sizes",
        "1,2",
        "--profile",
        "quick",
    ]
    return Step(name, seconds, arguments)


def compare(name: str, out: Path, seconds: float, workloads: str, *targets: str) -> Step:
    """Return a measurement of targets beside each other and the floor; what a target is too slow for is left out."""
    arguments = [
        "-m",
        "attention_gate",
        "compare",
        *targets,
        "--device",
        "cuda",
        "--world-size",
        "2",
        "--workload",
        workloads,
    ]
    files = ["--json", str(out / f"{name}.json"), "--plot", str(out / f"{name}.svg")]
    return Step(name, seconds, [*arguments, *files], 1 + len(targets))


def waves(out: Path) -> list[list[Step]]:
    """Return all steps; those of one wave run side by side."""
    tests = ["-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider", "tests/impls/test_cuda.py"]
    return [
        [
            gate("gate-robust", "impls.robust:attend", 100),
            gate("gate-collective", "impls.collective:attend", 100),
            gate("gate-fused", f"{TARGETS}:fused", 100),
            gate("gate-zigzag", f"{TARGETS}:fused_zigzag", 100),
            gate("gate-gathering", f"{TARGETS}:gathering", 100),
            gate("gate-steady", f"{TARGETS}:steady", 100),
            Step("pytest", 130, [*tests, "tests/impls/test_triton_kernels.py"]),
        ],
        [
            compare(
                "dense",
                out,
                190,
                "dense-32k-causal,dense-8k-causal,dense-32k,dense-8k",
                "impls.robust:attend",
                f"{PEERS}:robust_zigzag",
                f"{PEERS}:context_parallel_all_to_all",
                f"{PEERS}:context_parallel_all_gather",
                "impls.collective:attend",
            )
        ],
        [
            compare(
                "longnet",
                out,
                150,
                "longnet-32k,longnet-32k-causal,longnet-spanning,longnet-131k,longnet-1m-of-two",
                "impls.robust:attend",
                "impls.collective:attend",
            )
        ],
    ]


class Running:
    """A step under way, its output in a file of its own."""

    def __init__(self, step: Step, seconds: float) -> None:
        self.step, self.limit, self.start = step, seconds, time.monotonic()
        self.output: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.failures = tempfile.TemporaryDirectory()
        arguments = [sys.executable, "-u", *step.arguments]
        if "gate" in step.arguments:
            arguments += ["--save", self.failures.name]
        if step.rows:
            arguments += ["--limit", f"{(seconds - 5) / step.rows:.1f}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            arguments, cwd=ROOT, env=environment, stdout=self.output, stderr=subprocess.STDOUT, start_new_session=True
        )

    def finish(self) -> str:
        """Wait for the step, end it when its time is up, and return how it went and all that it printed."""
        try:
            ended = f"exit status {self.process.wait(max(0.0, self.start + self.limit - time.monotonic()))}"
        except subprocess.TimeoutExpired:
            ended = f"DID NOT FINISH within {self.limit:.0f} s"
            self._end(signal.SIGTERM)
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                ended += " and had to be killed"
        seconds = time.monotonic() - self.start
        self._end(signal.SIGKILL)
        self.process.wait()
        self.output.seek(0)
        saved = [f"{path.name}: {path.read_text()}" for path in sorted(Path(self.failures.name).glob("*.json"))]
        self.failures.cleanup()
        head = f"=== {self.step.name}: {ended}, {seconds:.0f} s: {' '.join(self.step.arguments)}"
        return "\n".join([head, self.output.read().rstrip(), *saved, ""])

    def _end(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def main() -> int:
    """Run all steps for which there is time left; 0 if all ended with exit status 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=420.0)
    parser.add_argument("--only", help="names of steps, separated by commas")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = options.only.split(",") if options.only else None
    end = time.monotonic() + options.seconds
    failed = False
    with open(options.out.resolve() / "session.log", "w") as log:
        for wave in waves(options.out.resolve()):
            steps = [step for step in wave if wanted is None or step.name in wanted]
            left = end - time.monotonic()
            if left < 15:
                told = "".join(f"=== {step.name}: not begun, as no time was left\n" for step in steps)
                failed = failed or bool(steps)
            else:
                running = [Running(step, min(step.seconds, left - 5)) for step in steps]
                told = "\n".join(each.finish() for each in running)
                failed = failed or any(each.process.returncode for each in running)
            print(told, flush=True)
            log.write(told + "\n")
            log.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
