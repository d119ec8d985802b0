"""How the code of `inside/` gets to where it runs: sent along, so that both ends are of one version."""

import json
import os
from importlib import resources
from typing import Any

_PACKAGE = "palestra.envs.sandbox.inside"
_MODULES = (
    *("wire", "jail", "packets", "files", "scheduling", "sweep", "child", "execution", "supervisor", "zygote"),
    "container",
)
"""In an order in which each comes after those that it imports."""
_BOOT = """\
import json, os, sys, types
at_fork = []
os.register_at_fork = lambda **functions: at_fork.append(functions)
def read(count, source=int(sys.argv[1])):
    data = b""
    while len(data) < count:
        part = os.read(source, count - len(data))
        if not part:
            raise SystemExit("the bundle ended early")
        data += part
    return data
bundle = json.loads(read(int.from_bytes(read(4), "big")))
sys.argv[:] = [""]
sys.path.extend(bundle["path"])
parent = ""
for part in bundle["package"].split("."):
    parent = f"{parent}.{part}".lstrip(".")
    sys.modules[parent] = types.ModuleType(parent)
    sys.modules[parent].__path__ = []
sys.modules[parent].at_fork = at_fork
for name, source in bundle["modules"]:
    module = types.ModuleType(f"{parent}.{name}")
    sys.modules[module.__name__] = module
    setattr(sys.modules[parent], name, module)
    exec(compile(source, name + ".py", "exec"), module.__dict__)
getattr(sys.modules[parent], bundle["entry"]).main(bundle["config"])
"""


def boot_arguments(source: int) -> list[str]:
    """Return the arguments that make an interpreter read a bundle from a descriptor and run it."""
    # -P, -s: nothing is imported from the current folder or the user's. The environment sets the hash seed.
    return ["-P", "-s", "-X", "utf8", "-c", _BOOT, str(source)]


def bundle(entry: str, config: dict[str, Any], path: list[str]) -> bytes:
    """Return what the booting interpreter reads.

    Args:
        entry: The module whose `main` is called.
        config: Its argument.
        path: Folders to import third-party packages from, besides the interpreter's own.
    """
    folder = resources.files(_PACKAGE)
    modules = [(name, (folder / f"{name}.py").read_text(encoding="utf-8")) for name in _MODULES]
    content = {"package": _PACKAGE, "modules": modules, "entry": entry, "config": config, "path": path}
    data = json.dumps(content).encode("ascii")
    return len(data).to_bytes(4, "big") + data


def memory_file(data: bytes) -> int:
    """Return a descriptor of an anonymous file, at its start: it has no length limit, no path, and no writer."""
    import fcntl  # exists on Unix only, and importing an environment has to work everywhere

    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    descriptor = os.memfd_create("palestra", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        written = 0
        while written < len(data):
            written += os.pwrite(descriptor, memoryview(data)[written:], written)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
