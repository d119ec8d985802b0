"""A vault with eight wheels: one tool call each, none of which may be wrong. The smallest task of a long horizon.

Every wheel shows a letter; the digit that belongs to it stands nowhere and has to be known, as the functions of
StringCompose have. A wrong digit locks the vault, so an agent that is right with chance p at each wheel opens it with
chance p^8, and an outcome says little about which of the turns was wrong. The process term says it.

In the variant `novice` half of the letters have a digit of their own in most vaults. Whoever learns from its
demonstrations is nearly sure of the other half and unsure of these: a novice who opens a few vaults in a hundred.
"""

import random
from collections.abc import Mapping, Sequence
from string import digits

from palestra.envs.adapters.gymnasium_text import Act, TextGym
from palestra.envs.core import ProcessTerm, Task, Turn
from palestra.envs.registry import register
from palestra.envs.tools.base import ToolError

KEY: Mapping[str, str] = dict(zip("abcdefghijklmnopqrst", "37105926840285713964", strict=True))
WHEELS = 8
UNKNOWN = frozenset("klmnopqrst")


class Vault:
    """An episode: the letters, the digits that they take, and how many are done."""

    def __init__(self, letters: str, right: str) -> None:
        self.letters = letters
        self.right = right
        self.done = self.paid = 0
        self.over = self.won = False

    def step(self, digit: str) -> str:
        """Dial, and say what is seen.

        Raises:
            ToolError: It is locked or open; a turn may hold several calls.
        """
        if self.over:
            raise ToolError("the vault is locked or open for good.")
        if digit != self.right[self.done]:
            self.over = True
            return "The vault locks."
        self.done += 1
        self.won = self.over = self.done == len(self.letters)
        return "The vault opens." if self.won else self.view()

    def view(self) -> str:
        """Say what the next wheel shows."""
        return f"wheel {self.done + 1}: {self.letters[self.done]}"


_UNSURE = {"sure": (0.95, 0.35)}


@register(
    "vault/Vault-v0",
    variants={
        "train": {},
        "test": {},
        "longer": {"wheels": 12},
        "novice": _UNSURE,
        "novice-two": {"wheels": 2, **_UNSURE},
    },
)
class VaultEnv(TextGym):
    """Open a vault: eight letters, eight digits."""

    tools = (Act("dial", "Sets the wheel.", "to", digits),)
    instructions = "Open the vault: dial the digit of every letter. A wrong one locks it."
    max_turns = 14
    process_terms = {"wheel": ProcessTerm(0.0, 1.0, "nothing: a wheel is paid once, and only if it is right")}

    wheels: int = WHEELS
    sure: tuple[float, float] = (1.0, 1.0)
    """How often a known and an unknown letter have the digit of the key; a random one otherwise."""

    def sample(self, rng: random.Random) -> Task:
        """Draw letters, and where the key is not sure, digits."""
        letters = "".join(rng.choices(list(KEY), k=self.wheels))
        right = [
            KEY[letter] if rng.random() < self.sure[letter in UNKNOWN] else rng.choice(digits) for letter in letters
        ]
        data = {"letters": letters, "right": "".join(right)}
        return Task(Vault(**data).view(), "", f"{letters} {data['right']}", data)

    def make_world(self, task: Task) -> Vault:
        """Return the vault, closed."""
        return Vault(**task.data)

    def plan(self, task: Task) -> Sequence[str]:
        """Dial what is right."""
        return list(task.data["right"])

    def process(self, task: Task, turns: Sequence[Turn]) -> dict[str, float]:
        """Pay every right wheel once."""
        vault = self.world
        gained, vault.paid = vault.done - vault.paid, vault.done
        return {"wheel": gained / self.wheels} if gained else {}
