"""Finds the videos of a folder that a sentence describes.

    videomamba search index my_videos --model my-model --index my_index
    videomamba search search "a dog runs" --index my_index --picture best.jpg --top 5
    videomamba search search --index my_index

The first command looks at every video once, and stores a vector for each frame that it took. Started again, after it was
killed or after the folder has changed, it looks at new and changed videos only, and forgets those that are gone. What cannot
be read is named, and left alone until the file changes. A second indexer is refused while the first one lasts.

The second compares the sentence with all vectors, without opening a video: the score is a cosine. With --rerank 20, the model
then looks at the 20 best again, each together with the sentence. The third asks for sentences until an empty line.

A model is a directory or a hub repository with a VideoMambaForVideoTextRetrieval, its video processor and its tokenizer, or
the id of a released checkpoint, such as videomamba-m-mm.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging

from .. import (
    VideoMambaForVideoTextRetrieval,
    VideoMambaVideoProcessor,
    VideoMambaVideoTextConfig,
    scan_report,
)
from ..checkpoints.by_name import locate_files
from ..data.captions import CaptionTokenizer, clean_caption
from ..data.interruption import say_when_interrupted
from ..data.media_files import printable, reason_of, search_folder
from ..data.outputs import held
from ..inference.answer_picture import frame_strip
from ..inference.embedding_index import VideoIndex, fingerprint_of_directory, stamp
from ..training.checks import check_picture, require_at_least_one
from .classify_many import batches_by_shape
from .parser import ArgumentParser, Help


STRIP_FRAMES, STRIP_WIDTH, CAPTION_HEIGHT = 4, 720, 28  # of a row of the contact sheet


def load_model(directory: str, device: str) -> tuple[VideoMambaForVideoTextRetrieval, VideoMambaVideoProcessor]:
    """
    Raises:
        ValueError: if the directory has a model of another kind.
    """
    config = AutoConfig.from_pretrained(directory)
    if not isinstance(config, VideoMambaVideoTextConfig):
        raise ValueError(f"{directory} has no model of videos and texts, but a {config.model_type}.")
    model, loading = VideoMambaForVideoTextRetrieval.from_pretrained(directory, output_loading_info=True)
    if loading["missing_keys"]:
        raise ValueError(f"{directory} has no whole model, it lacks {', '.join(sorted(loading['missing_keys']))}.")
    return model.to(device).eval(), VideoMambaVideoProcessor.from_pretrained(directory)


class VideosToIndex(Dataset):
    """`(name, clip)`, clip `(1, frames, 3, height, width)`, or the reason why a video cannot be read."""

    def __init__(self, folder: str, names: list[str], processor: VideoMambaVideoProcessor):
        self.folder, self.names, self.processor = folder, names, processor

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> tuple[str, Tensor | str]:
        name = self.names[i]
        try:
            return name, self.processor(os.path.join(self.folder, name), return_tensors="pt")["pixel_values"]
        except Exception as error:  # of whatever type: no file may end the run
            return name, reason_of(error, os.path.join(self.folder, name))


@torch.inference_mode()
def encode_videos(model: VideoMambaForVideoTextRetrieval, clips: Tensor) -> Tensor:
    """Vectors of unit length `(videos, frames, width)` of `(videos, frames, 3, height, width)`."""
    return F.normalize(model.get_video_features(clips.to(model.device)).pooler_output.float(), dim=-1)


def update_index(
    index: VideoIndex,
    to_do: dict[str, dict],
    model: VideoMambaForVideoTextRetrieval,
    processor: VideoMambaVideoProcessor,
    args: argparse.Namespace,
) -> None:
    """Adds the videos `to_do`, stamps by name, and saves every now and then."""
    loader = DataLoader(
        VideosToIndex(index.folder, list(to_do), processor),
        batch_size=None,
        num_workers=args.num_workers,
        in_order=False,  # a long video holds up nothing
    )

    def fail(name: str, reason: str, is_lasting: bool = True) -> None:
        tqdm.write(f"error: {printable(reason)}", file=sys.stderr)
        index.add_error(name, to_do[name] if is_lasting else {}, reason)  # without a stamp, it is out of date the next time

    def readable() -> Iterator[tuple[str, Tensor]]:
        for name, clip in tqdm(loader, unit="video"):
            if isinstance(clip, Tensor):
                yield name, clip
            else:
                fail(name, clip)

    saved = time.monotonic()
    try:
        for batch in batches_by_shape(readable(), args.batch_size):
            names, clips = zip(*batch)
            try:
                vectors = encode_videos(model, torch.cat(clips))
            except torch.AcceleratorError:  # from here on, nothing works
                raise
            except Exception as error:  # such as frames of a size that patches do not cover, or too large for the memory
                for name in names:
                    fail(name, f"{index.path_of(name)}: {error}", is_lasting=isinstance(error, ValueError))
                continue
            for name, vectors_of_video in zip(names, vectors):
                index.add(name, to_do[name], vectors_of_video)
            if time.monotonic() - saved >= args.save_seconds:
                index.save()
                saved = time.monotonic()
    finally:  # also when it is interrupted
        index.save()


def index_videos(args: argparse.Namespace) -> None:
    require_at_least_one(args, "batch_size")
    folder = os.path.abspath(args.videos)
    found = {str(path.relative_to(folder)): stamp(path) for path in search_folder(Path(folder), "video")}
    directory = locate_files(args.model)
    name = os.path.abspath(args.model) if os.path.isdir(args.model) else args.model
    with held(args.index):
        index = VideoIndex.read_or_start(Path(args.index), folder, name, fingerprint_of_directory(Path(directory)))
        bring_up_to_date(index, found, directory, args)


def bring_up_to_date(index: VideoIndex, found: dict[str, dict], directory: str, args: argparse.Namespace) -> None:
    """Makes the index one of the files `found`, stamps by path in the folder, with the model in the directory."""
    gone, to_do = index.out_of_date(found)
    if to_do:
        model, processor = load_model(directory, args.device)
        print(f"{args.model}: {model.num_parameters():,} parameters, {scan_report(args.device)}")
    for name in gone:
        del index.videos[name]
        print(f"{printable(index.path_of(name))} is gone, and is no longer in the index")
    index.save()
    print(f"{printable(args.videos)}: {len(found)} videos, of which {len(found) - len(to_do)} are done")
    if to_do:
        start = time.perf_counter()
        update_index(index, {name: found[name] for name in to_do}, model, processor, args)
        seconds = time.perf_counter() - start
        print(f"{len(to_do)} videos in {seconds:.1f} s, {len(to_do) / seconds:.2f} a second")
    index.check_whole()
    failed = sum("error" in video for video in index.videos.values())
    print(f"{failed} of {len(found)} cannot be read; the others are in {printable(args.index)}")


@dataclass
class Found:
    """A video, its cosine with the sentence, and the matching head's logit, if it was asked."""

    video: str
    cosine: float
    match: float | None = None


class Searcher:
    """An index in memory, and the model that made it."""

    def __init__(self, index: VideoIndex, model_directory: str, device: str, max_length: int):
        self.index = index
        self.names, self.means = index.mean_vectors()  # (videos, width)
        self.model, self.processor = load_model(model_directory, device)
        max_length = min(max_length, self.model.config.text_config.max_position_embeddings)
        self.tokenize = CaptionTokenizer(AutoTokenizer.from_pretrained(model_directory), max_length)

    @torch.inference_mode()
    def search(self, sentence: str, top: int, rerank: int = 0) -> list[Found]:
        """The `top` videos, best first: the `rerank` ones of the highest cosine by what the matching head says, then others.

        Raises:
            ValueError: if the sentence is empty, or has nothing but punctuation.
        """
        caption = clean_caption(sentence)
        if not caption:
            raise ValueError("The sentence is empty.")
        input_ids, mask = (tensor.to(self.model.device) for tensor in self.tokenize([caption]))  # (1, max_length)
        text = self.model.get_text_features(input_ids, mask)
        cosines = self.means @ F.normalize(text.pooler_output[0].float(), dim=0).cpu()  # (videos,)
        best = cosines.topk(min(max(top, rerank), len(self.names)))
        found = [
            Found(self.index.path_of(self.names[i]), cosine) for i, cosine in zip(best.indices.tolist(), best.values.tolist())
        ]
        judged = []
        for candidate in tqdm(found[:rerank], "looking again", unit="video", disable=None, leave=False):
            try:
                clip = self.processor(candidate.video, return_tensors="pt")["pixel_values"]
                patches = self.model.get_video_features(clip.to(self.model.device)).last_hidden_state
            except torch.AcceleratorError:
                raise
            except Exception as error:  # the file may have changed since it was indexed
                print(f"left out: {printable(reason_of(error, candidate.video))}", file=sys.stderr)
                continue
            candidate.match = self.model.match(text.last_hidden_state, mask, patches)[0, 1].item()
            judged.append(candidate)
        judged.sort(key=lambda candidate: -candidate.match)
        return (judged + found[rerank:])[:top]


def contact_sheet(captions: list[str], strips: list[Image.Image | None]) -> Image.Image:
    """A row for every video: its caption, and below it its strip of frames, if it has one, all of one width."""
    strips = [strip and strip.resize((STRIP_WIDTH, round(strip.height * STRIP_WIDTH / strip.width))) for strip in strips]
    heights = [CAPTION_HEIGHT + (strip.height if strip else 0) for strip in strips]
    sheet = Image.new("RGB", (STRIP_WIDTH, sum(heights)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.truetype(findfont("DejaVu Sans"), 15)
    top = 0
    for caption, strip, height in zip(captions, strips, heights):
        draw.text((4, top + CAPTION_HEIGHT / 2), caption, "black", font, anchor="lm")
        if strip:
            sheet.paste(strip, (0, top + CAPTION_HEIGHT))
        top += height
    return sheet


def read_strip(video: str, processor: VideoMambaVideoProcessor) -> Image.Image | None:
    """Four whole frames side by side; `None` if the video cannot be read any more."""
    whole = {"size": {"shortest_edge": STRIP_WIDTH // STRIP_FRAMES}, "do_center_crop": False}
    try:
        [clip] = processor(video, num_frames=STRIP_FRAMES, return_tensors="pt", **whole)["pixel_values"]
    except Exception as error:  # of whatever type: the others have their pictures
        print(f"no picture: {printable(reason_of(error, video))}", file=sys.stderr)
        return None
    strip = frame_strip(clip, processor.image_mean, processor.image_std)
    return Image.fromarray((strip * 255).round().byte().numpy())


def shorten(name: str) -> str:
    return name if len(name) <= 60 else f"…{name[-60:]}"


def answer(searcher: Searcher, sentence: str, args: argparse.Namespace) -> None:
    """Prints what is found, and draws it."""
    results = searcher.search(sentence, args.top, args.rerank)
    scores = [f"{f.cosine:6.3f}" + ("" if f.match is None else f"  match {f.match:6.2f}") for f in results]
    for place, (result, score) in enumerate(zip(results, scores), start=1):
        print(f"{place:3}. {score}  {printable(result.video)}")
    if args.picture and results:
        names = [shorten(printable(os.path.basename(result.video))) for result in results]
        captions = [f"{place}.  {score}   {name}" for place, (score, name) in enumerate(zip(scores, names), start=1)]
        strips = [read_strip(result.video, searcher.processor) for result in results]
        contact_sheet(captions, strips).save(args.picture)


def sentences_from_stdin() -> Iterator[str]:
    """Until an empty line, or the end."""
    while True:
        try:
            sentence = input("sentence: ")
        except EOFError:
            return
        if not sentence.strip():
            return
        yield sentence


def search_videos(args: argparse.Namespace) -> None:
    if args.picture:
        check_picture(args.picture, {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.SAVE})
    if args.top < 1 or args.rerank < 0:
        raise ValueError(f"--top must be at least 1, and --rerank 0, got {args.top} and {args.rerank}.")
    index = VideoIndex.read(Path(args.index))
    directory = locate_files(args.model or index.model)
    index.check_model(directory, fingerprint_of_directory(Path(directory)))
    searcher = Searcher(index, directory, args.device, args.max_length)
    if args.sentence is not None:
        answer(searcher, args.sentence, args)
        return
    print(f"{len(searcher.names)} videos. An empty line ends the search.")
    for sentence in sentences_from_stdin():
        try:
            answer(searcher, sentence, args)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=Help)
    commands = parser.add_subparsers(required=True)
    index = commands.add_parser("index", help="look at the videos", formatter_class=Help)
    index.set_defaults(run=index_videos)
    index.add_argument("videos", help="folder, whose folders are searched too")
    index.add_argument("--model", required=True, help="directory, hub repository or released id")
    index.add_argument("--num_workers", type=int, default=0, help="processes that decode; a GPU is to be given several")
    index.add_argument("--batch_size", type=int, default=8 if torch.cuda.is_available() else 1, help="clips at once")
    index.add_argument("--save_seconds", type=float, default=30, help="work that is lost at most when it is killed")
    search = commands.add_parser("search", help="find videos", formatter_class=Help)
    search.set_defaults(run=search_videos)
    search.add_argument("sentence", nargs="?", help="what to look for, in English; without it, you are asked")
    search.add_argument("--model", help="where the model is now, if it was moved")
    search.add_argument("--top", type=int, default=5, help="videos to name")
    search.add_argument("--rerank", type=int, default=0, help="videos that the model looks at again, more slowly and better")
    search.add_argument("--picture", help="file to draw frames of the best videos into")
    search.add_argument("--max_length", type=int, default=32, help="tokens of a sentence that count")
    for command in (index, search):
        command.add_argument("--index", required=True, help="directory of the index")
        command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    logging.disable_progress_bar()
    say_when_interrupted("; what was done is kept")
    args.run(args)
