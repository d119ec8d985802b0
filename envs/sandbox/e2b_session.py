"""A session of the sandbox `e2b`: a code context of the interpreter in a cloud machine of its own.

The machine ends with the session. Cells are wrapped by `e2b_cell.py`, which lives in the interpreter, so whatever
a cell reports about itself may be made up by an earlier one; only time and the amount of output are taken here.
"""

import asyncio
import base64
import json
import secrets
import shlex
import time
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from palestra.envs.sandbox.base import (
    DEFAULT_TIMEOUT_S,
    KEPT_BYTES,
    MAX_FILE_BYTES,
    MAX_OUTPUT_BYTES,
    ExecResult,
    SandboxError,
    SandboxStats,
    Session,
    SessionEndedError,
    Status,
    check_path,
    make_request,
)
from palestra.envs.sandbox.e2b_cloud import GUEST, SLOWEST_UPLOAD, Cloud, Machine, ask

if TYPE_CHECKING:
    from e2b_code_interpreter import Context, Execution, FileType, OutputMessage

INTERRUPT_GRACE_S = 2.0
"""Seconds that an interrupted cell has to come to its end with its state kept; a way over the internet and back."""
_CELL_SOURCE = Path(__file__).with_name("e2b_cell.py")
_FOLDER = "session"
_STATUSES: dict[str, Status] = {"ok": "ok", "error": "error", "memory": "memory"}

_Result = TypeVar("_Result")


class _FloodError(Exception):
    """A cell wrote more than anything honest does."""


class _Output:
    """What a running cell wrote, without the token that told that it started."""

    def __init__(self, token: str) -> None:
        self.started = asyncio.Event()
        self.kept = {False: bytearray(), True: bytearray()}
        self._total = {False: 0, True: 0}
        self._token = token.encode("ascii")

    def take(self, message: "OutputMessage") -> None:
        """Take a piece of output."""
        data = message.line.encode("utf-8", "replace")
        if not self.started.is_set() and not message.error and self._token in data:
            data = data.replace(self._token, b"", 1)
            self.started.set()
        self._total[message.error] += len(data)
        self.kept[message.error] += data[: KEPT_BYTES - len(self.kept[message.error])]
        if self._total[message.error] > MAX_OUTPUT_BYTES:
            raise _FloodError

    def texts(self) -> tuple[str, str]:
        """Standard output and standard error so far."""
        return self.kept[False].decode("utf-8", "replace"), self.kept[True].decode("utf-8", "replace")


async def open_session(cloud: Cloud, machine: Machine, stats: SandboxStats, memory: int) -> "E2BSession":
    """Start an interpreter in a machine, which from then on belongs to the session.

    Args:
        cloud: That the machine belongs to.
        machine: A fresh one.
        stats: Where cells are counted.
        memory: Bytes that the interpreter may take beyond what it takes at its start.

    Raises:
        SandboxError: The service failed.
    """
    vm = machine.vm
    await ask("make a folder", vm.files.make_dir(_FOLDER), cloud.limit)
    folder = (await ask("find a folder", vm.files.get_info(_FOLDER), cloud.limit)).path
    context = await ask("start an interpreter", vm.create_code_context(cwd=folder), cloud.limit)
    setup = (
        f"import sys, types; palestra_cell = sys.modules['palestra_cell'] = types.ModuleType('palestra_cell')\n"
        f"exec(compile({ascii(_CELL_SOURCE.read_text('utf-8'))}, 'palestra_cell', 'exec'), palestra_cell.__dict__)\n"
        f"palestra_cell.prepare({memory})"
    )
    done = await ask("prepare an interpreter", vm.run_code(setup, context=context, timeout=0), cloud.limit)
    if done.error is not None:
        raise SandboxError(f"an interpreter of E2B could not be prepared: {done.error.name}: {done.error.value}")
    return E2BSession(cloud, machine, stats, folder, context)


class E2BSession(Session):
    """See `Session`; made by `open_session`."""

    def __init__(self, cloud: Cloud, machine: Machine, stats: SandboxStats, folder: str, context: "Context") -> None:
        self._cloud = cloud
        self._machine = machine
        self._stats = stats
        self._folder = folder
        self._context = context
        self._turn = asyncio.Lock()
        self._call: asyncio.Task[Execution] | None = None
        self._alive = True

    @property
    def alive(self) -> bool:
        """Whether another cell can run."""
        return self._alive

    def submit(self, code: str, *, stdin: str = "", timeout: float = DEFAULT_TIMEOUT_S) -> "Future[ExecResult]":
        """Start a cell; cancelling the future ends the session."""
        request = make_request(code, stdin, timeout, {})
        if isinstance(request, ExecResult):
            future: Future[ExecResult] = Future()
            future.set_result(request)
            return future
        return self._cloud.submit(lambda: self._cell(code, stdin, timeout))

    def write_file(self, path: str, data: bytes) -> None:
        """Write a file; see `Session.write_file`."""
        check_path(path)
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"a file may have {MAX_FILE_BYTES >> 20} MiB")
        self._do(lambda: self._write(path, data))

    def read_file(self, path: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """Return the first bytes of a regular file; see `Session.read_file`."""
        check_path(path)
        return self._do(lambda: self._read(path, max_bytes))

    def list_files(self) -> list[str]:
        """Return the relative paths of all regular files; see `Session.list_files`."""
        return self._do(self._list)

    def close(self) -> None:
        """End the session, at once, and have its machine killed."""
        try:
            self._cloud.call(self._end)
        except SandboxError:
            self._alive = False  # its machine ended with the sandbox

    def _do(self, work: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
        """Do something with the session's files between two cells."""

        async def in_turn() -> _Result:
            async with self._turn:
                self._check_alive()
                try:
                    return await work()
                except SandboxError as error:
                    self._lose(error)
                    raise

        return self._cloud.call(in_turn)

    def _check_alive(self) -> None:
        if not self._alive:
            raise SessionEndedError("the session has ended: an earlier cell ended it, or it was closed")

    def _lose(self, error: SandboxError) -> None:
        self._stats.failed += 1
        self._stats.last_failure = str(error)
        self._give_up(lost=True)

    def _give_up(self, *, lost: bool = False) -> None:
        self._alive = False
        self._cloud.give_up(self._machine, lost=lost)

    async def _end(self) -> None:
        self._give_up()
        if self._call is not None:
            self._call.cancel()

    async def _cell(self, code: str, stdin: str, timeout: float) -> ExecResult:
        async with self._turn:
            self._check_alive()
            try:
                result = await self._run_cell(code, stdin, timeout)
            except SandboxError as error:
                self._lose(error)
                raise
            except asyncio.CancelledError:
                self._give_up()
                raise
            self._stats.executions += 1
            return result

    async def _run_cell(self, code: str, stdin: str, timeout: float) -> ExecResult:
        token = secrets.token_hex(16)
        output = _Output(token)
        packed = base64.b64encode(zlib.compress(json.dumps([code, stdin, token]).encode("ascii"), 1)).decode("ascii")
        self._call = call = asyncio.create_task(self._execute(f"palestra_cell.run('{packed}')", output))
        try:
            await self._until_started(call, output, self._cloud.limit + len(packed) / SLOWEST_UPLOAD)
            began = time.monotonic()
            finished, _ = await asyncio.wait([call], timeout=timeout)
            wall_s = time.monotonic() - began
        finally:
            # A connection that is closed has the service interrupt the cell.
            call.cancel()
            await asyncio.wait([call])
        if not finished:
            if not await self._answers():
                self._give_up()
            return ExecResult(*output.texts(), "timeout", None, wall_s)
        if call.cancelled():
            return ExecResult(*output.texts(), "killed", None, wall_s)
        try:
            done = call.result()
        except _FloodError:
            self._give_up()
            return ExecResult(*output.texts(), "output", None, wall_s)
        return await self._result(done, output, wall_s)

    async def _until_started(self, call: "asyncio.Task[Execution]", output: _Output, within: float) -> None:
        """Wait for the cell's start, or its end, so that a slow service does not count as slow code."""
        started = asyncio.create_task(output.started.wait())
        try:
            done, _ = await asyncio.wait([call, started], timeout=within, return_when=asyncio.FIRST_COMPLETED)
        finally:
            started.cancel()
        if not done:
            raise SandboxError(f"E2B did not start a cell within {within:g} s")

    async def _execute(self, text: str, output: _Output) -> "Execution":
        run = self._machine.vm.run_code(
            text, context=self._context, on_stdout=output.take, on_stderr=output.take, timeout=0
        )
        return await ask("run a cell", run, None, passed=(_FloodError,))

    async def _answers(self) -> bool:
        """Whether the interpreter has come to the end of an interrupted cell, and is still the same one."""
        probe = self._machine.vm.run_code("'palestra_cell' in globals()", context=self._context, timeout=0)
        try:
            answer: str | None = (await ask("answer", probe, INTERRUPT_GRACE_S)).text
        except SandboxError:
            return False
        return answer == "True"

    async def _result(self, done: "Execution", output: _Output, wall_s: float) -> ExecResult:
        try:
            report: dict[str, Any] = json.loads(done.text or "")
            status, cpu_s = _STATUSES[report["status"]], float(report["cpu_s"])
        except (ValueError, KeyError, TypeError) as error:
            # The interpreter is gone. Whose failure that is shows in whether the service still reaches it.
            if done.error is not None and done.error.name == "WebSocketError":
                raise SandboxError(f"E2B lost its interpreter: {done.error.value}") from error
            if not await ask("tell its state", self._machine.vm.is_running(), self._cloud.limit):
                raise SandboxError("a machine of E2B ended while a cell was running") from error
            self._give_up()
            return ExecResult(*output.texts(), "killed", None, wall_s)
        return ExecResult(*output.texts(), status, int(status != "ok"), wall_s, cpu_s)

    async def _write(self, path: str, data: bytes) -> None:
        from e2b_code_interpreter import FileType, InvalidArgumentException, NotEnoughSpaceException, NotFoundException

        files = self._machine.vm.files
        limit = self._cloud.limit + len(data) / SLOWEST_UPLOAD
        refusals = (InvalidArgumentException, NotEnoughSpaceException, NotFoundException)
        if await self._kind(path) is FileType.SYMLINK:
            await ask("remove a link", files.remove(f"{self._folder}/{path}"), limit)
        try:
            upload = files.write(f"{self._folder}/{path}", data, request_timeout=limit)
            await ask("write a file", upload, limit, passed=refusals)
        except refusals as error:
            raise FileNotFoundError(f"{path} cannot be written: {error}") from error

    async def _read(self, path: str, max_bytes: int) -> bytes:
        from e2b_code_interpreter import FileType, InvalidArgumentException, NotFoundException

        limit = self._cloud.limit
        if await self._kind(path) is not FileType.FILE:
            raise FileNotFoundError(f"there is no regular file {path}")
        opening = self._machine.vm.files.read(f"{self._folder}/{path}", format="stream")
        try:
            stream = await ask("open a file", opening, limit, passed=(InvalidArgumentException, NotFoundException))
        except (InvalidArgumentException, NotFoundException) as error:
            raise FileNotFoundError(f"there is no regular file {path}") from error
        async with stream:
            return await ask("send a file", _first(stream, max_bytes), limit + max_bytes / SLOWEST_UPLOAD)

    async def _kind(self, path: str) -> "FileType | None":
        """What is at a path, None for nothing; the service follows links on the way there, this does not.

        Raises:
            FileNotFoundError: Something on the way is not a folder.
        """
        from e2b_code_interpreter import FileType, InvalidArgumentException, NotFoundException

        refusals = (InvalidArgumentException, NotFoundException)
        for part in accumulate(path.split("/"), "{}/{}".format):
            looking = self._machine.vm.files.get_info(f"{self._folder}/{part}")
            try:
                kind: FileType | None = (await ask("find a file", looking, self._cloud.limit, passed=refusals)).type
            except refusals:
                return None
            if part != path and kind is not FileType.DIR:
                raise FileNotFoundError(f"{part} is not a folder")
        return kind

    async def _list(self) -> list[str]:
        command = f"exec python3 -I ~/{GUEST} list {shlex.quote(self._folder)}"
        done = await ask("list files", self._machine.vm.commands.run(command, user="root"), self._cloud.limit)
        try:
            return [str(path) for path in json.loads(done.stdout)]
        except ValueError as error:
            raise SandboxError("a machine of E2B sent no list of files") from error


async def _first(stream: AsyncIterator[bytes], count: int) -> bytes:
    """Read the beginning of a stream, which may be endless."""
    data = bytearray()
    async for part in stream:
        data += part
        if len(data) >= count:
            break
    return bytes(data[:count])
