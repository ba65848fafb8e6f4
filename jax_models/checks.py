"""Checks of what models are built with; the errors name the keyword and its value."""

import math


def check_sizes(**sizes: int) -> None:
    """Raise a ValueError that names the first size that is not a whole number of at least 1."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name}={size!r}: expected a whole number of at least 1.")


def check_positive(**values: float) -> None:
    """Raise a ValueError that names the first value that is not a finite number above 0."""
    for name, value in values.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 < value < math.inf
        ):
            raise ValueError(f"{name}={value!r}: expected a number above 0.")
