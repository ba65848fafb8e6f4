"""Time whole training steps against the PyTorch mirrors on this machine.

  python -m benchmarks.train_step [--models vit simple_cnn] [--rounds 5]

Each variant runs in a process of its own; the processes take turns, so that other work on the
machine disturbs all of them alike. The JAX step includes augmentation (crop and flip); the PyTorch
step gets ready batches, with fused AdamW and, for CNNs, channels-last memory.
"""

import argparse
import statistics
import subprocess
import sys
import time

VARIANTS = ("jax", "torch")


def make_step(name: str, batch_size: int):
    """The engine's own compiled step of a model on random CIFAR-sized images.

    Returns:
      (step, carry, args): `carry = step(*carry, *args)` takes a step; carry is (state, sums).
    """
    import functools

    import jax
    import numpy as np
    from flax import nnx

    from configs import vit_cifar10
    from jax_train import build, feed, metrics, optim, steps
    from jax_train.data import Dataset
    from jax_train.parallel import Layout

    config = vit_cifar10.get_config()
    config.model.name = name
    config.train.batch_size = batch_size
    layout = Layout()
    recipe = build.create_recipe(config, optim.schedule_tables(config, 10), layout, 10)
    random = np.random.default_rng(0)
    count = 10 * batch_size
    data = Dataset(
        name="random", split="train", source="random", ranges=(("train", 0, count),),
        class_names=tuple("0123456789"), labels=random.integers(0, 10, count).astype(np.int32),
        images=random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8),
    )  # fmt: skip
    order = jax.jit(functools.partial(steps.epoch_order, recipe, num_examples=count))(0)
    carry = layout.replicate(
        (
            steps.init_state(build.create_model(config, nnx.Rngs(0)), recipe.optimizer),
            metrics.zero_train_sums(),
        )
    )
    args = feed.Resident(data, layout).arrays, layout.replicate(order)
    step = functools.partial(steps.train_step, recipe)
    return layout.compile(step, (*carry, *args), donate=(0, 1)), carry, args


def jax_stepper(name: str, batch_size: int):
    """Return a function that runs n steps of the engine's own compiled training step."""
    import jax

    step, carry, args = make_step(name, batch_size)

    def run(n):
        nonlocal carry
        for _ in range(n):
            carry = step(*carry, *args)
        jax.block_until_ready(carry)

    return run


def torch_stepper(name: str, batch_size: int):
    """Return a function that runs n steps of the mirror as a good user would write them."""
    import torch

    import torch_ref

    model = torch_ref.create_model(name).train()
    images = torch.randn(10, batch_size, 3, 32, 32)
    if "cnn" in name:
        model = model.to(memory_format=torch.channels_last)
        images = torch.stack([x.contiguous(memory_format=torch.channels_last) for x in images])
    labels = torch.randint(0, 10, (10, batch_size))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.05, fused=True)

    def run(n):
        for i in range(n):
            optimizer.zero_grad(set_to_none=True)
            loss = torch.nn.functional.cross_entropy(model(images[i % 10]), labels[i % 10])
            loss.backward()
            optimizer.step()

    return run


def child(variant: str, name: str, batch_size: int, num_steps: int) -> None:
    """Warm up, then time `num_steps` steps for each line read."""
    run = {"jax": jax_stepper, "torch": torch_stepper}[variant](name, batch_size)
    run(2)
    print("ready", flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        run(num_steps)
        print(time.perf_counter() - begin, flush=True)


def measure(name: str, batch_size: int, num_steps: int, rounds: int) -> dict[str, list[float]]:
    """Images per second of every variant, one figure a round."""
    children = {}
    for variant in VARIANTS:
        command = [sys.executable, "-m", "benchmarks.train_step", "--child", variant]
        command += ["--models", name, "--batch", str(batch_size), "--steps", str(num_steps)]
        children[variant] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if children[variant].stdout.readline() != "ready\n":
            raise RuntimeError(f"The {variant} process of {name} did not start.")
    speeds = {variant: [] for variant in VARIANTS}
    for _ in range(rounds):
        for variant, process in children.items():
            print("go", file=process.stdin, flush=True)
            seconds = float(process.stdout.readline())
            speeds[variant].append(batch_size * num_steps / seconds)
    for process in children.values():
        process.stdin.close()
        process.wait()
    return speeds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["vit", "simple_cnn"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4, help="steps in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.models[0], args.batch, args.steps)
        return
    print("| model | batch | JAX, images/s | PyTorch, images/s | JAX / PyTorch | spread |")
    print("|---|---|---|---|---|---|")
    for name in args.models:
        speeds = measure(name, args.batch, args.steps, args.rounds)
        ours, theirs = (statistics.median(speeds[v]) for v in VARIANTS)
        spread = max((max(s) - min(s)) / statistics.median(s) for s in speeds.values())
        print(
            f"| `{name}` | {args.batch} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.2f} "
            f"| {spread:.0%} |", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
