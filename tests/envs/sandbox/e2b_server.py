"""A loopback server that speaks the protocol of E2B: REST, envd (Connect-JSON) and the code interpreter.

It really runs what it is told to run, as ordinary processes of this machine: for tests with harmless code only.
Each of its "machines" is a folder and the processes started for it. Faults can be injected.
"""

import base64
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from e2b_machine import Kernel, Machine, start_kernel

from palestra.envs.sandbox.e2b import E2BSandbox
from palestra.envs.sandbox.e2b_cloud import ConnectionOptions

KEY = "e2b_" + "0" * 40
Make = Callable[..., E2BSandbox]


class FakeE2B:
    """The service. Use it as a context manager."""

    def __init__(self) -> None:
        self.machines: dict[str, Machine] = {}
        self.made: list[Machine] = []
        self.requests: list[str] = []
        """Method and path of every request, without its query."""
        self.most_at_once = 0
        self.delay_create_s = 0.0
        self.loses_kernels = False
        """Whether cells are answered with the error that the service cannot reach the interpreter."""
        self.tells_restarts = True
        """Whether a cell that ends its interpreter gets an answer, as newer versions of the service give one."""
        self._faults: list[tuple[re.Pattern[str], int, Callable[[Machine | None], None] | None]] = []
        self._lock = threading.Lock()
        self._running = 0
        self._top = Path(tempfile.mkdtemp(prefix="palestra-fake-e2b-"))
        self._top.chmod(0o755)
        server = self

        class Handler(_Handler):
            service = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> "FakeE2B":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        for machine in list(self.machines.values()):
            self.end(machine)
        self._http.server_close()
        shutil.rmtree(self._top, ignore_errors=True)

    def connection(self, **changes: Any) -> ConnectionOptions:
        """How to reach it."""
        options: dict[str, Any] = {"api_key": KEY, "api_url": self.url, "sandbox_url": self.url, "answer_limit_s": 10}
        return ConnectionOptions(**{**options, **changes})

    @contextmanager
    def sandboxes(self) -> Iterator[Make]:
        """Yield what opens sandboxes on this server; at the end they are closed, and no machine may be left."""
        opened: list[E2BSandbox] = []

        def make(**options: Any) -> E2BSandbox:
            opened.append(E2BSandbox(connection=self.connection(), **options))
            return opened[-1]

        yield make
        for sandbox in opened:
            sandbox.close()
        assert self.machines == {}

    def fail(self, request: str, status: int, times: int = 1) -> None:
        """Answer the next requests that match the pattern (method and path) with an error; 0: no answer at all."""
        self._faults += [(re.compile(request), status, None)] * times

    def instead(self, request: str, do: Callable[[Machine | None], None]) -> None:
        """Do something, then hang up, at the next request that matches."""
        self._faults.append((re.compile(request), -1, do))

    def lose_answer(self, request: str) -> None:
        """Do what the next request that matches asks for, and hang up instead of answering."""
        self._faults.append((re.compile(request), -2, None))

    def fault(self, request: str) -> tuple[int, Callable[[Machine | None], None] | None] | None:
        with self._lock:
            self.requests.append(request)
            for number, (pattern, status, do) in enumerate(self._faults):
                if pattern.fullmatch(request):
                    del self._faults[number]
                    return status, do
            return None

    def make(self, request: dict[str, Any]) -> Machine:
        time.sleep(self.delay_create_s)
        machine = Machine(self._top, request)
        with self._lock:
            self.machines[machine.id] = machine
            self.made.append(machine)
        return machine

    def find(self, name: str) -> Machine | None:
        machine = self.machines.get(name)
        if machine is not None and time.monotonic() > machine.ends:
            self.end(machine)
            return None
        return machine

    def end(self, machine: Machine) -> None:
        """End a machine, as a crash of its host would."""
        with self._lock:
            self.machines.pop(machine.id, None)
        machine.end()

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    service: FakeE2B

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, ValueError):
            pass  # the client went away

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.parts = urlsplit(self.path)
        self.body = self._read_body()
        fault = self.service.fault(f"{self.command} {self.parts.path}")
        self.mute = fault is not None and fault[0] == -2
        if fault is not None and not self.mute:
            status, do = fault
            if do is not None:
                do(self.service.machines.get(self.headers.get("E2b-Sandbox-Id", "")))
            if status <= 0:
                if status == 0:
                    self.connection.recv(1)  # to the end of the client's patience
                self.close_connection = True
                return
            self._json(status, {"code": status, "message": "injected"})
        elif "E2b-Sandbox-Id" in self.headers:
            self._to_machine(self.headers["E2b-Sandbox-Id"])
        elif self.headers.get("X-API-Key") != KEY:
            self._json(401, {"code": 401, "message": "Invalid API key"})
        else:
            self._to_api()

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _json(self, status: int, value: Any) -> None:
        self._bytes(status, json.dumps(value).encode("ascii"), "application/json")

    def _bytes(self, status: int, data: bytes, kind: str) -> None:
        if self.mute:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _begin_stream(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    # The service itself.

    def _to_api(self) -> None:
        path = self.parts.path
        if (self.command, path) == ("POST", "/v2/sandboxes"):
            machine = self.service.make(json.loads(self.body))
            self._json(
                201,
                {
                    "templateID": machine.request["templateID"],
                    "sandboxID": machine.id,
                    "clientID": "fake",
                    "envdVersion": "0.6.0",
                    "envdAccessToken": machine.token,
                },
            )
        elif (self.command, path) == ("GET", "/v2/sandboxes"):
            self._json(200, [self._listed(machine) for machine in self._matching()])
        elif found := re.fullmatch(r"/sandboxes/(\w+)(/timeout)?", path):
            self._end_or_extend(self.service.find(found[1]), extend=bool(found[2]))
        else:
            self._json(404, {"code": 404, "message": f"the fake does not know {path}"})

    def _end_or_extend(self, machine: Machine | None, *, extend: bool) -> None:
        if machine is None:
            self._json(404, {"code": 404, "message": "no such sandbox"})
            return
        if extend:
            machine.ends = time.monotonic() + json.loads(self.body)["timeout"]
        else:
            self.service.end(machine)
        self._bytes(204, b"", "application/json")

    def _matching(self) -> list[Machine]:
        wanted = parse_qs(unquote(parse_qs(self.parts.query).get("metadata", [""])[0]))
        machines = [self.service.find(name) for name in list(self.service.machines)]
        return [m for m in machines if m and all(m.metadata.get(k) == v[0] for k, v in wanted.items())]

    def _listed(self, machine: Machine) -> dict[str, Any]:
        now = "2026-01-01T00:00:00Z"
        sizes = {"cpuCount": 2, "memoryMB": 512, "diskSizeMB": 512}
        names = {"templateID": machine.request["templateID"], "sandboxID": machine.id, "clientID": "fake"}
        state = {"startedAt": now, "endAt": now, "state": "running", "envdVersion": "0.6.0"}
        return {**names, **sizes, **state, "metadata": machine.metadata}

    # A machine.

    def _to_machine(self, name: str) -> None:
        machine = self.service.find(name)
        if machine is None:
            self._json(502, {"message": f"The sandbox {name} was not found", "code": 502})
            return
        if self.headers.get("X-Access-Token") != machine.token and not self.parts.path.startswith("/contexts"):
            self._json(401, {"code": 401, "message": "no token"})
            return
        routes: dict[str, Callable[[Machine], None]] = {
            "GET /health": lambda _: self._bytes(204, b"", "text/plain"),
            "GET /files": self._download,
            "POST /files": self._upload,
            "POST /filesystem.Filesystem/Stat": self._stat,
            "POST /filesystem.Filesystem/MakeDir": self._make_dir,
            "POST /filesystem.Filesystem/Remove": self._remove,
            "POST /process.Process/Start": self._process,
            "POST /contexts": self._context,
            "POST /execute": self._execute,
        }
        try:
            routes[f"{self.command} {self.parts.path}"](machine)
        except FileNotFoundError as error:
            self._json(404, {"code": "not_found", "message": str(error)})
        except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
            self._json(400, {"code": "invalid_argument", "message": str(error)})

    def _query(self, machine: Machine) -> Path:
        return machine.path(parse_qs(self.parts.query)["path"][0])

    def _upload(self, machine: Machine) -> None:
        head = b"Content-Type: " + self.headers["Content-Type"].encode("latin-1") + b"\r\n\r\n"
        message = BytesParser(policy=HTTP).parsebytes(head + self.body)
        path = self._query(machine)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = next(message.iter_parts()).get_payload(decode=True)
        assert isinstance(content, bytes)
        path.write_bytes(content)
        self._json(200, [{"name": path.name, "type": "file", "path": str(path)}])

    def _download(self, machine: Machine) -> None:
        with self._query(machine).open("rb") as file:
            self._begin_stream("application/octet-stream")
            while data := file.read(65536):
                self._chunk(data)
        self._chunk(b"")

    def _entry(self, path: Path) -> dict[str, Any]:
        linked = path.is_symlink()
        path.lstat()
        kind = (
            "FILE_TYPE_DIRECTORY" if path.is_dir() else "FILE_TYPE_FILE" if path.is_file() else "FILE_TYPE_UNSPECIFIED"
        )
        return {
            "name": path.name,
            "type": "FILE_TYPE_SYMLINK" if linked else kind,
            "path": str(path),
            "size": str(path.lstat().st_size),
        }

    def _stat(self, machine: Machine) -> None:
        self._json(200, {"entry": self._entry(machine.path(json.loads(self.body)["path"]))})

    def _make_dir(self, machine: Machine) -> None:
        path = machine.path(json.loads(self.body)["path"])
        path.mkdir(parents=True)
        self._json(200, {"entry": self._entry(path)})

    def _remove(self, machine: Machine) -> None:
        machine.path(json.loads(self.body)["path"]).unlink()
        self._json(200, {})

    def _process(self, machine: Machine) -> None:
        request = json.loads(self.body[5:])["process"]
        command = [request["cmd"], *(a for a in request["args"] if a != "-l")]  # a login shell resets PATH
        machine.commands += 1
        self._begin_stream("application/connect+json")
        with self.service.counted():
            process = machine.start(
                command, str(machine.home), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            with process:
                assert process.stdout
                assert process.stderr
                self._event({"start": {"pid": process.pid}})
                for name, stream in (("stdout", process.stdout), ("stderr", process.stderr)):
                    while data := stream.read1(65536):  # type: ignore[attr-defined]
                        self._event({"data": {name: base64.b64encode(data).decode("ascii")}})
                code = process.wait()
        if machine.id not in self.service.machines:
            self.close_connection = True  # with its machine the connection is lost
            return
        self._event({"end": {"exitCode": code if code >= 0 else -1, "exited": code >= 0, "status": f"exit {code}"}})
        self._envelope(2, b"{}")
        self._chunk(b"")

    def _event(self, event: dict[str, Any]) -> None:
        self._envelope(0, json.dumps({"event": event}).encode("ascii"))

    def _envelope(self, flag: int, data: bytes) -> None:
        self._chunk(struct.pack(">BI", flag, len(data)) + data)

    # The code interpreter.

    def _context(self, machine: Machine) -> None:
        cwd = json.loads(self.body)["cwd"]
        name = uuid.uuid4().hex
        machine.kernels[name] = start_kernel(machine, cwd)
        self._json(200, {"id": name, "language": "python", "cwd": cwd})

    def _execute(self, machine: Machine) -> None:
        request = json.loads(self.body)
        kernel = machine.kernels[request["context_id"]]
        self._begin_stream("application/x-ndjson")
        if self.service.loses_kernels:
            self._error("WebSocketError", "The connections was lost")
            self._chunk(b"")
            return
        with kernel.turn:
            if not self._run_cell(kernel, request["code"]):
                if machine.id not in self.service.machines:
                    self.close_connection = True
                    return
                kernel.process.wait()
                kernel.process = start_kernel(machine, kernel.cwd).process
                if not self.service.tells_restarts:
                    kernel.turn.release()
                    self.connection.recv(1)
                    kernel.turn.acquire()
                self._error("ContextRestarting", "restarted")
        self._chunk(b'{"type": "end_of_execution"}\n')
        self._chunk(b"")

    def _error(self, name: str, value: str) -> None:
        self._chunk(
            json.dumps({"type": "error", "name": name, "value": value, "traceback": ""}).encode("ascii") + b"\n"
        )

    def _run_cell(self, kernel: Kernel, code: str) -> bool:
        """Run a cell and pass on what the kernel tells; False if it died. A client that hangs up interrupts it."""
        assert kernel.process.stdin
        assert kernel.process.stdout
        done = threading.Event()
        watch = threading.Thread(target=self._watch_client, args=(kernel.process.pid, done))
        watch.start()
        try:
            kernel.process.stdin.write(json.dumps(code).encode("ascii") + b"\n")
            kernel.process.stdin.flush()
            gone = False
            while (line := kernel.process.stdout.readline()) not in (b"", b"null\n"):
                try:
                    self._chunk(b"" if gone else line)
                except OSError:
                    gone = True
            return line != b""
        except BrokenPipeError:
            return False
        finally:
            done.set()
            watch.join()

    def _watch_client(self, kernel: int, done: threading.Event) -> None:
        while not done.wait(0.02):
            try:
                if self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"":
                    os.kill(kernel, signal.SIGINT)
                    return
            except BlockingIOError:
                continue
            except OSError:
                return


def until(condition: Callable[[], object], within: float = 10) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@contextmanager
def open_e2b_for_tests(**options: Any) -> Iterator[E2BSandbox]:
    """Yield an `E2BSandbox` on a server of its own, or on the real service where `PALESTRA_E2B_LIVE=1` says so."""
    if os.environ.get("PALESTRA_E2B_LIVE") == "1":
        with E2BSandbox(**options) as sandbox:
            yield sandbox
        return
    with FakeE2B() as service, E2BSandbox(connection=service.connection(), **options) as sandbox:
        yield sandbox
