"""What the measurement runs on."""

import subprocess
import time
from importlib.metadata import PackageNotFoundError, version

import jax

from tests.parity.measure import ROOT

_PACKAGES = ("jax", "jaxlib", "flax", "torch")


def describe() -> dict:
    """The devices that JAX sees, what PyTorch sees, and the versions."""
    first = jax.devices()[0]
    memory = (first.memory_stats() or {}).get("bytes_limit")
    return {
        "platform": jax.default_backend(),
        "kind": first.device_kind,
        "count": jax.device_count(),
        "memory": memory,
        "torch": _of_torch(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _of_torch() -> dict | None:
    """PyTorch's name of the device that JAX computes on; None where it does not see it."""
    try:
        import torch
    except ImportError:
        return None
    if jax.default_backend() == "cpu":  # the short form
        return {"device": "cpu", "name": "cpu"}
    if jax.default_backend() != "gpu" or not torch.cuda.is_available():
        return None
    return {"device": "cuda", "name": torch.cuda.get_device_name(0)}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    except OSError:
        return None
    return done.stdout.strip() or None


def text(device: dict) -> str:
    """All of it in a paragraph."""
    memory = f", {device['memory'] / 2**30:.0f} GiB for JAX" if device["memory"] else ""
    versions = ", ".join(f"{name} {found}" for name, found in device["versions"].items())
    seen = device["torch"]["name"] if device["torch"] else "no device"
    commit = f"; commit {device['commit']}" if device["commit"] else ""
    name = f"{device['count']} × **{device['kind']}** ({device['platform']}{memory})"
    return f"{name}; PyTorch sees {seen}; {versions}{commit}; {device['date']}."
