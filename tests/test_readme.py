"""The README's Python runs as it stands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


pytestmark = pytest.mark.skipif(not README.is_file(), reason="runs beside the source tree only")


def run_blocks(*, sandboxed: bool) -> int:
    """Run the blocks that use a sandbox, or the others; returns how many that were."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    chosen = [block for block in blocks if ("open_sandbox" in block) == sandboxed]
    for block in chosen:
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    return len(chosen)


@pytest.mark.sandbox
def test_the_python_block_with_a_sandbox_runs() -> None:
    assert run_blocks(sandboxed=True) == 1


def test_every_other_python_block_runs() -> None:
    from palestra.envs import make

    assert run_blocks(sandboxed=False) == 2
    env = make("acme/Reverse-v0", "long")
    prompt, _ = env.reset(seed=0)
    assert env.step(f"<answer>{prompt.removeprefix('Reverse ')[::-1]}</answer>")[1] == 1.0
