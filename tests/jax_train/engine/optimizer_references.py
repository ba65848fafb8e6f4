"""Optimizers and averages in NumPy, line by line as their papers or their own code have them.

Each takes lists of float64 arrays: parameters, a function (parameters, step) -> gradients, the rate
of each step, `config.optim`, and which parameters decay; it returns the weights to evaluate.
"""

import numpy as np


def lion(params, gradient, rates, optim, decays):
    """Algorithm 2 of https://arxiv.org/abs/2302.06675."""
    moments = [np.zeros_like(p) for p in params]
    for step, rate in enumerate(rates):
        for i, g in enumerate(gradient(params, step)):
            update = np.sign(optim.beta1 * moments[i] + (1 - optim.beta1) * g)
            moments[i] = optim.beta2 * moments[i] + (1 - optim.beta2) * g
            decay = optim.weight_decay * decays[i]
            params[i] = params[i] - rate * (update + decay * params[i])
    return params


def lamb(params, gradient, rates, optim, decays):
    """Algorithm 2 of https://arxiv.org/abs/1904.00962; as in timm's Lamb no ratio without decay."""
    first, second = ([np.zeros_like(p) for p in params] for _ in range(2))
    for step, rate in enumerate(rates):
        for i, g in enumerate(gradient(params, step)):
            first[i] = optim.beta1 * first[i] + (1 - optim.beta1) * g
            second[i] = optim.beta2 * second[i] + (1 - optim.beta2) * g**2
            mean = first[i] / (1 - optim.beta1 ** (step + 1))
            square = second[i] / (1 - optim.beta2 ** (step + 1))
            update = mean / (np.sqrt(square) + optim.eps)
            decay = optim.weight_decay * decays[i]
            update, ratio = update + decay * params[i], 1.0
            if decay or optim.always_adapt:
                ratio = np.linalg.norm(params[i]) / np.linalg.norm(update)
            params[i] = params[i] - rate * ratio * update
    return params


def schedule_free_adamw(params, gradient, rates, optim, decays):
    """AdamWScheduleFree of https://github.com/facebookresearch/schedule_free; returns its x."""
    y, z = params, [p.copy() for p in params]
    second, total, largest = [np.zeros_like(p) for p in y], 0.0, 0.0
    for step, rate in enumerate(rates):
        largest = max(largest, rate)
        total += largest**2
        share = largest**2 / total
        for i, g in enumerate(gradient(y, step)):
            second[i] = optim.beta2 * second[i] + (1 - optim.beta2) * g**2
            denominator = np.sqrt(second[i] / (1 - optim.beta2 ** (step + 1))) + optim.eps
            update = g / denominator + optim.weight_decay * decays[i] * y[i]
            y[i] = y[i] + share * (z[i] - y[i])
            y[i] = y[i] + rate * (optim.beta1 * (1 - share) - 1) * update
            z[i] = z[i] - rate * update
    return [a + (1 - 1 / optim.beta1) * (b - a) for a, b in zip(y, z, strict=True)]


def lookahead_sgd(params, gradient, rates, optim, decays):
    """Algorithm 1 of https://arxiv.org/abs/1907.08610 over SGD; with a power, airbench's.

    https://github.com/KellerJordan/cifar10-airbench: the decay grows as a power of the share of the
    run that is over, and the run ends with the average. That is also what is evaluated here.
    """
    slow = [p.copy() for p in params]
    for step, rate in enumerate(rates):
        params = [p - rate * g for p, g in zip(params, gradient(params, step), strict=True)]
        done = step + 1
        if done % optim.lookahead_steps == 0:
            over = (done / len(rates)) ** optim.lookahead_power
            kept = (1 - optim.lookahead_alpha) * over
            slow = [kept * a + (1 - kept) * b for a, b in zip(slow, params, strict=True)]
            params = [p.copy() for p in slow]
    return slow


REFERENCES = {f.__name__: f for f in (lion, lamb, schedule_free_adamw, lookahead_sgd)}
