"""Clips a second that data loading delivers, from a video file to a batch, with 1 and 2 worker processes.

    python -m benchmarks.data_loading

Files are rendered: 340 x 256 pixels, 30 frames a second, H.264 with x264's own keyframe interval (at most 250 frames), as data
sets of short clips are commonly stored. A clip has 16 frames of 224 pixels. "Training" is the recipes' augmentation of S and M
(rand-m7-n4-mstd0.5-inc1), "twice" with the repeated augmentation of the recipes, where a video is decoded once for two clips.
"All frames" decodes every frame of the video before it picks, which is what a loader without an index has to do. The last
column compares with training steps of VideoMamba-Ti on the same machine, without workers.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import torch
from datasets import Dataset
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader

from benchmarks.common import RESULTS, medians, provenance
from modeling_videomamba import VideoMambaConfig, VideoMambaForVideoClassification, VideoMambaVideoProcessor
from modeling_videomamba.data import clips as clips_module
from modeling_videomamba.data.augmentation import training_transform
from modeling_videomamba.data.clips import ClipCollator, EvaluationViews, TrainingClips, UnreadableFiles
from modeling_videomamba.data.frame_sampling import FRAME_SAMPLINGS
from modeling_videomamba.video_decoding import decode_video, torchcodec_is_usable


NUM_FRAMES, SIZE = 16, 224
HEIGHT, WIDTH, FRAMES_PER_SECOND = 256, 340, 30


def render(file: Path, seconds: int) -> None:
    """A camera that circles over blurred noise."""
    noise = torch.rand(1, 3, 60, 60, generator=torch.Generator().manual_seed(0))
    scene = interpolate(noise, size=(600, 600), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0).mul(255).byte().numpy()
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for angle in torch.arange(seconds * FRAMES_PER_SECOND) / FRAMES_PER_SECOND:
            top, left = int(150 + 140 * angle.sin()), int(120 + 110 * angle.cos())
            view = scene[top : top + HEIGHT, left : left + WIDTH]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view.copy(), format="rgb24")))
        container.mux(stream.encode())


def clips_per_second(dataset: torch.utils.data.Dataset, workers: int, repeats: int, clips_per_item: int = 1) -> float:
    """Median over runs of the time from the first batch, when all workers are up, to the last."""
    rates = []
    for _ in range(repeats):
        loader = iter(DataLoader(dataset, batch_size=1, num_workers=workers, collate_fn=ClipCollator()))
        next(loader)
        start = time.perf_counter()
        count = sum(1 for _ in loader)
        rates.append(count * clips_per_item / (time.perf_counter() - start))
    return statistics.median(rates)


def decode_everything(
    source: str, choose_frames: Callable, shrink: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, object]:
    frames, metadata = decode_video(source, lambda metadata: range(metadata.total_num_frames))
    return shrink(frames[list(choose_frames(metadata))]), metadata


def training_steps_per_second(repeats: int) -> float:
    """Clips a second of forward, backward and optimizer of VideoMamba-Ti, fp32, batch 1."""
    config = VideoMambaConfig.tiny(num_frames=NUM_FRAMES, image_size=SIZE, num_labels=400)
    model = VideoMambaForVideoClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters())
    pixel_values, labels = torch.randn(1, NUM_FRAMES, 3, SIZE, SIZE), torch.tensor([0])

    def step() -> None:
        model(pixel_values, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return 1 / medians({"step": step}, repeats)["step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=24, help="videos in a run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "data_loading.md")
    args = parser.parse_args()

    step = training_steps_per_second(args.repeats)
    lines = [
        "| video | work | 1 worker, clips/s | 2 workers, clips/s | 2 workers / training step |",
        "|---|---|---|---|---|",
    ]
    decoder = f"decoded by {'torchcodec' if torchcodec_is_usable() else 'PyAV'}; a training step of Ti: {step:.2f} clips/s"
    print(provenance(), decoder, *lines, sep="\n")
    with tempfile.TemporaryDirectory() as directory:
        unreadable = UnreadableFiles(Path(directory) / "unreadable.txt", strict=True)
        processor = VideoMambaVideoProcessor(num_frames=NUM_FRAMES, size={"shortest_edge": SIZE}, crop_size=SIZE)
        transform = training_transform(SIZE, processor.image_mean, processor.image_std)
        sampling = FRAME_SAMPLINGS["segments"]
        for name, seconds in (("10 s", 10), ("3 min", 180)):
            file = Path(directory) / f"{seconds}.mp4"
            render(file, seconds)
            videos, labels = Dataset.from_dict({"video": [str(file)] * args.items}), [0] * args.items

            def training(repeats: int) -> TrainingClips:
                return TrainingClips(videos, labels, sampling, NUM_FRAMES, transform, repeats, 0, unreadable)  # noqa: B023

            evaluation = EvaluationViews(videos, labels, sampling, processor, unreadable)
            works = {"evaluation": (evaluation, 1), "training": (training(1), 1), "training, twice": (training(2), 2)}
            works["evaluation, all frames decoded"] = (evaluation, 1)
            for work, (dataset, clips_per_item) in works.items():
                clips_module.decode_video = decode_everything if "all frames" in work else decode_video
                one, two = (clips_per_second(dataset, workers, args.repeats, clips_per_item) for workers in (1, 2))
                lines.append(f"| {name} | {work} | {one:.1f} | {two:.1f} | {two / step:.0f} |")
                print(lines[-1], flush=True)

    args.output.parent.mkdir(parents=True, exist_ok=True)
    header = f"{__doc__.splitlines()[0]}\n\n{provenance()}; {decoder}"
    args.output.write_text(f"{header}\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
