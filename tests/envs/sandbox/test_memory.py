"""Where code uses up the memory: what runs it must not be a part of what is dropped, and the code pays if it ends."""

import ctypes
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from palestra.envs.sandbox.base import Request, SessionEndedError
from palestra.envs.sandbox.container_worker import ContainerWorker
from palestra.envs.sandbox.docker import DockerSandbox
from palestra.envs.sandbox.inside import jail, wire
from palestra.envs.sandbox.inside.execution import InfrastructureError, Outcome
from palestra.envs.sandbox.worker import WorkerSession

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


RESULT = {"status": "ok", "exit_code": 0, "wall_s": 0.1, "cpu_s": 0.1, "alive": True, "stdout": 0, "last": ""}


class Ended:
    """The stream to a container that ends, without a word, as soon as it was asked what `answers` does not name."""

    def __init__(
        self, *, said: str = "", out_of_memory: bool, answers: dict[str, dict[str, Any]] | None = None
    ) -> None:
        self.said = said
        self.out_of_memory = out_of_memory
        self.answers = answers or {}
        self.asked: list[float] = []
        self._ours, self._theirs = socket.socketpair()
        self._coders: tuple[wire.Encoder, wire.Decoder] | None = None

    def fileno(self) -> int:
        return self._ours.fileno()

    def send(self, data: bytes) -> None:
        if self._coders is None:
            key = data[-wire.KEY_BYTES :]
            self._coders = wire.Encoder(key, wire.TO_HOST), wire.Decoder(key, wire.TO_RUNNER)
            self.say(0, {})
            return
        for number, header, _ in self._coders[1].feed(data):
            if header["op"] not in self.answers:
                self._theirs.close()
            elif header["op"] != "close":
                self.say(number, self.answers[header["op"]])

    def say(self, number: int, header: dict[str, Any]) -> None:
        assert self._coders is not None
        self._theirs.sendall(self._coders[0].encode(number, header, b""))

    def receive(self) -> bytes:
        return self._ours.recv(65536)

    def errors(self) -> str:
        return self.said

    def exhausted(self, since: float) -> bool:
        self.asked.append(since)
        return self.out_of_memory

    def kill(self) -> None:
        self._theirs.close()

    def close(self) -> None:
        self._ours.close()


REQUEST = Request(code=b"1", stdin=b"", files={}, timeout=5)


def run(worker: ContainerWorker) -> Outcome | InfrastructureError:
    outcome: Future[Outcome | InfrastructureError] = Future()
    worker.run(REQUEST, outcome.set_result)
    return outcome.result(10)


def opened(worker: ContainerWorker) -> WorkerSession:
    session: Future[WorkerSession | InfrastructureError] = Future()
    worker.open(session.set_result)
    made = session.result(10)
    assert not isinstance(made, InfrastructureError)
    return made


def cell(session: WorkerSession) -> Outcome | InfrastructureError:
    outcome: Future[Outcome | InfrastructureError] = Future()
    session.cell(REQUEST, outcome.set_result)
    return outcome.result(10)


def end(transport: Ended) -> Outcome | InfrastructureError:
    with closing(ContainerWorker(transport, b"")) as worker:
        return run(worker)


def test_code_pays_for_a_container_that_ended_for_lack_of_memory() -> None:
    before = time.time()
    transport = Ended(out_of_memory=True)
    outcome = end(transport)
    assert isinstance(outcome, Outcome)
    assert (outcome.status, outcome.exit_code, outcome.alive) == ("memory", None, False)
    assert before <= transport.asked[0] <= time.time()


@pytest.mark.parametrize("transport", [{"out_of_memory": False}, {"said": "Traceback", "out_of_memory": True}])
def test_code_does_not_pay_for_a_container_that_ended_otherwise(transport: dict[str, Any]) -> None:
    outcome = end(Ended(**transport))
    assert type(outcome) is InfrastructureError
    assert str(outcome) == f"the container ended: {transport.get('said', 'it said nothing')}"


@pytest.mark.parametrize("how", ["memory", "zygote", "zygote during a cell"])
def test_a_session_whose_code_ended_its_container_has_ended(how: str, wait_until: Callable[..., None]) -> None:
    transport = Ended(out_of_memory=how == "memory", answers={"open": {}, "cell": RESULT})
    with closing(ContainerWorker(transport, b"")) as worker:
        session = opened(worker)
        if how == "memory":
            transport._theirs.close()
        elif how == "zygote":
            transport.say(0, {"failure": "the zygote ended", "by_code": True})
        else:
            transport.answers["cell"] = RESULT | {"last": "the code ended what forks"}
            assert isinstance(cell(session), Outcome)
        wait_until(lambda: worker.failed)
        assert worker.ended_by_code
        outcome = cell(session)
        assert isinstance(outcome, Outcome)
        assert outcome.status == "ended"
        with pytest.raises(SessionEndedError):
            session.files()


def test_a_cell_pays_for_the_memory_that_its_session_uses_up() -> None:
    with closing(ContainerWorker(Ended(out_of_memory=True, answers={"open": {}}), b"")) as worker:
        outcome = cell(opened(worker))
    assert isinstance(outcome, Outcome)
    assert (outcome.status, outcome.alive) == ("memory", False)


def test_a_file_of_a_session_that_used_up_the_memory_is_gone() -> None:
    with closing(ContainerWorker(Ended(out_of_memory=True, answers={"open": {}}), b"")) as worker:
        session = opened(worker)
        with pytest.raises(SessionEndedError):
            session.read("a", 1)


def test_a_failure_that_no_code_has_to_do_with_is_ours(wait_until: Callable[..., None]) -> None:
    transport = Ended(out_of_memory=True, answers={"open": {}})
    with closing(ContainerWorker(transport, b"")) as worker:
        session = opened(worker)
        transport.say(0, {"failure": "the zygote ended", "by_code": False})
        wait_until(lambda: worker.failed)
        assert type(cell(session)) is InfrastructureError
        assert not worker.ended_by_code


def test_a_program_does_not_pay_for_what_a_session_before_it_has_left() -> None:
    transport = Ended(out_of_memory=True, answers={"open": {}, "close": {}})
    with closing(ContainerWorker(transport, b"")) as worker:
        opened(worker).close()
        assert type(run(worker)) is InfrastructureError
        assert not worker.ended_by_code


def test_a_program_pays_again_once_the_one_before_it_was_cleared_away() -> None:
    transport = Ended(out_of_memory=True, answers={"open": {}, "close": {}, "run": RESULT})
    with closing(ContainerWorker(transport, b"")) as worker:
        opened(worker).close()
        assert isinstance(run(worker), Outcome)
        del transport.answers["run"]
        outcome = run(worker)
    assert isinstance(outcome, Outcome)
    assert outcome.status == "memory"


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
