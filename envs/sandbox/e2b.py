"""The sandbox `e2b`: virtual machines of the cloud service E2B, through its official SDK.

A program runs as a process in a machine of its own, as an account without rights and without network, and is
watched by a supervisor that belongs to the machine's root (`e2b_guest.py`): status, output, wall and processor
time are those that the supervisor saw, and the program cannot reach it. A failure of the service is never told
as one of the code: the program is run once more from nothing in another machine, and then `SandboxError` is
raised. Machines are made ahead, so that making them is not waited for. Every run is paid for by its user.
"""

import asyncio
import base64
import dataclasses
import json
import weakref
from concurrent.futures import Future
from typing import Any, ClassVar, Protocol, TypeVar

from palestra.envs.errors import UsageError
from palestra.envs.sandbox.base import (
    KEPT_BYTES,
    MAX_OUTPUT_BYTES,
    ExecResult,
    Limits,
    Request,
    Sandbox,
    SandboxError,
    SandboxStats,
    Session,
    Status,
)
from palestra.envs.sandbox.e2b_cloud import GUEST, SLOWEST_UPLOAD, Cloud, ConnectionOptions, Machine, ask, bound_client
from palestra.envs.sandbox.e2b_guest import MEMORY_EXIT, Job
from palestra.envs.sandbox.e2b_session import E2BSession, open_session

START_LIMIT_S = 20.0
"""Seconds that an interpreter may take to start in a machine."""
_MIB = 1024 * 1024

_Result = TypeVar("_Result", covariant=True)


class _Attempt(Protocol[_Result]):
    async def __call__(self, *, fresh: bool) -> _Result: ...


class E2BSandbox(Sandbox):
    """Runs each program in a cloud machine; see the module docstring."""

    name: ClassVar[str] = "e2b"

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        connection: ConnectionOptions | None = None,
        template: str | None = None,
        executions_per_sandbox: int = 1,
        in_flight: int = 8,
        warm: int = 2,
        life_s: int = 300,
    ) -> None:
        """Check that the SDK and a key are there; the service is first asked when something is to be run.

        Args:
            limits: What a program may use. The size of /tmp and the number of files are the machine's.
            connection: Another key or service than the environment names.
            template: E2B template of the machines; None for the code interpreter's.
            executions_per_sandbox: How many programs a machine runs, one after the other. With more than one, a
                program can see files that earlier ones left.
            in_flight: How many programs run side by side. The service has a quota of machines (20 on its free
                tier), which these, the warm ones and the sessions share.
            warm: How many machines are kept ready from the first call on.
            life_s: Seconds after which the service itself ends the machines of a host process that was killed.

        Raises:
            MissingPrerequisiteError: The SDK is not installed, or there is no key.
            UsageError: A number is out of its range, or the limits forbid new processes.
        """
        if min(executions_per_sandbox, in_flight, life_s) < 1 or warm < 0:
            raise UsageError("executions_per_sandbox, in_flight and life_s must be at least 1, and warm at least 0")
        self.limits = limits or Limits()
        if self.limits.processes is False:
            raise UsageError("the sandbox 'e2b' cannot forbid new processes; leave Limits.processes at None")
        options = connection or ConnectionOptions()
        self._template = template
        self._per_machine = executions_per_sandbox
        self._slots = asyncio.Semaphore(in_flight)
        self._stats = SandboxStats()
        self._cloud = Cloud(
            bound_client(options),
            template,
            limit=options.answer_limit_s,
            life=life_s,
            warm=warm,
            keep=max(warm, in_flight) if executions_per_sandbox > 1 else warm,
        )
        self._finalizer = weakref.finalize(self, self._cloud.close)

    def session(self) -> Session:
        """Open an interpreter with state, in a machine of its own; see `Sandbox.session`."""
        return self._cloud.call(lambda: self._twice(self._open_session))

    def stats(self) -> SandboxStats:
        """Return what was done since the sandbox was opened."""
        return dataclasses.replace(self._stats, workers_replaced=self._cloud.replaced)

    def describe(self) -> dict[str, str]:
        """Return what is enforced, for logs."""
        runs = "each program" if self._per_machine == 1 else f"up to {self._per_machine} programs, one after the other"
        return {
            "isolation": f"a virtual machine of E2B for {runs}, and one for each session",
            "template": self._template or "the code interpreter's",
            "user": "programs: nobody, without new privileges; sessions: the template's",
            "network": "programs: none; sessions: the machine's own only",
            "memory": f"{self.limits.memory_mib} MiB per process, and the machine's",
            "processes": f"programs: {self.limits.tasks} tasks; sessions: the machine's",
            "files": f"{self.limits.tmp_mib} MiB per file, and the machine's disk",
        }

    def close(self) -> None:
        """Kill every machine of this sandbox, in parallel, and refuse later calls."""
        self._finalizer()

    def _start(self, request: Request) -> "Future[ExecResult]":
        return self._cloud.submit(lambda: self._run(request))

    async def _run(self, request: Request) -> ExecResult:
        async def attempt(*, fresh: bool) -> ExecResult:
            self._stats.retried += fresh
            return await self._attempt(request, fresh=fresh)

        async with self._slots:
            result = await self._twice(attempt)
            self._stats.executions += 1
            return result

    async def _twice(self, attempt: "_Attempt[_Result]") -> _Result:
        """Try what starts from nothing, and where the service fails once more, in a machine made for it."""
        try:
            return await attempt(fresh=False)
        except SandboxError as error:
            self._stats.last_failure = str(error)
        try:
            return await attempt(fresh=True)
        except SandboxError as error:
            self._stats.failed += 1
            self._stats.last_failure = str(error)
            raise

    async def _attempt(self, request: Request, *, fresh: bool) -> ExecResult:
        machine = await self._cloud.take(fresh=fresh)
        clean = lost = False
        try:
            result, clean = read_report(await self._execute(machine, request))
            return result
        except SandboxError:
            lost = True
            raise
        finally:
            if clean and machine.executions < self._per_machine:
                self._cloud.give_back(machine)
            else:
                self._cloud.give_up(machine, lost=lost)

    async def _execute(self, machine: Machine, request: Request) -> str:
        """Run a program in a machine; returns the supervisor's report."""
        machine.executions += 1
        files, commands = machine.vm.files, machine.vm.commands
        path = f"palestra-job-{machine.executions}"
        job = pack_job(request, self.limits)
        limit = self._cloud.limit + len(job) / SLOWEST_UPLOAD
        await ask("take the code", files.write(path, job, user="root", request_timeout=limit), limit)
        done = await ask(
            "run the code",
            commands.run(f"exec python3 -I ~/{GUEST} run ~/{path}", user="root", timeout=0),
            START_LIMIT_S + request.timeout + self._cloud.limit,
        )
        report: str = done.stdout
        return report

    async def _open_session(self, *, fresh: bool) -> E2BSession:
        machine = await self._cloud.take(fresh=fresh)
        try:
            return await open_session(self._cloud, machine, self._stats, self.limits.memory_mib * _MIB)
        except BaseException as error:
            self._cloud.give_up(machine, lost=isinstance(error, SandboxError))
            raise


def pack_job(request: Request, limits: Limits) -> bytes:
    """Return the file that tells the supervisor what to run."""
    contents = [request.code, request.stdin, *request.files.values()]
    job: Job = {
        "paths": list(request.files),
        "sizes": [len(content) for content in contents],
        "timeout": request.timeout,
        "start_limit": START_LIMIT_S,
        "kept_bytes": KEPT_BYTES,
        "max_output": MAX_OUTPUT_BYTES,
        "memory": limits.memory_mib * _MIB,
        "tasks": limits.tasks,
        "rlimits": {"FSIZE": limits.tmp_mib * _MIB, "NOFILE": limits.open_files, "CORE": 0},
    }
    return b"\n".join((json.dumps(job).encode("ascii"), b"".join(contents)))


def read_report(text: str) -> tuple[ExecResult, bool]:
    """Turn a supervisor's report into a result, and whether nothing of the program is left running.

    Raises:
        SandboxError: It is no report, or tells that the program never ran.
    """
    try:
        report: dict[str, Any] = json.loads(text)
        stdout, stderr = (
            base64.b64decode(report[name], validate=True)[:KEPT_BYTES].decode("utf-8", "replace")
            for name in ("stdout", "stderr")
        )
        ended_by, exit_code = report["ended_by"], int(report["exit_code"])
        wall_s, cpu_s = float(report["wall_s"]), float(report["cpu_s"])
        out_of_memory, nobody_left = bool(report["out_of_memory"]), bool(report["nobody_left"])
    except (ValueError, KeyError, TypeError) as error:
        raise SandboxError(f"a machine of E2B sent no report: {text[:200]!r}") from error
    if ended_by in ("timeout", "output"):
        return ExecResult(stdout, stderr, ended_by, None, wall_s, cpu_s), nobody_left
    if ended_by != "itself":
        raise SandboxError(f"a machine of E2B did not start the code: {stderr.strip()[:500] or f'exit {exit_code}'}")
    status = _classify(exit_code, out_of_memory=out_of_memory)
    return ExecResult(stdout, stderr, status, exit_code, wall_s, cpu_s), nobody_left


def _classify(exit_code: int, *, out_of_memory: bool) -> Status:
    if exit_code == 0:
        return "ok"
    if exit_code == MEMORY_EXIT or out_of_memory:
        return "memory"
    return "killed" if 128 < exit_code <= 128 + 64 else "error"
