"""A GPU without memory is no fault of a target that is judged: other processes may hold it."""

from __future__ import annotations

from attention_gate.verify.rank.jobs import Raised, Run

_WORDS = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


class NoDeviceMemory(Exception):
    """A GPU had no memory left for a call; the message says what to do."""


def refuse_without_memory(run: Run) -> None:
    """NoDeviceMemory if the first rank that raised did so for want of memory on its GPU."""
    raised = [(reply.seconds, rank, reply) for rank, reply in enumerate(run.replies) if isinstance(reply, Raised)]
    if not raised:
        return
    _, rank, reply = min(raised, key=lambda one: one[:2])
    if any(words in reply.message for words in _WORDS):
        said = " ".join(reply.message.split())[:160]
        raise NoDeviceMemory(
            f"the GPU of rank {rank} had no memory left ({said}); other processes hold it, or earlier calls of the "
            "target: judge it with the GPU to itself"
        )
