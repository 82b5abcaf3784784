"""What FlashAttention-2 and flash-attn-4 are given beside the rows of packed sequences: no GPU is needed for it."""

import torch

from attention_gate.impls.fused.torch_packed import starts

CPU = torch.device("cpu")


def test_where_sequences_of_each_sample_start_is_copied_to_the_device_once() -> None:
    with torch.inference_mode():
        found = starts((3, 1, 4), 2, CPU)
    assert found.dtype == torch.int32
    assert not found.is_inference()
    assert found.tolist() == [0, 3, 4, 8, 11, 12, 16]
    assert starts((3, 1, 4), 2, CPU) is found
    assert starts((3, 1, 4), 1, CPU).tolist() == [0, 3, 4, 8]
    assert starts((3, 5), 2, CPU).tolist() == [0, 3, 8, 11, 16]
