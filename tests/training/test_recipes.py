"""Every recipe of fine-tuning does what the reference's script does, or EXCEPTIONS says why not.

A script is one of the official code's; ours is the command `videomamba finetune`.
"""

import csv
import json
import re
from dataclasses import fields
from functools import cache

import pytest
import yaml
from transformers import TrainingArguments

from modeling_videomamba.checkpoints.released import NUM_LABELS, TABLE, find_released, load_released
from modeling_videomamba.commands.parser import parse_arguments
from modeling_videomamba.training.arguments import (
    AugmentationArguments,
    DataArguments,
    ModelArguments,
    VideoMambaTrainingArguments,
)
from modeling_videomamba.training.learning_rate import scale_learning_rate
from modeling_videomamba.training.recipe import RECIPES, read_recipe
from tests.conftest import FIXTURES
from tests.rows import all_rows


OFFICIAL = json.loads((FIXTURES / "official_recipes.json").read_text())
DEFAULTS = {  # of run_class_finetuning.py
    "finetune": "",  # the ImageNet-1K checkpoint of the size
    "orig_t_size": "8",  # frames of the checkpoint
    "update_freq": "1",
    "layer_decay": "0.75",
    "min_lr": "1e-6",
    "warmup_lr": "1e-6",
    "opt_eps": "1e-8",
    "clip_grad": "0",
    "aa": "rand-m7-n4-mstd0.5-inc1",
    "reprob": "0.25",
    "mixup": "0.8",
    "cutmix": "1.0",
    "smoothing": "0.1",
    "trimmed": "60",
    "time_stride": "16",
}
REGRESSION_DEFAULTS = DEFAULTS | {"mixup": "0", "cutmix": "0", "smoothing": "0"}  # of run_regression_finetuning.py

# What recipes do otherwise than their scripts
EXCEPTIONS = {
    # The script builds the small size on a tiny checkpoint
    "videomamba-ti-k400-f64-res384": {"size": "tiny"},
    # The script builds the small size for 64 frames on a tiny checkpoint that was never released
    "videomamba-ti-ssv2-f16-res288": {
        "size": "tiny",
        "num_frames": 16,
        "model": "videomamba-ti-ssv2-f16",
        "parent_frames": 16,
    },
    # The script takes its parent's 16 frames for 8, which changes nothing when positions of 16 frames are wanted
    "videomamba-m-ssv2-f16-res288": {"parent_frames": 16},
    # The script names the parent and then none, and does not start
    "videomamba-m-ssv2-mask-f8": {"model": "videomamba-m-ssv2-mask-pt"},
    "videomamba-m-ssv2-mask-f16": {"model": "videomamba-m-ssv2-mask-pt"},
    # The script names Kinetics' data set
    "videomamba-m-ssv2-mask-f16-res288": {"frame_sampling": "ssv2", "horizontal_flip": False},
    # The script takes its parent's 32 frames for 64 and goes without its temporal positions
    "videomamba-ti-breakfast-f64": {"parent_frames": 32},
    "videomamba-ti-coin-f64": {"parent_frames": 32},
}
# The scripts are for director; the official code tells the number of classes by the name of the data
LVU_CLASSES = {"relation": 4, "speak": 5, "scene": 6, "director": 10, "genre": 4, "writer": 10, "year": 9}
EXCEPTIONS |= {
    f"videomamba-ti-lvu-{task}-f32{trim}": {"num_labels": classes}
    for task, classes in LVU_CLASSES.items()
    for trim in ("", "-trim")
    if classes != 10
}
# The script for whole videos names the data set of windows, and the other way round
EXCEPTIONS |= {f"videomamba-ti-lvu-{task}-f32": {"window_seconds": None} for task in ("like", "view")}
EXCEPTIONS |= {f"videomamba-ti-lvu-{task}-f32-trim": {"window_seconds": 60.0} for task in ("like", "view")}

KEYS = """
    base model num_frames image_size drop_path_rate num_labels problem_type?
    frame_sampling? window_seconds? window_stride? num_clips num_crops merge?
    auto_augment horizontal_flip mixup? cutmix? label_smoothing?
    num_train_epochs warmup_epochs per_device_train_batch_size gradient_accumulation_steps?
    learning_rate weight_decay layer_decay bf16 metric_for_best_model greater_is_better
"""  # in this order; those with a question mark only where they differ from their defaults

NAME = re.compile(
    r"videomamba-(?P<size>ti|s|m)-(?P<data>k400|ssv2|breakfast|coin|lvu)(?P<mask>-mask)?(-(?P<task>[a-z]+))?-f(?P<frames>\d+)"
    r"(-res(?P<resolution>\d+))?(?P<trim>-trim)?"
)
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml") if NAME.fullmatch(path.stem))  # those of fine-tuning
SIZES = {"ti": "tiny", "s": "small", "m": "middle"}

RELEASED = [row for row in load_released().values() if row.task == "video-classification"]
FILES = {row.file: row.id for row in load_released().values()}
with TABLE.with_name("training_recipes.csv").open(newline="") as file:
    TRAINED = {row["id"]: row for row in csv.DictReader(file)}


def parse(*argv: str) -> dict:
    classes = ModelArguments, DataArguments, AugmentationArguments, VideoMambaTrainingArguments
    parsed = parse_arguments(*classes, description="", argv=list(argv))
    return {option: value for group in parsed for option, value in vars(group).items()}


@cache
def options(name: str) -> dict:
    """All options that a recipe leads to, and what its parent is; `bf16` as the recipe has it, whatever this machine can."""
    told = parse("--recipe", name, "--bf16", "False", "--output_dir", "unused")
    parent = find_released(told["model"])
    return told | {"bf16": read_recipe(name)["bf16"], "size": parent.size, "parent_frames": parent.frames}


def keys_of(name: str) -> dict:
    """What the file itself says, without its base."""
    return yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))


def script_of(name: str) -> str:
    part = NAME.fullmatch(name)
    if part["data"] == "lvu":
        kind = "class" if part["task"] in LVU_CLASSES else "regression"
        return f"video_sm/exp/lvu/run_{kind}{'_trim' if part['trim'] else ''}.sh"
    size = SIZES[part["size"]] + ("_mask" if part["mask"] else "")
    pixels = f"224to{part['resolution']}" if part["resolution"] else "224"
    return f"video_sm/exp/{part['data']}/videomamba_{size}/run_f{part['frames']}x{pixels}.sh"


def flags_of(script: str) -> dict[str, str]:
    defaults = REGRESSION_DEFAULTS if "regression" in script else DEFAULTS
    return defaults | OFFICIAL["in_all_scripts"] | OFFICIAL["scripts"][script]


def options_of(script: str) -> dict:
    """What a script says, in our words."""
    flags = flags_of(script)
    size = flags["model"].removeprefix("videomamba_")
    image_model = f"videomamba-{size[0].replace('t', 'ti')}-in1k"
    ssv2 = flags["data_set"] == "SSV2"
    betas = flags["opt_betas"].split()
    return {
        "model": FILES.get(flags["finetune"]) if flags["finetune"] else image_model,
        "size": size,
        "parent_frames": int(flags["orig_t_size"]) if flags["finetune"] else None,
        "num_frames": int(flags["num_frames"]),
        "image_size": int(flags["input_size"]),
        "drop_path_rate": float(flags["drop_path"]),
        "num_labels": int(flags["nb_classes"]),
        "problem_type": "regression" if "regression" in script else "single_label_classification",
        "frame_sampling": "ssv2" if ssv2 else "segments",
        "window_seconds": float(flags["trimmed"]) if flags["data_set"] == "LVU" else None,
        "window_stride": float(flags["time_stride"]),
        "num_clips": int(flags["test_num_segment"]),
        "num_crops": int(flags["test_num_crop"]),
        "auto_augment": flags["aa"],
        "horizontal_flip": not ssv2,
        "random_erasing": float(flags["reprob"]),
        "repeated_augmentation": int(flags["num_sample"]),
        "mixup": float(flags["mixup"]),
        "cutmix": float(flags["cutmix"]),
        "label_smoothing": float(flags["smoothing"]),
        "num_train_epochs": float(flags["epochs"]),
        "warmup_epochs": float(flags["warmup_epochs"]),
        "per_device_train_batch_size": int(flags["batch_size"]),
        "gradient_accumulation_steps": int(flags["update_freq"]),
        "learning_rate": float(flags["lr"]),
        "min_learning_rate": float(flags["min_lr"]),
        "warmup_learning_rate": float(flags["warmup_lr"]),
        "adam_beta1": float(betas[0]),
        "adam_beta2": float(betas[1]),
        "adam_epsilon": float(flags["opt_eps"]),
        "weight_decay": float(flags["weight_decay"]),
        "layer_decay": float(flags["layer_decay"]),
        "layer_decay_mode": "official",
        "max_grad_norm": float(flags["clip_grad"]),
        "bf16": flags["bf16"],
    }


def augmentation_text(told: dict, flips: bool) -> str:
    """As model cards have it."""
    kind = "RandAugment" if told["auto_augment"].startswith("rand-") else "AutoAugment"
    return (
        f"{kind} {told['auto_augment']}, mixup {told['mixup']}, CutMix {told['cutmix']}, "
        f"label smoothing {told['label_smoothing']}, random erasing {told['random_erasing']}, "
        f"random resized crops of {100 * told['min_crop_area']:g} to 100 % of the area, "
        + ("horizontal flips" if flips else "no flips")
    )


def training_numbers(name: str) -> dict[str, float]:
    """As model cards have them."""
    return {column: float(value) for column, value in TRAINED[name].items() if column not in ("id", "augmentation", "notes")}


def comment_on_top(name: str) -> str:
    return (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").split("\n\n")[0]


def clips_per_step(name: str) -> int:
    """On as many GPUs as the script asks for."""
    told = options(name)
    videos = told["per_device_train_batch_size"] * told["gradient_accumulation_steps"] * told["repeated_augmentation"]
    return int(flags_of(script_of(name))["gpus"]) * videos


def scaled(name: str, learning_rate: str) -> float:
    told = options(name)
    return scale_learning_rate(told[learning_rate], clips_per_step(name), told["lr_reference"])


class TestScripts:
    def test_every_script_has_its_recipes(self):
        assert {script_of(name) for name in NAMES} == set(OFFICIAL["scripts"])
        counts = {data: sum(f"-{data}-" in name for name in NAMES) for data in ("k400", "ssv2", "breakfast", "coin", "lvu")}
        assert counts == {"k400": 20, "ssv2": 12, "breakfast": 8, "coin": 8, "lvu": 18}

    def test_a_recipe_is_its_script(self):
        def check(name):
            expected = options_of(script_of(name)) | EXCEPTIONS.get(name, {})
            assert {option: options(name)[option] for option in expected} == expected

        all_rows(check, NAMES)

    def test_an_exception_is_one(self):
        def check(name):
            script = options_of(script_of(name))
            for option, value in EXCEPTIONS[name].items():
                assert script[option] != value

        all_rows(check, EXCEPTIONS)

    def test_the_comment_on_top_says_where_it_comes_from_and_what_the_batch_is(self):
        def check(name):
            comment = comment_on_top(name)
            assert re.search(rf"^# Official script: {script_of(name)}\b", comment, re.MULTILINE)
            gpus, videos, accumulated, augmentations, clips, peak = re.search(
                r"^# (\d+) GPUs x (\d+) videos?(?: x (\d+) accumulated)? x (\d+) augmentations = (\d+) clips a step: "
                r"the learning rate peaks at (\S+)\.$",
                comment,
                re.MULTILINE,
            ).groups()
            assert gpus == flags_of(script_of(name))["gpus"]
            assert int(videos) == options(name)["per_device_train_batch_size"]
            assert int(accumulated or 1) == options(name)["gradient_accumulation_steps"]
            assert int(augmentations) == options(name)["repeated_augmentation"]
            assert int(clips) == clips_per_step(name)
            assert float(peak) == pytest.approx(scaled(name, "learning_rate"))

        all_rows(check, NAMES)


class TestReleased:
    def test_each_has_a_recipe_and_only_lvu_has_more(self):
        assert {row.id for row in RELEASED} == {name for name in NAMES if "-lvu-" not in name}

    def test_it_comes_out_as_released(self):
        def check(row):
            told = options(row.id)
            assert (told["model"], told["size"]) == (row.parent, row.size)
            assert (told["num_frames"], told["image_size"]) == (row.frames, row.resolution)
            assert told["num_labels"] == NUM_LABELS[row.dataset]

        all_rows(check, RELEASED)

    def test_the_comment_on_top_says_what_is_claimed(self):
        def check(row):
            comment = comment_on_top(row.id)
            top5 = f" and {row.top5} top-5" if row.top5 else ""
            assert f"# Claimed for the released checkpoint: {row.top1} top-1{top5} with " in comment

        all_rows(check, RELEASED)

    def test_it_was_trained_as_its_model_card_says(self):
        def check(row):
            told = options(row.id)
            # The card says what the script does; the recipe does not flip, see EXCEPTIONS
            flips = told["horizontal_flip"] or row.id == "videomamba-m-ssv2-mask-f16-res288"
            assert TRAINED[row.id]["augmentation"] == augmentation_text(told, flips)
            assert training_numbers(row.id) == pytest.approx(
                {
                    "epochs": told["num_train_epochs"],
                    "warmup_epochs": told["warmup_epochs"],
                    "samples_per_step": clips_per_step(row.id),
                    "repeated_augmentation": told["repeated_augmentation"],
                    "peak_lr": scaled(row.id, "learning_rate"),
                    "min_lr": scaled(row.id, "min_learning_rate"),
                    "weight_decay": told["weight_decay"],
                    "drop_path": told["drop_path_rate"],
                }
            )

        all_rows(check, RELEASED)


class TestFiles:
    def test_keys_are_in_the_same_order(self):
        def check(name):
            keys = list(keys_of(name))
            assert keys == [key.rstrip("?") for key in KEYS.split() if not key.endswith("?") or key.rstrip("?") in keys]

        all_rows(check, NAMES)

    def test_it_starts_from_what_all_share(self):
        def check(name):
            assert keys_of(name)["base"] == "base/finetuning"

        all_rows(check, NAMES)

    @pytest.mark.parametrize("base", ["finetuning", "images"])
    def test_what_all_share_has_every_value_that_the_defaults_have_for_small_data(self, base):
        """So a default can change without a recipe of the paper changing with it."""
        kept = {"validation_fraction"}  # where nothing is given to validate on, which the paper's data have
        ours = {field.name for field in fields(VideoMambaTrainingArguments)} - {
            field.name for field in fields(TrainingArguments)
        }
        ours -= kept | {"recipe", "early_stopping_patience"}
        changed = {"num_train_epochs", "learning_rate", "weight_decay", "max_grad_norm", "dataloader_drop_last"}
        wanted = {field.name for field in fields(AugmentationArguments)} | ours | changed
        assert wanted - {"layer_decay_mode"} <= read_recipe(f"base/{base}").keys()

    def test_the_best_model_is_the_most_accurate_or_the_one_of_least_error(self):
        def check(name):
            told = options(name)
            best = ("mse", False) if told["problem_type"] == "regression" else ("accuracy", True)
            assert (told["metric_for_best_model"], told["greater_is_better"]) == best

        all_rows(check, NAMES)

    def test_views_are_merged_by_name_where_the_reference_does_and_it_matters(self):
        def check(name):
            assert options(name)["merge"] == ("stem" if "-breakfast-" in name or name.endswith("-trim") else "path")

        all_rows(check, NAMES)


class TestWarmUp:
    RECIPE = ("--recipe", "videomamba-ti-ssv2-f8", "--bf16", "False", "--output_dir", "unused")  # 5 of 35 epochs

    @pytest.mark.parametrize("epochs", [3, 0.5, 30, 200])
    def test_it_is_a_tenth_of_the_run(self, epochs):
        assert parse("--output_dir", "unused", "--num_train_epochs", str(epochs))["warmup_epochs"] == pytest.approx(
            epochs / 10
        )

    @pytest.mark.parametrize(("epochs", "warmup"), [(7, 1), (3, 3 / 7), (35, 5), (70, 5)])
    def test_that_of_a_recipe_shrinks_with_the_run(self, epochs, warmup):
        assert parse(*self.RECIPE, "--num_train_epochs", str(epochs))["warmup_epochs"] == pytest.approx(warmup)

    def test_what_the_command_line_says_of_it_counts(self):
        told = parse(*self.RECIPE, "--num_train_epochs", "7", "--warmup_epochs", "6")
        assert told["warmup_epochs"] == 6
        with pytest.raises(ValueError, match=r"--warmup_epochs 9 is more than --num_train_epochs 7"):
            parse(*self.RECIPE, "--num_train_epochs", "7", "--warmup_epochs", "9")


class TestDefaults:
    """Without a recipe they are those of a small data set on one machine."""

    def test_rates_are_taken_as_they_are(self):
        told = parse("--output_dir", "unused")
        assert (told["learning_rate"], told["lr_reference"], told["layer_decay"]) == (3e-4, 0, 1)

    def test_augmentation_is_mild(self):
        told = parse("--output_dir", "unused")
        off = {"auto_augment": "none", "mixup": 0, "cutmix": 0, "random_erasing": 0, "repeated_augmentation": 1}
        assert {name: told[name] for name in off} == off
        assert told["min_crop_area"] >= 0.5

    def test_no_video_is_left_out(self):
        assert not parse("--output_dir", "unused")["dataloader_drop_last"]


class TestCommandLine:
    RECIPE = ("--recipe", "videomamba-ti-ssv2-f8", "--bf16", "False", "--output_dir", "unused")

    def test_it_wins_over_the_recipe(self):
        assert parse(*self.RECIPE)["learning_rate"] == 4e-4
        told = parse("--learning_rate", "1e-3", *self.RECIPE, "--horizontal_flip", "True", "--model", "my-model")
        assert (told["learning_rate"], told["horizontal_flip"], told["model"]) == (1e-3, True, "my-model")
        assert told["num_frames"] == 8

    def test_a_file_of_ones_own(self, tmp_path):
        recipe = tmp_path / "mine.yaml"
        recipe.write_text("model: videomamba-ti-k400-f8\nlearning_rate: 5e-5\noutput_dir: unused\n")
        for argv in ([str(recipe)], ["--recipe", str(recipe)]):
            told = parse(*argv)
            assert (told["model"], told["learning_rate"]) == ("videomamba-ti-k400-f8", 5e-5)

    def test_an_unknown_recipe(self):
        count = len(list(RECIPES.glob("*.yaml")))
        with pytest.raises(FileNotFoundError, match=rf"no recipe .*videomamba-xl\.yaml.*There are {count} of them"):
            parse("--recipe", "videomamba-xl")

    def test_an_unknown_option_in_a_recipe(self, tmp_path):
        recipe = tmp_path / "mine.yaml"
        recipe.write_text("learning_rte: 5e-5\noutput_dir: unused\n")
        with pytest.raises(ValueError, match="learning_rte"):
            parse("--recipe", str(recipe))
