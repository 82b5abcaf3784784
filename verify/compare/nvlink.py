"""NVLink's counters, where nvidia-ml-py is installed: how much a GPU has sent, by whatever means."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch


class Links:
    """NVLink's own counters of what a GPU has sent, by whatever means: NCCL, copy engines, kernels."""

    def __init__(self, device: torch.device) -> None:
        self._nvml: Any = None
        if device.type != "cuda":
            return
        try:
            pynvml: Any = import_module("pynvml")
            pynvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
            self._nvml = pynvml
        except Exception:  # not installed, or not to be had from inside this machine
            self._nvml = None

    def sent(self) -> int | None:
        """Bytes sent since the counters began, on all links; None where they cannot be read."""
        if self._nvml is None:
            return None
        field = self._nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX
        try:
            (found,) = self._nvml.nvmlDeviceGetFieldValues(self._handle, [(field, _ALL_LINKS)])
        except Exception:
            return None
        return None if found.nvmlReturn else 1024 * int(found.value.ullVal)


_ALL_LINKS = 0xFFFFFFFF
