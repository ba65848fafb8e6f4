"""Self-contained HTML pages: templates, and pictures that are part of the page.

A page needs no network and no other file; it may be sent around and is opened from disk.
"""

import base64
import functools
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jax_train.drawing.canvas import Picture
from jax_train.errors import UserError
from jax_train.files import write_atomically
from jax_train.printing import figure, printable, significant

_SPACE = "\N{NO-BREAK SPACE}"
_SMALL = 96  # pixels along the longer side of a thumbnail


@dataclass(frozen=True)
class Image:
    """A picture as a page holds it.

    Attributes:
      id: different for each of a page.
      src: data URI of a PNG.
      alt: what it shows, for those who cannot see it.
      width: pixels.
      height: pixels.
    """

    id: str
    src: str
    alt: str
    width: int
    height: int


class Page:
    """A page that is being put together.

    Args:
      path: of the HTML file.
      pictures_beside: write the pictures as PNG files too, into the folder of its name without
        `.html`.
    """

    def __init__(self, path: str | os.PathLike, pictures_beside: bool = True):
        self.path, self._count = Path(path), 0
        self.folder = self.path.with_suffix("") if pictures_beside else None

    def picture(self, picture: Picture) -> Image:
        """Take a picture, which is written beside the page, and return it for the page.

        Raises:
          UserError: the folder cannot be written.
        """
        assert self.folder is not None
        return self._embed(picture.save(self.folder).read_bytes(), picture.alt)

    def thumbnail(self, name: str, pixels: np.ndarray, alt: str) -> Image:
        """Take a small picture of an image, uint8 [H,W,C], and return it for the page.

        Raises:
          UserError: the folder cannot be written.
        """
        png = _small_png(pixels)
        if self.folder:
            _write(self.folder / f"{name}.png", png)
        return self._embed(png, alt)

    def _embed(self, png: bytes, alt: str) -> Image:
        from PIL import Image as Pillow

        self._count += 1
        with Pillow.open(io.BytesIO(png)) as image:
            width, height = image.size
        return Image(f"picture-{self._count}", data_uri(png), alt, width, height)

    def write(self, template: str, **values) -> str:
        """Fill a template in, write the page, and return a line that says where it is.

        Raises:
          UserError: the file cannot be written.
        """
        content = render(template, **values).encode()
        _write(self.path, content)
        beside = f"\n  its pictures: {self.folder}/" if self.folder else ""
        return f"{self.path} ({len(content) / 1e6:.1f} MB){beside}"


def render(template: str, **values) -> str:
    """A page, of a template that is filled in."""
    return _templates().get_template(template).render(values)


def data_uri(png: bytes) -> str:
    """A PNG as a page holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}. Choose another place.") from error


def _small_png(pixels: np.ndarray) -> bytes:
    """A PNG of about `_SMALL` pixels; small images are enlarged pixel by pixel."""
    from PIL import Image as Pillow

    image = _pillow_image(pixels)
    if (longer := max(image.size)) < _SMALL:
        size = [side * (_SMALL // longer) for side in image.size]
        image = image.resize(size, Pillow.Resampling.NEAREST)
    else:
        image.thumbnail((_SMALL, _SMALL))
    return _encoded(image, optimize=True)


def png_of(pixels: np.ndarray) -> bytes:
    """A PNG of an image, uint8 [H,W,C]; of channels that are no colours the mean."""
    return _encoded(_pillow_image(pixels))


def _pillow_image(pixels: np.ndarray):
    from PIL import Image as Pillow

    if pixels.shape[2] not in (1, 3):  # channels that are no colours
        pixels = pixels.mean(axis=2, keepdims=True).astype(np.uint8)
    return Pillow.fromarray(np.asarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))


def _encoded(image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


@functools.cache
def _templates():
    import jinja2

    loader, strict = jinja2.PackageLoader("jax_train.pages"), jinja2.StrictUndefined
    blocks = {"trim_blocks": True, "lstrip_blocks": True}
    look = {"autoescape": True, "finalize": _shown, **blocks}
    environment = jinja2.Environment(loader=loader, undefined=strict, **look)
    environment.filters |= {"percent": percent, "count": count}
    return environment


def _shown(value: object) -> object:
    """What a template writes; names of any form can be read, and what is markup stays it."""
    return printable(value) if type(value) is str else value


# Figures as text


def percent(share: float, digits: int = 1) -> str:
    """0.981 -> '98.1 %', which is not broken into two lines; '–' of no number."""
    return figure(100 * share, f".{digits}f") + f"{_SPACE}%" * math.isfinite(share)


def count(number: float | None) -> str:
    """1234567 -> '1,234,567'."""
    return figure(number, ",.0f")


def interval(low_high: tuple[float, float]) -> str:
    """(0.967, 0.9812) -> '96.7 to 98.1 %'."""
    low, high = low_high
    return f"{figure(100 * low, '.1f')} to {figure(100 * high, '.1f')}{_SPACE}%"


def metric(number: float, unit: str) -> str:
    """182185136, 'FLOP' -> '182 MFLOP'."""
    for power, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= power:
            return f"{significant(number / power, 3)}{_SPACE}{prefix}{unit}"
    return f"{significant(number, 3)}{_SPACE}{unit}"


def fields(flat: dict[str, object]) -> list[tuple[str, str]]:
    """Fields of a config with their values as text; None is what the model does not have."""
    return [(name, "–" if value is None else _plain(value)) for name, value in flat.items()]


def _plain(value) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value)) or "none"
    return str(value) if value != "" else "none"
