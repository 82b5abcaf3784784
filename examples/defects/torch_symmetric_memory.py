"""torch on three GPUs: symmetric memory's rendezvous of ranks that took part in different numbers of earlier ones.

python examples/defects/torch_symmetric_memory.py

Only torch. Ranks 0 and 1 meet in a group of theirs, then all ranks meet: they wait for each other until the store's
time is up, which is 10 seconds here and half an hour by default. Where all have met equally often it takes
milliseconds, as the first lines show. Exit status 1 if the last rendezvous fails.
"""

import datetime
import os
import sys
import tempfile
import time
import warnings

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

SIZE = 3


def meet(rank, what, group):
    """Let the ranks of a group share memory; return whether that came to an end."""
    import torch.distributed._symmetric_memory as symmetric_memory

    start = time.monotonic()
    memory = symmetric_memory.empty(1024, dtype=torch.float32, device=f"cuda:{rank}")
    try:
        symmetric_memory.rendezvous(memory, group)
    except RuntimeError as error:
        print(f"rank {rank}: {what}: {str(error).splitlines()[0][:90]}", flush=True)
        return False
    print(f"rank {rank}: {what}: {time.monotonic() - start:.2f} s", flush=True)
    return True


def run(rank, file, failed):
    """What one rank does."""
    warnings.simplefilter("ignore")
    torch.cuda.set_device(rank)
    store = dist.FileStore(file, SIZE)
    seconds = datetime.timedelta(seconds=10)
    store.set_timeout(seconds)
    dist.init_process_group("nccl", store=store, rank=rank, world_size=SIZE, timeout=seconds)
    pair = dist.new_group([0, 1], timeout=seconds)
    meet(rank, "all", dist.group.WORLD)
    if rank < 2:
        meet(rank, "ranks 0 and 1", pair)
    if not meet(rank, "all again", dist.group.WORLD):
        failed.set()
    # No communicator is closed here: ranks that have failed would wait for each other once more.
    sys.stdout.flush()
    os._exit(0)


def main():
    if torch.cuda.device_count() < SIZE:
        sys.exit(f"there are no {SIZE} GPUs")
    failed = mp.get_context("spawn").Event()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run, (os.path.join(folder, "store"), failed), SIZE)
    return int(failed.is_set())


if __name__ == "__main__":
    sys.exit(main())
