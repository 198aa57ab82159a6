"""Arrays and pictures as people have them: the same pixels as from uint8, or an error that says what to do."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_videomamba import VideoMambaVideoProcessor
from modeling_videomamba.video_inputs import picture_to_rgb
from tests.conftest import render_clip


pytestmark = pytest.mark.usefixtures("one_thread")

PROCESSOR = VideoMambaVideoProcessor(num_frames=4, size={"shortest_edge": 24}, crop_size=24)
VIDEO = np.random.default_rng(0).integers(256, size=(6, 32, 48, 3), dtype=np.uint8)  # (frames, height, width, 3)
ROUNDING = 1.01 / 255 / 0.224  # of uint8 as it is resized: one level, after normalisation


def pixels(video, **options):
    return PROCESSOR(video, return_tensors="pt", **options)["pixel_values"]


def check_same(video, expected=VIDEO, atol=0.0, **options):
    torch.testing.assert_close(pixels(video, **options), pixels(expected), rtol=0, atol=atol)


class TestLayouts:
    def test_channels_first_and_last(self):
        check_same(VIDEO.transpose(0, 3, 1, 2))
        check_same(torch.from_numpy(VIDEO))
        check_same(torch.from_numpy(VIDEO).permute(0, 3, 1, 2))

    def test_lists_of_frames(self):
        check_same(list(VIDEO))
        check_same(tuple(VIDEO))
        check_same(list(VIDEO.transpose(0, 3, 1, 2)))
        check_same(list(torch.from_numpy(VIDEO)))
        check_same([Image.fromarray(frame) for frame in VIDEO])
        check_same([Image.fromarray(VIDEO[0]), *VIDEO[1:]])

    def test_batches(self):
        expected = pixels(VIDEO).repeat(2, 1, 1, 1, 1)
        pictures = [Image.fromarray(frame) for frame in VIDEO]
        for batch in (
            [VIDEO, VIDEO],
            np.stack([VIDEO, VIDEO]),
            torch.from_numpy(np.stack([VIDEO, VIDEO])).permute(0, 1, 4, 2, 3),
            [VIDEO, VIDEO.transpose(0, 3, 1, 2)],  # each has its own layout
            [torch.from_numpy(VIDEO), VIDEO],
            [pictures, pictures],
            [[VIDEO], [pictures]],
            [list(VIDEO), pictures],
        ):
            assert torch.equal(pixels(batch), expected)

    def test_files_beside_arrays(self, tmp_path):
        drawn = render_clip(tmp_path / "clip.mp4")
        videos = [tmp_path / "clip.mp4", drawn, str(tmp_path / "clip.mp4"), [Image.fromarray(frame) for frame in drawn]]
        found = PROCESSOR(videos, return_metadata=True, return_tensors="pt")
        for video, metadata, values in zip(videos, found["video_metadata"], found["pixel_values"]):
            assert torch.equal(values, pixels(video)[0])
            assert metadata.total_num_frames == 40
            assert (metadata.height, metadata.width) == (64, 96)

    def test_views_of_other_arrays(self):
        check_same(VIDEO[::-1], VIDEO[::-1].copy())
        check_same(VIDEO[:, :, ::-1], VIDEO[:, :, ::-1].copy())
        check_same(VIDEO.astype(">i4"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_same(np.frombuffer(VIDEO.tobytes(), np.uint8).reshape(VIDEO.shape))  # cannot be written

    def test_a_layout_that_is_given(self):
        square = VIDEO[:, :3, :3]  # 3 in all three places
        first, last = (pixels(square, input_data_format=name) for name in ("channels_first", "channels_last"))
        assert torch.equal(first, pixels(square.transpose(0, 2, 3, 1), input_data_format="channels_last"))
        assert not torch.equal(first, last)

    def test_a_layout_that_is_given_is_not_one_of_files(self, tmp_path):
        render_clip(tmp_path / "clip.mp4")
        check_same(tmp_path / "clip.mp4", tmp_path / "clip.mp4", input_data_format="channels_last")

    def test_one_picture_is_a_video_of_one_frame(self):
        for picture in (VIDEO[0], VIDEO[0].transpose(2, 0, 1), torch.from_numpy(VIDEO[0]), Image.fromarray(VIDEO[0])):
            check_same(picture, VIDEO[:1])

    def test_an_animated_picture_is_a_video(self, tmp_path):
        first, *others = [Image.fromarray(frame) for frame in VIDEO]
        first.save(tmp_path / "a.webp", save_all=True, append_images=others, lossless=True)
        with Image.open(tmp_path / "a.webp") as picture:
            check_same(picture)

    @pytest.mark.parametrize("shape", [(6, 32, 48), (32, 48), (48,), (6, 32, 48, 5), (6, 2, 32, 48), (1, 1, 6, 32, 48, 3)])
    def test_other_shapes(self, shape):
        message = f"A video is a path, .*, got an array of shape \\({', '.join(map(str, shape))},?\\)"
        with pytest.raises(ValueError, match=message) as error:
            pixels(np.zeros(shape, np.uint8))
        assert ("`video[..., None]`" in str(error.value)) == (len(shape) in (2, 3))

    def test_frames_of_several_sizes(self):
        for frames in ([VIDEO[0], VIDEO[1, :20]], [Image.fromarray(VIDEO[0]), Image.fromarray(VIDEO[1, :20])]):
            with pytest.raises(ValueError, match=r"The frames of a video have one size, got \(20, 48, 3\) and \(32, 48, 3\)"):
                pixels(frames)
        with pytest.raises(ValueError, match="A list holds single frames beside other things"):
            pixels([VIDEO[0], VIDEO])

    def test_what_is_not_an_array_of_numbers(self):
        ragged = np.empty(2, object)
        for array in (ragged, np.full((2, 8, 8, 3), "a"), np.zeros((2, 8, 8, 3), complex)):
            with pytest.raises(ValueError, match="A video is a path|The pixels of a video are numbers"):
                pixels(array)

    @pytest.mark.parametrize(
        ("tensor", "kind"),
        [
            (torch.zeros(2, 8, 8, 3, dtype=torch.complex64), "of torch.complex64"),
            (torch.zeros(2, 8, 8, 3, dtype=torch.float8_e4m3fn), "of torch.float8_e4m3fn"),
            (torch.zeros(2, 8, 8, 3).to_sparse(), "of layout torch.sparse_coo"),
            (torch.zeros(2, 8, 8, 3, device="meta"), "without data, on the device 'meta'"),
        ],
        ids=["complex", "8 bits", "sparse", "meta"],
    )
    def test_tensors_that_are_not_arrays_of_numbers(self, tensor, kind):
        with pytest.raises(ValueError, match=f"The pixels of a video are numbers in one array, got a tensor {kind}"):
            pixels(tensor)

    def test_nothing(self):
        for video in ([], (), [[]], np.zeros((0, 8, 8, 3)), np.zeros((2, 8, 0, 3)), np.zeros((0, 2, 8, 8, 3))):
            with pytest.raises(ValueError, match="is not a video|has no frames|has no videos"):
                pixels(video)


class TestColours:
    def test_grey(self):
        grey = VIDEO[..., :1]
        expected = grey.repeat(3, -1)
        check_same(grey, expected)
        check_same(grey.transpose(0, 3, 1, 2), expected)
        check_same(list(grey[..., 0]), expected)
        check_same(list(torch.from_numpy(grey[..., 0])), expected)
        check_same(list(grey[..., 0]), expected, input_data_format="channels_last")
        check_same([Image.fromarray(frame) for frame in grey[..., 0]], expected)

    def test_transparency_is_left_out(self):
        """As by Pillow's conversion, and in videos."""
        alpha = np.random.default_rng(1).integers(256, size=(6, 32, 48, 1), dtype=np.uint8)
        rgba = np.concatenate([VIDEO, alpha], -1)
        check_same(rgba)
        check_same(rgba.transpose(0, 3, 1, 2))
        check_same([Image.fromarray(frame) for frame in rgba])
        check_same(rgba[0], VIDEO[:1])

    def test_pictures_of_any_mode(self):
        picture = Image.fromarray(VIDEO[0])
        for mode in ("L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "1"):
            converted = picture.convert("LA" if mode == "PA" else mode)
            assert picture_to_rgb(converted).mode == "RGB"
            assert np.array_equal(picture_to_rgb(converted), converted.convert("RGB"))

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_pictures_of_16_bits(self, order):
        """Pillow would cut them off at 255: nearly white."""
        grey = np.arange(48 * 64, dtype=np.float64).reshape(48, 64) / (48 * 64 - 1)
        picture = Image.fromarray((grey * 65535).astype(f"{order}u2"))
        assert picture.mode.startswith("I;16")
        assert np.abs(np.asarray(picture_to_rgb(picture)) - 255 * grey[..., None]).max() < 0.51

    def test_pictures_of_32_bits(self):
        for dtype in (np.int32, np.float32):
            with pytest.raises(ValueError, match="has 32 bits a pixel .*: convert it to 8 bits first"):
                pixels([Image.fromarray(np.zeros((8, 8), dtype))])


class TestLevels:
    @pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
    def test_whole_numbers_are_levels(self, dtype):
        check_same(VIDEO.astype(dtype))
        check_same(torch.from_numpy(VIDEO.astype(dtype)))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_floats_in_0_to_1(self, dtype):
        """They were nearly black."""
        levels = torch.from_numpy(VIDEO)
        atol = {torch.bfloat16: 0.05, torch.float16: 2 * ROUNDING}.get(dtype, ROUNDING)
        check_same((levels.double() / 255).to(dtype), atol=atol)
        check_same(levels.to(dtype), atol=atol)
        if dtype != torch.bfloat16:
            check_same((levels.double() / 255).to(dtype).numpy(), atol=atol)

    def test_bool(self):
        mask = VIDEO > 127
        check_same(mask, mask.astype(np.uint8) * 255)

    def test_the_range_is_that_of_the_whole_video(self):
        """A dark frame among those that are sampled says nothing."""
        video = np.full((5, 32, 48, 3), 200.0, np.float32)
        video[2] = 1.0
        expected = pixels(np.full((1, 32, 48, 3), 1, np.uint8), num_frames=1)
        torch.testing.assert_close(pixels(video, num_frames=1), expected)

    @pytest.mark.parametrize(
        ("least", "most", "dtype"),
        [
            *((0, 1023, np.uint16), (0, 65535, np.uint16), (-1, 255, np.int16), (0, 256, np.int64)),
            *((-1, 1, np.float32), (0, 255.5, np.float64), (0, np.inf, np.float32), (0, np.nan, np.float32)),
        ],
    )
    def test_other_ranges(self, least, most, dtype):
        video = np.zeros((2, 8, 8, 3), dtype)
        video[0, 0, 0], video[1, 0, 0] = least, most
        remedy = "do_rescale=False" if np.dtype(dtype).kind == "f" else "of 16 bits, pass `\\(video / 65535\\)"
        with pytest.raises(ValueError, match=f"The pixels of a video .* are from .* to .*: .*{remedy}"):
            pixels(video)

    def test_the_remedies_work(self):
        check_same((VIDEO.astype(np.uint16) * 257 / 65535).astype("float32"), atol=ROUNDING)
        scaled = VIDEO.astype(np.float32) / 255
        check_same(scaled, do_rescale=False, atol=ROUNDING)
        normalised = (scaled - np.float32(PROCESSOR.image_mean)) / np.float32(PROCESSOR.image_std)
        check_same(normalised, do_rescale=False, do_normalize=False, atol=ROUNDING)

    def test_another_factor_is_left_alone(self):
        scaled = VIDEO.astype(np.float32) / 255
        check_same(scaled, rescale_factor=1.0, atol=ROUNDING)


class TestMetadata:
    """As transformers takes it, so that frames that are decoded already are sampled like those of a file."""

    def test_of_arrays_and_of_lists_of_frames(self, tmp_path):
        render_clip(tmp_path / "clip.mp4")
        everything = VideoMambaVideoProcessor(do_resize=False, do_center_crop=False, do_normalize=False, do_rescale=False)
        found = everything(tmp_path / "clip.mp4", do_sample_frames=False, return_metadata=True, return_tensors="pt")
        [frames], [metadata] = found["pixel_values"], found["video_metadata"]
        assert list(metadata.frames_indices) == list(range(40))
        expected = PROCESSOR(tmp_path / "clip.mp4", return_metadata=True, return_tensors="pt")
        for video in (
            frames,
            frames.numpy(),
            list(frames),
            [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames],
        ):
            for given in (metadata, [metadata], dict(metadata), [dict(metadata)], {"total_num_frames": 40}):
                found = PROCESSOR(
                    video, video_metadata=given, do_sample_frames=True, return_metadata=True, return_tensors="pt"
                )
                assert torch.equal(found["pixel_values"], expected["pixel_values"])
                [sampled], [of_file] = found["video_metadata"], expected["video_metadata"]
                assert list(sampled.frames_indices) == list(of_file.frames_indices)
        assert list(metadata.frames_indices) == list(range(40))  # the caller's own is left as it is

    def test_of_another_video(self):
        with pytest.raises(
            ValueError, match="says that a video has 40 frames, but 6 were given.* pass `do_sample_frames=False`"
        ):
            pixels(VIDEO, video_metadata={"total_num_frames": 40})
        assert pixels(VIDEO, video_metadata={"total_num_frames": 40}, do_sample_frames=False).shape[1] == 6
        with pytest.raises(ValueError, match="2 videos but 1|of 1 videos, but 2"):
            pixels([VIDEO, VIDEO], video_metadata={"total_num_frames": 6})
