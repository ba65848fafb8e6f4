"""Adapters: where they go, what they compute, and what is refused."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_models
from jax_models import cpu, low_rank, torch_weights
from jax_models.cpu import onednn
from jax_models.torch_weights.tensors import named_entries, to_torch_layout
from tests.jax_models.small import SMALL, bits, draw_images, empty

# Of each kind: with the targets, the layers that get adapters.
ADAPTED = {
    "vit_tiny_patch16_224": (None, "blocks.0.attn.qkv", "blocks.1.attn.projection"),
    "attention_cnn": (None, "stages.0.attention.theta", "stages.1.attention.o"),
    "convnext_tiny": ((r"mlp\.fc[12]$",), "stages.0.blocks.0.mlp.fc1", "stages.1.blocks.1.mlp.fc2"),
    "resnet18": (
        (r"convs\.[02]", r"shortcut\.kernel$"),
        "stages.0.blocks.0.convs.0",
        "stages.1.blocks.0.shortcut",
    ),
}


def build(name, **changes):
    """A small model whose values follow from their paths, whatever else it has."""
    model = empty(name, **changes)
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        random = np.random.default_rng(zlib.crc32(".".join(map(str, path)).encode()))
        if jnp.issubdtype(variable.dtype, jnp.floating):
            value = 0.3 * random.normal(size=variable.shape).astype(np.float32)
            variable.set_value(jnp.asarray(1 + abs(value) if path[-1] == "var" else value))
        else:
            variable.set_value(jnp.zeros(variable.shape, variable.dtype))
    return model


def adapted(name, **changes):
    """A small model with adapters that add something."""
    targets, *_ = ADAPTED.get(name, (None,))
    return build(name, lora_rank=2, lora_alpha=3.0, lora_targets=targets, **changes)


@pytest.mark.parametrize("name", ADAPTED)
def test_which_layers_get_adapters(name):
    targets, *some = ADAPTED[name]
    found, plain = (
        {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model))}
        for model in (empty(name, lora_rank=2, lora_targets=targets), empty(name))
    )
    layers = {path.rpartition(".")[0] for path in found - plain}
    assert found - plain == {f"{p}.{leaf}" for p in layers for leaf in low_rank.LEAVES}
    assert plain < found
    assert set(some) <= layers


def test_a_model_starts_as_it_was_and_its_adapters_as_in_peft():
    def start(**changes):
        settings = SMALL["vit"].settings | {"embed_dim": 48, "depth": 1} | changes
        return jax_models.create_model("vit", rngs=nnx.Rngs(0), **settings)

    plain, model = start(), start(lora_rank=5)
    found, before = bits(model), bits(plain)
    assert {path: found[path] for path in before} == before
    layer = low_rank.adapters(model)["blocks.0.attn.qkv"]
    a = np.asarray(layer.lora_a[...])
    assert a.shape == (48, 5)
    assert 0.95 * 48**-0.5 < np.abs(a).max() <= 48**-0.5  # Kaiming uniform with a = sqrt(5)
    assert layer.lora_b.shape == (5, 3 * 48)
    assert not layer.lora_b[...].any()
    assert layer.lora_scale == 1


@pytest.mark.parametrize("name", ADAPTED)
def test_folded_in_it_is_the_same_function(name):
    with jax.enable_x64(True):
        model, images = adapted(name), jnp.asarray(draw_images(name), jnp.float64)
        nnx.update(model, jax.tree.map(lambda x: x.astype(np.float64), nnx.state(model, nnx.Param)))
        merged = low_rank.merged(model)
        ours, plain = (_logits(each, images) for each in (model, merged))
        for run in (ours, plain):
            np.testing.assert_allclose(run[0], run[1], rtol=0, atol=1e-10)
        np.testing.assert_allclose(ours[0], plain[0], rtol=0, atol=1e-10)
        assert low_rank.adapters(model)
        assert not low_rank.adapters(merged)
        names = torch_weights.export(build(name))
        exported = torch_weights.export(model)
        assert exported.keys() == names.keys()
        adapted_names = [key for key in names if (exported[key] != names[key]).any()]
        assert len(adapted_names) == len(low_rank.adapters(model))


def test_they_are_folded_in_with_all_digits():
    """By itself a product has 8 to 11 bits on TPUs and GPUs."""
    graphdef, state = nnx.split(adapted("vit_tiny_patch16_224"))
    with jax.default_matmul_precision("default"):  # these tests have another
        fold = jax.make_jaxpr(lambda s: nnx.state(low_rank.merged(nnx.merge(graphdef, s))))
        program = fold(state)
    products = [e.params["precision"] for e in program.eqns if e.primitive.name == "dot_general"]
    assert products
    assert all(each == (jax.lax.Precision.HIGHEST,) * 2 for each in products)


@nnx.jit
def _logits(model, images):
    """As computed with maps and without, which are other ways."""
    return model(images), model(images, return_intermediates=True)[0]


@pytest.mark.parametrize(
    ("name", "layout", "module", "saved"),
    [
        ("vit_tiny_patch16_224", "timm", "blocks.0.attn.qkv", ["head"]),
        ("distilled", "huggingface", "deit.layers.0.attention.k_proj", None),
        ("resnet18", "timm", "layer1.0.conv1", ["fc"]),
    ],
)
def test_peft_gets_the_same_function(name, layout, module, saved):
    changes = {} if name == "resnet18" else {"pool": "token"}
    if name == "distilled":  # names that keep queries, keys and values apart
        plain = {"swiglu": False, "registers": None, "cover_prefix": True}
        changes |= {**plain, "layer_scale": None, "distilled": True}
        name = "vit_tiny_patch16_224"
    model, base = adapted(name, **changes), build(name, **changes)
    found, config = torch_weights.export_adapter(model, layout)
    expected, tensors = (_in_memory(each, layout) for each in (low_rank.merged(model), base))
    assert module in config["target_modules"]
    assert saved is None or config["modules_to_save"] == saved
    scale = config["lora_alpha"] / config["r"]
    left = {key.removeprefix("base_model.model."): value for key, value in found.items()}
    for each in config["target_modules"]:
        a, b = (left.pop(f"{each}.lora_{letter}.weight") for letter in "AB")
        product = b.reshape(len(b), -1) @ a.reshape(len(a), -1)
        tensors[f"{each}.weight"] += scale * product.reshape(tensors[f"{each}.weight"].shape)
    assert {key.rpartition(".")[0] for key in left} == set(config["modules_to_save"])
    tensors |= left
    for key, value in expected.items():
        np.testing.assert_allclose(tensors[key], value, rtol=0, atol=1e-6)


def _in_memory(model, layout):
    """The weights of a model by the names of a library's modules."""
    entries = named_entries(model, layout, in_memory=True)
    return {name: to_torch_layout(entry) for name, entry in entries.items()}


def test_without_adapters_there_is_nothing_for_peft():
    with pytest.raises(ValueError, match="has no adapters"):
        torch_weights.export_adapter(build("vit"))


@pytest.mark.skipif(onednn.library() is None, reason="needs the package onednn-cpu-gomp")
def test_the_cpus_own_attention_adds_them_too(monkeypatch):
    monkeypatch.setattr(onednn, "LEAST_FLOPS", 1)
    model, images = adapted("vit"), draw_images("vit")
    graphdef, state = nnx.split(model)

    def run(state):
        model = nnx.merge(graphdef, state)
        rngs = nnx.Rngs(dropout=jax.random.key(1))
        return jnp.square(model(images, train=True, rngs=rngs)).sum()

    compiled = jax.jit(jax.value_and_grad(run)).lower(state).compile()
    assert "jax_models_attention" in compiled.as_text()
    with cpu.using(False):
        expected = jax.jit(lambda state: jax.value_and_grad(run)(state))(state)
    ours, theirs = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(y)])
        for y in (compiled(state), expected)
    )
    assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(theirs)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("vit", {"lora_rank": 0}, ["lora_rank=0", "at least 1"]),
        ("vit", {"lora_alpha": 2.0}, ["lora_alpha=2.0: expected lora_rank"]),
        ("vit", {"lora_rank": 2, "lora_alpha": -1.0}, ["lora_alpha=-1.0", "above 0"]),
        ("vit", {"lora_rank": 2, "lora_alpha": "8"}, ["lora_alpha='8'", "a number above 0"]),
        ("vit", {"lora_rank": 2, "lora_targets": "mlp"}, ["lora_targets='mlp'", "a tuple of"]),
        (
            "vit",
            {"lora_rank": 2, "lora_targets": ("qkv", "mlp(")},
            ["lora_targets=", "'mlp(' is none", "a tuple of regexes"],
        ),
        ("vit", {"lora_rank": 2, "lora_targets": (3,)}, ["lora_targets=", "3 is none"]),
        (
            "vit",
            {"lora_rank": 2, "lora_targets": ("qvk",)},
            ["'qvk' is found in no path", "attn.qkv"],
        ),
        (
            "vit",
            {"lora_rank": 2, "lora_targets": ("norm1_in",)},
            ["'norm1_in' names blocks.0.norm1_in.bias", "no matrices", "blocks.0.attn.qkv"],
        ),
        ("vit", {"lora_rank": 2, "lora_targets": ("head",)}, ["the head, which trains as a whole"]),
        ("resnet18", {"lora_rank": 2}, ["no attention to adapt", "stages.0.blocks.0.convs.0"]),
        (
            "vit",
            {"lora_rank": 2, "lora_targets": (r"^blocks\.0.*qkv",), "scan_layers": True},
            ["scan_layers=True", "alike"],
        ),
    ],
)
def test_what_is_refused(name, changes, words):
    with pytest.raises(ValueError, match=words[0]) as caught:
        build(name, **changes)
    assert all(word in str(caught.value) for word in words)
