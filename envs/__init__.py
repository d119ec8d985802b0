"""Environments, tools, rewards and sandboxes. Imports neither torch nor transformers."""

import palestra.envs.adapters  # noqa: F401  (registers adapted suites, from tables)
import palestra.envs.tasks  # noqa: F401  (registers the built-in environments)
from palestra.envs.core import Demonstration, ProcessTerm, Reward, Task, TaskId, TextEnv, Turn
from palestra.envs.questions import QuestionEnv
from palestra.envs.registry import EnvSpec, make, register, spec, specs
from palestra.envs.toolcalls import ToolCall, format_tool_call
from palestra.envs.tools import Calculator, PythonTool, Tool, ToolError

__all__ = [
    "Calculator",
    "Demonstration",
    "EnvSpec",
    "ProcessTerm",
    "PythonTool",
    "QuestionEnv",
    "Reward",
    "Task",
    "TaskId",
    "TextEnv",
    "Tool",
    "ToolCall",
    "ToolError",
    "Turn",
    "format_tool_call",
    "make",
    "register",
    "spec",
    "specs",
]
