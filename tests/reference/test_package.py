"""The package as others meet it: numpy alone, a flat face, documented names, examples that run."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from attention_gate import reference

PUBLIC = [name for name in reference.__all__ if callable(getattr(reference, name))]


def test_import_loads_neither_torch_nor_the_rest_of_the_project():
    program = "import attention_gate.reference, sys; print(*sorted(sys.modules))"
    root = Path(reference.__file__).parents[1]
    answer = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=root)
    loaded = answer.stdout.split()
    assert {"attention_gate.reference", "numpy"} <= set(loaded)
    assert not {"torch", "attention_gate.impls", "attention_gate.verify", "hypothesis", "pytest", "scipy"} & set(loaded)


def test_all_is_what_is_there():
    assert sorted(reference.__all__) == sorted(
        name for name in vars(reference) if name.isidentifier() and not name.startswith("_")
    )


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name):
    first, *_ = getattr(reference, name).__doc__.splitlines()
    assert re.fullmatch(r"[A-Z].*[.:]|M\[h, i, j\], .*\.", first), (
        f"{name} must open with one sentence, opens with {first!r}"
    )


def test_documented_usages_run():
    """Every indented line of a public docstring that calls something, with inputs of fitting shapes."""
    generator = np.random.default_rng(0)
    shapes = {"query": (1, 7, 2, 3), "key": (1, 7, 1, 3), "value": (1, 7, 1, 4), "grad_out": (1, 7, 2, 4)}
    names = {"np": np, "reference": reference, **{name: getattr(reference, name) for name in reference.__all__}}
    names |= {name: generator.normal(size=shape) for name, shape in shapes.items()}
    ran = 0
    for name in PUBLIC:
        for usage in re.findall(r"\n\n((?: {8}.*\n)+)", getattr(reference, name).__doc__ or ""):
            exec(textwrap.dedent(usage), dict(names))
            ran += 1
    assert ran == len(PUBLIC) - len(
        ["Branch", "Gradients", "GradientsWithSink", "Options", "RowSource", "Rows", "Sampled"]
    )
    example, _, _ = reference.__doc__.partition("\n\n")[2].partition("The whole operator")
    exec(textwrap.dedent(example), {})


def test_documented_results():
    """Where a usage ends in a comment that is a list or a tuple, that is what it returns."""
    names = {name: getattr(reference, name) for name in reference.__all__}
    documented = [
        found
        for name in PUBLIC
        for found in re.findall(r"(?m)^ {8}(\S.*?) +# ([\[(].*)$", getattr(reference, name).__doc__ or "")
    ]
    assert len(documented) == 8
    for usage, result in documented:
        np.testing.assert_array_equal(eval(usage, names), eval(result, names), err_msg=usage)
