"""What the results in a directory depend on, so that an interrupted run is not continued as another."""

from dataclasses import asdict

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
    """What the weights depend on in the arguments of a run, which cannot change where it goes on."""
    settings = {}
    for group in arguments:
        names = next((names for kind, names in CHOSEN.items() if isinstance(group, kind)), None)
        known = asdict(group)
        settings |= known if names is None else {name: known[name] for name in names if name in known}
    return settings
