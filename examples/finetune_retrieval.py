"""Fine-tunes a video-text model to find videos by sentences, and measures it: section 4.4 and Table 8 of the paper.

    pip install "modeling-videomamba[train]"
    python examples/finetune_retrieval.py train.json test.json my-retrieval-model --model videomamba-m-mm

A list is `[{"video": PATH, "caption": TEXT or [TEXT, ...]}, ...]`; of several captions, every epoch draws one.

Training, on clips `(batch, frames, 3, 224, 224)` and texts `(batch, 32)`, adds two losses:

1. contrastive: the vectors of a clip and of its own text, `(batch, 512)` each, are to be nearer than those of all other pairs;
2. matching: the text side's last layers look at a clip and a text at once, and say whether they belong together.

Evaluation goes the same way: vectors compare all videos with all texts, `(videos, texts)`; then the likeliest pairs are looked
at again, one by one. R@k is the part of the queries whose right answer is among the first k.

`videomamba finetune-retrieval` and `videomamba evaluate-retrieval` do this with the protocols of the benchmarks.
"""

import argparse

import torch
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedTokenizerBase, set_seed

from modeling_videomamba import VideoMambaForVideoTextRetrieval, VideoMambaVideoProcessor
from modeling_videomamba.checkpoints.default_processor import processor_for
from modeling_videomamba.data.captions import CaptionedFile, CaptionTokenizer, load_captions
from modeling_videomamba.data.sides import texts_with_sides
from modeling_videomamba.inference.retrieval import (
    RetrievalClips,
    encode_texts,
    encode_videos,
    join_readable,
    metrics_table,
    retrieval_metrics,
    score_pairs,
)
from modeling_videomamba.training.retrieval import RetrievalTrainer, RetrievalTrainingArguments
from modeling_videomamba.training.video_text import CaptionedClips, VideoTextCollator, captioned_transform


MAX_TEXT_LENGTH = 32


def evaluate(
    model: VideoMambaForVideoTextRetrieval,
    processor: VideoMambaVideoProcessor,
    tokenizer: PreTrainedTokenizerBase,
    files: list[CaptionedFile],
    batch_size: int,
) -> dict[str, float]:
    """R@1, R@5, R@10 and the median rank, of texts to videos and of videos to texts."""
    model.eval()
    size = processor.size["height"], processor.size["width"]
    loader = DataLoader(RetrievalClips(files, processor, size, processor.num_frames), batch_size, collate_fn=join_readable)
    readable, videos = encode_videos(model, loader)  # vectors of all frames, and patches, of each video
    files = [files[i] for i in readable]

    texts = [text for file in files for text in file.captions]
    video_of_text = [i for i, file in enumerate(files) for _ in file.captions]
    input_ids, mask = CaptionTokenizer(tokenizer, MAX_TEXT_LENGTH)(texts)  # (texts, 32) both
    encoded = encode_texts(model, input_ids, mask, batch_size)

    scores = score_pairs(model, videos, encoded, mask, top_k=128, batch_size=batch_size)
    return retrieval_metrics(scores, video_of_text)


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="list of videos and their captions: .json, .jsonl or .csv")
    parser.add_argument("test", help="such a list, to measure on")
    parser.add_argument("output_dir")
    parser.add_argument("--model", default="videomamba-m-mm", help="video-text model: released id, directory, hub repository")
    parser.add_argument("--epochs", type=float, default=RetrievalTrainingArguments.num_train_epochs)
    parser.add_argument("--batch-size", type=int, default=16, help="the more pairs, the more there is to tell apart")
    parser.add_argument("--learning-rate", type=float, default=RetrievalTrainingArguments.learning_rate)
    parser.add_argument("--num-workers", type=int, default=2, help="processes that decode videos")
    options = parser.parse_args(argv)
    set_seed(0)

    train, test = load_captions(options.train), load_captions(options.test)
    model = VideoMambaForVideoTextRetrieval.from_pretrained(options.model, dtype=torch.float32)
    tokenizer, processor = AutoTokenizer.from_pretrained(options.model), processor_for(model.config)

    # Clips: {"pixel_values": (frames, 3, size, size), "caption": text, ...}, new in every epoch.
    mirror = not texts_with_sides([text for file in train for text in file.captions])
    transform = captioned_transform(processor, min_area=0.5, horizontal_flip=mirror)
    trainer = RetrievalTrainer(  # a Trainer whose curves show both losses
        model=model,
        args=RetrievalTrainingArguments(  # a cosine after a warm-up of a tenth of all steps
            output_dir=options.output_dir,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            bf16=torch.cuda.is_available(),
            eval_strategy="no",
            save_strategy="no",
            dataloader_num_workers=options.num_workers,
            report_to="none",
        ),
        train_dataset=CaptionedClips(train, processor, transform),
        data_collator=VideoTextCollator(tokenizer, MAX_TEXT_LENGTH),  # adds "input_ids" (batch, 32) and their mask
        processing_class=processor,  # saved beside the model
    )
    before = evaluate(model, processor, tokenizer, test, options.batch_size)
    trainer.train()
    trainer.save_model()
    tokenizer.save_pretrained(options.output_dir)

    metrics = evaluate(model, processor, tokenizer, test, options.batch_size)
    print(f"before:\n{metrics_table(before)}\n\nafter:\n{metrics_table(metrics)}\n")
    print(f"the model is in {options.output_dir}: --model of examples/search_videos.py")
    return metrics


if __name__ == "__main__":
    main()
