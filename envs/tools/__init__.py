"""Tools that environments offer: each has a name, a JSON schema, and is called with keyword arguments."""

from palestra.envs.tools.base import Tool, ToolError
from palestra.envs.tools.calculator import Calculator
from palestra.envs.tools.lookup import LookupTable
from palestra.envs.tools.mcp import mcp_tools
from palestra.envs.tools.python import PythonTool
from palestra.envs.tools.text import TextTool
from palestra.envs.tools.units import UnitConverter
from palestra.envs.tools.workspace import workspace_tools

__all__ = [
    "Calculator",
    "LookupTable",
    "PythonTool",
    "TextTool",
    "Tool",
    "ToolError",
    "UnitConverter",
    "mcp_tools",
    "workspace_tools",
]
