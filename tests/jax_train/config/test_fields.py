"""The fields of a config: their form in a run folder."""

import json

from ml_collections import ConfigDict

from configs import common
from jax_train.config.fields import differences, flatten, read_stored, to_json


def test_json_holds_every_field():
    text = to_json(common.get_config())
    assert set(flatten(ConfigDict(json.loads(text)))) == set(flatten(common.get_config()))


def test_what_the_data_fills_in_and_what_is_newer_than_a_run_is_no_difference(tmp_path):
    asked = common.get_config()
    stored = json.loads(to_json(asked))
    del stored["data"]["on_damaged"], stored["data"]["max_megapixels"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    asked.data.train_split = asked.data.val_split = "auto"
    assert differences(asked, read_stored(tmp_path / "config.json")) == {}
    asked.data.on_damaged, asked.data.test_split = "skip", "train"
    found = differences(asked, read_stored(tmp_path / "config.json"))
    assert list(found.values()) == [
        "config.data.on_damaged: stop there, skip asked for",
        "config.data.test_split: test there, train asked for",
    ]
