"""The gate's end of one rank: its process, the channel of jobs, what it prints, its stack on demand."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from multiprocessing.connection import wait
from typing import Any

from attention_gate.verify.rank import process_table as processes
from attention_gate.verify.rank.channel import BadMessage, Channel
from attention_gate.verify.rank.jobs import Died, Job, Raised, Returned, Stuck
from attention_gate.verify.rank.memory_limits import held
from attention_gate.verify.rank.own_files import calls_targets, is_transport
from attention_gate.verify.rank.seat import Seat, Surroundings
from attention_gate.verify.rank.worker import CUT_OFF
from attention_gate.verify.world.fork_client import ForkedProcess, ForkServer

_OUTPUT_KEPT = 8192
_OUTPUT_READ = 1 << 20
_READS = 64
_STACK_KEPT = 65536
_SEND_SECONDS = 5.0
_END_SECONDS = 0.5
_NEWS_SECONDS = 10.0


class RankProcess:
    """One rank of a world. The fork server forks its process; ``close`` after the fork server has cleared it."""

    #: What a worker may send.
    accepted: tuple[type, ...] = (Returned, Raised, Died)

    def __init__(self, keeper: ForkServer, seat: Seat, surroundings: Surroundings, store: int | None) -> None:
        self.rank = seat.rank
        self.jobs, theirs = Channel.pair()
        output, their_output = os.pipe()
        self._stacks, their_stacks = os.pipe()
        given = [theirs.fileno(), their_output, their_stacks, *([] if store is None else [store])]
        try:
            self.process = keeper.fork((seat, surroundings), given)
        except BaseException:
            self.jobs.close()
            os.close(output)
            os.close(self._stacks)
            raise
        finally:
            theirs.close()
            os.close(their_output)
            os.close(their_stacks)
        os.set_blocking(self._stacks, False)
        self._output = _Drain(output)
        self._held_at_first: int | None = None

    @property
    def ends(self) -> tuple[Channel | ForkedProcess, ...]:
        """What becomes readable when the worker has answered or ended."""
        return self.jobs, self.process

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    def submit(self, job: Job) -> None:
        """Send a job; if the process is gone or does not read, that shows when its reply is awaited."""
        with contextlib.suppress(OSError):
            self.jobs.send(job, seconds=_SEND_SECONDS)

    def reply(self) -> Any:
        """What the worker answered, a Reply, or how it ended; None if neither has happened. Never waits long."""
        ended = self.process.over()  # asked first: a reply that was sent before the end is still there afterwards
        try:
            message = self.jobs.poll()
        except EOFError:
            return self._died(closed=True)
        except BadMessage:
            return Died("wrote its own data to the file descriptor by which it answers the gate", self.output())
        if message is None:
            return self._died() if ended else None
        (reply,) = message
        if not isinstance(reply, self.accepted):
            return Died(f"sent the gate a {type(reply).__name__} instead of a reply", self.output())
        return reply

    def stuck(self) -> Stuck | Died:
        """Where the worker is now, as the stack of its main thread, most recent call last.

        How it ended, if it has and the fork server, which may have to wait for a processor, has not said so yet.
        """
        if processes.has_ended(self.pid):
            self.process.over(_NEWS_SECONDS)
            return self._died()
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGUSR1)
        return Stuck(readable_stack(self._stack(0.5)) or _NO_STACK, self.output())

    def output(self) -> str:
        """The end of what the worker has printed."""
        return self._output.text()

    def growth(self) -> int:
        """Bytes by which the memory that the worker holds has grown since this was first asked."""
        now = held(self.pid)
        if self._held_at_first is None:
            self._held_at_first = now
        return now - self._held_at_first

    def close(self) -> None:
        """Let go of the process and of its pipes."""
        self.jobs.close()
        self.process.close()
        self._output.close()
        os.close(self._stacks)

    def _died(self, closed: bool = False) -> Died:
        if not self.process.over(_END_SECONDS) and closed:
            return Died("closed its connection to the gate", self.output())
        stack = readable_stack(self._stack(0.0)) if (self.process.exit_status or 0) < 0 else ""
        return Died(how_it_ended(self.process.exit_status), self.output(), stack)

    def _stack(self, seconds: float) -> str:
        text = b""
        while len(text) < _STACK_KEPT and wait([self._stacks], timeout=0.05 if text else seconds):
            if not (part := os.read(self._stacks, _STACK_KEPT)):
                break
            text += part
        return text.decode(errors="replace")


class _Drain:
    """Reads what a worker prints, so that it never blocks on a full pipe, and keeps the end of it."""

    def __init__(self, source: int) -> None:
        self._source = source
        self._kept = b""
        self._stop = False
        self._reading = threading.Lock()
        os.set_blocking(source, False)
        self._thread = threading.Thread(target=self._serve, name="attention-gate-output", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stop:
            if wait([self._source], timeout=0.5) and not self._read():
                break

    def _read(self) -> bool:
        """Take what is in the pipe now, but not forever; False once it has ended."""
        with self._reading:
            for _ in range(_READS):
                try:
                    part = os.read(self._source, _OUTPUT_READ)
                except BlockingIOError:
                    return True
                if not part:
                    return False
                self._kept = (self._kept + part[-_OUTPUT_KEPT:])[-_OUTPUT_KEPT:]
        return True

    def text(self) -> str:
        """The end of what has been printed by now: of a worker that has ended, of all that it printed."""
        self._read()
        text = self._kept.decode(errors="replace")
        return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)

    def close(self) -> None:
        """Stop reading, also if something holds the other end open."""
        self._stop = True
        self._thread.join()
        os.close(self._source)


def how_it_ended(exit_status: int | None) -> str:
    """An exit status, negative for a signal, in words that follow "rank 1"."""
    if exit_status is None:
        return "ended with an unknown exit status"
    if exit_status == -signal.SIGKILL:
        return "was killed by SIGKILL (which Linux also does to a process when memory runs out)"
    if exit_status < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-exit_status).name}"
        return f"was killed by signal {-exit_status}"
    if exit_status == CUT_OFF:
        return "closed the file descriptors of its process, or broke what the harness in it stands on"
    return f"ended its process with exit status {exit_status}"


_NO_STACK = "  (in the harness itself, or not in Python code)"
_FRAME = re.compile(r'^\s*File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)$')
_START = re.compile(r"<frozen|^<string>$|/runpy\.py$")


def readable_stack(dump: str) -> str:
    """faulthandler's dump (most recent call first) as a traceback without the harness's own frames."""
    lines = []
    for line in dump.splitlines():
        if match := _FRAME.match(line):
            if calls_targets(match["file"]) or _START.search(match["file"]):
                break
            if is_transport(match["file"]):
                continue
            lines.append(f'  File "{match["file"]}", line {match["line"]}, in {match["function"]}')
    return "\n".join(reversed(lines))
