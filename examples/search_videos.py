"""Finds the videos of a folder that a sentence describes.

    pip install "modeling-videomamba[train]"
    python examples/search_videos.py my_videos "a dog runs on a beach" "a man plays the guitar" --model videomamba-m-mm

1. The video side makes a vector of unit length of every frame that it takes of a video, `(videos, frames, 512)`, and keeps the
   video's patches, `(videos, patches, width)`.
2. The text side makes a vector of each sentence, `(sentences, 512)`. The score of a pair is the mean of its cosines over the
   frames: all videos are compared with all sentences at once, `(videos, sentences)`.
3. The matching head looks at a sentence together with the patches of the likeliest videos, pair by pair: slower and better.

Everything stays in memory. `videomamba index` and `videomamba search` keep the vectors on disk, and take new videos in.
"""

import argparse
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from modeling_videomamba import VideoMambaForVideoTextRetrieval, VideoMambaVideoProcessor
from modeling_videomamba.data.captions import CaptionedFile, CaptionTokenizer, clean_caption
from modeling_videomamba.data.media_files import search_folder
from modeling_videomamba.inference.retrieval import (
    RetrievalClips,
    encode_texts,
    encode_videos,
    join_readable,
    score_pairs,
)


def main(argv: list[str] | None = None) -> dict[str, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, help="folder, whose folders are searched too")
    parser.add_argument("sentences", nargs="+", help="what to look for, in English")
    parser.add_argument("--model", default="videomamba-m-mm", help="video-text model: released id, directory, hub repository")
    parser.add_argument("--top", type=int, default=3, help="videos to name for each sentence")
    parser.add_argument("--rerank", type=int, default=20, help="videos that are looked at again together with the sentence")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-workers", type=int, default=2, help="processes that decode videos")
    options = parser.parse_args(argv)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = VideoMambaForVideoTextRetrieval.from_pretrained(options.model).to(device).eval()
    processor = VideoMambaVideoProcessor.from_pretrained(options.model)
    tokenizer = AutoTokenizer.from_pretrained(options.model)

    # Videos: what cannot be read is named and left out.
    files = [CaptionedFile(str(path), "video", ()) for path in search_folder(options.videos, "video")]
    size = processor.size["height"], processor.size["width"]
    clips = RetrievalClips(files, processor, size, processor.num_frames)  # the middles of equal intervals
    loader = DataLoader(clips, options.batch_size, num_workers=options.num_workers, collate_fn=join_readable)
    readable, videos = encode_videos(model, loader)  # vectors (videos, frames, 512), patches (videos, patches, width)

    # Sentences
    texts = [clean_caption(sentence) for sentence in options.sentences]  # lower case, no punctuation, as in training
    input_ids, mask = CaptionTokenizer(tokenizer, max_length=32)(texts)  # (sentences, 32) both
    encoded = encode_texts(model, input_ids, mask, options.batch_size)  # vectors (sentences, 512)

    # Cosines of all pairs, (videos, sentences); and what the matching head says of the likeliest, (sentences, videos)
    scores = score_pairs(model, videos, encoded, mask, top_k=options.rerank, batch_size=options.batch_size)

    found = {}
    for i, sentence in enumerate(options.sentences):
        best = scores["text_to_video"][i].topk(min(options.top, options.rerank, len(readable)))
        print(sentence)
        for match, video in zip(best.values.tolist(), best.indices.tolist()):
            cosine = scores["dual"][video, i].item()
            print(f"  cosine {cosine:6.3f}  match {match:6.2f}  {files[readable[video]].path}")
        found[sentence] = [files[readable[video]].path for video in best.indices.tolist()]
    return found


if __name__ == "__main__":
    main()
