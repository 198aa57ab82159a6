"""What makes the demo models: commands run in processes of their own, and what is kept of a trained model."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

from safetensors import safe_open


def run(module: str, *args: object) -> float:
    """Runs a module, as `python -m` does; returns minutes."""
    start = time.time()
    subprocess.run([sys.executable, "-m", module, *map(str, args)], check=True)
    return (time.time() - start) / 60


def count_parameters(model: Path) -> int:
    with safe_open(model / "model.safetensors", framework="pt") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118


def copy_settings(model: Path, demo: Path, *names: str) -> None:
    """JSON files, without the note that the code lies beside them: a demo comes without a copy of it."""
    for name in names:
        settings = json.loads((model / name).read_text())
        settings.pop("auto_map", None)
        (demo / name).write_text(json.dumps(settings, indent=2) + "\n")
