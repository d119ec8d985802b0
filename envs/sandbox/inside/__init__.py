"""What runs beside or around untrusted code: standard library only, imported by nothing heavy.

`supervisor.py` starts, feeds, limits and ends executions; it runs in a thread of the host process (`local`,
`unsafe-process`) or as the first process of a container (`docker`). `zygote.py` is a process that has the
usual packages loaded and forks a child for every execution; it never sees code, input, output or keys, so
that nothing of one episode is left in the memory of another one's child. `child.py` is what that child does.
The host sends these files along (`bundle.py`), so that host and worker are always of the same version.
"""

from collections.abc import Callable
from typing import Any

at_fork: list[dict[str, Callable[[], Any]]] = []
"""What modules ask to be called around a fork (`os.register_at_fork`), kept from being called when a zygote forks.

A zygote has one thread and holds no lock, and a child seeds itself: `random`, `threading` and `logging` would only
write to a quarter of the pages that a child writes to before it runs anything. The child registers them, for the
code's own forks. It is filled before anything is imported (`bundle.py`), and empty in the host.
"""
