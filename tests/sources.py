"""Sources as trees, for tests about what is written in them."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterable
from pathlib import Path


def parsed(paths: Iterable[Path]) -> dict[Path, ast.Module]:
    """Each of these modules.

    What other tests have left is collected first: when it is finalized in the middle of a parse, Python 3.11 may lose
    count of how deep it is (``SystemError: AST constructor recursion depth mismatch``).
    """
    gc.collect()
    return {path: ast.parse(path.read_text()) for path in paths}
