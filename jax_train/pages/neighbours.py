"""The page of nearest neighbours: `python -m jax_train features --nearest`."""

from collections.abc import Iterable

import numpy as np

from jax_train.analysis.features import Features, Images
from jax_train.pages.page import Page
from jax_train.printing import counted, readable


def write(
    queries: Images,
    near: Iterable[tuple[np.ndarray, np.ndarray]],
    known: Features,
    images: Images,
    page: Page,
) -> str:
    """Write the page; return a line that says where it is.

    Args:
      queries: M images.
      near: of some of them after others the cosines [m,k] and places [m,k] of what is nearest,
        as `probes.neighbours` has them.
      known: features of the N images that were searched.
      images: these.
      page: to be written.

    Raises:
      UserError: nothing can be written there.
    """
    pairs = [pair for part in near for pair in zip(*part, strict=True)]
    pixels, _, _ = queries.read(np.arange(len(pairs)))
    shown = []
    for number, (cosines, places) in enumerate(pairs):
        name = queries.names[number]
        image = page.thumbnail(f"image_{number:03}", pixels[number], f"Image {readable(name)}")
        neighbours = list(_neighbours(number, cosines, places, known, images, page))
        shown.append({"name": name, "image": image, "neighbours": neighbours})
    return page.write(
        "neighbours.html",
        title=f"Nearest neighbours in {known.data}",
        model=f"{known.model} of {known.source}",
        facts=f"{counted(len(known.names), 'image')} searched",
        queries=shown,
    )


def _neighbours(number: int, cosines, places, known: Features, images: Images, page: Page):
    """What the template shows of the neighbours of an image."""
    pixels, _, _ = images.read(places)
    for rank, (cosine, place) in enumerate(zip(cosines, places, strict=True), start=1):
        name, label = known.names[place], None
        if known.labels is not None:
            label = known.class_names[known.labels[place]]
        alt = f"Neighbour {rank}: {readable(name)}"
        image = page.thumbnail(f"image_{number:03}_{rank:03}", pixels[rank - 1], alt)
        yield {"name": name, "label": label, "cosine": f"{cosine:.3f}", "image": image}
