"""The packages that `pip install modeling-videomamba` does not bring, and the extras that do, as in pyproject.toml."""

from importlib.util import find_spec


EXTRAS = {
    "train": ("accelerate", "datasets", "evaluate", "matplotlib", "peft", "tensorboard", "timm", "tqdm", "yaml"),
    "demo": ("skimage", "sklearn"),
    "export": ("onnx", "onnxruntime", "onnxscript"),
}


def how_to_install(extra: str) -> str:
    return f'pip install "modeling-videomamba[{extra}]"'


def require(extra: str, what: str) -> None:
    """
    Raises:
        ImportError: if a package of the extra is missing; it says what needs it and how to install it.
    """
    if missing := [package for package in EXTRAS[extra] if find_spec(package) is None]:
        raise ImportError(f"{what} needs {', '.join(missing)}: {how_to_install(extra)}", name=missing[0])
