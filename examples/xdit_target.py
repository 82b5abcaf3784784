"""xDiT's ring with joint rows of keys, which every rank has. pip install xfuser yunchang

python -m attention_gate gate examples/xdit_target.py:joint --profile quick
python -m attention_gate gate examples/xdit_target.py:joint_causal --profile quick

The package itself imports on a GPU alone; the file of its ring is loaded by itself, with what it imports of the package
replaced: none of that has part in what is judged.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import flash_attn_stand_in
import torch.distributed as dist

import attention_gate

flash_attn_stand_in.install()


def _ring() -> ModuleType:
    """xfuser/core/long_ctx_attention/ring/ring_flash_attn.py, without the package around it."""
    found = importlib.util.find_spec("xfuser")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'xfuser'; pip install xfuser yunchang", name="xfuser")
    for name, content in (
        ("xfuser", {}),
        ("xfuser.core", {}),
        ("xfuser.envs", {"_is_npu": lambda: True}),  # so that it imports yunchang without a GPU
        ("xfuser.core.long_ctx_attention", {"xFuserLongContextAttention": object}),
        ("xfuser.core.cache_manager", {}),
        ("xfuser.core.cache_manager.cache_manager", {"get_cache_manager": None}),
    ):
        module = sys.modules.setdefault(name, ModuleType(name))
        vars(module).update(content)
    sys.modules["xfuser"].envs = sys.modules["xfuser.envs"]
    file = Path(found.submodule_search_locations[0]) / "core" / "long_ctx_attention" / "ring" / "ring_flash_attn.py"
    spec = importlib.util.spec_from_file_location("xfuser_ring_flash_attn", file)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


RING = _ring()


def attend(query, key, value, *, is_causal, scale, group, joint_key=None, joint_value=None, joint="none", **_):
    shared = {} if joint_key is None else {"joint_tensor_key": joint_key, "joint_tensor_value": joint_value}
    return RING.xdit_ring_flash_attn_func(
        query,
        key,
        value,
        softmax_scale=scale,
        causal=is_causal,
        group=group or dist.group.WORLD,
        attn_type=RING.AttnType.FA,
        joint_strategy=joint,
        **shared,
    )


LIMITS = {
    "branches": "dense",
    "terms": ("joint",),
    "dtypes": ("bfloat16", "float16"),
    "uneven": False,
    "gradients": False,
    "refusals": False,
}
BECAUSE = {
    "dtypes": "flash-attn takes half types",
    "uneven": "received rows are expected to be as many as sent ones",
    "gradients": "joint rows have none: its backward pass returns None for them",
    "refusals": "arguments are not checked",
}

joint = attention_gate.Target(attend=attend, **LIMITS, masks=(False,), because=BECAUSE)
joint_causal = attention_gate.Target(attend=attend, **LIMITS, masks=(True,), because=BECAUSE)
