"""The adapters, against the libraries where they are installed: which checks pass, and which find something.

Each finding is in docs/findings.md; a library that has fixed it fails here, and the table is to be corrected. What is
part of torch is judged in every run by its first adapter alone, by all of them with FOREIGN=1 in the environment.
"""

import os
from pathlib import Path

import pytest

from attention_gate.verify.commands.judge_target import check
from tests.examples.scripts import is_installed

_EXAMPLES = Path(__file__).parents[2] / "examples"

#: A part of torch that its later versions have.
_FLEX = "torch.distributed.tensor.experimental._context_parallel._load_balancer"

#: Adapter and target, what it needs, world sizes, and the outcome of each check that is run.
_JUDGED = [
    ("all_gather:target", "torch", (1, 2, 3), {"forward": "pass", "gradients": "pass", "world-sizes": "pass"}),
    ("torch_context_parallel:cpu_all_gather", "torch", (1, 2), {"forward": "pass", "gradients": "pass"}),
    ("torch_context_parallel:cpu_all_to_all", "torch", (2, 3), {"forward": "pass", "gradients": "pass"}),
    ("torch_context_parallel:cpu_balanced", "torch", (2, 3), {"forward": "pass", "gradients": "pass"}),
    ("torch_flex_context_parallel:target", _FLEX, (1, 2), {"forward": "pass", "lse": "pass", "gradients": "pass"}),
    ("torch_flex_context_parallel:head_tail", _FLEX, (2, 3), {"forward": "pass", "gradients": "pass"}),
    ("torch_flex_context_parallel:by_document", _FLEX, (2, 3), {"forward": "pass", "gradients": "pass"}),
    ("torch_flex_context_parallel:round_robin", _FLEX, (2, 3), {"forward": "pass", "gradients": "pass"}),
    ("torch_flex_context_parallel:slopes", _FLEX, (1, 2), {"forward": "fail"}),
    ("ring_flash_attn:ring", "ring_flash_attn", (2, 3), {"forward": "pass", "gradients": "pass"}),
    ("ring_flash_attn:zigzag", "ring_flash_attn", (2, 3), {"forward": "pass", "gradients": "pass"}),
    ("ring_flash_attn:stripe", "ring_flash_attn", (2, 3), {"forward": "pass", "gradients": "pass"}),
    ("ring_flash_attn:llama3", "ring_flash_attn", (2, 3), {"forward": "pass", "gradients": "pass"}),
    ("ring_flash_attn_documents:ring", "ring_flash_attn", (2, 3), {"forward": "pass", "gradients": "pass"}),
    ("ring_flash_attn_documents:zigzag", "ring_flash_attn", (2, 3), {"forward": "pass", "gradients": "pass"}),
    ("ring_flash_attn_documents:llama3", "ring_flash_attn", (2, 3), {"forward": "pass", "gradients": "pass"}),
    ("ring_flash_attn_documents:ring_windows", "ring_flash_attn", (2, 3), {"forward": "fail"}),
    ("ring_flash_attn_documents:zigzag_windows", "ring_flash_attn", (2, 3), {"forward": "fail"}),
    ("ring_flash_attn_documents:llama3_windows", "ring_flash_attn", (2, 3), {"forward": "fail"}),
    ("ring_flash_attn_documents:llama3_causal_windows", "ring_flash_attn", (2, 3), {"forward": "pass"}),
    ("ring_attention_pytorch:ring", "ring_attention_pytorch", (1, 2), {"forward": "pass", "gradients": "fail"}),
    ("ring_attention_pytorch:zig_zag", "ring_attention_pytorch", (1, 2), {"forward": "pass", "gradients": "fail"}),
    ("ring_attention_pytorch:tree_decoding", "ring_attention_pytorch", (2, 3), {"forward": "crash"}),
    ("xdit:joint", "xfuser", (1, 2, 3), {"forward": "pass", "schedules": "pass"}),
    ("xdit:joint_causal", "xfuser", (1, 2), {"forward": "fail"}),
    ("torch_cross_attention:lower_right", "torch", (1, 2), {"forward": "pass", "gradients": "pass"}),
    ("torch_cross_attention:upper_left", "torch", (1,), {"forward": "fail"}),
    ("decoding:target", "torch", (1, 2, 3), {"forward": "pass", "lse": "pass", "schedules": "pass"}),
    ("decoding:as_in_vllm", "torch", (1, 2), {"forward": "pass", "lse": "pass", "non-finite": "fail"}),
    ("yunchang:ulysses", "yunchang", (1, 2), {"forward": "pass", "gradients": "pass"}),
    ("deepspeed:ulysses", "deepspeed", (1, 2), {"forward": "pass", "gradients": "pass"}),
    ("torchscale:alone", "torchscale.component.dilated_attention", (1,), {"forward": "pass", "gradients": "pass"}),
    ("torchscale:parallel", "torchscale.component.dilated_attention", (1, 2), {"forward": "fail"}),
    ("dilated_attention_pytorch:target", "dilated_attention_pytorch", (1,), {"forward": "fail"}),
]

_EVERY_RUN = "all_gather:target"


@pytest.mark.filterwarnings("default")  # the libraries' deprecation warnings are not about this project
@pytest.mark.parametrize(("adapter", "needs", "sizes", "outcomes"), _JUDGED, ids=[judged[0] for judged in _JUDGED])
def test_the_library_is_judged_as_the_table_says(
    adapter: str, needs: str, sizes: tuple[int, ...], outcomes: dict[str, str]
) -> None:
    if not is_installed(needs):
        pytest.skip(f"{needs} is not installed")
    if needs.split(".")[0] == "torch" and adapter != _EVERY_RUN and "FOREIGN" not in os.environ:
        pytest.skip("takes minutes: judged with FOREIGN=1")
    file, name = adapter.split(":")
    target = f"{_EXAMPLES / file}_target.py:{name}"
    report = check(target, profile="quick", world_sizes=sizes, checks=tuple(outcomes))
    assert {result.name: result.outcome for result in report.checks} == outcomes, report.checks
