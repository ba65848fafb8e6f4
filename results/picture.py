"""Accuracy on CIFAR-10 against the operations of the training: ours, and published figures."""

from typing import NamedTuple

from matplotlib.ticker import NullLocator

from jax_train.drawing import canvas
from jax_train.drawing.results import COLOURS
from results.runs import ROOT

PICTURE = ROOT / "docs" / "images" / "accuracy_flops.png"
_TICKS = (40, 50, 60, 70, 80, 85, 90, 92, 94, 95, 96, 97)


class Published(NamedTuple):
    """A figure of others; operations are 6 · MACs · images, where they print none themselves."""

    name: str
    pflop: float
    top1: float
    is_vit: bool = True


# Of transformers the best epoch on the test images; of airbench means of at least 200 runs.
# https://github.com/SHI-Labs/Compact-Transformers, https://github.com/aanna0701/SPT_LSA_ViT,
# https://github.com/KellerJordan/cifar10-airbench
PUBLISHED = (
    Published("CCT-2/3x2", 2.0, 89.17),
    Published("CCT-4/3x2", 2.8, 91.45),
    Published("CCT-6/3x2", 14, 93.56),
    Published("CCT-7/3x1", 57, 94.78),
    Published("ViT-Lite-7/4", 14, 91.38),
    Published("SL-ViT", 18, 94.53),
    Published("airbench94 (Muon)", 0.29, 94.01, is_vit=False),
    Published("airbench95", 1.39, 95.01, is_vit=False),
    Published("airbench96", 4.91, 96.03, is_vit=False),
    Published("ResNet-18", 32.3, 96.0, is_vit=False),
)


def draw(ours: dict[str, tuple[float, float, bool]]) -> None:
    """Write the picture.

    Args:
      ours: by name of the recipe: PFLOP, mean top-1 in %, whether it is a transformer.
    """
    figure = canvas.new_figure(4.2, "CIFAR-10: accuracy against operations")
    axes = figure.subplots()
    points = [(p.name, p.pflop, p.top1, p.is_vit, "published") for p in PUBLISHED]
    points += [(name, *values, "here") for name, values in ours.items()]
    for whose, filled in (("here", True), ("published", False)):
        for is_vit, colour, mark in ((True, COLOURS[0], "o"), (False, COLOURS[1], "s")):
            chosen = [p for p in points if p[3:] == (is_vit, whose)]
            style = {"color": colour if filled else "white", "edgecolor": colour, "marker": mark}
            x, y = [p[1] for p in chosen], [100 - p[2] for p in chosen]
            label = f"{'ViTs' if is_vit else 'CNNs'}, {whose}"
            axes.scatter(x, y, label=label, zorder=3, **style)
    for name, x, y, _, whose in points:
        is_ours = whose == "here"
        up = _away([other[1] for key, other in ours.items() if is_ours and key != name], y)
        place, side = ((-6, up - 3), "right") if is_ours else ((5, 4), "left")
        axes.annotate(
            name, (x, 100 - y), xytext=place, textcoords="offset points", ha=side,
            size=canvas.SMALL - 1, weight="bold" if is_ours else "normal", parse_math=False,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yscale("log")  # of what is wrong: half as many errors are the same step everywhere
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_yticks([100 - top1 for top1 in _TICKS], [str(top1) for top1 in _TICKS])
    errors = [100 - p[2] for p in points]
    axes.set_ylim(1.2 * max(errors), min(errors) / 1.2)
    axes.set_xlim(min(p[1] for p in points) / 30, max(p[1] for p in points) * 3)
    axes.grid(alpha=0.3)
    canvas.name_axes(axes, "PFLOP of the training", "top-1 on test images, %")
    axes.legend(fontsize=canvas.SMALL, loc="lower right")
    canvas.save_figure(figure, PICTURE, 120)


def _away(others: list[float], y: float) -> int:
    """How many points a label is moved up, away from one at nearly the same height."""
    return 6 * sum(0 <= y - other < 1 for other in others) - 6 * sum(
        0 < other - y < 1 for other in others
    )
