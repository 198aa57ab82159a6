"""What tests share: the reference's tensors, models of test size, and clips rendered on the spot."""

import functools
import http.server
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace


if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each worker; before anything imports torch

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file


if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton: its kernels then run on CPU, step by step

from transformers import BertConfig

from modeling_videomamba import VideoMambaConfig, VideoMambaForVideoClassification, VideoMambaVideoTextConfig
from modeling_videomamba.checkpoints.converter import convert, save
from modeling_videomamba.checkpoints.default_processor import processor_for


FIXTURES = Path(__file__).parent / "fixtures"
ROOT = Path(__file__).parents[1]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # of commands, too


def golden(case: str) -> SimpleNamespace:
    """Tensors that the official code produced: `.inputs`, `.outputs`, `.meta`, and the path of its `.checkpoint`."""
    folder = FIXTURES / case
    return SimpleNamespace(
        checkpoint=folder / "checkpoint.safetensors",
        inputs=load_file(folder / "inputs.safetensors"),
        outputs=load_file(folder / "outputs.safetensors"),
        meta=json.loads((folder / "meta.json").read_text()),
    )


def assert_same(actual: torch.Tensor, expected: torch.Tensor, relative: float) -> None:
    """Within `relative` of the largest expected value."""
    assert torch.isfinite(actual).all()
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=relative * expected.abs().max().item())


def as_video(pixels: torch.Tensor) -> torch.Tensor:
    """The reference takes `(batch, channels, frames, height, width)`."""
    return pixels.transpose(1, 2)


@pytest.fixture
def converted(tmp_path):
    """Converts an official checkpoint, as the command line does, and returns the directory."""

    def convert_to_directory(checkpoint: Path, **kwargs) -> Path:
        model, _ = convert(checkpoint, **kwargs)
        save(model, tmp_path / "converted", card="")
        return tmp_path / "converted"

    return convert_to_directory


def small_config(**overrides) -> VideoMambaConfig:
    """Two narrow blocks on clips of 4 frames of 32 x 32 pixels: 17 tokens."""
    sizes = {"image_size": 32, "num_frames": 4, "hidden_size": 32, "num_hidden_layers": 2, "num_labels": 5}
    return VideoMambaConfig(**(sizes | overrides))


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "the", "up", "down", "left", "moves", "cat", "coffee"]


def small_video_text_config(**overrides) -> VideoMambaVideoTextConfig:
    """A small video side, and a BERT of three narrow layers that knows [`WORDS`], the last of which looks at videos."""
    bert = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    bert |= {"vocab_size": len(WORDS), "max_position_embeddings": 16}
    sizes = {"vision_config": small_config(alignment_size=12), "text_config": BertConfig(**bert)}
    return VideoMambaVideoTextConfig(**(sizes | {"num_fusion_layers": 1, "projection_dim": 16} | overrides))


def save_model(directory: Path, **config) -> Path:
    """A model whose weights are random, and so large that its scores differ from video to video."""
    torch.manual_seed(0)
    config = small_config(initializer_range=0.3, **config)
    VideoMambaForVideoClassification(config).save_pretrained(directory)
    processor_for(config).save_pretrained(directory)
    return directory


@pytest.fixture
def one_thread():
    """Models of test size are many times slower with two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def pixel_values():
    return torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def render_clip(
    path: Path,
    num_frames: int = 40,
    size: tuple[int, int] = (64, 96),
    codec: str = "libx264",
    codec_options: dict[str, str] | None = None,
    movflags: str | None = None,
    pix_fmt: str = "yuv420p",
) -> np.ndarray:
    """Writes a clip in which frame i is told by its brightness, a keyframe every 12 frames; returns what was drawn.

    `size` is `(height, width)`; the result `(num_frames, height, width, 3)`, uint8.
    """
    options = tuple((codec_options or {}).items())
    content, frames = _rendered(Path(path).suffix, num_frames, size, codec, options, movflags, pix_fmt)
    Path(path).write_bytes(content)
    return frames.copy()


@functools.lru_cache(maxsize=64)
def _rendered(
    suffix: str,
    num_frames: int,
    size: tuple[int, int],
    codec: str,
    codec_options: tuple[tuple[str, str], ...],
    movflags: str | None,
    pix_fmt: str,
) -> tuple[bytes, np.ndarray]:
    """The same clips are wanted by many tests, and encoding takes longer than most of these."""
    height, width = size
    ramp = np.linspace(0, 40, width, dtype=np.uint8)
    frames = np.stack([np.full((height, width, 3), 30 + 4 * i, np.uint8) + ramp[None, :, None] for i in range(num_frames)])
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, f"clip{suffix}")
        with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
            stream = container.add_stream(codec, rate=25, options=dict(codec_options))
            stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, pix_fmt, 12
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        return path.read_bytes(), frames


def render_noise(path: Path, seed: int, num_frames: int) -> None:
    """Writes a GIF of coloured squares, 25 frames a second of 32 x 48 pixels."""
    squares = np.random.default_rng(seed).integers(256, size=(num_frames, 4, 6, 3), dtype=np.uint8)
    frames = [Image.fromarray(picture).resize((48, 32), Image.Resampling.NEAREST) for picture in squares]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The http address under which the files of a folder can be fetched meanwhile."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()  # shut down as soon as asked to
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
