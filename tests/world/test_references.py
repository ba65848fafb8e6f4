"""Models as other libraries wrote them give what those libraries computed."""

import warnings

import jax
import numpy as np
import pytest

from jax_models import load_pretrained
from tests import xla
from tests.world import references


@pytest.mark.parametrize("name", references.names())
def test_logits_are_those_of_the_library(name):
    source, settings, expected = references.read(name)
    run = jax.jit(lambda model, x: model(x), compiler_options=xla.QUICK)

    for size in ["", "other_"] if "other_images" in expected else [""]:
        images = expected[f"{size}images"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is left out knowingly
            loaded = load_pretrained(source, img_size=images.shape[1], **settings)
        logits = run(loaded.model, images)
        np.testing.assert_allclose(logits, expected[f"{size}logits"], rtol=0, atol=1e-5)


def test_the_stored_models_are_small_and_say_what_made_them():
    files = [path for path in references.FOLDER.rglob("*") if path.is_file()]

    assert len(references.names()) >= 11
    assert sum(path.stat().st_size for path in files) < 2_000_000
