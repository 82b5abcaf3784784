"""Write the test, the tox environment and the GitHub Actions workflow that judge an implementation; they are yours."""

from __future__ import annotations

import argparse
import json
import re
from importlib import metadata
from pathlib import Path

from verify.cli import CONFORMS
from verify.replay import write_whole
from verify.target import parse_source

_TEST = '''"""The attention of this project against the float64 oracle, gradients included, on 1 to 4 ranks."""

{imports}


def test_attention_conforms():
    report = verify.check({target}, profile="quick")
    assert report.verdict == "pass", verify.text(report)
'''

_TOX = """[tox]
env_list = attention

"""

_ENVIRONMENT = """[testenv:attention]
{package}deps =
    {torch}
    {gate}
# More threads than cores make the ranks several times slower.
set_env = OMP_NUM_THREADS = 1
commands = attention-gate gate {target} --junit {{env_tmp_dir}}/attention.xml
"""

_WORKFLOW = """name: attention
on: [push, pull_request]

jobs:
  gate:
    runs-on: ubuntu-latest
    timeout-minutes: 20
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.11"
      - run: pip install {torch} --index-url https://download.pytorch.org/whl/cpu
      - run: pip install {gate}{project}
      - run: attention-gate gate {target} --junit attention.xml --save failures
        env:
          OMP_NUM_THREADS: "1"
      - uses: actions/upload-artifact@v4
        if: failure()
        with:
          name: attention-failures
          path: |
            attention.xml
            failures
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``init``."""
    parser.add_argument(
        "target", metavar="TARGET", help="module:name or path/to/file.py:name, as seen from the project's folder"
    )
    parser.add_argument("--folder", metavar="DIR", default=".", help="the project's folder (default: this one)")
    parser.epilog = "A file that is there already is left alone, and what belongs into it is printed."


def run(options: argparse.Namespace) -> int:
    """Write what is not there yet, say what was done."""
    target = options.target
    parse_source(target)
    if not re.fullmatch(r"[\w./:-]+", target):
        raise ValueError(f"target {target!r} has signs that would need quoting in tox.ini and in a workflow")
    folder = Path(options.folder)
    if not folder.is_dir():
        raise ValueError(f"the folder {options.folder} is not there")
    is_project = any((folder / name).is_file() for name in ("pyproject.toml", "setup.py"))
    gate, torch = _gate(), _torch()
    environment = _ENVIRONMENT.format(
        target=target, gate=gate, torch=torch, package="" if is_project else "package = skip\n"
    )
    workflow = _WORKFLOW.format(
        target=target, gate=f'"{gate}"' if " " in gate else gate, torch=torch, project=" ." if is_project else ""
    )
    _write(folder / "tests/test_attention.py", test := _test(target), test)
    _write(folder / "tox.ini", _TOX + environment, environment)
    _write(folder / ".github/workflows/attention.yml", workflow, workflow)
    place, _, name = target.rpartition(":")
    if place.endswith(".py") and not (folder / place).is_file():
        print(f"note: {folder / place} is not there yet; {name} belongs into it")
    if "file:" in gate:
        print("note: attention-gate was installed from this machine, where no other finds it: mend its line in tox.ini")
        print("      and in the workflow once it is where others can install it from")
    print(f"now: python -m pytest {folder / 'tests/test_attention.py'}, or tox, or one test for each check:")
    print(f"     pytest --pyargs verify --attention-target {target}")
    return CONFORMS


def _test(target: str) -> str:
    """The test; it finds a file from wherever it is run."""
    place, _, name = target.rpartition(":")
    if not place.endswith(".py") or Path(place).is_absolute():
        return _TEST.format(imports="import verify", target=f'"{target}"')
    imports = f'from pathlib import Path\n\nimport verify\n\nFILE = Path(__file__).parents[1] / "{place}"'
    return _TEST.format(imports=imports, target=f'f"{{FILE}}:{name}"')


def _gate() -> str:
    """What installs this very gate: its name, with the place that it was installed from unless that was an index."""
    try:
        origin = json.loads(metadata.distribution("attention-gate").read_text("direct_url.json") or "{}")
    except metadata.PackageNotFoundError:
        origin = {}
    if "url" not in origin:
        return "attention-gate"
    if (repository := origin.get("vcs_info")) is not None:
        return f"attention-gate @ {repository['vcs']}+{origin['url']}@{repository['commit_id']}"
    return f"attention-gate @ {origin['url']}"


def _torch() -> str:
    """The release of torch that is here, of whatever build, so that others judge with the same."""
    version = metadata.version("torch").partition("+")[0]
    return f"torch=={version}" if re.fullmatch(r"[\d.]+", version) else "torch"


def _write(path: Path, whole: str, part: str) -> None:
    """Write a whole file where there is none; print the part of it that belongs into one that is there."""
    if path.is_file() and path.read_text(errors="replace") == whole:
        print(f"{path} is there already")
        return
    if path.exists():
        print(f"{path} is there and left alone; what belongs into it:\n\n{part}")
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(str(path), whole)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from error
    print(f"wrote {path}")
