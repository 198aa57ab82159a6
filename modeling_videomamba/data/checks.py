"""What can be wrong with arguments, said before anything is done."""

import math
from collections.abc import Collection
from pathlib import Path


def require_at_least_one(arguments: object, *names: str) -> None:
    """
    Raises:
        ValueError: naming an argument that is less than 1. `None`, which stands for a default, is left out.
    """
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}.")


def require_range(arguments: object, name: str, low: float, high: float = math.inf, excluded: tuple[float, ...] = ()) -> None:
    """
    Raises:
        ValueError: naming an argument that is not in `[low, high]`, or one of its ends if that is excluded.
    """
    value = getattr(arguments, name)
    if not low <= value <= high or value in excluded:
        brackets = "(" if low in excluded else "[", ")" if high in excluded or high == math.inf else "]"
        raise ValueError(f"--{name} must be in {brackets[0]}{low:g}, {high:g}{brackets[1]}, got {value:g}.")


def check_picture(picture: str, suffixes: Collection[str]) -> None:
    """
    Raises:
        ValueError: if its name does not end in one of the suffixes, or there is no directory for it.
    """
    if Path(picture).suffix.lower() not in suffixes:
        raise ValueError(f"--picture {picture}: there is no such kind of picture, take .jpg or .png.")
    if not Path(picture).parent.is_dir():
        raise ValueError(f"--picture {picture}: there is no directory {Path(picture).parent}.")
