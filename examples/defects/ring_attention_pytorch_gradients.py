"""ring-attention-pytorch 0.5.20: the gradients of key and value over two ranks. pip install ring-attention-pytorch

python examples/defects/ring_attention_pytorch_gradients.py

Only the library and torch. The same attention, once in one process and once over two with a row each: the gradients
have to agree. Exit status 1 if they do not.
"""

import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ring_attention_pytorch.ring_flash_attention import ring_flash_attn


def main(rank: int, world_size: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    torch.manual_seed(0)
    whole = [torch.randn(1, 2, 1, 4).requires_grad_() for _ in range(3)]
    own = [tensor.detach()[:, rank : rank + 1].clone().requires_grad_() for tensor in whole]
    ring_flash_attn(*whole, bucket_size=2, ring_reduce_col=False).sum().backward()
    ring_flash_attn(*own, bucket_size=1, ring_reduce_col=True).sum().backward()
    wrong = False
    for name, one, several in zip(("query", "key", "value"), whole, own, strict=True):
        expected, got = one.grad[0, rank, 0], several.grad[0, 0, 0]
        wrong |= not torch.allclose(expected, got, atol=1e-5)
        print(f"rank {rank}, gradient of {name}: expected {shown(expected)}, got {shown(got)}", flush=True)
    dist.barrier()
    Path(folder, f"wrong {rank}").write_text(str(int(wrong)))
    dist.destroy_process_group()


def shown(row: torch.Tensor) -> str:
    return "(" + ", ".join(f"{x:.4f}" for x in row.tolist()) + ")"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(main, (2, folder), nprocs=2)
        sys.exit(max(int(Path(folder, f"wrong {rank}").read_text()) for rank in range(2)))
