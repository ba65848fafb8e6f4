"""The tiny runs the faults hit, and the real command as a child process."""

import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from tests.parity.measure import ROOT

EPOCHS, STEPS_PER_EPOCH, EVAL_EPOCHS = 12, 10, 2
TOTAL = EPOCHS * STEPS_PER_EPOCH
EVAL_STEPS = EVAL_EPOCHS * STEPS_PER_EPOCH
HANG_SECONDS = 240  # far above any run here, also on a busy machine

_COMMON = {
    "data.train_split": "train[:500]",
    "data.val_split": "train[500:]",
    "eval.batch_size": 37,
    "train.batch_size": 50,
    "train.epochs": EPOCHS,
    "schedule.warmup_epochs": 1,
    "eval.every_epochs": EVAL_EPOCHS,
    "log.every_steps": 3,
}
_VIT = {"model.embed_dim": 16, "model.depth": 2}  # with dropout 0.1
_CNN = {"model.widths": (4, 8)}  # with batch norm
_EVERY_STEPS = {"checkpoint.every_steps": 7}  # no multiple of the 3 steps between log lines
_EVERY_MINUTES = {"checkpoint.every_minutes": 0.003}


# The head alone up to the middle of a run, then all at rates by layer.
_PROBE = {"train.probe_epochs": 5, "optim.layer_decay": 0.7, "train.class_weights": ("balanced",)}
# What follows from the place of an image and the step, and a second set of weights.
_MIXED = {"augment.mixup": 0.8, "augment.cutmix": 1.0, "augment.repeats": 2}
_MIXED |= {"augment.auto_augment": "ta_wide", "train.ema_decay": 0.9}
# Of timm's, for images of 35 pixels.
_FROM_WEIGHTS = {
    "model.name": "auto",
    "model.dropout": 0.1,
    "model.init_from": str(ROOT / "tests" / "world" / "references" / "timm-vit_tiny_patch16_224"),
}


@dataclass(frozen=True)
class Variant:
    """A run on the digits, shuffled and augmented.

    Args:
      name: for people.
      recipe: a file of configs/.
      fields: what the command line changes in it.
    """

    name: str
    recipe: str
    fields: tuple[tuple[str, object], ...]

    def command(self, workdir: Path) -> list[str]:
        """The command as a user types it."""
        flags = []
        for field, value in self.fields:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            flags.append(f"--config.{field}={text}")
        return [
            "train_jax.py",
            f"--config=configs/{self.recipe}.py",
            f"--workdir={workdir}",
            *flags,
        ]

    def config(self) -> ConfigDict:
        """The same as a config."""
        config = importlib.import_module(f"configs.{self.recipe}").get_config()
        config.update_from_flattened_dict(dict(self.fields))
        return config


def _variant(name, recipe, *fields):
    merged = {key: value for group in (_COMMON, *fields) for key, value in group.items()}
    return name, Variant(name, recipe, tuple(merged.items()))


VARIANTS = dict(
    [
        _variant("vit", "vit_digits", _VIT, _EVERY_STEPS, {"train.steps_per_call": 1}),
        _variant("cnn", "cnn_digits", _CNN, _EVERY_STEPS, {"train.steps_per_call": 1}),
        _variant(
            "vit, 4 steps a call", "vit_digits", _VIT, _EVERY_STEPS, {"train.steps_per_call": 4}
        ),
        _variant(
            "cnn, 4 steps a call",
            "cnn_digits",
            _CNN,
            _EVERY_STEPS | _EVERY_MINUTES,
            {"train.steps_per_call": 4},
        ),
        _variant("vit, probe, rates by layer", "vit_digits", _VIT, _EVERY_STEPS, _PROBE),
        _variant(
            "vit, probe, adapters",
            "vit_digits",
            _VIT | {"model.lora_rank": 2},
            _EVERY_STEPS | _PROBE,
            {"train.steps_per_call": 4},
        ),
        _variant(
            "cnn, probe, frozen stage",
            "cnn_digits",
            _CNN | {"train.freeze": ("stages.0",)},
            _EVERY_STEPS | _PROBE,
        ),
        _variant(
            "cnn, streamed, mixup, EMA",
            "cnn_digits",
            _CNN,
            _EVERY_STEPS | _MIXED | {"data.memory_limit": 0.0},
        ),
        _variant("vit from weights, probe", "vit_digits", _FROM_WEIGHTS, _EVERY_STEPS | _PROBE),
    ]
)


def environment() -> dict[str, str]:
    """Of every child: one compilation cache, lines that are neither held back nor wrapped."""
    cache = Path(tempfile.gettempdir()) / "jax-vit-cnn-tests-xla"
    defaults = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    wanted = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "COLUMNS": "2000"}
    return defaults | dict(os.environ) | wanted


class Child:
    """The command in a process of its own, which dies with this one.

    Args:
      variant: which run.
      workdir: its run folder.
      logs: takes NUMBER.out and NUMBER.err, what it prints.
      limit: largest size of a file it may write, in bytes; 0: none.
      extra: environment variables.
    """

    _all: list["Child"] = []  # noqa: RUF012 - for `stop_all`

    def __init__(self, variant: Variant, workdir: Path, logs: Path, limit: int = 0, extra=None):
        logs.mkdir(parents=True, exist_ok=True)
        number = len(list(logs.glob("*.out")))
        self.out, self.err = logs / f"{number}.out", logs / f"{number}.err"
        tie = [sys.executable, "-I", "-S", str(Path(__file__).with_name("tied.py"))]
        command = [*tie, str(os.getpid()), str(limit), sys.executable, *variant.command(workdir)]
        self.began = time.monotonic()
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment() | (extra or {}),
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.pid = self.process.pid
        self._all.append(self)

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end and return the exit code, minus the signal's number for a signal.

        Raises:
          TimeoutError: it hangs; it is killed, and its stacks are in NUMBER.err.
        """
        try:
            return self.process.wait(HANG_SECONDS)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGABRT)  # faulthandler writes the stacks
            self.process.wait(10)
            raise TimeoutError(f"still running after {HANG_SECONDS} s: see {self.err}") from None
        finally:
            self.stop()

    def stop(self) -> None:
        """Kill it, if it still runs."""
        if self.running():
            self.process.kill()
            self.process.wait()
        if self in self._all:
            self._all.remove(self)

    def printed(self) -> list[str]:
        """Lines of its output so far."""
        return self.out.read_text(errors="replace").splitlines()

    def complaints(self) -> list[str]:
        """Lines of its stderr so far that are not empty."""
        return [line for line in self.err.read_text(errors="replace").splitlines() if line.strip()]


def stop_all() -> None:
    """Kill every child that still runs."""
    for child in list(Child._all):
        child.stop()


def expect(child: Child, codes: tuple[int, ...] = (0,), lines: int = 0) -> int:
    """Wait for a child's end and check it.

    Args:
      child: the process.
      codes: exit codes it may end with.
      lines: how many it may print on stderr.

    Returns:
      Its exit code.

    Raises:
      AssertionError: it ended otherwise, complained more, or with a traceback.
    """
    code, found = child.wait(), child.complaints()
    if code not in codes or len(found) > lines or any("Traceback" in line for line in found):
        raise AssertionError(
            f"expected an exit code of {codes} and at most {lines} lines on stderr, got {code} "
            "and:\n  " + "\n  ".join(list(dict.fromkeys(found))[-12:] or ["(nothing)"])
        )
    return code
