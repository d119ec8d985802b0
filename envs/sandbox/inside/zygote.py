"""The process that forks: it has the usual packages loaded, and never sees code, input, output or keys.

With `namespaces` it is the first process of a pid namespace that bubblewrap made, and forks every child into
another one. It ends when its socket does, and all children with it.
"""

import gc
import importlib
import json
import os
import select
import selectors
import signal
import socket
import sys
from typing import Any

from palestra.envs.sandbox.inside import jail, packets, scheduling
from palestra.envs.sandbox.inside.child import Confinement, live

_MIB = 1024 * 1024
_SOCKET = 3


def main(config: dict[str, Any]) -> None:
    """Be a zygote, to the end of the process.

    Args:
        config: `control` (descriptor of a socket), `preload` (names of modules), `devices` (paths to protect),
            `memory_mib` (added to the address space that we take), and what `Confinement` has: `isolation`,
            `rlimits`, `tmpfs`, `filter` (hexadecimal), `yielding` (which also needs a kernel that does it).
    """
    sock = socket.socket(fileno=config["control"])
    packages = _preload(config["preload"])
    yielding = config["yielding"] and scheduling.can_give_way()
    facts = {"python": sys.version.split()[0], "packages": packages, "yielding": yielding}
    selectors.DefaultSelector = selectors.PollSelector  # type: ignore[assignment,misc]  # asyncio's; epoll is refused
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; children set their own
    isolation = config["isolation"]
    for path in config["devices"]:
        jail.remount_read_only(path)  # they are the host's
    rlimits = dict(config["rlimits"])
    if isolation != "none":
        rlimits["AS"] = _address_space() + config["memory_mib"] * _MIB
        jail.set_dumpable(False)
    confinement = Confinement(isolation, config["tmpfs"], rlimits, bytes.fromhex(config["filter"]), yielding)
    gc.collect()
    gc.freeze()
    sys._clear_type_cache()  # an entry that is displaced lets go of a name, which copies the name's page
    jail.use_huge_pages()
    sock.send(packets.ready(json.dumps(facts)))
    try:
        _Zygote(sock, confinement).serve()
    except BrokenPipeError:
        pass  # the supervisor is gone, in the middle of something


def _preload(names: list[str]) -> dict[str, str]:
    """Import what can be imported; returns the versions."""
    found = {}
    for name in names:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        found[name] = str(module.__dict__.get("__version__", ""))
    return found


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


class _Zygote:
    def __init__(self, sock: socket.socket, confinement: Confinement) -> None:
        self._sock = sock
        self._confinement = confinement
        self._children: dict[int, tuple[int, int]] = {}  # pidfd -> number, pid
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._own = -1
        if confinement.isolation == "namespaces":
            self._own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

    def serve(self) -> None:
        """Fork and reap until nobody holds the other end of the socket."""
        while True:
            # The dead first: somebody waits for what they did.
            for descriptor, _ in sorted(self._poll.poll(), key=lambda event: event[0] == self._sock.fileno()):
                if descriptor != self._sock.fileno():
                    self._reap(descriptor)
                    continue
                packet, descriptors, _, _ = socket.recv_fds(self._sock, packets.MAX_PACKET, 8)
                if not packet:
                    return
                self._fork(packets.read_fork(packet), descriptors)

    def _fork(self, number: int, descriptors: list[int]) -> None:
        pid = -1
        try:
            if self._own >= 0:
                jail.unshare(jail.NEWPID)
            pid = os.fork()
        except OSError as error:
            self._sock.send(packets.failed(number, str(error)))
        if pid == 0:
            self._become_child(descriptors)
        if self._own >= 0:
            jail.enter_pid_namespace(self._own)
        for descriptor in descriptors:
            os.close(descriptor)
        if pid < 0:
            return
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = (number, pid)
        self._poll.register(pidfd, select.POLLIN)
        socket.send_fds(self._sock, [packets.forked(number)], [pidfd])

    def _become_child(self, descriptors: list[int]) -> None:
        """Keep the child's own descriptors only, and never return."""
        try:
            sock, stdout, stderr, *groups = descriptors
            for group in groups:
                os.write(group, b"0")
            for source, target in ((stdout, 1), (stderr, 2), (sock, _SOCKET)):
                os.dup2(source, target)
            os.closerange(_SOCKET + 1, os.sysconf("SC_OPEN_MAX"))
            live(socket.socket(fileno=_SOCKET), self._confinement)
        finally:
            os._exit(1)

    def _reap(self, pidfd: int) -> None:
        number, pid = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, status, usage = os.wait4(pid, 0)
        cpu_us = round((usage.ru_utime + usage.ru_stime) * 1e6)
        self._sock.send(packets.exited(number, status, cpu_us))
