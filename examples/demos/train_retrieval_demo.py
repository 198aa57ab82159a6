"""Makes videomamba-retrieval-demo again: a small model that finds clips by what a camera does before which photograph.

    OMP_NUM_THREADS=1 python -m examples.demos.train_retrieval_demo demo  # for a model this small one thread is the fastest

It runs what a person would run: `render_captioned_clips`, `videomamba finetune-retrieval` from random weights, and
`videomamba evaluate-retrieval` on clips that were not trained on, one for each of 100 captions. Then it writes the model and
its card into demo/videomamba-retrieval-demo, and some of those clips into demo/retrieval_demo_clips.
"""

import json
import os
import shutil
from pathlib import Path

import torch
from transformers import BertConfig, BertTokenizer

from examples.demos.demo import copy_settings, count_parameters, run
from modeling_videomamba import VideoMambaConfig, VideoMambaForVideoTextRetrieval, VideoMambaVideoTextConfig
from modeling_videomamba.checkpoints.default_processor import processor_for
from modeling_videomamba.commands.command_line import run_command
from modeling_videomamba.commands.parser import DataclassParser
from modeling_videomamba.data.captions import load_captions
from modeling_videomamba.inference.retrieval import metrics_table


VISION = {"image_size": 32, "num_frames": 8, "hidden_size": 128, "num_hidden_layers": 3, "initializer_range": 0.1}
TEXT = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 256}
TEXT |= {"max_position_embeddings": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TEXT |= {"initializer_range": 0.08}  # near the inverse root of the width; with BERT's 0.02 the matching head learns late
TRAINING = {
    "learning_rate": 1e-3,
    "min_learning_rate": 1e-5,
    "warmup_learning_rate": 0.0,
    "warmup_epochs": 2,
    "weight_decay": 0.05,
    "max_grad_norm": 1.0,
    "drop_path_rate": 0.0,
    "per_device_train_batch_size": 60,
    "min_crop_area": 0.8,
    "horizontal_flip": False,  # captions tell left from right
    "dataloader_num_workers": 1,
}

CARD = """---
license: apache-2.0
library_name: transformers
tags:
- video
- video-text
- videomamba
---

# VideoMamba retrieval demo

A [VideoMamba](https://arxiv.org/abs/2403.06977) and a BERT, {parameters:,} parameters together, that find clips by a sentence
such as "the camera moves to the left in front of a picture of a cat", and sentences by a clip: eight movements of a camera,
before one of 15 photographs. It is here to be run, tested and fine-tuned in seconds, not to be useful: expect nothing of it
on other videos or in other words.

```bash
videomamba index examples/retrieval_demo_clips --model videomamba-retrieval-demo --index my-index
videomamba search "the camera comes closer in front of a picture of a flower" --index my-index --top 3
```

## Retrieval

{clips} clips that were not trained on, each with a caption of its own; chance is {chance:.1%} at R@1. The first two rows are
the paper's protocol: the dual encoder's candidates, ranked by the matching head.

{table}

Photographs and captions are those of the training, the clips are not: each has a cutting, a path and a wall of its own.
The initialisation and the number of epochs were chosen with an eye on these clips.

## Training

`examples/demos/train_retrieval_demo.py` renders {training_clips:,} clips of photographs from scikit-image and scikit-learn,
and trains for {epochs:g} epochs, {minutes:.0f} minutes on {cores} CPU cores, with the contrastive and the matching loss.

The photographs come with scikit-image (its documentation names their sources and licences) and with scikit-learn (china by
danielbuechele and flower by vultilion, both CC BY 2.0).
"""


def start(directory: Path, captions: Path) -> None:
    """A model of random weights, and a tokenizer of the words in the captions."""
    texts = [text for file in load_captions(captions) for text in file.captions]
    words = sorted({word for text in texts for word in text.split()})
    directory.mkdir(parents=True)
    vocabulary = directory / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    tokenizer = BertTokenizer(str(vocabulary))
    config = VideoMambaVideoTextConfig(
        vision_config=VideoMambaConfig(**VISION),
        text_config=BertConfig(vocab_size=len(tokenizer), **TEXT),
        num_fusion_layers=1,
        projection_dim=128,
    )
    torch.manual_seed(0)
    VideoMambaForVideoTextRetrieval(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    processor_for(config).save_pretrained(directory)


def main() -> None:
    parser = DataclassParser(description=__doc__)
    parser.add_argument("output", type=Path, metavar="OUTPUT_DIR")
    parser.add_argument("--clips-per-caption", type=int, default=24)
    parser.add_argument("--epochs", type=float, default=30)
    args = parser.parse_args()
    clips, model, demo = args.output / "clips", args.output / "training", args.output / "videomamba-retrieval-demo"

    run("examples.demos.render_captioned_clips", clips, "--clips-per-caption", args.clips_per_caption)
    start(args.output / "start", clips / "train.json")
    options = [str(text) for name, value in TRAINING.items() for text in (f"--{name}", value)]
    options += ["--num_train_epochs", str(args.epochs), "--model", args.output / "start", "--output_dir", model]
    minutes = run(
        "modeling_videomamba",
        "finetune-retrieval",
        "--data",
        clips / "train.json",
        "--validation",
        clips / "val.json",
        *options,
    )

    demo.mkdir(exist_ok=True)
    shutil.copy(model / "model.safetensors", demo)
    names = "config.json", "tokenizer.json", "tokenizer_config.json", "video_preprocessor_config.json"
    copy_settings(model, demo, *names)
    run(
        "modeling_videomamba",
        "evaluate-retrieval",
        "--model",
        demo,
        "--data",
        clips / "test.json",
        "--output_dir",
        args.output / "results",
    )
    metrics = json.loads((args.output / "results/metrics.json").read_text())
    card = CARD.format(
        parameters=count_parameters(demo),
        clips=metrics["num_videos"],
        chance=1 / metrics["num_videos"],
        table=metrics_table(metrics),
        training_clips=len(load_captions(clips / "train.json")),
        epochs=args.epochs,
        minutes=minutes,
        cores=len(os.sched_getaffinity(0)),
    )
    (demo / "README.md").write_text(card)

    some = args.output / "retrieval_demo_clips"
    some.mkdir(exist_ok=True)
    for clip in sorted((clips / "test").iterdir())[::8]:
        shutil.copy(clip, some)
    print(card.split("## Retrieval")[1].split("## Training")[0])


if __name__ == "__main__":
    run_command(main)
