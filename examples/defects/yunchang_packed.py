"""yunchang 0.6.4: LongContextAttention(use_pack_qkv=True). pip install yunchang

python examples/defects/yunchang_packed.py

Only the library and torch, with the stand-in for flash-attn where there is none. One process, 4 rows, packed and not:
the same output is expected. Exit status 1 if it does not come.
"""

import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1]))

import flash_attn_stand_in

flash_attn_stand_in.install()

import yunchang  # noqa: E402
from yunchang.kernels import AttnType  # noqa: E402


def main() -> int:
    yunchang.set_seq_parallel_pg(1, 1, 0, 1)
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 4, 2, 8).half() for _ in range(3))
    plain, packed = (yunchang.LongContextAttention(use_pack_qkv=pack, attn_type=AttnType.FA) for pack in (False, True))
    expected = plain(query, key, value)
    try:
        right = torch.equal(packed(query, key, value), expected)
        print(f"use_pack_qkv=True: expected the same as without, got {'that' if right else 'another result'}")
    except AttributeError as error:
        right = False
        print(f"use_pack_qkv=True: expected the same as without, got AttributeError: {error}")
    return int(not right)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        status = main()
        dist.destroy_process_group()
    sys.exit(status)
