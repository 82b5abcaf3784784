"""One rank: a process that joins the world, takes jobs from a pipe, and answers each on that pipe."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
from dataclasses import replace
from typing import Any, NoReturn
from urllib.parse import urlsplit

import torch
import torch.distributed as dist

from attention_gate.verify.rank import memory_limits as memory
from attention_gate.verify.rank import process_table as processes
from attention_gate.verify.rank.answering import Rank, explain_memory, raised, show_stacks_on
from attention_gate.verify.rank.channel import Channel
from attention_gate.verify.rank.jobs import Returned
from attention_gate.verify.rank.seat import Seat, Surroundings

#: Exit status of a rank that can no longer reach the gate, although the gate still runs.
CUT_OFF = 113


def main(place: tuple[Seat, Surroundings], jobs: int, output: int, stacks: int, store: int | None = None) -> NoReturn:
    """Serve jobs until the gate closes the channel. Runs in a separate process and ends it.

    ``jobs``, ``output`` and ``stacks`` are file descriptors: a channel, where this process prints, where its stack is
    written on demand. ``store`` is the rendezvous file's, if that is in no folder.
    """
    seat, surroundings = place
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the gate's to handle
    os.dup2(output, 1)
    os.dup2(output, 2)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what is printed arrives, whatever ends
    show_stacks_on(stacks)
    faulthandler.enable(file=stacks, all_threads=False)  # a crash in C says where it was called from
    _settle(surroundings, seat.device)
    if store is not None:
        seat = replace(seat, store=f"/proc/self/fd/{store}")
    channel = Channel.of(jobs)
    try:
        device = join(seat, channel)
    except BaseException as error:
        channel.send(raised(error, 0.0))
        os._exit(1)
    rank = Rank(seat, device, stacks)
    try:
        channel.send(Returned(None, 0.0))
        while True:
            try:
                job = channel.receive()
            except EOFError:
                break
            reply = rank.answer(job)
            _flush()
            channel.send(reply)
    except BaseException:
        # The target has closed this process's descriptors, or broken what the harness itself stands on.
        os._exit(CUT_OFF)
    # Neither the target's threads nor its exit handlers may keep the process.
    os._exit(0)


def _settle(surroundings: Surroundings, device: str) -> None:
    sys.path[:] = surroundings.path
    if surroundings.cwd is not None:
        with contextlib.suppress(OSError):
            os.chdir(surroundings.cwd)
    keep = {processes.MARK, *processes.ONE_THREAD}
    for name in set(os.environ) - set(surroundings.environment) - keep:
        del os.environ[name]
    os.environ.update({name: value for name, value in surroundings.environment.items() if name not in keep})
    memory.never_dump_core()
    memory.first_to_go()
    if surroundings.memory is not None and device == "cpu":
        memory.limit(surroundings.memory)
        explain_memory(f" (out of memory: this machine has {memory.in_words(surroundings.memory)} for each rank)")
    torch.set_num_threads(1)


def join(seat: Seat, channel: Channel | None = None) -> torch.device:
    """Initialise the default process group; returns the device that this rank computes on.

    ``channel`` leads to the gate: the simulated network carries its messages by it.
    """
    if seat.backend == "simulated":
        import attention_gate.verify.rank.lagging_procedure
        import attention_gate.verify.rank.simulated_procedures  # noqa: F401  (they are found by name)
        from attention_gate.verify.rank.simulated_backend import connect

        connect(seat.rank, channel)
    elif seat.backend == "staged":
        from attention_gate.verify.rank.staged_backend import register

        register()
    if seat.device == "cuda":
        device = torch.device("cuda", seat.rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        if not seat.store.startswith("tcp:"):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = _rendezvous(seat)
    options: dict[str, Any] = {"device_id": device} if seat.backend == "nccl" else {}
    dist.init_process_group(seat.backend, store=store, rank=seat.rank, world_size=seat.world_size, **options)
    return device


def _rendezvous(seat: Seat) -> dist.Store:
    """Where the ranks find each other: a file on this machine, or a launcher's store as tcp://host:port/prefix."""
    place = urlsplit(seat.store)
    if place.scheme != "tcp":
        return dist.FileStore(seat.store, seat.world_size)
    assert place.hostname is not None
    assert place.port is not None
    return dist.PrefixStore(
        place.path.lstrip("/"), dist.TCPStore(place.hostname, place.port, is_master=False, wait_for_workers=False)
    )


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
