"""Registration: `@register` in process, or the entry-point group `palestra.envs` of an installed package."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

import gymnasium
from gymnasium.envs.registration import parse_env_id

from palestra.envs.core import TextEnv
from palestra.envs.errors import UsageError, unknown_name
from palestra.envs.toolcalls import SYNTAXES

logger = logging.getLogger(__name__)

_Env = TypeVar("_Env", bound=type[TextEnv])
_SPECS: dict[str, "EnvSpec"] = {}


@dataclass(frozen=True, slots=True)
class EnvSpec:
    """A registered environment."""

    id: str
    cls: type[TextEnv]
    variants: tuple[str, ...]
    flags: tuple[str, ...] = ()
    """What to know before a result is read, e.g. `guessable`; see the package that registers it."""
    gymnasium_id: str = ""
    """The id for `gymnasium.make`, which allows one slash only."""

    @property
    def summary(self) -> str:
        """The first line of the environment's docstring."""
        return (self.cls.__doc__ or "").strip().splitlines()[0] if self.cls.__doc__ else ""


def register(
    env_id: str,
    *,
    variants: Mapping[str, Mapping[str, Any]],
    flags: tuple[str, ...] = (),
) -> Callable[[_Env], _Env]:
    """Register a `TextEnv` subclass under a versioned id such as `"acme/Dice-v0"`.

    Args:
        env_id: `namespace/Name-vN`, or `namespace/suite/Name-vN`, which Gymnasium knows as `namespace-suite/Name-vN`.
        variants: Name -> class attributes that the variant overrides. `train` must be among them; `test` is
            by convention the same distribution as `train`, every other name is out of distribution.
        flags: What to know before a result is read, e.g. `guessable`.

    Raises:
        ValueError: A malformed id, an id already taken, variants that are no mapping of mappings, no `train` variant,
            or a variant that overrides an attribute which the class does not have.
    """
    gymnasium_id = env_id.replace("/", "-", 1) if env_id.count("/") == 2 else env_id
    namespace, name, version = parse_env_id(gymnasium_id)
    if not namespace or version is None:
        raise ValueError(f"'{env_id}' is no environment id; write it as namespace/Name-v0")
    if not isinstance(variants, Mapping) or not all(isinstance(one, Mapping) for one in variants.values()):
        raise ValueError(f'{env_id}: variants must map names to attributes, such as {{"train": {{}}, "test": {{}}}}')
    if "train" not in variants:
        raise ValueError(f"{env_id}: variants must contain 'train'")

    def decorate(cls: _Env) -> _Env:
        known = _SPECS.get(env_id)
        if known is not None and known.cls.__qualname__ != cls.__qualname__:
            raise ValueError(f"{env_id} is already registered by {known.cls.__module__}")
        for variant, overrides in variants.items():
            for attribute in overrides:
                if not hasattr(cls, attribute):
                    raise ValueError(f"{env_id}: variant '{variant}' sets '{attribute}', which {cls.__name__} lacks")
        cls.env_id = env_id
        cls.variants = {k: dict(v) for k, v in variants.items()}
        _SPECS[env_id] = EnvSpec(env_id, cls, tuple(variants), flags, gymnasium_id)
        if gymnasium_id in gymnasium.registry:
            del gymnasium.registry[gymnasium_id]
        gymnasium.register(id=gymnasium_id, entry_point=cls)  # type: ignore[arg-type]  # its protocol lacks `variant`
        return cls

    return decorate


def specs() -> list[EnvSpec]:
    """Return all registered environments, those of installed packages included, sorted by id."""
    _load_plugins()
    return [_SPECS[k] for k in sorted(_SPECS)]


def spec(env_id: str) -> EnvSpec:
    """Return one registered environment, by its id or the one that Gymnasium knows it by.

    Raises:
        UsageError: No such environment; the message names the nearest id.
    """
    if env_id not in _SPECS:
        _load_plugins()
    if env_id not in _SPECS:
        for known in _SPECS.values():
            if known.gymnasium_id == env_id:
                return known
        if broken := _load_plugins():
            raise UsageError(f"unknown environment '{env_id}'; {'; '.join(broken)}")
        raise unknown_name("environment", env_id, _SPECS, "palestra envs --all")
    return _SPECS[env_id]


def make(env_id: str, variant: str = "train", *, syntax: str | None = None) -> TextEnv:
    """Make an environment without Gymnasium's wrappers (they cost a quarter of a step).

    Args:
        env_id: `namespace/Name-vN`.
        variant: One of the environment's variants.
        syntax: How prompt and demonstrations write tool calls (`TextEnv.syntax`); None for the environment's own.

    Raises:
        UsageError: No such environment, variant or syntax.
    """
    env = spec(env_id).cls(variant=variant)
    if syntax is not None:
        if syntax not in SYNTAXES:
            raise unknown_name("tool-call syntax", syntax, SYNTAXES)
        env.syntax = syntax
    return env


@cache
def _load_plugins() -> list[str]:
    """Load the installed packages with environments; returns what was wrong with those that do not load."""
    broken = []
    for point in entry_points(group="palestra.envs"):
        try:
            point.load()
        except Exception as error:  # a broken plugin must not take the others down
            broken.append(f"the package '{point.value}' does not load: {type(error).__name__}: {error}")
            logger.warning("%s; its environments are missing", broken[-1])
            logger.debug("the package '%s' does not load", point.value, exc_info=True)
    return broken
