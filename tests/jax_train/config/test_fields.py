"""The fields of a config: what is typed for None, and the form in a run folder."""

import json

from ml_collections import ConfigDict

from configs import common
from jax_train.config.fields import clear_none_tuples, differences, flatten, to_json


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


def test_what_the_data_fills_in_and_what_is_newer_than_a_run_is_no_difference(tmp_path):
    asked = common.get_config()
    stored = json.loads(to_json(asked))
    del stored["data"]["on_damaged"], stored["data"]["max_megapixels"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    asked.data.train_split = asked.data.val_split = "auto"
    assert differences(asked, tmp_path / "config.json") == []
    asked.data.on_damaged, asked.data.test_split = "skip", "train"
    assert differences(asked, tmp_path / "config.json") == [
        "config.data.on_damaged: stop there, skip asked for",
        "config.data.test_split: test there, train asked for",
    ]
