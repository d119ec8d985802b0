"""The programs of `bench/sandbox_soak.py`: honest ones with random parameters, and a fixed list of hostile ones.

Each knows the results that are right for it; anything else is a fault of the sandbox.
"""

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from palestra.envs.sandbox import ExecResult, Sandbox, SessionEndedError

_SLACK_S = 5.0
"""How much longer than its time limit anything may take; the machine may be busy."""
_KEPT = 64 * 1024


@dataclass(frozen=True)
class Case:
    """A program and what has to come of it."""

    name: str
    code: str
    statuses: frozenset[str] = frozenset({"ok"})
    """One of these has to be its status."""
    stdout: str | None = None
    """Its exact output; None: any."""
    exit_code: int | None = None
    """Its exit code, where that is certain."""
    stderr_end: str = ""
    stdin: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    timeout: float = 30.0

    def run(self, sandbox: Sandbox) -> tuple[ExecResult, str | None]:
        """Run it; returns the result, and what is wrong with it."""
        result = sandbox.run(self.code, stdin=self.stdin, files=self.files, timeout=self.timeout)
        return result, self.fault(result)

    def fault(self, result: ExecResult) -> str | None:
        """Say what is wrong with a result."""
        if result.status not in self.statuses:
            said = (result.stdout[-100:], result.stderr[-200:])
            return f"status {result.status}, not {' or '.join(sorted(self.statuses))}; it wrote {said}"
        if self.stdout is not None and result.stdout != self.stdout:
            return f"output {result.stdout[:100]!r}, not {self.stdout[:100]!r}"
        if self.exit_code is not None and result.exit_code != self.exit_code:
            return f"exit code {result.exit_code}, not {self.exit_code}"
        if not result.stderr.endswith(self.stderr_end):
            return f"errors end with {result.stderr[-100:]!r}, not {self.stderr_end!r}"
        if result.wall_s > self.timeout + _SLACK_S:
            return f"it took {result.wall_s:.1f} s with a limit of {self.timeout:g} s"
        return None


def _sum(rng: random.Random) -> Case:
    numbers = [rng.randrange(10**6) for _ in range(rng.randrange(1, 50))]
    code = "print(sum(int(x) for x in input().split()))"
    return Case("sum of input", code, stdout=f"{sum(numbers)}\n", stdin=" ".join(map(str, numbers)) + "\n")


def _digest(rng: random.Random) -> Case:
    data = rng.randbytes(rng.randrange(200_000))
    code = "import hashlib; print(hashlib.sha256(open('in/data', 'rb').read()).hexdigest())"
    return Case("digest of a file", code, stdout=hashlib.sha256(data).hexdigest() + "\n", files={"in/data": data})


def _sympy(rng: random.Random) -> Case:
    p, q = rng.sample((101, 103, 107, 109, 113, 127, 131, 137, 139, 149), 2)
    code = f"import sympy; print(sorted(sympy.factorint({p * q}).items()))"
    return Case("sympy", code, stdout=f"{sorted([(p, 1), (q, 1)])}\n")


def _numpy(rng: random.Random) -> Case:
    count = rng.randrange(1, 10**5)
    code = f"import numpy; print(int(numpy.arange({count}).sum()))"
    return Case("numpy", code, stdout=f"{count * (count - 1) // 2}\n")


def _fresh(rng: random.Random) -> Case:
    mark = rng.randrange(10**9)
    code = (
        "import builtins, os, sys\n"
        "print(sorted(os.listdir('.')), vars(builtins).get('mark'), sys.modules.get('mark'))\n"
        f"builtins.mark = sys.modules['mark'] = {mark}\n"
        f"open('{mark}', 'w').write('left')\n"
        "os.environ['MARK'] = 'left'"
    )
    return Case("nothing left from others", code, stdout="['main.py'] None None\n")


def _error(rng: random.Random) -> Case:
    number = rng.randrange(10**9)
    code = f"print('before')\nraise ValueError({number})"
    error = frozenset({"error"})
    return Case("exception", code, error, stdout="before\n", exit_code=1, stderr_end=f"ValueError: {number}\n")


def _exit(rng: random.Random) -> Case:
    number = rng.randrange(1, 100)
    return Case("exit code", f"raise SystemExit({number})", frozenset({"error"}), stdout="", exit_code=number)


def _long(rng: random.Random) -> Case:
    count, letter = rng.randrange(3 * _KEPT), rng.choice("abcä")
    full = (letter.encode() * count)[:_KEPT].decode("utf-8", "replace")
    return Case("long output", f"print({letter!r} * {count}, end='')", stdout=full)


def _threads(rng: random.Random) -> Case:
    count = rng.randrange(1, 8)
    code = (
        "import threading\nfound = []\n"
        f"threads = [threading.Thread(target=found.append, args=(i,)) for i in range({count})]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]; print(sum(found))"
    )
    return Case("threads", code, stdout=f"{count * (count - 1) // 2}\n")


HONEST: tuple[Callable[[random.Random], Case], ...] = (
    *(_sum, _digest, _sympy, _numpy, _fresh, _error, _exit, _long, _threads),
)


def _hostile(name: str, code: str, *statuses: str, stdout: str | None = None, timeout: float = 20.0) -> Case:
    return Case(f"hostile: {name}", code, frozenset(statuses), stdout=stdout, timeout=timeout)


HOSTILE = (
    _hostile("endless loop", "while True: pass", "timeout", stdout="", timeout=0.2),
    _hostile("sleep", "print('on', end='')\nimport time\ntime.sleep(1000)", "timeout", stdout="on", timeout=0.1),
    _hostile(
        "thread that stays",
        "import threading\nthreading.Thread(target=threading.Event().wait).start()",
        *("timeout",),
        timeout=0.15,
    ),
    _hostile(
        "fork bomb",
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
        *("timeout",),
        timeout=0.3,
    ),
    _hostile("memory at once", "x = bytearray(1 << 40)", "memory", stdout=""),
    _hostile("memory bit by bit", "x = []\nwhile True: x.append(b'x' * (16 << 20))", "memory", stdout=""),
    _hostile("output", "while True: print('x' * 999)", "output", stdout=("x" * 999 + "\n") * 65 + "x" * 536),
    _hostile("errors", "import os\nwhile True: os.write(2, b'x' * 4096)", "output", stdout=""),
    _hostile("segmentation fault", "import ctypes\nctypes.string_at(0)", "killed", stdout=""),
    _hostile("abort", "import os\nos.abort()", "killed", stdout=""),
    # Nobody can be killed but itself: not at all (the first process of its namespace), or with success.
    _hostile("kill everybody", "import os\nos.kill(-1, 9)", "error", "ok", "killed", stdout=""),
    _hostile("kill its group", "import os\nos.kill(0, 9)", "ok", "killed", stdout=""),
    _hostile("stop itself", "import os\nos.kill(os.getpid(), 19)", "ok", "timeout", stdout="", timeout=0.3),
    _hostile(
        "daemon",
        "import os, time\ntry:\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n"
        "            os.closerange(0, 9)\n            time.sleep(1000)\n        os._exit(0)\n"
        "except PermissionError:\n    pass\nprint('gone', end='')",
        *("ok",),
        stdout="gone",
    ),
    _hostile("files", "import itertools\nfor i in itertools.count(): open(str(i), 'w').close()", "error", stdout=""),
    _hostile(
        "a file without end", "file = open('x', 'wb')\nwhile True: file.write(b'x' * (1 << 20))", "error", stdout=""
    ),
    _hostile("recursion", "def f(): f()\nf()", "error", stdout=""),
    _hostile(
        "recursion beyond the stack",
        "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)",
        *("killed", "memory"),
        stdout="",
    ),
    _hostile(
        "all descriptors",
        "import os\nfor fd in range(3, 300):\n    try: os.write(fd, b'\\0' * 999)\n    except OSError: pass",
        *("ok", "killed"),
        stdout="",
    ),
    _hostile("closed output", "import os\nos.close(1)\nprint('x', flush=True)", "error", stdout=""),
    _hostile("closed descriptors", "import os\nos.closerange(0, 300)", "ok", "error", stdout=""),
    _hostile(
        "early end",
        "import os\nprint('end', end='')\ntry:\n    for _ in range(3):\n        if os.fork() == 0:\n"
        "            os.closerange(0, 9)\n            while True: pass\nexcept PermissionError:\n    pass\n"
        "os.symlink('0', '/tmp/.palestra-exit')\nos.closerange(0, 9)\nos._exit(0)",
        *("ok",),
        stdout="end",
    ),
)


def honest_session(rng: random.Random, sandbox: Sandbox) -> tuple[int, str | None]:
    """Use a session in all ways; returns how many cells it ran, and what was wrong."""
    a, b = rng.randrange(10**6), rng.randrange(10**6)
    data = rng.randbytes(rng.randrange(5000))
    ok, failed = frozenset({"ok"}), frozenset({"error"})
    cells = (
        Case("", f"x = {a}", ok, stdout=""),
        Case("", f"x + {b}", ok, stdout=f"{a + b}\n"),
        Case("", "1 / 0", failed, stdout="", stderr_end="ZeroDivisionError: division by zero\n"),
        Case("", "data = open('in/data', 'rb').read()[::-1]; open('out', 'wb').write(data); len(data)", ok),
        Case("", "print(x)", ok, stdout=f"{a}\n"),
    )
    with sandbox.session() as session:
        session.write_file("in/data", data)
        for number, cell in enumerate(cells):
            if fault := cell.fault(session.run(cell.code, timeout=30)):
                return number + 1, f"cell {number + 1}: {fault}"
        if session.read_file("out") != data[::-1]:
            return len(cells), "a file came back changed"
        if session.list_files() != ["in/data", "out"]:
            return len(cells), f"there are the files {session.list_files()}"
    return len(cells), None


def hostile_session(rng: random.Random, sandbox: Sandbox) -> tuple[int, str | None]:
    """Have a session interrupted, and then ended by its own code in some way; as `honest_session`."""
    endings = {
        "import os; os._exit(3)": {"error"},
        "import ctypes; ctypes.string_at(0)": {"killed"},
        "import os\nfor fd in range(3, 99):\n  try: os.write(fd, b'x')\n  except OSError: pass": {"killed"},
        "import time\nwhile True:\n  try: time.sleep(9)\n  except BaseException: pass": {"timeout"},
    }
    ending = rng.choice(list(endings))
    with sandbox.session() as session:
        session.run("x = 1", timeout=30)
        late = session.run("while True: pass", timeout=0.1)
        if late.status != "timeout":
            return 2, f"an endless cell ended with {late.status}"
        if not session.alive:
            return 2, "the session was not interrupted but ended"
        last = session.run(ending, timeout=0.2)
        if last.status not in endings[ending] or session.alive:
            return 3, f"{ending!r} ended with {last.status}, the session is alive: {session.alive}"
        try:
            session.run("x")
        except SessionEndedError:
            return 3, None
        return 4, "an ended session ran a cell"
