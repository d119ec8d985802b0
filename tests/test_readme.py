"""The README's Python runs as it stands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.skipif(not README.is_file(), reason="runs beside the source tree only")
def test_every_python_block_runs() -> None:
    from palestra.envs import make

    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    env = make("acme/Echo-v0", "long")
    prompt, _ = env.reset(seed=0)
    assert env.step(f"<answer>{prompt.removeprefix('Say ')}</answer>")[1] == 1.0
