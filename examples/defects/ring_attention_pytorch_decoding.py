"""ring-attention-pytorch 0.5.20: decoding on ranks without keys. pip install ring-attention-pytorch

python examples/defects/ring_attention_pytorch_decoding.py

Only the library and torch. A rank that has no keys of a sharded cache has nothing to pass; the function has a branch
for that, which raises UnboundLocalError. Exit status 1 if it does.
"""

import sys
import tempfile

import torch
import torch.distributed as dist
from ring_attention_pytorch.tree_attn_decoding import tree_attn_decode


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        query = torch.randn(1, 1, 1, 4, dtype=torch.float64)
        try:
            out = tree_attn_decode(query, None, None, shard_kv_seq=False)
        except UnboundLocalError as error:
            print(f"without keys: expected zeros (1, 1, 1, value_dim), got UnboundLocalError: {error}")
            return 1
        finally:
            dist.destroy_process_group()
    print(f"without keys: got {tuple(out.shape)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
