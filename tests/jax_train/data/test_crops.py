"""Photos of many sizes: streamed, their crops are of the whole files; in memory, of squares."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from jax_train import data
from jax_train import train as loop
from jax_train.data.boxes import DRAWS, draw_boxes
from jax_train.data.crops import Crops
from jax_train.engine import feed
from jax_train.engine.program import Program
from jax_train.engine.recipe import resolve
from jax_train.errors import UserError
from jax_train.runs import data_record, trained
from tests import tiny

SIZES = ((37, 23), (19, 53), (31, 31), (23, 61), (64, 20), (41, 37))  # width, height


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of six photos of six sizes; the colours say where a pixel was."""
    root = tmp_path_factory.mktemp("photos")
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir()
        for number, (width, height) in enumerate(SIZES):
            y, x = np.mgrid[:height, :width]
            pixels = np.stack([255 * y / height, 255 * x / width, 0 * x + 40 * number], -1)
            pixels[..., 2] += 7 * label
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    return root


def crops(epoch=3, **changes):
    how = {"seed": 11, "size": (9, 13), "area": (0.2, 0.6), "aspect": (0.75, 1.33)}
    return Crops(epoch=epoch, **{**how, "interpolation": "bicubic", **changes})


def streamed(photos, split="train"):
    return data.load(f"folder:{photos}", split, image_size=16, memory_limit=0)


def test_crops_are_of_the_whole_files(photos):
    split = streamed(photos)
    order = np.array([[3, 0, 7, 7], [11, 1, 2, 10]])
    found = [images for images, _ in split.batches(order, crops=crops(), threads=2)]
    for example, pixels in zip(order.ravel(), np.concatenate(found), strict=True):
        with Image.open(photos / split.names([example])[0]) as image:
            random = np.random.Philox(key=[11, 3], counter=[0, example, 0, 0]).random_raw(22)
            draws = ((random >> np.uint64(40)) / 2**24).astype(np.float32).reshape(DRAWS)
            box = draw_boxes(draws, image.height, image.width, (0.2, 0.6), (0.75, 1.33))
            top, left, height, width = box.tolist()
            part = image.crop((left, top, left + width, top + height))
            expected = np.asarray(part.resize((13, 9), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(pixels, expected)
    labels = np.concatenate([labels for _, labels in split.batches(order, crops=crops())])
    np.testing.assert_array_equal(labels, split.take(order.ravel())[1])
    assert split.image_shape == split.take(np.arange(2))[0].shape[1:] == (16, 16, 3)


def test_a_crop_depends_on_seed_epoch_and_example_alone(photos):
    def of(order, split="train", threads=1, **changes):
        found = streamed(photos, split).batches(order, crops=crops(**changes), threads=threads)
        return np.concatenate([images for images, _ in found])

    rows = np.arange(12)
    whole = of(rows[None])
    np.testing.assert_array_equal(of(rows[::-1].reshape(4, 3), threads=4), whole[::-1])
    np.testing.assert_array_equal(of(rows[None, 5:9]), whole[5:9])  # a share of the batch
    for changes in ({"epoch": 4}, {"seed": 12}):
        assert (of(rows[None], **changes) != whole).any((1, 2, 3)).all()
    halves = of(np.arange(6)[None], "train[:50%] by class")  # of views too
    assert halves.shape == (6, 9, 13, 3)


def test_only_files_that_are_resized_have_a_whole(photos, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (16, 16)).save(tmp_path / name / "1.png")
    as_they_are = data.load(f"folder:{tmp_path}", "train", memory_limit=0)
    assert not as_they_are.can_fit
    assert not data.load("digits", "train", memory_limit=0).can_fit
    assert streamed(photos).can_fit


def test_files_are_resized_by_the_interpolation_asked_for(photos, tmp_path):
    found = {}
    for name in (None, "bilinear", "bicubic", "nearest"):
        options = {"image_size": 8, "interpolation": name, "cache_dir": tmp_path}
        found[name] = data.load(f"folder:{photos}", "train", **options)
    split = found["bicubic"]
    with Image.open(photos / split.names([4])[0]) as image:
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        expected = np.asarray(image.resize((8, 8), Image.Resampling.BICUBIC, box=box))
    np.testing.assert_array_equal(split.images[4], expected)
    np.testing.assert_array_equal(found[None].images, found["bilinear"].images)
    assert (found["nearest"].images != found["bicubic"].images).any()


def recipe(photos, **changes):
    return tiny.config(
        "simple_cnn",
        **{
            "data.name": f"folder:{photos}",
            "data.image_size": 12,
            "data.interpolation": "bicubic",
            "data.memory_limit": 0.0,
            **{f"data.{name}_split": "train" for name in ("train", "val", "test")},
            "augment.crop_padding": 0,
            "augment.random_resized_crop": (0.3, 1.0),
            "augment.crop_size": 8,
            "augment.flip": True,
            "train.epochs": 1,
            "train.batch_size": 4,
            "eval.batch_size": 12,
            **changes,
        },
    )


def test_a_run_that_goes_on_sees_the_crops_it_would_have_seen(photos):
    config = recipe(photos)
    splits = loop.load(config)
    program = Program(resolve(config, splits), splits.train)
    training = feed.create_training(splits.train, program.layout, program.config)
    epochs = [
        [call.arguments[0].images for call in program.train_calls(training, epoch, 0)]
        for epoch in (0, 1)
    ]
    assert [images.shape for images in epochs[1]] == [(1, 4, 8, 8, 3)] * 3
    later = [call.arguments[0].images for call in program.train_calls(training, 1, 1)]
    for images, expected in zip(later, epochs[1][1:], strict=True):
        np.testing.assert_array_equal(images, expected)
    # A step crops them no more.
    inside = training.train_function(program.recipe, 1).args[0].augmentation
    images, keys = epochs[0][0][0], jax.random.split(jax.random.key(0), 4)
    mirrored = inside.evaluate(images[:, :, ::-1])
    trained_on = inside.train(images, None, keys)[0]
    whole = inside.evaluate(images)
    for one, pair in zip(trained_on, zip(whole, mirrored, strict=True), strict=True):
        assert any(np.array_equal(one, other) for other in pair)
    # Pixels of the same examples are other ones in another epoch.
    order = [np.argsort(np.ravel(program.order(epoch))) for epoch in (0, 1)]
    first, second = (np.concatenate(found, 1)[0] for found in epochs)
    changed = (first[order[0]] != second[order[1]]).any((1, 2, 3))
    assert changed.mean() > 0.8  # of a very long photo no box may fit: it is the central one


def batches(photos, places, **changes):
    """The training batches of an epoch of a process that supplies these places of each."""
    config = recipe(photos, **changes)
    splits = loop.load(config)
    order = Program(resolve(config, splits), splits.train).order(0)
    layout = SimpleNamespace(local_places=places, put_batch=lambda array, axis: array)
    calls = feed.create_training(splits.train, layout, config).train_calls(order, 0, 0, 1)
    return np.asarray(order)[:, 0], [batch for _, (batch,) in calls]


def test_processes_read_their_shares_of_the_same_batches(photos):
    """Of repeated images too, whose copies are on several processes."""
    how = {"augment.repeats": 3, "train.batch_size": 6}
    how["augment.random_resized_crop"] = (0.1, 0.25)  # that some box of the longest photo fits
    order, whole = batches(photos, np.arange, **how)
    shares = [
        batches(photos, lambda size, start=start: np.arange(size)[start : start + 2], **how)[1]
        for start in (0, 2, 4)
    ]
    for one, *parts in zip(whole, *shares, strict=True):
        np.testing.assert_array_equal(np.concatenate([p.images for p in parts], 1), one.images)
        np.testing.assert_array_equal(np.concatenate([p.labels for p in parts], 1), one.labels)
    for rows, batch in zip(order, whole, strict=True):
        copies = {row: batch.images[0, rows == row] for row in rows}
        assert {len(images) for images in copies.values()} == {3}
        assert all(len(np.unique(images, axis=0)) == 3 for images in copies.values())


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    """A run on streamed photos."""
    folder = tmp_path_factory.mktemp("run") / "run"
    loop.train(recipe(photos), folder)
    return folder


def test_what_trains_on_whole_files_says_so_and_stays_with_them(photos, run):
    assert data_record.read(run).cuts_whole_files
    assert trained.open_run(run).fit.keywords == {"size": (12, 12), "interpolation": "bicubic"}
    longer = recipe(photos, **{"train.epochs": 2, "data.memory_limit": 1.0})
    with pytest.raises(UserError, match=r"from whole files, .*memory_limit=0, as the run began"):
        loop.train(longer, run, extend=True)
