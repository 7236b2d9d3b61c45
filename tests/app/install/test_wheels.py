"""For another Python or processor, what is compiled is fetched; by a uv or pip that is faked here."""

from __future__ import annotations

from pathlib import Path

import pytest

from cardferry.app.install import wheels
from cardferry.app.install.own_files import Package
from cardferry.app.install.there import Python, SetupError

OTHER = Python("/usr/bin/python3", (3, 13, 5), "cpython-313-aarch64-linux-gnu", 41)
PACKAGES = [Package(name, "1.0", {}, pure=False) for name in ("uvloop", "msgspec")]
#: A uv that has one package in its cache, and gets another one from an index.
_UV = """\
#!/bin/sh
echo "$*" >> "${0%/*}/said"
while [ "$1" != --target ]; do shift; done
case "$*" in
    *uvloop==1.0*) ;;
    *msgspec==1.0) [ "$3" != --offline ] || exit 1 ;;
esac
[ ! -e "${0%/*}/empty" ] || { echo "there is no such wheel" >&2; exit 1; }
mkdir -p "$2/module" && echo compiled > "$2/module/module.so"
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tools"
    folder.mkdir()
    (folder / "uv").write_text(_UV)
    (folder / "uv").chmod(0o755)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr("shutil.which", lambda name: str(folder / name) if (folder / name).exists() else None)
    return folder


async def test_they_come_for_that_python_and_processor(tools: Path, tmp_path: Path) -> None:
    fetched = await wheels.fetch(PACKAGES, OTHER, tmp_path / "wheels")
    assert [(one.name, list(one.files)) for one in fetched] == [
        ("uvloop", ["module/module.so"]),
        ("msgspec", ["module/module.so"]),
    ]
    first = (tools / "said").read_text().splitlines()[0]
    assert "--python-version 3.13 " in first
    assert "--python-platform aarch64-manylinux_2_40 " in first
    assert "--offline" in first  # the cache comes before the index
    assert first.endswith("uvloop==1.0")


async def test_all_that_is_missing_is_named(tools: Path, tmp_path: Path) -> None:
    (tools / "empty").touch()
    with pytest.raises(SetupError) as error:
        await wheels.fetch(PACKAGES, OTHER, tmp_path / "wheels")
    assert error.value.message == (
        "not to be had for Python 3.13.5 (/usr/bin/python3) on aarch64: uvloop 1.0, msgspec 1.0 "
        "(there is no such wheel)"
    )
    (tools / "uv").unlink()
    with pytest.raises(SetupError) as error:
        await wheels.fetch(PACKAGES, OTHER, tmp_path / "wheels")
    assert "(there is neither uv nor pip here)" in error.value.message


def test_pip_is_told_each_platform_that_fits() -> None:
    platforms = wheels._pip_platforms(Python("", (3, 12), "cpython-312-x86_64-linux-gnu", 19))
    assert platforms == [
        "manylinux_2_19_x86_64",
        "manylinux_2_18_x86_64",
        "manylinux_2_17_x86_64",
        "manylinux2014_x86_64",
    ]
    alpine = Python("", (3, 12), "cpython-312-x86_64-linux-musl")
    assert wheels._pip_platforms(alpine)[0] == "musllinux_1_2_x86_64"
    assert wheels._uv_platform(alpine) == "x86_64-unknown-linux-musl"
