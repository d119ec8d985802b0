"""Graders that need more than a comparison of two strings."""

from palestra.envs.grading.unit_tests import CaseResult, FunctionCase, ProgramCase, UnitTests, Verdict

__all__ = ["CaseResult", "FunctionCase", "ProgramCase", "UnitTests", "Verdict"]
