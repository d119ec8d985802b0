"""The host's side of a container: whose doing its end was, and which session a request concerns."""

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from palestra.envs.sandbox.base import Request, SandboxError, SessionEndedError
from palestra.envs.sandbox.container_worker import ContainerWorker
from palestra.envs.sandbox.docker import DockerSandbox
from palestra.envs.sandbox.inside import wire
from palestra.envs.sandbox.inside.execution import InfrastructureError, Outcome
from palestra.envs.sandbox.worker import WorkerSession

if TYPE_CHECKING:
    from docker.client import DockerClient

REQUEST = Request(code=b"1", stdin=b"", files={}, timeout=5)
RESULT = {"status": "ok", "exit_code": 0, "wall_s": 0.1, "cpu_s": 0.1, "alive": True, "stdout": 0, "last": ""}
SHORT = """\
import os
for _ in range(3):
    if os.fork() == 0:
        kept = bytearray(b"x") * (900 << 20)
        os._exit(0)
print(any(os.waitstatus_to_exitcode(os.wait()[1]) == -9 for _ in range(3)))
"""


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
            else:
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


@pytest.mark.parametrize("cleared", [True, False])
def test_a_session_is_closed_when_nothing_of_it_is_left_or_nobody_can_say(cleared: bool) -> None:
    transport = Ended(out_of_memory=True, answers={"open": {}} | ({"close": {}} if cleared else {}))
    closed = threading.Event()
    with closing(ContainerWorker(transport, b"")) as worker:
        opened(worker).close(closed.set)
        assert closed.wait(10)
        assert (worker.failed is None) == cleared
        outcome = run(worker)
    if cleared:
        assert isinstance(outcome, Outcome)
        assert outcome.status == "memory"
    else:
        assert type(outcome) is InfrastructureError, "it has not run"


@pytest.mark.docker
def test_a_container_that_is_killed_from_outside_is_our_failure_whatever_its_code_has_used_up(
    daemon: "DockerClient",
) -> None:
    with DockerSandbox(at_once=1) as sandbox, sandbox.session() as session:
        assert session.run(SHORT, timeout=20).stdout == "True\n", "no process was killed for lack of memory"
        place = session._place  # type: ignore[attr-defined]
        daemon.api.kill(place.worker._transport.id)
        with pytest.raises(SandboxError) as raised:
            session.run("print(1)")
        assert not isinstance(raised.value, SessionEndedError)


@pytest.mark.docker
def test_much_may_go_both_ways_at_once(daemon: "DockerClient", in_thread: Callable[..., Any]) -> None:
    with DockerSandbox(at_once=1, containers=1) as sandbox, sandbox.session() as session:
        session.run("open('big', 'wb').write(bytes(16 << 20))")
        reading = in_thread(lambda: [len(session.read_file("big")) for _ in range(8)])
        cells = [session.submit("import sys; print(len(sys.stdin.read()))", stdin="x" * (8 << 20)) for _ in range(8)]
        assert [future.result(60).stdout for future in cells] == [f"{8 << 20}\n"] * 8
        assert reading.get(60) == [16 << 20] * 8
        assert sandbox.stats().failed == 0


@pytest.mark.docker
def test_what_comes_late_for_a_session_does_not_reach_the_next_one(daemon: "DockerClient") -> None:
    with DockerSandbox(at_once=1, containers=1) as sandbox, sandbox.session() as first:
        place, late = first._place, first._session  # type: ignore[attr-defined]
        first.close()
        second = sandbox.session()
        second.run("a = 5")
        with pytest.raises(SessionEndedError):
            late.write("late.py", b"")
        late.close()
        place.worker.tell({"op": "kill", "target": 10**6})
        assert cell(late).status == "ended"  # type: ignore[union-attr]
        assert second.list_files() == []
        assert second.run("a").stdout == "5\n"
