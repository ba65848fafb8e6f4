"""Trained models behind a page and a JSON API: `python -m jax_train serve`."""
