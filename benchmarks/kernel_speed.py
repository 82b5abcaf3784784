"""How fast each library's attention kernels are on this GPU, by shape, and how long the host needs to begin a call.

    python benchmarks/kernel_speed.py

bfloat16, causal or not, forward and backward each: TFLOP/s by the GPU's own clock, and microseconds of the host. What
`flash_kernels.least_operations_forward` and `_backward` are set by.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from attention_gate.impls.fused import cudnn_kernels, flash_kernels

#: batch, heads, kv_heads, queries, keys, head_dim
SHAPES = [
    (16, 16, 16, 2048, 2048, 128),
    (4, 4, 4, 2048, 2048, 128),
    (2, 8, 8, 2048, 2048, 128),
    (1, 4, 4, 4096, 4096, 128),
    (1, 8, 8, 4096, 16384, 128),
    (1, 4, 4, 8192, 32768, 128),
    (1, 8, 8, 8192, 32768, 128),
    (1, 32, 8, 8192, 8192, 128),
    (1, 32, 32, 8192, 8192, 64),
]


def measured(call: Callable[[], Any]) -> tuple[float, float]:
    """Return the median milliseconds of the GPU and the median microseconds of the host for a call."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    gpu, host = [], []
    for _ in range(10):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(2_000_000)  # The host is done before the GPU begins.
        first.record()
        start = time.perf_counter()
        call()
        host.append(1e6 * (time.perf_counter() - start))
        last.record()
        torch.cuda.synchronize()
        gpu.append(first.elapsed_time(last))
    return statistics.median(gpu), statistics.median(host)


def main() -> None:
    """Print a line for each shape and mask."""
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {flash_kernels.PACKAGE} {flash_kernels._version()}"
    )
    for batch, heads, kv_heads, queries, keys, dim in SHAPES:
        query, grad = (
            torch.randn(batch, queries, heads, dim, dtype=torch.bfloat16, device="cuda").transpose(1, 2) for _ in "qg"
        )
        key, value = (
            torch.randn(batch, keys, kv_heads, dim, dtype=torch.bfloat16, device="cuda").transpose(1, 2) for _ in "kv"
        )
        for is_causal in (False, True) if queries == keys else (False,):
            work = 4e-9 * batch * heads * queries * keys * dim / (1 + is_causal)
            line = f"{batch} x {heads}/{kv_heads} heads, {queries} x {keys}, {dim}{' causal' if is_causal else ''}:"
            for name, library in (("cudnn", cudnn_kernels), ("flash", flash_kernels)):
                if library is flash_kernels and (reason := flash_kernels.refusal(query, key, value, is_causal)):
                    line += f"  {reason}"
                    continue
                out, lse = library.attend(query, key, value, is_causal, dim**-0.5)
                given = query, key, value, out, lse, grad, is_causal, dim**-0.5
                for which, call, times in (
                    ("fwd", lambda: library.attend(query, key, value, is_causal, dim**-0.5), 1.0),  # noqa: B023
                    ("bwd", lambda: library.attend_backward(*given), 2.5),  # noqa: B023
                ):
                    gpu, host = measured(call)
                    line += f"  {name} {which} {times * work / gpu:4.0f} TFLOP/s {host:4.0f} us"
            print(f"{line}  ({work / 1e3:.2f} TFLOP)", flush=True)


if __name__ == "__main__":
    main()
