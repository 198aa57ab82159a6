"""Every recipe of pretraining does what the reference's script does, or EXCEPTIONS says why not."""

import json
import re
from functools import cache

import pytest

from modeling_videomamba import VideoMambaConfig
from modeling_videomamba.checkpoints.released import NUM_LABELS, find_released, load_released
from modeling_videomamba.commands import distill as distill_command
from modeling_videomamba.commands import pretrain_images, pretrain_masked
from modeling_videomamba.commands.parser import parse_arguments
from modeling_videomamba.training.learning_rate import scale_learning_rate
from modeling_videomamba.training.recipe import RECIPES, read_recipe
from tests.rows import all_rows
from tests.training.test_recipes import OFFICIAL, TRAINED, augmentation_text, comment_on_top, keys_of, training_numbers


IMAGE_DEFAULTS = {  # of image_sm/main.py
    "input-size": "224",
    "finetune": "",  # none: from scratch
    "epochs": "300",
    "warmup-epochs": "5",
    "min-lr": "1e-5",
    "warmup-lr": "1e-6",
    "opt-eps": "1e-8",
    "clip-grad": "0",
    "aa": "rand-m9-mstd0.5-inc1",
    "no-repeated-aug": False,  # so every image is taken three times
    "reprob": "0.25",
    "mixup": "0.8",
    "cutmix": "1.0",
    "smoothing": "0.1",
}
MASKED_DEFAULTS = {  # of run_videomamba_pretraining.py
    "input_size": "224",
    "min_lr": "1e-5",
    "opt_eps": "1e-8",
    "weight_decay": "0.05",
    "clip_grad": "0",
}

NAME = re.compile(r"videomamba-(?P<size>ti|s|m|b)-(in1k(-res(?P<resolution>\d+))?|(?P<data>k400|ssv2)-mask-pt)")
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml") if NAME.fullmatch(path.stem))
MASKED = [name for name in NAMES if name.endswith("-mask-pt")]
IMAGES = [name for name in NAMES if name not in MASKED]
DISTILLED = ["videomamba-b-in1k", "videomamba-m-in1k"]
RELEASED = [row for row in load_released().values() if row.task in ("image-classification", "masked-pretraining")]
UNRELEASED = [name for name in NAMES if name not in load_released()]

SIZES = {"ti": "tiny", "s": "small", "m": "middle", "b": "base"}
TEACHERS = {"videomamba_small_res224.pth": "videomamba-s-in1k", "clip_b16": "openai/clip-vit-base-patch16"}

# What recipes do otherwise than their scripts
EXCEPTIONS = {
    # The script is for M, the only size that the authors trained: others drop paths as in their fine-tuning
    "videomamba-ti-k400-mask-pt": {"size": "tiny", "drop_path_rate": 0.1},
    "videomamba-s-k400-mask-pt": {"size": "small", "drop_path_rate": 0.35},
    "videomamba-b-k400-mask-pt": {"size": "base"},  # which has no fine-tuning
    # And it flips, while the paper says that nothing is flipped where labels tell left from right
    "videomamba-ti-ssv2-mask-pt": {"size": "tiny", "drop_path_rate": 0.1, "horizontal_flip": False},
    "videomamba-s-ssv2-mask-pt": {"size": "small", "drop_path_rate": 0.35, "horizontal_flip": False},
    "videomamba-m-ssv2-mask-pt": {"horizontal_flip": False},
    "videomamba-b-ssv2-mask-pt": {"size": "base", "horizontal_flip": False},
}

IMAGE_KEYS = """
    base model? model_config? image_size drop_path_rate num_labels teacher?
    auto_augment horizontal_flip repeated_augmentation
    num_train_epochs warmup_epochs per_device_train_batch_size
    learning_rate min_learning_rate warmup_learning_rate lr_scaling lr_schedule
    weight_decay max_grad_norm? bf16 metric_for_best_model greater_is_better
"""  # in this order; those with a question mark only where there is something to say
MASKED_KEYS = """
    base model_config num_frames image_size drop_path_rate
    teacher mask_type mask_ratio alignment_tap
    frame_sampling horizontal_flip
    num_train_epochs warmup_epochs per_device_train_batch_size
    learning_rate min_learning_rate warmup_learning_rate
    adam_beta1 adam_beta2 weight_decay bf16
"""


class Parsed(Exception):
    """What a command is stopped with once it knows its options."""


@cache
def options(name: str) -> dict:
    """The options of the recipe's own command, and the model's size; `bf16` as in the recipe, whatever this machine can."""
    command = pretrain_images
    if name in MASKED:
        command = pretrain_masked
    elif name in DISTILLED:
        command = distill_command

    def parse_and_stop(*classes, **kwargs):
        raise Parsed(parse_arguments(*classes, **kwargs))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Parsed) as parsed:
        patch.setattr(command, "parse_arguments", parse_and_stop)
        command.main(["--recipe", name, "--bf16", "False", "--output_dir", "unused"])
    told = {option: value for group in parsed.value.args[0] for option, value in vars(group).items()}
    return told | {"bf16": read_recipe(name)["bf16"], "size": size_of(told)}


def size_of(told: dict) -> str:
    if told["model"] is not None:
        return find_released(told["model"]).size
    config = json.loads(told["model_config"])
    assert set(config) == {"hidden_size", "num_hidden_layers"}
    (size,) = (x for x in SIZES.values() if getattr(VideoMambaConfig, x)().to_dict() == VideoMambaConfig(**config).to_dict())
    return size


def script_of(name: str) -> str:
    part = NAME.fullmatch(name)
    if part["data"]:
        return f"video_sm/exp/{part['data']}/videomamba_middle_mask/run_mask_pretrain.sh"
    folder = "exp_distill" if part["size"] in "mb" else "exp"
    return f"image_sm/{folder}/videomamba_{SIZES[part['size']]}/run{part['resolution'] or 224}.sh"


def flags_of(script: str) -> dict:
    if script in OFFICIAL["masked_scripts"]:
        return MASKED_DEFAULTS | OFFICIAL["masked_scripts"][script]
    return IMAGE_DEFAULTS | OFFICIAL["in_all_image_scripts"] | OFFICIAL["image_scripts"][script]


def options_of(script: str) -> dict:
    """What a script says, in our words."""
    return masked_options_of(script) if script in OFFICIAL["masked_scripts"] else image_options_of(script)


def image_options_of(script: str) -> dict:
    flags = flags_of(script)
    size = flags["model"].removeprefix("videomamba_")
    stem = f"videomamba-{'ti' if size == 'tiny' else size[0]}-in1k"
    parents = {"": None, f"videomamba_{size}_res224.pth": stem, f"videomamba_{size}_res224to448.pth": f"{stem}-res448"}
    distillation = {}
    if "teacher_model" in flags:
        distillation = {"teacher": TEACHERS[flags["teacher_pretrained_path"]], "distillation_epochs": None, "media": "image"}
    return distillation | {
        "model": parents[flags["finetune"]],
        "size": size,
        "num_frames": None,
        "image_size": int(flags["input-size"]),
        "drop_path_rate": float(flags["drop-path"]),
        "num_labels": 1000,
        "auto_augment": flags["aa"],
        "min_crop_area": 0.08,
        "horizontal_flip": True,
        "random_erasing": float(flags["reprob"]),
        "repeated_augmentation": 1 if flags["no-repeated-aug"] else 3,
        "mixup": float(flags["mixup"]),
        "cutmix": float(flags["cutmix"]),
        "label_smoothing": float(flags["smoothing"]),
        "num_train_epochs": float(flags["epochs"]),
        "warmup_epochs": float(flags["warmup-epochs"]),
        "per_device_train_batch_size": int(flags["batch-size"]),
        "gradient_accumulation_steps": 1,
        "learning_rate": float(flags["lr"]),
        "min_learning_rate": float(flags["min-lr"]),
        "warmup_learning_rate": float(flags["warmup-lr"]),
        "lr_reference": 512,
        "lr_scaling": "peak",
        "lr_schedule": "epoch_lag",
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": float(flags["opt-eps"]),
        "weight_decay": float(flags["weight-decay"]),
        "layer_decay": 1.0,
        "max_grad_norm": float(flags["clip-grad"]),
        "bf16": flags["bf16"],
    }


def masked_options_of(script: str) -> dict:
    flags = flags_of(script)
    betas = flags["opt_betas"].split()
    return {
        "model": None,
        "size": flags["model"].removeprefix("videomamba_").removesuffix("_pretrain"),
        "num_frames": int(flags["num_frames"]),
        "image_size": int(flags["input_size"]),
        "drop_path_rate": float(flags["drop_path"]),
        "teacher": TEACHERS[flags["clip_teacher"]],
        "teacher_normalization": "imagenet",
        "mask_type": flags["mask_type"],
        "mask_ratio": float(flags["mask_ratio"]),
        "num_aligned_layers": int(flags["clip_return_layer"]),
        "aligned_layer_interval": float(flags["clip_student_return_interval"]),
        "teacher_layer_interval": float(flags["clip_return_interval"]),
        "alignment_tap": "before_last_block",
        "normalize_alignment": flags["clip_norm_type"] == "l2",
        "alignment_loss": flags["clip_loss_type"],
        "frame_sampling": "ssv2",  # whatever the data
        "horizontal_flip": bool(flags["flip"]),
        "num_train_epochs": float(flags["epochs"]),
        "warmup_epochs": float(flags["warmup_epochs"]),
        "per_device_train_batch_size": int(flags["batch_size"]),
        "gradient_accumulation_steps": 1,
        "learning_rate": float(flags["lr"]),
        "min_learning_rate": float(flags["min_lr"]),
        "warmup_learning_rate": 0.0,  # there is a flag, but its value is not passed on
        "lr_reference": 256,
        "lr_scaling": "all",
        "lr_schedule": "step",
        "adam_beta1": float(betas[0]),
        "adam_beta2": float(betas[1]),
        "adam_epsilon": float(flags["opt_eps"]),
        "weight_decay": float(flags["weight_decay"]),
        "layer_decay": 1.0,
        "max_grad_norm": float(flags["clip_grad"]),
        "bf16": flags["bf16"],
    }


def samples_per_step(name: str) -> int:
    """On as many GPUs as the script asks for. The copies of an image are among them."""
    told = options(name)
    samples = told["per_device_train_batch_size"] * told["gradient_accumulation_steps"]
    return int(flags_of(script_of(name))["gpus"]) * samples


def peak_and_minimum(name: str) -> tuple[float, float]:
    told = options(name)
    scale = samples_per_step(name), told["lr_reference"]
    minimum = told["min_learning_rate"]
    is_scaled = {"all": True, "peak": False}[told["lr_scaling"]]
    return scale_learning_rate(told["learning_rate"], *scale), scale_learning_rate(minimum, *scale) if is_scaled else minimum


class TestScripts:
    def test_every_script_has_its_recipes(self):
        assert {script_of(name) for name in IMAGES} == set(OFFICIAL["image_scripts"])
        assert {script_of(name) for name in MASKED} == set(OFFICIAL["masked_scripts"])
        assert (len(IMAGES), len(MASKED)) == (10, 8)

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
            assert re.search(rf"^# Official script: {script_of(name)}(,|$)", comment, re.MULTILINE)
            gpus, samples, media, step, peak = re.search(
                r"^# (\d+) GPUs x (\d+) (images|videos) = (\d+) a step: "
                r"the learning rate peaks at ([\d.e-]+)(?:\.|, and stays there\.)$",
                comment,
                re.MULTILINE,
            ).groups()
            assert media == ("videos" if name in MASKED else "images")
            assert gpus == flags_of(script_of(name))["gpus"]
            assert int(samples) == options(name)["per_device_train_batch_size"]
            assert int(step) == int(gpus) * int(samples)
            assert float(peak) == pytest.approx(peak_and_minimum(name)[0])

        all_rows(check, NAMES)

    def test_the_comment_on_top_says_whether_the_learning_rate_stays_at_its_peak(self):
        def check(name):
            peak, minimum = peak_and_minimum(name)
            assert ("and stays there" in comment_on_top(name)) == (peak == pytest.approx(minimum))

        all_rows(check, NAMES)


class TestReleased:
    def test_each_has_a_recipe_and_only_masked_pretraining_has_more(self):
        assert {row.id for row in RELEASED} == set(NAMES) - set(UNRELEASED)
        unreleased = {f"videomamba-{size}-{data}-mask-pt" for size in ("ti", "s", "b") for data in ("k400", "ssv2")}
        assert set(UNRELEASED) == unreleased

    def test_it_comes_out_as_released(self):
        def check(row):
            told = options(row.id)
            assert (told["model"], told["size"]) == (row.parent, row.size)
            assert (told["num_frames"], told["image_size"]) == (row.frames, row.resolution)
            if row.task == "image-classification":
                assert told["num_labels"] == NUM_LABELS[row.dataset]

        all_rows(check, RELEASED)

    def test_the_teacher_is_the_one_that_its_notes_name(self):
        def check(row):
            sources = {"CLIP ViT-B/16": "openai/clip-vit-base-patch16"}
            notes = re.findall(r"(CLIP ViT-B/16)|self-distillation, (\S+) being the teacher", "; ".join(row.quirks))
            named = [sources.get(clip, own) for clip, own in notes]
            told = options(row.id)
            assert ([told["teacher"]] if "teacher" in told else []) == named

        all_rows(check, RELEASED)

    def test_the_comment_on_top_says_what_is_claimed(self):
        def check(row):
            claims = re.findall(
                r"^# Claimed for the released checkpoint: (\S+) top-1[.,]", comment_on_top(row.id), re.MULTILINE
            )
            assert [float(claim) for claim in claims] == ([] if row.top1 is None else [row.top1])

        all_rows(check, RELEASED)

    def test_it_was_trained_as_its_model_card_says(self):
        def check(row):
            told, (peak, minimum) = options(row.id), peak_and_minimum(row.id)
            assert training_numbers(row.id) == pytest.approx(
                {
                    "epochs": told["num_train_epochs"],
                    "warmup_epochs": told["warmup_epochs"],
                    "samples_per_step": samples_per_step(row.id),
                    "repeated_augmentation": told.get("repeated_augmentation", 1),
                    "peak_lr": peak,
                    "min_lr": minimum,
                    "weight_decay": told["weight_decay"],
                    "drop_path": told["drop_path_rate"],
                }
            )

        all_rows(check, RELEASED)

    def test_it_was_augmented_as_its_model_card_says(self):
        def check(row):
            told = options(row.id)
            # The card says what the script does; the recipe does not flip, see EXCEPTIONS
            flips = told["horizontal_flip"] or row.id == "videomamba-m-ssv2-mask-pt"
            masked = f"multi-scale crops of 66 to 100 % of the shorter side, {'horizontal' if flips else 'no'} flips"
            assert TRAINED[row.id]["augmentation"] == (masked if row.id in MASKED else augmentation_text(told, flips))

        all_rows(check, RELEASED)

    def test_the_comments_say_where_the_paper_differs(self):
        def check(row):
            text, notes = (RECIPES / f"{row.id}.yaml").read_text(encoding="utf-8"), TRAINED[row.id]["notes"]
            for note, key, comment in (
                ("prints batches of 1024", "per_device_train_batch_size", "paper: 1024 a step in all"),
                ("prints RandAugment of magnitude 7", "auto_augment", "paper: RandAugment of magnitude 7"),
                ("prints 5 epochs of warm-up, its table", "warmup_epochs", "paper: 5 in its text, 30 in its table"),
                ("text prints 30 epochs, its table", "num_train_epochs", "paper: 10 in its table .*, 30 in its text"),
                ("prints 800 epochs", "num_train_epochs", "paper: 800"),
                ("prints a minimum learning rate of 1e-5", "min_learning_rate", "paper: 1e-5"),
            ):
                assert bool(re.search(rf"^{key}: .*#.*\b{comment}", text, re.MULTILINE)) == (note in notes), note

        all_rows(check, RELEASED)


class TestUnreleased:
    def test_it_is_the_recipe_of_m_but_for_size_and_drop_path(self):
        def check(name):
            size, data = re.fullmatch(r"videomamba-(\w+)-(\w+)-mask-pt", name).groups()
            recipe, of_m = read_recipe(name), read_recipe(f"videomamba-m-{data}-mask-pt")
            differences = {key for key in recipe.keys() | of_m.keys() if recipe.get(key) != of_m.get(key)}
            assert differences == {"model_config", "drop_path_rate"} - ({"drop_path_rate"} if size == "b" else set())
            assert options(name)["size"] == SIZES[size]
            if size != "b":
                assert recipe["drop_path_rate"] == read_recipe(f"videomamba-{size}-{data}-f8")["drop_path_rate"]

        all_rows(check, UNRELEASED)

    def test_it_says_that_the_authors_did_not_train_it(self):
        def check(name):
            assert re.search(r"\.sh, written for M\n(.*\n)*# The authors trained M only: ", comment_on_top(name))

        all_rows(check, UNRELEASED)


class TestFiles:
    def test_keys_are_in_the_same_order(self):
        def check(name):
            keys = list(keys_of(name))
            known = (MASKED_KEYS if name in MASKED else IMAGE_KEYS).split()
            assert keys == [key.rstrip("?") for key in known if not key.endswith("?") or key.rstrip("?") in keys]

        all_rows(check, NAMES)

    def test_the_best_model_is_the_most_accurate_and_of_masked_pretraining_the_last(self):
        def check(name):
            told = options(name)
            assert told["load_best_model_at_end"] == (name not in MASKED)
            if name not in MASKED:
                assert (told["metric_for_best_model"], told["greater_is_better"]) == ("accuracy", True)

        all_rows(check, NAMES)

    def test_what_is_not_flipped_says_what_the_script_and_the_paper_do(self):
        def check(name):
            text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
            assert ("horizontal_flip: false  # official script: true, paper: no" in text) == ("-ssv2-" in name)

        all_rows(check, MASKED)
