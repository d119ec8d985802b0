"""What is special to `local`: how it opens, what it says where it cannot, and what it leaves behind."""

import asyncio
import contextlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from palestra.envs.errors import UsageError
from palestra.envs.sandbox import IsolationUnavailableError, Limits, SessionEndedError, cgroups, layout, local
from palestra.envs.sandbox.cgroups import ControlGroups
from palestra.envs.sandbox.inside.execution import Child
from palestra.envs.sandbox.local import LocalSandbox

needs_sandbox = pytest.mark.sandbox
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root does this")


# Opening where something is missing.


def test_missing_bubblewrap_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(IsolationUnavailableError, match=r"bubblewrap \(bwrap\) was not found.*apt install bubblewrap"):
        LocalSandbox()


def test_nothing_weaker_is_used_but_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(IsolationUnavailableError, match="ask for 'unsafe-process' by name"):
        LocalSandbox()


def test_other_systems_are_told_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(IsolationUnavailableError, match="needs Linux"):
        LocalSandbox()


def test_other_machines_are_told_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(IsolationUnavailableError, match="x86-64 and aarch64 only"):
        LocalSandbox()


def fake(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text("#!/bin/sh\n" + text, encoding="utf-8")
    path.chmod(0o755)
    folder.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'bwrap: Unknown option --as-pid-1' >&2; exit 1", r"Unknown option.*bubblewrap 0\.8 or newer"),
        ("echo 'No permissions to create new namespace' >&2; exit 1", r"new namespace.*Allow unprivileged user"),
        ("exit 0", r"Allow unprivileged user"),
        ("exec sleep 0", r"Allow unprivileged user"),
    ],
)
def test_a_bubblewrap_that_fails_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    path = fake(tmp_path, "bwrap", script)
    found = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: str(path) if name == "bwrap" else found(name))
    with pytest.raises(IsolationUnavailableError, match=said):
        LocalSandbox()


def test_a_bubblewrap_that_isolates_nothing_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # no staging
    script = f"""
while [ "$1" != -- ]; do shift; done
shift 2
exec {sys.executable} "$@"
"""
    path = fake(tmp_path, "bwrap", script)
    monkeypatch.setattr(local, "_bubblewrap", lambda: str(path))
    with pytest.raises(IsolationUnavailableError, match="isolate"):
        LocalSandbox(Limits(processes=False))


def test_root_without_setpriv_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "setpriv" else found(name) or "/bin/true")
    with pytest.raises(IsolationUnavailableError, match="setpriv was not found.*util-linux"):
        LocalSandbox(Limits(processes=False))


def test_an_interpreter_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/true")
    with pytest.raises(IsolationUnavailableError, match="no interpreter was found"):
        LocalSandbox(Limits(processes=False))


def test_processes_without_control_groups_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(local, "ControlGroups", lambda memory, tasks: ControlGroups(memory, tasks, tmp_path / "none"))
    with pytest.raises(UsageError, match="control groups"):
        LocalSandbox(Limits(processes=True))


# What it is like inside.


@needs_sandbox
def test_code_is_never_run_as_root(descendants: Callable[[], set[int]]) -> None:
    before = descendants()
    with LocalSandbox() as sandbox:
        seen = sandbox.run("import os; print(os.getuid(), os.geteuid(), os.getgroups())").stdout
        running = sandbox.submit("import time; time.sleep(0.5)")
        time.sleep(0.2)
        users = {real_user(pid) for pid in descendants() - before}
        running.result()
    assert seen.startswith("65534 65534")
    assert users
    assert 0 not in users


def real_user(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return -1
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Uid:"))


@needs_sandbox
def test_the_host_names_are_not_seen(local: LocalSandbox) -> None:
    assert local.run("import os; print(os.uname().nodename)").stdout == "sandbox\n"


@needs_sandbox
def test_only_the_packages_that_are_named_are_there(local: LocalSandbox) -> None:
    code = (
        "import importlib\n"
        "for name in ('pytest', 'hypothesis', 'palestra.envs.core', 'palestra.eval', 'torch', 'pip'):\n"
        " try: importlib.import_module(name); print(name)\n"
        " except ImportError: pass"
    )
    assert local.run(code).stdout == ""


@needs_sandbox
@pytest.mark.parametrize(
    "module", ["ssl", "sqlite3", "multiprocessing.pool", "asyncio", "decimal", "zlib", "lzma", "uuid", "ctypes"]
)
def test_the_standard_library_works(local: LocalSandbox, module: str) -> None:
    result = local.run(f"import {module}; print(1)")
    assert result.stdout == "1\n", result


@needs_sandbox
def test_honest_programs_work(local: LocalSandbox) -> None:
    code = (
        "import asyncio, concurrent.futures, sqlite3, tempfile, subprocess, threading, os\n"
        "async def f(): await asyncio.sleep(0.01); return 1\n"
        "print(asyncio.run(f()))\n"
        "with concurrent.futures.ThreadPoolExecutor(8) as pool: print(sum(pool.map(int, '123')))\n"
        "c = sqlite3.connect(':memory:'); print(c.execute('select 7').fetchone()[0])\n"
        "with tempfile.TemporaryDirectory() as d: open(d + '/x', 'w').write('y'); print(os.listdir(d))\n"
        "open('/dev/null', 'w').write('x'); print(len(open('/dev/urandom', 'rb').read(4)))\n"
    )
    assert local.run(code).stdout == "1\n6\n7\n['x']\n4\n"


@needs_sandbox
def test_processes_work_where_they_are_allowed(local: LocalSandbox) -> None:
    if not local.processes:
        pytest.skip("new processes are refused here")
    code = (
        "import multiprocessing, subprocess, sys\n"
        "print(subprocess.run([sys.executable, '-c', 'print(5)'], capture_output=True, text=True).stdout.strip())\n"
        "if __name__ == '__main__':\n"
        " with multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(abs, [-1, -2]))\n"
    )
    result = local.run(code, timeout=20)
    assert result.stdout == "5\n[1, 2]\n", result


@needs_sandbox
def test_what_modules_want_called_around_a_fork_is_left_to_the_forks_of_the_code(local: LocalSandbox) -> None:
    """Were it called in every child, each would write to a quarter more pages before it runs anything."""
    code = (
        "import os, posix, random, sys, threading\n"
        "kept = sys.modules['palestra.envs.sandbox.inside'].at_fork\n"
        "print({f for functions in kept for f in functions.values()} >= {random._inst.seed, threading._after_fork})\n"
        "print(os.register_at_fork is posix.register_at_fork)"
    )
    assert local.run(code).stdout == "True\nTrue\n"


@needs_sandbox
def test_no_process_is_made_where_they_are_refused() -> None:
    code = (
        "import multiprocessing, os, subprocess\n"
        "for action in (os.fork, os.forkpty, lambda: os.posix_spawn('/opt/python/bin/python', ['p', '-c', ''], {}),\n"
        "               lambda: subprocess.Popen(['/opt/python/bin/python', '-c', '']),\n"
        "               lambda: multiprocessing.get_context('fork').Process(target=print).start()):\n"
        "    try: print('ESCAPED', action())\n"
        "    except OSError as error: print('refused')\n"
        "print(os.system('true'))"
    )
    with LocalSandbox(Limits(processes=False)) as sandbox:
        assert sandbox.describe()["processes"] == "one, with threads"
        assert sandbox.run(code).stdout in ("refused\n" * 5 + "-1\n", "refused\n" * 5 + f"{127 << 8}\n")


@needs_sandbox
@pytest.mark.parametrize("processes", [None, False])
def test_limits_are_those_that_were_asked_for(processes: bool | None) -> None:
    limits = Limits(memory_mib=200, tmp_mib=8, files=50, tasks=10, open_files=30, processes=processes)
    with LocalSandbox(limits) as sandbox:
        block = "x = bytearray(b'x') * ({} << 20); print(len(x) >> 20)"
        assert sandbox.run(block.format(100)).stdout == "100\n"
        assert sandbox.run(block.format(300)).status == "memory"
        files = "import os\nn = 0\ntry:\n while n < 500: open(f'{n}', 'w').close(); n += 1\nexcept OSError: print(n)"
        assert 40 <= int(sandbox.run(files).stdout) < 50
        threads = (
            "import threading, time\nn = 0\ntry:\n"
            " while n < 99: threading.Thread(target=time.sleep, args=(9,), daemon=True).start(); n += 1\n"
            "except RuntimeError: print(n)"
        )
        assert 5 <= int(sandbox.run(threads).stdout) < 10
        opened = "import os\nn = 0\ntry:\n while n < 99: os.dup(0); n += 1\nexcept OSError: print(n)"
        assert 20 <= int(sandbox.run(opened).stdout) < 30
        full = sandbox.run("open('x', 'wb').write(bytes(7 << 20)); open('y', 'wb').write(bytes(7 << 20))")
        assert "No space left" in full.stderr


# How the end of a program is told.

SILENT = "import os\nos.symlink('{}', '/tmp/.palestra-exit')\nos.closerange(0, 64)\n"
"""What our own code does at the end of a program, and any program may do at any time."""


@needs_sandbox
@pytest.mark.parametrize(("code", "status"), [("0", "ok"), ("7", "error"), ("113", "memory"), ("137", "killed")])
def test_a_program_that_forges_its_end_has_come_to_it(local: LocalSandbox, code: str, status: str) -> None:
    forged = local.run(SILENT.format(code) + "while True: pass", timeout=60)
    honest = local.run(f"import os; os._exit({code})")
    assert (forged.status, forged.exit_code) == (honest.status, honest.exit_code) == (status, int(code))


@needs_sandbox
@pytest.mark.parametrize("note", ["256", "-1", "00", "0\n", "ok", "x" * 4000])
def test_a_forged_end_that_is_none_is_not_heard(local: LocalSandbox, note: str) -> None:
    result = local.run(SILENT.format("{}").replace("'{}'", repr(note)) + "os._exit(5)")
    assert (result.status, result.exit_code) == ("error", 5)


@needs_sandbox
def test_a_note_without_silence_is_not_heard(local: LocalSandbox) -> None:
    code = "import os, time\nos.symlink('7', '/tmp/.palestra-exit')\nos.close(1)\ntime.sleep(0.2)\nos.write(2, b'on')"
    result = local.run(code + "\nos.unlink('/tmp/.palestra-exit')")
    assert (result.status, result.exit_code, result.stderr) == ("ok", 0, "on")


@needs_sandbox
def test_an_end_without_room_for_the_note_is_told(local: LocalSandbox) -> None:
    code = "try:\n for n in range(10**5): open(f'/tmp/{n}', 'w').close()\nexcept OSError: print('full')\n"
    result = local.run(code + "raise SystemExit(3)", timeout=60)
    assert (result.status, result.exit_code, result.stdout) == ("error", 3, "full\n")


@needs_sandbox
def test_a_thread_that_forges_the_end_ends_the_program(local: LocalSandbox) -> None:
    code = f"import threading\ndef forge():\n exec({SILENT.format(4)!r})\n while True: pass\n"
    result = local.run(code + "threading.Thread(target=forge).start()\nwhile True: pass", timeout=60)
    assert (result.status, result.exit_code) == ("error", 4)
    assert local.run("print(1)").stdout == "1\n"


@needs_sandbox
def test_what_a_program_has_forked_does_not_tell_its_end(local: LocalSandbox) -> None:
    if not local.processes:
        pytest.skip("new processes are refused here")
    code = "import os, sys\nif os.fork() == 0: raise SystemExit(9)\nprint(os.wait()[1] >> 8)\nsys.exit(4)"
    result = local.run(code)
    assert (result.status, result.exit_code, result.stdout) == ("error", 4, "9\n")


@needs_sandbox
@pytest.mark.parametrize("fork_after", ["pass", "if os.fork(): time.sleep(60)"])
def test_no_process_of_a_program_is_left_when_its_end_is_told(local: LocalSandbox, fork_after: str) -> None:
    if not local.processes:
        pytest.skip("new processes are refused here")
    name = f"left{os.getpid()}"
    code = (
        f"import ctypes, os, time\nctypes.CDLL(None).prctl(15, b'{name}')\n"
        "for _ in range(3):\n"
        " if os.fork() == 0:\n"
        "  os.closerange(0, 64)\n"
        "  time.sleep(60)\n"
        "ctypes.CDLL(None).prctl(15, b'first')\n" + SILENT.format(0) + fork_after
    )
    for _ in range(5):
        assert local.run(code, timeout=60).status == "ok"
        assert name not in names()


def names() -> list[str]:
    """The names of all processes, but for the dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = path.read_text(encoding="utf-8", errors="replace").partition(" (")[2].rpartition(") ")
            if rest[0] not in "ZX":
                found.append(name)
    return found


@needs_sandbox
def test_the_time_of_processes_that_a_program_waited_for_is_counted(local: LocalSandbox) -> None:
    if not local.processes:
        pytest.skip("new processes are refused here")
    code = "import os, time\nif os.fork() == 0:\n while time.process_time() < 0.2: pass\n os._exit(0)\nos.wait()"
    assert local.run(code, timeout=60).cpu_s > 0.15


@needs_sandbox
def test_that_time_is_counted_also_if_the_program_is_collected_while_its_time_is_read(
    local: LocalSandbox, wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not local.processes:
        pytest.skip("new processes are refused here")
    read = Child.cpu_now_us

    def read_and_wait(child: Child) -> int:
        us = read(child)
        if child.noted is not None:
            wait_until(lambda: not os.path.exists(f"/proc/{child.pid}"))
        return us

    monkeypatch.setattr(Child, "cpu_now_us", read_and_wait)
    code = "import os, time\nif os.fork() == 0:\n while time.process_time() < 0.2: pass\n os._exit(0)\nos.wait()"
    assert local.run(code, timeout=60).cpu_s > 0.15


@needs_sandbox
def test_programs_that_are_told_early_leave_nothing(
    local: LocalSandbox, descendants: Callable[[], set[int]], wait_until: Callable[..., None]
) -> None:
    before = -1
    while before != (before := len(descendants())):
        time.sleep(0.05)  # spares are still being made
    opened = len(os.listdir("/proc/self/fd"))
    for result in local.run_many(["x = bytearray(b'x') * (20 << 20); print(1)"] * 40, timeout=60):
        assert result.stdout == "1\n"
    wait_until(lambda: len(descendants()) <= before)
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= opened)


# Many at once.


@needs_sandbox
def test_more_sessions_than_processors() -> None:
    with LocalSandbox(at_once=2) as sandbox, contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(sandbox.session()) for _ in range(20)]

        async def run() -> list[str]:
            results = await asyncio.gather(*(s.arun(f"a = {n}; a") for n, s in enumerate(sessions)))
            return [result.stdout for result in results]

        assert asyncio.run(run()) == [f"{n}\n" for n in range(20)]
        sessions[3].run("import os; os._exit(1)")
        with pytest.raises(SessionEndedError):
            sessions[3].run("1")
        assert sessions[4].run("a").stdout == "4\n"


@needs_sandbox
def test_several_workers_share_the_load() -> None:
    with LocalSandbox(at_once=20) as sandbox:
        results = sandbox.run_many(["import time; time.sleep(0.3); print(1)"] * 40, timeout=30)
        assert [result.stdout for result in results] == ["1\n"] * 40


# What it leaves.


@needs_sandbox
def test_nothing_is_left_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    mounts, groups = Path("/proc/self/mountinfo").read_text(encoding="utf-8"), groups_of(os.getpid())
    with LocalSandbox() as sandbox:
        sandbox.run("open('mine', 'w').write('x')")
        with sandbox.session() as session:
            session.write_file("a", b"x")
        sandbox.run("import time; time.sleep(60)", timeout=0.2)
    assert Path("/proc/self/mountinfo").read_text(encoding="utf-8") == mounts
    assert list(tmp_path.iterdir()) == []
    assert groups_of(os.getpid()) == groups


def groups_of(pid: int) -> set[str]:
    return {path.name for path in Path("/sys/fs/cgroup").glob(f"**/palestra-{pid}-*")}


@needs_sandbox
@as_root
def test_groups_of_a_killed_process_are_removed_by_the_next() -> None:
    code = (
        "import time\nfrom palestra.envs.sandbox import *\ns = open_sandbox(); print('up', flush=True); time.sleep(99)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    made = groups_of(process.pid)
    process.kill()
    process.wait()
    process.stdout.close()
    assert made
    deadline = time.monotonic() + 3
    while groups_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
        cgroups._remove_abandoned([Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup/pids")])
    assert not groups_of(process.pid)


@needs_sandbox
@as_root
def test_the_staged_interpreter_is_seen_by_nobody_else() -> None:
    launcher = layout.Launcher(os.path.realpath(str(shutil.which("bwrap"))), [])
    try:
        assert "/opt/bwrap" in launcher.command()
        assert not os.path.exists("/opt/bwrap")
    finally:
        launcher.close()
        launcher.close()


@needs_sandbox
@pytest.mark.parametrize("seed", range(3))
def test_garbage_from_a_session_ends_only_that_session(local: LocalSandbox, seed: int) -> None:
    noise = (
        f"import os, random, socket\nrandom.seed({seed})\n"
        "for _ in range(300):\n"
        " for n in range(3, 10):\n"
        "  junk = random.randbytes(random.randrange(60)), b'D' + random.randbytes(5), b'R', bytes(5000)\n"
        "  try: os.write(n, random.choice(junk))\n"
        "  except OSError: pass\n"
    )
    before = local.stats()
    with local.session() as other:
        other.run("a = 1")
        for _ in range(10):
            with local.session() as session, contextlib.suppress(SessionEndedError):
                for _ in range(4):
                    session.run(noise, timeout=5)
            assert local.run("print(1)").stdout == "1\n"
        assert other.run("a").stdout == "1\n"
    after = local.stats()
    assert (after.failed, after.retried, after.workers_replaced) == (
        before.failed,
        before.retried,
        before.workers_replaced,
    )
