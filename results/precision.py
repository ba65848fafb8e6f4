"""Whether training in bfloat16 follows training in float32: five recipes in both, shortened."""

from pathlib import Path

from jax_train.drawing import canvas
from jax_train.drawing.results import COLOURS
from jax_train.runs.history import read_history
from results import runs
from results.runs import ROOT, Run

PICTURE = ROOT / "docs" / "images" / "bfloat16.png"
PAGE = ROOT / "docs" / "performance.md"
DTYPES = "float32", "bfloat16"
_COMMON = {"log.progress": False, "log.every_steps": 10, "checkpoint.report": "last"}
_FIFTH = {"data.train_split": "train[:20%]", "data.val_split": ""}
_SHORT = _FIFTH | {"schedule.warmup_epochs": 0.5, "train.batch_size": 100}
# What is set beside each recipe.
RECIPES = {
    "vit_digits": {},
    "vit_cifar10": _SHORT | {"train.epochs": 4},
    "cct2_cifar10": _SHORT | {"train.epochs": 6},
    "resnet18_cifar10": _SHORT | {"train.epochs": 2, "model.widths": "(32,64,128,256)"},
    "airbench94_muon_cifar10": _FIFTH | {"train.epochs": 4, "train.batch_size": 500},
}


def all_runs(data_dir: str | None) -> list[Run]:
    """Each recipe in float32, then in bfloat16."""
    where = {} if data_dir is None else {"data.data_dir": data_dir}
    return [_run(recipe, dtype, where) for recipe in RECIPES for dtype in DTYPES]


def _run(recipe: str, dtype: str, where: dict) -> Run:
    fields = _COMMON | where | RECIPES[recipe] | {"dtype": dtype}
    return Run(f"precision/{recipe}_{dtype}", recipe, fields)


def record(folder: Path) -> str:
    """Draw the curves of finished runs, and return a table of them."""
    _draw(folder)
    head = "| recipe, shortened | steps | float32 | bfloat16 | seconds | in bfloat16 |"
    lines = [head, "|---|---|---|---|---|---|"]
    for recipe in RECIPES:
        full, half = (runs.read(_run(recipe, dtype, {}), folder) for dtype in DTYPES)
        tops = " | ".join(f"{results['test']['top1']:.2%}" for results in (full, half))
        seconds = f"{full['seconds']:.0f} | {half['seconds']:.0f}"
        lines.append(f"| `{recipe}` | {full['steps']:,} | {tops} | {seconds} |")
    below = "Top-1 on test images and seconds of training with its start; one seed."
    picture = "![Training loss in float32 and bfloat16](images/bfloat16.png)"
    return "\n".join([*lines, "", below, "", picture])


def _draw(folder: Path) -> None:
    figure = canvas.new_figure(5.4, "Training loss in float32 and bfloat16")
    places = figure.subplots(2, 3).flat
    for axes, recipe in zip(places, RECIPES, strict=False):
        for dtype, colour, style in zip(DTYPES, COLOURS, ("-", "--"), strict=False):
            rows = read_history(folder / _run(recipe, dtype, {}).name).even_train
            axes.plot(rows[:, 0], rows[:, 1], style, color=colour, label=dtype)
        axes.set_title(recipe.replace("_cifar10", ""), fontsize=canvas.SMALL)
        axes.tick_params(labelsize=canvas.SMALL)
        axes.grid(alpha=0.3)
    last = figure.axes[-1]
    last.axis("off")
    last.legend(*figure.axes[0].get_legend_handles_labels(), loc="center", fontsize=canvas.SMALL)
    canvas.save_figure(figure, PICTURE, 120)
