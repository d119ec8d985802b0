import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from scripted_sandbox import ScriptedSandbox

from palestra.envs.errors import UsageError
from palestra.envs.sandbox import shared
from palestra.envs.sandbox.shared import default_sandbox, enforced, shared_sandbox, use_sandbox


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the sandboxes that were opened; they are scripted ones."""
    names: list[str] = []

    def open_scripted(name: str) -> ScriptedSandbox:
        names.append(name)
        return ScriptedSandbox()

    monkeypatch.setattr(shared, "open_sandbox", open_scripted)
    monkeypatch.setattr(shared, "Finalize", lambda *_, **__: None)
    monkeypatch.setattr(shared, "_opened", {})
    yield names
    use_sandbox("local")


def test_a_sandbox_is_opened_once_for_all_threads(opened: list[str]) -> None:
    assert opened == []
    found: list[object] = []
    wanted = [None, "local", "docker"] * 8
    threads = [threading.Thread(target=lambda name=name: found.append(shared_sandbox(name))) for name in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(opened) == ["docker", "local"]
    assert len(set(map(id, found))) == 2


def test_the_default_is_local_until_another_is_chosen(opened: list[str]) -> None:
    assert default_sandbox() == "local"
    shared_sandbox()
    use_sandbox("docker")
    shared_sandbox()
    assert default_sandbox() == "docker"
    assert opened == ["local", "docker"]


def test_a_misspelt_name_is_refused_and_changes_nothing(opened: list[str]) -> None:
    with pytest.raises(UsageError, match="unknown sandbox 'dokcer'; did you mean 'docker'"):
        use_sandbox("dokcer")
    assert default_sandbox() == "local"


def test_what_is_enforced_is_known_once_it_is_open(opened: list[str]) -> None:
    assert enforced("docker") is None
    assert opened == []
    shared_sandbox("docker")
    assert enforced("docker") == {"network": "none"}


def test_a_forked_process_opens_its_own(opened: list[str]) -> None:
    ours = shared_sandbox()
    reading, writing = os.pipe()
    with shared._lock:  # as another thread might hold it
        child = os.fork()
    if child == 0:
        theirs = shared_sandbox()
        os.write(writing, b"own" if theirs is not ours and opened == ["local", "local"] else b"shared")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"own"
    assert shared_sandbox() is ours


CLOSES = """
import multiprocessing
from palestra.envs.sandbox import shared

class Closing:
    def __init__(self, name):
        self.name = name
        self.where = multiprocessing.current_process().name

    def close(self):
        print("closed", self.name, "in", self.where, flush=True)

def main():
    shared.open_sandbox = Closing
    shared.shared_sandbox()
    child = multiprocessing.get_context("fork").Process(target=shared.shared_sandbox, args=("docker",), name="child")
    child.start()
    child.join()
    print("ending", flush=True)

main()
"""


def test_each_process_closes_what_it_opened_when_it_ends() -> None:
    done = subprocess.run([sys.executable, "-c", CLOSES], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["closed docker in child", "ending", "closed local in MainProcess"]
