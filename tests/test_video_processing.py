"""The video processor: the reference's frames, pixels and views, from files of many kinds."""

import json
import shutil
import struct
import weakref
from contextlib import contextmanager
from types import SimpleNamespace
from urllib.parse import quote

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from transformers import AutoImageProcessor, AutoVideoProcessor, pipeline
from transformers.video_utils import VideoMetadata

from conversion.converter import processor_for
from modeling_videomamba import VideoMambaVideoProcessor, decode_video, video_decoding
from modeling_videomamba.video_decoding import torchcodec_is_usable

from .conftest import FIXTURES, golden, render_clip, save_model, served, small_config


DECODERS = [
    "pyav",
    pytest.param(
        "torchcodec",
        marks=pytest.mark.skipif(not torchcodec_is_usable(), reason="torchcodec, or its FFmpeg, is not installed"),
    ),
]
SAMPLING = [
    sample
    for sample in json.loads((FIXTURES / "frame_sampling.json").read_text())["samples"]
    if sample["dataset"] == "Kinetics_sparse" and sample["mode"] != "train"
]


@pytest.fixture
def clip(tmp_path):
    """A clip of 40 frames of 64 x 96 pixels, and what it shows."""
    path = tmp_path / "clip.mp4"
    return str(path), render_clip(path)


def brightness(frames):
    return frames.float().mean((1, 2, 3)).tolist()


def copy_packets(source, target, start):
    """Of `source` those from `start` on; returns which frames they hold, and which of these is the first keyframe."""
    with av.open(str(source)) as whole, av.open(str(target), "w") as part:
        stream = part.add_stream_from_template(whole.streams.video[0])
        packets = [packet for packet in whole.demux(video=0) if packet.size]
        times = sorted(packet.pts for packet in packets)
        copied = [(times.index(packet.pts), packet.is_keyframe) for packet in packets[start:]]
        for packet in packets[start:]:
            packet.stream = stream
            part.mux(packet)
    return [frame for frame, _ in copied], next(frame for frame, is_keyframe in copied if is_keyframe)


def set_edits(path, edits):
    """Of an MP4 with its index at the end: it then shows so many frames of 0.04 s from each of these frames on."""
    content = path.read_bytes()
    moov, trak, edts, mdia = (content.index(name) - 4 for name in (b"moov", b"trak", b"edts", b"mdia"))
    _, first_time, _ = struct.unpack(">iii", content[edts + 24 : edts + 36])
    with av.open(str(path)) as container:
        frame = int(0.04 / container.streams.video[0].time_base)
    entries = [struct.pack(">iiHH", number * 40, first_time + start * frame, 1, 0) for start, number in edits]
    elst = struct.pack(">i4sii", 16 + 12 * len(entries), b"elst", 0, len(entries)) + b"".join(entries)
    new = struct.pack(">i4s", 8 + len(elst), b"edts") + elst
    grown = bytearray(content[:edts] + new + content[mdia:])
    for box in (moov, trak):
        grown[box : box + 4] = (int.from_bytes(content[box : box + 4], "big") + len(new) - (mdia - edts)).to_bytes(4, "big")
    path.write_bytes(grown)


def take_packets_from(demux, monkeypatch):
    """Files are opened as ever, but their packets come from `demux(container, stream)`."""
    open_file = video_decoding.open_container

    @contextmanager
    def open_with_other_packets(source):
        with open_file(source) as container:
            yield SimpleNamespace(
                streams=container.streams,
                format=container.format,
                seek=container.seek,
                demux=lambda stream: demux(container, stream),
            )

    monkeypatch.setattr(video_decoding, "open_container", open_with_other_packets)


class TestFrameSampling:
    def test_indices_of_the_reference(self):
        assert len(SAMPLING) == 49
        for sample in SAMPLING:
            num_clips = sample.get("test_num_segment", 1)
            metadata = VideoMetadata(total_num_frames=sample["video_len"])
            indices = VideoMambaVideoProcessor().sample_frames(metadata, sample["num_frames"], num_clips)
            clip = indices.reshape(num_clips, -1)[sample.get("chunk_nb", 0)]
            assert clip.tolist() == sample["indices"], sample

    @pytest.mark.parametrize("num_frames", [0, -1, 1.5, "16", None, [16], True])
    def test_a_number_of_frames_that_is_none_is_refused_at_once(self, num_frames):
        with pytest.raises(ValueError, match="`num_frames` must be a whole number of at least 1, got"):
            VideoMambaVideoProcessor(num_frames=num_frames)

    @pytest.mark.parametrize("length", [1, 2, 5, 7])
    def test_a_short_video_repeats_frames(self, length):
        indices = VideoMambaVideoProcessor().sample_frames(VideoMetadata(total_num_frames=length), num_frames=8)
        assert len(indices) == 8
        assert set(indices) <= set(range(length))
        assert (np.diff(indices) >= 0).all()

    def test_fps_is_refused(self, clip):
        with pytest.raises(ValueError, match="`fps` is not supported"):
            VideoMambaVideoProcessor()(clip[0], fps=2)


class TestTransform:
    """The reference resizes uint8 frames with OpenCV; ours differs by at most one grey level (0.0175 after normalisation)."""

    @pytest.mark.parametrize("case", ["eval_transform_landscape", "eval_transform_portrait", "eval_transform_upscale"])
    def test_resize_crop_and_normalisation(self, case):
        reference = golden(case)
        short, crop = reference.meta["short_side_size"], reference.meta["crop_size"]
        frames = reference.inputs["frames"]
        kwargs = {"do_sample_frames": False, "return_tensors": "pt"}
        processor = VideoMambaVideoProcessor(size={"shortest_edge": short}, crop_size=crop)

        def check(pixel_values, name):
            torch.testing.assert_close(pixel_values.transpose(0, 1), reference.outputs[name], rtol=0, atol=0.02)

        for array in (frames, frames.numpy()):
            check(processor(array, **kwargs)["pixel_values"][0], "validation")
        check(processor(frames, crop_size=short, **kwargs)["pixel_values"][0], "test.crop0of1")
        for k, view in enumerate(processor(frames, num_crops=3, **kwargs)["pixel_values"]):
            check(view, f"test.crop{k}of3")

    def test_images_as_the_reference_evaluates_them(self, tmp_path):
        """Transformers' CLIP processor, configured, beside the torchvision transforms of the reference (PIL, bicubic)."""
        config = small_config(image_size=224, num_frames=None)
        processor_for(config).save_pretrained(tmp_path)
        processor = AutoImageProcessor.from_pretrained(tmp_path)
        smooth = np.linspace(0, 255, 300 * 410 * 3).reshape(300, 410, 3)
        noise = np.random.default_rng(0).normal(0, 25, smooth.shape)
        image = Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))
        expected = transforms.Compose(
            [
                transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize(processor.image_mean, processor.image_std),
            ]
        )(image)
        pixel_values = processor(image, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(pixel_values, expected, rtol=0, atol=0.02)
        assert tuple(processor.image_mean) == (0.485, 0.456, 0.406)

    def test_saved_processor_loads_through_the_auto_class(self, tmp_path):
        VideoMambaVideoProcessor(num_frames=8, size={"shortest_edge": 64}, crop_size=64, num_clips=2).save_pretrained(tmp_path)
        processor = AutoVideoProcessor.from_pretrained(tmp_path)
        assert type(processor) is VideoMambaVideoProcessor
        assert processor.num_frames == 8
        assert processor.num_clips == 1  # views belong to a call: a pipeline would use the first one only
        assert processor.size == {"shortest_edge": 64}


class TestLongVideos:
    @pytest.mark.parametrize("options", [{}, {"num_clips": 2, "num_crops": 3}, {"do_resize": False, "crop_size": 30}])
    def test_frames_of_a_file_are_resized_as_they_come(self, clip, options):
        """The same as from an array of all of them at full size, also where that is enlarged."""
        path, _ = clip
        frames, metadata = decode_video(path, lambda metadata: range(metadata.total_num_frames))
        for size in (24, 100):
            processor = VideoMambaVideoProcessor(num_frames=20, size={"shortest_edge": size}, crop_size=20)
            from_file = processor(path, return_tensors="pt", **options)["pixel_values"]
            from_array = processor(frames, video_metadata=metadata, return_tensors="pt", **options)["pixel_values"]
            assert torch.equal(from_file, from_array)

    @pytest.mark.parametrize("decoder", DECODERS)
    def test_few_frames_are_in_memory_at_full_size(self, clip, decoder):
        parts = []

        def shrink(frames):
            parts.append(len(frames))
            return frames[:, :, ::2, ::2]

        path, drawn = clip
        frames, _ = decode_video(path, lambda metadata: range(40), decoder, shrink)
        assert parts == [16, 16, 8]
        assert frames.shape == (40, 3, drawn.shape[1] // 2, drawn.shape[2] // 2)

    def test_few_packets_are_in_memory(self, clip, monkeypatch):
        class Packet:
            def __init__(self, packet):
                self.pts, self.duration, self.size = packet.pts, packet.duration, packet.size
                self.is_keyframe, self.is_discard = packet.is_keyframe, packet.is_discard

        alive, most = weakref.WeakSet(), 0

        def demux(container, stream):
            nonlocal most
            for packet in container.demux(stream):
                packet = Packet(packet)
                alive.add(packet)
                most = max(most, len(alive))
                yield packet

        take_packets_from(demux, monkeypatch)
        assert video_decoding._read_index(clip[0]).metadata.total_num_frames == 40
        assert 0 < most < 4

    def test_pipeline_with_more_frames_than_the_model_was_trained_on(self, clip, tmp_path):
        classify = pipeline("video-classification", model=str(save_model(tmp_path)))
        [best] = classify(clip[0], num_frames=30, top_k=1)
        pixel_values = VideoMambaVideoProcessor.from_pretrained(tmp_path)(clip[0], num_frames=30)["pixel_values"]
        assert len(pixel_values[0]) == 30
        scores = classify.model(torch.stack(pixel_values)).logits.softmax(-1)
        assert best["score"] == pytest.approx(scores.max().item(), rel=1e-5)


class TestViews:
    def test_views_follow_each_other_clip_by_clip_crop_by_crop(self, clip):
        path, _ = clip
        processor = VideoMambaVideoProcessor(num_frames=4, size={"shortest_edge": 32}, crop_size=32)
        views = processor([path, path], num_clips=2, num_crops=3, return_tensors="pt")["pixel_values"]
        assert views.shape == (2 * 2 * 3, 4, 3, 32, 32)
        assert torch.equal(views[:6], views[6:])
        first, second = processor(path, num_clips=2, return_tensors="pt")["pixel_values"]
        assert first.mean() < second.mean()  # the second clip takes later, brighter frames
        assert torch.equal(views[1], first)  # the middle one of three crops is the centre crop
        left, _, right = views[:3]
        assert left.mean() < right.mean()  # the clip grows brighter from left to right

    def test_scores_are_merged_as_the_reference_merges_them(self):
        reference = golden("multiview_merge")
        logits = reference.inputs["logits"]  # (videos, clips, crops, classes)
        scores = VideoMambaVideoProcessor().post_process_video_classification(logits.flatten(0, 2), num_views=12)
        torch.testing.assert_close(scores, reference.outputs["scores"])
        hits = scores.topk(5).indices == reference.inputs["labels"][:, None]
        assert 100 * hits[:, 0].double().mean() == reference.outputs["top1"].item()
        assert 100 * hits.any(1).double().mean() == reference.outputs["top5"].item()

    def test_scores_of_other_problems(self):
        logits = torch.tensor([[0.0, 2.0], [1.0, 4.0]])
        merge = VideoMambaVideoProcessor().post_process_video_classification
        assert merge(logits, 2, problem_type="regression").tolist() == [[0.5, 3.0]]
        expected = logits.sigmoid().mean(0, keepdim=True)
        torch.testing.assert_close(merge(logits, 2, problem_type="multi_label_classification"), expected)

    def test_impossible_views_are_refused(self, clip):
        for name in ("num_frames", "num_clips", "num_crops"):
            with pytest.raises(Exception, match=name):
                VideoMambaVideoProcessor()(clip[0], **{name: 0})
        for length in (9, 10):
            with pytest.raises(ValueError, match=f"{length} frames cannot be divided into `num_clips` 4 of equal length"):
                frames = np.zeros((length, 32, 48, 3), np.uint8)
                VideoMambaVideoProcessor()(frames, num_clips=4, do_sample_frames=False)
        with pytest.raises(ValueError, match="`num_crops` 3 makes squares, but this model takes frames of 40 x 24"):
            VideoMambaVideoProcessor(size={"shortest_edge": 40}, crop_size={"height": 40, "width": 24})(clip[0], num_crops=3)


class TestDecoding:
    @pytest.mark.parametrize("decoder", DECODERS)
    @pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx")])
    def test_only_the_frames_asked_for_in_any_order(self, tmp_path, name, codec, decoder):
        path = tmp_path / name
        drawn = render_clip(path, codec=codec)
        indices = [39, 0, 1, 13, 13, 27]
        frames, metadata = decode_video(path, lambda metadata: indices, decoder)
        assert frames.shape == (6, 3, 64, 96)
        assert frames.dtype == torch.uint8
        assert metadata.total_num_frames == 40
        assert metadata.frames_indices == indices
        assert brightness(frames) == pytest.approx([drawn[i].mean() for i in indices], abs=1.5)  # frames differ by 4

    def test_frames_between_are_jumped_over(self, clip, monkeypatch):
        decoded = []

        def frames(container, stream):
            for frame in read_frames(container, stream):
                decoded.append(frame.pts)
                yield frame

        read_frames = video_decoding._frames
        monkeypatch.setattr(video_decoding, "_frames", frames)
        decode_video(clip[0], lambda metadata: [0, 39], "pyav")
        assert len(decoded) < 14  # the first, and those from the last keyframe on

    @pytest.mark.parametrize("decode", [video_decoding._decode_at_times, video_decoding._decode_from_start])
    def test_threads_rest_before_a_file_is_closed(self, clip, monkeypatch, decode):
        """Else the process may stand still for good where PyAV's logging is on: once in some hundred videos."""
        events, open_file, index = [], video_decoding.open_container, video_decoding._read_index(clip[0])

        @contextmanager
        def open_and_note(source):
            with open_file(source) as container:
                [stream] = container.streams.video

                def rest():
                    events.append("rest")
                    stream.codec_context.flush_buffers()

                yield SimpleNamespace(
                    streams=[SimpleNamespace(codec_context=SimpleNamespace(flush_buffers=rest))],
                    seek=lambda time, stream: container.seek(time, stream=container.streams.video[0]),
                    demux=lambda _: container.demux(stream),
                )
                events.append("close")

        monkeypatch.setattr(video_decoding, "open_container", open_and_note)
        assert len(list(decode(clip[0], index, [0, 20]))) == 2
        assert events == ["rest", "close"]

    @pytest.mark.skipif(not torchcodec_is_usable(), reason="torchcodec, or its FFmpeg, is not installed")
    def test_both_decoders_return_the_same_pictures(self, clip):
        frames = [decode_video(clip[0], lambda metadata: range(0, 40, 3), decoder)[0] for decoder in ("pyav", "torchcodec")]
        assert torch.equal(*frames)

    @pytest.mark.parametrize(
        ("name", "codec"), [("a.ts", "libx264"), ("a.avi", "libx264"), ("a.avi", "mpeg4"), ("a.h264", "libx264")]
    )
    def test_containers_without_an_index_are_decoded_from_the_start(self, tmp_path, name, codec):
        """H.264 in AVI has B-frames, whose times the container makes up; a raw stream has no times at all."""
        drawn = render_clip(tmp_path / name, codec=codec)
        frames, metadata = decode_video(tmp_path / name, lambda metadata: [5, 20, 38])
        assert metadata.video_backend == "pyav"
        assert brightness(frames) == pytest.approx([drawn[i].mean() for i in (5, 20, 38)], abs=1.5)

    @pytest.mark.parametrize("decoder", [None, "pyav"])
    @pytest.mark.parametrize("movflags", ["frag_keyframe+empty_moov", "dash+global_sidx+frag_keyframe+empty_moov"])
    def test_fragments(self, tmp_path, movflags, decoder):
        """Both decoders miss keyframes when they jump in these files; then it is PyAV that reads them from the start."""
        drawn = render_clip(tmp_path / "a.mp4", movflags=movflags)
        frames, _ = decode_video(tmp_path / "a.mp4", lambda metadata: range(metadata.total_num_frames), decoder)
        assert brightness(frames) == pytest.approx(drawn.mean((1, 2, 3)), abs=1.5)
        one_by_one = [decode_video(tmp_path / "a.mp4", lambda metadata, i=i: [i], decoder)[0] for i in range(40)]
        assert torch.equal(torch.cat(one_by_one), frames)

    @pytest.mark.parametrize("decoder", [None, "pyav"])
    @pytest.mark.parametrize("edits", [[(0, 10), (24, 10)], [(24, 10), (24, 10)], [(24, 10), (0, 10)]])
    def test_jump_cuts(self, clip, tmp_path, edits, decoder):
        """An edit list that shows several parts, and so hides what lies between a part and the keyframe before it."""
        path, drawn = clip
        set_edits(tmp_path / "clip.mp4", edits)
        frames, _ = decode_video(path, lambda metadata: range(metadata.total_num_frames), decoder)
        expected = np.concatenate([drawn[start : start + number] for start, number in edits])
        assert brightness(frames) == pytest.approx(expected.mean((1, 2, 3)), abs=1.5)
        one_by_one = [decode_video(path, lambda metadata, i=i: [i], decoder)[0] for i in range(20)]
        assert torch.equal(torch.cat(one_by_one), frames)

    @pytest.mark.parametrize("decoder", [None, "pyav"])
    @pytest.mark.parametrize("container", ["mkv", "ts"])
    def test_a_recording_that_begins_inside_a_group_of_pictures(self, tmp_path, container, decoder):
        """What comes before its first keyframe cannot be decoded, and does not count."""
        whole, part = tmp_path / f"whole.{container}", tmp_path / f"part.{container}"
        drawn = render_clip(whole)
        _, keyframe = copy_packets(whole, part, 5)
        frames, metadata = decode_video(part, lambda metadata: range(metadata.total_num_frames), decoder)
        assert metadata.total_num_frames == 40 - keyframe
        assert brightness(frames) == pytest.approx(drawn[keyframe:].mean((1, 2, 3)), abs=1.5)

    @pytest.mark.parametrize("decoder", [None, "pyav"])
    @pytest.mark.parametrize("container", ["mkv", "ts"])
    @pytest.mark.parametrize("leading_pictures", ["open-gop=1", "open-gop=0:radl=2"])
    def test_a_lossless_cut_at_any_keyframe(self, tmp_path, leading_pictures, container, decoder):
        """Pictures may follow it that are shown before it: in open groups they need others that are cut off."""
        whole, part = tmp_path / f"whole.{container}", tmp_path / f"part.{container}"
        options = f"{leading_pictures}:keyint=12:min-keyint=12:bframes=4:b-adapt=0:scenecut=0:log-level=none"
        drawn = render_clip(whole, codec="libx265", codec_options={"x265-params": options})
        with av.open(str(whole)) as source:
            start = [packet.is_keyframe for packet in source.demux(video=0)].index(True, 1)
        copied, keyframe = copy_packets(whole, part, start)
        first = keyframe if leading_pictures == "open-gop=1" else min(copied)
        assert min(copied) < keyframe
        frames, metadata = decode_video(part, lambda metadata: range(metadata.total_num_frames), decoder)
        assert metadata.total_num_frames == 40 - first
        assert brightness(frames) == pytest.approx(drawn[first:].mean((1, 2, 3)), abs=1.5)

    @pytest.mark.parametrize("decoder", DECODERS)
    def test_the_stream_that_plays_is_taken(self, tmp_path, decoder):
        """Not a cover picture before it, even if the file does not say that it is one."""
        with av.open(str(tmp_path / "a.mkv"), "w") as container:
            cover = container.add_stream("mjpeg", rate=1)
            cover.width, cover.height, cover.pix_fmt = 192, 128, "yuvj420p"
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            picture = np.zeros((128, 192, 3), np.uint8)
            container.mux(cover.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            for _ in range(20):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture[:64, :96], format="rgb24")))
            container.mux([*cover.encode(), *stream.encode()])
        frames, metadata = decode_video(tmp_path / "a.mkv", lambda metadata: [0, 19], decoder)
        assert metadata.total_num_frames == 20
        assert frames.shape == (2, 3, 64, 96)

    @pytest.mark.parametrize("decoder", DECODERS)
    def test_a_rotated_recording_comes_out_upright(self, tmp_path, decoder):
        path = tmp_path / "phone.mp4"
        drawn = render_clip(path)
        content = bytearray(path.read_bytes())
        matrix = content.index(b"tkhd") + 4 + 40  # version and flags, times, id, ..., then the transformation matrix
        one = (1 << 16).to_bytes(4, "big")
        assert content[matrix : matrix + 4] == one
        zero, minus_one = bytes(4), (-1 << 16).to_bytes(4, "big", signed=True)
        content[matrix : matrix + 36] = (
            zero + one + zero + minus_one + zero + zero + zero + zero + (1 << 30).to_bytes(4, "big")
        )
        path.write_bytes(content)
        [frame], metadata = decode_video(path, lambda metadata: [10], decoder)
        assert frame.shape == (3, 96, 64)
        assert (metadata.height, metadata.width) == (96, 64)
        expected = np.rot90(drawn[10], -1).astype(float)  # a quarter turn clockwise
        assert np.abs(frame.permute(1, 2, 0).numpy() - expected).mean() < 2

    def test_bytes_paths_and_addresses(self, clip, tmp_path):
        path, _ = clip
        processor = VideoMambaVideoProcessor(num_frames=4)
        expected = processor(path, return_tensors="pt")["pixel_values"]
        assert expected.shape == (1, 4, 3, 224, 224)
        assert torch.equal(processor(tmp_path / "clip.mp4", return_tensors="pt")["pixel_values"], expected)
        content = (tmp_path / "clip.mp4").read_bytes()
        frames = [decode_video(source, lambda metadata: [1, 30])[0] for source in (path, content)]
        assert torch.equal(*frames)

        with served(tmp_path) as address:
            assert torch.equal(processor(f"{address}/clip.mp4", return_tensors="pt")["pixel_values"], expected)

    @pytest.mark.parametrize("decoder", DECODERS)
    def test_a_name_with_a_colon_is_no_protocol(self, clip, tmp_path, monkeypatch, decoder):
        shutil.copy(clip[0], tmp_path / "12:30.mp4")
        monkeypatch.chdir(tmp_path)
        assert len(decode_video("12:30.mp4", lambda metadata: [0, 39], decoder)[0]) == 2

    def test_addresses_as_people_write_them(self, clip, tmp_path):
        name = "ünï 100%25.mp4"
        shutil.copy(clip[0], tmp_path / "ünï 100%.mp4")
        with served(tmp_path) as address:
            for written in (f"{address}/{name}", f"{address}/{quote(name, safe='%')}", f"HTTP{address[4:]}/{name}"):
                assert len(decode_video(written, lambda metadata: [0, 39])[0]) == 2

    def test_pil_frames_of_any_mode(self):
        image = Image.fromarray(np.arange(48 * 64, dtype=np.uint8).reshape(48, 64))
        processor = VideoMambaVideoProcessor(do_sample_frames=False)
        expected = processor([image.convert("RGB")] * 3, return_tensors="pt")["pixel_values"]
        assert expected.shape == (1, 3, 3, 224, 224)
        for mode in ("L", "P", "RGBA"):
            assert torch.equal(processor([image.convert(mode)] * 3, return_tensors="pt")["pixel_values"], expected)

    def test_a_batch_of_videos_of_different_sizes(self, tmp_path):
        render_clip(tmp_path / "a.mp4")
        render_clip(tmp_path / "b.mp4", num_frames=13, size=(96, 64))
        paths = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
        assert VideoMambaVideoProcessor()(paths, return_tensors="pt")["pixel_values"].shape == (2, 16, 3, 224, 224)

    def test_all_frames_without_sampling(self, clip):
        pixel_values = VideoMambaVideoProcessor()(clip[0], do_sample_frames=False, return_tensors="pt")["pixel_values"]
        assert pixel_values.shape == (1, 40, 3, 224, 224)


class TestBadVideos:
    def check(self, path, message):
        with pytest.raises(ValueError, match=message) as error:
            VideoMambaVideoProcessor(num_frames=4)(str(path))
        assert str(path) in str(error.value)

    def test_empty_file(self, tmp_path):
        (tmp_path / "empty.mp4").touch()
        self.check(tmp_path / "empty.mp4", "empty, truncated or no video")

    def test_text_named_mp4(self, tmp_path):
        (tmp_path / "text.mp4").write_text("not a video " * 100)
        self.check(tmp_path / "text.mp4", "empty, truncated or no video")

    @pytest.mark.parametrize("kept", [0.3, 0.7, 0.95])
    @pytest.mark.parametrize("index_first", [False, True])
    def test_truncated_mp4(self, tmp_path, kept, index_first):
        """Also when its index comes first and so survives: a part of a video is no video."""
        path = tmp_path / "whole.mp4"
        render_clip(path, size=(128, 192), movflags="faststart" if index_first else None)
        content = path.read_bytes()
        assert (content.index(b"moov") < content.index(b"mdat")) == index_first
        (tmp_path / "part.mp4").write_bytes(content[: int(kept * len(content))])
        self.check(tmp_path / "part.mp4", "truncated")

    def test_a_codec_without_decoder(self, clip, tmp_path):
        content = (tmp_path / "clip.mp4").read_bytes()
        assert content.count(b"avc1", content.index(b"stsd")) == 1
        head, tail = content[: content.index(b"stsd")], content[content.index(b"stsd") :]
        (tmp_path / "clip.mp4").write_bytes(head + tail.replace(b"avc1", b"zzz9"))
        self.check(clip[0], "there is no decoder for its codec")

    @pytest.mark.parametrize("decoder", ["pyav", None])
    def test_streams_that_appear_on_the_way(self, tmp_path, monkeypatch, decoder):
        """As in MPEG-TS, often by damage. PyAV may then end with an IndexError."""

        def demux(container, stream):
            yield from container.demux(stream)
            raise IndexError("list index out of range")

        drawn = render_clip(tmp_path / "clip.ts")
        take_packets_from(demux, monkeypatch)
        frames, _ = decode_video(tmp_path / "clip.ts", lambda metadata: range(40), decoder)
        assert brightness(frames) == pytest.approx(drawn.mean((1, 2, 3)), abs=1.5)

    def test_a_raw_recording_that_begins_inside_a_group_of_pictures(self, tmp_path):
        """It has no times, which would tell what of it cannot be decoded."""
        render_clip(tmp_path / "whole.ts")
        copy_packets(tmp_path / "whole.ts", tmp_path / "part.h264", 5)
        with pytest.raises(ValueError, match=r"only \d+ of its 35 frames can be decoded"):
            decode_video(tmp_path / "part.h264", lambda metadata: [34])

    def test_the_frame_size_changes(self, tmp_path):
        render_clip(tmp_path / "a.ts", num_frames=20)
        render_clip(tmp_path / "b.ts", num_frames=20, size=(96, 128))
        (tmp_path / "both.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
        self.check(tmp_path / "both.ts", "the frame size changes from 64 x 96 to 96 x 128 within the video")

    def test_sound_only(self, tmp_path):
        with av.open(str(tmp_path / "sound.mp4"), "w") as container:
            stream = container.add_stream("aac", rate=8000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 8000
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        self.check(tmp_path / "sound.mp4", "no video stream")

    @pytest.mark.parametrize("decoder", [None, "pyav"])
    def test_a_lossless_trim_is_not_truncated(self, tmp_path, decoder):
        """It starts at a keyframe, and an edit list hides the frames up to the cut."""
        drawn = render_clip(tmp_path / "whole.mp4")
        with av.open(str(tmp_path / "whole.mp4")) as source, av.open(str(tmp_path / "trim.mp4"), "w") as copy:
            stream = copy.add_stream_from_template(source.streams.video[0])
            packets = [packet for packet in source.demux(video=0) if packet.dts is not None]
            frame = round(0.04 / packets[0].time_base)
            start = next(i for i, packet in enumerate(packets) if packet.is_keyframe and i > 0)
            first = packets[start].pts // frame + 3  # the cut, three frames after a keyframe
            for packet in packets[start:]:
                packet.pts, packet.dts, packet.stream = packet.pts - first * frame, packet.dts - first * frame, stream
                copy.mux(packet)
        frames, metadata = decode_video(tmp_path / "trim.mp4", lambda metadata: range(metadata.total_num_frames), decoder)
        assert metadata.total_num_frames == 40 - first
        assert brightness(frames) == pytest.approx([drawn[i].mean() for i in range(first, 40)], abs=1.5)

    def test_unknown_decoder_and_frames_out_of_range(self, tmp_path):
        render_clip(tmp_path / "clip.mp4")
        with pytest.raises(ValueError, match="Unknown decoder 'opencv'"):
            decode_video(tmp_path / "clip.mp4", lambda metadata: [0], "opencv")
        with pytest.raises(ValueError, match=r"frames \[40\] asked for, it has 40"):
            decode_video(tmp_path / "clip.mp4", lambda metadata: [40])

    @pytest.mark.parametrize("video", [[], np.zeros((0, 8, 8, 3), np.uint8)])
    def test_no_frames(self, video):
        with pytest.raises(ValueError, match="is no video|has no frames"):
            VideoMambaVideoProcessor()(video)

    def test_paths_beside_arrays(self, clip):
        path, drawn = clip
        for videos in ([path, drawn], [drawn, path], [[Image.fromarray(frame) for frame in drawn], path]):
            with pytest.raises(ValueError, match="may hold paths and addresses, or arrays and lists of frames, but not both"):
                VideoMambaVideoProcessor()(videos)

    def test_unreachable_address(self):
        with pytest.raises(ValueError, match=r"Cannot fetch the video http://127\.0\.0\.1:9/clip\.mp4"):
            VideoMambaVideoProcessor()("http://127.0.0.1:9/clip.mp4")
        with pytest.raises(ValueError, match=r"Cannot fetch the video http://127\.0\.0\.1:9/a clip\.mp4"):
            VideoMambaVideoProcessor()("http://127.0.0.1:9/a clip.mp4")

    def test_another_choice_of_frames(self, clip):
        """As transformers' own processors take it."""
        frames, _ = VideoMambaVideoProcessor().fetch_videos(clip[0], lambda metadata: [0, metadata.total_num_frames - 1])
        assert frames.shape == (2, 3, 64, 96)

    def test_missing_file(self):
        with pytest.raises(FileNotFoundError, match=r"No such video file: nowhere\.mp4"):
            VideoMambaVideoProcessor()("nowhere.mp4")
