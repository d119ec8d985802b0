"""Where code uses up the memory: what runs it must not be a part of what is dropped."""

import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from palestra.envs.sandbox.docker import DockerSandbox
from palestra.envs.sandbox.inside import jail

if TYPE_CHECKING:
    from docker.client import DockerClient

HOLD = """\
import json, mmap, re
from palestra.envs.sandbox.inside import jail

def mapped():
    pages, copied, wanted = {}, True, False
    with open("/proc/self/smaps") as file:
        for line in file:
            if re.match("[0-9a-f]+-", line):
                addresses, rights, _, _, _, *name = line.split()
                wanted = bool(name) and name[0].startswith("/") and rights[0] == "r" and rights[3] == "p"
                start, end = (int(address, 16) for address in addresses.split("-"))
                if wanted:
                    pages |= dict.fromkeys(range(start, end, mmap.PAGESIZE), f"{rights} {name[0]}")
            elif wanted and line.startswith("Anonymous:"):
                copied &= int(line.split()[1]) * 1024 == end - start
    return pages, copied

before, copied_before = mapped()
held = jail.hold_program()
after, copied = mapped()
print(json.dumps([held, len(before) * mmap.PAGESIZE, copied_before, copied, before.items() <= after.items()]))
"""
FULL = """\
import os
program = '''
import os, socket, time
os.nice(5)
kept = []
try:
    while True:
        pair = socket.socketpair()
        kept.append(pair)
        for end in pair:
            end.setblocking(False)
            try:
                while True:
                    end.send(b"x" * 32768)
            except BlockingIOError:
                pass
except OSError:
    pass
time.sleep(30)
'''
for _ in range(50):
    if os.fork() == 0:
        break
os.execv("/proc/self/exe", ["python3", "-I", "-S", "-c", program])
"""
"""Fills the memory with what belongs to the kernel: only pages of files are left to be dropped."""


def test_a_program_is_copied_out_of_its_files_and_keeps_its_rights() -> None:
    ran = subprocess.run([sys.executable, "-c", HOLD], capture_output=True, text=True, check=True, timeout=60)
    held, size, copied_before, copied, as_before = json.loads(ran.stdout)
    if not held:
        pytest.skip("the kernel cannot do that (Linux before 5.14)")
    assert size > 4 << 20
    assert (copied_before, copied, as_before) == (False, True, True)


def test_a_kernel_that_cannot_copy_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        mprotect = staticmethod(lambda *_: 0)
        madvise = staticmethod(lambda *_: -1)

    monkeypatch.setattr(jail, "_libc", Old())
    assert jail.hold_program() is False


@pytest.fixture
def container(daemon: "DockerClient") -> Iterator[DockerSandbox]:
    """A container that is the first to read the files of its image since they were dropped: their pages are its own.

    Pages of files that others have mapped are not dropped, though: only by itself the test below is sharp.
    """
    ctypes.CDLL(None).sync()
    Path("/proc/sys/vm/drop_caches").write_text("1", encoding="ascii")
    with DockerSandbox(at_once=1) as sandbox:
        yield sandbox


@pytest.mark.docker
@pytest.mark.skipif(os.geteuid() != 0, reason="the cache of files is dropped for it")
def test_code_that_fills_the_memory_does_not_keep_a_container_from_answering(container: DockerSandbox) -> None:
    result = container.run(FULL, timeout=5)
    assert result.status in ("memory", "timeout"), result
    assert result.wall_s < 5 + 3
    assert container.run("print(1)").stdout == "1\n"
    stats = container.stats()
    assert (stats.retried, stats.workers_replaced, stats.last_failure) == (0, 0, ""), stats


@pytest.mark.docker
@pytest.mark.skipif(os.geteuid() != 0, reason="another user's memory is looked at")
def test_what_runs_code_in_a_container_has_no_page_that_can_be_dropped(
    daemon: "DockerClient", container: DockerSandbox
) -> None:
    assert container.describe()["full memory"].startswith("does not")
    (place,) = container._places
    pid = daemon.api.inspect_container(place.worker._transport.id)["State"]["Pid"]
    smaps = Path(f"/proc/{pid}/smaps")
    if not smaps.exists():
        pytest.skip("the daemon is not on this machine")
    areas = re.findall(
        r"^[0-9a-f-]+ r..p \S+ \S+ [1-9]\d* .*\nSize: +(\d+) kB\n(?:.*\n)*?Anonymous: +(\d+) kB",
        smaps.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert len(areas) > 20
    assert all(size == anonymous for size, anonymous in areas), areas
