"""Whether a pass is being captured in a CUDA graph: it must not wait for the device, and will not wait for the host."""

import torch


def is_captured() -> bool:
    """Return whether the current stream is being captured; never, where there is no CUDA."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
