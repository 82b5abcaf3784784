"""Which calls run whole segments through fused kernels, and what each rank then computes on what. Integers only.

A call qualifies where its shapes are regular: equal shards, rates that divide lengths and heads, and every segment
either inside a shard or made of whole shards. A rank's branches then fall in two: local ones, and those that span
ranks, whose selected rows travel. All that a rank's queries see of those lies in one buffer, in the order of positions,
so that one kernel takes a whole segment, however many ranks it came from, and little is left to merge.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from attention_gate.impls.tiling import Branch, Layout


class Block(NamedTuple):
    """Queries of a grid against keys: rows of the buffer, or, where that is None, the same grid of this rank's keys."""

    length: int
    rate: int
    segments: slice
    keys: range | None
    is_causal: bool


class Transfer(NamedTuple):
    """Selected rows `start` to `stop` of one rank's shard, which another rank has at `place` of its buffer."""

    peer: int
    start: int
    stop: int
    place: int


@dataclass(frozen=True)
class Span:
    """What spans ranks: the rate of the rows that travel, this rank's buffer of them, and what is computed on it."""

    rate: int
    rows: int  # selected rows of one shard, of the longest
    buffer_rows: int
    most_rows: int  # rows of the buffer on the rank that has most
    kernels: int  # how many blocks of rows of the buffer a forward pass has, on the rank that has most
    own: tuple[Transfer, ...]  # this rank's own rows in its buffer
    wants: tuple[Transfer, ...]
    gives: tuple[Transfer, ...]
    blocks: tuple[Block, ...]
    backward_blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Plan:
    """What one rank computes: branches inside its shard, and what spans ranks, if anything does."""

    local: tuple[Branch, ...]
    span: Span | None
    is_causal: bool
    least_rows: int  # the fewest rows that any kernel is given
    repeats_keys: bool  # once for each query head, as those that share a kv head select different rows of it


@lru_cache(maxsize=64)
def plan_of(layout: Layout, is_zigzag: bool) -> Plan | str:
    """Return what the layout's rank computes, or why fused kernels do not serve: the same answer on every rank."""
    size = layout.world_size
    if layout.sequence_length % size or not layout.sequence_length:
        return f"{layout.sequence_length} rows are not equal shards on {size} ranks"
    length = layout.sequence_length // size
    local: list[Branch] = []
    spanning: list[Branch] = []
    for branch in layout.branches:
        if objection := _objection(layout, branch, length):
            return objection
        (local if length % branch.segment_length == 0 and not is_zigzag else spanning).append(branch)
    if is_zigzag:
        if layout.branches != (Branch(layout.sequence_length, 1),) or not layout.is_causal or length % 2 or size == 1:
            return "in the zigzag layout only dense causal attention over several ranks is fused, of even shards"
        span: Span | None = _zigzag(layout.rank, size, length // 2)
        least = length // 2
    else:
        least = min([branch.segment_length // branch.dilation_rate for branch in local], default=length)
        span = None
        if spanning:
            rate = min(branch.dilation_rate for branch in spanning)
            rates = {branch.dilation_rate for branch in spanning}
            if rates != {rate} and (rate < layout.heads or any(other % rate for other in rates)):
                return f"the rates {sorted(rates)} of segments that span ranks do not select rows of one another"
            span = _contiguous(layout, tuple(spanning), rate, length)
            least = min(least, length // max(rates))
    repeats_keys = layout.heads != layout.kv_heads and any(branch.dilation_rate > 1 for branch in layout.branches)
    return Plan(tuple(local), span, layout.is_causal, least, repeats_keys)


def chunks(span: Span, kv_heads: int, world_size: int, elements: int) -> int:
    """Return in how many parts, of whole kv heads, the rows of a span travel: equal ones, as memory is bounded by one.

    As many as let two buffers of a part hold no more than one rank has: twice as many as ranks where all rows are seen.
    Fewer where there are few rows for each kernel, down to a quarter of that, or where heads do not divide so.
    `elements` are those of keys and values of the rank that has most.
    """
    if span.rate > 1:
        return 1
    most = max(1, -(-2 * span.most_rows // span.rows))
    counts = [count for count in range(1, kv_heads + 1) if kv_heads % count == 0 and count <= most]
    of_buffer = elements * span.most_rows // (world_size * span.rows)
    worthwhile = of_buffer // (least_elements * span.kernels) if least_elements else kv_heads
    enough = next((count for count in counts if count >= most // 4), counts[-1])
    return max(enough, *(count for count in counts if count <= worthwhile), 1)


# Keys and values of one rank in a part, for each kernel: fewer do not keep the device busy while the host prepares the
# next part. Of 2, 4 and 8 parts of 8,192 rows of 32 heads of 128 on each of 4 H100s, 4 were best where each takes one
# kernel, and 2 where it takes two, as in the zigzag layout (benchmarks/profile_passes.py --brief --least-elements).
least_elements = 1 << 24


def _objection(layout: Layout, branch: Branch, length: int) -> str | None:
    segment, rate = branch
    if segment % rate:
        return f"rate {rate} does not divide segment length {segment}"
    if rate < layout.heads and layout.heads % rate:
        return f"rate {rate} does not divide {layout.heads} heads"
    if length % segment and (segment % length or length % rate):
        return f"segments of {segment} rows are neither whole shards of {length} rows nor whole parts of one"
    return None


def _contiguous(layout: Layout, branches: tuple[Branch, ...], rate: int, length: int) -> Span:
    size, rank, rows = layout.world_size, layout.rank, length // rate

    def sources(of: int) -> range:
        segments = [_ranks(branch, length, of, size) for branch in branches]
        last = of if layout.is_causal else max(segment.stop for segment in segments)
        return range(min(segment.start for segment in segments), last)

    seen = sources(rank)
    blocks = []
    for branch in branches:
        ranks = _ranks(branch, length, rank, size)
        last = rank if layout.is_causal else ranks.stop
        first, step = (ranks.start - seen.start) * rows, branch.dilation_rate // rate
        if layout.is_causal:
            blocks.append(Block(length, branch.dilation_rate, slice(None), None, True))
        if last > ranks.start:
            keys = range(first, first + (last - ranks.start) * rows, step)
            blocks.append(Block(length, branch.dilation_rate, slice(None), keys, False))
    others = [(rank - steps) % size for steps in range(1, size)]
    wants = tuple(Transfer(peer, 0, rows, (peer - seen.start) * rows) for peer in others if peer in seen)
    others = [(rank + steps) % size for steps in range(1, size)]
    gives = tuple(Transfer(peer, 0, rows, 0) for peer in others if rank in sources(peer))
    own = (Transfer(rank, 0, rows, (rank - seen.start) * rows),) if rank in seen else ()
    return Span(
        rate, rows, len(seen) * rows, size * rows, len(branches), own, wants, gives, tuple(blocks), tuple(blocks)
    )


def _ranks(branch: Branch, length: int, rank: int, size: int) -> range:
    """Return the ranks whose shards make up this rank's segment."""
    count = branch.segment_length // length
    first = rank // count * count
    return range(first, min(size, first + count))


def _zigzag(rank: int, size: int, half: int) -> Span:
    """Rank r owns parts r and 2p - 1 - r of 2p: whatever r, its queries see as many keys as any other rank's."""
    later, kernels = 2 * size - 1 - rank, 1 if size == 2 else 2
    wants, gives = [], []
    for steps in range(1, size):
        source, destination = (rank - steps) % size, (rank + steps) % size
        wants.append(Transfer(source, 0, half, source * half))
        gives.append(Transfer(destination, 0, half, 0))
        if source > rank:
            wants.append(Transfer(source, half, 2 * half, (2 * size - 1 - source) * half))
        if rank > destination:
            gives.append(Transfer(destination, half, 2 * half, 0))
    own = Block(half, 1, slice(None), None, True)
    first, second = slice(0, 1), slice(1, 2)
    blocks = [own, Block(half, 1, second, range(later * half), False)]
    # In the backward pass no two blocks share keys, whose gradients then need no adding up before they leave.
    backward = [own, Block(half, 1, second, range(rank * half, later * half), False)]
    if rank:
        blocks.append(Block(half, 1, first, range(rank * half), False))
        backward.append(Block(2 * half, 1, slice(None), range(rank * half), False))
    if rank == size - 1:
        # Its parts follow one another: they are one, twice as long. Not in the backward pass, whose gradients go home
        # part by part: with twice as much to do before the first part, it would let all others wait.
        blocks = [
            Block(2 * half, 1, slice(None), None, True),
            Block(2 * half, 1, slice(None), range(rank * half), False),
        ]
    return Span(
        1,
        2 * half,
        later * half,
        2 * size * half,
        kernels,
        (Transfer(rank, 0, half, rank * half),),
        tuple(wants),
        tuple(gives),
        tuple(blocks),
        tuple(backward),
    )
