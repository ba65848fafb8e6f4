"""ONNX and StableHLO: each family in its runtime gives what the model gives."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from configs import common
from jax_train.engine import augment
from jax_train.engine.state import cast
from jax_train.errors import UserError
from jax_train.export import check, graph, model_folder, onnx_file, writing
from tests.jax_train.export.exporting import MODELS, run_of

FORMATS = {".onnx": ("jax2onnx", "onnxruntime"), ".stablehlo": ("flatbuffers",)}


def export(run, target, **how):
    for package in FORMATS[target.suffix]:
        pytest.importorskip(package)
    made = graph.build(run, **how)
    return made, writing.to_file(run, made, target, check.random_images(run))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_onnx_of_every_family(name, tmp_path):
    made, found = export(run_of(name), tmp_path / "model.onnx")
    assert 0 < found.largest < 2e-5
    assert found.equal == found.count
    assert list(made.outputs) == ["logits"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "cct_2_3x2"])
@pytest.mark.parametrize("ending", FORMATS)
def test_features_and_attention_of_raw_images(ending, name, tmp_path):
    run, target = run_of(name), tmp_path / f"model{ending}"
    made, found = export(run, target, uint8=True, features=True, attention=True)
    assert list(made.outputs) == ["logits", "features", "attention_0", "attention_1"]
    opened = writing.FILES[ending].open_file(target)
    pixels = check.random_images(run).pixels[:3]
    given = opened.run(pixels)
    np.testing.assert_allclose(given["logits"], run.logits(pixels), atol=1e-5)
    features = run.model.pooled_features(run.recipe.inputs(pixels))
    np.testing.assert_allclose(given["features"], features, atol=1e-5)
    np.testing.assert_allclose(given["attention_1"].sum(axis=-1), 1, atol=1e-5)
    assert found.largest < 2e-5


def test_a_file_of_onnx_says_what_it_holds(tmp_path):
    target = tmp_path / os.fsdecode(b"caf\xe9.onnx")
    run = dataclasses.replace(run_of("simple_cnn"), folder=Path(os.fsdecode(b"runs/caf\xe9")))
    export(run, target, uint8=True)
    import onnx

    model = onnx.load_from_string(target.read_bytes())
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["source"] == r"runs/caf\xe9"
    assert json.loads(facts["class_names"]) == list(run.class_names)
    assert int(facts["opset"]) == model.opset_import[0].version == onnx_file.OPSET
    assert {"jax", "flax", "jax2onnx", "onnxruntime"} <= json.loads(facts["versions"]).keys()
    assert json.loads(facts["images"])["dtype"] == "uint8"
    assert not {node.domain for node in model.graph.node} - {"", "ai.onnx"}


_WITH_JAX_ALONE = """
import sys
sys.path.append(sys.argv[2])  # of flatbuffers
for room in ("jax_models", "jax_train", "configs", "flax"):
    sys.modules[room] = None
import jax, numpy
with open(sys.argv[1], "rb") as file:
    exported = jax.export.deserialize(bytearray(file.read()))
images = numpy.load(sys.argv[1] + ".npy")
print(exported.platforms)
numpy.save(sys.argv[1] + ".logits.npy", exported.call(images)["logits"])
"""


def test_stablehlo_runs_with_jax_alone(tmp_path):
    flatbuffers = pytest.importorskip("flatbuffers")
    run, target = run_of("resnet18"), tmp_path / "model.stablehlo"
    _, found = export(run, target, uint8=True)
    assert found.equal == found.count
    facts = json.loads(target.with_name("model.stablehlo.json").read_text())
    assert facts["class_names"] == list(run.class_names)
    pixels = check.random_images(run).pixels[:5]
    np.save(f"{target}.npy", pixels)
    place = Path(flatbuffers.__file__).parents[1]
    command = [sys.executable, "-I", "-c", _WITH_JAX_ALONE, str(target), str(place)]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said.split("\n")[0] == "('cpu', 'cuda', 'tpu')"
    logits = np.load(f"{target}.logits.npy")
    np.testing.assert_allclose(logits, run.logits(pixels), atol=1e-5)


@pytest.mark.parametrize("ending", FORMATS)
def test_what_differs_is_not_kept(ending, tmp_path, monkeypatch):
    run, target = run_of("simple_cnn"), tmp_path / f"model{ending}"
    target.write_bytes(b"an older file")
    plain = graph.Graph.plain

    def wrong(self, images):
        return {"logits": plain(self, images)["logits"] * 1.01}

    monkeypatch.setattr(graph.Graph, "plain", wrong)
    with pytest.raises(UserError, match=r"differs from the model by .* in logits, more than 0\."):
        export(run, target)
    assert target.read_bytes() == b"an older file"
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize(("size", "allowed"), [(0.01, 1e-4), (1.0, 1e-4), (1000.0, 0.1)])
def test_what_may_differ_grows_with_large_outputs(size, allowed):
    expected = {"logits": size * np.linspace(-1, 0.5, 15, dtype=np.float32).reshape(3, 5)}
    inputs = np.arange(3)

    def compare(error):
        runtime = check.Runtime("it", lambda at: {"logits": expected["logits"][at] + error})
        return check.compare("model.onnx", runtime, expected, inputs)

    assert compare(0.9 * allowed).largest == pytest.approx(0.9 * allowed, rel=1e-3)
    for error in (1.1 * allowed, np.nan):
        with pytest.raises(UserError, match=f"in logits, more than {allowed:g}. Nothing is kept"):
            compare(error)


def test_images_of_a_run_that_cannot_be_read_are_told(monkeypatch):
    def read(places):
        return np.empty((0, 8, 8, 1), np.uint8), None, {0: "empty: 0 bytes"}

    images = check.features.Images("test of pets", ["cat/1.png"], (), read)
    monkeypatch.setattr(check.features, "of_split", lambda *_: images)
    record = SimpleNamespace(image_shape=(8, 8, 1))
    with pytest.raises(UserError, match=r"cat/1\.png \(empty: 0 bytes\)"):
        check.choose_images(SimpleNamespace(record=record, config=common.get_config()))


def test_without_room_for_the_facts_the_older_files_stay(tmp_path, monkeypatch):
    target = tmp_path / "model.stablehlo"
    older = {target: b"an older program", writing.beside(target): b"and its facts"}
    for path, content in older.items():
        path.write_bytes(content)

    def full_disk(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writing, "json_text", full_disk)
    with pytest.raises(UserError, match="No space left"):
        export(run_of("simple_cnn"), target)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == older


def test_one_image_is_compared_alone(tmp_path):
    # Not in ONNX: a batch without images would end the process of the tests.
    pytest.importorskip("flatbuffers")
    run, target = run_of("simple_cnn"), tmp_path / "model.stablehlo"
    alone = check.Images(check.random_images(run).pixels[:1], "the only image of test")
    found = writing.to_file(run, graph.build(run), target, alone)
    assert (found.equal, found.count) == (1, 1)
    assert found.largest < 2e-5


def test_a_folder_holds_a_model_whose_images_are_resized_before(tmp_path):
    run, config = run_of("resnet18"), common.get_config().augment
    side, _, channels = run.record.image_shape
    config.update(resize=side)
    steps = augment.build(config, run.config.data.mean, run.config.data.std)
    recipe, record = dataclasses.replace(run.recipe, augmentation=steps), run.record
    record = record._replace(image_shape=(side + 2, side + 2, channels))
    run = dataclasses.replace(run, recipe=recipe, record=record)
    made, images = graph.build(run), check.random_images(run)
    found = writing.to_folder(run, made, "huggingface", tmp_path / "model", images)
    assert found.largest < 2e-5
    assert found.equal == found.count


@pytest.mark.parametrize("ending", FORMATS)
def test_raw_images_are_resized_as_in_evaluation(ending, tmp_path):
    run, config = run_of("vit"), common.get_config().augment
    config.update(resize=17, crop_size=15)
    steps = augment.build(config, run.config.data.mean, run.config.data.std)
    recipe = dataclasses.replace(run.recipe, augmentation=steps)
    run = dataclasses.replace(run, recipe=recipe, record=run.record._replace(image_shape=(8, 9, 2)))
    made, found = export(run, tmp_path / f"model{ending}", uint8=True)
    assert made.image_shape == (8, 9, 2)
    assert found.largest < 2e-5


def test_a_run_in_float64_is_exported_in_float32(tmp_path):
    pytest.importorskip("flatbuffers")
    run = run_of("simple_cnn")
    with jax.enable_x64(True):
        params, stats = cast((run.params, run.stats), "float64")
        recipe = dataclasses.replace(run.recipe, dtype="float64")
        run = dataclasses.replace(run, params=params, stats=stats, recipe=recipe)
        with graph.in_float32():
            _, found = export(run, tmp_path / "model.stablehlo", uint8=True)
    opened = writing.FILES[".stablehlo"].open_file(tmp_path / "model.stablehlo")
    assert opened.run(check.random_images(run).pixels)["logits"].dtype == np.float32
    assert found.largest < 2e-5


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    run = run_of("simple_cnn")
    bias = run.params["head"]["layers"][0]["bias"]
    run.params["head"]["layers"][0]["bias"] = bias * np.nan
    with pytest.raises(UserError, match="not finite"):
        export(run, tmp_path / "model.stablehlo")
    assert not list(tmp_path.iterdir())


def test_more_than_a_file_of_onnx_holds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "_MOST_BYTES", 1000)
    with pytest.raises(UserError, match=r"GiB of weights.*\.stablehlo"):
        export(run_of("simple_cnn"), tmp_path / "model.onnx")


def test_a_model_without_a_head_gives_features(tmp_path):
    pytest.importorskip("flatbuffers")
    run = run_of("vit_tiny_patch16_224", num_classes=0)
    made, found = export(run, tmp_path / "model.stablehlo")
    assert list(made.outputs) == ["features"]
    assert found.equal is None
    assert "classification" not in model_folder._card(run, "huggingface")


def test_jax_keeps_its_own_functions(capfd):
    """The converter replaces some of JAX's functions while it traces, and talks."""
    pytest.importorskip("jax2onnx")
    before = jax.nn.softmax, jax.nn.gelu, jax.numpy.concatenate
    run = run_of("mnist_cnn")
    onnx_file.encode(graph.build(run), "mnist_cnn", {"versions": {}})
    assert (jax.nn.softmax, jax.nn.gelu, jax.numpy.concatenate) == before
    assert capfd.readouterr() == ("", "")


def test_a_conversion_leaves_jax_as_it_was():
    pytest.importorskip("jax2onnx")
    before = dict(vars(jax.numpy))
    onnx_file._converter()
    assert all(vars(jax.numpy)[name] is value for name, value in before.items())
    np.testing.assert_array_equal(jax.numpy.cumsum(np.ones(3), 0), [1, 2, 3])
