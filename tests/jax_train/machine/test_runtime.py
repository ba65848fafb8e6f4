"""A JAX newer than any that was tested is told of, once, and not refused."""

import jax
import pytest

from jax_train.machine import runtime


@pytest.mark.parametrize(("version", "told"), [("0.10.2", 0), ("0.12.9.1", 0), ("0.13.0", 1)])
def test_a_newer_jax_is_told_of_once(version, told, monkeypatch, capsys):
    monkeypatch.setattr(jax, "__version__", version)
    monkeypatch.setattr(jax, "__version_info__", tuple(map(int, version.split("."))))
    runtime.tell_untested.cache_clear()
    for _ in range(2):
        runtime.prepare()
    text = " ".join(capsys.readouterr().err.split())
    assert text.count(f"note: JAX {version} is newer than 0.12, the newest version tested") == told
    assert text.count("pip install 'jax<0.13'") == told
    runtime.tell_untested.cache_clear()
