"""Copies of Robust with a single mistake, as packages in a folder of their own, for the gate to judge."""

from __future__ import annotations

import shutil
from pathlib import Path

from attention_gate import impls

_FORWARD = "def _forward(inputs: Inputs, call: Call, out: Tensor, lse: Tensor) -> None:\n"

#: The mistakes: which file, what it says, what the copy says instead.
MISTAKES = {
    "local_mask": (
        "work.py",
        "        visible = torch.minimum(visible, (query_position + right - first_key)",
        "        local = query_position - first_query + first_key\n"
        "        visible = torch.minimum(visible, (local + right - first_key)",
    ),
    "last_hop_left_out": (
        "robust.py",
        "    if returning:\n        _welcome(*returning, grads)\n\n\n",
        "    if returning:\n        returning[1].wait()\n\n\n",
    ),
    "hangs_on_rank_2": (
        "robust.py",
        _FORWARD,
        f"{_FORWARD}    if call.layout.rank == 2:\n        __import__('threading').Event().wait()\n",
    ),
    "raises_on_rank_1": (
        "robust.py",
        _FORWARD,
        f"{_FORWARD}    if call.layout.rank == 1:\n        raise RuntimeError('out of luck')\n",
    ),
}


def broken_robust(mistake: str, folder: Path) -> str:
    """Write the copy with that mistake into the folder; returns the target's name, module:name."""
    package = folder / f"broken_{mistake}"
    shutil.copytree(Path(impls.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in package.rglob("*.py"):
        text = file.read_text().replace("attention_gate.impls", package.name)
        file.write_text(text)
    name, old, new = MISTAKES[mistake]
    source = (package / name).read_text()
    assert source.count(old) == 1, f"{name} no longer says what the mistake {mistake} changes"
    (package / name).write_text(source.replace(old, new))
    return f"{package.name}.robust:attend"
