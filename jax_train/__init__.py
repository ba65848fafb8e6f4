"""The training engine: data, augmentation, optimizer, steps, checkpoints and reports.

It knows models only through the public functions of `jax_models`.
"""
