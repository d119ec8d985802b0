"""`palestra quickstart`: the whole path on one small organism, end to end."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

if TYPE_CHECKING:
    from palestra.eval.comparison import Comparison

ENV = "palestra/StringCompose-v0"
ORGANISM = "string-atoms"
VARIANTS = ("test", "mixed", "level-3", "held-out")


class Size(NamedTuple):
    """How much is trained and sampled. Both arms see `steps` x 32 x 8 episodes."""

    steps: int
    problems: int
    samples: int


FULL = Size(steps=100, problems=120, samples=64)
QUICK = Size(steps=4, problems=20, samples=8)


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("quickstart")(quickstart)


def quickstart(
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for everything; an interrupted run resumes. [default: runs/quickstart]"),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Training seeds; from 2 on, intervals over seeds are shown.", min=1)] = 1,
    quick: Annotated[bool, typer.Option(help="Try the path in small: shows that it works, and nothing else.")] = False,
) -> None:
    """Build a small model, train it by SFT and by GRPO, and compare both with where they started.

    SFT and GRPO start from the same organism and train on the same number of episodes of the same tasks;
    the three are then sampled on new problems, in and out of distribution.
    """
    size = QUICK if quick else FULL
    out = out or Path("runs/quickstart-quick" if quick else "runs/quickstart")
    start = time.perf_counter()
    comparisons = [_one_seed(out / f"seed-{seed}", seed, size) for seed in range(seeds)]
    if seeds > 1:
        _over_seeds(comparisons, out)
    if quick:
        _say("--quick trains and samples next to nothing: this shows that the path works, and nothing else")
    _next_steps(out, time.perf_counter() - start)


def _one_seed(out: Path, seed: int, size: Size) -> "Comparison":
    from palestra.cli.evaluate import run_eval
    from palestra.cli.organism import build_cached
    from palestra.cli.train import run_arm
    from palestra.eval.compare import compare_runs
    from palestra.eval.report import write_report
    from palestra.eval.settings import EvalSettings
    from palestra.eval.tables import print_comparison
    from palestra.rl.settings import SFTSettings, TrainSettings

    _say(f"1/4 the base: organism {ORGANISM}, seed {seed}")
    base = build_cached(ORGANISM, seed)
    rl = TrainSettings(model=str(base), env=ENV, out=out / "rl", seed=seed, steps=size.steps, prompts=32)
    episodes = rl.steps * rl.prompts * rl.group_size
    _say(f"2/4 SFT on {episodes} demonstrations")
    run_arm(
        "sft", SFTSettings(model=str(base), env=ENV, out=out / "sft", seed=seed, episodes=episodes, save_every=200)
    )
    _say(f"3/4 GRPO on {episodes} episodes")
    run_arm("train", rl)
    _say(f"4/4 sampling {size.samples} episodes of {size.problems} new problems per model and variant")
    models = {"base": base, "sft": out / "sft", "rl": out / "rl"}
    for label, model in models.items():
        run_eval(
            EvalSettings(
                model=str(model),
                env=ENV,
                variant=VARIANTS,
                samples=size.samples,
                problems=size.problems,
                out=out / "eval" / label,
                seed=seed,
            )
        )
    comparison = compare_runs([out / "eval" / label for label in models])
    print_comparison(comparison)
    _say(f"report: {write_report(comparison, out / 'report.html')}")
    return comparison


def _over_seeds(comparisons: list["Comparison"], out: Path) -> None:
    from rich.console import Console

    from palestra.envs.folders import write_json
    from palestra.eval.over_seeds import differences_over_seeds, seeds_table

    found = differences_over_seeds(comparisons, comparisons[0].shown_ks)
    Console().print(seeds_table(found))
    write_json(out / "over-seeds.json", json.loads(json.dumps([row._asdict() for row in found])))


def _next_steps(out: Path, seconds: float) -> None:
    _say(
        f"done in {seconds / 60:.1f} min. What to try next:\n"
        f"  palestra quickstart --seeds 3                      how much of this is the training seed?\n"
        f"  palestra train --model {ORGANISM} --env {ENV} --algo dapo --reward both --out runs/dapo\n"
        f"  palestra eval --model {out}/seed-0/rl --env {ENV} --variant level-3 --out runs/deeper\n"
        f"  palestra envs                                      what else can be trained on"
    )


def _say(text: str) -> None:
    typer.echo(text, err=True)
