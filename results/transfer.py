"""What a start from weights is worth: CIFAR-100's weights on 1, 10 and 100 % of CIFAR-10.

The settings were fixed before the first run. The same crops and flips, batches of 100; a run from
weights and one from scratch have equal steps.
"""

from pathlib import Path

from results import runs
from results.runs import ROOT, Run

PICTURE = ROOT / "docs" / "images" / "transfer.png"
PAGE = ROOT / "docs" / "finetuning.md"
SHARES = {"1 %": ("train[:1%]", 40), "10 %": ("train[:10%]", 10), "100 %": ("train", 2)}  # epochs
_FEW = "10 %"  # where ways to fine-tune are compared
_COMMON = {"log.progress": False, "data.val_split": "", "checkpoint.report": "last"}
_MODELS = {
    "resnet": ("resnet18_cifar10", {"model.widths": "(16,32,64,128)"}),
    "vit": (
        "vit_tiny_cifar10",
        {"model.embed_dim": 96, "model.depth": 6, "model.num_heads": 3, "model.drop_path": 0}
        | {"optim.learning_rate": 1e-3, "optim.weight_decay": 0.05},
    ),
}
_TITLES = {"resnet": "ResNet-18, 16 to 128 wide", "vit": "ViT, 6 blocks of width 96, 4×4 patches"}
_PRETRAINING = {
    "resnet": {"train.epochs": 11, "schedule.warmup_epochs": 1},
    "vit": {"train.epochs": 10},
}
_FROM_WEIGHTS = {"resnet": {"optim.learning_rate": 0.02}, "vit": {"optim.learning_rate": 3e-4}}
_HEAD_RATE = {"resnet": {"optim.learning_rate": 0.1}, "vit": {"optim.learning_rate": 3e-3}}
_SCRATCH, _ALL = "from scratch", "from weights"
_WAYS = {
    "layer decay 0.75": {"optim.layer_decay": 0.75},
    "head alone for 3 epochs, then all": {"train.probe_epochs": 3},
    "head alone": {"train.freeze": "('^(?!head)',)"},
    "LoRA of rank 8, and the head": {"model.lora_rank": 8},
}


def all_runs(models: list[str], data_dir: str | None, folder: Path) -> list[Run]:
    """The runs of some of the models, each model's pretraining first."""
    where = {} if data_dir is None else {"data.data_dir": data_dir}
    found = []
    for model in models:
        found += [_pretraining(model, where), *_trials(model, where, folder).values()]
    return found


def _pretraining(model: str, where: dict) -> Run:
    recipe, sizes = _MODELS[model]
    data = {"data.name": "cifar100", "data.train_split": "train"}
    fields = _COMMON | where | sizes | data | _PRETRAINING[model]
    return Run(f"{model}_cifar100", recipe, fields)


def _trials(model: str, where: dict, folder: Path) -> dict[tuple[str, str], Run]:
    """By share of the training images and what is done."""
    recipe, sizes = _MODELS[model]
    weights = {"model.init_from": folder / f"{model}_cifar100"} | _FROM_WEIGHTS[model]
    found = {}
    for share, (split, epochs) in SHARES.items():
        ways = {_SCRATCH: {}, _ALL: weights}
        if share == _FEW:
            ways |= {way: weights | _of_way(model, way) for way in _WAYS if _has(model, way)}
        data = {"data.train_split": split, "train.epochs": epochs, "train.batch_size": 100}
        data["schedule.warmup_epochs"] = epochs / 10
        for way, fields in ways.items():
            name = "_".join([model, share.split()[0], *way.split(",")[0].split()])
            found[share, way] = Run(name, recipe, _COMMON | where | sizes | data | fields)
    return found


def _has(model: str, way: str) -> bool:
    """A ResNet's convolutions are no matrices for LoRA."""
    return model == "vit" or not way.startswith("LoRA")


def _of_way(model: str, way: str) -> dict:
    alone = _HEAD_RATE[model] if way in ("head alone", "LoRA of rank 8, and the head") else {}
    return _WAYS[way] | alone


def record(folder: Path) -> str:
    """Draw the picture of finished runs, and return their tables."""
    figures = {
        model: {key: runs.read(run, folder) for key, run in _trials(model, {}, folder).items()}
        for model in _MODELS
    }
    pretrained = {model: runs.read(_pretraining(model, {}), folder) for model in _MODELS}
    _draw(figures)
    return "\n\n".join([_of_shares(figures), _of_ways(figures), _told(pretrained, figures)])


def _percent(results: dict) -> str:
    return f"{results['test']['top1']:.2%}"


def _of_shares(figures: dict) -> str:
    lines = ["| model | | " + " | ".join(SHARES) + " |", "|---|---|" + "---|" * len(SHARES)]
    for model, found in figures.items():
        for way in (_SCRATCH, _ALL):
            cells = " | ".join(_percent(found[share, way]) for share in SHARES)
            lines.append(f"| {_TITLES[model]} | {way} | {cells} |")
    return "\n".join(lines)


def _of_ways(figures: dict) -> str:
    lines = [f"| {_FEW} of the images, ways to fine-tune | ResNet | ViT |", "|---|---|---|"]
    for way in (_ALL, *_WAYS):
        cells = [
            _percent(found[_FEW, way]) if (_FEW, way) in found else "–"
            for found in figures.values()
        ]
        lines.append(f"| {'all, one rate' if way == _ALL else way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _told(pretrained: dict, figures: dict) -> str:
    steps = ", ".join(f"{figures['vit'][share, _ALL]['steps']:,}" for share in SHARES)
    reached = " and ".join(_percent(results) for results in pretrained.values())
    first = next(iter(pretrained.values()))
    versions = ", ".join(f"{name} {first['versions'][name]}" for name in ("jax", "flax"))
    return (
        f"Top-1 on CIFAR-10's test images after {steps} steps; one seed. The weights had {reached} "
        f"on CIFAR-100 ({versions}, {first['device']})."
    )


def _draw(figures: dict) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots(1, len(figures), sharey=True)
    for ax, (model, found) in zip(axes, figures.items(), strict=True):
        for way, style in ((_ALL, "o-"), (_SCRATCH, "s--")):
            tops = [100 * found[share, way]["test"]["top1"] for share in SHARES]
            ax.plot([500, 5000, 50000], tops, style, label=way)
        ax.set(xscale="log", title=_TITLES[model], xlabel="training images of CIFAR-10")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("top-1 on test images, %")
    axes[0].legend()
    figure.savefig(PICTURE, dpi=120)
