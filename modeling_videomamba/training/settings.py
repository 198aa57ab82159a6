"""What the results in a directory depend on, so that an interrupted run is not continued as another."""

import json
from dataclasses import asdict
from pathlib import Path

from ..data.outputs import replacing
from ..data.text_files import parse_json, read_text
from .arguments import MediaArguments, VideoMambaTrainingArguments


CHOSEN = {
    MediaArguments: (
        *("data", "data_config", "media_root", "labels"),
        *("frame_sampling", "window_seconds", "window_stride"),
    ),
    VideoMambaTrainingArguments: (
        *("seed", "num_train_epochs", "max_steps", "warmup_epochs", "validation_fraction", "bf16", "max_grad_norm"),
        *("learning_rate", "min_learning_rate", "warmup_learning_rate", "lr_reference", "lr_scaling", "lr_schedule"),
        *("per_device_train_batch_size", "gradient_accumulation_steps", "weight_decay", "layer_decay", "layer_decay_mode"),
        *("adam_beta1", "adam_beta2", "adam_epsilon", "load_best_model_at_end", "metric_for_best_model"),
    ),
}  # of all other arguments, all


def settings_of(*arguments) -> dict:
    """What the weights depend on in the arguments of a script, which a run that goes on cannot change."""
    settings = {}
    for group in arguments:
        names = next((names for kind, names in CHOSEN.items() if isinstance(group, kind)), None)
        known = asdict(group)
        settings |= known if names is None else {name: known[name] for name in names if name in known}
    return settings


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
