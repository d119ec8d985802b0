"""The checks that every environment must pass, run by policies and not by reading: `palestra check`, and tests.

`check` plays each variant in worker processes of its own, so that an environment which hangs, exits or depends
on the process it runs in is found out and takes nothing down.
"""

from palestra.envs.checks.base import Problem, Report, Settings
from palestra.envs.checks.run import check

__all__ = ["Problem", "Report", "Settings", "check"]
