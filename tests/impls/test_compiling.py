"""Calls that nobody compiles do not pay for what compiles."""

import subprocess
import sys

PROGRAM = """
import sys
import torch
from attention_gate.impls import collective, robust

rows = torch.ones(1, 4, 2, 3)
for implementation in (collective, robust):
    out = implementation.attend(rows, rows, rows, segment_lengths=[4], dilation_rates=[1])
    assert torch.allclose(out, rows)
loaded = [name for name in sys.modules if name.startswith("torch._dynamo")]
assert not loaded, loaded
"""


def test_a_call_imports_no_compiler() -> None:
    """That takes seconds, in every process."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
