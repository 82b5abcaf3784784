"""Mechanical mutants of a module: one small change each, by a fixed list of operators.

- a comparison is shifted or turned: < and <=, > and >=, == and !=, is and is not, in and not in;
- an arithmetic operator becomes its neighbour: + and -, * and /, // and *, % and //, ** and *, & and |;
- and becomes or, not is dropped, a unary minus is dropped, a condition (if, while, conditional expression,
  comprehension) is turned;
- a number grows by one, True and False change places;
- min and max, any and all, amin and amax, zeros and ones, eq and ne change places;
- a statement goes: a call whose result nobody takes, an augmented assignment, a raise, a return of a value early in a
  function (not its last statement), an assignment to an element;
- a keyword argument of a call is left out.

Docstrings, strings, annotations and decorators stay as they are, and so does `strict` of a zip: it asserts, as who
wrote it believed, that there is nothing to change.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_NAMES = {"min": "max", "any": "all", "amin": "amax"}
_NAMES |= {"zeros": "ones", "new_zeros": "new_ones", "zeros_like": "ones_like"}
_NAMES |= {after: before for before, after in _NAMES.items()}


@dataclass(frozen=True)
class Mutant:
    """One change: where, what the source said there, what it says instead, and the whole module after it."""

    file: str
    function: str
    line: int
    before: str
    after: str
    source: str

    @property
    def sources(self) -> dict[str, str]:
        """What it makes of which files."""
        return {self.file: self.source}

    @property
    def key(self) -> str:
        """What stays the same when other lines of the file change."""
        return f"{self.file} {self.function}: {self.before} -> {self.after}"


def mutants(file: str, source: str) -> Iterator[Mutant]:
    """Every mutant of a module, in the order of its source."""
    tree = ast.parse(source)
    seen: dict[str, int] = {}
    for function, parent, field, index, node in _places(tree, "module"):
        for changed in _changes(node, parent, field):
            before, after = _shown(node), _shown(changed)
            if before == after:
                continue
            mutated = _replaced(tree, parent, field, index, changed)
            key = f"{function}: {before} -> {after}"
            seen[key] = seen.get(key, 0) + 1
            mark = f" (#{seen[key]})" if seen[key] > 1 else ""
            yield Mutant(file, function, getattr(node, "lineno", 0), before, after + mark, mutated)


def _places(node: ast.AST, function: str) -> Iterator[tuple[str, ast.AST, str, int | None, ast.AST]]:
    """Every node that may change, with where it hangs."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "bases", "type_comment"):
            continue
        children = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        for index, child in children:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):
                continue
            if isinstance(child, ast.keyword) and _asserts(node, child):
                continue
            if isinstance(child, ast.Raise):
                yield function, node, field, index, child  # its message is no matter of mutation
                continue
            inner = function
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = child.name if function == "module" else f"{function}.{child.name}"
            yield function, node, field, index, child
            yield from _places(child, inner)


def _changes(node: ast.AST, parent: ast.AST, field: str) -> Iterator[ast.AST]:
    if isinstance(node, ast.Compare):
        for k, operator in enumerate(node.ops):
            yield _with(node, ops=[*node.ops[:k], _COMPARISONS[type(operator)](), *node.ops[k + 1 :]])
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _ARITHMETIC:
        yield _with(node, op=_ARITHMETIC[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield _with(node, op=ast.And() if isinstance(node.op, ast.Or) else ast.Or())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        yield node.operand
    elif isinstance(node, ast.Constant) and not isinstance(parent, ast.Expr):
        if isinstance(node.value, bool):
            yield _with(node, value=not node.value)
        elif isinstance(node.value, int | float):
            yield _with(node, value=node.value + 1)
    elif isinstance(node, ast.Name) and node.id in _NAMES:
        yield _with(node, id=_NAMES[node.id])
    elif isinstance(node, ast.Attribute) and node.attr in _NAMES:
        yield _with(node, attr=_NAMES[node.attr])
    if isinstance(node, ast.expr) and field in ("test", "ifs") and not isinstance(node, ast.Compare | ast.UnaryOp):
        yield ast.UnaryOp(ast.Not(), node)
    if isinstance(node, ast.Call):
        for k, keyword in enumerate(node.keywords):
            if not _asserts(node, keyword):
                yield _with(node, keywords=[*node.keywords[:k], *node.keywords[k + 1 :]])
    gone = (
        (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
        or isinstance(node, ast.AugAssign | ast.Raise)
        or (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript | ast.Attribute))
        or (isinstance(node, ast.Return) and isinstance(parent, ast.If))
    )
    if gone:
        yield ast.Pass()


def _asserts(node: ast.AST, keyword: ast.keyword) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "zip" and keyword.arg == "strict"


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _replaced(tree: ast.Module, parent: ast.AST, field: str, index: int | None, changed: ast.AST) -> str:
    """The module's source with one node replaced; the tree itself stays as it was."""
    value = getattr(parent, field)
    if index is None:
        setattr(parent, field, changed)
    else:
        setattr(parent, field, [*value[:index], changed, *value[index + 1 :]])
    try:
        return ast.unparse(ast.fix_missing_locations(tree))
    finally:
        setattr(parent, field, value)


def _shown(node: ast.AST) -> str:
    text = " ".join(ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).split())
    return text if len(text) <= 110 else text[:107] + "..."
