"""Models by name: listing, errors that help, and the same names on the PyTorch side."""

import inspect
import types

import pytest
from flax import nnx

import jax_models
from jax_models import registry
from tests.jax_models.small import COVERED
from tests.with_torch import torch_ref


@pytest.fixture
def birds(monkeypatch):
    """A registry of two made-up models, registered out of order."""
    monkeypatch.setattr(registry, "_MODELS", {})
    monkeypatch.setattr(registry, "_FAMILIES", {})

    def wren_small(*, rngs, wing_span: int = 17, colour: str = "brown", remat: bool = False):
        return types.SimpleNamespace(wing_span=wing_span, colour=colour, remat=remat)

    def heron(*, rngs, num_legs: int = 2, remat: bool = False, scan_layers: bool = False):
        return types.SimpleNamespace(num_legs=num_legs, remat=remat, scan_layers=scan_layers)

    jax_models.register(wren_small)
    jax_models.register(heron)
    return wren_small


def test_models_are_listed_in_order(birds):
    assert jax_models.list_models() == ["heron", "wren_small"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("wren*", ["wren_small"]), ("*r*", ["heron", "wren_small"]), ("wren", []), ("owl*", [])],
)
def test_a_pattern_selects_models(birds, pattern, found):
    assert jax_models.list_models(pattern) == found


def test_an_unknown_model_names_the_nearest_and_all_known(birds):
    with pytest.raises(ValueError, match=r"'herron'.*mean 'heron'.*Known: heron, wren_small\."):
        jax_models.create_model("herron", rngs=nnx.Rngs(0))


def test_a_name_like_no_other_gets_no_suggestion(birds):
    with pytest.raises(ValueError, match=r"Unknown model 'xyz'\. Known: heron, wren_small\."):
        jax_models.model_keywords("xyz")


def test_an_unknown_keyword_names_the_nearest_and_all_known(birds):
    with pytest.raises(
        ValueError, match=r"'wren_small'.*'wingspan'.*mean 'wing_span'.*takes: wing_span, colour\."
    ):
        jax_models.create_model("wren_small", rngs=nnx.Rngs(0), wingspan=3)


def test_a_name_cannot_be_taken_twice(birds):
    with pytest.raises(ValueError, match="'wren_small' is registered already"):
        jax_models.register(birds)


def test_settings_reach_the_model(birds):
    wren = jax_models.create_model("wren_small", rngs=nnx.Rngs(0), wing_span=5)
    assert vars(wren) == {
        "wing_span": 5,
        "colour": "brown",
        "remat": False,
        "model_name": "wren_small",
    }


def test_a_way_of_running_reaches_the_models_that_take_it(birds):
    assert [name for name in jax_models.list_models() if jax_models.can_scan(name)] == ["heron"]
    heron = jax_models.create_model("heron", rngs=nnx.Rngs(0), remat=True, scan_layers=True)
    assert (heron.remat, heron.scan_layers) == (True, True)
    assert jax_models.create_model("wren_small", rngs=nnx.Rngs(0), remat=True).remat
    with pytest.raises(ValueError, match="'wren_small' has not"):
        jax_models.create_model("wren_small", rngs=nnx.Rngs(0), scan_layers=True)


def test_keywords_come_with_their_defaults_and_without_ways_of_running(birds):
    keywords = {"wing_span": 17, "colour": "brown"}
    assert jax_models.model_keywords("wren_small") == keywords


def test_one_function_makes_models_of_many_names(birds):
    def gull(*, rngs, remat=False, wing_span=3, colour="white"):
        return "gull", wing_span, colour

    jax_models.register_as({"gull_small": {}, "gull_big": {"wing_span": 160}})(gull)
    assert jax_models.list_families()["gull"] == ["gull_big", "gull_small"]
    assert jax_models.family("gull_big") == "gull"
    assert jax_models.model_keywords("gull_big") == {"wing_span": 160, "colour": "white"}
    assert jax_models.model_keywords("gull_small")["wing_span"] == 3


def test_random_streams_are_not_optional():
    with pytest.raises(TypeError, match="rngs"):
        jax_models.create_model(COVERED[0])


def test_both_sides_have_the_same_models():
    assert torch_ref.list_models() == sorted(jax_models.list_families()) != []


@pytest.mark.parametrize("name", {jax_models.family(name): name for name in COVERED}.values())
def test_both_sides_take_the_same_keywords(name):
    ours = dict(inspect.signature(registry._MODELS[name].func).parameters)
    theirs = torch_ref.registry._MODELS[jax_models.family(name)]
    theirs = dict(inspect.signature(theirs).parameters)
    assert ours.pop("rngs").default is inspect.Parameter.empty
    assert ours.pop("remat").default is False
    assert ours.pop("scan_layers", None) is None or jax_models.can_scan(name)
    # Names, order, kinds, annotations and defaults.
    assert list(ours.values()) == list(theirs.values())
    assert {p.kind for p in ours.values()} == {inspect.Parameter.KEYWORD_ONLY}
