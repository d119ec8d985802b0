"""What a forked child does: give up everything, wait for a task, run it, end.

From `harden` on it can do no more than the code that it will run; nothing here trusts that code. One-shot code
runs as `__main__` and the process ends with its exit code. The cells of a session share one `__main__`.
"""

import _signal  # type: ignore[import-not-found]
import ast
import atexit
import builtins
import io
import linecache
import os
import posix
import random
import resource
import socket
import sys
import tempfile
import threading
import traceback
import types
from dataclasses import dataclass
from types import CodeType, TracebackType

from palestra.envs.sandbox import inside
from palestra.envs.sandbox.inside import jail, packets, scheduling

MEMORY_EXIT = 113
"""The exit code that reports an uncaught `MemoryError`; `exit(113)` claims the same."""
MAIN = "main.py"
WORK = "/tmp"
_REHEARSAL = """\
import io, math
class C:
    def __init__(self, n, *more):
        self.x = {str(k): math.sqrt(k) for k in range(n)} | dict.fromkeys(more)
try:
    raise ValueError(f"{sorted(C(8, 'a').x)[0]:>3}")
except ValueError as error:
    print([1, 2.5], error, file=io.StringIO())
"""


@dataclass(frozen=True)
class Confinement:
    """What a child gives up, apart from what the process that forked it has given up already."""

    isolation: str
    """`namespaces`, `container` (it is around us already) or `none`."""
    tmpfs: str
    """Options of the file system of its own on /tmp."""
    rlimits: dict[str, int]
    """Name without `RLIMIT_` -> soft and hard limit."""
    filter: bytes
    """The seccomp program; empty: none."""
    yielding: bool
    """Whether it gives way to all that wants a processor; see `scheduling`."""


def live(sock: socket.socket, confinement: Confinement) -> None:
    """Be a child, to the end of the process; descriptors 1 and 2 are its output already."""
    try:
        folder = _harden(confinement)
        socket.send_fds(sock, [packets.FOLDER], [folder])
        os.close(folder)
        if confinement.filter:  # last: it does not let descriptors be sent
            jail.install_filter(confinement.filter)
    except OSError as error:
        sock.send(packets.unprepared(str(error)))
        os._exit(1)
    _fresh_start()
    sock.send(packets.HARDENED)
    try:
        task, code = _receive(sock)
    except (OSError, packets.PacketError):
        os._exit(1)
    if not task.session:
        resource.setrlimit(resource.RLIMIT_CPU, (task.cpu_s, task.cpu_s))
    _open_input()
    if task.session:
        _serve(sock, task, code)
    sock.close()
    status = _run(code)
    if confinement.isolation == "namespaces" and os.getpid() == 1:  # not what the code has forked
        _tell_end(status)
    os._exit(status)


def _harden(confinement: Confinement) -> int:
    """Confine the process, but for its filter; returns a descriptor of its working folder."""
    os.setsid()
    jail.set_dumpable(True)  # what forked us was not; /proc/self would belong to root
    with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
        file.write(b"1000")
    if confinement.isolation == "namespaces":
        proc_self = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
        jail.unshare(jail.NEWNS | jail.NEWIPC)
        jail.mount_tmpfs(WORK, confinement.tmpfs)
        jail.mount_tmpfs("/proc", "size=4k,nr_inodes=2,mode=555", read_only=True)
        jail.own_user_namespace(proc_self)
        os.close(proc_self)
    os.chdir(WORK if confinement.isolation != "none" else tempfile.mkdtemp(dir=os.environ["HOME"]))
    folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    if confinement.yielding:
        scheduling.give_way()
    for name, value in confinement.rlimits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    if confinement.isolation != "none":
        jail.drop_capabilities()
    return folder


def _receive(sock: socket.socket) -> tuple[packets.Task, bytes]:
    """Wait for a task; its standard input becomes descriptor 0."""
    packet, descriptors, _, _ = socket.recv_fds(sock, packets.MAX_PACKET, 2)
    if not packet:
        os._exit(0)  # nobody will send a task any more
    task = packets.read_task(packet)
    source, stdin = descriptors
    os.dup2(stdin, 0)
    os.close(stdin)
    with open(source, "rb") as file:
        return task, file.read()


def _fresh_start() -> None:
    """Do what an interpreter does at its start and a fork does not repeat."""
    os.register_at_fork = posix.register_at_fork
    for functions in inside.at_fork:
        os.register_at_fork(**functions)
    # Not by way of the module `signal`, whose enumerations touch many pages.
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    sys.path.insert(0, os.getcwd())
    random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(int.from_bytes(os.urandom(4), "big"))
    _open_output()
    # The first use of a page copies it, since a fork shares them all: better now than while somebody waits.
    exec(compile(_REHEARSAL, MAIN, "exec"), _main_module(None).__dict__)


def _open_input() -> None:
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # type: ignore[misc]


def _open_output() -> None:
    # Unbuffered, as with `python -u`: what was printed survives a kill.
    for number, name in ((1, "stdout"), (2, "stderr")):
        raw = open(number, "wb", buffering=0, closefd=False)
        stream = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _main_module(file: str | None) -> types.ModuleType:
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    if file is not None:
        main.__file__ = file
        sys.argv[:] = [file]
    sys.modules["__main__"] = main
    return main


def _run(code: bytes) -> int:
    """Run a program to its end; returns the exit code."""
    path = os.path.join(os.getcwd(), MAIN)
    main = _main_module(path)
    try:
        with open(path, "wb") as file:  # where tracebacks look for its lines
            file.write(code)
        exec(compile(code, path, "exec"), main.__dict__)
        status = 0
    except BaseException as error:
        status = _report(error)
    return _finish(status)


def _report(error: BaseException) -> int:
    """Print what nobody caught, as an interpreter does, without the frames that are ours."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        sys.stderr.write(f"{error.code}\n")
        return 1
    trace = error.__traceback__.tb_next if error.__traceback__ else None
    try:
        sys.excepthook(type(error), error.with_traceback(trace), trace)
    except BaseException:
        os.write(2, b"the error could not be shown\n")
    return MEMORY_EXIT if isinstance(error, MemoryError) else 1


def _finish(status: int) -> int:
    """Do what an interpreter does before it ends; what the code left may fail, print and hang."""
    for step in (threading._shutdown, atexit._run_exitfuncs, _flush):  # type: ignore[attr-defined]
        try:
            step()
        except BaseException as error:
            status = status or _report(error)
    return status


def _tell_end(status: int) -> None:
    """Tell the exit code, and that nothing more will be printed.

    Otherwise both would be known only when the kernel has taken the process apart, which takes longer than most
    programs run.
    """
    try:
        os.symlink(packets.note(status), os.path.join(WORK, packets.NOTE))
        os.closerange(0, os.sysconf("SC_OPEN_MAX"))
    except BaseException:
        return  # there is no room, or the code has changed what we call; its end is seen all the same


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()


def _serve(sock: socket.socket, task: packets.Task, code: bytes) -> None:
    """Run cells until nobody sends one."""
    main = _main_module(None)
    while True:
        status = _cell(code, f"<cell {task.number}>", main)
        sock.send(packets.cell_done(task.number, status))
        task, code = _receive(sock)
        _open_input()


def _cell(code: bytes, name: str, main: types.ModuleType) -> packets.CellStatus:
    """Run a cell; the value of a last expression is shown."""
    try:
        body, last = _compile_cell(code, name)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return _report_cell(error, None)
    try:
        exec(body, main.__dict__)
        if last is not None and (value := eval(last, main.__dict__)) is not None:
            sys.stdout.write(f"{value!r}\n")
        _flush()
    except SystemExit as error:
        return "ok" if _report(error) == 0 else "error"
    except BaseException as error:
        return _report_cell(error, error.__traceback__.tb_next if error.__traceback__ else None)
    return "ok"


def _compile_cell(code: bytes, name: str) -> tuple[CodeType, CodeType | None]:
    """Compile all statements, and apart from them a last one that is an expression."""
    text = code.decode("utf-8", "surrogatepass")
    # With a time stamp of None the cache is not checked against a file.
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    tree = ast.parse(code, name)
    last = None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = compile(ast.Expression(tree.body.pop().value), name, "eval")  # type: ignore[attr-defined]
    return compile(tree, name, "exec"), last


def _report_cell(error: BaseException, trace: TracebackType | None) -> packets.CellStatus:
    """Print what a cell did not catch."""
    try:
        traceback.print_exception(type(error), error, trace)
    except BaseException:
        os.write(2, b"the error could not be shown\n")
    return "memory" if isinstance(error, MemoryError) else "error"
