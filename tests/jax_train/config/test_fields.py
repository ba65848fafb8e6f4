"""The fields of a config: what is typed for None, and the form in a run folder."""

import json

from ml_collections import ConfigDict

from configs import common
from jax_train.config.fields import clear_none_tuples, flatten, to_json


def test_tuples_set_to_none_on_the_command_line_are_none():
    changed_config = common.get_config()
    changed_config.data.mean = (None,)
    changed_config.data.std = (0.5,)
    clear_none_tuples(changed_config)
    assert changed_config.data.mean is None
    assert changed_config.data.std == (0.5,)
    assert changed_config.is_locked


def test_json_holds_every_field():
    text = to_json(common.get_config())
    assert set(flatten(ConfigDict(json.loads(text)))) == set(flatten(common.get_config()))
