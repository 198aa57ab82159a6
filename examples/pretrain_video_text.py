"""Pretrains a video model and a BERT together on videos and images with captions: section 3.4 and Table 7 of the paper.

    pip install "modeling-videomamba[train]"
    python examples/pretrain_video_text.py captions.json my-video-text-model

`captions.json` is `[{"video" or "image": PATH, "caption": TEXT or [TEXT, ...]}, ...]`; a tenth of it is held out.

A batch has clips `(batch, frames, 3, 224, 224)` and texts `(batch, 32)`. Most patches of a clip are hidden, a CLIP teacher
chooses which, and half of the words. Four losses are added:

1. contrastive: the vectors of a clip and of its own text, `(batch, 512)` each, are to be nearer than those of all other pairs;
2. matching: BERT's last layers look at a clip and a text at once and say whether they belong together; wrong pairs are the
   likeliest ones by their vectors;
3. masked words: the same layers guess hidden words from the other words and from the clip;
4. alignment: the visible tokens of the clip are to be those of the CLIP teacher, as in masked_pretraining.py.

`videomamba pretrain-video-text` does this with the paper's recipes, and its last epoch on whole clips. Source: the reference's
`video_mm/tasks/pretrain.py`.
"""

import argparse

import torch
from torch import Tensor
from transformers import AutoTokenizer, BertForMaskedLM, set_seed

from modeling_videomamba import VideoMambaForPreTraining
from modeling_videomamba.checkpoints.default_processor import processor_for
from modeling_videomamba.data.captions import load_captions
from modeling_videomamba.data.masking import mask_patches, of_visible_tokens
from modeling_videomamba.data.sides import texts_with_sides
from modeling_videomamba.training.teachers import ClipTeacher, load_clip
from modeling_videomamba.training.video_text import CaptionedClips, VideoTextCollator, captioned_transform
from modeling_videomamba.training.video_text_pretraining import VideoTextPretrainingArguments, join_video_and_text
from modeling_videomamba.training.video_text_trainer import LOSSES, VideoTextTrainer


MASK_RATIOS = {"video": 0.8, "image": 0.5}
MAX_TEXT_LENGTH = 32


class VideoTextPretrainingTrainer(VideoTextTrainer):
    """Gives the model a mask and the teacher's features; the model computes all four losses."""

    def __init__(self, *args, teacher: ClipTeacher, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = teacher.to(self.args.device)

    def model_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        clips, noise = (
            inputs["pixel_values"],
            inputs.pop("mask_noise"),
        )  # (batch, frames, 3, size, size), (batch, frames, h, w)
        ratio = MASK_RATIOS["video" if clips.shape[1] > 1 else "image"]  # a batch has videos, or images
        features, attention = self.teacher(clips, with_attention=True)
        masked = mask_patches(noise, "attention", ratio, attention)  # (batch, frames * h * w), True: hidden
        targets = of_visible_tokens(features, masked)  # (batch, layers, 1 + visible patches, teacher's width)
        return inputs | {"bool_masked_pos": masked, "target_features": targets}


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", help="list of videos or images and their captions: .json, .jsonl or .csv")
    parser.add_argument("output_dir")
    parser.add_argument("--model", default="videomamba-ti-k400", help="video model: released id, directory or hub repository")
    parser.add_argument("--text-model", default="google-bert/bert-base-uncased", help="a BERT")
    parser.add_argument("--teacher", default="openai/clip-vit-base-patch16", help="a CLIP")
    parser.add_argument("--num-fusion-layers", type=int, default=3, help="how many of BERT's last layers look at a clip")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--num-workers", type=int, default=2, help="processes that decode videos")
    options = parser.parse_args(argv)
    set_seed(0)

    # Data: every tenth file is held out. Nothing is decoded yet.
    files = load_captions(options.captions)
    validation = files[9::10] or files[-1:]
    train = [file for file in files if file not in validation]

    # Models: teacher, video side with alignment heads as wide as the teacher's features, text side, and both as one
    clip = load_clip(options.teacher)
    vision = VideoMambaForPreTraining.from_pretrained(
        options.model, alignment_size=clip.config.projection_dim, ignore_mismatched_sizes=True, dtype=torch.float32
    )
    bert = BertForMaskedLM.from_pretrained(options.text_model, dtype=torch.float32)
    model = join_video_and_text(vision, bert, options.num_fusion_layers)
    teacher = ClipTeacher.for_student(clip, vision.config)
    tokenizer, processor = AutoTokenizer.from_pretrained(options.text_model), processor_for(model.config)

    # Clips: {"pixel_values": (frames, 3, size, size), "caption": text, ...}; an image is a clip of one frame.
    mirror = not texts_with_sides([text for file in train for text in file.captions])
    transform = captioned_transform(processor, min_area=0.5, horizontal_flip=mirror)

    trainer = VideoTextPretrainingTrainer(  # its sampler gives batches of videos or of images, and its curves show each loss
        model=model,
        teacher=teacher,
        args=VideoTextPretrainingArguments(  # a cosine after a warm-up of a tenth of all steps
            output_dir=options.output_dir,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            bf16=torch.cuda.is_available(),
            eval_strategy="epoch",
            save_strategy="no",
            logging_strategy="epoch",
            label_names=["pair_ids"],  # what an evaluation of the loss needs
            prediction_loss_only=True,
            dataloader_num_workers=options.num_workers,
            report_to="none",
        ),
        train_dataset=CaptionedClips(train, processor, transform),
        eval_dataset=CaptionedClips(validation, processor, transform=None),
        # adds "input_ids" (batch, 32), "masked_input_ids" with hidden words, "mask_noise" (batch, frames, h, w)
        data_collator=VideoTextCollator(tokenizer, MAX_TEXT_LENGTH, word_ratio=0.5, grid=vision.config.grid_size),
        processing_class=processor,  # saved beside the model
    )
    trainer.train()
    trainer.save_model()
    tokenizer.save_pretrained(options.output_dir)
    metrics = trainer.evaluate()
    last = next(entry for entry in reversed(trainer.state.log_history) if "contrastive_loss" in entry)
    print("at the end of training:", ", ".join(f"{name} {last[name]:.3f}" for name in LOSSES))
    print(f"sum of losses on {len(validation)} held-out files: {metrics['eval_loss']:.3f}")
    print(f"the model is in {options.output_dir}: --model of examples/finetune_retrieval.py")
    return metrics


if __name__ == "__main__":
    main()
