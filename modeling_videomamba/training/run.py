"""A training run: from its last whole checkpoint to a saved model and its results."""

import shlex
import sys
from pathlib import Path

from accelerate import PartialState
from transformers import EarlyStoppingCallback, PreTrainedModel, set_seed

from .. import (
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
    VideoMambaForVideoTextPreTraining,
    VideoMambaForVideoTextRetrieval,
)
from ..data.clips import UnreadableFiles
from ..data.interruption import say_when_interrupted
from ..data.outputs import check_held, release
from ..data.settings import check_settings
from .trainer import VideoMambaTrainer, last_complete_checkpoint


FEW_STEPS = 100
NEXT = {  # what a trained model is for
    VideoMambaForVideoClassification: "videomamba classify VIDEO --model {model}",
    VideoMambaForImageClassification: "videomamba finetune --model {model} --num_frames 8 --data VIDEOS --output_dir RESULT",
    VideoMambaForPreTraining: "videomamba finetune --model {model} --data VIDEOS --output_dir RESULT",
    VideoMambaForVideoTextPreTraining: "videomamba finetune-retrieval --model {model} --data LIST --output_dir RESULT",
    VideoMambaForVideoTextRetrieval: "videomamba index VIDEOS --model {model} --index INDEX",
}


def train(trainer: VideoMambaTrainer, settings: dict) -> None:
    """Trains, or goes on where the run was interrupted.

    `settings` are what an interrupted run must not change, see [`settings_of`].

    Raises:
        ValueError: if the data are not enough for a step, or the output directory has a run with other settings.
    """
    args, clips = trainer.args, trainer.train_dataset
    wanted = trainer.clips_per_step // clips.repeats if args.dataloader_drop_last else 1
    if trainer.items_per_epoch < wanted:
        media = "images" if "image" in clips.videos.column_names else "videos"
        raise ValueError(f"{trainer.items_per_epoch} {media} are too few for a step of {wanted}: train in smaller ones.")
    if args.resume_from_checkpoint and not Path(args.resume_from_checkpoint, "trainer_state.json").is_file():
        raise FileNotFoundError(f"--resume_from_checkpoint {args.resume_from_checkpoint} is not a checkpoint of a training.")
    with args.main_process_first(desc="settings"):
        check_settings(Path(args.output_dir) / "settings.json", settings)
    set_seed(args.seed + args.process_index)  # drop path differs between processes
    if args.early_stopping_patience:
        trainer.add_callback(EarlyStoppingCallback(args.early_stopping_patience))
    checkpoint = args.resume_from_checkpoint or last_complete_checkpoint(args.output_dir)
    if trainer.is_world_process_zero():
        num_validation = len(trainer.eval_dataset) if trainer.eval_dataset else 0
        print(f"{len(clips)} to train on, {num_validation} to validate on")
        print(describe_model(model_of(trainer)))
        print(describe(trainer))
        if trainer.num_steps < FEW_STEPS:
            print(
                f"warning: only {trainer.num_steps} optimizer steps; a larger --num_train_epochs or a smaller "
                "--per_device_train_batch_size makes more of them",
                file=sys.stderr,
            )
        if checkpoint:
            print(f"going on from {checkpoint}")
    say_when_interrupted(": the same command goes on from the last checkpoint")
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)


def model_of(trainer: VideoMambaTrainer) -> PreTrainedModel:
    """What is saved in the end: of a student that learns from a teacher its classifier."""
    return trainer.model if isinstance(trainer.model, PreTrainedModel) else trainer.model.classifier


def describe_model(model: PreTrainedModel) -> str:
    """Parameters, shape of an input, and how many tokens are made of it."""
    config = getattr(model.config, "vision_config", model.config)
    height, width = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    some = "" if trained == model.num_parameters() else f", of which {trained:,} learn"
    what = "an image" if config.num_frames is None else f"a clip of {config.num_frames} frames"
    rows, columns = config.grid_size
    tokens = 1 + config.num_temporal_positions * rows * columns  # CLS, then patches
    return f"{model.num_parameters():,} parameters{some}; {what} of {height} x {width} pixels is {tokens:,} tokens"


def describe(trainer: VideoMambaTrainer) -> str:
    """Whose values the run has, and how it goes."""
    args, num_steps = trainer.args, trainer.num_steps
    whose = "small-data defaults (no recipe)" if args.recipe is None else f"recipe {Path(args.recipe).stem}"
    peak = f"peak learning rate {trainer.learning_rates[0]:.3g}"
    if args.lr_reference:
        peak += f" ({args.learning_rate:g} x {trainer.clips_per_step} clips / {args.lr_reference})"
    num_warmup_steps = round(num_steps * args.warmup_epochs / args.num_train_epochs)
    return f"{whose}: {num_steps} steps of {trainer.clips_per_step} clips, {num_warmup_steps} of them to warm up, {peak}"


def save_and_validate(trainer: VideoMambaTrainer, unreadable: UnreadableFiles) -> dict[str, float]:
    """Saves the trained model; returns what the validation data say of it, named `eval_accuracy` and so on."""
    trainer.save_model()
    trainer.save_state()
    metrics = {}
    if trainer.eval_dataset:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if trainer.is_world_process_zero() and (names := unreadable.names()):
        print(f"{len(names)} file(s) could not be read and were skipped, see {unreadable.file}")
    return metrics


def finish(trainer: VideoMambaTrainer) -> None:
    """Uploads the model, if that is wanted, and says where it is and what can be done with it.

    Ends the group of processes: left to themselves, some abort at their end.

    Raises:
        FileNotFoundError: if the output directory was removed during the run.
    """
    if trainer.is_world_process_zero():
        check_held(trainer.args.output_dir)
        release(trainer.args.output_dir)
    if trainer.args.push_to_hub:
        trainer.push_to_hub()
    if trainer.is_world_process_zero():
        directory = shlex.quote(str(trainer.args.output_dir))
        print(f"the model is in {directory}; next: {NEXT[type(model_of(trainer))].format(model=directory)}")
    PartialState().destroy_process_group()
