"""Judge and measure what is here on the GPUs of this machine, 1, 2, 4 or 8: each step has its own limit.

    python3 benchmarks/gpus.py --out FOLDER [--gpus 4] [--seeds 0,1] [--seconds 420] [--only judge,dense]

Steps of one wave run side by side: judgements, as their small cases leave a GPU idle, and tests. Measurements run
alone, the surest value first. A step that does not finish is ended and says so. FOLDER gets `session.log` with all that
was printed, and what was measured as JSON and as a plot.
"""

import argparse
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, NamedTuple

import torch

ROOT = Path(__file__).resolve().parent.parent
TARGETS, PEERS = "benchmarks/targets.py", "benchmarks/peers.py"


class Step(NamedTuple):
    """A command of this repository, how long it may take, and among how many rows it divides that, if it does."""

    name: str
    seconds: float
    arguments: list[str]
    rows: int = 0


def world_sizes(gpus: int) -> str:
    """Return the world sizes that so many GPUs serve: 1, 2, 4 and so on."""
    return ",".join(str(1 << power) for power in range(gpus.bit_length()))


def gate(name: str, target: str, sizes: str, seed: int, seconds: float) -> Step:
    """Return a judgement of a target on worlds of those sizes."""
    options = ["--device", "cuda", "--world-sizes", sizes, "--profile", "quick", "--seed", str(seed)]
    return Step(f"{name}-{seed}", seconds, ["-m", "attention_gate", "gate", target, *options])


def compare(
    name: str, out: Path, gpus: int, seconds: float, workloads: str, *targets: str, as_graphs: bool = False
) -> Step:
    """Return a measurement of targets beside each other and the floor; what a target is too slow for is left out."""
    options = ["--device", "cuda", "--world-size", str(gpus), "--workload", workloads]
    options += ["--cuda-graphs"] if as_graphs else []
    files = ["--json", str(out / f"{name}.json"), "--plot", str(out / f"{name}.svg")]
    return Step(name, seconds, ["-m", "attention_gate", "compare", *targets, *options, *files], 1 + len(targets))


def waves(out: Path, gpus: int, seeds: list[int]) -> dict[str, list[Step]]:
    """Return all steps by the name of their wave; those of one wave run side by side."""
    judged = {
        "robust": "impls.robust:attend",
        "collective": "impls.collective:attend",
        "fused": f"{TARGETS}:fused",
        "zigzag": f"{TARGETS}:fused_zigzag",
        "gathering": f"{TARGETS}:gathering",
        "steady": f"{TARGETS}:steady",
        "packed": f"{TARGETS}:packed",
        "packed-zigzag": f"{TARGETS}:packed_zigzag",
    }
    if importlib.util.find_spec("flash_attn"):
        judged["flash"] = f"{TARGETS}:flash"
    pytest = ["-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider"]
    tests = [
        f"tests/impls/test_{name}.py" for name in ("cuda", "two_gpus", "many_gpus", "packed_cuda", "triton_kernels")
    ]
    shared = ["tests/verify/checks/test_streams.py", "tests/verify/network/test_cuda_network.py"]
    rings = ["impls.robust:attend", f"{PEERS}:robust_zigzag"]
    libraries = [f"{PEERS}:context_parallel_all_to_all", f"{PEERS}:context_parallel_all_gather"]
    dense = "dense-32k-causal,dense-8k-causal,dense-32k,dense-8k"
    longnet = "longnet-32k,longnet-32k-causal,longnet-spanning,longnet-131k,longnet-1m"
    both = ["impls.robust:attend", "impls.collective:attend"]
    of_terms = [f"{PEERS}:{name}" for name in ("ring", "robust_zigzag", "robust_by_document", "context_parallel_flex")]
    terms = "documents-32k-causal,window-32k-causal"
    return {
        **{
            f"judge-{seed}": [gate(name, target, world_sizes(gpus), seed, 180) for name, target in judged.items()]
            for seed in seeds
        },
        "shared-tests": [Step("shared-tests", 150, [*pytest, *shared])],
        "shared": [gate(f"{name}-shared", judged[name], "1,2,3,4", 0, 240) for name in ("robust", "collective")],
        "shared-fused": [gate("fused-shared", judged["fused"], "1,2,3,4", 0, 240)],
        "tests": [Step("pytest", 240, [*pytest, *tests])],
        "dense": [compare("dense", out, gpus, 300, dense, *rings, *libraries, "impls.collective:attend")],
        "longnet": [compare("longnet", out, gpus, 200, longnet, *both)],
        "graphs-dense": [
            compare("graphs-dense", out, gpus, 200, dense, f"{PEERS}:robust_zigzag", *libraries, as_graphs=True)
        ],
        "graphs-longnet": [compare("graphs-longnet", out, gpus, 200, longnet, *both, as_graphs=True)],
        "terms": [compare("terms", out, gpus, 240, terms, *of_terms, f"{PEERS}:gathering")],
    }


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
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        environment |= {"FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED": "1"}  # kernels are compiled in one process for all
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
    parser.add_argument("--gpus", type=int, choices=(1, 2, 4, 8), help="default: as many of these as there are")
    parser.add_argument("--seeds", default="0", help="of the judgements, separated by commas")
    parser.add_argument("--seconds", type=float, default=420.0)
    parser.add_argument("--only", help="how names of waves begin, separated by commas")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    count = min(torch.cuda.device_count(), 8)
    if not options.gpus and not count:
        parser.error("there is no GPU")
    gpus = options.gpus or 1 << (count.bit_length() - 1)
    wanted = tuple(options.only.split(",")) if options.only else ("",)
    end = time.monotonic() + options.seconds
    failed = False
    with open(out / "session.log", "w") as log:
        for wave, steps in waves(out, gpus, [int(seed) for seed in options.seeds.split(",")]).items():
            if not wave.startswith(wanted):
                continue
            left = end - time.monotonic()
            if left < 15:
                text = "".join(f"=== {step.name}: not begun, as no time was left\n" for step in steps)
                failed = True
            else:
                running = [Running(step, min(step.seconds, left - 5)) for step in steps]
                text = "\n".join(each.finish() for each in running)
                failed = failed or any(each.process.returncode for each in running)
            print(text, flush=True)
            log.write(text + "\n")
            log.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
