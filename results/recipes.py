"""What the recipes reach: trained by several seeds, and told in docs/results.md.

Of each recipe a file in `records/`, by seed: how it was trained, and what it reached on the test
images with the weights that it reports, the last or the best on validation images.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

from jax_train.files import json_text, write_atomically
from jax_train.printing import say, significant
from results import runs
from results.runs import ROOT, Run

PAGE = ROOT / "docs" / "results.md"
RECORDS = Path(__file__).parent / "records"


@dataclass(frozen=True)
class Recipe:
    """A recipe and what its source reports.

    Attributes:
      source: figure on the test images, for people.
      fields: what is set beside it.
      tta: views that the result is averaged over, as of `evaluate --tta`; () for none.
      name: of the file in `configs/`, if the row has another name.
    """

    source: str
    fields: dict[str, object] = field(default_factory=dict)
    tta: tuple[str, ...] = ()
    name: str | None = None


_BELOW = (
    "Top-1 on test images, the mean over n seeds ± the deviation of a sample; PFLOP of the "
    "training by XLA's count of the compiled step, where an addition counts as one; memory of the "
    "process at its peak."
)
_CNNS = "cnn", "attention_cnn", "resnet", "airbench"
_BFLOAT16: dict[str, object] = {"dtype": "bfloat16"}
_AIRBENCH = {"tta": ("airbench",)}
RECIPES = {
    "vit_cifar10": Recipe("–"),
    "cnn_cifar10": Recipe("–"),
    "vit_cifar10_bfloat16": Recipe("–", _BFLOAT16, name="vit_cifar10"),
    "cnn_cifar10_bfloat16": Recipe("–", _BFLOAT16, name="cnn_cifar10"),
    "attention_cnn_cifar10": Recipe("68 %"),
    "attention_cnn_cifar10_bfloat16": Recipe("68 %", _BFLOAT16, name="attention_cnn_cifar10"),
    "raster_vit_cifar10": Recipe("52 %"),
    "deep_vit_cifar10": Recipe("78.8 %"),
    "mlp_head_vit_cifar100": Recipe("about 50 %"),
    "deep_vit_muon_cifar10": Recipe("78.8 % (180 epochs)"),
    "mlp_head_vit_muon_cifar100": Recipe("about 50 % (100 epochs)"),
    "cnn_mnist": Recipe("98 %"),
    "vit_mnist": Recipe("90 %"),
    "vit_digits": Recipe("–"),
    "cnn_digits": Recipe("–"),
    "resnet18_cifar10": Recipe("93.02 %"),
    "cct2_cifar10": Recipe("89.17 %, best epoch on test"),
    "cct2_cifar100": Recipe("66.90 %, best epoch on test"),
    "cct_muon_cifar10": Recipe("–"),
    "cct_muon_cifar100": Recipe("–"),
    "airbench_mnist": Recipe("–"),
    "sl_vit_cifar10": Recipe("94.53 %, best epoch on test"),
    "airbench94_muon_cifar10": Recipe("94.01 % (n = 200)", **_AIRBENCH),
    "airbench94_muon_cifar10_9_epochs": Recipe(
        "–", {"train.epochs": 9}, **_AIRBENCH, name="airbench94_muon_cifar10"
    ),
    "airbench94_cifar10": Recipe("94.01 % (n = 1,000)", **_AIRBENCH),
    "airbench95_cifar10": Recipe("95.01 % (n = 200)", **_AIRBENCH),
    "airbench96_cifar10": Recipe("96.03 % (n = 400)", **_AIRBENCH),
}


def train(names: Iterable[str], seeds: Iterable[int], data_dir: str | None, folder: Path) -> None:
    """Train recipes, or go on with them, and write their records.

    Args:
      names: of `RECIPES`.
      seeds: the runs of each.
      data_dir: as of `config.data.data_dir`.
      folder: of all run folders, absolute.
    """
    RECORDS.mkdir(exist_ok=True)
    for seed in seeds:
        for name in names:
            recipe, record = RECIPES[name], read(name)
            if str(seed) in record:
                continue
            run = run_of(name, recipe, seed, data_dir)
            peak = runs.carry_out([run], folder)[run.name]
            record[str(seed)] = figures(folder / run.name, recipe.tta) | {"peak_bytes": peak}
            write_atomically(_file(name), json_text(record, indent=2) + "\n")
            say(f"{name}, seed {seed}: {record[str(seed)]['top1']:.2%}")


def run_of(
    name: str, recipe: Recipe, seed: int, data_dir: str | None, changes: dict | None = None
) -> Run:
    """The run of a recipe by a seed; `changes` are fields that are set besides."""
    where = {} if data_dir is None else {"data.data_dir": data_dir}
    fields = {"seed": seed, "log.progress": False} | where | recipe.fields | (changes or {})
    return Run(f"{name}/seed-{seed}", recipe.name or name, fields)


def _file(name: str) -> Path:
    return RECORDS / f"{name}.json"


def read(name: str) -> dict[str, dict]:
    """The record of a recipe, by seed; empty before the first run is finished."""
    return json.loads(_file(name).read_text()) if _file(name).exists() else {}


def figures(workdir: Path, tta: tuple[str, ...]) -> dict:
    """What a finished run reached, and with what."""
    from jax_train.analysis import costs
    from jax_train.analysis.evaluation import evaluate
    from jax_train.runs.trained import open_run

    run = open_run(workdir)
    results = json.loads((workdir / "results.json").read_text())
    examples = run.split(run.config.data.test_split)
    flops = costs.flops(run, examples.image_shape)
    images = results["steps"] * run.config.train.batch_size
    plain = results["test"]["top1"]
    found = {key: results[key] for key in ("git_commit", "versions", "device", "parameters")}
    return found | {
        "epochs": results["epochs"],
        "seconds": results["seconds"],
        "train_flops": flops.train * images,
        "top1": evaluate(run, examples, tta).figures["top1"] if tta else plain,
        "top1_one_view": plain,
    }


def points() -> dict[str, tuple[float, float, bool]]:
    """Of each recipe for CIFAR-10 with a record: PFLOP, mean top-1 in %, whether it is a ViT."""
    records = {name: [*read(name).values()] for name in RECIPES if "cifar10_" in f"{name}_"}
    return {
        name.replace("_cifar10", ""): (
            found[0]["train_flops"] / 1e15,
            100 * fmean(one["top1"] for one in found),
            not name.startswith(_CNNS),
        )
        for name, found in records.items()
        if found
    }


def table() -> str:
    """A row of each recipe that has a record."""
    lines = [
        "| recipe | epochs | PFLOP | its source | here | n | minutes | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(name, list(record.values())) for name in RECIPES if (record := read(name))]
    return "\n".join([*lines, "", _BELOW])


def _row(name: str, found: list[dict]) -> str:
    tops = [100 * one["top1"] for one in found]
    reached = f"{fmean(tops):.2f}" + (f" ± {stdev(tops):.2f}" if len(tops) > 1 else "") + " %"
    first = found[0]
    cells = [
        f"`{name}`",
        str(first["epochs"]),
        significant(first["train_flops"] / 1e15, 3),
        RECIPES[name].source,
        f"**{reached}**",
        str(len(found)),
        significant(fmean(one["seconds"] for one in found) / 60, 2),
        _memory([one["peak_bytes"] for one in found]),
    ]
    return f"| {' | '.join(cells)} |"


def _memory(peaks: list[int | None]) -> str:
    """The largest of those that are known: not of runs that were finished before."""
    known = [peak for peak in peaks if peak is not None]
    return f"{max(known) / 1e6:,.0f} MB" if known else "–"
