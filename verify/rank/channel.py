"""Framed, size-limited messages between the gate and its processes; polling never blocks."""

from __future__ import annotations

import io
import pickle
import select
import socket
import struct
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

#: No message is larger: what claims to be is none.
LARGEST_BYTES = 1 << 30

_MARK = b"gate"  # what a target writes into the wrong descriptor does not begin with this
_HEADER = struct.Struct("!4sQ")
_CHUNK = 1 << 18


class Readable(Protocol):
    """What can be waited for."""

    def fileno(self) -> int:
        """The file descriptor that becomes readable."""


Some = TypeVar("Some", bound=Readable)


def readable(those: Sequence[Some], seconds: float) -> list[Some]:
    """Those that can be read from, or whose other end has gone; waits for one of them as long as that.

    As multiprocessing.connection.wait, which makes a selector of Python objects at each call: that was a third of what
    the gate did while it carried the messages of simulated ranks.
    """
    by_descriptor = {one.fileno(): one for one in those}
    ready = select.poll()
    for descriptor in by_descriptor:
        ready.register(descriptor, select.POLLIN)
    return [by_descriptor[descriptor] for descriptor, _ in ready.poll(seconds * 1000.0)]


class BadMessage(Exception):
    """What arrived is not a message: something else wrote into the channel."""


class Channel:
    """One end of a socket pair that carries pickled values, and file descriptors beside them.

    >>> ours, theirs = Channel.pair()
    >>> ours.send({"a": 1})
    >>> theirs.receive()
    {'a': 1}
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = bytearray()

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two connected ends."""
        one, other = socket.socketpair()
        return cls(one), cls(other)

    @classmethod
    def of(cls, descriptor: int) -> Channel:
        """The channel behind an inherited file descriptor."""
        return cls(socket.socket(fileno=descriptor))

    def fileno(self) -> int:
        """The socket's file descriptor; -1 once closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this end; safe to call more than once."""
        self._socket.close()

    def send(self, value: Any, *, descriptors: Sequence[int] = (), seconds: float | None = None) -> None:
        """Send a value; OSError if the other end is gone or does not read for that many seconds."""
        body = pickle.dumps(value, protocol=5)
        message = _HEADER.pack(_MARK, len(body)) + body
        self._socket.settimeout(seconds)
        if descriptors:
            sent = socket.send_fds(self._socket, [message], list(descriptors))
            message = message[sent:]
        self._socket.sendall(message)

    def receive(self, *, seconds: float | None = None) -> Any:
        """The next value; waits for it. EOFError once the other end is closed, OSError after ``seconds``."""
        return self.receive_with(0, seconds=seconds)[0]

    def receive_with(self, descriptors: int, *, seconds: float | None = None) -> tuple[Any, list[int]]:
        """The next value, and at most ``descriptors`` file descriptors that were sent with it."""
        self._socket.settimeout(seconds)
        received: list[int] = []
        while (body := self._whole()) is None:
            if descriptors:
                data, more, _, _ = socket.recv_fds(self._socket, _CHUNK, descriptors)
                received += more
            else:
                data = self._socket.recv(_CHUNK)
            if not data:
                raise EOFError
            self._buffer += data
        return pickle.loads(body), received

    def poll(self) -> tuple[Any] | None:
        """The next value in a tuple, or None if it has not arrived completely; never waits.

        The value may come from a process that cannot be trusted, and is read as ``plain`` reads it. EOFError once
        the other end is closed, BadMessage for what is not a message.
        """
        self._socket.settimeout(0)
        ended = False
        while (body := self._whole()) is None:
            try:
                data = self._socket.recv(_CHUNK)
            except BlockingIOError:
                return None
            except OSError:
                data = b""
            if not data:
                ended = True
                break
            self._buffer += data
        if ended or body is None:
            raise EOFError
        return (plain(body),)

    def _whole(self) -> bytes | None:
        """The body of the first message in the buffer, taken out of it; None if it is not complete."""
        if len(self._buffer) < _HEADER.size:
            if not _MARK.startswith(bytes(self._buffer[:4])) and not self._buffer.startswith(_MARK):
                raise BadMessage("it does not begin as a message does")
            return None
        mark, size = _HEADER.unpack_from(self._buffer)
        if mark != _MARK or size > LARGEST_BYTES:
            raise BadMessage("it does not begin as a message does")
        if len(self._buffer) < _HEADER.size + size:
            return None
        with memoryview(self._buffer) as whole:
            body = bytes(whole[_HEADER.size : _HEADER.size + size])
        del self._buffer[: _HEADER.size + size]
        return body


def plain(body: bytes) -> Any:
    """The value of a message from a process that cannot be trusted; BadMessage for what is not a message.

    Only plain data, numpy's arrays and the classes that ranks answer with are made; no other name is looked up.
    """
    try:
        return _Plain(io.BytesIO(body)).load()
    except Exception as error:
        raise BadMessage(f"{type(error).__name__}: {error}") from error


_RANK = "attention_gate.verify.rank"

#: All that a message from a rank may name. A dotted name, by which pickle walks into a module, is none of them.
_NAMES = frozenset(
    [(f"{_RANK}.jobs", name) for name in ("Returned", "Raised", "Died", "Stuck")]
    + [(f"{_RANK}.network_messages", name) for name in ("Piece", "Post", "Wait", "Signal")]
    + [(f"{_RANK}.attended", "Attended"), (f"{_RANK}.procedures", "Refusal")]
    + [("numpy", name) for name in ("ndarray", "dtype")]
    + [(f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")]
    + [(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")]
)


class _Plain(pickle.Unpickler):
    """Unpickles only objects of the names in _NAMES."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"a reply holds a {module}.{name}")
        return super().find_class(module, name)
