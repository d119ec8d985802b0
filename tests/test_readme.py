"""The Python of the README, and of the page about sandboxes, runs as it stands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
SANDBOXES = README.parent / "docs" / "sandboxes.md"


pytestmark = pytest.mark.skipif(not README.is_file(), reason="runs beside the source tree only")


def run_blocks(page: Path, *, sandboxed: bool) -> int:
    """Run the blocks that use a sandbox, or the others; returns how many that were."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    chosen = [block for block in blocks if any(name in block for name in ("open_sandbox", "UnitTests")) == sandboxed]
    for block in chosen:
        exec(compile(block, page.name, "exec"), {"__name__": "readme"})
    return len(chosen)


@pytest.mark.sandbox
@pytest.mark.parametrize(("page", "blocks"), [(README, 1), (SANDBOXES, 2)])
def test_the_python_blocks_with_a_sandbox_run(page: Path, blocks: int) -> None:
    assert run_blocks(page, sandboxed=True) == blocks


def test_every_other_python_block_runs() -> None:
    from palestra.envs import make

    assert run_blocks(README, sandboxed=False) == 2
    env = make("acme/Reverse-v0", "long")
    prompt, _ = env.reset(seed=0)
    assert env.step(f"<answer>{prompt.removeprefix('Reverse ')[::-1]}</answer>")[1] == 1.0
