"""The hints of the product, as its source has them: those that ``docs/hints.md`` must list.

``python -m tests.hints`` prints the rows that the page lacks; how each was tried is for you to write.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.sources import parsed

SOURCE: Final = Path(__file__).parent.parent / "src" / "cardferry"
#: Functions that take a hint -> which of their arguments it is, counted from 0.
_FUNCTIONS: Final = {"_symptom": 3, "problem": 2, "note": 2, "make": 2, "kind": 1, "_fail": 1}
#: Parameters and variables that are hints, or parts of them.
_NAMES: Final = ("hint", "elsewhere", "shorter", "mend", "again", "how_to_join")
#: Functions that return hints.
_MAKERS: Final = (
    "missing_hint",
    "restart_hint",
    "silent_hint",
    "by_itself",
    "who_is_in_the_way",
    "how_to_start",
    "how_to_come_in",
    "quotes_hint",
)
_BROKEN: Final = re.compile(r"\{\w+\}")


def hints() -> dict[str, str]:
    """Each text that is a hint, or a part of one, and the file that has it first; what is put in later is ``...``."""
    trees = parsed(sorted(SOURCE.rglob("*.py")))
    functions = _FUNCTIONS | dict.fromkeys(_user_errors(list(trees.values())), 1)
    found: dict[str, str] = {}
    for path, tree in trees.items():
        constants = dict(_constants(tree))
        for node in ast.walk(tree):
            for expression in _expressions(node, functions):
                for text in _texts(expression, constants):
                    found.setdefault(text, str(path.relative_to(SOURCE)))
    return found


def _user_errors(trees: list[ast.Module]) -> set[str]:
    """The names of `UserError` and of all classes that come from it."""
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    own_words = {
        node.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any(getattr(one, "name", "") == "__init__" for one in node.body)
    } - {"UserError"}
    found, before = {"UserError"}, 0
    while before != len(found):
        before = len(found)
        found |= {name for name, its in bases.items() if its & found}
    return found - own_words


def _constants(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value


def _expressions(node: ast.AST, functions: Mapping[str, int]) -> Iterator[ast.expr]:
    """What is a hint in this node."""
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "__init__":  # of an error that makes its own words
            name = "UserError" if ast.unparse(node.func) == "super().__init__" and len(node.args) == 2 else ""
        if name in functions:
            yield from node.args[functions[name] : functions[name] + 1]
        yield from (keyword.value for keyword in node.keywords if keyword.arg in _NAMES)
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            yield from _assigned(target, node.value)
    elif isinstance(node, ast.AugAssign):
        yield from _assigned(node.target, node.value)
    elif isinstance(node, ast.FunctionDef) and node.name in _MAKERS:
        yield from (inner.value for inner in ast.walk(node) if isinstance(inner, ast.Return) and inner.value)


def _assigned(target: ast.expr, value: ast.expr) -> Iterator[ast.expr]:
    if isinstance(target, ast.Name) and target.id.lower().strip("_") in _NAMES:
        yield value
    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for one, its in zip(target.elts, value.elts, strict=True):
            yield from _assigned(one, its)


def _texts(node: ast.expr, constants: Mapping[str, ast.expr]) -> Iterator[str]:
    """The texts that an expression can be."""
    match node:
        case ast.IfExp():
            yield from _texts(node.body, constants)
            yield from _texts(node.orelse, constants)
        case ast.BinOp():
            yield from _texts(node.left, constants)
            yield from _texts(node.right, constants)
        case ast.BoolOp():
            for part in node.values:
                yield from _texts(part, constants)
        case ast.Name() if node.id in constants:
            yield from _texts(constants[node.id], constants)
        case ast.Subscript():
            yield from _texts(node.value, constants)
        case ast.Call(func=ast.Attribute(value=template, attr="format")):
            yield from _texts(template, constants)
        case ast.Call(func=ast.Attribute(value=table, attr="get")):
            yield from _texts(table, constants)
            yield from _texts(node.args[1], constants)
        case ast.Dict():
            for value in node.values:
                yield from _texts(value, constants)
        case ast.Constant() if isinstance(node.value, str):
            yield from _worth(_BROKEN.sub("...", node.value))
        case ast.JoinedStr():
            yield from _worth(
                "".join(str(one.value) if isinstance(one, ast.Constant) else "..." for one in node.values)
            )


def _worth(text: str) -> Iterator[str]:
    if len(text.replace("...", "").split()) > 1:
        yield " ".join(text.split())


if __name__ == "__main__":
    page = (SOURCE.parents[1] / "docs" / "hints.md").read_text()
    for hint, where in hints().items():
        if f"| {hint} |" not in page:
            print(f"| {hint} | `{where}` | HOW WAS IT TRIED? |")
