"""Run tens of thousands of programs, some of them hostile, and see that every result is right and nothing is left.

Run: `python bench/sandbox_soak.py --executions 50000 --minutes 30 --backend local`. Between batches, when nothing
runs, the memory, threads and descriptors of this process are counted, and the processes, mounts, temporary files,
control groups and containers of its sandbox; at the end, and after closing, all must be what they were. Ends with 1
and a list of what is wrong.
"""

import argparse
import ctypes
import gc
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
from processes import descendants
from sandbox_cases import HONEST, HOSTILE, honest_session, hostile_session

from palestra.envs.sandbox import Sandbox, open_sandbox
from palestra.envs.sandbox.containers import connect

SESSIONS = 0.02
"""Share of sessions among the honest jobs, and among the hostile ones."""
CHECKPOINTS = 50
WARM_UP = 0.2
"""Share of the run before which memory may grow."""
MOST_RISE = {
    "rss_kib": (25.0, 2048.0),
    "inside_rss_kib": (25.0, 2048.0),
    "blocks": (200.0, 1000.0),
    "given_kib": (25.0, 2048.0),
}
"""Count -> what it may rise by per 1,000 executions after that, as the slope of a line; and in all, which is no fault
either: caches, our own records, and how the allocator places things show in a short run."""
BATCH_LIMIT_S = 600.0
_SETTLE_S = _STEADY_S = 10.0
_KEPT_FAULTS = 20
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


@dataclass(frozen=True)
class Census:
    """What there is when nothing runs."""

    rss_kib: int
    """Memory of this process."""
    blocks: int
    """What Python itself has allocated: exact, where memory in use also shows how the allocator places things."""
    given_kib: int
    """What malloc has given out and not got back: exact too, but not what Python's own allocator takes past it."""
    threads: int
    descriptors: int
    mounts: int
    temporary: int
    """Files and folders where temporary ones of ours belong."""
    groups: int
    """Control groups of this process's sandboxes."""
    processes: int = 0
    """Below this process, and in its containers."""
    inside_rss_kib: int = 0
    """Memory of the largest of them."""
    inside_descriptors: int = 0
    inside_mounts: int = 0
    """Mounts that all of them see, summed up."""
    containers: int = 0


_STEADY = (
    *("threads", "descriptors", "mounts", "temporary"),
    *("processes", "inside_descriptors", "inside_mounts", "containers"),
)
"""What has to be the same whenever nothing runs."""
_LEFT = (*_STEADY, "groups")
"""What has to be the same after closing as before opening."""


@dataclass
class Kind:
    """What became of the jobs of one kind."""

    count: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    slowest_s: float = 0.0
    total_s: float = 0.0


class Tally:
    """Counts what came of the jobs; a fixed amount of memory, however many there are."""

    def __init__(self) -> None:
        self.kinds: dict[str, Kind] = {}
        self.executions = 0
        self.faults = 0
        self.first_faults: list[str] = []
        self._lock = threading.Lock()

    def add(self, name: str, status: str, executions: int, seconds: float, fault: str | None) -> None:
        """Count a job."""
        with self._lock:
            kind = self.kinds.setdefault(name, Kind())
            kind.count += 1
            kind.statuses[status] = kind.statuses.get(status, 0) + 1
            kind.total_s += seconds
            kind.slowest_s = max(kind.slowest_s, seconds)
            self.executions += executions
            if fault is not None:
                self.faults += 1
                if len(self.first_faults) < _KEPT_FAULTS:
                    self.first_faults.append(f"{name}: {fault}")


def job(number: int, seed: int, hostile: float, sandbox: Sandbox, tally: Tally) -> None:
    """Run the program or session of that number."""
    rng = random.Random(f"{seed} {number}")
    bad, session = rng.random() < hostile, rng.random() < SESSIONS
    name, status, executions, fault = "session", "ok", 1, None
    began = time.perf_counter()
    try:
        if session:
            name = "hostile: session" if bad else "session"
            executions, fault = (hostile_session if bad else honest_session)(rng, sandbox)
        else:
            case = rng.choice(HOSTILE) if bad else rng.choice(HONEST)(rng)
            name = case.name
            result, fault = case.run(sandbox)
            status = result.status
    except Exception as error:  # the sandbox failed, or a session's call did: nothing may
        status, fault = "raised", f"{type(error).__name__}: {error}"
    tally.add(name, status, executions, time.perf_counter() - began, fault)


def _trim() -> None:
    with suppress(OSError, AttributeError):  # another C library than glibc keeps what it keeps
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc 2.33 and newer; arenas are summed up."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def _given_kib() -> int:
    with suppress(OSError, AttributeError):
        tell = ctypes.CDLL("libc.so.6").mallinfo2
        tell.restype = _MallocInfo
        told = tell()
        return int(told.uordblks + told.hblkhd) // 1024
    return 0


def _lines(path: str) -> int:
    with suppress(OSError):
        return Path(path).read_bytes().count(b"\n")
    return 0


def _entries(path: str) -> int:
    with suppress(OSError):
        return len(os.listdir(path))
    return 0


def _rss_kib(pid: int | str) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE_KIB
    return 0


class Watch:
    """Counts what there is."""

    def __init__(self, backend: str, temporary: str) -> None:
        self._docker = backend == "docker"
        self._temporary = temporary

    def census(self) -> Census:
        """Count now; memory without what the allocator keeps of what was freed, which says nothing about leaks."""
        gc.collect()
        _trim()
        first, containers = self._containers()
        inside = [pid for pid in descendants(os.getpid(), *first) if pid != os.getpid()]
        return Census(
            rss_kib=_rss_kib("self"),
            blocks=sys.getallocatedblocks(),
            given_kib=_given_kib(),
            threads=threading.active_count(),
            descriptors=_entries("/proc/self/fd"),
            mounts=self._mounts(),
            temporary=sum(len(folders) + len(names) for _, folders, names in os.walk(self._temporary)),
            groups=len(list(Path("/sys/fs/cgroup").glob(f"**/palestra-{os.getpid()}-*"))),
            processes=len(inside),
            inside_rss_kib=max(map(_rss_kib, inside), default=0),
            inside_descriptors=sum(_entries(f"/proc/{pid}/fd") for pid in inside),
            inside_mounts=sum(_lines(f"/proc/{pid}/mountinfo") for pid in inside),
            containers=containers,
        )

    def settled(self, is_settled: Callable[[Census], bool]) -> Census:
        """Count until the counts are as they should be, or have had time enough to get so."""
        end = time.monotonic() + _SETTLE_S
        while not is_settled(census := self.census()) and time.monotonic() < end:
            time.sleep(0.05)
        return census

    def steady(self) -> Census:
        """Count until the counts stay the same for longer than a container takes to start."""
        seen, since = self.census(), time.monotonic()
        while time.monotonic() < since + _STEADY_S:
            time.sleep(0.1)
            if changed(seen, now := self.census(), _STEADY):
                seen, since = now, time.monotonic()
        return seen

    def _mounts(self) -> int:
        """Count what this process sees; without docker, what its daemon does for others is not ours."""
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return sum(self._docker or "docker" not in line for line in lines)

    def _containers(self) -> tuple[list[int], int]:
        """Return the first process of every container of ours, and how many containers there are."""
        if not self._docker:
            return [], 0
        from docker.errors import NotFound

        client = connect()
        try:
            listed = client.api.containers(all=True, filters={"label": f"palestra.pid={os.getpid()}"})
            first = []
            for summary in listed:
                with suppress(NotFound):
                    first.append(client.api.inspect_container(summary["Id"])["State"]["Pid"])
            return [pid for pid in first if pid], len(listed)
        finally:
            client.close()


def changed(before: Census, after: Census, names: tuple[str, ...]) -> list[str]:
    """Say which of the counts differ."""
    old, new = asdict(before), asdict(after)
    return [f"{name}: {old[name]} before, {new[name]} after" for name in names if old[name] != new[name]]


def slope(executions: list[int], counts: list[int]) -> float:
    """Return what is added per 1,000 executions: the slope of a least-squares line."""
    return 1000 * float(np.polyfit(np.array(executions) - executions[0], counts, 1)[0])


class Soak:
    """A run and what it found."""

    def __init__(self, options: argparse.Namespace, watch: Watch) -> None:
        self.options = options
        self.watch = watch
        self.tally = Tally()
        self.wrong: list[str] = []
        self.points: list[tuple[int, Census]] = []
        self.began = time.monotonic()

    def run(self, sandbox: Sandbox) -> None:
        """Run all jobs, and count between the batches."""
        options, batch = self.options, max(100, self.options.executions // CHECKPOINTS)
        with ThreadPoolExecutor(options.concurrency) as threads:

            def work(number: int) -> None:
                job(number, options.seed, options.hostile, sandbox, self.tally)

            started = threading.Barrier(options.concurrency)
            list(threads.map(lambda _: started.wait(), range(options.concurrency)))
            self._checkpoint(sandbox, None)
            first = 0
            while self.tally.executions < options.executions and self.seconds() < 60 * options.minutes:
                try:
                    for _ in threads.map(work, range(first, first + batch), timeout=BATCH_LIMIT_S):
                        pass
                except TimeoutError:
                    self.wrong.append(f"{batch} jobs had not all ended after {BATCH_LIMIT_S:g} s")
                    sandbox.close()  # which ends what hangs
                    return
                first += batch
                self._checkpoint(sandbox, self.points[0][1] if self.points else None)
                self._progress()
        if self.tally.executions < options.executions:
            self.wrong.append(f"only {self.tally.executions:,} of {options.executions:,} executions in the time given")

    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self.began

    def _checkpoint(self, sandbox: Sandbox, reference: Census | None) -> None:
        """Count while nothing runs, with as many workers as sessions could ever have brought about."""
        with ExitStack() as stack, ThreadPoolExecutor(self.options.concurrency) as openers:
            for session in openers.map(lambda _: sandbox.session(), range(self.options.concurrency)):
                stack.enter_context(session)
        if reference is None:
            self.points.append((self.tally.executions, self.watch.steady()))
            return
        census = self.watch.settled(lambda census: not changed(reference, census, _STEADY))
        self.points.append((self.tally.executions, census))

    def judge(self, before: Census, after: Census, sandbox: Sandbox) -> None:
        """Say what is wrong, from what was counted before opening, during the run, and after closing."""
        wrong = self.wrong
        if self.tally.faults:
            wrong.append(f"{self.tally.faults} results were wrong; the first:")
            wrong += [f"  {fault}" for fault in self.tally.first_faults]
        stats = sandbox.stats()
        if stats.failed:
            wrong.append(f"the sandbox failed {stats.failed} times")
        if self.options.backend == "local" and stats.workers_replaced:
            wrong.append(f"{stats.workers_replaced} workers were replaced: code can end them")
        differences = [
            f"after {executions:,}: {text}"
            for executions, census in self.points[1:]
            for text in changed(self.points[0][1], census, _STEADY)
        ]
        wrong += differences[:_KEPT_FAULTS]
        most = 2 * self.options.concurrency + 4 * (os.cpu_count() or 1) + 8
        if (groups := max(census.groups for _, census in self.points)) > 2 * most:  # version 1 has two of each
            wrong.append(f"there were {groups} control groups")
        for name, rise in self.slopes().items():
            steepest, noise = MOST_RISE[name]
            if rise > steepest and rise * self.points[-1][0] / 1000 > noise:
                wrong.append(f"{name} grows by {rise:.1f} per 1,000 executions")
        wrong += [f"after closing: {text}" for text in changed(before, after, _LEFT)]

    def slopes(self) -> dict[str, float]:
        """Return by what some counts rise per 1,000 executions after the warm-up."""
        late = [point for point in self.points if point[0] >= WARM_UP * self.points[-1][0]]
        if len(late) < 3:
            return {}
        executions = [count for count, _ in late]
        return {name: slope(executions, [asdict(census)[name] for _, census in late]) for name in MOST_RISE}

    def _progress(self) -> None:
        done, census = self.points[-1]
        rate = done / self.seconds()
        left = max(0.0, (self.options.executions - done) / rate)
        print(
            f"{done:>7,}/{self.options.executions:,}  {rate:5.0f}/s  {left / 60:4.1f} min left  "
            f"{census.rss_kib / 1024:6.1f} MiB  {census.processes} processes  {self.tally.faults} wrong",
            flush=True,
        )


def show(soak: Soak, before: Census, after: Census, sandbox: Sandbox) -> None:
    """Print the tables."""
    print(f"\n{'job':34}{'n':>7}{'mean ms':>9}{'max ms':>9}  statuses")
    for name, kind in sorted(soak.tally.kinds.items()):
        statuses = ", ".join(f"{status} {count}" for status, count in sorted(kind.statuses.items()))
        mean = 1e3 * kind.total_s / kind.count
        print(f"{name:34}{kind.count:7}{mean:9.1f}{1e3 * kind.slowest_s:9.0f}  {statuses}")
    print(f"\n{'count':22}{'before':>10}{'warm':>10}{'end':>10}{'closed':>10}")
    for item in fields(Census):
        columns = (before, soak.points[0][1], soak.points[-1][1], after)
        print(f"{item.name:22}" + "".join(f"{asdict(census)[item.name]:10}" for census in columns))
    for name, rise in soak.slopes().items():
        print(f"{name}: {rise:+.1f} per 1,000 executions")
    print(f"{sandbox.stats()}")
    seconds = soak.seconds()
    print(f"{soak.tally.executions:,} executions in {seconds:.0f} s, {soak.tally.executions / seconds:.0f}/s")


def main(argv: list[str]) -> int:
    """Run, judge and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executions", type=int, default=50_000, help="programs and cells together")
    parser.add_argument("--minutes", type=float, default=30.0, help="time after which it is too slow")
    parser.add_argument("--backend", choices=("local", "docker"), default="local")
    parser.add_argument("--hostile", type=float, default=0.05, help="share of hostile jobs")
    parser.add_argument("--concurrency", type=int, default=4, help="jobs at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all counts")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["TMPDIR"] = tempfile.tempdir = temporary
        watch = Watch(options.backend, temporary)
        with open_sandbox(options.backend) as sandbox:
            sandbox.run("")  # so that all modules are loaded
        before = watch.steady()
        with open_sandbox(options.backend) as sandbox:
            soak = Soak(options, watch)
            soak.run(sandbox)
        after = watch.settled(lambda census: not changed(before, census, _LEFT))
    soak.judge(before, after, sandbox)
    show(soak, before, after, sandbox)
    for reason in soak.wrong:
        print(f"WRONG: {reason}")
    if options.json is not None:
        report = {
            "executions": soak.tally.executions,
            "seconds": soak.seconds(),
            "wrong": soak.wrong,
            "kinds": {name: asdict(kind) for name, kind in soak.tally.kinds.items()},
            "per_1000": soak.slopes(),
            "before": asdict(before),
            "after": asdict(after),
            "points": [{"executions": count, **asdict(census)} for count, census in soak.points],
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
