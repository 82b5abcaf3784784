"""DeepSpeed 0.19.8: do its point-to-point calls wait for the receiver, who is two seconds late? pip install deepspeed

python examples/claims/deepspeed_point_to_point.py
"""

import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

LATE = 2.0


def main(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    import deepspeed
    from deepspeed.runtime.pipe import p2p
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology, PipelineParallelGrid

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    p2p.init_process_groups(PipelineParallelGrid(PipeDataParallelTopology(num_pp=2, num_dp=1)))
    rows = torch.full((4,), float(rank))
    calls = {
        "deepspeed.comm.isend": lambda: deepspeed.comm.isend(rows, 1),
        "deepspeed.comm.send": lambda: deepspeed.comm.send(rows, 1),
        "deepspeed.runtime.pipe.p2p.send": lambda: p2p.send(rows, 1),
    }
    for name, send in calls.items():
        dist.barrier()
        if rank == 1:
            time.sleep(LATE)
            dist.recv(rows, 0)
            continue
        start = time.monotonic()
        handle = send()
        returned = time.monotonic() - start
        if hasattr(handle, "wait"):
            handle.wait()
        waits = "at once" if returned < LATE / 2 else "after the receiver came"
        print(
            f"{name} returned {waits}, after {returned:.2f} s; sent after {time.monotonic() - start:.2f} s", flush=True
        )
    if rank == 0:
        try:
            p2p.send(rows, 1, async_op=True)
        except AssertionError as error:
            print(f"deepspeed.runtime.pipe.p2p.send(…, async_op=True) raised AssertionError: {error}", flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(main, (folder,), nprocs=2)
