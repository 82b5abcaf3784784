"""The scripts in examples/defects, which show a library's defect without the gate: it is still there, or they go."""

from pathlib import Path

import pytest
import torch

from tests.examples.scripts import assert_prints, is_installed

_SCRIPTS = Path(__file__).parents[2] / "examples" / "defects"

#: Script, what it needs, and what it prints that shows the defect.
_SHOWN = [
    (
        "torch_attention_on_cpu",
        "torch",
        [
            "NaN as the only key: expected nan, got 0.0",
            "scale 0 and a causal mask: expected [1.0, 1.0], got [nan, 1.0]",
            "3072 rows: expected an error of 1 to 1.5 roundings, got",
        ],
    ),
    (
        "torch_flex_context_parallel",
        "torch",
        [
            "rank 1, without a score_mod: expected a difference of 0.00, got 0.00",
            "rank 1, with score_mod, ALiBi: expected a difference of 0.00, got 2.65",
            "rank 0, blocks: expected (256, 256), got (128, 128)",
            "documents of [12, 4] rows, keys seen on each rank: expected [44, 44], got [48, 40]",
        ],
    ),
    (
        "torch_cudnn_backward",
        "a GPU",
        ["rows before heads, strides (65536, 64, 256, 1): relative error 1."],
    ),
    (
        "torch_cudnn_padding",
        "a GPU",
        ["64 keys: relative error nan", "128 keys: relative error 0.0", "192 keys: relative error nan"],
    ),
    (
        "torch_symmetric_memory",
        "3 GPUs",
        ["all again"],
    ),
    (
        "ring_flash_attn_float16",
        "ring_flash_attn",
        [
            "ring_flash_attn_func, gradient of query: expected 10 to 25 % that fit into bfloat16, got 100%",
            "zigzag_ring_flash_attn_func, gradient of query: expected 10 to 25 % that fit into bfloat16, got 16%",
        ],
    ),
    (
        "ring_attention_pytorch_decoding",
        "ring_attention_pytorch",
        ["without keys: expected zeros (1, 1, 1, value_dim), got UnboundLocalError"],
    ),
    (
        "yunchang_packed",
        "yunchang",
        ["expected the same as without, got AttributeError: 'Tensor' object has no attribute 'continous'"],
    ),
    (
        "torchscale_branches",
        "torchscale.component.dilated_attention",
        [
            "a score of 0.000001, segments 1 and 2, values 1 and 3: expected (1.6667, 2.3333), got (1.6667, 2.3333)",
            "a score of 0, segments 1 and 2, values 1 and 3: expected (1.6667, 2.3333), got (2.0000, 2.0000)",
            "all values 1: expected (1.0000, 1.0000, 1.0000), got (1.0000, 1.0000, 0.5000)",
        ],
    ),
    (
        "dilated_attention_pytorch_options",
        "dilated_attention_pytorch",
        [
            "2 branches: expected none to be 0, got [0.13, 0.26, 0.0]",
            "outputs summed over the sequence: expected (-3.4578, -0.1699), got (1.0000, 1.0000)",
            "softmax_scale 0.0 and 9.0: expected another output, got the same",
            "attention_dropout 0.0 and 0.9: expected another output, got the same",
        ],
    ),
    (
        "ring_attention_pytorch_gradients",
        "ring_attention_pytorch",
        [
            "rank 0, gradient of key: expected (-0.5489, 1.0282, 1.4265, -0.9150), got (0.6576,",
            "rank 1, gradient of value: expected (0.7934, 0.7934, 0.7934, 0.7934), got (0.6576,",
        ],
    ),
]


@pytest.mark.parametrize(("script", "needs", "lines"), _SHOWN, ids=[shown[0] for shown in _SHOWN])
def test_the_defect_shows_by_the_library_alone(script: str, needs: str, lines: list[str]) -> None:
    gpus = {"a GPU": 1, "3 GPUs": 3}.get(needs, 0)
    if gpus > torch.cuda.device_count():
        pytest.skip(f"it needs {gpus} GPUs")
    if not gpus and not is_installed(needs):
        pytest.skip(f"{needs} is not installed")
    if needs == "torch" and not torch.__version__.startswith("2.13.0"):
        pytest.skip(f"the defect was seen in torch 2.13.0, and this is {torch.__version__}")
    path = _SCRIPTS / f"{script}.py"
    assert "verify" not in path.read_text()
    assert_prints(path, lines, 1)


def test_each_script_is_run_here() -> None:
    assert {path.stem for path in _SCRIPTS.glob("*.py")} == {shown[0] for shown in _SHOWN}
