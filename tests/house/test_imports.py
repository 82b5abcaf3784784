"""The laws of imports: who may import whom, the order of the folders, no circles, nothing heavy before it is needed."""

import ast
import importlib
import importlib.util
import pkgutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("reference", "impls", "verify")

#: What each package may import besides the standard library and itself.
MAY_IMPORT = {
    "reference": {"numpy"},
    "impls": {"torch"},
    "verify": {
        "reference",
        "numpy",
        "torch",
        "hypothesis",
        "msgspec",
        "jinja2",
        "markupsafe",
        "matplotlib",
        "pytest",
    },
}

#: The folders of verify in the way of an example: each imports only itself and those before it.
ORDER = (
    "target",
    "case",
    "rank",
    "world",
    "network",
    "judge",
    "long",
    "checks",
    "explain",
    "run",
    "report",
    "compare",
    "mutants",
    "commands",
)

#: Files beside the folders, which may import all of them.
ENTRIES = {"__init__", "__main__", "pytest_plugin"}

#: Files that may import more, and why.
EXCEPTIONS: dict[str, set[str]] = {
    # It comes with torch's CUDA builds and is imported on a GPU alone.
    "impls.fused.triton_kernels": {"triton"},
    # Imported where there is a terminal alone; without it there are plain lines.
    "verify.report.coloured": {"rich"},
    "verify.report.live_table": {"rich"},
}


@cache
def files(package):
    """All Python files of a package."""
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path):
    """The module that a file is."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path, *, deferred=True):
    """Full names that a file imports, those of the project as ``verify.case.case``.

    Without ``deferred`` not those in functions nor those for the type checker, which no program waits for.
    """
    tree = ast.parse(path.read_text())
    found = set()

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not deferred:
            return
        if isinstance(node, ast.FunctionDef) and not deferred:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return {name.removeprefix("attention_gate.") for name in found}


@pytest.mark.parametrize("path", [path for package in PACKAGES for path in files(package)], ids=name_of)
def test_a_package_imports_only_what_it_may(path):
    package = path.relative_to(ROOT).parts[0]
    allowed = MAY_IMPORT[package] | {package} | set(sys.stdlib_module_names) | EXCEPTIONS.get(name_of(path), set())
    assert {name.partition(".")[0] for name in imported(path) if name != "attention_gate"} - allowed == set()


def test_the_judge_never_names_the_judged_in_its_imports():
    """Not by a function of importlib either."""
    for path in files("verify"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                assert "impls" not in ast.unparse(node), path


@pytest.mark.parametrize("package", PACKAGES)
def test_the_project_is_imported_by_its_one_name(package):
    """Never as a top-level ``verify``, which a user's project may have as well."""
    for path in files(package):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} & set(PACKAGES) == set(), f"{path}:{node.lineno}"


def folder(name):
    """The place in ORDER of the folder that a module of verify is in; the last of all for the entries."""
    first = name.removeprefix("verify").removeprefix(".").partition(".")[0]
    assert first in ORDER or (first or "__init__") in ENTRIES, f"{name} is in no folder of the order"
    return ORDER.index(first) if first in ORDER else len(ORDER)


@pytest.mark.parametrize("path", files("verify"), ids=name_of)
def test_folders_import_only_those_before_them(path):
    later = [name for name in imported(path) if name.startswith("verify.") and folder(name) > folder(name_of(path))]
    assert later == []


def test_every_base_name_is_there_once():
    names = [path.stem for package in PACKAGES for path in files(package) if path.stem not in ("__init__", "__main__")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_there_are_no_circles(package):
    modules = {name_of(path): path for path in files(package)}

    def targets(name):
        wanted = set()
        for full in imported(modules[name]):
            while full and full not in modules:
                full = full.rpartition(".")[0]
            if full and full != name and full != package:
                wanted.add(full)
        return wanted

    graph = {name: targets(name) for name in modules}
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in sorted(graph[name]):
            visit(other)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_can_be_imported(package):
    for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
        there = all(importlib.util.find_spec(name) for name in EXCEPTIONS.get(module.name, ()))
        if there and not module.name.endswith("__main__"):
            importlib.import_module(f"attention_gate.{module.name}")


def loaded_by(statement):
    """The modules that a fresh interpreter has after a statement."""
    code = f"import sys\n{statement}\nprint(' '.join(sorted(sys.modules)))"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.split()
    )


#: Tables on terminals and plots: imported where they are drawn, never in ranks.
DRAWING = {"rich", "matplotlib"}
HEAVY = {"torch", "numpy", "hypothesis", "pytest", "msgspec"}
OURS = tuple(f"attention_gate.{package}" for package in PACKAGES)


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import attention_gate", HEAVY | {*OURS}),
        ("import attention_gate.reference", (HEAVY | {*OURS}) - {"numpy", "attention_gate.reference"}),
        ("import attention_gate.impls", {"hypothesis", "pytest", *OURS} - {"attention_gate.impls"}),
        ("import attention_gate.verify", HEAVY | {"attention_gate.reference", "attention_gate.impls"}),
        ("import attention_gate.verify.pytest_plugin", (HEAVY | {"attention_gate.impls"}) - {"pytest"}),
        ("import attention_gate.verify.commands.command_line", HEAVY | {"attention_gate.impls"}),
        ("import attention_gate; attention_gate.check", {"attention_gate.impls", "pytest"} | DRAWING),
        ("import attention_gate.verify.rank.worker", DRAWING),
        ("import attention_gate.verify.world.preload", DRAWING),
        ("import attention_gate.verify.commands.gate, attention_gate.verify.commands.outputs", DRAWING),
    ],
)
def test_an_import_loads_no_more_than_it_needs(statement, absent):
    assert loaded_by(statement) & absent == set()
