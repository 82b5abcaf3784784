"""Where the gate ran: versions and devices that a reader needs to see the same again."""

from __future__ import annotations

import os
import platform
import sys

import hypothesis
import numpy as np
import torch

from attention_gate.verify.judge.session import Session


def environment(session: Session) -> dict[str, str]:
    """Versions and places that a reader needs to see the same again.

    Another version of Hypothesis may draw other examples from the same seed; those that were tried draw the same.
    """
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "hypothesis": hypothesis.__version__,
        "platform": f"{sys.platform} {platform.machine()}",
        "cores": str(os.cpu_count()),
        "device": session.device,
        "backend": session.worlds.transport(session.world_sizes),
    }
    if session.device == "cuda":
        found["gpu"] = torch.cuda.get_device_name(0)
    return found
