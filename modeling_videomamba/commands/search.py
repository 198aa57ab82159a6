"""Finds the videos that a sentence describes, in an index that `videomamba index` made.

    videomamba search "a dog runs" --index my-index --picture best.jpg --top 5
    videomamba search --index my-index                  asks for sentences until an empty line

The sentence is compared with all vectors of the index, without opening a video: the score is a cosine. With --rerank 20, the
model then looks at the 20 best again, each together with the sentence.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from transformers.utils import logging

from ..checkpoints.by_name import locate_files
from ..data.checks import check_picture
from ..data.media_files import printable
from ..inference.contact_sheet import contact_sheet, read_strip
from ..inference.embedding_index import VideoIndex, fingerprint_of_directory
from ..inference.search import Searcher
from .parser import DataclassParser


def main(argv: list[str] | None = None) -> None:
    parser = DataclassParser(description=__doc__)
    parser.add_argument("sentence", nargs="?", help="what to look for, in English; without it, you are asked")
    parser.add_argument("--index", required=True, help="directory of the index")
    parser.add_argument("--model", help="where the model is now, if it was moved")
    parser.add_argument("--top", type=int, default=5, help="videos to name")
    parser.add_argument("--rerank", type=int, default=0, help="videos that the model looks at again, more slowly and better")
    parser.add_argument("--picture", help="file to draw frames of the best videos into")
    parser.add_argument("--max-length", type=int, default=32, help="tokens of a sentence that count")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where the model runs")
    args = parser.parse_args(argv)
    logging.disable_progress_bar()
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


def shorten(name: str) -> str:
    """Its end, by which files of one folder differ."""
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
        title = f"“{printable(sentence)[:60]}” in {shorten(printable(searcher.index.folder))}"
        contact_sheet(title, captions, strips).save(args.picture)


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
