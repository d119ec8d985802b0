"""The environment: one problem, plain text in and out, several turns, tools, strict outcomes.

An author writes `sample`, `grade` and `solve`; this module owns everything that must be the same everywhere:
task identity and disjoint splits, parsing of turns, tool calls, turn limits, rewards in named channels.

Invariants: an episode is a pure function of (environment id, variant, index, actions); a malformed turn is
answered with an observation and costs a turn, it never raises; `outcome` is 0.0 or 1.0 and partial credit
is only ever a process term.
"""

import operator
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium

from palestra.envs.answers import answer_of, extract_answer, plain_answer
from palestra.envs.episode import Demonstration, ProcessTerm, Reward, Task, TaskId, Turn, generator, seed_of
from palestra.envs.errors import UsageError, unknown_name
from palestra.envs.spaces import Unicode
from palestra.envs.splits import Cell, Recent, split_cell
from palestra.envs.toolcalls import SYNTAXES, ToolCall, format_tool_call, parse_tool_calls, rewrite_tool_calls
from palestra.envs.tools.base import EpisodeState, Tool, ToolError

__all__ = ["Demonstration", "ProcessTerm", "Reward", "Task", "TaskId", "TextEnv", "Turn", "split_cell"]

MAX_TEXT = 1_000_000
"""Longest observation or action, in code points."""
MAX_CALLS = 8
"""Tool calls that are run in one turn; the rest are answered with an error."""
_MAX_DRAWS = 20_000
_RECENT_TASKS = 512


class TextEnv(gymnasium.Env[str, str], ABC):
    """Base of all environments; registered subclasses are made by `gymnasium.make` or `palestra.envs.make`.

    Class attributes are the parameters of an environment: a variant (see `register`) overrides them by name.
    `step` returns the strict outcome as its scalar reward; `info["reward"]` carries outcome and process terms.
    """

    tools: tuple[Tool, ...] = ()
    """What the agent may call."""
    max_turns: int = 4
    """Assistant turns before the episode is truncated."""
    attempts: int = 1
    """Answers that are graded: a wrong one before the last is met with `feedback`, and the episode goes on."""
    asks_for_answer: bool = True
    """Whether the system prompt asks for a final answer; not where a tool ends the episode."""
    blocking: bool = False
    """Whether a step may wait for another process (a tool that does sets it); rollouts run such steps in threads."""
    instructions: str = ""
    """What the agent should do, in words; `system_prompt` adds the protocol."""
    process_terms: ClassVar[Mapping[str, ProcessTerm]] = {}
    """Every process term that `grade` and `process` may pay."""
    answers_in_fences: bool = False
    """Whether the last fenced block of code counts as the answer where no `<answer>` stands."""
    syntax: str = "hermes"
    """How prompt, demonstrations and examples write tool calls, one of `toolcalls.SYNTAXES`; all are understood."""

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}
    env_id: ClassVar[str] = ""
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    _recent: ClassVar[Recent[Task]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._recent = Recent(_RECENT_TASKS)

    def __init__(self, variant: str = "train", render_mode: str | None = None) -> None:
        if not self.env_id:
            raise TypeError(f"{type(self).__name__} is not registered; decorate it with @register")
        if variant not in self.variants:
            raise unknown_name(f"variant of {self.env_id}", variant, self.variants)
        self.variant = variant
        self.render_mode = render_mode
        for name, value in self.variants[variant].items():
            setattr(self, name, value)
        self._check_declarations()
        self._toolbox = {tool.name: tool for tool in self.tools}
        self.blocking = self.blocking or any(tool.blocking for tool in self.tools)
        self._cell = Cell.of(self.variants, variant)
        self.observation_space = Unicode(MAX_TEXT)
        self.action_space = Unicode(MAX_TEXT, examples=self.example_actions())
        self._index: int | None = None
        self._task_name = ""
        self.task: Task | None = None
        self.turns: list[Turn] = []
        self._observations: list[str] = []
        self._answers = 0
        self.world: Any = None
        self._over = True
        self._state = EpisodeState()

    # What an author writes.

    @abstractmethod
    def sample(self, rng: random.Random) -> Task:
        """Draw a problem; a pure function of `rng` and the environment's parameters."""

    @abstractmethod
    def grade(self, task: Task, answer: str) -> Reward:
        """Judge a final answer: a strict outcome, and process terms that depend on the answer only."""

    @abstractmethod
    def solve(self, task: Task) -> Demonstration:
        """Return an episode that reaches outcome 1.0."""

    def process(self, task: Task, turns: Sequence[Turn]) -> Mapping[str, float]:
        """Return the process terms that the last of `turns` earned; none unless overridden."""
        return {}

    def guess(self, task: Task, rng: random.Random) -> str | None:
        """Draw an answer as someone would who did not work on the task; None where no guess makes sense."""
        return None

    # What an author of an interactive environment writes besides.

    def begin(self, task: Task) -> Any:
        """Return the world that an episode acts in: `self.world`, and `state.world` for the tools.

        A function of the task alone; None, hence no world, unless overridden.
        """
        return None

    def judge(self, task: Task, turn: Turn) -> Reward | None:
        """Return the reward that ends the episode with this turn, or None to go on.

        Unless overridden, a right answer ends it, and so does the last of the `attempts`; both as `grade` says.
        """
        if turn.answer is None:
            return None
        reward = self.grade(task, turn.answer)
        return reward if reward.outcome == 1.0 or self._answers >= self.attempts else None

    def feedback(self, task: Task, turn: Turn) -> str:
        """Return what the agent sees after an answer that did not end the episode; must not give the answer away."""
        return "That is not right. Try again."

    def anchor(self) -> str:
        """Return what names the state of the episode: turns of a task with equal anchors start from the same state.

        Step-level credit compares such turns (GiGPO). The last observation unless overridden.
        """
        assert self.task is not None
        return self._observations[-1] if self._observations else self.task.prompt

    def random_action(self, rng: random.Random) -> str:
        """Draw a turn as someone would play who does not think: the chance rate is that of such episodes."""
        assert self.task is not None
        guess = self.guess(self.task, rng)
        return rng.choice(self.example_actions()) if guess is None else f"<answer>{guess}</answer>"

    # What every environment has.

    @property
    def task_id(self) -> TaskId | None:
        """The identity of the task; None before the first episode."""
        return None if self._index is None else TaskId(self.env_id, self.variant, self._index)

    def task_at(self, index: int) -> Task:
        """Return the task of this variant with the given index.

        Draws until the task's key falls into the variant's share of the key space: this is what makes
        training, test and out-of-distribution variants disjoint by content.

        Raises:
            RuntimeError: No draw in 20,000 falls into the share: the generator has too few tasks.
        """
        rng = generator(seed_of(self.env_id, self.variant, index))
        for _ in range(_MAX_DRAWS):
            task = self.sample(rng)
            if self.owns(task.key):
                return task
        raise RuntimeError(
            f"{self.env_id}: no task of variant '{self.variant}' found in {_MAX_DRAWS} draws; "
            "its generator makes too few different tasks"
        )

    def owns(self, key: str) -> bool:
        """Return whether a task with this key belongs to the variant; a `sample` that is slow may ask early."""
        return self._cell.holds(self.env_id, key)

    def distinct_indices(self, count: int, *, or_all: bool = False) -> list[int]:
        """Return the first `count` indices whose tasks all differ in key; `or_all`: all there are, if fewer.

        Raises:
            UsageError: The variant seems to have fewer than `count` different tasks: thousands of draws in a
                row brought no new one.
        """
        found: dict[str, int] = {}
        index = newest = 0
        while len(found) < count:
            if found.setdefault(self.task_at(index).key, index) == index:
                newest = index
            elif index - newest > 1_000 + 2 * len(found):
                if or_all:
                    break
                raise UsageError(
                    f"{self.env_id}: variant '{self.variant}' has only about {len(found)} different tasks, "
                    f"not {count}; ask for fewer problems"
                )
            index += 1
        return list(found.values())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: Seeds the generator that draws the task's index.
            options: `{"index": i}` chooses the task by identity.

        Returns:
            The task's prompt, and an info with `task` (its identity) and `role`.

        Raises:
            UsageError: The index is no whole number from 0.
        """
        if seed is not None:
            super().reset(seed=seed)
        if not self._over:
            self.end_episode()
        index = options.get("index") if options else None
        if index is None:
            index = self.np_random.integers(2**31)
        self._index = index = _whole(index)
        self._task_name = f"{self.env_id}/{self.variant}/{index}"  # every step reports it
        # The members of a group begin the same task one soon after the other.
        task = self._recent.get((self.variant, index))
        self.task = task = task or self._recent.put((self.variant, index), self.task_at(index))
        self.turns, self._observations, self._answers = [], [], 0
        self.world = self._state.world = self.begin(task)
        self._over = False
        return task.prompt, {"task": self._task_name, "role": "user"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one assistant turn.

        Returns:
            Observation, scalar reward (the strict outcome), terminated, truncated, and an info with
            `reward` (`outcome` and `process`), `role` of the observation (`tool` or `user`) and `kind` of
            the turn (`tool`, `answer` or `malformed`).
        """
        task = self.task
        if self._over or task is None:
            raise gymnasium.error.ResetNeeded("the episode is over; call reset() before step()")
        if not isinstance(action, str):
            raise gymnasium.error.InvalidAction(f"an action is a string, not {type(action).__name__}")
        answer = plain_answer(action)
        turn = self._read(action) if answer is None else Turn(action, (), (), answer)
        turns = self.turns
        turns.append(turn)
        if turn.answer is not None:
            kind = "answer"
            self._answers += 1
        else:
            kind = "tool" if turn.calls else "malformed"
        earned = self.process(task, turns)
        process = dict(earned) if earned else {}
        reward = self.judge(task, turn)
        outcome = 0.0
        if reward is not None:
            outcome = reward.outcome
            for name, value in reward.process.items():
                process[name] = process.get(name, 0.0) + value
        if process or outcome not in (0.0, 1.0):
            self._check_reward(outcome, process)
        terminated = reward is not None
        truncated = not terminated and len(turns) >= self.max_turns
        if kind != "answer":
            observation = self._observe(turn)
        else:
            observation = "" if terminated else self.feedback(task, turn)
        self._observations.append(observation)
        if terminated or truncated:
            self.end_episode()
        info = {
            "task": self._task_name,
            "role": "tool" if kind == "tool" else "user",
            "kind": kind,
            "reward": {"outcome": outcome, "process": process},
        }
        return observation, outcome, terminated, truncated, info

    def end_episode(self) -> None:
        """End the episode wherever it is and release what its tools keep; `reset` starts the next one."""
        self._over = True
        self._state.close()

    def close(self) -> None:
        """Release what the environment holds; an episode that was going on is over."""
        self.end_episode()

    def render(self) -> str:
        """Return the episode so far as text."""
        lines = [self.task.prompt if self.task else "(no task: call reset)"]
        for turn, observation in zip(self.turns, self._observations, strict=True):
            lines += [f"> {turn.action}", observation]
        return "\n".join(lines).rstrip()

    def system_prompt(self) -> str:
        """Describe the task and the protocol of turns, tools and answers to a model."""
        parts = [self.instructions]
        if self.tools:
            parts.append("You may call a tool, one per turn, and will then see its result:")
            for tool in self.tools:
                arguments = {k: f"<{v.get('description', k)}>" for k, v in tool.parameters.items()}
                call = self.format_call(tool.name, arguments)
                indent = "" if "\n" in call else "  "
                parts.append(f"- {tool.name}: {tool.description}\n{indent}{call}")
        fenced = ", or as one block of code after ```python" if self.answers_in_fences else ""
        if self.asks_for_answer:
            parts.append(f"Give your final answer as <answer>...</answer>{fenced}.")
        return "\n".join(p for p in parts if p)

    def format_call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Write a tool call in the environment's syntax."""
        return format_tool_call(name, arguments, self.syntax, self._toolbox)

    def demonstrate(self, task: Task) -> Demonstration:
        """Return what `solve` does, its calls written in the environment's syntax."""
        solved = self.solve(task)
        if self.syntax == "hermes":
            return solved
        return Demonstration(tuple(rewrite_tool_calls(turn, self.syntax, self._toolbox) for turn in solved.turns))

    def example_actions(self) -> tuple[str, ...]:
        """Return a few turns of every kind: an answer, small talk, nothing, a call of each tool."""
        calls = [self.format_call(tool.name, tool.example()) for tool in self.tools]
        return ("<answer>1</answer>", "I do not know.", "", *calls)

    # Internals.

    def _check_declarations(self) -> None:
        name = self.env_id
        if not isinstance(self.tools, tuple | list) or not all(isinstance(tool, Tool) for tool in self.tools):
            raise TypeError(f"{name}: tools must be a tuple of Tool objects, such as (Calculator(),)")
        names = [tool.name for tool in self.tools]
        if twice := next((tool for tool in names if names.count(tool) > 1), None):
            raise ValueError(f"{name}: two tools are named '{twice}'; rename one")
        if odd := next((tool for tool in names if not tool or tool.split() != [tool]), None):
            raise ValueError(f"{name}: a tool's name is a word without blanks, not '{odd}'")
        if not all(isinstance(count, int) and count >= 1 for count in (self.max_turns, self.attempts)):
            raise ValueError(f"{name}: max_turns and attempts must be at least 1")
        if not all(isinstance(term, ProcessTerm) for term in self.process_terms.values()):
            raise TypeError(f"{name}: process_terms must map names to ProcessTerm(low, high, gamed_by)")
        if self.syntax not in SYNTAXES:
            raise unknown_name(f"tool-call syntax of {name}", self.syntax, SYNTAXES)

    def _read(self, action: str) -> Turn:
        """Read a turn and run its calls: an answer if it holds none, or one of `submit`, beside which none is run."""
        calls = parse_tool_calls(action, self._toolbox)
        if not calls:
            return Turn(action, answer=extract_answer(action, fenced=self.answers_in_fences))
        # A thought that is not closed may hold calls, but no answer.
        spoken, thought, _ = action[action.rfind("</think>") + 1 :].partition("<think>")
        for call in reversed(parse_tool_calls(spoken, self._toolbox) if thought else calls):
            if call.name == "submit" and "submit" not in self._toolbox and "answer" in call.arguments:
                return Turn(action, answer=answer_of(call.arguments["answer"]))
        results = [self._call(call) for call in calls[:MAX_CALLS]]
        results += [f"Error: at most {MAX_CALLS} calls are run in a turn."] * (len(calls) > MAX_CALLS)
        return Turn(action, tuple(calls), tuple(results))

    def _call(self, call: ToolCall) -> str:
        if call.error:
            return f"Error: {call.error}."
        tool = self._toolbox.get(call.name)
        if tool is None and call.name == "submit":
            return "Error: submit needs the argument 'answer'."
        if tool is None:
            names = ", ".join(self._toolbox) or "none"
            return f"Error: there is no tool '{call.name[:100]}'; tools: {names}."
        try:
            return tool.call(call.arguments, self._state)[: MAX_TEXT // MAX_CALLS - 10]
        except ToolError as error:
            return f"Error: {error}"

    def _observe(self, turn: Turn) -> str:
        """Return what the agent sees after a turn without an answer."""
        if turn.calls:
            # A model may name lone surrogates in JSON; no tokenizer takes them.
            return "\n".join(turn.results).encode("utf-8", "replace").decode("utf-8")
        tools = f"a call of a tool ({', '.join(self._toolbox)})" if self.tools else ""
        if tools and not self.asks_for_answer:
            return f"No call found. Write {tools}."
        return f"No answer found. Write <answer>your answer</answer>{' or ' * bool(tools)}{tools}."

    def _check_reward(self, outcome: float, process: Mapping[str, float]) -> None:
        if outcome not in (0.0, 1.0):
            raise ValueError(f"{self.env_id}: outcome must be 0.0 or 1.0, not {outcome!r}; partial credit is process")
        for name, value in process.items():
            term = self.process_terms.get(name)
            if term is None:
                raise ValueError(f"{self.env_id}: process term '{name}' is not declared in process_terms")
            if not term.low <= value <= term.high:
                raise ValueError(f"{self.env_id}: process term '{name}' is {value}, outside [{term.low}, {term.high}]")


def _whole(index: Any) -> int:
    try:
        whole = int(operator.index(index))
    except TypeError:
        whole = -1
    if whole < 0:
        raise UsageError(f"the index of a task is a whole number from 0, not {index!r:.100}")
    return whole
