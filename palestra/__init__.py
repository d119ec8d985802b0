"""Palestra: train tool-using language agents in Gymnasium environments, and measure what training gave them.

`import palestra` registers the built-in environments with Gymnasium, so that
`gymnasium.make("palestra/Dice-v0")` works. The command line (`palestra --help`) skips that: it must
answer before Gymnasium and numpy could be loaded, and each verb imports what it needs.
"""

import sys
from pathlib import Path

__version__ = "0.1.0"


def _started_as_command() -> bool:
    """Whether this import is the console script or `python -m palestra` starting up."""
    program = Path(sys.argv[0]).name if getattr(sys, "argv", None) else ""
    return program in {"palestra", "palestra.exe"} or (program == "-m" and "palestra" in sys.orig_argv)


# In the source tree the packages lie beside this folder, and Python finds this folder first when it is started there.
_tree = Path(__file__).resolve().parent.parent
if not (Path(__file__).parent / "envs").is_dir() and (_tree / "envs" / "core.py").is_file():
    __path__.append(str(_tree))

if not _started_as_command():
    import palestra.envs  # noqa: F401
