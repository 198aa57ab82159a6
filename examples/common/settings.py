"""What the results in a directory depend on, so that an interrupted run is not continued as another."""

import json
from pathlib import Path


def check_settings(file: Path, settings: dict) -> None:
    """Writes the settings, or compares them with those of the results that are already there.

    Raises:
        ValueError: naming the settings that differ.
    """
    if not file.exists():
        unfinished = file.with_suffix(".tmp")
        unfinished.write_text(json.dumps(settings, indent=2), encoding="utf-8")
        unfinished.replace(file)
    before = json.loads(file.read_text(encoding="utf-8"))
    names = [name for name in settings if before.get(name) != settings[name]]
    if names:
        changes = "; ".join(f"{name} was {before.get(name)} and is {settings[name]}" for name in names)
        raise ValueError(f"{file.parent} has results of other settings: {changes}. Give another --output_dir, or remove it.")
