"""The cloud machines of one `E2BSandbox`, and the event loop that talks to the service about them.

Invariants: a machine is known from the moment the service told its name, and is killed when it is given up or
when the sandbox is closed; every machine has a lifetime that only a living host process extends, so that
nothing outlives a killed one for long. Whatever the SDK raises becomes a `SandboxError`.
"""

import asyncio
import os
import socket
import threading
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from palestra.envs.errors import MissingPrerequisiteError
from palestra.envs.sandbox.base import SandboxError

if TYPE_CHECKING:
    from e2b_code_interpreter import AsyncSandbox

GUEST = "palestra-guest.py"
"""The supervisor of executions, in the home folder of a machine's root."""
_GUEST_SOURCE = Path(__file__).with_name("e2b_guest.py")
SLOWEST_UPLOAD = 1_000_000
"""Bytes per second below which a transfer counts as failed."""
_CANCELLATIONS = 50
"""Times, 0.1 s apart, that what is waited for no longer is cancelled before it is left alone."""
_KEY_PAGE = "https://e2b.dev/dashboard?tab=keys"

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """Where the service is, and how to show who we are; None leaves the choice to the SDK."""

    api_key: str | None = field(default=None, repr=False)
    """Instead of the environment variable `E2B_API_KEY`."""
    api_url: str | None = None
    """Of the service that makes machines."""
    sandbox_url: str | None = None
    """Of all machines together, where they are not told apart by host name."""
    answer_limit_s: float = 30.0
    """Seconds after which an answer of the service counts as lost."""


@dataclass(slots=True, eq=False)
class Machine:
    """One cloud machine."""

    vm: "AsyncSandbox"
    executions: int = 0
    """How many were started in it."""


def bound_client(options: ConnectionOptions) -> "type[AsyncSandbox]":
    """Return the SDK's class, bound to `options`; nothing is sent.

    Raises:
        MissingPrerequisiteError: The SDK is not installed, or there is no key.
    """
    try:
        from e2b_code_interpreter import E2B
    except ImportError as error:
        raise MissingPrerequisiteError(
            "the sandbox 'e2b' needs the package e2b-code-interpreter; run: pip install e2b-code-interpreter"
        ) from error
    key = options.api_key or os.environ.get("E2B_API_KEY")
    if not key:
        raise MissingPrerequisiteError(
            f"the sandbox 'e2b' needs a key of the service; set E2B_API_KEY to one from {_KEY_PAGE}"
        )
    client: type[AsyncSandbox] = E2B(
        api_key=key,
        api_url=options.api_url,
        sandbox_url=options.sandbox_url,
        request_timeout=options.answer_limit_s,
    ).AsyncSandbox
    return client


async def ask(
    what: str, answer: Awaitable[_Answer], within: float | None, *, passed: tuple[type[Exception], ...] = ()
) -> _Answer:
    """Wait for an answer of the service.

    Args:
        what: What was asked of the service, for the error message.
        answer: A call of the SDK.
        within: Seconds; None where the caller has a deadline of its own.
        passed: Errors that are answers too; they are raised as they are.

    Raises:
        SandboxError: There was no answer in time, or it was another error.
        CancelledError: The caller's task was cancelled.
    """
    # A task of its own: the SDK may swallow a cancellation, tell it as an error of its own, and keep to no time limit.
    asked = asyncio.ensure_future(answer)
    try:
        done, _ = await asyncio.wait([asked], timeout=within)
    finally:
        await _end(asked)
    if not done:
        raise SandboxError(f"E2B did not {what} within {within:g} s")
    try:
        return asked.result()
    except passed:
        raise
    except Exception as error:  # the SDK raises several unrelated families, those of its HTTP client, and bare ones
        raise SandboxError(f"E2B could not {what}: {type(error).__name__}: {str(error).strip()[:500]}") from error


async def _end(asked: "asyncio.Future[Any]") -> None:
    """Cancel what is not done, and again until it ends: `asyncio.wait_for` of Python 3.11 can lose a cancellation."""
    for _ in range(_CANCELLATIONS):
        if asked.done():
            break
        asked.cancel()
        await asyncio.wait([asked], timeout=0.1)
    asked.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # lest asyncio complain


class Cloud:
    """Makes, keeps and kills machines. All methods but `submit` and `close` belong to the event loop."""

    def __init__(
        self, client: "type[AsyncSandbox]", template: str | None, *, limit: float, life: int, warm: int, keep: int
    ) -> None:
        """Prepare; nothing is sent before the first `submit`.

        Args:
            client: The SDK's class, bound to a connection.
            template: What machines are made from; None for the code interpreter's default.
            limit: Seconds that an answer may take.
            life: Seconds after which the service kills a machine that nobody extends.
            warm: How many machines to make ahead.
            keep: How many to keep for the next `take`, at least `warm`.
        """
        self.limit = limit
        self.replaced = 0
        """Machines that were lost."""
        self._pid = os.getpid()
        self._run = uuid.uuid4().hex
        self._marks = {"suite": "palestra", "run": self._run, "host": socket.gethostname(), "pid": str(self._pid)}
        self._client = client
        self._template = template
        self._life = life
        self._warm = warm
        self._keep = keep
        self._machines: set[Machine] = set()
        self._spare: deque[asyncio.Future[Machine]] = deque()
        self._making: set[asyncio.Task[Machine]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._calls: set[asyncio.Task[Any]] = set()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, work: Callable[[], Coroutine[Any, Any, _Answer]]) -> "Future[_Answer]":
        """Start `work` in the event loop; cancelling the future cancels it.

        The future fails with `SandboxError` where the sandbox is, or gets, closed.
        """
        with self._lock:
            if self._closed:
                failed: Future[_Answer] = Future()
                failed.set_exception(SandboxError("the sandbox is closed"))
                return failed
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_live, args=(self._loop,), name="palestra-e2b", daemon=True)
                self._thread.start()
                asyncio.run_coroutine_threadsafe(self._extend_lives(), self._loop)
            return asyncio.run_coroutine_threadsafe(self._call(work), self._loop)

    def call(self, work: Callable[[], Coroutine[Any, Any, _Answer]]) -> _Answer:
        """`submit` and wait; a caller that stops waiting (Ctrl-C) takes the work back."""
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Fail what is under way, kill all machines, and return when they are gone; twice is fine."""
        if os.getpid() != self._pid:
            return  # a fork of the process that the machines belong to
        with self._lock:
            closed, self._closed = self._closed, True  # before the calls are cancelled: they look at it
            if not closed and self._loop is not None:
                asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop)
        # The garbage collector may call this in the loop's own thread.
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    async def take(self, *, fresh: bool = False) -> Machine:
        """Return a machine for the caller alone.

        Args:
            fresh: Whether it has to be made now, because those that wait may have been lost.

        Raises:
            SandboxError: The service did not give one.
        """
        waiting = None if fresh else self._next_spare()
        making = waiting or self._make()
        try:
            machine = await asyncio.shield(making)
        except asyncio.CancelledError:
            self._spare.appendleft(making)
            self._balance()
            raise
        self._balance()
        return machine

    def give_back(self, machine: Machine) -> None:
        """Keep a machine for the next `take`."""
        done: asyncio.Future[Machine] = asyncio.get_running_loop().create_future()
        done.set_result(machine)
        self._spare.appendleft(done)
        self._balance()

    def give_up(self, machine: Machine, *, lost: bool = False) -> None:
        """Kill a machine; returns at once.

        Args:
            machine: One that `take` returned.
            lost: Whether it had failed.
        """
        if machine in self._machines:
            self._machines.remove(machine)
            self.replaced += lost
            self._start(self._kill(machine))

    def _next_spare(self) -> "asyncio.Future[Machine] | None":
        while self._spare:
            spare = self._spare.popleft()
            if not (spare.done() and spare.exception()):
                return spare
        return None

    def _balance(self) -> None:
        """Make spares that are missing, and end those that are too many."""
        while len(self._spare) < self._warm and not self._closed:
            self._spare.append(self._make())
        while len(self._spare) > self._keep:
            self._spare.pop().add_done_callback(self._not_wanted)

    def _not_wanted(self, made: "asyncio.Future[Machine]") -> None:
        if not made.exception():
            self.give_up(made.result())

    def _make(self) -> "asyncio.Task[Machine]":
        task = asyncio.create_task(self._create())
        self._making.add(task)
        task.add_done_callback(self._made)
        return task

    def _made(self, task: "asyncio.Task[Machine]") -> None:
        self._making.discard(task)
        task.exception()  # looked at, so that asyncio does not complain where nobody else came to do so

    async def _create(self) -> Machine:
        vm = await ask(
            "make a machine",
            self._client.create(
                template=self._template, timeout=self._life, metadata=self._marks, allow_internet_access=False
            ),
            # The SDK tries three times more after a refusal for too many requests.
            4 * self.limit,
        )
        machine = Machine(vm)
        self._machines.add(machine)
        try:
            await ask("take a file", vm.files.write(GUEST, _GUEST_SOURCE.read_bytes(), user="root"), self.limit)
        except SandboxError:
            self.give_up(machine, lost=True)
            raise
        return machine

    async def _kill(self, machine: Machine) -> None:
        try:
            await ask("kill a machine", machine.vm.kill(), self.limit)
        except SandboxError:
            pass  # its lifetime ends it

    async def _extend_lives(self) -> None:
        while True:
            await asyncio.sleep(self._life / 3)
            await asyncio.gather(*(self._extend(machine) for machine in self._machines))

    async def _extend(self, machine: Machine) -> None:
        try:
            await ask("extend a lifetime", machine.vm.set_timeout(self._life), self.limit)
        except SandboxError:
            for spare in self._spare:
                if spare.done() and not spare.exception() and spare.result() is machine:
                    self._spare.remove(spare)
                    self.give_up(machine, lost=True)
                    return

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(self, work: Callable[[], Coroutine[Any, Any, _Answer]]) -> _Answer:
        task = asyncio.current_task()
        assert task
        self._calls.add(task)
        try:
            return await work()
        except asyncio.CancelledError:
            if self._closed:
                raise SandboxError("the sandbox was closed") from None
            raise
        finally:
            self._calls.discard(task)

    async def _shut_down(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            for call in self._calls:
                call.cancel()
            await asyncio.gather(*self._calls, return_exceptions=True)
            # A creation is never given up: the machine might exist with nobody knowing its name.
            await asyncio.gather(*self._making, return_exceptions=True)
            for machine in tuple(self._machines):
                self.give_up(machine)
            await asyncio.gather(*self._tasks)
            await self._kill_unknown()
        finally:
            loop.stop()

    async def _kill_unknown(self) -> None:
        """Kill machines whose creation was told to have failed, or whose killing failed."""
        from e2b_code_interpreter import SandboxQuery

        try:
            pages = self._client.list(query=SandboxQuery(metadata={"run": self._run}))
            while pages.has_next:
                found = await ask("list machines", pages.next_items(), self.limit)
                kills = (ask("kill a machine", self._client.kill(one.sandbox_id), self.limit) for one in found)
                await asyncio.gather(*kills)
        except SandboxError:
            pass  # their lifetime ends them


def _live(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.set_exception_handler(_complain)
    loop.run_forever()
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def _complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Say what asyncio would say, but for streams of the SDK that were cancelled."""
    error = context.get("exception")
    if not (error and isinstance(error.__cause__, asyncio.CancelledError)):
        loop.default_exception_handler(context)
