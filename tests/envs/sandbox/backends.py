"""The backends as the conformance tests see them. `LACKING` names the few promises that one does not keep, and why.

Marks: `local` runs where bubblewrap is (`-m sandbox`), `docker` where a daemon is (`-m docker`); E2B runs through
its SDK against a server of ours, or against the real service with `PALESTRA_E2B_LIVE=1`.
"""

import pytest

BACKENDS = {
    "unsafe-process": [],
    "e2b": [],
    "local": [pytest.mark.sandbox],
    "docker": [pytest.mark.docker],
}
LACKING = {
    "packages": {
        "e2b": "they are in the template of the service, not in the server of the tests",
    },
    "own file system": {
        "unsafe-process": "nothing is isolated",
        "e2b": "a machine that runs several programs keeps its files; by default each program has its own",
    },
    "nothing outlives a program": {
        "unsafe-process": "only the program's own process group is ended",
        "e2b": "the machine is given up instead, which its own tests show",
    },
    "memory limit": {"unsafe-process": "nothing is limited"},
    "file limits": {
        "unsafe-process": "nothing is limited",
        "e2b": "the size of /tmp and the number of files are the machine's",
    },
    "links": {"e2b": "the service follows them, inside the machine that the model has anyway"},
    "odd names": {"e2b": "the service lists files as JSON, which has no name that is not text"},
    "descriptors": {"e2b": "the SDK keeps a pool of connections to the service"},
    "exact time": {"e2b": "the way to the service takes its own time"},
}


def keeping(promise: str) -> pytest.MarkDecorator:
    """Runs a test on the backends that keep a promise."""
    names = [pytest.param(name, marks=marks) for name, marks in BACKENDS.items() if name not in LACKING[promise]]
    return pytest.mark.parametrize("backend", names)


EVERY = [pytest.param(name, marks=marks) for name, marks in BACKENDS.items()]
