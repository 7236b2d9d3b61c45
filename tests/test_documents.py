"""What documents, docstrings and messages point to exists: pages, files, modules, tests and decision records."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "cardferry"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
CODE = sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("bench/**/*.py")])
#: Where a path in a text may begin; a room may be named without the way to it.
ROOTS = (ROOT, SOURCE, ROOT / "docs", ROOT / "tests")
#: What this project has, as a text names it.
_FILE = re.compile(r"[\w.-]+(?:/[\w.-]+)*\.(?:py|md|sh|svg|toml|service)")
_FOLDER = re.compile(
    r"(?:src|tests|docs|bench|contrib|scripts|cli|app|frontends|fleet|link|policy|manager)/(?:[\w-]+/)*"
)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_TEST = re.compile(r"\btest_\w+\b(?!\.py)")
_MODULE = re.compile(r"\bcardferry(?:\.(?!(?:service|fish)\b)\w+)+")
#: It is written by `bench.conformance`, and names the programs of pcsc-lite's own tests.
GENERATED = ROOT / "docs" / "conformance.md"
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def without_blocks(text: str) -> str:
    """A page without its examples."""
    return re.sub(r"^(```.*?^```|    .*?$)", "", text, flags=re.MULTILINE | re.DOTALL)


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@cache
def known_tests() -> frozenset[str]:
    """Names of all tests, and of the modules they are in."""
    found = [path.stem for path in CODE]
    for path in CODE:
        found += re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    return frozenset(found)


def exists(module: str) -> bool:
    """Whether that dotted name is a module, or something in one."""
    words = module.split(".")
    for size in range(len(words), 0, -1):
        try:
            thing: object = importlib.import_module(".".join(words[:size]))
        except ModuleNotFoundError:
            continue
        for word in words[size:]:
            thing = getattr(thing, word, None)
        return thing is not None
    return False


def missing_files(text: str, page: Path) -> Iterator[str]:
    for quoted in re.findall(r"`([^`\s]+)`", text):
        word = quoted.split("::")[0]
        if _FILE.fullmatch(word):
            known = any((root / word).is_file() for root in (page.parent, *ROOTS))
            if not known and not ("/" not in word and any(ROOT.glob(f"*/**/{word}"))):
                yield word
        elif _FOLDER.fullmatch(word) and not any((root / word).is_dir() for root in ROOTS):
            yield word


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_link_of_a_page_is_dead(page: Path) -> None:
    dead = []
    for target in _LINK.findall(page.read_text()):
        if "://" in target:
            continue
        path, _, part = target.partition("#")
        there = (page.parent / path) if path else page
        if not there.exists() or (part and part not in map(anchor, _HEADING.findall(there.read_text()))):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    if page != GENERATED:
        assert list(missing_files(without_blocks(text), page)) == []
    assert [test for test in _TEST.findall(text) if test not in known_tests()] == []
    assert [module for module in _MODULE.findall(without_blocks(text)) if not exists(module)] == []


def test_what_comments_and_messages_name_is_there() -> None:
    missing = {}
    for path in [*CODE, ROOT / "pyproject.toml"]:
        text = path.read_text()
        modules = re.findall(r"`(cardferry(?:\.\w+)+)`", text) if path.suffix == ".py" else _MODULE.findall(text)
        wrong = [module for module in modules if not exists(module)]
        wrong += [page for page in re.findall(r"\b(docs/[\w/-]+\.md)\b", text) if not (ROOT / page).is_file()]
        if wrong:
            missing[name(path)] = wrong
    assert missing == {}


def test_decision_records_that_are_named_are_there() -> None:
    named = {number for path in [*PAGES, *CODE] for number in re.findall(r"\bADR (\d+)\b", path.read_text())}
    assert [number for number in named if not list(ROOT.glob(f"docs/adr/{int(number):04}-*.md"))] == []


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    listed = {(ROOT / "docs" / target).resolve() for target in _LINK.findall(index)}
    pages = set(ROOT.glob("docs/**/*.md")) - {ROOT / "docs" / "README.md"}
    assert sorted(map(name, pages - listed)) == []


def test_the_rooms_are_named_where_a_newcomer_looks() -> None:
    rooms = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").is_file()} | {"bench"}
    rooms |= {path.name for path in SOURCE.glob("[a-z]*.py")}
    for page in ("CONTRIBUTING.md", "docs/architecture.md"):
        text = (ROOT / page).read_text()
        assert sorted(room for room in rooms if not re.search(rf"\b{re.escape(room)}[/`]", text)) == [], page


def test_each_threat_names_the_tests_that_hold_it() -> None:
    """Or says that there is none. That the tests exist is looked at above."""
    table = (ROOT / "docs" / "threat-model.md").read_text().partition("| threat | defence |")[2].partition("\n\n")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert rows
    assert not [row for row in rows if "`test_" not in row and "`tests/" not in row and "no test of ours" not in row]
