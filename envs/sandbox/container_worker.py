"""A worker in a container: requests and answers as authenticated frames over the container's standard streams."""

import json
import math
import secrets
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol

from palestra.envs.sandbox.base import Request, SandboxError, SessionEndedError
from palestra.envs.sandbox.inside.execution import (
    NEVER_RAN,
    Done,
    ExhaustedError,
    InfrastructureError,
    Outcome,
    RefusedError,
)
from palestra.envs.sandbox.inside.supervisor import GRACE_S, INTERRUPT_GRACE_S, START_LIMIT_S
from palestra.envs.sandbox.inside.wire import KEY_BYTES, TO_HOST, TO_RUNNER, Decoder, Encoder, Message, WireError
from palestra.envs.sandbox.worker import ENDED, Cancel, Worker, WorkerSession, nothing
from palestra.envs.sandbox.worker import START_LIMIT_S as WORKER_START_LIMIT_S

_SLACK_S = START_LIMIT_S + INTERRUPT_GRACE_S + 3 * GRACE_S
"""Seconds beyond its own time limit after which an answer is not waited for any longer."""


class Transport(Protocol):
    """A byte stream to a runner, and the power to end it."""

    def fileno(self) -> int:
        """Readable when there is something to receive."""

    def send(self, data: bytes) -> None:
        """Send all of it; OSError if the stream is broken or stalls."""

    def receive(self) -> bytes:
        """Some bytes; none at the end."""

    def errors(self) -> str:
        """The end of what the runner wrote to its standard error."""

    def exhausted(self, since: float) -> bool:
        """Whether it has ended for lack of memory, used up since that `time.time()`."""

    def kill(self) -> None:
        """End the runner and all it started."""

    def close(self) -> None:
        """End it, and release the streams."""


@dataclass(frozen=True)
class _Pending:
    answer: Callable[[Message | InfrastructureError], None]
    deadline: float
    since: float
    """Of `time.time()`."""


class ContainerWorker(Worker):
    """See the module docstring."""

    exclusive = True

    def __init__(self, transport: Transport, bundle: bytes) -> None:
        """Boot the runner and wait until it is ready.

        Args:
            transport: To a fresh interpreter that waits for `bundle`.
            bundle: What it is to run.

        Raises:
            SandboxError: It did not get ready; says what it wrote.
        """
        key = secrets.token_bytes(KEY_BYTES)
        self._transport = transport
        self._encoder = Encoder(key, TO_RUNNER)
        self._decoder = Decoder(key, TO_HOST)
        self._lock = threading.RLock()  # the end of a forgotten session may come in the middle
        self._sending = threading.Lock()  # of its own: while a send waits, answers must be read
        self._outbox: deque[tuple[int, dict[str, Any], bytes]] = deque()
        self._pending: dict[int, _Pending] = {}
        self._session: tuple[int, float] | None = None
        """Its number, and since when it is there (`time.time()`); None: nothing is left of any."""
        self._number = 0
        greeting: Future[Message] = Future()
        self._expect(0, lambda message: _resolve(greeting, message), WORKER_START_LIMIT_S)
        self._thread = threading.Thread(target=self._receive, name="palestra-container", daemon=True)
        self._wishes: SimpleQueue[None] = SimpleQueue()
        self._sender = threading.Thread(target=self._send_for_receiver, name="palestra-container-send", daemon=True)
        try:
            transport.send(bundle + key)
        except OSError as error:
            self._fail(f"the container took nothing: {error}")
        self._thread.start()
        self._sender.start()
        try:
            self._facts = json.dumps(greeting.result().header)
        except SandboxError:
            self.close()
            raise

    def run(self, request: Request, done: Done) -> Cancel:
        """Run a program."""
        header = {
            "op": "run",
            "timeout": request.timeout,
            "files": list(request.files),
            "sizes": [len(request.code), len(request.stdin), *map(len, request.files.values())],
        }
        body = b"".join((request.code, request.stdin, *request.files.values()))
        number = self.ask(header, body, _tell_outcome(done), request.timeout)
        return lambda: self.tell({"op": "kill", "target": number})

    def open(self, opened: Callable[[WorkerSession | InfrastructureError], None]) -> None:
        """Open a session."""

        def answered(answer: Message | InfrastructureError) -> None:
            if isinstance(answer, InfrastructureError):
                opened(answer)
                return
            self._session = answer.number, time.time()
            opened(_ContainerSession(self, answer.number))

        self.ask({"op": "open"}, b"", answered, 0)

    def close_session(self, number: int, closed: Callable[[], None]) -> None:
        """End a session; `closed` is called when nothing of it is left, or the container has failed."""

        def answered(answer: Message | InfrastructureError) -> None:
            # A close may come late, when another session is open.
            if not isinstance(answer, InfrastructureError) and self._session and self._session[0] == number:
                self._session = None
            closed()

        self.ask({"op": "close", "session": number}, b"", answered, 0)

    def facts(self) -> str:
        """JSON that describes what runs inside."""
        return self._facts

    def close(self) -> None:
        """End the container."""
        self._fail("the sandbox is closed")
        threads = (self._thread, self._sender)
        if threading.current_thread() not in threads and self._sender.ident is not None:
            for thread in threads:
                thread.join()
            self._transport.close()

    def ask(
        self,
        header: dict[str, Any],
        body: bytes,
        answer: Callable[[Message | InfrastructureError], None],
        timeout: float,
    ) -> int:
        """Send a request; `answer` is called once, at the latest some time after `timeout` seconds."""
        with self._lock:
            self._number = self._number % (2**32 - 1) + 1
            number = self._number
        self._expect(number, answer, timeout + _SLACK_S)
        self._send(number, header, body)
        return number

    def tell(self, header: dict[str, Any]) -> None:
        """Send something that has no answer."""
        self._send(0, header, b"")

    def _expect(self, number: int, answer: Callable[[Message | InfrastructureError], None], seconds: float) -> None:
        with self._lock:
            if self.failed is None:
                self._pending[number] = _Pending(answer, time.monotonic() + seconds, time.time())
                return
        answer(InfrastructureError(self.failed))

    def _send(self, number: int, header: dict[str, Any], body: bytes) -> None:
        """Send; what receives has that done, because a container that cannot tell anything takes nothing either."""
        self._outbox.append((number, header, body))
        if threading.current_thread() is self._thread:
            self._wishes.put(None)
        else:
            self._send_all()

    def _send_for_receiver(self) -> None:
        while self.failed is None:
            self._wishes.get()
            self._send_all()

    def _send_all(self) -> None:
        """Send, or leave it to whoever sends: this thread itself, where a forgotten session ends in the middle."""
        while self._outbox and self._sending.acquire(blocking=False):
            try:
                while self._outbox and self.failed is None:
                    self._transport.send(self._encoder.encode(*self._outbox.popleft()))
                if self.failed is not None:
                    self._outbox.clear()
            except OSError as error:
                self._lost(f"the container takes nothing any more ({error})")
            finally:
                self._sending.release()

    def _receive(self) -> None:
        poll = select.poll()
        poll.register(self._transport.fileno(), select.POLLIN)
        while self.failed is None:
            with self._lock:
                deadline = min((p.deadline for p in list(self._pending.values())), default=math.inf)
            wait = deadline - time.monotonic()
            if not poll.poll(1000 * max(0.0, min(wait, 1.0))):
                if wait <= 0:
                    self._fail("the container did not answer in time")
                continue
            data = self._transport.receive()
            if not data:
                self._lost("the container ended")
                return
            try:
                for message in self._decoder.feed(data):
                    self._take(message)
            except WireError as error:
                self._fail(f"the container sent {error}")

    def _lost(self, reason: str) -> None:
        """Give up a container that ended; its memory was all for the one execution, or the session, that it had."""
        with self._lock:
            said = self._transport.errors().strip()
            since = min((p.since for p in list(self._pending.values())), default=math.inf)
            if self._session is not None:
                since = self._session[1]
        if not said and self.failed is None and since < math.inf and self._transport.exhausted(since):
            self.ended_by_code = self._session is not None
            self._fail("the code used up the memory of what runs it", ExhaustedError)
        self._fail(f"{reason}: {said or 'it said nothing'}")

    def _take(self, message: Message) -> None:
        with self._lock:
            pending = self._pending.pop(message.number, None)
            if last := message.header.get("last"):  # told with the result, so that nobody sends it anything more
                self.ended_by_code = self._session is not None
                self.failed = self.failed or str(last)
        if pending is not None and "failure" not in message.header:
            pending.answer(message)
        elif pending is not None:
            pending.answer(InfrastructureError(message.header["failure"]))
        elif message.number == 0 and "failure" in message.header:
            self.ended_by_code = bool(message.header["by_code"])
            self._fail(message.header["failure"])
        else:
            self._fail("the container answered what nobody had asked")

    def _fail(self, reason: str, kind: type[InfrastructureError] = InfrastructureError) -> None:
        """Give up: everything under way fails, and the container is ended."""
        with self._lock:
            self.failed = self.failed or reason
            pending, self._pending = list(self._pending.values()), {}
        self._wishes.put(None)
        self._transport.kill()
        for item in pending:
            item.answer(kind(self.failed))


class _ContainerSession:
    """The session of a `ContainerWorker`."""

    def __init__(self, worker: ContainerWorker, number: int) -> None:
        self._worker = worker
        self._number = number

    def cell(self, request: Request, done: Done) -> None:
        """Run a cell."""
        header = {
            "op": "cell",
            "session": self._number,
            "timeout": request.timeout,
            "sizes": [len(request.code), len(request.stdin)],
        }
        body = request.code + request.stdin
        tell = _tell_outcome(done)

        def answered(answer: Message | InfrastructureError) -> None:
            if self._over(answer):
                done(NEVER_RAN)
            else:
                tell(answer)

        self._worker.ask(header, body, answered, request.timeout)

    def write(self, path: str, data: bytes) -> None:
        """Write a file."""
        self._file({"op": "write", "path": path}, data)

    def read(self, path: str, limit: int) -> bytes:
        """Read a file."""
        return self._file({"op": "read", "path": path, "limit": limit}).body

    def files(self) -> list[str]:
        """List the files."""
        return list(self._file({"op": "list"}).header["files"])

    def close(self, closed: Callable[[], None] = nothing) -> None:
        """End the session."""
        self._worker.close_session(self._number, closed)

    def _file(self, header: dict[str, Any], body: bytes = b"") -> Message:
        future: Future[Message] = Future()

        def answered(answer: Message | InfrastructureError) -> None:
            if isinstance(answer, ExhaustedError) or self._over(answer):
                future.set_exception(SessionEndedError(ENDED))
            else:
                _resolve(future, answer)

        self._worker.ask(header | {"session": self._number}, body, answered, 0)
        message = future.result()
        if "ended" in message.header:
            raise SessionEndedError(ENDED)
        if "missing" in message.header:
            raise FileNotFoundError(message.header["missing"])
        return message

    def _over(self, answer: Message | InfrastructureError) -> bool:
        """Whether nothing was done, because the session's code had ended what runs it."""
        lost = isinstance(answer, InfrastructureError) and not isinstance(answer, ExhaustedError)
        return lost and self._worker.ended_by_code


def _resolve(future: "Future[Message]", answer: Message | InfrastructureError) -> None:
    if isinstance(answer, InfrastructureError):
        future.set_exception(SandboxError(f"the sandbox failed: {answer}"))
    else:
        future.set_result(answer)


def _tell_outcome(done: Done) -> Callable[[Message | InfrastructureError], None]:
    """Make what takes the answer to an execution that begins now."""
    began = time.monotonic()

    def tell(answer: Message | InfrastructureError) -> None:
        if isinstance(answer, ExhaustedError):
            done(Outcome("memory", None, time.monotonic() - began, 0.0, b"", b""))
        else:
            done(_outcome(answer))

    return tell


def _outcome(answer: Message | InfrastructureError) -> Outcome | InfrastructureError:
    if isinstance(answer, InfrastructureError):
        return answer
    if "refused" in answer.header:
        return RefusedError(answer.header["refused"])
    header = answer.header
    try:
        split = header["stdout"]
        return Outcome(
            str(header["status"]),
            header["exit_code"],
            float(header["wall_s"]),
            float(header["cpu_s"]),
            answer.body[:split],
            answer.body[split:],
            bool(header["alive"]),
        )
    except (LookupError, TypeError, ValueError):
        return InfrastructureError("the container sent an answer that does not fit")
