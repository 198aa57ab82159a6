"""What can be wrong with arguments, said before anything is done."""


def require_at_least_one(arguments: object, *names: str) -> None:
    """
    Raises:
        ValueError: naming an argument that is less than 1. `None`, which stands for a default, is left out.
    """
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}.")
