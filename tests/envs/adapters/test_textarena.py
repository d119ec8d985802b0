"""TextArena's games: won by honest play, drawn without the global generator, and no game leaks into the next."""

import random
from itertools import product
from typing import Any

import pytest
from gymnasium.utils.env_checker import check_env

import palestra.envs.adapters  # noqa: F401  (registers them)
from palestra.envs import make, spec, specs
from palestra.envs.adapters import textarena
from palestra.envs.errors import MissingPrerequisiteError

pytest.importorskip("textarena")

GAMES = [s.id for s in specs() if s.id.startswith("palestra/ta/")]
ALL = [(game, variant) for game in GAMES for variant in spec(game).variants]


def play(env: Any, index: int, rng: random.Random) -> list[Any]:
    seen: list[Any] = [env.reset(options={"index": index})]
    over = False
    while not over:
        seen.append(env.step(env.random_action(rng)))
        over = seen[-1][2] or seen[-1][3]
    return seen


def test_five_games_are_registered() -> None:
    assert [g.removeprefix("palestra/ta/") for g in GAMES] == [
        "FrozenLake-v0",
        "GuessTheNumber-v0",
        "LightsOut-v0",
        "Mastermind-v0",
        "Sudoku-v0",
    ]


@pytest.mark.parametrize(("game", "variant"), ALL)
def test_the_oracle_wins_at_its_last_move(game: str, variant: str) -> None:
    env = make(game, variant)
    for index in range(1 if "Mastermind" in game else 3):
        env.reset(options={"index": index})
        steps = [env.step(turn) for turn in env.solve(env.task).turns]
        assert [step[1] for step in steps] == [0.0] * (len(steps) - 1) + [1.0]
        assert steps[-1][2:4] == (True, False)


@pytest.mark.parametrize("game", GAMES)
def test_random_play_hardly_ever_wins(game: str) -> None:
    env, rng = make(game), random.Random(0)
    assert sum(play(env, index, rng)[-1][1] for index in range(30)) < 3


@pytest.mark.parametrize("game", GAMES)
def test_episodes_neither_use_nor_move_the_global_generator(game: str) -> None:
    random.seed(7)
    before = random.getstate()
    first = play(make(game), 3, random.Random(1))
    assert random.getstate() == before
    random.seed(8)
    assert play(make(game), 3, random.Random(1)) == first


@pytest.mark.parametrize("game", GAMES)
def test_a_game_does_not_leak_into_the_next(game: str) -> None:
    env = make(game)
    prompt = env.reset(options={"index": 0})[0]
    play(env, 1, random.Random(0))
    assert env.reset(options={"index": 0})[0] == prompt


def test_games_in_two_threads_do_not_share_a_generator() -> None:
    one, other = make("palestra/ta/LightsOut-v0"), make("palestra/ta/Mastermind-v0")
    seen = one.reset(options={"index": 5})[0]
    other.reset(options={"index": 5})
    assert one.reset(options={"index": 5})[0] == seen


@pytest.mark.parametrize("game", GAMES)
def test_nonsense_is_answered_and_never_wins(game: str) -> None:
    env = make(game)
    for text in ("", "[]", "9" * 5_000, "[" * 90, "[0]", "[-1 -1]", "\x00", "[nan]", "٣ ٣ ٣"):
        env.reset(options={"index": 0})
        over = False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env._call_of(text))
            over = terminated or truncated
            assert reward == 0.0


def test_lights_are_put_out_by_the_fewest_presses() -> None:
    size = 3
    toggled = [textarena._toggled(i, size) for i in range(size * size)]
    for lights in range(0, 2 ** (size * size), 7):
        fewest = min(
            (sum(presses) for presses in product((0, 1), repeat=size * size) if _sum(presses, toggled) == lights),
            default=None,
        )
        found = textarena._solutions(toggled, lights)
        assert min((p.bit_count() for p in found), default=None) == fewest


def _sum(presses: tuple[int, ...], toggled: list[int]) -> int:
    lights = 0
    for pressed, cells in zip(presses, toggled, strict=True):
        lights ^= cells * pressed
    return lights


@pytest.mark.parametrize(
    ("guess", "code", "pegs"),
    [((1, 2, 3, 4), (1, 2, 3, 4), (4, 0)), ((1, 1, 2, 2), (2, 1, 1, 3), (1, 2)), ((5, 5, 5, 5), (1, 2, 3, 4), (0, 0))],
)
def test_pegs(guess: tuple[int, ...], code: tuple[int, ...], pegs: tuple[int, int]) -> None:
    assert textarena._pegs(guess, code) == pegs


def test_gymnasium_accepts_one() -> None:
    check_env(make("palestra/ta/LightsOut-v0"), skip_render_check=True)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textarena, "find_spec", lambda name: None)
    with pytest.raises(MissingPrerequisiteError, match="pip install"):
        make("palestra/ta/LightsOut-v0")


def test_no_lights_out_starts_solved() -> None:
    env = make("palestra/ta/LightsOut-v0")
    rng = random.Random(0)
    assert all("O" in env.sample(rng).key for _ in range(2_000))
