"""Environments of other packages; importing this package registers them (it imports none of those packages)."""

from palestra.envs.adapters import reasoning_gym, textarena, toy_text

__all__ = ["reasoning_gym", "textarena", "toy_text"]
