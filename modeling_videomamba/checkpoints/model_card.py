"""Model cards: of a checkpoint of the user's own, and of the released ones with what their authors say of them.

`training_recipes.csv` has the values of the official training scripts, and in `notes` what else there is to know, first of all
where the paper prints another one. `samples_per_step` counts every augmentation of a sample, as the learning rates do; the
columns of a video-text checkpoint are those of its masked phase.
"""

import csv
import shutil
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from .. import VideoMambaPreTrainedModel
from ..flop_counter import count_flops
from .released import NUM_LABELS, REPOSITORY, ReleasedCheckpoint, expected_config, load_released


TRAINING_RECIPES = Path(__file__).with_name("training_recipes.csv")
RECALLS = Path(__file__).with_name("zero_shot_retrieval.csv")
PAPER = "https://arxiv.org/abs/2403.06977"
OFFICIAL_CODE = "https://github.com/OpenGVLab/VideoMamba/tree/main/videomamba"
OFFICIAL_FOLDERS = {"image-classification": "image_sm", "video-text": "video_mm"}  # the other tasks: video_sm
SIZES = {"tiny": "VideoMamba-Ti", "small": "VideoMamba-S", "middle": "VideoMamba-M", "base": "VideoMamba-B"}

DATA_SETS = {
    "imagenet-1k": "ImageNet-1K",
    "kinetics-400": "Kinetics-400",
    "something-something-v2": "Something-Something V2",
    "breakfast": "Breakfast",
    "coin": "COIN",
    "5m": "CC3M and WebVid-2M",
    "17m": "CC3M, CC12M, COCO, Visual Genome, SBU and WebVid-2M",
    "25m": "CC3M, CC12M, COCO, Visual Genome, SBU and WebVid-10M",
    "msrvtt": "MSR-VTT",
    "didemo": "DiDeMo",
    "activitynet": "ActivityNet Captions",
    "lsmdc": "LSMDC",
    "msvd": "MSVD",
}
TESTED_ON_VALIDATION = ("imagenet-1k", "kinetics-400", "something-something-v2", "activitynet")  # the others on a test split

CC3M = "google-research-datasets/conceptual_captions"
CAPTIONS = [CC3M, "google-research-datasets/conceptual_12m", "vicenteor/sbu_captions", "ranjaykrishna/visual_genome"]
HUB_IDS = {  # as far as the hub has a data set under a well-known name
    "imagenet-1k": ["imagenet-1k"],
    "kinetics-400": ["AlexFierro9/Kinetics400"],
    "something-something-v2": ["HuggingFaceM4/something_something_v2"],
    "5m": [CC3M],
    "17m": CAPTIONS,
    "25m": CAPTIONS,
}

LABELS = dict.fromkeys(
    ("imagenet-1k", "kinetics-400", "something-something-v2"),
    "Label names are those of the hub's `huggingface/label-files`; their order was not checked against these weights",
) | {
    "breakfast": "Label names are the data set's own ten, in the order of the lists of videos that the authors used",
    "coin": "Labels are called `LABEL_0` to `LABEL_179`, because no file at hand names the 180 tasks in their order",
}

BIASES = dict.fromkeys(
    ("5m", "17m", "25m"),
    "Captions are alternative texts and stock descriptions from the web, mostly English, stereotypes included",
) | {
    "imagenet-1k": "ImageNet's photographs were found by web search: rich, English-speaking countries are over-represented",
    "kinetics-400": "Kinetics' clips come from YouTube, with its imbalance of who does what where",
    "something-something-v2": "Something-Something is staged by crowd workers, mostly indoors, with household objects",
    "breakfast": "Breakfast shows 52 people in 18 kitchens preparing ten breakfasts: little else, and few cultures",
    "coin": "COIN's videos are instructions from YouTube, by and for those who make and watch such videos",
}
CLIP_BIAS = "CLIP, whose features it learned to predict, was trained on images and texts from the web that were not published"
SAMPLING = (
    "This package's processor samples frames as the official data set class of Kinetics does, not as that of this data set"
)

LAYER_DECAY = (
    "The paper and the scripts name a layer-wise decay of the learning rate of 0.75 or 0.8. In the official code the lines "
    "that find the depth of a block are commented out: class token, spatial position embeddings and patch embedding train at "
    "less than a thousandth of the learning rate, everything else at the whole of it."
)

PIPELINE_SNIPPET = """```python
from transformers import pipeline

classify = pipeline("TASK", model="my-model", trust_remote_code=True)
print(classify("FILE"))
```"""

VIEWS_SNIPPET = """```python
import torch
from transformers import AutoModelForVideoClassification, AutoVideoProcessor

processor = AutoVideoProcessor.from_pretrained("my-model", trust_remote_code=True)
model = AutoModelForVideoClassification.from_pretrained("my-model", trust_remote_code=True).eval()

inputs = processor("video.mp4", num_clips=CLIPS, num_crops=CROPS, return_tensors="pt")
with torch.inference_mode():
    logits = model(**inputs).logits  # a row a view
scores = processor.post_process_video_classification(logits, num_views=CLIPS * CROPS)[0]
for score, label in zip(*scores.topk(5)):
    print(f"{score:.1%} {model.config.id2label[label.item()]}")
```"""

BACKBONE_SNIPPET = """```python
from transformers import AutoModel

model = AutoModel.from_pretrained("my-model", trust_remote_code=True)
```"""

PRETRAINING_SNIPPET = """```python
import torch
from modeling_videomamba import VideoMambaForPreTraining, VideoMambaForVideoClassification, VideoMambaVideoProcessor

model = VideoMambaForPreTraining.from_pretrained("my-model").eval()
inputs = VideoMambaVideoProcessor.from_pretrained("my-model")("video.mp4", return_tensors="pt")
rows, columns = model.config.grid_size
nothing = torch.zeros(1, model.config.num_temporal_positions * rows * columns, dtype=torch.bool)
with torch.inference_mode():
    features = model(**inputs, bool_masked_pos=nothing).features[:, -1]  # (1, 1 + patches, width of the teacher's features)

# where fine-tuning starts: this backbone, its final norm included, and a new head
classifier = VideoMambaForVideoClassification.from_pretrained("my-model", num_labels=10)
```"""

VIDEO_TEXT_SNIPPET = """```python
import torch
from modeling_videomamba import VideoMambaForVideoTextRetrieval, VideoMambaVideoProcessor
from transformers import AutoTokenizer

model = VideoMambaForVideoTextRetrieval.from_pretrained("my-model").eval()
processor = VideoMambaVideoProcessor.from_pretrained("my-model")
tokenizer = AutoTokenizer.from_pretrained("my-model")

videos = processor(["one.mp4", "two.mp4"], return_tensors="pt")
texts = tokenizer(["a man plays the guitar", "a dog runs on a beach"], padding=True, return_tensors="pt")
with torch.inference_mode():
    outputs = model(texts.input_ids, videos.pixel_values, texts.attention_mask)
    video = model.get_video_features(videos.pixel_values)
    text = model.get_text_features(texts.input_ids, texts.attention_mask)
    matching = model.match(text.last_hidden_state, texts.attention_mask, video.last_hidden_state)
print(outputs.logits_per_text)  # every text with every video: quick
print(matching[:, 1])  # each text with the video of its row: slower and better; retrieval ranks the quick one's best by it
```"""

CITATION = """## Citation

```bibtex
@inproceedings{li2024videomamba,
  title={VideoMamba: State Space Model for Efficient Video Understanding},
  author={Li, Kunchang and Li, Xinhao and Wang, Yi and He, Yinan and Wang, Yali and Wang, Limin and Qiao, Yu},
  booktitle={ECCV},
  year={2024}
}
```"""


def model_card(model: VideoMambaPreTrainedModel, name: str, source: str) -> str:
    """A card for the model directory `name`, converted from the file `source`."""
    task = {
        "VideoMambaForVideoClassification": "video-classification",
        "VideoMambaForImageClassification": "image-classification",
        "VideoMambaForPreTraining": "masked-pretraining",
        "VideoMambaForVideoTextPreTraining": "video-text",
        "VideoMambaForVideoTextRetrieval": "video-text",
    }.get(type(model).__name__, "backbone")
    config = getattr(model.config, "vision_config", model.config)
    what = (
        f"A [VideoMamba]({PAPER}) model, converted from the official-layout checkpoint `{source}`: "
        f"{config.num_hidden_layers} blocks of width {config.hidden_size}, {config.num_frames or 1} frame(s) of "
        f"{config.image_size} pixels, {model.num_parameters():,} parameters."
    )
    return _card(task, [f"# {name}", what, "## Use", _snippet(task, name)])


def released_model_card(checkpoint: ReleasedCheckpoint, revision: str | None = None, organisation: str | None = None) -> str:
    """The card of a released checkpoint: what it is, how to use it, how it was trained, what is claimed, what to beware of.

    Args:
        checkpoint: a row of the table.
        revision: the commit of the hub's repository that the official file was taken from, if it was.
        organisation: who publishes the converted checkpoints on the hub, if anybody does; the card is then for a repository
            there, and not for a directory.
    """
    lineage, claims = _lineage(checkpoint), _claims(checkpoint)
    sections = [f"# {checkpoint.id}", *_what_it_is(checkpoint, revision), "## Use", *_use(checkpoint, organisation)]
    sections += ["## How it was trained", *_training(checkpoint, lineage)]
    sections += ["## Results, as reported by the authors", *_results(checkpoint)]
    sections += ["## Limits and quirks", _limits(checkpoint, lineage)]
    return _card(
        checkpoint.task,
        sections,
        license="apache-2.0",
        base_model=checkpoint.parent and _name(checkpoint.parent, organisation),
        datasets=list(dict.fromkeys(hub_id for row in lineage for hub_id in HUB_IDS.get(row.dataset, []))),
        model_name=checkpoint.id if claims else None,
        eval_results=claims or None,
    )


def write_cards(directory: Path) -> None:
    """Writes the cards of all released checkpoints, `directory/<id>/README.md`, and removes the folders of unknown ids."""
    released = load_released()
    for folder in directory.glob("*/"):
        if folder.name not in released:
            shutil.rmtree(folder)
    for checkpoint in released.values():
        (directory / checkpoint.id).mkdir(parents=True, exist_ok=True)
        (directory / checkpoint.id / "README.md").write_text(released_model_card(checkpoint), encoding="utf-8", newline="\n")


def outdated_cards(directory: Path) -> list[Path]:
    """Cards that differ from what the tables make, are missing, or belong to no checkpoint."""
    expected = {directory / name / "README.md": released_model_card(row) for name, row in load_released().items()}
    found = {path: path.read_text(encoding="utf-8") for path in directory.glob("*/README.md")}
    return sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))


def _card(task: str, sections: list[str], **metadata) -> str:
    is_pipeline = task.endswith("-classification")
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task if is_pipeline else "feature-extraction",
        tags=["videomamba", "mamba", "state-space-model"] + ([] if is_pipeline else [task]),
        **metadata,
    )
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join([*sections, CITATION]) + "\n"


def _snippet(task: str, name: str) -> str:
    if task == "backbone":
        return BACKBONE_SNIPPET.replace("my-model", name)
    if task == "video-text":
        return VIDEO_TEXT_SNIPPET.replace("my-model", name)
    file = "image.jpg" if task == "image-classification" else "video.mp4"
    snippet = PRETRAINING_SNIPPET if task == "masked-pretraining" else PIPELINE_SNIPPET
    return snippet.replace("TASK", task).replace("FILE", file).replace("my-model", name)


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])


def _bullets(sentences: list[str]) -> str:
    return "\n".join(f"- {sentence}." for sentence in sentences)


def _rows(table: Path, checkpoint: ReleasedCheckpoint) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["id"] == checkpoint.id]


def _lineage(checkpoint: ReleasedCheckpoint) -> list[ReleasedCheckpoint]:
    """The checkpoint, its parent, the parent's parent, and so on."""
    released, lineage = load_released(), [checkpoint]
    while lineage[-1].parent is not None:
        lineage.append(released[lineage[-1].parent])
    return lineage


def _official_folder(checkpoint: ReleasedCheckpoint) -> str:
    return f"{OFFICIAL_CODE}/{OFFICIAL_FOLDERS.get(checkpoint.task, 'video_sm')}"


def _views(checkpoint: ReleasedCheckpoint) -> str:
    return f"{checkpoint.clips} clips x {checkpoint.crops} crops" if checkpoint.frames else "1 view"


def _split(data_set: str) -> str:
    return "validation" if data_set in TESTED_ON_VALIDATION else "test"


def _claims(checkpoint: ReleasedCheckpoint) -> list[EvalResult]:
    """Every number that the authors claim, in percent, with its views."""
    claims = [
        (checkpoint.task, checkpoint.dataset, "accuracy", value, f"{name} accuracy, {_views(checkpoint)} as in the model zoo")
        for name, value in {"Top-1": checkpoint.top1, "Top-5": checkpoint.top5}.items()
        if value is not None
    ]
    claims += [
        (f"{row['direction']}-retrieval", row["dataset"], f"recall_at_{k}", float(row[f"r{k}"]), f"R@{k}, zero-shot, 1 view")
        for row in _rows(RECALLS, checkpoint)
        for k in (1, 5, 10)
    ]
    return [
        EvalResult(
            task_type=task,
            dataset_type=HUB_IDS.get(data_set, [data_set])[0],
            dataset_name=DATA_SETS[data_set],
            dataset_split=_split(data_set),
            metric_type=metric,
            metric_value=value,
            metric_name=f"{name}, in percent, reported by the authors",
            source_name="Reported by the authors in model zoo or paper, not measured by this project",
            source_url=f"{_official_folder(checkpoint)}/MODEL_ZOO.md",
        )
        for task, data_set, metric, value, name in claims
    ]


def _what_it_is(checkpoint: ReleasedCheckpoint, revision: str | None) -> list[str]:
    data_set, classes = DATA_SETS[checkpoint.dataset], NUM_LABELS.get(checkpoint.dataset)
    does = {
        "image-classification": f"classifies images into the {classes} classes of {data_set}",
        "video-classification": f"classifies videos into the {classes} classes of {data_set}",
        "masked-pretraining": f"went through masked pretraining on {data_set}: a start for fine-tuning, not a classifier",
        "video-text": f"finds videos by text and texts by video, together with a BERT, pretrained on {data_set}",
    }[checkpoint.task]
    what = (
        f"This [{SIZES[checkpoint.size]}]({PAPER}) {does}. It mixes tokens with a bidirectional selective scan (Mamba) "
        "instead of attention, so that its cost grows linearly with frames and pixels."
    )
    pixels = f"{checkpoint.resolution} x {checkpoint.resolution} pixels"
    facts = [
        ["input", f"{checkpoint.frames} frames of {pixels}" if checkpoint.frames else f"an image of {pixels}"],
        ["official file", f"`{checkpoint.file}` of [{REPOSITORY}](https://huggingface.co/{REPOSITORY})"],
    ]
    if revision is not None:
        address = f"https://huggingface.co/{REPOSITORY}/blob/{revision}/{checkpoint.file}"
        facts += [["converted from", f"revision [`{revision}`]({address})"]]
    if checkpoint.task == "video-text":
        facts += [["parameters, without the teacher", f"{checkpoint.parameters:,}"]]
    else:
        digits = 0 if checkpoint.frames else 1
        printed = "not printed" if checkpoint.gflops is None else f"{checkpoint.gflops:,.{digits}f}"
        ours = f"{count_flops(expected_config(checkpoint)) / 1e9:,.{digits}f}"
        masks = ", without masks" if checkpoint.task == "masked-pretraining" else ""
        facts += [
            ["parameters", f"{checkpoint.parameters:,}"],
            ["GFLOPs a view, as the authors print them, the scan left out", printed],
            [f"GFLOPs a view, the scan counted{masks}", ours],
        ]
    return [what, _table(["", ""], facts)]


def _name(checkpoint_id: str, organisation: str | None) -> str:
    """What `from_pretrained` takes."""
    return checkpoint_id if organisation is None else f"{organisation}/{checkpoint_id}"


def _use(checkpoint: ReleasedCheckpoint, organisation: str | None) -> list[str]:
    name, needs_package = _name(checkpoint.id, organisation), checkpoint.task in ("masked-pretraining", "video-text")
    needs = "`torch>=2.9`, `transformers>=5.17`, `torchvision` and `av`"
    needs = f"This needs {needs}, and the package `modeling_videomamba`" if needs_package else f"This needs {needs}"
    if organisation is None:
        needs = (
            f"`videomamba convert {name} {name}` downloads the official file and writes the directory `{name}` with weights, "
            f"code and this card. After `import modeling_videomamba`, the name alone works too. {needs}"
        )
    setup = f"{needs}."
    if checkpoint.task != "video-classification":
        return [setup, _snippet(checkpoint.task, name)]
    views = VIEWS_SNIPPET.replace("CLIPS", str(checkpoint.clips)).replace("CROPS", str(checkpoint.crops))
    more = f"This takes one view of the video. The results below take {checkpoint.clips * checkpoint.crops}:"
    return [setup, _snippet(checkpoint.task, name), more, views.replace("my-model", name)]


def _training(checkpoint: ReleasedCheckpoint, lineage: list[ReleasedCheckpoint]) -> list[str]:
    [recipe] = _rows(TRAINING_RECIPES, checkpoint)
    parents = ", which started from ".join(f"`{parent.id}`" for parent in lineage[1:])
    samples, repeats = f"{int(recipe['samples_per_step']):,}", int(recipe["repeated_augmentation"])
    if repeats > 1:
        samples += f", each {'video' if checkpoint.frames else 'image'} in {repeats} augmentations"
    facts = [
        ["epochs", f"{recipe['epochs']}, of which {recipe['warmup_epochs']} warm-up"],
        ["samples a step", samples],
        ["learning rate (AdamW)", f"{recipe['peak_lr']} after warm-up, down to {recipe['min_lr']} by a cosine"],
        ["weight decay", recipe["weight_decay"]],
        ["drop path", recipe["drop_path"]],
        ["augmentation", recipe["augmentation"]],
    ]
    sections = [
        f"Training started from {parents or 'scratch'}. The [official scripts]({_official_folder(checkpoint)}) say:",
        _table(["", ""], facts),
        _bullets(recipe["notes"].split("; ")),
    ]
    return [*sections, LAYER_DECAY] if checkpoint.task == "video-classification" else sections


def _results(checkpoint: ReleasedCheckpoint) -> list[str]:
    if checkpoint.task == "masked-pretraining":
        children = ", ".join(f"`{row.id}`" for row in load_released().values() if row.parent == checkpoint.id)
        return [f"There are none before fine-tuning. These were trained from it: {children}."]
    zoo = f"the [model zoo]({_official_folder(checkpoint)}/MODEL_ZOO.md)"
    if checkpoint.task == "video-text":
        header = ["data set", "zero-shot retrieval", "R@1", "R@5", "R@10"]
        rows = [[DATA_SETS[r["dataset"]], r["direction"], r["r1"], r["r5"], r["r10"]] for r in _rows(RECALLS, checkpoint)]
    else:
        header = ["data set", "views", "top-1"]
        data_set = f"{DATA_SETS[checkpoint.dataset]}, {_split(checkpoint.dataset)}"
        rows = [[data_set, _views(checkpoint), str(checkpoint.top1)]]
    if checkpoint.top5 is not None:
        header, rows = [*header, "top-5"], [[*rows[0], str(checkpoint.top5)]]
        zoo += ", top-5 from the paper"
    return [_table(header, rows), f"In percent, from {zoo}. This project did not measure them."]


def _limits(checkpoint: ReleasedCheckpoint, lineage: list[ReleasedCheckpoint]) -> str:
    limits = list(checkpoint.quirks)
    if checkpoint.task.endswith("-classification"):
        limits += [LABELS[checkpoint.dataset]]
    if (checkpoint.task, checkpoint.dataset) == ("video-classification", "something-something-v2"):
        limits += [SAMPLING]
    limits += dict.fromkeys(BIASES[row.dataset] for row in lineage)
    limits += [CLIP_BIAS] if lineage[-1].task == "masked-pretraining" else []
    limits += ["The data sets have terms of their own, some for research only"]
    limits += ["The weights are converted, not retrained, and were not evaluated again"]
    return _bullets(limits)
