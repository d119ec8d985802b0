"""The built-in environments; importing this package registers them."""

from palestra.envs.tasks.counting import Counting
from palestra.envs.tasks.dice import Dice
from palestra.envs.tasks.string_compose import StringCompose

__all__ = ["Counting", "Dice", "StringCompose"]
