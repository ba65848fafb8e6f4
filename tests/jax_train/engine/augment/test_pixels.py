"""What policies choose from beside Pillow's own functions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jax_train.engine.augment import affine, pixels
from tests.jax_train.engine.augment import torchvision_reference

HEIGHT, WIDTH = 31, 43
at_once, one_by_one = (
    jax.jit(how, static_argnums=3) for how in (pixels._at_once, pixels._one_by_one)
)
FILL = np.array([37, 137, 237], np.uint8)


def pillow_affine(*matrix):
    def run(image, resample=Image.Resampling.NEAREST):
        fill = tuple(FILL.tolist()) if image.mode == "RGB" else int(FILL[0])
        return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=fill)

    return run


def pillow_rotate(degrees):
    def run(image, resample=Image.Resampling.NEAREST):
        fill = tuple(FILL.tolist()) if image.mode == "RGB" else int(FILL[0])
        return image.rotate(degrees, resample, fillcolor=fill)

    return run


PILLOW = {
    "Identity": lambda _: lambda image: image,
    "ShearX": lambda x: pillow_affine(1, x, 0, 0, 1, 0),
    "ShearY": lambda x: pillow_affine(1, 0, 0, x, 1, 0),
    "TranslateX": lambda x: pillow_affine(1, 0, x, 0, 1, 0),
    "TranslateY": lambda x: pillow_affine(1, 0, 0, 0, 1, x),
    "Rotate": pillow_rotate,
    "AutoContrast": lambda _: ImageOps.autocontrast,
    "Equalize": lambda _: ImageOps.equalize,
    "Invert": lambda _: ImageOps.invert,
    "Posterize": lambda x: lambda image: ImageOps.posterize(image, int(x)),
    "Solarize": lambda x: lambda image: ImageOps.solarize(image, x),
    "SolarizeAdd": lambda x: (
        lambda image: image.point(
            [min(255, i + int(x)) if i < 128 else i for i in range(256)] * len(image.getbands())
        )
    ),
    "Brightness": lambda x: lambda image: ImageEnhance.Brightness(image).enhance(x),
    "Contrast": lambda x: lambda image: ImageEnhance.Contrast(image).enhance(x),
    "Color": lambda x: lambda image: ImageEnhance.Color(image).enhance(x),
    "Sharpness": lambda x: lambda image: ImageEnhance.Sharpness(image).enhance(x),
}
_FACTORS = (0.0, 0.1, 0.37, 0.73, 1.0, 1.27, 1.9)
ARGUMENTS = {
    **dict.fromkeys(("Identity", "AutoContrast", "Equalize", "Invert"), (0.0,)),
    **dict.fromkeys(("ShearX", "ShearY"), (-0.99, -0.27, 0.1, 0.3)),
    **dict.fromkeys(("TranslateX", "TranslateY"), (-32.0, -7.0, 3.0, 14.0, 40.0)),
    "Rotate": (-135.0, -90.0, -27.0, 4.5, 30.0, 45.0, 180.0),
    "Posterize": (1.0, 4.0, 7.0, 8.0),
    "Solarize": (0.0, 76.5, 178.5, 255.0, 256.0),
    "SolarizeAdd": (0.0, 55.0, 110.0),
    **dict.fromkeys(("Brightness", "Contrast", "Color", "Sharpness"), _FACTORS),
}
TRIED = [(name, argument) for name, arguments in ARGUMENTS.items() for argument in arguments]
CLOSE = (
    "AutoContrast",
    "Brightness",
    "Contrast",
    "Color",
    "Sharpness",
)  # to a level, in few pixels


def pictures():
    """A smooth one, noise, one of few dark levels, and one of a single level."""
    smooth, noise = torchvision_reference.images()
    dark = smooth // 16 + 3
    return {"smooth": smooth, "noise": noise, "dark": dark, "flat": np.full_like(dark, 91)}


def described(tried, bits, cubic=False):
    kind = np.array([pixels.NUMBERS[name] for name, _ in tried])
    argument = np.array([argument for _, argument in tried])
    return pixels.describe(kind, argument, (HEIGHT, WIDTH), bits, cubic)


def as_pillow(image, function):
    image = image[..., 0] if image.shape[-1] == 1 else image
    return np.asarray(function(Image.fromarray(image))).reshape(HEIGHT, WIDTH, -1)


def test_every_operation_is_tried():
    assert set(ARGUMENTS) == set(PILLOW) == set(pixels.NAMES)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("picture", ["smooth", "noise", "dark", "flat"])
def test_an_operation_is_pillows(picture, channels):
    image = pictures()[picture][..., :channels]
    images = jnp.broadcast_to(image, (len(TRIED), *image.shape))
    how = images, described(TRIED, affine.NEAREST), FILL[:channels], False
    got = at_once(*how)
    assert got.dtype == jnp.uint8
    np.testing.assert_array_equal(one_by_one(*how), got)
    for (name, argument), ours in zip(TRIED, np.asarray(got, int), strict=True):
        theirs = as_pillow(image, PILLOW[name](argument))
        if name in CLOSE:
            gap = np.abs(ours - theirs)
            assert gap.max() <= 1, (name, argument)
            equal = 0.9 if name == "AutoContrast" else 0.999
            assert (gap == 0).mean() > equal, (name, argument)
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=f"{name} {argument}")


MOVED = [(name, argument) for name, argument in TRIED if name in pixels.NAMES[1:6]]
MOVED += [("TranslateX", 5.37), ("TranslateY", -2.81), ("Rotate", 0.0)]


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
def test_a_filtered_map_is_pillows_to_one_level(how):
    tried = [pair for pair in MOVED if abs(pair[1]) != 90]  # those Pillow transposes, if square
    bits = affine.filter_bits(HEIGHT, WIDTH)
    matrices = described(tried, bits, how == "bicubic")
    for image in list(pictures().values())[:2]:
        images = jnp.broadcast_to(image, (len(tried), *image.shape))
        got = at_once(images, matrices, FILL, True)
        np.testing.assert_array_equal(one_by_one(images, matrices, FILL, True), got)
        for (name, argument), ours in zip(tried, np.asarray(got, int), strict=True):
            function = functools.partial(
                PILLOW[name](argument), resample=Image.Resampling[how.upper()]
            )
            gap = np.abs(ours - as_pillow(image, function))
            assert gap.max() <= 1, (name, argument)
            assert (gap == 0).mean() > 0.95, (name, argument)


def test_what_the_step_describes_is_what_is_worked_out_beforehand():
    bits = affine.filter_bits(HEIGHT, WIDTH)
    kind = jnp.array([pixels.NUMBERS[name] for name, _ in TRIED])
    argument = jnp.array([argument for _, argument in TRIED], jnp.float32)
    ours = pixels.describe(kind, argument, (HEIGHT, WIDTH), bits, xp=jnp)
    exact = described(TRIED, bits)
    np.testing.assert_array_equal(ours.kind, exact.kind)
    assert np.abs(ours.amount - exact.amount).max() <= 1
    assert np.abs(ours.matrix - exact.matrix).max() < 1e-5 * 2**bits
    assert {part.dtype for part in ours[:3]} == {jnp.dtype("int32")}


def test_all_is_whole_numbers_so_layouts_cannot_round_differently():
    images, changes = jnp.asarray(torchvision_reference.images()), described(TRIED[:2], 20)
    program = jax.make_jaxpr(pixels._at_once, static_argnums=3)(images, changes, FILL, True)
    # But the counts of a histogram, which float32 holds exactly.
    floats = [
        equation.primitive.name
        for equation in program.eqns
        if any(v.aval.dtype.kind == "f" for v in equation.outvars if hasattr(v.aval, "dtype"))
    ]
    assert set(floats) <= {"convert_element_type", "dot_general", "transpose", "reshape"}
