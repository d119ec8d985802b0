"""The gallery page: every built-in environment as its code describes it, with an oracle episode.

Everything on the page is a function of the code: the same command writes the same page on every machine.
"""

import inspect
import re
import sys
from collections import defaultdict
from typing import TYPE_CHECKING

from palestra.cli.envs import suite

if TYPE_CHECKING:
    from palestra.envs import EnvSpec, TextEnv

HEADER = """# Gallery

Every environment that Palestra brings, written by `palestra envs --gallery docs/gallery.md` from the code. Variants
other than `train...` share no problem with any other; `test` is in distribution, the others are not. *By chance* is
the share of {episodes} episodes of random turns (`TextEnv.random_action`) on `test` that are solved. The episode is
the oracle's on the first problem of `test`. `palestra check` plays all of them in more ways.
"""
EPISODES = 200
_LONGEST = 1_500
_DEFAULTS_SHOWN = 60


def page() -> str:
    """Return the whole page.

    Raises:
        MissingPrerequisiteError: An environment needs something that is not here, e.g. the sandbox.
    """
    from palestra.envs import specs

    ours = [spec for spec in specs() if spec.id.startswith("palestra/")]
    single = [spec for spec in ours if suite(spec.id) is None]
    suites: dict[str, list[EnvSpec]] = defaultdict(list)
    for spec in ours:
        if name := suite(spec.id):
            suites[name].append(spec)
    contents = [f"- [{spec.id}](#{_anchor(spec.id)}): {spec.summary}" for spec in single]
    contents += [f"- [{name}/...](#{_anchor(name)}): {len(members)} tasks" for name, members in suites.items()]
    parts = [HEADER.format(episodes=EPISODES), "\n".join(contents) + "\n"]
    parts += [section(spec) for spec in single]
    parts += [suite_section(name, members) for name, members in suites.items()]
    return "\n".join(parts)


def section(spec: "EnvSpec") -> str:
    """Return the section of one environment."""
    from palestra.envs import make

    documentation = [_paragraphs(spec.cls), *([_paragraphs(module)] if (module := _own_module(spec)) else [])]
    with make(spec.id, "test" if "test" in spec.variants else "train") as env:
        lines = [f"## {spec.id}\n", *documentation]
        lines.append(f"Up to {env.max_turns} turns{f', {env.attempts} attempts' if env.attempts > 1 else ''}. ")
        lines[-1] += f"By chance: {_chance(env):.1%}." + (f" Flags: {', '.join(spec.flags)}." if spec.flags else "")
        lines.append("\n| variant | differs from `train` in |\n|---|---|")
        lines += [f"| `{name}` | {_overrides(spec, name)} |" for name in spec.variants]
        if env.tools:
            lines += ["\n| tool | what it does |\n|---|---|"]
            lines += [
                f"| `{tool.name}({', '.join(tool.parameters)})` | {_cell(tool.description)} |" for tool in env.tools
            ]
        if env.process_terms:
            lines += ["\n| process term | bounds | could be gamed by |\n|---|---|---|"]
            lines += [
                f"| `{name}` | {term.low:g} to {term.high:g} | {_cell(term.gamed_by)} |"
                for name, term in env.process_terms.items()
            ]
        lines.append(f"\n```text\n{_episode(env)}\n```\n")
    return "\n".join(lines)


def suite_section(name: str, members: "list[EnvSpec]") -> str:
    """Return the section of an adapted suite: a table of its tasks."""
    module = _own_module(members[0])
    lines = [f"## {name}\n", *([_paragraphs(module)] if module else [])]
    lines.append("| environment | what it is | variants | flags |\n|---|---|---|---|")
    for spec in members:
        variants = ", ".join(f"`{variant}`" for variant in spec.variants)
        lines.append(f"| `{spec.id}` | {_cell(spec.summary)} | {variants} | {', '.join(spec.flags)} |")
    return "\n".join(lines) + "\n"


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _own_module(spec: "EnvSpec") -> object | None:
    return sys.modules.get(spec.cls.__module__)


def _paragraphs(documented: object) -> str:
    """Return a docstring in which each paragraph is one line."""
    text = inspect.getdoc(documented) or ""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n")) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _overrides(spec: "EnvSpec", variant: str) -> str:
    changed = [f"`{name}={_short(value)}`" for name, value in spec.cls.variants[variant].items()]
    return _cell(", ".join(changed)) or ("" if variant in {"train", "test"} else "its problems")


def _short(value: object) -> str:
    shown = repr(value)
    # An object's address is of one process only.
    shown = re.sub(r"<(?:[\w.]+\.)?(\w+) object at 0x[0-9a-f]+>", r"\1()", shown)
    return shown if len(shown) <= _DEFAULTS_SHOWN else shown[: _DEFAULTS_SHOWN - 3] + "..."


def _chance(env: "TextEnv") -> float:
    from palestra.agents.policies import RandomPolicy, play

    return sum(play(env, RandomPolicy(index), index).outcome for index in range(EPISODES)) / EPISODES


def _episode(env: "TextEnv") -> str:
    from palestra.agents.policies import OraclePolicy, play

    trajectory = play(env, OraclePolicy(), 0)
    messages = [{"role": "system", "content": env.system_prompt()}, *trajectory.messages]
    shown = [f"{m['role']}: {m['content']}" for m in messages]
    terms = "".join(f", {name} {value:g}" for name, value in trajectory.process.items())
    text = "\n".join([*(s if len(s) <= _LONGEST else f"{s[:_LONGEST]} ..." for s in shown)])
    return f"{text}\noutcome {trajectory.outcome:g}{terms}".replace("```", "'''")
