"""What a collective does to the contents that its ranks bring, and how many bytes it moves between which ranks.

The bytes are those of the usual algorithms: every part goes from its owner to the ranks that need it, except that
an all-reduce is a reduce-scatter and an all-gather, each rank receiving 2 (p - 1) / p of the tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from attention_gate.verify.rank.network_messages import Contents, Piece, Post

#: Bytes by (sender's, receiver's) index in the group.
Pairs = dict[tuple[int, int], int]

_REDUCING = ("all_reduce", "reduce", "reduce_scatter", "reduce_scatter_single")
#: Reductions that the network knows.
REDUCTIONS = ("SUM", "AVG", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR")


def disagreement(i: int, one: Post, j: int, other: Post) -> str | None:
    """In what the posts of the group's ranks i and j differ so that they are of no common collective; None: in nothing.

    The answer is a noun: "the collective", "the root", "the reduction", "the dtype" or "the number of elements".
    """
    if one.kind != other.kind:
        return "the collective"
    if one.peer != other.peer:
        return "the root"
    if one.reduction != other.reduction:
        return "the reduction"
    for sent, expected in ((_to(one, j), _from(other, i)), (_to(other, i), _from(one, j))):
        if sent is None or expected is None:
            continue
        if sent.dtype != expected.dtype:
            return "the dtype"
        if sent.elements != expected.elements:
            return "the number of elements"
    return None


def outcome(posts: Sequence[Post], contents: Mapping[int, Contents]) -> list[Contents]:
    """What each rank of the group receives, in the order of its buffers, from the contents by index in the group."""
    return [_received(i, post, posts, contents) if post.receives else [] for i, post in enumerate(posts)]


def pairs(posts: Sequence[Post]) -> Pairs:
    """The bytes that go from each rank to each other; nothing goes from a rank to itself."""
    p = len(posts)
    moved: Pairs = {}
    for i, post in enumerate(posts):
        for j, other in enumerate(posts):
            piece = _to(post, j)
            if i != j and piece is not None and other.receives:
                nbytes = 2 * piece.nbytes // p if post.kind == "all_reduce" else piece.nbytes
                if nbytes:
                    moved[i, j] = nbytes
    return moved


def _to(post: Post, index: int) -> Piece | None:
    """What the post has for the rank at that index."""
    return _pick(post.sends, index, len(post.ranks))


def _from(post: Post, index: int) -> Piece | None:
    """What the post expects of the rank at that index."""
    if post.kind in ("broadcast", "scatter") and post.ranks[index] != post.peer:
        return None
    return _pick(post.receives, index, len(post.ranks))


def _pick(pieces: tuple[Piece, ...], index: int, size: int) -> Piece | None:
    if not pieces:
        return None
    return pieces[index] if len(pieces) == size else pieces[0]


def _received(i: int, post: Post, posts: Sequence[Post], contents: Mapping[int, Contents]) -> Contents:
    def part(j: int) -> bytes:
        brought = contents[j]
        return brought[i] if len(brought) == len(posts) else brought[0]

    if post.kind in ("broadcast", "scatter"):
        return [part(post.ranks.index(post.peer))]
    parts = [part(j) for j in range(len(posts))]
    if post.kind in _REDUCING:
        return [_reduced(parts, post.receives[0].dtype, post.reduction)]
    return parts


def _reduced(parts: list[bytes], dtype: str, reduction: str) -> bytes:
    """The parts put together elementwise, half types in float32 and rounded once."""
    if not parts[0]:
        return b""
    kind: torch.dtype = getattr(torch, dtype)
    tensors = [torch.frombuffer(bytearray(part), dtype=kind) for part in parts]
    if kind in (torch.bfloat16, torch.float16):
        tensors = [tensor.float() for tensor in tensors]
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        if reduction in ("SUM", "AVG"):
            total += tensor
        elif reduction == "PRODUCT":
            total *= tensor
        elif reduction in ("MIN", "MAX"):
            total = torch.minimum(total, tensor) if reduction == "MIN" else torch.maximum(total, tensor)
        else:
            total = {"BAND": torch.bitwise_and, "BOR": torch.bitwise_or, "BXOR": torch.bitwise_xor}[reduction](
                total, tensor
            )
    if reduction == "AVG":
        total = total / len(parts)
    return total.to(kind).view(torch.uint8).numpy().tobytes()
