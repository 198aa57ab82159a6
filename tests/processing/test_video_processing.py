"""The video processor: the reference's frames, pixels and views, from files of many kinds."""

import json
import shutil
from urllib.parse import quote

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from PIL import Image
from torchvision import transforms
from transformers import AutoImageProcessor, AutoVideoProcessor, pipeline
from transformers.video_utils import VideoMetadata

from modeling_videomamba import VideoMambaVideoProcessor, decode_video
from modeling_videomamba.checkpoints.default_processor import processor_for
from tests.conftest import FIXTURES, golden, render_clip, save_model, served, small_config
from tests.video_files import DECODERS


pytestmark = pytest.mark.usefixtures("one_thread")

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

    @pytest.mark.parametrize(("fps", "num_frames"), [(5, 8), (2.5, 4), (1, 1), (25, 40), (50, 80), (0.1, 1)])
    def test_so_many_frames_a_second(self, clip, fps, num_frames):
        """Of 1.6 s at 25 frames a second; they are those of as many `num_frames`."""
        path, drawn = clip
        processor = VideoMambaVideoProcessor(num_frames=6, size={"shortest_edge": 32}, crop_size=32, return_metadata=True)
        expected = processor(path, num_frames=num_frames, return_tensors="pt")
        metadata = {"total_num_frames": 40, "fps": 25}
        for video, options in ((path, {}), (drawn, {"video_metadata": metadata}), (drawn, {"video_metadata": [metadata]})):
            found = processor(video, fps=fps, return_tensors="pt", **options)
            assert found["pixel_values"].shape == (1, num_frames, 3, 32, 32)
            [sampled], [of_expected] = found["video_metadata"], expected["video_metadata"]
            assert list(sampled.frames_indices) == list(of_expected.frames_indices)
        assert torch.equal(processor(path, fps=fps, return_tensors="pt")["pixel_values"], expected["pixel_values"])
        assert processor(path, fps=fps, num_clips=2, return_tensors="pt")["pixel_values"].shape[:2] == (2, num_frames)

    def test_frames_a_second_that_cannot_be_sampled(self, clip, tmp_path):
        path, drawn = clip
        processor = VideoMambaVideoProcessor()
        with pytest.raises(ValueError, match="`num_frames` 8 and `fps` 2 exclude each other"):
            processor(path, fps=2, num_frames=8)
        with pytest.raises(ValueError, match="`fps` needs the frame rate of the video: pass it in `video_metadata`"):
            processor(drawn, fps=2)
        with pytest.raises(ValueError, match="`fps` must be above 0, got 0"):
            processor(path, fps=0)
        render_clip(tmp_path / "short.mp4", num_frames=20)
        with pytest.raises(ValueError, match="Videos of 4 and 8 frames do not fit into one batch: .* or pass `num_frames`"):
            processor([path, tmp_path / "short.mp4"], fps=5, return_tensors="pt")
        assert [len(video) for video in processor([path, tmp_path / "short.mp4"], fps=5)["pixel_values"]] == [8, 4]


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

    @pytest.mark.parametrize("is_standing", [False, True])
    def test_frames_that_are_not_square_keep_their_shape(self, is_standing):
        """As the processor is made by default: the centre is left of them."""
        frames = np.zeros((16, 20, 64, 3), np.uint8)
        frames[:, :, :20] = 255  # outside of the centre, where a squeezed frame would show it
        frames = frames.swapaxes(1, 2) if is_standing else frames
        pixel_values = VideoMambaVideoProcessor()(frames, return_tensors="pt")["pixel_values"]
        assert pixel_values.shape == (1, 16, 3, 224, 224)
        assert pixel_values.max() < -1.5

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

    def test_scores_of_half_precision_are_averaged_in_fp32(self):
        logits = torch.randn(12, 400, generator=torch.Generator().manual_seed(0)).bfloat16()
        scores = VideoMambaVideoProcessor().post_process_video_classification(logits, num_views=12)
        assert torch.equal(scores, logits.float().softmax(-1).mean(0, keepdim=True))

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


class TestSources:
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
        self.check(tmp_path / "empty.mp4", "is empty: 0 bytes")

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

    def test_sound_only(self, tmp_path):
        with av.open(str(tmp_path / "sound.mp4"), "w") as container:
            stream = container.add_stream("aac", rate=8000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 8000
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        self.check(tmp_path / "sound.mp4", "no video stream")

    def test_sound_with_a_cover(self, tmp_path):
        with av.open(str(tmp_path / "cover.mp4"), "w") as container:
            sound, cover = container.add_stream("aac", rate=8000), container.add_stream("png")
            cover.width, cover.height, cover.pix_fmt = 8, 8, "rgb24"
            cover.disposition = Disposition.attached_pic
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 8000
            container.mux(sound.encode(frame))
            container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), format="rgb24")))
            container.mux(sound.encode())
        self.check(tmp_path / "cover.mp4", "no video stream, only a cover picture")

    def test_unknown_decoder_and_frames_out_of_range(self, tmp_path):
        render_clip(tmp_path / "clip.mp4")
        with pytest.raises(ValueError, match="Unknown decoder 'opencv'"):
            decode_video(tmp_path / "clip.mp4", lambda metadata: [0], "opencv")
        with pytest.raises(ValueError, match=r"frames \[40\] asked for, it has 40"):
            decode_video(tmp_path / "clip.mp4", lambda metadata: [40])

    @pytest.mark.parametrize("video", [[], np.zeros((0, 8, 8, 3), np.uint8)])
    def test_no_frames(self, video):
        with pytest.raises(ValueError, match="is not a video|has no frames"):
            VideoMambaVideoProcessor()(video)

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
