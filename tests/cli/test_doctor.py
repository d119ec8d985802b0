import json
import re

import pytest
from scripted_sandbox import ScriptedSandbox, result
from typer.testing import CliRunner, Result

from palestra.cli.main import app
from palestra.envs.errors import MissingPrerequisiteError, UsageError
from palestra.envs.sandbox import Sandbox, checkup, containers
from palestra.envs.sandbox.base import IsolationUnavailableError, SandboxError
from palestra.envs.sandbox.checkup import CELLS, RUNS, examine


class Working(ScriptedSandbox):
    """Answers as a sandbox should; its session ends after as many cells as are needed."""

    def __init__(self) -> None:
        super().__init__(sessions=[[result("ok", "42\n")] * (CELLS + 9)])


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> dict[str, Sandbox | Exception]:
    """What `open_sandbox` gives, by name."""
    missing = IsolationUnavailableError("docker", "there is no daemon", "Start one")
    found: dict[str, Sandbox | Exception] = {
        "local": Working(),
        "docker": missing,
        "e2b": MissingPrerequisiteError("no key; set E2B_API_KEY"),
    }

    def open_sandbox(name: str) -> Sandbox:
        backend = found[name]
        if isinstance(backend, Exception):
            raise backend
        return backend

    monkeypatch.setattr(checkup, "open_sandbox", open_sandbox)
    return found


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_the_default_that_works_is_enough(backends: dict[str, Sandbox | Exception]) -> None:
    done = doctor()
    assert done.exit_code == 0
    assert "docker does not work here: " in done.output
    assert "there is no daemon. Start one." in done.output
    assert "e2b does not work here: no key; set E2B_API_KEY" in done.output
    assert "local enforces:\n  network: none" in done.output
    assert re.search(r"local +│ yes +│ +[0-9.]+ s │ +[0-9.]+ / [0-9.]+ ms │ +[0-9.]+ ms", done.output)


def test_a_default_that_does_not_work_is_exit_code_5(backends: dict[str, Sandbox | Exception]) -> None:
    backends["local"] = SandboxError("bubblewrap died")
    done = doctor()
    assert done.exit_code == 5
    assert "local does not work here: bubblewrap died" in done.output
    assert doctor("--json").exit_code == 5


def test_the_sandbox_asked_for_decides_and_is_the_only_one_tried(backends: dict[str, Sandbox | Exception]) -> None:
    done = doctor("--sandbox", "docker", "--json")
    assert done.exit_code == 5
    said = json.loads(done.stdout)
    assert [row["sandbox"] for row in said["sandboxes"]] == ["docker"]
    assert (said["needed"], said["works"]) == ("docker", False)
    assert doctor("--sandbox", "local").exit_code == 0


def test_json_holds_what_the_table_shows(backends: dict[str, Sandbox | Exception]) -> None:
    said = json.loads(doctor("--json").stdout)
    local, docker, e2b = said["sandboxes"]
    assert (local["problem"], local["enforced"]) == (None, {"network": "none"})
    assert 0 < local["latency"]["run_median_ms"] <= local["latency"]["run_p95_ms"]
    assert 0 < local["latency"]["cell_median_ms"] < 1000
    assert docker["latency"] is None
    assert docker["problem"].startswith("the sandbox 'docker' cannot isolate code on this machine")
    assert e2b["problem"] == "no key; set E2B_API_KEY"
    assert said["versions"]["python"].startswith("3.")
    assert {"torch", "transformers", "trl", "gymnasium", "vllm"} <= said["versions"].keys()
    assert isinstance(said["cuda"], list)


def test_what_isolates_nothing_is_tried_only_by_name(backends: dict[str, Sandbox | Exception]) -> None:
    backends["unsafe-process"] = Working()
    said = json.loads(doctor("--json").stdout)
    assert [row["sandbox"] for row in said["sandboxes"]] == ["local", "docker", "e2b"]
    said = json.loads(doctor("--json", "--sandbox", "unsafe-process").stdout)
    assert [row["sandbox"] for row in said["sandboxes"]] == ["unsafe-process"]


def test_a_misspelt_sandbox_is_named(backends: dict[str, Sandbox | Exception]) -> None:
    error = doctor("--sandbox", "dokcer").exception
    assert isinstance(error, UsageError)
    assert "did you mean 'docker'" in str(error)


def test_building_the_image_comes_first(
    backends: dict[str, Sandbox | Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    class Client:
        def close(self) -> None:
            done.append("closed")

    def build_image(client: Client) -> None:
        backends["docker"] = Working()
        done.append("built")

    monkeypatch.setattr(containers, "connect", Client)
    monkeypatch.setattr(containers, "build_image", build_image)
    assert doctor("--sandbox", "docker").exit_code == 5
    assert doctor("--sandbox", "docker", "--build-image").exit_code == 0
    assert done == ["built", "closed"]


@pytest.mark.parametrize(
    ("broken", "part"),
    [
        (ScriptedSandbox(result("ok", "41\n")), "it ended 'print(6 * 7)' with 'ok' and '41'"),
        (ScriptedSandbox(result("error", "", "no numpy", 1)), "with 'error' and 'no numpy'"),
        (RuntimeError("a bug\nof ours"), "unexpected RuntimeError: a bug of ours"),
    ],
)
def test_a_backend_that_misbehaves_is_a_finding(
    backends: dict[str, Sandbox | Exception], broken: Sandbox | Exception, part: str
) -> None:
    backends["local"] = broken
    found = examine("local")
    assert found.problem is not None
    assert part in found.problem
    assert found.latency is None


def test_the_sandbox_is_measured_and_closed(backends: dict[str, Sandbox | Exception]) -> None:
    sandbox = backends["local"]
    assert isinstance(sandbox, Working)
    assert examine("local").problem is None
    assert len(sandbox.requests) > RUNS
    assert (sandbox.closed, sandbox.opened[0].closed) == (1, 1)
    assert len(sandbox.opened[0].cells) > CELLS


@pytest.mark.sandbox
def test_the_default_sandbox_works_here() -> None:
    done = doctor("--sandbox", "local", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["sandboxes"][0]["latency"]["run_median_ms"] > 0
