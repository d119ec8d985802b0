"""A sound toy environment, and one for each thing that can be wrong with it."""

import os
import random
import re
import sys
import time

import gymnasium

from palestra.envs import Demonstration, ProcessTerm, Reward, Task, TextEnv, Tool, register
from palestra.envs.errors import MissingPrerequisiteError

TWO = {"train": {}, "test": {}}


@register("toy/Sound-v0", variants={**TWO, "long": {"length": 9}})
class Sound(TextEnv):
    """Sort the letters of a word."""

    max_turns = 3
    length = 6
    process_terms = {"first": ProcessTerm(0.0, 1.0, "the least letter alone")}

    def sample(self, rng):
        while True:
            word = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=self.length))
            answer = "".join(sorted(word))
            if word != answer:
                return Task(prompt=f"Sort the letters of {word}.", answer=answer, key=word)

    def grade(self, task, answer):
        return Reward(float(answer == task.answer), {"first": float(answer[:1] == task.answer[0])})

    def solve(self, task):
        return Demonstration((f"<answer>{task.answer}</answer>",))

    def guess(self, task, rng):
        return "".join(rng.sample(task.answer, len(task.answer)))


@register("toy/Leaky-v0", variants=TWO)
class Leaky(Sound):
    def sample(self, rng):
        task = super().sample(rng)
        return Task(f"{task.prompt} Solution: {task.answer}", task.answer, task.key)


@register("toy/LeakyFeedback-v0", variants=TWO)
class LeakyFeedback(Sound):
    attempts = 2

    def feedback(self, task, turn):
        return f"Wrong: it is {task.answer}."


@register("toy/SetOrder-v0", variants=TWO)
class SetOrder(Sound):
    """Depends on PYTHONHASHSEED."""

    def sample(self, rng):
        task = super().sample(rng)
        return Task(f"Sort these letters: {' '.join(set(task.key))} of {task.key}.", task.answer, task.key)


@register("toy/GlobalRandom-v0", variants=TWO)
class GlobalRandom(Sound):
    def sample(self, rng):
        task = super().sample(rng)
        return Task(f"{random.random()}: {task.prompt}", task.answer, task.key)


@register("toy/Overlap-v0", variants=TWO)
class Overlap(Sound):
    def task_at(self, index):
        return self.sample(random.Random(index))


@register("toy/FreshKeys-v0", variants=TWO)
class FreshKeys(Sound):
    """Its keys are unique, whatever the task is."""

    def sample(self, rng):
        word = rng.choice("bca cab dab dba cba".split())
        return Task(f"Sort the letters of {word}.", "".join(sorted(word)), str(rng.random()))


@register("toy/FewTasks-v0", variants=TWO)
class FewTasks(Sound):
    def sample(self, rng):
        word = f"{rng.choice('hijk')}{rng.choice('efg')}{rng.choice('abcd')}"
        return Task(f"Sort the letters of {word}.", word[::-1], word)


@register("toy/WrongOracle-v0", variants=TWO)
class WrongOracle(Sound):
    def solve(self, task):
        return Demonstration((f"<answer>{task.answer[::-1] if 'a' in task.answer else task.answer}</answer>",))


@register("toy/UnfinishedOracle-v0", variants=TWO)
class UnfinishedOracle(Sound):
    def solve(self, task):
        return Demonstration(("Let me think.",))


@register("toy/Coin-v0", variants=TWO)
class Coin(Sound):
    def sample(self, rng):
        task = super().sample(rng)
        return Task(f"Is {task.key} sorted by a coin?", rng.choice(("yes", "no")), task.key)

    def grade(self, task, answer):
        return Reward(float(answer == task.answer))

    def guess(self, task, rng):
        return rng.choice(("yes", "no"))


@register("toy/SumTooHigh-v0", variants=TWO)
class SumTooHigh(Sound):
    """Each step is within the bounds, the episode is not."""

    process_terms = {"first": ProcessTerm(0.0, 1.0, ""), "polite": ProcessTerm(0.0, 1.0, "talking")}

    def process(self, task, turns):
        return {"polite": 1.0}


@register("toy/Undeclared-v0", variants=TWO)
class Undeclared(Sound):
    def grade(self, task, answer):
        return Reward(float(answer == task.answer), {"style": 1.0})


@register("toy/RaisesOnUnicode-v0", variants=TWO)
class RaisesOnUnicode(Sound):
    def grade(self, task, answer):
        answer.encode("ascii")
        return super().grade(task, answer)


@register("toy/PaysEmpty-v0", variants=TWO)
class PaysEmpty(Sound):
    def grade(self, task, answer):
        return Reward(float(task.answer.startswith(answer)))


@register("toy/Substring-v0", variants=TWO)
class Substring(Sound):
    def grade(self, task, answer):
        return Reward(float(task.answer in answer))


@register("toy/Truthy-v0", variants=TWO)
class Truthy(Sound):
    """Pays every answer that is long enough, as a grader that asks for `bool(answer)` does."""

    def grade(self, task, answer):
        return Reward(float(len(answer) > 100))


@register("toy/Prefix-v0", variants=TWO)
class Prefix(Sound):
    """Pays what begins right."""

    def grade(self, task, answer):
        return Reward(float(answer[:3] == task.answer[:3] and len(answer) < 12))


@register("toy/Anywhere-v0", variants=TWO)
class Anywhere(Sound):
    """Takes a whole turn for an answer."""

    def step(self, action):
        return super().step(f"<answer>{action}</answer>" if isinstance(action, str) else action)

    def solve(self, task):
        return Demonstration((task.answer,))

    def random_action(self, rng):
        return "zzz"


@register("toy/Shared-v0", variants=TWO)
class Shared(Sound):
    """Its instances share the task that was begun last."""

    current = ""

    def begin(self, task):
        type(self).current = task.answer

    def grade(self, task, answer):
        return Reward(float(answer == self.current))


@register("toy/Remembers-v0", variants=TWO)
class Remembers(Sound):
    """What it says depends on the episodes before."""

    attempts = 2
    count = 0

    def begin(self, task):
        self.count += 1

    def feedback(self, task, turn):
        return f"Wrong, in episode {self.count}."


@register("toy/PlaysOn-v0", variants=TWO)
class PlaysOn(Sound):
    def step(self, action):
        self._over = False
        return super().step(action)


@register("toy/Endless-v0", variants=TWO)
class Endless(Sound):
    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        self._over = terminated
        return observation, reward, terminated, False, info


@register("toy/Slow-v0", variants=TWO)
class Slow(Sound):
    def grade(self, task, answer):
        time.sleep(0.11)
        return super().grade(task, answer)


@register("toy/Hangs-v0", variants=TWO)
class Hangs(Sound):
    """Loops on numbers, in Python."""

    def grade(self, task, answer):
        while answer.startswith("9"):
            try:
                time.sleep(0.001)
            except Exception:
                continue
        return super().grade(task, answer)


@register("toy/HangsInC-v0", variants=TWO)
class HangsInC(Sound):
    """Adds up numbers in a loop of C that no alarm interrupts."""

    def grade(self, task, answer):
        if answer.startswith("9"):
            sum(range(10**13))
        return super().grade(task, answer)


@register("toy/Exits-v0", variants=TWO)
class Exits(Sound):
    def grade(self, task, answer):
        if answer == "None":
            os._exit(3)
        return super().grade(task, answer)


@register("toy/Chatty-v0", variants=TWO)
class Chatty(Sound):
    """Prints, reads, and is sound otherwise."""

    def grade(self, task, answer):
        sys.stdout.write("graded\n")
        try:
            input()
        except EOFError:
            pass
        return super().grade(task, answer)


class Absent(Tool):
    name, description = "absent", "Needs what is not installed."
    parameters = {}

    def __call__(self, **arguments):
        raise MissingPrerequisiteError("it is not installed; install it")


@register("toy/NeedsMore-v0", variants=TWO)
class NeedsMore(Sound):
    tools = (Absent(),)

    def solve(self, task):
        return Demonstration(('<tool_call>{"name": "absent"}</tool_call>', f"<answer>{task.answer}</answer>"))


@register("toy/BadSample-v0", variants=TWO)
class BadSample(Sound):
    def sample(self, rng):
        raise gymnasium.error.Error("no words")


@register("toy/MiddleLeak-v0", variants=TWO)
class MiddleLeak(Sound):
    """The answer stands in the middle of the prompt, at the same place always."""

    def sample(self, rng):
        task = super().sample(rng)
        return task._replace(prompt=f"Think of {task.answer} for a while. {task.prompt} Do not hurry.")


@register("toy/LateFeedback-v0", variants=TWO)
class LateFeedback(Sound):
    """Patient once, and then not."""

    attempts = 3

    def feedback(self, task, turn):
        return "Try again." if len(self.turns) == 1 else f"Wrong: it is {task.answer}."


class Peek(Tool):
    name = "peek"
    description = "Shows a card."
    parameters = {"card": {"type": "integer"}, "face_up": {"type": "boolean"}}

    def __call__(self, card, face_up):
        return str(100 // card)

    def in_episode(self, state, /, **arguments):
        return state.world["answer"] if self(**arguments) else ""


@register("toy/TellingTool-v0", variants=TWO)
class TellingTool(Sound):
    """A tool that tells the answer, and does not like 0."""

    tools = (Peek(),)

    def begin(self, task):
        return {"answer": task.answer}


@register("toy/Backtracks-v0", variants=TWO)
class Backtracks(Sound):
    """A pattern that takes for ever on what it nearly matches."""

    def grade(self, task, answer):
        return Reward(float(re.fullmatch(r"(\s*\w+\s*)+", answer) is not None and answer == task.answer))


WRONG_TYPES = {
    "grade": (lambda self, task, answer: answer == task.answer, "`grade` must return Reward, not bool"),
    "process": (lambda self, task, turns: 0.5, "`process` must return Mapping, not float"),
    "feedback": (lambda self, task, turn: None, "`feedback` must return str, not NoneType"),
    "guess": (lambda self, task, rng: 5, "`guess` must return str or None, not int"),
    "solve": (lambda self, task: Demonstration("<answer>a</answer>"), "must be a tuple of texts"),
    "sample": (lambda self, rng: Task("?", 5, "k"), "answer of a task must be str, not int"),
}
for _name, (_method, _) in WRONG_TYPES.items():
    _methods = {_name: _method, "attempts": 2, "__module__": __name__}
    register(f"toy/Wrong-{_name}-v0", variants=TWO)(type(f"Wrong{_name}", (Sound,), _methods))
