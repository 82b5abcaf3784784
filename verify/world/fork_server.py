"""The fork server: a process that has torch loaded, forks the ranks from itself, and ends what they leave.

It runs no target's code. When the gate ends, however that happens, the fork server ends every rank and everything that
the ranks have started, and then itself.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import struct
import time
from typing import Any, NoReturn

from attention_gate.verify.rank import process_table as processes
from attention_gate.verify.rank.channel import Channel

STATUS = struct.Struct("!i")

_REPORTED = -1
_CLEAR_SECONDS = 5.0
_LOOK_SECONDS = 1.0


def main(control: int, mark: str) -> NoReturn:
    """Serve the gate at the other end of that socket; ``mark`` is in the environment of all that descends from here."""
    gate = os.getppid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the gate's to handle; this process must outlive it
    processes.adopt_orphans()
    channel = Channel.of(control)
    gc.disable()  # collections while torch is imported free nothing and take a fifth of the time
    import attention_gate.verify.world.preload  # noqa: F401

    gc.freeze()  # no rank looks through torch's million objects at each collection, nor copies their pages
    gc.enable()
    channel.send("ready")
    keeper = _Keeper(channel, gate)
    try:
        keeper.serve()
    finally:
        keeper.clear(list(keeper.ranks))
        processes.sweep(mark)
        os._exit(0)


class _Keeper:
    def __init__(self, channel: Channel, gate: int) -> None:
        # Where each rank's exit status is to be written; -1 once it has been. A rank that has ended stays a zombie
        # until it is cleared, so that its process id, which its session bears too, cannot come to mean another one.
        self.ranks: dict[int, int] = {}
        self._channel = channel
        self._gate = gate
        self._wake, wake = os.pipe()
        for end in (self._wake, wake):
            os.set_blocking(end, False)
        self._own = (self._wake, wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Fork and clear as the gate asks, until it is gone."""
        orphans = False
        while os.getppid() == self._gate:
            control = self._channel.fileno()
            ready, _, _ = select.select([control, self._wake], [], [], _LOOK_SECONDS)
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
                self._tell()
                orphans = True
            elif orphans and not ready:
                processes.reap(self.ranks)
                orphans = False
            if control in ready:
                try:
                    request, descriptors = self._channel.receive_with(8)
                    self._channel.send(self._answer(request, descriptors))
                except (EOFError, OSError):
                    return

    def clear(self, ranks: list[int]) -> list[int]:
        """End these ranks and all that they started; returns those that would not end."""
        ranks = [pid for pid in ranks if pid in self.ranks]
        until = time.monotonic() + _CLEAR_SECONDS
        while True:
            self._tell()
            # Where orphans are adopted, a child that is not a rank was left behind by one.
            doomed = processes.left_by(ranks, spared=set(self.ranks) - set(ranks))
            for pid in doomed:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            processes.reap(self.ranks)
            left = [pid for pid in ranks if self.ranks[pid] != _REPORTED]
            if not (left or set(doomed) - set(ranks)) or time.monotonic() > until:
                break
            time.sleep(0.002)
        for pid in set(ranks) - set(left):
            os.waitpid(pid, 0)
            del self.ranks[pid]
        return left

    def _answer(self, request: tuple[str, Any], descriptors: list[int]) -> tuple[str, Any]:
        what, argument = request
        if what == "end":
            return "ended", self.clear(argument)
        try:
            return "started", self._fork(argument, descriptors)
        except OSError as error:
            return "failed", f"{type(error).__name__}: {error}"
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _fork(self, place: Any, descriptors: list[int]) -> int:
        status, *theirs = descriptors
        keeper = os.getpid()
        pid = os.fork()
        if pid:
            self.ranks[pid] = os.dup(status)
            return pid
        try:
            processes.die_with(keeper)
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            self._channel.close()
            for descriptor in (status, *self._own, *self.ranks.values()):
                if descriptor != _REPORTED:
                    os.close(descriptor)
            from attention_gate.verify.rank import worker

            worker.main(place, *theirs)
        finally:
            os._exit(1)

    def _tell(self) -> None:
        """Write down the exit status of every rank that has ended since."""
        for pid, pipe in self.ranks.items():
            if pipe == _REPORTED:
                continue
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
                with contextlib.suppress(OSError):
                    os.write(pipe, STATUS.pack(status))
                os.close(pipe)
                self.ranks[pid] = _REPORTED
