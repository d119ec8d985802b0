"""What executions may take of the processors, and from whom."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from palestra.envs.sandbox import Sandbox
from palestra.envs.sandbox.inside.scheduling import can_give_way, has_autogroups, in_words, is_contained

ISOLATED = [pytest.param("local", marks=pytest.mark.sandbox), pytest.param("docker", marks=pytest.mark.docker)]
OLD = "9:pids:/\n2:cpu,cpuacct:{path}\n0::/elsewhere\n"
NEW = "0::{path}\n"
TAKE = """\
import os
print(os.sched_getscheduler(0) == os.SCHED_IDLE)
for policy, priority in ((os.SCHED_OTHER, 0), (os.SCHED_BATCH, 0), (os.SCHED_RR, 1), (os.SCHED_FIFO, 1)):
    try:
        os.sched_setscheduler(0, policy, os.sched_param(priority))
        print("taken", policy)
    except PermissionError:
        pass
if os.fork() == 0:
    os.setsid()
    print(os.sched_getscheduler(0) == os.SCHED_IDLE)
    os._exit(0)
os.wait()
"""
WITHOUT = """\
import os, struct, sys
from palestra.envs.sandbox import open_sandbox
from palestra.envs.sandbox.inside import jail, scheduling
number = {"x86_64": 144, "aarch64": 119}[sys.argv[1]]  # of sched_setscheduler
steps = ((0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | 1), (0x06, 0, 0, 0x7FFF0000))
jail._prctl(38, 1)  # PR_SET_NO_NEW_PRIVS, which a filter needs
jail.install_filter(b"".join(struct.pack("<HBBI", *step) for step in steps))
print(scheduling.can_give_way())
with open_sandbox("local") as sandbox:
    print(sandbox.describe()["processors"])
    print(sandbox.run("import os; print(os.sched_getscheduler(0) == os.SCHED_OTHER)").stdout, end="")
"""
"""Runs where the kernel refuses the policy, as one that is not Linux may in a container."""
BENCH = Path(__file__).parents[3] / "bench"


def tree(root: Path, files: dict[str, str]) -> Path:
    root.mkdir()
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def autogroups(path: Path, groups: dict[str, str], cgroup: str, enabled: str = "1\n") -> bool:
    proc = tree(path / "proc", {"sys/kernel/sched_autogroup_enabled": enabled, "self/cgroup": cgroup})
    return has_autogroups(tree(path / "groups", groups), proc)


@pytest.mark.parametrize(
    ("groups", "cgroup"),
    [
        pytest.param({"cpu/release_agent": "", "cpu/cpu.shares": ""}, OLD.format(path="/"), id="version 1"),
        pytest.param({"cgroup.controllers": "cpu"}, NEW.format(path="/"), id="version 2"),
        pytest.param({"cgroup.controllers": "cpu", "a/b/cgroup.type": ""}, NEW.format(path="/a/b"), id="no cpu there"),
        pytest.param({}, "", id="no control groups"),
    ],
)
def test_sessions_have_their_share_at_the_top(groups: dict[str, str], cgroup: str, tmp_path: Path) -> None:
    assert autogroups(tmp_path, groups, cgroup)


@pytest.mark.parametrize(
    ("groups", "cgroup"),
    [
        pytest.param({"cpu/release_agent": ""}, OLD.format(path="/a"), id="version 1, below"),
        pytest.param({"cpu/cpu.shares": ""}, OLD.format(path="/"), id="version 1, container"),
        pytest.param({"a/cpu.weight": ""}, NEW.format(path="/a"), id="version 2, below"),
        pytest.param({"a/cpu.weight": "", "a/b/c/d": ""}, NEW.format(path="/a/b/c"), id="version 2, far below"),
        pytest.param({"cpu.weight": "", "cgroup.type": ""}, NEW.format(path="/"), id="version 2, container"),
        pytest.param({"cgroup.type": ""}, NEW.format(path="/"), id="version 2, container, nobody knows"),
    ],
)
def test_sessions_have_none_in_a_control_group(groups: dict[str, str], cgroup: str, tmp_path: Path) -> None:
    assert not autogroups(tmp_path, groups, cgroup)


def test_sessions_have_none_where_that_is_switched_off_or_unknown(tmp_path: Path) -> None:
    assert not autogroups(tmp_path, {}, NEW.format(path="/"), enabled="0\n")
    assert not has_autogroups(tmp_path / "groups", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("groups", "contained"),
    [
        ({"cpu.weight": "", "cgroup.type": ""}, True),
        ({"cpu/cpu.shares": ""}, True),
        ({"cpu/cpu.shares": "", "cpu/release_agent": ""}, False),
        ({"cgroup.controllers": "cpu"}, False),
        ({}, False),
    ],
)
def test_a_container_is_told_by_its_control_group(groups: dict[str, str], contained: bool, tmp_path: Path) -> None:
    assert is_contained(tree(tmp_path / "groups", groups)) is contained


@pytest.fixture(params=ISOLATED)
def yielding(request: pytest.FixtureRequest, opened: Callable[[str], Sandbox]) -> Sandbox:
    """A sandbox whose code gives way."""
    sandbox = opened(request.param)
    if sandbox.describe()["processors"] != in_words(True):
        pytest.skip("here executions have no share of their own")
    return sandbox


@pytest.mark.skipif(sys.platform != "linux", reason="a policy of Linux")
def test_linux_lets_processes_give_way_and_the_one_that_asks_does_not() -> None:
    assert can_give_way()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_code_gives_way_and_cannot_take_that_back(yielding: Sandbox) -> None:
    assert yielding.run(TAKE).stdout == "True\nTrue\n"


@pytest.mark.sandbox
def test_where_the_kernel_does_not_let_code_give_way_it_runs_all_the_same_and_that_is_said(
    opened: Callable[[str], Sandbox],
) -> None:
    opened("local")  # skips where none works
    command = [sys.executable, "-c", WITHOUT, platform.machine()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.stderr, result.stdout) == ("", f"False\n{in_words(False)}\nTrue\n")


@pytest.fixture
def starving(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    return import_module("sandbox_starving")


def test_nobody_waits_for_a_processor_because_code_burns_them(
    yielding: Sandbox, clock: Callable[[], float], starving: Any
) -> None:
    """On Linux 6.18 this kept normal processes from both processors for seconds, in many tries."""
    with starving.Witness() as witness:
        began, at = time.monotonic(), clock()
        result = yielding.run(starving.BURN, timeout=8)
        took, awake = time.monotonic() - began, clock() - at
    paused = took - awake
    assert result.status == "timeout"
    assert witness.waited_s <= 1.5 + paused
    assert took <= 9.5 + paused


@pytest.mark.sandbox
def test_code_that_computes_beside_others_has_its_share(opened: Callable[[str], Sandbox]) -> None:
    sandbox = opened("local")
    code = "import time\nwhile time.process_time() < 0.5: pass"
    burners = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
        for _ in range(2 * (os.cpu_count() or 1))
    ]
    try:
        time.sleep(0.3)
        assert sandbox.run(code, timeout=20).status == "ok"
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
