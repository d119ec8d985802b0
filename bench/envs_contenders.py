"""Plays one system's version of a task for as long as it is told to; `bench/envs.py` starts one process for each.

    echo 0.5 | python bench/envs_contenders.py "palestra guess"

With the interpreter that has the package. It says what it is, then plays for as many CPU seconds as each line of its
input asks for. The processes that it started count too.
"""

import contextlib
import io
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import envs_peers as peers
import envs_tasks as tasks
from envs_tasks import ATTEMPTS, GROUP, ITEM, Play


class Contender(NamedTuple):
    """A system on a task."""

    task: str
    package: str
    """Whose version is reported; none for what needs no package."""
    make: Callable[[], contextlib.AbstractContextManager[Play]]
    note: str


CONTENDERS = {
    "palestra guess": Contender("guess", "palestra", tasks.palestra_guess, "a new number each episode"),
    "palestra guess, groups": Contender(
        "guess", "palestra", lambda: tasks.palestra_guess(GROUP), f"a new number every {GROUP} episodes"
    ),
    "palestra guess, unsplit": Contender(
        "guess", "palestra", tasks.palestra_unsplit_guess, "a new number each episode, nothing held out"
    ),
    "bare guess": Contender("guess", "", tasks.bare_guess, "a class with reset and step"),
    "gymnasium guess": Contender("guess", "gymnasium", tasks.gymnasium_guess, "the bare class in `gymnasium.make`"),
    "gem guess": Contender("guess", "gem-llm", lambda: peers.gem_guess(False), "its own game"),
    "gem guess, seeded": Contender("guess", "gem-llm", lambda: peers.gem_guess(True), "its own game, reproducible"),
    "textarena guess": Contender("guess", "textarena", peers.textarena_guess, "its own game, unwrapped, seeded"),
    "skyrl-gym guess": Contender("guess", "skyrl-gym", peers.skyrl_guess, "written for it; number from a row"),
    "openenv guess": Contender("guess", "openenv", peers.openenv_guess, "over loopback, one session"),
    "palestra sum": Contender("sum", "palestra", tasks.palestra_sum, "a new question each episode"),
    "palestra sum, groups": Contender(
        "sum", "palestra", lambda: tasks.palestra_sum(GROUP), f"a new question every {GROUP} episodes"
    ),
    "palestra sum, rows": Contender("sum", "palestra", tasks.palestra_rows, "rows made before"),
    "gem sum": Contender("sum", "gem-llm", peers.gem_sum, "QaEnv; rows made before"),
    "skyrl-gym sum": Contender("sum", "skyrl-gym", peers.skyrl_sum, "its gsm8k; rows made before"),
    "verifiers sum": Contender("sum", "verifiers", peers.verifiers_sum, "null harness, a model that answers at once"),
    "palestra retry": Contender(
        "retry", "palestra", lambda: tasks.palestra_rows(ATTEMPTS), "rows made before; five wrong answers"
    ),
    "skyrl-gym retry": Contender("retry", "skyrl-gym", peers.skyrl_retry, "its gsm8k_multi_turn; five wrong answers"),
    "palestra item": Contender("item", "palestra", tasks.palestra_item, f"{ITEM} through our adapter"),
    "reasoning-gym item": Contender("item", "reasoning-gym", peers.reasoning_gym_item, f"{ITEM} by itself"),
    "gem item": Contender("item", "gem-llm", peers.gem_item, f"its wrapper of {ITEM}"),
}


def _cpu_of_children() -> float:
    """CPU seconds of the processes that this one started, those that live (to 10 ms) and those that ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                ticks += int(fields[11]) + int(fields[12])
    return ended.ru_utime + ended.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


def measure(play: Play, seconds: float) -> dict[str, float]:
    """Play for so many CPU seconds of this process, at least once."""
    episodes = steps = 0
    stated = 0.0
    before, start = _cpu_of_children(), time.process_time()
    while True:
        played = play()
        episodes += played.episodes
        steps += played.steps
        stated += played.cpu_s or 0.0
        own = time.process_time() - start
        if stated or own >= seconds:
            break
    return {"cpu_s": stated or own + _cpu_of_children() - before, "episodes": episodes, "steps": steps}


def main(name: str) -> int:
    """Serve one contender on standard input and output."""
    out, sys.stdout = sys.stdout, io.StringIO()  # some packages print
    contender = CONTENDERS[name]
    try:
        with contender.make() as play:
            play()  # what the first call costs is not what we ask for
            version = metadata.version(contender.package) if contender.package else ""
            print(json.dumps({"version": version}), file=out, flush=True)
            for line in sys.stdin:
                print(json.dumps(measure(play, float(line))), file=out, flush=True)
    except ImportError as error:
        print(json.dumps({"missing": f"{type(error).__name__}: {error}"[:200]}), file=out, flush=True)
    except Exception as error:  # of somebody else's package: the others are measured all the same
        print(json.dumps({"missing": f"{type(error).__name__}: {error}"[-300:]}), file=out, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
