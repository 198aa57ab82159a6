"""What the results in a directory depend on, so that an interrupted run is not continued as another."""

import json
from pathlib import Path

from .outputs import replacing
from .text_files import parse_json, read_text


def check_settings(file: Path, settings: dict, notes: dict | None = None) -> None:
    """Writes the settings, or compares them with those of the results that are already there.

    `notes` are written beside them for people to read, and never compared.

    Raises:
        ValueError: naming the settings that differ.
    """
    if not file.exists():
        with replacing(file) as unfinished:
            unfinished.write_text(json.dumps((notes or {}) | settings, indent=2), encoding="utf-8")
    compare_settings(file, settings)


def compare_settings(file: Path, settings: dict) -> None:
    """As [`check_settings`], but writes nothing: for what comes before the first result."""
    if not file.exists():
        return
    before = parse_json(read_text(file), str(file))
    if not isinstance(before, dict):
        raise ValueError(f"{file}: not the settings of a run. Give another --output_dir, or remove this one.")
    names = [name for name in settings if before.get(name) != settings[name]]
    if names:
        changes = "; ".join(f"{name} was {before.get(name)} and is {settings[name]}" for name in names)
        raise ValueError(f"{file.parent} has results of other settings: {changes}. Give another --output_dir, or remove it.")
