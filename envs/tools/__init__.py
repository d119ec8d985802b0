"""Tools that environments offer: each has a name, a JSON schema, and is called with keyword arguments."""

from palestra.envs.tools.base import Tool, ToolError
from palestra.envs.tools.calculator import Calculator
from palestra.envs.tools.python import PythonTool

__all__ = ["Calculator", "PythonTool", "Tool", "ToolError"]
