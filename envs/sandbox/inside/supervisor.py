"""Starts, feeds, limits and ends executions, by way of a zygote; one thread, one selector, no waiting.

Invariants: before an outcome is told, nothing of the execution can run code any more: all is dead and collected,
or (with `alone`) its only process has been killed; every `done` is called exactly once; a child's descriptors
and control group are used again only when it is collected; what comes from a child is never parsed beyond
`packets`, and never trusted; a zygote that fails ends the supervisor, with an `InfrastructureError` for all that
is under way.
"""

import errno
import math
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from palestra.envs.sandbox.inside import files, packets
from palestra.envs.sandbox.inside.execution import (
    NEVER_RAN,
    Child,
    Done,
    Group,
    InfrastructureError,
    RefusedError,
    Stream,
    ask_for_child,
)

START_LIMIT_S = 20.0
"""Seconds that forking and confining may take; a loaded machine must not turn into a failure of the code."""
GRACE_S = 30.0
"""Seconds between killing something and giving up on what should have collected it: others may take the processors,
and the kernel needs some for 60 processes with 60,000 areas of memory each."""
INTERRUPT_GRACE_S = 0.3
"""Seconds that an interrupted cell has to come to its end with its state kept."""

UNCOLLECTED = 4
"""Children at a time that may be still dying when their outcome has been told: they hold their memory."""

_HUNG_UP = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EAGAIN)
_ENDED_BY_CODE = "the zygote was ended by the code"
TOO_MANY_FILES = "this process has too many open files; have fewer sessions, or raise the limit (ulimit -n)"

Opened = Callable[[Child | InfrastructureError], None]


class Supervisor:
    """See the module docstring. Calls must come from the thread that calls `step`."""

    def __init__(
        self,
        zygote: socket.socket,
        *,
        spares: int,
        new_group: Callable[[], Group] | None,
        settle: Callable[[Child], None],
        gone: Callable[[Child], None] | None = None,
        ambient: Group | None = None,
        alone: Callable[[Child], bool] | None = None,
    ) -> None:
        """Take over a zygote.

        Args:
            zygote: Socket to it.
            spares: Children to keep ready.
            new_group: Makes a control group for a child, used again when that child is dead; may raise OSError.
                Without it, children stay in the zygote's.
            settle: Called when a child is dead and before that is told: kills and removes what it left, where
                namespaces do not. It may raise OSError: then the supervisor has failed when the outcome is told.
            gone: Given where code shares its processes with the zygote: called as soon as a child is gone, so
                that the zygote can be brought to tell it. No spare waits while code runs, which could reach it.
            ambient: The group that children are in without `new_group`.
            alone: Given where all that a child leaves ends with its first process: whether a child that was
                killed has no other process. Then the end of a program that tells it by itself (`packets.NOTE`)
                is passed on as soon as the child is killed, while the kernel takes it apart.
        """
        self.facts: str | None = None
        self.failure: str | None = None
        self.selector = selectors.PollSelector()  # epoll is limited for the user that code runs as, too
        self._zygote = zygote
        self._settle = settle
        self._spares = spares
        self._gone = gone
        self._ambient = ambient
        self._alone = alone
        self._new_group = new_group
        self._free_groups: list[Group] = []
        self._children: dict[int, Child] = {}
        self._ready: deque[Child] = deque()
        self._wanted: deque[Opened] = deque()
        self._next = 0
        self.selector.register(zygote, selectors.EVENT_READ, self._on_zygote)
        zygote.setblocking(False)

    @property
    def ready(self) -> bool:
        """Whether a child waits to be given something; with `gone` none does while code runs."""
        return bool(self._ready)

    # What a front asks for.

    def run(self, code: int, stdin: int, given: dict[str, bytes], timeout: float, done: Done) -> Callable[[], None]:
        """Run a program from nothing.

        Args:
            code: Descriptor of the source, positioned at its start; it is closed.
            stdin: The same of standard input.
            given: Relative path -> content of files in its working folder.
            timeout: Seconds.
            done: Is told the outcome.

        Returns:
            Ends the execution; without effect once it has ended.
        """
        state: dict[str, Any] = {"child": None, "cancelled": False}

        def opened(child: Child | InfrastructureError) -> None:
            if isinstance(child, InfrastructureError):
                _close(code, stdin)
                done(child)
                return
            state["child"] = child
            child.done = done
            if state["cancelled"]:
                _close(code, stdin)
                self._kill(child, "caller")
                return
            self._begin(child, code, stdin, given, timeout)

        def cancel() -> None:
            state["cancelled"] = True
            if state["child"] is not None:
                self._kill(state["child"], "caller")

        self._want(opened)
        return cancel

    def open(self, opened: Opened) -> None:
        """Open a session: `opened` gets a child for `cell`, `close` and the files."""

        def take(child: Child | InfrastructureError) -> None:
            if isinstance(child, Child):
                child.session = True
                child.stage = "idle"
                child.signal(signal.SIGSTOP)
            opened(child)

        self._want(take)

    def cell(self, child: Child, code: int, stdin: int, timeout: float, done: Done) -> None:
        """Run a cell of a session; the descriptors are closed."""
        if self.failure is not None or child.stage != "idle" or child.done is not None:
            _close(code, stdin)
            done(NEVER_RAN if self.failure is None else InfrastructureError(self.failure))
            return
        child.done = done
        self._begin(child, code, stdin, {}, timeout)

    def close(self, child: Child) -> None:
        """End a session, or whatever the child does."""
        self._kill(child, "caller")

    # The loop.

    def step(self, longest: float | None = None) -> None:
        """Wait for what happens next, at most `longest` seconds, and deal with it."""
        now = time.monotonic()
        deadlines = [c.deadline - now for c in self._children.values() if c.deadline is not None]
        wait = min([*deadlines, math.inf if longest is None else longest])
        for key, _ in self.selector.select(None if wait == math.inf else max(0.0, wait)):
            if self.selector.get_map().get(key.fd) is key:  # an earlier event may have closed it
                key.data()
        self._enforce(time.monotonic())

    def fail(self, reason: str) -> None:
        """Give up: everything under way fails, and nothing more is taken."""
        if self.failure is not None:
            return
        self.failure = reason
        error = InfrastructureError(reason)
        children, self._children = list(self._children.values()), {}
        self._ready.clear()
        for child in children:
            child.signal(signal.SIGKILL)
            child.stage = "ending"
            self._forget(child)
        while self._wanted:
            self._wanted.popleft()(error)
        for child in children:
            child.finish(error)
        self._unregister(self._zygote)

    # Children: forked ahead as spares, or when somebody wants one.

    def _want(self, opened: Opened) -> None:
        if self.failure is not None:
            opened(InfrastructureError(self.failure))
        elif self._ready:
            child = self._ready.popleft()
            opened(child)
            if not self._ready:  # else that has time until a child ends, and does not slow down this one
                self._refill()
        else:
            self._wanted.append(opened)
            self._refill()

    def _refill(self) -> None:
        """Fork as many children as are wanted now, and the spares."""
        if self.facts is None or self.failure is not None:
            return
        alone = self._gone is not None
        if alone and self._children:
            return
        # A child may tell that it is confined before the zygote tells that it was forked.
        starting = sum(child.stage in ("starting", "waiting") for child in self._children.values()) - len(self._ready)
        missing = len(self._wanted) + self._spares - len(self._ready) - starting
        for _ in range(min(missing, 1) if alone else missing):
            if self.failure is None:
                self._fork()

    def _fork(self) -> None:
        self._next = (self._next + 1) % 2**32
        group = None
        try:
            group = self._take_group()
            child = ask_for_child(self._zygote, self._next, group)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                self.fail(f"no child could be asked for: {error}")
                return
            if self._new_group is not None and group is not None:
                self._free_groups.append(group)
            if self._wanted and not any(child.stage == "ending" for child in self._children.values()):
                self._wanted.popleft()(RefusedError(TOO_MANY_FILES))
            return
        child.deadline = time.monotonic() + START_LIMIT_S
        self._children[child.number] = child
        for stream in (child.stdout, child.stderr):
            self.selector.register(stream.descriptor, selectors.EVENT_READ, lambda s=stream: self._on_output(child, s))
        self.selector.register(child.sock, selectors.EVENT_READ, lambda: self._on_child(child))

    def _take_group(self) -> Group | None:
        if self._new_group is None:
            return self._ambient
        return self._free_groups.pop() if self._free_groups else self._new_group()

    def _begin(self, child: Child, code: int, stdin: int, given: dict[str, bytes], timeout: float) -> None:
        """Send a confined child its task; the clock starts."""
        child.cell += 1
        packet = packets.task(child.session, child.cell, math.ceil(timeout) + 1)
        try:
            for path, data in given.items():
                files.write(child.folder, path, data)
        except OSError as error:
            _close(code, stdin)
            child.finish(RefusedError(f"there is no room for the files: {error.strerror}"))
            self._kill(child, "supervisor")
            return
        try:
            child.signal(signal.SIGCONT)
            child.begin(timeout)
            if self._gone is not None and child.cell == 1:
                self.selector.register(child.pidfd, selectors.EVENT_READ, lambda: self._on_gone(child))
            socket.send_fds(child.sock, [packet], [code, stdin])
        except OSError as error:
            # It takes nothing any more. Where it has run code before, that is the code's doing.
            by_code = child.cell > 1 and error.errno in _HUNG_UP
            child.finish(NEVER_RAN if by_code else InfrastructureError(f"a task could not be handed over: {error}"))
            self._kill(child, "supervisor")
        finally:
            _close(code, stdin)

    def _kill(self, child: Child, why: Any) -> None:
        if child.stage == "ending" or child.number not in self._children:
            return
        child.ended_by = why
        child.stage = "ending"
        child.deadline = time.monotonic() + GRACE_S
        child.signal(signal.SIGKILL)

    def _enforce(self, now: float) -> None:
        for child in list(self._children.values()):
            if child.stage == "idle" and child.flood():
                self._kill(child, "output")
            if child.deadline is None or now < child.deadline:
                continue
            if child.stage == "running" and child.session:
                child.stage = "interrupted"
                child.deadline = now + INTERRUPT_GRACE_S
                child.signal(signal.SIGINT)
            elif child.stage in ("running", "interrupted"):
                self._kill(child, "timeout")
            else:
                what = "forked and confined" if child.stage == "starting" else "ended"
                self.fail(f"a child could not be {what} in time")
                return

    # Events.

    def _on_output(self, child: Child, stream: Stream) -> None:
        if not stream.read() and stream.ended:
            self.selector.unregister(stream.descriptor)
        if child.flood() and child.stage in ("running", "interrupted"):
            self._kill(child, "output")
        if child.stdout.ended and child.stderr.ended and child.stage == "running" and not child.session:
            self._on_silence(child)

    def _on_silence(self, child: Child) -> None:
        """See whether a program that can print nothing more says that it has come to its end.

        It may say so whenever it likes, and lie about its exit code, as it may by `os._exit`: it is killed first.
        """
        if self._alone is None:
            return
        try:
            child.noted = packets.read_note(os.readlink(packets.NOTE, dir_fd=child.folder))
        except (OSError, packets.PacketError):
            return  # it goes on in silence, or is dead: then the zygote tells
        of_children = child.cpu_of_children_us()
        own = child.cpu_now_us()  # last: if the process is still there, it was there before, and nothing is missing
        child.cpu_us = of_children + own
        self._kill(child, "itself")
        dying = sum(other.stage == "ending" and other.done is None for other in self._children.values())
        # Only after the kill nothing new can be forked. Without time of its own it is collected, and told next.
        if own > 0 and dying < UNCOLLECTED and self._alone(child):
            child.finish(child.end(0))

    def _on_child(self, child: Child) -> None:
        try:
            packet, descriptors, flags, _ = socket.recv_fds(child.sock, packets.MAX_PACKET, 2)
        except BlockingIOError:
            return
        except OSError:
            packet, descriptors, flags = b"", [], 0
        if not packet:
            self.selector.unregister(child.sock)  # a program closes it before it runs
            _close(*descriptors)
            return
        try:
            if child.stage == "starting":
                self._on_hardened(child, packet, descriptors)
            elif descriptors or flags & socket.MSG_TRUNC or not child.session:
                _close(*descriptors)
                raise packets.PacketError("a child sent what none sends")
            else:
                self._on_cell_done(child, packet)
        except packets.PacketError:
            self._kill(child, "protocol")

    def _on_hardened(self, child: Child, packet: bytes, descriptors: list[int]) -> None:
        if packet == packets.FOLDER and len(descriptors) == 1 and child.folder < 0:
            child.folder = descriptors[0]
            return
        _close(*descriptors)
        reason = packets.read_hardened(packet)
        if reason is not None or descriptors or child.folder < 0:
            self.fail(f"a child could not be confined: {reason}")
            return
        child.stage = "waiting"
        child.deadline = None
        if child.pidfd >= 0:
            self._offer(child)

    def _offer(self, child: Child) -> None:
        if self._wanted:
            self._wanted.popleft()(child)
            self._refill()
        else:
            self._ready.append(child)

    def _on_cell_done(self, child: Child, packet: bytes) -> None:
        if child.stage == "ending":
            return
        if child.stage not in ("running", "interrupted"):
            raise packets.PacketError("a cell ended that was not running")
        status: str = packets.read_cell_done(packet, child.cell)
        if not child.took_task():
            raise packets.PacketError("a cell ended that was never taken")
        late = child.stage == "interrupted"
        child.stage = "idle"
        child.deadline = None
        child.cpu_us = child.cpu_now_us() - child.cpu_before_us
        outcome = child.outcome("timeout" if late else status, None if late else int(status != "ok"), alive=True)
        child.signal(signal.SIGSTOP)  # its threads must not cost anything until the next cell
        child.finish(outcome)

    def _on_zygote(self) -> None:
        try:
            packet, descriptors, _, _ = socket.recv_fds(self._zygote, packets.MAX_PACKET, 1)
        except BlockingIOError:
            return
        except OSError as error:
            self.fail(f"the zygote was lost: {error}")
            return
        if not packet:
            if self._gone is not None and any(child.done is not None for child in self._children.values()):
                self.selector.unregister(self._zygote)  # the code ended it; its own end is told by `orphaned`
                self._bury_untold()
                return
            self.fail("the zygote ended")
            return
        try:
            told = packets.read_zygote(packet)
        except packets.PacketError as error:
            _close(*descriptors)
            self.fail(str(error))
            return
        if isinstance(told, packets.Forked):
            self._on_forked(told, descriptors)
            return
        _close(*descriptors)
        match told:
            case packets.Ready():
                self.facts = told.facts
                self._refill()
            case packets.Failed():
                self.fail(f"no child could be forked: {told.reason}")
            case packets.Exited():
                self._on_exit(told)

    def _on_forked(self, told: packets.Forked, descriptors: list[int]) -> None:
        child = self._children.get(told.child)
        if child is None or child.pidfd >= 0 or len(descriptors) != 1:
            _close(*descriptors)
            self.fail("the zygote told of a child that nobody wanted")
            return
        child.adopt(descriptors[0])
        if child.stage == "ending":
            child.signal(signal.SIGKILL)
        elif child.stage == "waiting":
            self._offer(child)

    def _on_gone(self, child: Child) -> None:
        self.selector.unregister(child.pidfd)
        assert self._gone is not None
        try:
            self._gone(child)
        except OSError:
            pass  # it had to end the zygote as well, and that is seen by itself

    def _bury_untold(self) -> None:
        """Take a child that the zygote collected, and was ended before it could tell, for killed as well."""
        for child in list(self._children.values()):
            if child.done is not None and not child.uncollected():
                self._on_exit(packets.Exited(child.number, signal.SIGKILL, child.cpu_us), _ENDED_BY_CODE)

    def orphaned(self, pid: int, status: int, cpu_us: int) -> None:
        """Take the end of a child from its new parent, because the zygote is dead; the supervisor then fails."""
        for child in list(self._children.values()):
            if child.pid == pid:
                self._on_exit(packets.Exited(child.number, status, cpu_us), _ENDED_BY_CODE)

    def _on_exit(self, told: packets.Exited, trouble: str | None = None) -> None:
        """Take the end of a child; with `trouble` it is the last one."""
        child = self._children.pop(told.child, None)
        if child is None:
            self.fail("the zygote told of the end of a child that it never had")
            return
        child.cpu_us = told.cpu_us
        if child in self._ready:
            self._ready.remove(child)
        if child.stage == "starting":
            trouble = "a child ended before it was confined"
        try:
            self._settle(child)
        except OSError as error:
            trouble = f"what an execution left could not be removed: {error}"
        if trouble is not None:
            self.fail(trouble)  # first: whoever is told the outcome must see that it is the last
        if child.done is not None:
            child.finish(child.end(told.status))
        child.stage = "ending"
        self._forget(child)
        self._refill()

    def _forget(self, child: Child) -> None:
        for item in (child.sock, child.stdout.descriptor, child.stderr.descriptor, child.pidfd):
            self._unregister(item)
        if self._new_group is not None and child.group is not None:
            self._free_groups.append(child.group)
        child.close()

    def _unregister(self, item: socket.socket | int) -> None:
        try:
            self.selector.unregister(item)
        except (KeyError, ValueError):
            pass  # it was unregistered at its end


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
