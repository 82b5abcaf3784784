"""Client of the fork server: start it once, fork ranks, collect exit statuses, kill what they leave."""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import uuid
from typing import Any

from attention_gate.verify.rank import process_table as processes
from attention_gate.verify.rank.channel import Channel, readable
from attention_gate.verify.world.fork_server import STATUS
from attention_gate.verify.world.signals import shielded

START_SECONDS = 120.0
_REQUEST_SECONDS = 20.0
_NOT_STARTED = "the process that forks the ranks did not start: {}"


class ForkServerError(Exception):
    """The fork server could not be started, or could not fork; the message says why."""


class ForkedProcess:
    """A rank's process as the gate knows it: its id, and its exit status once it has ended."""

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self.exit_status: int | None = None
        self._status = status
        self._over = False

    def fileno(self) -> int:
        """Readable once the process has ended."""
        return self._status

    def over(self, seconds: float = 0.0) -> bool:
        """Whether the process has ended; waits for that as long. Its exit status is negative for a signal."""
        if not self._over and readable([self], seconds):
            self._over = True
            if len(data := os.read(self._status, STATUS.size)) == STATUS.size:
                (self.exit_status,) = STATUS.unpack(data)
        return self._over

    def close(self) -> None:
        """Forget the process; safe to call more than once."""
        if self._status >= 0:
            os.close(self._status)
            self._status = -1
            self._over = True


class ForkServer:
    """A fork server, started; ``wait_until_ready`` before the first request.

    There is one for each gate; ``keeper()`` gives it.
    """

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._ready = False
        self._mark = f"{self.owner}-{uuid.uuid4().hex}"
        self._process: subprocess.Popen[bytes] | None = None
        self._channel, theirs = Channel.pair()
        code = f"import sys; sys.path[:] = {sys.path!r}; from attention_gate.verify.world.fork_server import main; main"
        try:
            with shielded():
                self._process = subprocess.Popen(
                    [sys.executable, "-c", f"{code}({theirs.fileno()}, {self._mark!r})"],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env=os.environ | processes.ONE_THREAD | {processes.MARK: self._mark},
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except BaseException as error:
            self._end()
            if isinstance(error, OSError):
                raise ForkServerError(_NOT_STARTED.format(f"{type(error).__name__}: {error}")) from None
            raise
        finally:
            theirs.close()

    def wait_until_ready(self) -> None:
        """Wait until it can fork; ForkServerError if it cannot be started."""
        if self._ready:
            return
        try:
            self._channel.receive(seconds=START_SECONDS)
            self._ready = True
        except BaseException as error:
            said = self._end()
            if isinstance(error, TimeoutError):
                raise ForkServerError(f"torch was not imported within {START_SECONDS:.0f} s") from None
            if isinstance(error, EOFError | OSError):
                why = said.strip().splitlines()[-1:] or [f"{type(error).__name__}: {error}"]
                raise ForkServerError(_NOT_STARTED.format(why[0])) from None
            raise

    @property
    def alive(self) -> bool:
        """Whether it still runs and is this process's own: a fork of the gate needs another one."""
        return self.owner == os.getpid() and self._process is not None and self._process.poll() is None

    def fork(self, seat: Any, descriptors: list[int]) -> ForkedProcess:
        """A new process that runs ``worker.main(seat, *descriptors)``; ForkServerError if there can be none."""
        status, theirs = os.pipe()
        try:
            pid = self._request(("start", seat), [theirs, *descriptors])
        except BaseException:
            os.close(status)
            raise
        finally:
            os.close(theirs)
        return ForkedProcess(pid, status)

    def clear(self, ranks: list[ForkedProcess]) -> None:
        """End these processes and whatever they have started."""
        try:
            self._request(("end", [rank.pid for rank in ranks]))
        except ForkServerError:
            processes.sweep(self._mark)  # a target has killed the fork server, and with it every rank

    def close(self) -> None:
        """End the fork server, and with it every rank."""
        if self.owner == os.getpid():
            self._end()

    def _request(self, request: tuple[str, Any], descriptors: list[int] = []) -> Any:  # noqa: B006
        with shielded():
            try:
                self._channel.send(request, descriptors=descriptors, seconds=_REQUEST_SECONDS)
                answer, value = self._channel.receive(seconds=_REQUEST_SECONDS)
            except (EOFError, OSError) as error:
                self._end()
                raise ForkServerError(f"the process that forks the ranks has ended: {error}") from None
        if answer == "failed":
            raise ForkServerError(str(value))
        return value

    def _end(self) -> str:
        """Close the channel, by which the fork server ends; returns the last that it printed."""
        with shielded():
            self._channel.close()
            if self._process is None:
                return ""
            try:
                self._process.wait(timeout=_REQUEST_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                processes.sweep(self._mark)
            stderr = self._process.stderr
            said = b""
            if stderr is not None and not stderr.closed:
                os.set_blocking(stderr.fileno(), False)
                with contextlib.suppress(OSError):
                    while part := os.read(stderr.fileno(), 65536):
                        said += part
                stderr.close()
            return said.decode(errors="replace")


_shared: ForkServer | None = None


def shut_down() -> None:
    """End this process's fork server, if there is one, and with it every rank."""
    if _shared is not None:
        _shared.close()


def keeper() -> ForkServer:
    """This process's fork server, started if there is none; ForkServerError if it cannot be."""
    global _shared
    if _shared is None or not _shared.alive:
        if _shared is not None:
            _shared.close()
        _shared = None
        _shared = ForkServer()
    _shared.wait_until_ready()
    return _shared


def start_early() -> None:
    """Start this process's fork server without waiting for it: while it imports torch, so may this process."""
    global _shared
    if _shared is None:
        with contextlib.suppress(ForkServerError):  # which keeper() will raise where a rank is needed
            _shared = ForkServer()


atexit.register(shut_down)
