"""Runs that start from weights: what follows from them, and that they are needed only once."""

import contextlib
import hashlib
import json
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image
from safetensors.numpy import load_file

import jax_models
from configs import common, finetune_cifar10, finetune_cifar100, finetune_folder
from jax_models import torch_weights
from jax_models.pretrained.adapt import adapt
from jax_models.pretrained.description import Description
from jax_models.pretrained.preprocessing import Preprocessing
from jax_train import __main__, checks, several
from jax_train.config.fields import flatten
from jax_train.engine.models import leave_out_sizes
from jax_train.engine.program import Program
from jax_train.engine.recipe import resolve
from jax_train.engine.state import Weights, split
from jax_train.errors import UserError
from jax_train.runs import folder as run_folder
from jax_train.runs import initial, trained, weights
from jax_train.runs.results import summary
from jax_train.saving import Saver
from jax_train.train import load, train
from tests import tiny
from tests.jax_models.pretrained import folders, loopback

pytestmark = pytest.mark.xdist_group("initial")
SIDE = 16  # two patches of the source's on a side, instead of four
SIZES = {"num_classes": 10, "img_size": SIDE, "in_channels": 1}
UNSET = dict.fromkeys(("patch_size", "embed_dim", "depth", "num_heads"))


def config(source, **changes):
    """Digits, shown to a source at 16 pixels in colours; an epoch of 4 steps."""
    fields = {f"model.{key}": value for key, value in UNSET.items()}
    fields |= {"model.name": "auto", "model.init_from": str(source), "model.img_size": SIDE}
    return tiny.config(**fields | {"train.epochs": 1} | changes)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Folders of timm and transformers, and a file."""
    root = tmp_path_factory.mktemp("sources")
    folders.timm(root / "timm")
    folders.hugging_face(root / "hf")
    folders.timm(root / "resnet", "resnet18")
    shutil.copy(root / "timm/model.safetensors", root / "vit.safetensors")
    return root


@contextlib.contextmanager
def killed_after(step):
    def killed(self, before, now):
        if now == step:
            raise KeyboardInterrupt
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saver, "is_due", killed)
        with contextlib.suppress(KeyboardInterrupt):
            yield
            pytest.fail("the run was not killed")


@pytest.fixture(scope="module")
def orphan(sources, tmp_path_factory):
    """A run that was killed in its first epoch and whose source is gone, and its config."""
    root = tmp_path_factory.mktemp("orphan")
    shutil.copytree(sources / "timm", root / "source")
    asked = config(root / "source")
    with killed_after(2):
        train(asked, root / "run")
    shutil.rmtree(root / "source")
    return root / "run", asked


def same(found, expected):
    trees = [tuple(tree) if isinstance(tree, Weights) else tree for tree in (found, expected)]
    found, expected = map(jax.tree.leaves_with_path, trees)
    assert [path for path, _ in found] == [path for path, _ in expected]
    for (path, a), (_, b) in zip(found, expected, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), path


def test_weights_are_in_the_folder_before_the_first_step(orphan, sources):
    run = trained.open_run(orphan[0])
    assert run.step == 0
    same(
        (run.params, run.stats),
        split(jax_models.load_pretrained(sources / "timm", **SIZES).model)[1],
    )
    assert not np.any(np.asarray(run.model.head.layers[0].kernel[...]))


def test_all_that_follows_from_weights_is_in_the_config(orphan, sources):
    found = json.loads((orphan[0] / "config.json").read_text())
    model = found["model"]
    weights = (sources / "timm/model.safetensors").read_bytes()
    assert model["init_sha256"] == hashlib.sha256(weights).hexdigest()
    assert model["init_revision"] is None
    assert model["init_from"] == str(orphan[0].parent / "source")
    assert model["name"] == "vit_tiny_patch16_224"
    expected = folders.VIT | SIZES
    del expected["num_heads"]  # as many as the name says
    assert {key: model[key] for key in expected} == expected
    assert found["augment"]["resize"] == SIDE
    # Of one channel, the mean of the three.
    np.testing.assert_allclose(found["data"]["mean"], [np.mean(folders.IMAGENET["mean"])])
    np.testing.assert_allclose(found["data"]["std"], [np.mean(folders.IMAGENET["std"])])


def test_without_its_source_a_run_is_predicted_with_and_converted(orphan, tmp_path, capsys):
    image, out = tmp_path / "a.png", tmp_path / "out.safetensors"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(image)
    assert __main__.main(["predict", str(orphan[0]), str(image)]) == 0
    arguments = ["convert", "--from", str(orphan[0]), "--to", str(out), "--layout", "timm"]
    assert __main__.main(arguments) == 0
    capsys.readouterr()
    expected = torch_weights.export(trained.open_run(orphan[0]).model, "timm")
    found = load_file(out)
    assert found.keys() == expected.keys()
    assert all(found[name].tobytes() == array.tobytes() for name, array in expected.items())


@pytest.fixture(scope="module")
def finished(sources, tmp_path_factory):
    """A run that was left alone, and what it printed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(config(sources / "timm"), folder)
    return folder


def test_going_on_without_the_source_gives_the_same_bits(orphan, finished, tmp_path, capsys):
    run, asked = orphan
    shutil.copytree(run, tmp_path / "run")
    several.train_one(asked, tmp_path / "run")
    assert "going on after step 0 of 4" in capsys.readouterr().out
    one, other = (trained.open_run(folder) for folder in (tmp_path / "run", finished))
    assert one.step == other.step == 4
    same((one.params, one.stats), (other.params, other.stats))
    several.train_one(asked, tmp_path / "run")  # is reported, without the source too
    assert "holds this run, finished" in capsys.readouterr().out
    with pytest.raises(UserError, match="there is no such folder or file any more"):
        several.train_one(asked, tmp_path / "run", again=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]


def test_the_page_and_the_results_say_which_weights_it_began_with(finished, sources, capsys):
    weights = (sources / "timm/model.safetensors").read_bytes()
    told = f"began with {sources / 'timm'}, SHA-256 {hashlib.sha256(weights).hexdigest()[:12]}…"
    assert __main__.main(["report", str(finished)]) == 0
    assert f"; {told}; weights of step 4" in (finished / "report.html").read_text("utf-8")
    results = run_folder.results(finished)
    assert told in " ".join(summary(results, finished).split())
    assert "began" not in summary(results | {"began_with": None}, finished)


def test_the_start_says_what_was_loaded(sources, tmp_path, capsys):
    with killed_after(1):
        train(config(sources / "timm"), tmp_path / "run")
    out = " ".join(capsys.readouterr().out.split())
    digest = hashlib.sha256((sources / "timm/model.safetensors").read_bytes()).hexdigest()
    assert f"SHA-256 {digest[:12]}…" in out
    assert "28 of 32 arrays are loaded as they are" in out
    assert "The positions are resized from 4x4 to 2x2 patches by timm's rule" in out
    assert "The first kernel is made for 1 channels from 3 by timm's rule" in out
    assert "The head for 10 classes is new, in place of that for 7: zeros" in out


def begin(asked, workdir="nowhere"):
    """Everything up to the first step: the program, and lines for people."""
    checks.check(asked)
    source = initial.read(asked, workdir)
    splits = load(source.config)
    statistics = source.statistics(splits.train.image_shape[2])
    resolved = resolve(source.config, splits, **statistics)
    weights, lines = source.weights(resolved, splits.train.class_names)
    return Program(resolved, splits.train, given=weights), weights, lines


@pytest.mark.parametrize(
    "changes",
    [
        {"parallel": "pmap"},
        {"dtype": "float64"},
        {"dtype": "bfloat16", "model.remat": True},
        {"model.scan_layers": True, "model.dropout": 0.1},
    ],
)
def test_all_ways_to_run_start_from_the_same_weights(sources, changes):
    try:
        program, _, _ = begin(config(sources / "timm", **changes))
        found = jax.device_get(program.start().state.reported)
    finally:
        jax.config.update("jax_enable_x64", False)
    dtype = np.float64 if program.config.dtype == "float64" else np.float32
    expected = split(jax_models.load_pretrained(sources / "timm", **SIZES).model)[1]
    same(found, jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype), expected))


def test_adapters_are_new_and_a_run_that_has_some_gives_its_weights_whole(sources, tmp_path):
    rates = {"optim.learning_rate": 0.3, "optim.name": "sgd"}
    asked = config(sources / "timm", **{"model.lora_rank": 2} | rates)
    with killed_after(2):
        train(asked, tmp_path / "run")
    start = begin(asked, tmp_path / "other")[0].start().state.params
    expected = split(jax_models.load_pretrained(sources / "timm", **SIZES).model)[1].params
    own = {k: v for k, v in flatten_dict(start).items() if not k[-1].startswith("lora")}
    same(own, flatten_dict(expected))
    adapter = start["blocks"][0]["attn"]["qkv"]
    assert np.any(adapter["lora_a"])
    assert not np.any(adapter["lora_b"])
    train(asked, tmp_path / "run")
    run = trained.open_run(tmp_path / "run")
    given = config(tmp_path / "run", **{"model.img_size": None})
    source = initial.read(given, tmp_path / "other")
    assert source.config.model.lora_rank is None
    found = split(source.found.opened.model)[1]
    same(found, split(run.model)[1])
    before = np.asarray(expected["blocks"][0]["attn"]["qkv"]["kernel"])
    assert np.abs(found.params["blocks"][0]["attn"]["qkv"]["kernel"] - before).max() > 1e-6


def test_weights_come_from_a_run_whose_classes_are_others(finished, tmp_path):
    asked = config(finished, **{"model.img_size": None, "data.std": (0.3,)})
    source = initial.read(asked, tmp_path)
    assert source.config.model.name == "vit_tiny_patch16_224"
    assert source.config.model.embed_dim == 24
    assert source.config.augment.resize == SIDE
    run = trained.open_run(finished)
    assert source.statistics(1)["mean"] == pytest.approx(run.config.data.mean)
    wanted = source.config.copy_and_resolve_references()
    wanted.model.update(SIZES | {"num_classes": 3})
    weights, lines = source.weights(wanted, ("a", "b", "c"))
    assert "The head for 3 classes is new, in place of that for 10: zeros" in lines
    head = weights.params.pop("head")
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(head))
    assert head["layers"][0]["kernel"].shape == (24, 3)
    same(weights.params, {k: v for k, v in run.params.items() if k != "head"})
    # Of as many classes, all of it is kept, and other names are told.
    wanted.model.num_classes = 10
    weights, lines = source.weights(wanted, tuple("abcdefghij"))
    same(weights, (run.params, run.stats))
    assert any("they were 0, 1, 2" in line for line in lines)


def test_weights_are_read_through_for_their_checksum_once(sources, tmp_path, monkeypatch):
    hashed, of_files = [], weights.of_files
    monkeypatch.setattr(weights, "of_files", lambda files: hashed.append(1) or of_files(files))
    with killed_after(1):
        train(config(sources / "timm"), tmp_path / "run")
    assert len(hashed) == 1


def test_another_source_in_its_place_is_told_and_the_run_goes_on(orphan, tmp_path, capsys):
    run, asked = orphan
    place = run.parent / "source"
    folders.timm(place, "resnet18")
    try:
        shutil.copytree(run, tmp_path / "run")
        with killed_after(1):
            train(asked, tmp_path / "run")
        out = " ".join(capsys.readouterr().out.split())
        assert f"{place} holds other weights than when this run began" in out
        assert "the run goes on with its own" in out
        same(trained.open_run(tmp_path / "run").params, trained.open_run(run).params)
        # Before the first checkpoint it has none of its own.
        shutil.rmtree(tmp_path / "run/checkpoints")
        with pytest.raises(UserError, match=r"init_sha256='.{64}': expected that of the weights"):
            train(asked, tmp_path / "run")
    finally:
        shutil.rmtree(place)
    with pytest.raises(UserError, match="no such folder or file"):
        train(asked, tmp_path / "run")


def test_a_source_that_was_moved_is_the_same(orphan, sources, tmp_path):
    run, asked = orphan
    moved = config(sources / "timm")
    recalled = initial.recall(moved, run)
    assert recalled.model.init_from == asked.model.init_from
    assert initial.recall(config(sources / "hf"), run).model.init_from == str(sources / "hf")
    with pytest.raises(
        UserError, match=r"config\.model\.init_from: .*source there, .*hf asked for"
    ):
        train(config(sources / "hf"), run)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_from_the_seed(orphan, tmp_path):
    run, asked = orphan
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/checkpoints/0/meta/metadata").write_text("{}")
    with pytest.raises(UserError, match=r"no checkpoint of it is whole\. Delete the run folder"):
        train(asked, tmp_path / "run")


FILE = {"model.name": "vit_tiny_patch16_224"} | {
    f"model.{key}": folders.VIT[key] for key in ("patch_size", "embed_dim", "depth", "num_heads")
}


def test_of_a_source_on_the_hub_the_commit_is_kept(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    for branch in loopback.COMMITS:
        folders.hugging_face(tmp_path / "served/org/name" / branch)
    server = loopback.Hub(tmp_path / "served")
    loopback.reach(server, monkeypatch, tmp_path / "cache")
    asked = config("hf:org/name")
    try:
        begun = initial.read(asked, tmp_path / "run").config
        asked.model.init_revision = "old"
        older = initial.read(asked, tmp_path / "run").config.model
    finally:
        server.close()
    found = begun.model
    assert found.init_from == older.init_from == "hf:org/name"
    told = f"hf:org/name, commit {'a' * 12}, SHA-256 {found.init_sha256[:12]}…"
    assert initial.described(begun) == told
    assert (found.init_revision, older.init_revision) == ("a" * 40, "b" * 40)
    weights = (tmp_path / "served/org/name/main/model.safetensors").read_bytes()
    assert found.init_sha256 == hashlib.sha256(weights).hexdigest()


def test_several_files_have_one_checksum(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in "ab"}
    lines = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    found = weights.of_files([tmp_path / "a", tmp_path / "b"])
    assert found == hashlib.sha256(lines.encode()).hexdigest()


def test_own_models_change_their_sizes_where_their_weights_can():
    settings = {"img_size": 12, "patch_size": 6, "depth": 1, "head_dims": (5, 3)}
    model = folders.build("mlp_head_vit", **settings)
    found = Description("mlp_head_vit", settings | {"num_classes": 7}, None)
    changed = adapt(model, found, {"img_size": 24, "num_classes": 2}, None)
    assert changed.pos_embed.shape == (1, 17, 64)
    first, _, last = (layer.kernel[...] for layer in changed.head.layers)
    assert not last.any()
    same(first, model.head.layers[0].kernel[...])
    model = folders.build("mnist_cnn", widths=(3, 5), head_dims=(7,))
    found = Description("mnist_cnn", {"widths": (3, 5), "head_dims": (7,), "num_classes": 7}, None)
    with pytest.raises(ValueError, match=r"mnist_cnn cannot go to img_size=20 .*head\.layers\.0"):
        adapt(model, found, {"img_size": 20}, None)


def test_a_file_is_of_the_model_that_the_config_says(sources, tmp_path):
    source = initial.read(config(sources / "vit.safetensors", **FILE), tmp_path)
    expected = jax_models.load_pretrained(sources / "timm", **SIZES).model
    wanted = source.config.copy_and_resolve_references()
    wanted.model.update(SIZES)
    weights, lines = source.weights(wanted, "abcdefghij")
    same(weights, split(expected)[1])
    assert any("does not say how images are prepared" in line for line in lines)


def test_sizes_that_are_those_of_the_weights_may_be_given(sources, tmp_path):
    given = {"model.name": "vit_tiny_patch16_224", "model.mlp_dim": 96, "model.embed_dim": 24}
    found = initial.read(config(sources / "timm", **given), tmp_path).config
    assert found.model.mlp_dim == 96
    assert found.model.depth == 2


@pytest.mark.parametrize(
    ("source", "changes", "words"),
    [
        ("nothing", {}, r"init_from='.*nothing': expected weights to load\. .*no such folder or f"),
        (
            "timm",
            {"model.name": "resnet18", "model.img_size": None},
            r"model\.name='resnet18': expected 'auto' or 'vit_ti",
        ),
        ("timm", {"model.name": "vit_small_patch16_224"}, r"with depth=2, not 12, embed_dim="),
        ("timm", {"model.embed_dim": 48}, r"model\.embed_dim=48: expected None or 24, as the wei"),
        ("timm", {"model.depth": 3}, r"model\.depth=3: expected None or 2, as the weights of "),
        ("timm", {"model.mlp_dim": 95}, r"model\.mlp_dim=95: expected None, as the we"),
        ("timm", {"model.pool": "avg"}, r"model\.pool='avg': expected None or 'token', as"),
        ("timm", {"model.init_revision": "main"}, r"init_revision='main': expected None, because"),
        ("timm", {"model.init_sha256": "0" * 64}, r"init_sha256='0+': expected that of the weigh"),
        (
            "vit.safetensors",
            {},
            r"model\.name='auto': expected the name of a model, because .*file",
        ),
        ("vit.safetensors", FILE | {"model.depth": 1}, r"not those of vit_tiny_patch16_224 with "),
        ("evil.pt", FILE, r"init_from='.*evil\.pt': expected weights to load\. "),
        ("evil.pkl", FILE, r"init_from='.*evil\.pkl': expected weights to load\. .*'\.pkl' is non"),
        ("pets", {}, r"has no config\.json: it is no folder of transformers or timm"),
        (
            "hf:org/nothing",
            {},
            r"init_from='hf:org/nothing': expected weights to load\. .*HF_HUB_OF",
        ),
    ],
)
def test_sources_that_do_not_fit_are_refused_before_data_are_read(
    source, changes, words, sources, tmp_path, monkeypatch
):
    import pickle

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("evil.pt", "evil.pkl"):
        (sources / name).write_bytes(pickle.dumps(print))
    (sources / "pets").mkdir(exist_ok=True)
    place = source if source.startswith("hf:") else sources / source
    asked = config(place, **changes, **{"data.name": "cifar10", "data.data_dir": "nowhere"})
    with pytest.raises(UserError, match=words) as caught:
        train(asked, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_recipe_of_another_model_is_left_to_the_weights_by_hand(sources, tmp_path):
    asked = tiny.config(**{"model.init_from": str(sources / "resnet"), "model.name": "auto"})
    with pytest.raises(UserError, match=r"resnet18|no such keyword|embed_dim"):
        checks.check(initial.read(asked, tmp_path).config)
    leave_out_sizes(asked, ["model.name", "model.init_from"])
    found = initial.read(asked, tmp_path).config
    checks.check(found)
    assert found.model.widths == folders.RESNET["widths"]


def test_the_recipe_of_cifar100_is_that_of_cifar10_at_another_rate():
    one, other = (flatten(recipe.get_config()) for recipe in (finetune_cifar10, finetune_cifar100))
    differing = [field for field in one if one[field] != other[field]]
    assert sorted(differing) == ["data.name", "optim.learning_rate"]


@pytest.mark.parametrize("recipe", [finetune_folder, finetune_cifar10])
def test_recipes_take_a_step_and_refuse_wrong_sources(recipe, sources, tmp_path, capsys):
    asked = recipe.get_config()
    asked.model.init_from = str(sources / "hf")
    asked.train.batch_size, asked.train.accumulate_steps = 1, 1
    asked.data.name = f"folder:{tmp_path / 'pets'}"
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(3):
            size = 40 + i, 50 - number
            Image.new("RGB", size, (90 * i, 99 * number, 7)).save(tmp_path / f"pets/{name}/{i}.png")
    asked.data.train_split = asked.data.val_split = asked.data.test_split = "auto"
    with killed_after(1):
        train(asked, tmp_path / "run")
    found = json.loads((tmp_path / "run/config.json").read_text())
    assert found["data"]["image_size"] == folders.SIDE
    assert found["data"]["mean"] == [0.5] * 3
    asked.model.init_from = str(tmp_path / "pets")
    with pytest.raises(UserError, match="expected weights to load"):
        train(asked, tmp_path / "other")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (256, 224, 0)),
        ({"data.image_size": 300}, (300, 0, 0)),
        ({"model.img_size": 112}, (128, 112, 0)),
        ({"augment.crop_size": 56, "data.image_size": 60}, (60, 56, 0)),
        ({"augment.resize": 96}, (96, 0, 96)),
        ({"data.name": "cifar10"}, (None, 0, 224)),
        ({"data.name": "cifar10", "augment.crop_size": 64, "augment.resize": 72}, (None, 64, 72)),
    ],
)
def test_images_come_as_the_weights_expect(given, expected):
    asked = common.get_config()
    asked.update_from_flattened_dict({"data.name": "folder:x", **given})
    initial._fill_images(asked, Preprocessing(224, 256, "bicubic"))
    assert (asked.data.image_size, asked.augment.crop_size, asked.augment.resize) == expected
    files = asked.data.name == "folder:x"
    assert asked.data.interpolation == ("bicubic" if files else None)
    assert asked.augment.interpolation == "bicubic"
