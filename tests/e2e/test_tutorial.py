"""docs/tutorials/first-env.md, step by step as a new user does it: its commands, its edits, its files."""

import os
import re
import shlex
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "first-env.md"
STEP = re.compile(r"(?:<!-- (?P<note>[^>]*) -->\n\n)?```(?P<kind>sh|diff|text)\n(?P<body>.*?)```", re.DOTALL)
MOST_EDITED = 20

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not PAGE.is_file(), reason="runs beside the source tree only"),
]


def steps() -> list[dict[str, str]]:
    return [match.groupdict(default="") for match in STEP.finditer(PAGE.read_text(encoding="utf-8"))]


def apply(diff: str, path: Path) -> int:
    """Apply hunks to the file, each where its old lines stand, once; return the number of lines added."""
    text, added = path.read_text(encoding="utf-8"), 0
    for hunk in re.split(r"^@@.*\n", diff, flags=re.MULTILINE):
        lines = hunk.splitlines()
        old = "".join(f"{line[1:]}\n" for line in lines if line[:1] in " -")
        new = "".join(f"{line[1:]}\n" for line in lines if line[:1] in " +")
        if lines:
            assert text.count(old) == 1, f"stands {text.count(old)} times:\n{old}"
            text = text.replace(old, new)
            added += sum(line.startswith("+") for line in lines)
    path.write_text(text, encoding="utf-8")
    return added


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """An environment of a new user: one where `pip install -e` may install, and which has Palestra."""
    venv.create(tmp_path / "venv", symlinks=True)
    packages = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    # A line of a .pth file that begins with `import` is executed; this one heeds the .pth files over there.
    others = "; ".join(f"site.addsitedir({path!r})" for path in site.getsitepackages())
    (packages / "palestra-under-test.pth").write_text(f"import site; {others}\n", encoding="utf-8")
    binaries = tmp_path / "venv" / "bin"
    for command in ("palestra", "pip"):
        script = f'#!/bin/sh\nexec "{binaries}/python" -m {command} "$@"\n'
        (binaries / command).write_text(script, encoding="utf-8")
        (binaries / command).chmod(0o755)
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_QUIET": "1"}
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **offline, "PATH": path, "PALESTRA_HOME": str(tmp_path / "home")}


@pytest.mark.timeout(1_200)  # a dozen processes, most of which load a model
def test_the_page_works_from_top_to_bottom(tmp_path: Path, shell: dict[str, str], organism: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    edited = ran = 0
    for step in steps():
        note, body = step["note"], step["body"]
        if step["kind"] == "diff":
            edited = max(edited, apply(body, work / "caesar" / "src" / "caesar.py"))
        elif note.startswith("file: "):
            (work / note.removeprefix("file: ")).write_text(body, encoding="utf-8")
        elif step["kind"] == "sh":
            for command in body.replace("string-atoms", str(organism)).splitlines():
                result = subprocess.run(
                    shlex.split(command), cwd=work, env=shell, capture_output=True, text=True, check=False
                )
                wanted = 1 if note.startswith("exits 1") else 0
                assert result.returncode == wanted, f"{command}\n{result.stdout}\n{result.stderr}"
                assert "Traceback" not in result.stderr
                assert note.partition("says: ")[2] in result.stdout, result.stdout
                ran += 1
    assert ran == 9
    assert 0 < edited <= MOST_EDITED
    assert (work / "episode.json").is_file()
    tests = [sys.executable.replace(sys.prefix, str(tmp_path / "venv")), "-m", "pytest", "-q", "caesar"]
    result = subprocess.run(tests, cwd=work, env=shell, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
