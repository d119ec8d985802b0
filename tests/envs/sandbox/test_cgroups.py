import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from palestra.envs.sandbox.cgroups import ControlGroups
from palestra.envs.sandbox.inside.execution import Group

MEMORY = 64 << 20


@pytest.fixture(params=["one", "two"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Folders that look like the control groups of version one or two."""
    if request.param == "two":
        (tmp_path / "cgroup.controllers").write_text("memory pids", encoding="ascii")
        (tmp_path / "cgroup.subtree_control").write_text("", encoding="ascii")
    else:
        (tmp_path / "memory").mkdir()
        (tmp_path / "pids").mkdir()
    return tmp_path


def folders(root: Path) -> list[Path]:
    return sorted(root.rglob("palestra-*"))


def values(root: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="ascii") for folder in folders(root) for path in folder.iterdir()}


def test_a_group_limits_memory_and_tasks(mounted: Path) -> None:
    group = ControlGroups(MEMORY, 7, mounted).new()
    written = values(mounted)
    assert written["pids.max"] == "7"
    assert str(MEMORY) in (written.get("memory.max"), written.get("memory.limit_in_bytes"))
    assert all(Path(path).parent.is_dir() and path.endswith("cgroup.procs") for path in group.procs)


def test_groups_have_different_names(mounted: Path) -> None:
    groups = ControlGroups(MEMORY, 7, mounted)
    others = ControlGroups(MEMORY, 7, mounted)
    made = [path for source in (groups, groups, others) for path in source.new().procs]
    assert len(set(made)) == len(made)


def test_a_group_whose_processes_are_just_dying_is_removed(mounted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = ControlGroups(MEMORY, 7, mounted)
    made = {Path(path).parent for path in groups.new().procs}
    tries: list[Path] = []

    def rmdir(folder: Path) -> None:
        tries.append(folder)
        if tries.count(folder) < 3:
            raise OSError(errno.EBUSY, "processes are in it")
        shutil.rmtree(folder)  # the kernel's files go with their folder

    monkeypatch.setattr(Path, "rmdir", rmdir)
    groups.close()
    assert {folder: tries.count(folder) for folder in tries} == dict.fromkeys(made, 3)
    assert not any(folder.exists() for folder in made)


def leave(root: Path, name: str) -> list[Path]:
    parents = [root] if (root / "cgroup.controllers").exists() else [root / "memory", root / "pids"]
    left = [parent / name for parent in parents]
    for folder in left:
        folder.mkdir()
    return left


def started(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]


@pytest.fixture
def ended() -> tuple[int, str]:
    process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    name = process.pid, started(process.pid)
    process.communicate()
    return name


def test_what_a_dead_process_left_is_removed(mounted: Path, ended: tuple[int, str]) -> None:
    left = leave(mounted, f"palestra-{ended[0]}-{ended[1]}-abcdef12-3")
    ControlGroups(MEMORY, 7, mounted)
    assert not any(folder.exists() for folder in left)


def test_what_a_new_process_of_the_same_number_has_is_not_its(mounted: Path) -> None:
    left = leave(mounted, f"palestra-{os.getpid()}-1-abcdef12-3")
    ControlGroups(MEMORY, 7, mounted)
    assert not any(folder.exists() for folder in left)


@pytest.fixture
def living() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate()


def test_groups_of_a_living_process_stay(mounted: Path, living: int) -> None:
    left = leave(mounted, f"palestra-{living}-{started(living)}-abcdef12-3")
    left += leave(mounted, f"palestra-{os.getpid()}-{started(os.getpid())}-abcdef12-3")
    ControlGroups(MEMORY, 7, mounted)
    assert all(folder.exists() for folder in left)


@pytest.mark.parametrize("name", ["palestra-", "palestra-x", "palestra-x-y.scope", "palestra-train.slice"])
def test_groups_of_others_with_a_similar_name_stay_and_do_no_harm(mounted: Path, name: str) -> None:
    left = leave(mounted, name)
    ControlGroups(MEMORY, 7, mounted)
    assert all(folder.exists() for folder in left)


def test_no_right_to_make_groups_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        ControlGroups(MEMORY, 7, tmp_path / "nowhere")


def test_kills_are_counted_in_both_versions(tmp_path: Path) -> None:
    for text in ("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "low 0\nhigh 0\nmax 9\noom 1\noom_kill 3\n"):
        (tmp_path / "events").write_text(text, encoding="ascii")
        assert Group([], str(tmp_path / "events")).kills() == 3
    assert Group([], None).kills() == 0


@pytest.mark.sandbox
@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes control groups")
def test_real_groups_are_made_and_removed() -> None:
    groups = ControlGroups(MEMORY, 7)
    group = groups.new()
    assert group.kills() == 0
    assert all(os.access(path, os.W_OK) for path in group.procs)
    groups.close()
    groups.close()
    assert not any(os.path.exists(path) for path in group.procs)
