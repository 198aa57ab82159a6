"""Trains a small video-text model that finds clips by what a camera does before which photograph, and evaluates it.

    OMP_NUM_THREADS=1 python examples/train_retrieval_demo.py retrieval_demo  # a model this small is the fastest so

It runs the scripts that a person would run: render_captioned_clips.py, finetune_retrieval.py from random weights, and
evaluate_retrieval.py on clips that were not trained on, one for each of 100 captions. retrieval_demo/model is what
search_videos.py takes: `python examples/search_videos.py index retrieval_demo/clips/test --model retrieval_demo/model ...`.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertTokenizer


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from a clone, installed or not

from conversion.converter import processor_for
from examples.common.captions import load_captions
from examples.common.retrieval import metrics_table
from examples.train_demo import run
from modeling_videomamba import VideoMambaConfig, VideoMambaForVideoTextRetrieval, VideoMambaVideoTextConfig


VISION = {"image_size": 32, "num_frames": 8, "hidden_size": 128, "num_hidden_layers": 3, "initializer_range": 0.1}
TEXT = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 256}
TEXT |= {"max_position_embeddings": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TRAINING = {
    "learning_rate": 1e-3,
    "min_learning_rate": 1e-5,
    "warmup_epochs": 2,
    "weight_decay": 0.05,
    "max_grad_norm": 1.0,
    "drop_path_rate": 0.0,
    "per_device_train_batch_size": 60,
    "min_crop_area": 0.8,
    "horizontal_flip": False,  # captions tell left from right
    "dataloader_num_workers": 1,
}


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUTPUT_DIR")
    parser.add_argument("--clips-per-caption", type=int, default=24)
    parser.add_argument("--epochs", type=float, default=12)
    args = parser.parse_args()
    clips, model = args.output / "clips", args.output / "model"

    run("render_captioned_clips.py", clips, "--clips-per-caption", args.clips_per_caption)
    start(args.output / "start", clips / "train.json")
    options = [str(text) for name, value in TRAINING.items() for text in (f"--{name}", value)]
    options += ["--num_train_epochs", str(args.epochs), "--model", args.output / "start", "--output_dir", model]
    minutes = run("finetune_retrieval.py", "--data", clips / "train.json", "--validation", clips / "val.json", *options)
    run("evaluate_retrieval.py", "--model", model, "--data", clips / "test.json", "--output_dir", args.output / "results")
    metrics = json.loads((args.output / "results/metrics.json").read_text())
    print(f"trained for {minutes:.0f} minutes; {metrics['num_videos']} clips that were not trained on:\n")
    print(metrics_table(metrics))


if __name__ == "__main__":
    main()
