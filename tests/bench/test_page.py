from __future__ import annotations

from pathlib import Path

import pytest
from bench.page import PAGE, replace_section, write_section

_TEXT = "# Title\n\nProse.\n\n<!-- one -->\nold\n<!-- end of one -->\n\nMore.\n\n<!-- two -->\n<!-- end of two -->\n"


def test_a_section_is_replaced_and_nothing_else() -> None:
    replaced = replace_section(_TEXT, "one", "new \\1 {}\n")
    assert replaced == _TEXT.replace("\nold\n", "\n\nnew \\1 {}\n\n")
    assert replace_section(replaced, "one", "new \\1 {}") == replaced


def test_an_unknown_section_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 sections 'three'"):
        replace_section(_TEXT, "three", "new")


def test_a_section_is_written_to_its_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(_TEXT)
    write_section("two", "figures", page)
    assert "<!-- two -->\n\nfigures\n\n<!-- end of two -->" in page.read_text()


def test_the_page_of_the_documentation_has_the_section_that_is_written() -> None:
    replace_section(PAGE.read_text(), "the comparison", "")
