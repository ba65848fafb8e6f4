"""How cost grows with batch, depth and tokens: images per second and memory of training steps."""

from benchmarks import race
from jax_train.printing import say
from tests.parity.measure import ROOT

PICTURE = ROOT / "docs" / "images" / "growth.png"
_SIZES = (8, 32, 128, 512)
# What grows -> (values of it, case, changes to the recipe for a value).
AXES = {
    "batch": (_SIZES, "vit", lambda n: {"train.batch_size": n}),
    "blocks": ((2, 6, 12, 24), "vit", lambda n: {"model.depth": n, "train.batch_size": 32}),
    "tokens": (
        (16, 64, 256, 1024),
        "vit",
        lambda n: {"model.patch_size": int(32 / n**0.5), "train.batch_size": 8},
    ),
    "batch ": (_SIZES, "simple_cnn", lambda n: {"train.batch_size": n}),
}
SIDES = {"JAX": "jax", "PyTorch": "torch"}


def measure_and_draw(record: bool, quick: bool = False) -> str:
    """A table of all points; the picture too, if `record`. The first of each kind, if `quick`."""
    points = {}
    for axis, (values, case, changes) in AXES.items():
        for value in values[:1] if quick else values:
            job = {"case": case, "task": "train", "changes": changes(value), "batches": 2}
            got = _race(job | {"seconds": 0.7}, 1 if quick else 3)
            light = _race(job | {"memory": True, "limit": 0}, 1, allocator={})
            for name in got:
                points[axis, value, name] = got[name].median, light[name].peaks[-1]
            found = {name: points[axis, value, name] for name in got}
            say(f"{axis} {value} {found}")
    if record:
        _draw(points)
    return _table(points)


def _race(job, rounds, **how):
    return race.race({name: job | {"side": side} for name, side in SIDES.items()}, rounds, **how)


def _table(points) -> str:
    lines = [
        "| what grows | | JAX, images/s | PyTorch, images/s | ratio | JAX, MB | PyTorch, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for axis, value in dict.fromkeys((axis, value) for axis, value, _ in points):
        (ours, our_mb), (theirs, their_mb) = (points[axis, value, name] for name in SIDES)
        lines.append(
            f"| `{AXES[axis][1]}`, {axis.strip()} | {value} | {ours:,.0f} | {theirs:,.0f} "
            f"| {ours / theirs:.2f} | {our_mb:,.0f} | {their_mb:,.0f} |"
        )
    return "\n".join(lines)


def _draw(points) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(11, 5.2), layout="constrained")
    axes = figure.subplots(2, len(AXES), sharex="col")
    for column, (axis, (values, case, changes)) in enumerate(AXES.items()):
        batch = "" if "batch" in axis else f" (batch {changes(values[0])['train.batch_size']})"
        for row, ax in enumerate(axes[:, column]):
            for name, style in zip(SIDES, ("o-", "s--"), strict=True):
                ax.plot(values, [points[axis, v, name][row] for v in values], style, label=name)
            ax.set(xscale="log", yscale="log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter("{x:,.0f}")
            ax.set_xticks(values, map(str, values))
            ax.minorticks_off()
            ax.grid(alpha=0.3)
        axes[0, column].set_title(case)
        axes[1, column].set_xlabel(axis.strip() + batch)
    for ax, what in zip(axes[:, 0], ("images/s", "peak memory, MB"), strict=True):
        ax.set_ylabel(what)
    axes[0, 0].legend()
    figure.savefig(PICTURE, dpi=100)
