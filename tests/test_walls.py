"""What the walls of `lint-imports` do not see: circles, type-checking imports included, and words of one system."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.sources import parsed

_ROOT: Final = Path(__file__).resolve().parent.parent
#: Package -> its folder.
TREES: Final = {"cardferry": _ROOT / "src" / "cardferry", "bench": _ROOT / "bench", "tests": _ROOT / "tests"}
#: Runs by itself on another computer, which has nothing of cardferry yet.
ALONE: Final = "cardferry.app.install.receive"
#: What only `cardferry.system` may name.
ONLY_LINUX: Final = frozenset({"SO_PEERCRED", "SCM_RIGHTS", "O_PATH", "prctl", "send_fds", "recv_fds"})


def modules(package: str) -> dict[str, ast.Module]:
    """The modules of a tree, parsed, by their names."""
    found = {}
    for path, module in parsed(TREES[package].rglob("*.py")).items():
        parts = (package, *path.relative_to(TREES[package]).with_suffix("").parts)
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = module
    return found


def imported(module: ast.Module) -> Iterator[str]:
    """Each name that is imported anywhere in it: in functions, and for type checking only, as well."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not used here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports(package: str) -> dict[str, set[str]]:
    """Module -> those of its tree that it imports. A name in a package's ``__init__`` is that module's."""
    trees = modules(package)
    graph = {}
    for name, module in trees.items():
        whole = {one if one in trees else one.rpartition(".")[0] for one in imported(module)}
        graph[name] = (whole & trees.keys()) - {name}
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Sets of modules each of which leads back to itself: what is left when all that leads nowhere is taken away."""
    reached = {name: set(direct) for name, direct in graph.items()}
    grown = True
    while grown:
        grown = False
        for known in reached.values():
            more = set().union(*(reached[one] for one in known)) - known
            known.update(more)
            grown = grown or bool(more)
    found: list[set[str]] = []
    for name, known in reached.items():
        if name in known and not any(name in circle for circle in found):
            found.append({name} | {one for one in known if name in reached[one]})
    return found


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [{"b", "c"}]


@pytest.mark.parametrize("package", TREES)
def test_no_module_imports_itself_in_a_circle(package: str) -> None:
    assert circles(imports(package)) == []


def test_what_only_linux_has_is_in_one_room() -> None:
    for name, module in modules("cardferry").items():
        if name.startswith("cardferry.system") or name == ALONE:
            continue
        for node in ast.walk(module):
            if isinstance(node, ast.Attribute):
                assert node.attr not in ONLY_LINUX, f"{name}: {node.attr}"
            elif isinstance(node, ast.JoinedStr | ast.Constant):
                text = node.value if isinstance(node, ast.Constant) else getattr(node.values[0], "value", "")
                assert not (isinstance(text, str) and text.startswith("/proc")), f"{name}: {text}"
