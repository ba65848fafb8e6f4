"""Flags of the command line: a mistake is told with what to type instead."""

import pytest

from configs import common
from jax_train.config import command_line
from jax_train.config import flags as overrides
from jax_train.config.fields import flatten
from jax_train.errors import UserError

OWN = ("config", "workdir", "if_finished", "help")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.train.epochz=3", r"config.train.epochz is no field \(did you mean epochs\?\)"),
        ("--config.epochs=3", r"did you mean config.train.epochs"),
        ("--config.train.lr=3", r"did you mean config.optim.learning_rate"),
        ("--config.optimizer.name=x", r"config.optimizer is no field \(did you mean optim"),
        ("--config.optimm.lr=3", r"config.optimm is no field \(did you mean optim"),
        ("--config.optim={}", r"would replace all fields of config.optim"),
        ("--config.seed.x=3", r"config.seed.x is no field"),
        ("--noconfig.augment.flp", r"did you mean flip"),
        ("--noconfig.train.epochs", r"config.train.epochs is no switch; .*epochs=20"),
    ],
)
def test_unknown_fields_name_the_nearest(flag, message):
    with pytest.raises(UserError, match=message):
        overrides.check([flag], common.get_config())


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--config.train.epochs=five", "a whole number, for example --config.train.epochs=20"),
        ("--config.train.epochs=3.5", "a whole number"),
        ("--config.train.epochs=", "a whole number"),
        ("--config.train.batch_size=1e3", "a whole number"),
        (
            "--config.model.depth=none",
            "a whole number, for example --config.model.depth=8, or None",
        ),
        ("--config.train.epochs=None", "a whole number, for example --config.train.epochs=20."),
        ("--config.optim.beta1=abc", "a number, for example --config.optim.beta1=0.9"),
        ("--config.model.dropout=low", "a number, for example --config.model.dropout=0.1"),
        ("--config.augment.flip=maybe", "true or false, for example --config.augment.flip=true"),
        (
            "--config.optim.muon_match=^kernel$,",
            """numbers separated by commas, or quoted texts such as "'bias','norm'", for example """
            """"--config.optim.muon_match=('kernel$',)".""",
        ),
        ("--config.data.mean=0.5 0.5", "numbers separated by commas, or quoted texts"),
    ],
)
def test_a_value_of_another_type_gets_one_sentence_with_an_example(flag, expected):
    for arguments in ([flag], flag.split("=") if flag[-1] != "=" else [flag]):
        if "flip" in flag and len(arguments) > 1:
            continue  # a switch takes no value from the next argument
        with pytest.raises(UserError) as caught:
            overrides.check(arguments, common.get_config())
        assert str(caught.value).startswith(f"{flag}: expected {expected}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.train.epochs"], r"epochs has no value: expected a whole number"),
        (["--config.train.epochs", "--workdir=x"], r"epochs has no value"),
        (["--config.augment.flip", "no"], r"as in --config.augment.flip=no"),
        (["--config.seed=1", "--config", "x.py"], r"--config FILE must stand before --config.seed"),
    ],
)
def test_values_and_flags_out_of_place(arguments, message):
    with pytest.raises(UserError, match=message):
        overrides.check(arguments, common.get_config())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/vit_digit.py"], r"vit_digit\.py .*no such file.\nDid you mean .*s\.py"),
        (
            ["--config", "nowhere/x.py"],
            r"--config nowhere/x\.py cannot .* no such file\.\nIn .*are: ",
        ),
        (["--config="], r"--config '' cannot be read: there is no such file"),
        (["--config"], r"--config has no value: expected a file"),
        (["--config=" + "x" * 9999], r"there is no such file"),
    ],
)
def test_fields_of_a_missing_file_are_told_before_the_parser_breaks(arguments, message):
    with pytest.raises(UserError, match=message):
        overrides.check([*arguments, "--config.seed=1"], common.get_config())
    if arguments != ["--config"]:
        with pytest.raises(UserError, match=message):
            overrides.check(arguments, common.get_config())


def test_what_is_right_passes(tmp_path):
    (tmp_path / "x.py").touch()
    flags = [
        f"--config={tmp_path / 'x.py'}",
        "--config.train.epochs=3",
        "--config.seed",
        "4",
        "--workdir=x",
        "--config.augment.flip",
        "--noconfig.data.download",
        "--config.augment.flip=True",
        "--config.data.mean=0.5,0.5",
        "--config.data.std=(0.5,)",
        "--config.data.name=",
        "--config.optim.learning_rate=1e-3",
        "--config.model.widths=64",
        "--config.optim.beta1=-1",
        "--config.optim.decay_exclude=bias",
        "--config.model.depth=None",
        "--config.data.train_split=train[:10%]",
        "--",
        "word",
    ]
    overrides.check(flags, common.get_config())


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--epochs=3"], "Did you mean --config.train.epochs=3 ?"),
        (["--epochs", "3"], "Did you mean --config.train.epochs=3 ?"),
        (["--epochs"], "Did you mean --config.train.epochs ?"),
        (["--train.epochs=3"], "Did you mean --config.train.epochs=3 ?"),
        (["--lr=0.1"], "Did you mean --config.optim.learning_rate=0.1 ?"),
        (["--learning-rate=0.1"], "Did you mean --config.optim.learning_rate=0.1 ?"),
        (["--leaning_rate=1"], "Did you mean --config.optim.learning_rate=1 ?"),
        (
            ["--bs=8"],
            "Did you mean --config.train.batch_size=8 or --config.train.bce_sum=8 or "
            "--config.eval.batch_size=8 ?",
        ),
        (["--model=vit"], "Did you mean --config.model.name=vit ?"),
        (["--optimizer=sgd"], "Did you mean --config.optim.name=sgd ?"),
        (["--workdri=x"], "Did you mean --workdir=x ?"),
        (["--output=x"], "There are --config, --workdir, --if_finished, --help and"),
        (["--resume"], "--resume is no flag. There are --config,"),
        (["--weights=x"], "--weights=x is no flag. There are --config,"),
        (["--init=x"], "Did you mean --config.model.init_from=x ?"),
        (["--pretrained"], "--pretrained is no flag. There are --config,"),
        (["--checkpoint=x"], "--checkpoint=x is no flag. There are --config,"),
    ],
)
def test_an_unknown_flag_names_what_was_meant(arguments, hint):
    name = arguments[0].lstrip("-").split("=")[0]
    text = overrides.unknown_flag(name, arguments, OWN, common.get_config())
    assert text.startswith(f"--{name}")
    assert hint in text


OPTIONAL = [field for field, value in flatten(common.get_config()).items() if value is None]


@pytest.mark.parametrize("field", OPTIONAL)
def test_none_is_taken_for_every_field_whose_default_it_is(field, tmp_path):
    value = {int: "8", float: "0.5", str: "'x'", tuple: "(0.5,)", bool: "True"}
    group, _, key = field.rpartition(".")
    kind = common.get_config()[group].get_type(key)
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from configs import common\n\ndef get_config():\n    config = common.get_config()\n"
        f"    config.{field} = {value[kind]}\n    return config\n"
    )
    flag = f"--config.{field}"
    typed = f"{flag}={value[kind]}"
    for arguments, is_none in (
        ([], False),
        ([f"{flag}=None"], True),
        ([flag, "None"], True),
        ([typed, f"{flag}=None", "--config.seed=3"], True),
        ([f"{flag}=None", "--config.seed=3", typed], False),
    ):
        chosen = command_line.parse([f"--config={recipe}", *arguments]).config
        assert (flatten(chosen)[field] is None) == is_none
        assert chosen.seed == (3 if "--config.seed=3" in arguments else 0)
