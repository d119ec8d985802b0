"""The built-in environments; importing this package registers them."""

from palestra.envs.tasks.boxnet import Boxnet
from palestra.envs.tasks.countdown import Countdown
from palestra.envs.tasks.counting import Counting
from palestra.envs.tasks.dice import Dice
from palestra.envs.tasks.general_points import GeneralPoints
from palestra.envs.tasks.navigation import Navigation
from palestra.envs.tasks.python_coding import PythonCoding
from palestra.envs.tasks.string_compose import StringCompose
from palestra.envs.tasks.tool_chain import ToolChain
from palestra.envs.tasks.word_problems import WordProblems

__all__ = [
    "Boxnet",
    "Countdown",
    "Counting",
    "Dice",
    "GeneralPoints",
    "Navigation",
    "PythonCoding",
    "StringCompose",
    "ToolChain",
    "WordProblems",
]
