"""Which parameters train, and at which share of the learning rate; by their paths.

A parameter's path is its keys joined with dots, such as `blocks.0.norm1.scale`; a pattern matches
where `re.search` finds it.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from jax_models import layer_numbers, low_rank
from jax_train.config import ranges
from jax_train.engine.checks import group_configs
from jax_train.errors import UserError

Paths = frozenset[str]


class Plan(NamedTuple):
    """What trains.

    Attributes:
      trained: paths of the parameters that do, from the first step that is not a probe's; None for
        all.
      probed: those that train alone before, the head's; None where there is no probe.
      later: those that train only after it.
      factors: by path, the share of the learning rate, where it is not 1.
      groups: paths of each of `config.optim.groups`, then those of none; empty without groups.
    """

    trained: Paths | None = None
    probed: Paths | None = None
    later: Paths = frozenset()
    factors: Mapping[str, float] = {}
    groups: tuple[Paths, ...] = ()


ALL = Plan()


def plan(config: ConfigDict, paths: Sequence[str]) -> Plan:
    """Tell what a config has trained of a model with parameters at these paths.

    Raises:
      UserError: a pattern matches nothing or leaves nothing, or there is no head to train alone.
    """
    trained = _unfrozen(config, paths)
    probed = _probed(config, trained)
    later = trained - probed if probed else frozenset()
    all_train = len(trained) == len(paths)
    factors, groups = _factors(config, paths, trained), _groups(config, paths, trained)
    return Plan(None if all_train else trained, probed, later, factors, groups)


def matched(paths: Iterable[str], patterns: Sequence[str]) -> Paths:
    """The paths that one pattern or more matches."""
    return frozenset(p for p in paths if any(re.search(pattern, p) for pattern in patterns))


def check_patterns(
    field: str, patterns: Sequence[str], paths: Sequence[str], trained: Paths | None = None
) -> None:
    """Raise a UserError that names the field unless each pattern matches one of the paths.

    It has to be one of those that train, where these are given.
    """
    for pattern in patterns:
        found = matched(paths, [pattern])
        if not found:
            expected = f"regexes found in a parameter's path, but {pattern!r} is in none"
            cure = f"Correct or remove it. Some of the {len(paths)} paths: {_some(paths)}."
            if not pattern.isprintable():
                cure = rf"Write a backslash as \\, or in a config file the text as r'…'. {cure}"
            raise ranges.refusal(field, patterns, expected, cure)
        if trained is not None and not found & trained:
            expected = f"regexes of parameters that train, but all that {pattern!r} finds is frozen"
            raise ranges.refusal(field, patterns, expected, "Remove it, or freeze less.")


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:: max(1, len(paths) // 8)])


def _unfrozen(config: ConfigDict, paths: Sequence[str]) -> Paths:
    """What is not frozen; of a model with adapters these and the head at most."""
    patterns, rank = tuple(config.train.freeze), config.model.lora_rank
    check_patterns("train.freeze", patterns, paths)
    if rank is None:
        candidates = frozenset(paths)
    else:
        head = _head(config, paths, "model.lora_rank", rank)
        candidates = head.union(path for path in paths if path.endswith(low_rank.LEAVES))
    trained = candidates - matched(paths, patterns)
    if not trained:
        expected = "regexes that leave something to train, but they match all "
        expected += f"{len(candidates)} parameters that would"
        cure = "To train the head alone: --config.train.freeze='^(?!head)'."
        raise ranges.refusal("train.freeze", patterns, expected, cure)
    return trained


def _probed(config: ConfigDict, trained: Paths) -> Paths | None:
    """The head's parameters, if they are to train alone first."""
    epochs, field = config.train.probe_epochs, "train.probe_epochs"
    if not epochs:
        return None
    head = _head(config, trained, field, epochs)
    if not head:
        expected = "0 where the model has no head that trains"
        cure = "See config.train.freeze." if config.train.freeze else "Leave it at 0."
        raise ranges.refusal(field, epochs, expected, cure)
    if head == trained:
        expected = "0 where the head is all that trains anyway"
        raise ranges.refusal(field, epochs, expected, "Leave it at 0, or freeze less.")
    return head


def _groups(config: ConfigDict, paths: Sequence[str], trained: Paths) -> tuple[Paths, ...]:
    """Of each parameter the first group whose pattern matches its path."""
    patterns = [pattern for pattern, _ in config.optim.groups]
    check_patterns("optim.groups", patterns, paths, trained)
    owns = (*group_configs(config), config)
    if any(own.optim.name == "muon" for own in owns):
        check_patterns("optim.muon_match", config.optim.muon_match, paths, trained)
    left, groups = frozenset(paths), []
    for pattern in patterns:
        groups.append(matched(left, [pattern]))
        left -= groups[-1]
        if not groups[-1] & trained:
            expected = f"patterns of groups, but all that {pattern!r} finds is in groups before it"
            cure = "The first pattern counts: put the narrower one first."
            raise ranges.refusal("optim.groups", patterns, expected, cure)
    names = [*(f"the group {pattern!r}" for pattern in patterns), "what is in no group"]
    for own, members, name in zip(owns, (*groups, left), names, strict=True):
        if own.optim.name == "muon":
            _check_muon(config.optim.muon_match, members & trained, name)
    return (*groups, left) if groups else ()


def _check_muon(patterns: Sequence[str], paths: Paths, whose: str) -> None:
    """Refuse muon where it would leave all that it is given to adamw."""
    if paths and not matched(paths, patterns):
        expected = f"regexes of what muon trains, and they find nothing of {whose}"
        cure = "adamw would train all of that: say so in its name, or match more."
        raise ranges.refusal("optim.muon_match", patterns, expected, cure)


def _head(config: ConfigDict, paths: Iterable[str], field: str, value: object) -> Paths:
    """Those of the paths that are the head's; a field asks for it."""
    with _told_of(field, value):
        return frozenset(p for p in paths if layer_numbers.in_head(config.model.name, p))


@contextlib.contextmanager
def _told_of(field: str, value: object) -> Iterator[None]:
    """Raise a UserError that names the field where the layers of a family are not known."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"config.{field}={value!r}: {error}") from error


def _factors(config: ConfigDict, paths: Sequence[str], trained: Paths) -> dict[str, float]:
    """By path the share of the learning rate, where it is not 1."""
    factors = dict.fromkeys(paths, 1.0)
    decay, name = config.optim.layer_decay, config.model.name
    if decay != 1:
        with _told_of("optim.layer_decay", decay):
            numbers = layer_numbers.numbers(name, paths)
        last = max(numbers)
        factors = {p: decay ** (last - i) for p, i in zip(paths, numbers, strict=True)}
    scales = tuple(config.optim.lr_scale)
    check_patterns("optim.lr_scale", [pattern for pattern, _ in scales], paths, trained)
    for pattern, factor in scales:
        for path in matched(paths, [pattern]):
            factors[path] *= factor
    return {path: factor for path, factor in factors.items() if factor != 1}
