"""Sources on the hub, fetched from a server on loopback that speaks its protocol."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from jax_models import load_pretrained
from jax_models.pretrained import SourceError
from jax_models.pretrained import hub as client
from tests.jax_models.pretrained import folders
from tests.jax_models.pretrained.loopback import COMMITS, Hub, reach

constants = pytest.importorskip("huggingface_hub.constants")
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server with `org/name` in two revisions, and a cache that is empty."""
    for branch in COMMITS:
        folder = tmp_path / "served" / "org" / "name" / branch
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"model_type": branch}))
        (folder / "preprocessor_config.json").write_text("{}")
        (folder / WEIGHTS).write_bytes(branch.encode() * 1000)
    server = Hub(tmp_path / "served")
    reach(server, monkeypatch, tmp_path / "cache")
    server.waits = []  # between tries
    monkeypatch.setattr("time.sleep", server.waits.append)
    yield server
    server.close()


def _branch(hub, branch="main"):
    return hub.root / "org" / "name" / branch


def _refused(source, *words):
    with pytest.raises(SourceError) as error:
        client.fetch(source)
    text = str(error.value)
    assert all(word in text for word in words), text
    assert "\n" not in text


def test_a_source_is_fetched(hub):
    folder = client.fetch("hf:org/name")
    for name in ("config.json", "preprocessor_config.json", WEIGHTS):
        assert (folder / name).read_bytes() == (_branch(hub) / name).read_bytes()


def test_a_large_file_lies_elsewhere(hub):
    hub.redirects.add(WEIGHTS)
    folder = client.fetch("hf:org/name")
    assert (folder / WEIGHTS).read_bytes() == b"main" * 1000
    assert ("GET", f"/elsewhere/org/name/main/{WEIGHTS}") in hub.requests


def test_a_revision_is_a_branch_or_a_commit(hub):
    for revision in ("old", COMMITS["old"]):
        folder = client.fetch(f"hf:org/name@{revision}")
        assert (folder / WEIGHTS).read_bytes() == b"old" * 1000


def test_all_files_are_of_one_commit(hub):
    client.fetch("hf:org/name")
    revisions = [path.split("/")[4] for _, path in hub.requests if path.endswith(WEIGHTS)]
    assert set(revisions) == {COMMITS["main"]}  # not of a branch, which may move meanwhile


def test_timms_names_are_sources_of_its_own(hub):
    folder = hub.root / "timm" / "resnet18.a1_in1k" / "main"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"weights")
    assert (client.fetch("timm/resnet18.a1_in1k") / "pytorch_model.bin").is_file()


def test_a_local_folder_comes_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert client.is_on_hub("timm/mine")
    (tmp_path / "timm" / "mine").mkdir(parents=True)
    assert not client.is_on_hub("timm/mine")
    assert client.is_on_hub("hf:timm/mine")


def test_shards_are_fetched_by_their_index(hub):
    (_branch(hub) / WEIGHTS).unlink()
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (_branch(hub) / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": shards}))
    (_branch(hub) / "model-1.safetensors").write_bytes(b"1")
    _refused("hf:org/name", "index.json names model-2.safetensors", "not there")
    (_branch(hub) / "model-2.safetensors").write_bytes(b"2")
    folder = client.fetch("hf:org/name")
    assert (folder / "model-2.safetensors").read_bytes() == b"2"


def test_what_is_in_the_cache_is_not_downloaded_again(hub):
    client.fetch("hf:org/name")
    del hub.requests[:]
    client.fetch("hf:org/name")
    assert {method for method, _ in hub.requests} == {"HEAD"}


@pytest.mark.parametrize("revision", ["", "@old"])
@pytest.mark.parametrize("way", ["offline", "no network"])
def test_what_is_in_the_cache_needs_no_network(hub, monkeypatch, revision, way):
    (_branch(hub) / "preprocessor_config.json").unlink()
    (_branch(hub) / WEIGHTS).rename(_branch(hub) / "pytorch_model.bin")
    before = client.fetch(f"hf:org/name{revision}")
    hub.close()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", way == "offline")
    assert client.fetch(f"hf:org/name{revision}") == before
    assert not hub.waits


@pytest.mark.parametrize(
    ("way", "words"),
    [("offline", "HF_HUB_OFFLINE is set"), ("no network", "the hub cannot be reached")],
)
def test_without_network_and_cache_it_says_so(hub, monkeypatch, way, words):
    hub.close()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", way == "offline")
    _refused("hf:org/name", "hf:org/name cannot be fetched", words, "local folder")
    assert not hub.waits


def test_a_broken_download_leaves_nothing_and_can_be_tried_again(hub, tmp_path):
    hub.breaks.add(WEIGHTS)
    _refused("hf:org/name", "could not be fetched", WEIGHTS, "Try again")
    assert not list((tmp_path / "cache").rglob(WEIGHTS))
    hub.breaks.clear()
    assert (client.fetch("hf:org/name") / WEIGHTS).read_bytes() == b"main" * 1000


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("hf:org/nobody", ["hf:org/nobody does not exist on the hub, or is private"]),
        ("timm/nothing.at_all", ["timm/nothing.at_all does not exist"]),
        ("hf:org/name@new", ["has no revision 'new'", "after '@'"]),
        ("hf:a/b/c", ["is no name on the hub", "hf:ORG/NAME"]),
        ("hf:", ["is no name on the hub"]),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(hub, source, words):
    _refused(source, *words)


@pytest.mark.parametrize(
    ("missing", "words"),
    [("config.json", "has no config.json"), (WEIGHTS, "has none of model.safetensors")],
)
def test_a_missing_file_is_named(hub, missing, words):
    (_branch(hub) / missing).unlink()
    _refused("hf:org/name", words)


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    _refused("hf:org/name", "pip install huggingface_hub", "give the folder")


def test_the_environment_says_where_the_hub_and_the_cache_are(hub, tmp_path):
    code = "from jax_models.pretrained import hub; print(hub.fetch('hf:org/name'))"
    home = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | home,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith(str(tmp_path / "home" / "hub"))


def test_a_model_on_the_hub_is_that_of_its_folder(hub):
    model = folders.hugging_face(_branch(hub))
    loaded = load_pretrained("hf:org/name@main")
    assert loaded.source == "hf:org/name@main"
    assert loaded.class_names == tuple(folders.NAMES)
    np.testing.assert_array_equal(loaded.model.pos_embed[...], model.pos_embed[...])


def test_an_unknown_model_is_refused_before_its_weights_are_fetched(hub):
    with pytest.raises(SourceError, match="model_type='main'"):
        load_pretrained("hf:org/name")
    assert not [path for _, path in hub.requests if path.endswith(WEIGHTS)]
