"""The fields of a config: their form in a run folder."""

import json

from ml_collections import ConfigDict

from configs import common
from jax_train.config.fields import flatten, to_json


def test_json_holds_every_field():
    text = to_json(common.get_config())
    assert set(flatten(ConfigDict(json.loads(text)))) == set(flatten(common.get_config()))
