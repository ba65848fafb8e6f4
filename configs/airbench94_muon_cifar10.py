"""airbench94 on CIFAR-10 by Muon: 0.30 PFLOP in all.

python train_jax.py --config configs/airbench94_muon_cifar10.py --workdir runs/airbench94_muon
python -m jax_train evaluate runs/airbench94_muon --tta airbench

Time: half an hour on one CPU core. Result: test top-1 with those views 93.97 % (mean of 3 seeds),
with --config.train.epochs=9 94.16 % (mean of 3 seeds); its source reports 94.01 % (mean of 200).

0.283 PFLOP for 8 epochs of 25 steps, counted as in airbench94_cifar10.py, and 0.014 for six views
of the test images; the source prints 0.29.
"""

from jax_train.recipes import airbench94_cifar10


def get_config():
    """Muon for the kernels, Nesterov SGD for the rest, batches of 2000, 8 epochs.

    Source: airbench94_muon.py, see airbench94_cifar10.py; its rates of sums over a batch are here
    times the batch, and its decay of a step, 0.004 each, is of the gradient.
    """
    config = airbench94_cifar10.get_config()
    config.model.unit_head = True
    config.model.head_scale = 1 / 256  # over the last width
    config.train.epochs = 8
    config.train.batch_size = 2000  # 25 steps an epoch
    config.optim.lookahead_steps = 0
    config.optim.name = "muon"
    config.optim.learning_rate = 0.24
    config.optim.momentum = 0.6
    config.optim.weight_decay = 0.0
    config.optim.eps = 1e-7
    config.optim.muon_steps = 3
    config.optim.muon_scale = "none"
    config.optim.muon_normalize = True
    config.optim.groups = (
        (r"^head\.", _sgd(0.67 * 2000)),
        (r"\.norms\.\d+\.bias$", _sgd(0.053 * 2000)),
        (r"^stem\.conv\.bias$", _sgd(0.053 * 2000) | {"schedule.length_epochs": 3.0}),
    )
    config.schedule.warmup_epochs = 0.0
    config.schedule.final_factor = 0.0
    return config


def _sgd(rate: float) -> dict:
    return {"name": "sgd", "momentum": 0.85, "learning_rate": rate, "weight_decay": 0.004 / rate}
