"""torch 2.13.0: its context parallelism for FlexAttention, three times beside one process or its documentation.

python examples/defects/torch_flex_context_parallel.py

Only torch, on a CPU. Packed documents that are to be balanced over 2 ranks, a block mask in blocks of 256 rows, and a
score_mod with positions on 2 processes of 128 rows each. Exit status 1 if something else comes than is expected.
"""

import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.experimental import _context_parallel as library
from torch.distributed.tensor.parallel import parallelize_module
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

RANKS, ROWS = 2, 256


class Attention(torch.nn.Module):
    def forward(self, query, key, value, score_mod=None, block_mask=None, **options):
        return flex_attention(query, key, value, score_mod=score_mod, block_mask=block_mask, **options)


def everything(_batch, _head, _query, key):
    return key >= 0


def by_distance(score, _batch, _head, query, key):
    """ALiBi."""
    return score - 0.5 * (query - key).abs()


def seen_keys(lengths):
    """How many keys the rows of each rank see; a row sees the rows of its document up to itself."""
    counts = torch.cat([torch.arange(1, rows + 1) for rows in lengths])
    order = library._PerDocumentHeadTailLoadBalancer([lengths], RANKS, "cpu")._generate_indices()[0]
    # _context_parallel_shard cuts what it has ordered into equal parts.
    return [int(rows.sum()) for rows in counts[order].chunk(RANKS)]


def documents_are_balanced():
    right = True
    for lengths in ([4, 8, 4], [12, 4]):
        got = seen_keys(lengths)
        expected = [sum(got) // RANKS] * RANKS
        print(f"documents of {lengths} rows, keys seen on each rank: expected {expected}, got {got}")
        right &= expected == got
    return right


def on_each(rank, folder, right):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    # Uncompiled, in case there is no compiler.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        right[rank] = compared(rank, DeviceMesh.from_group(dist.group.WORLD, "cpu"))
    dist.destroy_process_group()


def compared(rank, mesh):
    torch.manual_seed(0)
    query, key, value = whole = [torch.randn(1, 1, ROWS, 8) for _ in range(3)]
    mask = create_block_mask(everything, 1, 1, ROWS, ROWS, device="cpu")
    style = library._ContextParallel(seq_dim=2, attention_type=library._ContextParallel.AttentionType.FLEX)
    attention = parallelize_module(Attention(), mesh, style)
    own, *rows = library._context_parallel_shard(mesh, [mask, *whole], [2, 2, 2, 2])
    right = True
    for what, score_mod in (("without a score_mod", None), ("with score_mod, ALiBi", by_distance)):
        expected = flex_attention(query, key, value, score_mod=score_mod).chunk(RANKS, dim=2)[rank]
        error = (attention(*rows, score_mod=score_mod, block_mask=own) - expected).abs().max().item()
        print(f"rank {rank}, {what}: expected a difference of 0.00, got {error:.2f}", flush=True)
        right &= error < 1e-4
    coarse = create_block_mask(everything, 1, 1, 2 * ROWS, 2 * ROWS, device="cpu", BLOCK_SIZE=256)
    [own] = library._context_parallel_shard(mesh, [coarse], [2])
    print(f"rank {rank}, blocks: expected {coarse.BLOCK_SIZE}, got {own.BLOCK_SIZE}", flush=True)
    return right and own.BLOCK_SIZE == coarse.BLOCK_SIZE


def main():
    right = mp.get_context("spawn").Array("i", RANKS)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(on_each, (Path(folder), right), nprocs=RANKS)
    return int(not all([documents_are_balanced(), *right]))


if __name__ == "__main__":
    sys.exit(main())
