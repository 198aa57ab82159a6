"""Measures how well a model finds videos by texts and texts by videos: R@1, R@5, R@10 and the median rank, both ways.

    videomamba evaluate-retrieval --model DIR --data msrvtt_test.json --protocol msrvtt --output-dir my-results

The list is JSON, `[{"video": PATH, "caption": TEXT or [TEXT, ...]}, ...]`, JSONL of such items, or CSV with the columns
`path,caption`. Every caption is a query of its own, unless all captions of a video are one paragraph; of several captions of
a video, the best ranked counts. A protocol says what a benchmark asks for, of which anything can be changed:

    msrvtt       texts of 32 tokens
    didemo       paragraphs of 64 tokens, and 30 seconds of a video
    activitynet  paragraphs of 150 tokens
    lsmdc        texts of 96 tokens
    msvd         texts of 64 tokens

The output directory gets metrics.json, recalls as parts of 1, and scores.safetensors: the cosines of all pairs, and what the
model says of those pairs that it looks at more closely, both with the names of rows and columns in the file's metadata.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save as to_safetensors
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging

from .. import (
    VideoMambaForVideoTextRetrieval,
    VideoMambaVideoProcessor,
    VideoMambaVideoTextConfig,
    scan_report,
)
from ..checkpoints.by_name import locate
from ..data.captions import PROTOCOLS, CaptionedFile, CaptionTokenizer, Protocol, load_captions
from ..data.checks import require_at_least_one
from ..data.clips import UnreadableFiles
from ..data.outputs import check_held, hold, release, replacing
from ..inference.retrieval import (
    RetrievalClips,
    encode_texts,
    encode_videos,
    join_readable,
    metrics_table,
    retrieval_metrics,
    score_pairs,
)
from .parser import DataclassParser


ESSENTIAL = ("model", "data", "output_dir", "protocol", "num_frames", "top_k", "batch_size", "bf16", "device")


@dataclass
class RetrievalArguments:
    model: str = field(metadata={"help": "what to evaluate: a directory or a hub repository of a trained video-text model"})
    data: str = field(metadata={"help": "list of videos and their captions: .json, .jsonl or .csv"})
    output_dir: str = field(metadata={"help": "where results go"})
    media_root: str | None = field(
        default=None, metadata={"help": "where relative paths in the list start from (default: where the list is)"}
    )
    protocol: Literal["msrvtt", "didemo", "activitynet", "lsmdc", "msvd"] | None = field(
        default=None, metadata={"help": "the benchmark whose settings to take (default: every caption a text of 32 tokens)"}
    )
    max_text_length: int | None = field(default=None, metadata={"help": "tokens of a text, if other than the protocol's"})
    paragraph: bool | None = field(
        default=None, metadata={"help": "whether all captions of a video are one text, if other than the protocol's"}
    )
    seconds: float | None = field(
        default=None, metadata={"help": "what is seen of a video, from its start, if other than the protocol's; 0: all of it"}
    )
    num_frames: int | None = field(default=None, metadata={"help": "frames of a clip, if other than the model's"})
    top_k: int = field(default=128, metadata={"help": "how many pairs of each video, and of each text, are judged closely"})
    batch_size: int = field(default=32, metadata={"help": "videos, texts or pairs that go through the model at once"})
    num_workers: int = field(default=2, metadata={"help": "processes that decode"})
    bf16: bool = field(default=False, metadata={"help": "autocast to bfloat16"})
    device: str = field(default="auto", metadata={"help": "where the model runs; auto: on a GPU if there is one"})
    strict: bool = field(
        default=False, metadata={"help": "stop at a file that cannot be read, instead of skipping, counting and naming it"}
    )

    def __post_init__(self) -> None:
        require_at_least_one(self, "top_k", "batch_size", "num_frames", "max_text_length")
        if self.device == "auto":
            self.device = "cuda" if torch.cuda.is_available() else "cpu"


def protocol_of(args: RetrievalArguments) -> Protocol:
    """What the benchmark asks for, except for what the command line says."""
    given = {name: getattr(args, name) for name in Protocol._fields if getattr(args, name) is not None}
    protocol = PROTOCOLS.get(args.protocol, Protocol())._replace(**given)
    return protocol._replace(seconds=protocol.seconds or None)


def load_model(name: str) -> tuple[VideoMambaForVideoTextRetrieval, CaptionTokenizer, VideoMambaVideoProcessor]:
    """A trained model with what it takes texts and videos from.

    Raises:
        ValueError: if it is another kind of model, or lacks weights.
    """
    source = locate(name)
    if not isinstance(AutoConfig.from_pretrained(source), VideoMambaVideoTextConfig):
        raise ValueError(f"{name} is no model of videos and texts.")
    model, loading = VideoMambaForVideoTextRetrieval.from_pretrained(source, output_loading_info=True)
    if loading["missing_keys"]:
        raise ValueError(f"{name} is not trained, it lacks {', '.join(sorted(loading['missing_keys']))}.")
    return model.eval(), AutoTokenizer.from_pretrained(source), VideoMambaVideoProcessor.from_pretrained(source)


def list_texts(files: list[CaptionedFile], paragraph: bool) -> tuple[list[str], list[int]]:
    """The texts, and for each the index of its video."""
    texts = [[" ".join(file.captions)] if paragraph else file.captions for file in files]
    return [text for some in texts for text in some], [i for i, some in enumerate(texts) for _ in some]


def write_results(
    output_dir: Path, videos: list[str], texts: list[str], scores: dict[str, torch.Tensor], results: dict
) -> None:
    names = {"videos": json.dumps(videos), "texts": json.dumps(texts)}
    check_held(output_dir)
    with replacing(output_dir / "scores.safetensors") as file:
        file.write_bytes(to_safetensors({name: matrix.contiguous() for name, matrix in scores.items()}, names))
    with replacing(output_dir / "metrics.json") as file:
        file.write_text(json.dumps(results, indent=2, ensure_ascii=False), encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    parser = DataclassParser(RetrievalArguments, __doc__, ESSENTIAL)
    [args] = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    logging.disable_progress_bar()
    protocol = protocol_of(args)
    files = load_captions(args.data, args.media_root)
    model, tokenizer, processor = load_model(args.model)
    most = model.config.text_config.max_position_embeddings
    if protocol.max_text_length > most:
        raise ValueError(f"--max_text_length {protocol.max_text_length}, but the model's texts have at most {most} tokens.")
    model.to(args.device)

    output_dir = Path(args.output_dir)
    hold(output_dir)
    unreadable = UnreadableFiles(output_dir / "unreadable_files.txt", args.strict)
    unreadable.file.unlink(missing_ok=True)  # they are tried again
    image_size = model.config.vision_config.image_size
    num_frames = args.num_frames or model.config.vision_config.num_frames
    clips = RetrievalClips(
        files,
        processor,
        (image_size, image_size) if isinstance(image_size, int) else image_size,
        num_frames,
        unreadable,
        protocol.seconds,
    )
    loader = DataLoader(clips, args.batch_size, num_workers=args.num_workers, collate_fn=join_readable)
    print(f"{args.model}: {model.num_parameters():,} parameters, {scan_report(args.device)}")
    readable, videos = encode_videos(model, tqdm(loader, "videos", unit="batch"), args.bf16)
    files = [files[i] for i in readable]

    texts, video_of_text = list_texts(files, protocol.paragraph)
    input_ids, mask = CaptionTokenizer(tokenizer, protocol.max_text_length)(texts)
    encoded_texts = encode_texts(model, input_ids, mask, args.batch_size, args.bf16)
    print(f"{args.data}: {len(files)} videos of {num_frames} frames, {len(texts)} texts")
    scores = score_pairs(model, videos, encoded_texts, mask, args.top_k, args.batch_size, args.bf16)

    metrics = retrieval_metrics(scores, video_of_text)
    settings = {"model": args.model, "data": args.data, "protocol": args.protocol} | protocol._asdict()
    settings |= {"num_frames": num_frames, "top_k": args.top_k, "bf16": args.bf16}
    counts = {"num_videos": len(files), "num_texts": len(texts), "unreadable_videos": unreadable.names()}
    write_results(output_dir, [file.path for file in files], texts, scores, metrics | counts | settings)
    print(metrics_table(metrics))
    print(f"{len(files)} videos, {len(texts)} texts; everything is in {output_dir}")
    if names := counts["unreadable_videos"]:
        print(f"{len(names)} video(s) could not be read and do not count, see {unreadable.file}")
    release(output_dir)
