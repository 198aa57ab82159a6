"""Decoding video files: the frames that FFmpeg shows, whichever decoder is used and however few are asked for."""

import errno
import random
import re
import weakref
from contextlib import contextmanager
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from modeling_videomamba import VideoMambaVideoProcessor, decode_video, video_decoding, video_index
from modeling_videomamba.video_decoding import torchcodec_is_usable
from modeling_videomamba.video_index import VideoFileMetadata
from modeling_videomamba.video_sources import UnreadableVideoError
from tests.conftest import render_clip
from tests.video_files import DECODERS, brightness, copy_packets, damage_packet, set_display_matrix, set_edits


SMALL = (48, 64)  # height and width, at which decoding takes no time
MJPEG = {"codec": "mjpeg", "pix_fmt": "yuvj420p"}
GROUPS = "keyint=12:min-keyint=12:bframes=4:b-adapt=0:scenecut=0"
OPEN_GROUPS = f"open-gop=1:{GROUPS}"


@pytest.fixture
def clip(tmp_path):
    """A clip of 40 frames of 64 x 96 pixels, and what it shows."""
    path = tmp_path / "clip.mp4"
    return str(path), render_clip(path)


def decode_all(path, decoder=None):
    return decode_video(path, lambda metadata: range(metadata.total_num_frames), decoder)


def assert_shows(path, expected, decoder=None):
    """That a file has the frames of this brightness, and the same ones whichever are asked for. Returns its metadata."""
    frames, metadata = decode_all(path, decoder)
    assert brightness(frames) == pytest.approx(list(expected), abs=1.5)
    total = len(expected)
    for i in (0, 1, total // 3, total // 2, total - 2, total - 1):
        assert torch.equal(decode_video(path, lambda metadata, i=i: [i], decoder)[0][0], frames[i]), i
    some = random.Random(0).choices(range(total), k=7)
    assert torch.equal(decode_video(path, lambda metadata: some, decoder)[0], frames[some])
    return metadata


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

    for module in (video_index, video_decoding):
        monkeypatch.setattr(module, "open_container", open_with_other_packets)


class TestChosenFrames:
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

        def frames(*args):
            for frame in video_index.decoded_frames(*args):
                decoded.append(frame.pts)
                yield frame

        monkeypatch.setattr(video_decoding, "decoded_frames", frames)
        decode_video(clip[0], lambda metadata: [0, 39], "pyav")
        assert len(decoded) < 14  # the first, and those from the last keyframe on
        decoded.clear()
        decode_video(clip[0], lambda metadata: range(40), "pyav")
        assert len(decoded) == 40  # each once

    def test_few_packets_are_in_memory(self, clip, monkeypatch):
        class Packet:
            def __init__(self, packet):
                self.packet = packet

            def __getattr__(self, name):
                return getattr(self.packet, name)

        alive, most = weakref.WeakSet(), 0

        def demux(container, stream):
            nonlocal most
            for packet in container.demux(stream):
                packet = Packet(packet)
                alive.add(packet)
                most = max(most, len(alive))
                yield packet

        take_packets_from(demux, monkeypatch)
        monkeypatch.setattr(video_index._Opening, "add", lambda opening, packet: setattr(opening, "is_sound", True))
        assert video_index.read_index(clip[0]).metadata.total_num_frames == 40
        assert 0 < most < 4

    @pytest.mark.parametrize("decode", [video_decoding._decode_at_times, video_decoding._decode_from_start])
    def test_threads_rest_before_a_file_is_closed(self, clip, monkeypatch, decode):
        """Else the process may stand still for good where PyAV's logging is on: once in some hundred videos."""
        events, open_file, index = [], video_decoding.open_container, video_index.read_index(clip[0])

        @contextmanager
        def open_and_note(source):
            with open_file(source) as container:
                [stream] = container.streams.video

                def rest():
                    events.append("rest")
                    stream.codec_context.flush_buffers()

                codec_context = SimpleNamespace(name="h264", flush_buffers=rest)
                yield SimpleNamespace(
                    streams=[SimpleNamespace(codec_context=codec_context, decode=stream.decode)],
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

    def test_the_errors_of_the_callers_functions_are_their_own(self, clip):
        """Not a fault of the file, and so not said of it."""

        def fail(argument):
            raise RuntimeError("mine")

        for decoder in (None, "pyav"):
            with pytest.raises(RuntimeError, match="^mine$"):
                decode_video(clip[0], fail, decoder)
            with pytest.raises(RuntimeError, match="^mine$"):
                decode_video(clip[0], lambda metadata: [0], decoder, shrink=fail)


class TestContainers:
    @pytest.mark.parametrize("decoder", DECODERS)
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("a.mp4", {}),
            ("fragments.mp4", {"movflags": "frag_keyframe+empty_moov"}),
            ("dash.mp4", {"movflags": "dash+global_sidx+frag_keyframe+empty_moov"}),
            ("a.mov", MJPEG),
            ("a.mkv", {"codec": "libx265", "codec_options": {"x265-params": OPEN_GROUPS}}),
            ("lossless.mkv", {"codec": "ffv1"}),
            ("a.webm", {"codec": "libvpx-vp9", "codec_options": {"cpu-used": "8", "deadline": "realtime"}}),
            ("a.avi", MJPEG),
            ("mpeg4.avi", {"codec": "mpeg4", "codec_options": {"bf": "2", "b": "4M"}}),
            ("h264.avi", {}),
            ("a.ts", {}),
            ("a.mpg", {"codec": "mpeg2video", "codec_options": {"b": "4M"}}),
            ("a.flv", {"codec": "flv"}),
            ("a.wmv", {"codec": "wmv2", "codec_options": {"b": "4M"}}),
            ("a.gif", {"codec": "gif", "pix_fmt": "gray"}),
            ("a.h264", {}),
        ],
    )
    def test_a_frame_is_the_same_whichever_others_are_asked_for(self, tmp_path, name, options, decoder):
        drawn = render_clip(tmp_path / name, num_frames=30, size=SMALL, **options)
        metadata = assert_shows(tmp_path / name, drawn.mean((1, 2, 3)), decoder)
        assert metadata.total_num_frames == 30
        assert metadata.fps == pytest.approx(25)
        assert metadata.duration == pytest.approx(1.2)
        assert metadata.frame_times is None

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

    @pytest.mark.parametrize("decoder", DECODERS)
    def test_pictures_of_vp8_that_are_only_referred_to(self, tmp_path, decoder):
        """They have packets, but are never shown."""
        path, number = tmp_path / "a.webm", 10
        drawn = render_clip(path, size=SMALL, codec="libvpx")
        with av.open(str(path)) as container:
            tag, *_ = bytes([packet for packet in container.demux(video=0) if packet.size][number])
        damage_packet(path, number, bytes([tag & ~0x10]))  # the bit that it is shown
        assert_shows(path, np.delete(drawn.mean((1, 2, 3)), number), decoder)

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

    def test_the_frame_size_changes(self, tmp_path):
        render_clip(tmp_path / "a.ts", num_frames=20)
        render_clip(tmp_path / "b.ts", num_frames=20, size=(96, 128))
        (tmp_path / "both.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
        with pytest.raises(ValueError, match=r"both\.ts: the frame size changes from 64 x 96 to 96 x 128 within the video"):
            decode_all(tmp_path / "both.ts")


class TestTags:
    @pytest.mark.parametrize("decoder", DECODERS)
    @pytest.mark.parametrize("encoding", ["latin-1", "shift-jis"])
    @pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi", "a.ts", "a.flv"])
    def test_in_any_encoding(self, tmp_path, name, encoding, decoder):
        """Of the file, of its stream, and of a chapter. MPEG-TS calls its programme by them."""
        title = {"latin-1": "éàü", "shift-jis": "日本語"}[encoding].encode(encoding)
        placeholder = "Q" * len(title)
        tags = {"title": placeholder, "comment": placeholder, "service_name": placeholder, "language": placeholder[:3]}
        with av.open(str(tmp_path / name), "w") as container:
            container.metadata.update(tags)
            stream = container.add_stream("flv" if name == "a.flv" else "mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.metadata.update(tags)
            container.set_chapters([{"id": 0, "start": 0, "end": 2, "time_base": Fraction(1, 25), "metadata": tags}])
            for _ in range(10):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
            container.mux(stream.encode())
        content = (tmp_path / name).read_bytes()
        assert placeholder.encode() in content
        (tmp_path / name).write_bytes(content.replace(placeholder.encode(), title))
        assert len(decode_all(tmp_path / name, decoder)[0]) == 10


class TestOrientation:
    @pytest.mark.parametrize("decoder", DECODERS)
    @pytest.mark.parametrize(
        ("matrix", "show"),
        [
            ((1, 0, 0, 1), lambda picture: picture),
            ((-1, 0, 0, 1), np.fliplr),
            ((1, 0, 0, -1), np.flipud),
            ((-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
            ((0, 1, 1, 0), lambda picture: picture.swapaxes(0, 1)),
            ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),  # a quarter turn clockwise
            ((0, -1, 1, 0), np.rot90),
            ((0, -1, -1, 0), lambda picture: np.rot90(picture, 2).swapaxes(0, 1)),
        ],
    )
    def test_all_eight(self, tmp_path, matrix, show, decoder):
        """The clip grows brighter from left to right, and here also from top to bottom."""
        path, rows = tmp_path / "phone.mp4", np.arange(0, 48, dtype=np.uint8)[:, None, None]
        stored = np.full((48, 64, 3), 100, np.uint8) + rows + np.arange(64, dtype=np.uint8)[None, :, None]
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for _ in range(5):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
            container.mux(stream.encode())
        set_display_matrix(path, *matrix)
        expected, sizes = show(stored).astype(float), []

        def choose(metadata):
            sizes.append((metadata.height, metadata.width))
            return [3]

        [frame], metadata = decode_video(path, choose, decoder)
        assert frame.shape[1:] == expected.shape[:2]
        assert sizes == [expected.shape[:2]] == [(metadata.height, metadata.width)]
        assert np.abs(frame.permute(1, 2, 0).numpy() - expected).mean() < 2

    @pytest.mark.parametrize("decoder", DECODERS)
    @pytest.mark.parametrize("matrix", [(0.7, 0.7, -0.7, 0.7), (0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 0, 2), (0, 0, 0, 1)])
    def test_other_matrices_leave_pictures_as_they_are_stored(self, clip, tmp_path, matrix, decoder):
        path, drawn = clip
        set_display_matrix(tmp_path / "clip.mp4", *matrix)
        frames, _ = decode_video(path, lambda metadata: [7], decoder)
        assert np.abs(frames[0].permute(1, 2, 0).numpy() - drawn[7].astype(float)).mean() < 2

    @pytest.mark.parametrize("decoder", DECODERS)
    def test_pixels_that_are_not_square_stay_as_they_are_stored(self, tmp_path, decoder):
        with av.open(str(tmp_path / "wide.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
            for _ in range(3):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
            container.mux(stream.encode())
        with av.open(str(tmp_path / "wide.mp4")) as container:
            assert container.streams.video[0].sample_aspect_ratio == 2
        frames, metadata = decode_all(tmp_path / "wide.mp4", decoder)
        assert frames.shape == (3, 3, 48, 64)
        assert (metadata.height, metadata.width) == (48, 64)

    @pytest.mark.parametrize(("exif", "quarters"), [(1, 0), (3, 2), (6, -1), (8, 1)])
    def test_photographs_as_frames(self, tmp_path, exif, quarters):
        """Motion JPEG of cameras, where EXIF says how it is held."""
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:24, :32] = 200
        tags = Image.Exif()
        tags[0x0112] = exif
        Image.fromarray(picture).save(tmp_path / "a.jpg", exif=tags)
        (tmp_path / "a.mjpeg").write_bytes((tmp_path / "a.jpg").read_bytes() * 3)
        frames, _ = decode_all(tmp_path / "a.mjpeg")
        assert len(frames) == 3
        assert np.abs(frames[2].permute(1, 2, 0).numpy() - np.rot90(picture, quarters).astype(float)).mean() < 3


class TestCuts:
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
        options = f"{leading_pictures}:{GROUPS}"
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
    @pytest.mark.parametrize("codec", ["libx264", "libx265"])
    def test_leading_pictures_without_times(self, tmp_path, codec, decoder):
        """Matroska gives none to what is before 0: as `ffmpeg -ss ... -c copy` cuts, where the cut is at 0."""
        whole, part = tmp_path / "whole.mp4", tmp_path / "part.mkv"
        drawn = render_clip(whole, size=SMALL, codec=codec, codec_options={f"{codec[3:]}-params": OPEN_GROUPS})
        with av.open(str(whole)) as source:
            packets = [packet for packet in source.demux(video=0) if packet.size]
            start = [packet.is_keyframe for packet in packets].index(True, 1)
            zero = packets[start].pts

        def shift(packet):
            packet.pts, packet.dts = packet.pts - zero, packet.dts - zero

        copied, keyframe = copy_packets(whole, part, start, shift, {"avoid_negative_ts": "disabled"})
        with av.open(str(part)) as cut:
            assert None in [packet.pts for packet in cut.demux(video=0) if packet.size]
        assert min(copied) < keyframe
        metadata = assert_shows(part, drawn[keyframe:].mean((1, 2, 3)), decoder)
        assert (metadata.fps, metadata.duration) == (25, (40 - keyframe) / 25)

    @pytest.mark.parametrize("codec", ["libx264", "libx265"])
    def test_raw_streams(self, tmp_path, codec):
        """They have no times, which would tell what of it cannot be decoded: so all is decoded and counted."""
        whole, part = tmp_path / "whole.ts", tmp_path / f"part.{'h264' if codec == 'libx264' else 'hevc'}"
        options = {"x265-params": OPEN_GROUPS} if codec == "libx265" else None
        drawn = render_clip(whole, size=SMALL, codec=codec, codec_options=options)
        with av.open(str(whole)) as source:
            second = [packet.is_keyframe for packet in source.demux(video=0)].index(True, 1)
        _, keyframe = copy_packets(whole, part, 5 if codec == "libx264" else second)
        assert_shows(part, drawn[keyframe:].mean((1, 2, 3)))

    def test_raw_streams_have_their_rate(self, tmp_path):
        """Their times are made up: here as if the first frame were shown for two."""
        render_clip(tmp_path / "a.m1v", size=SMALL, codec="mpeg1video")
        _, metadata = decode_video(tmp_path / "a.m1v", lambda metadata: [0])
        assert (metadata.total_num_frames, metadata.fps, metadata.frame_times) == (40, 25, None)

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


class TestDamage:
    @pytest.mark.parametrize("decoder", DECODERS)
    @pytest.mark.parametrize(
        ("name", "options", "number"),
        [
            ("a.avi", MJPEG, 0),
            ("a.mov", MJPEG, 0),
            ("a.mkv", MJPEG, 7),
            ("a.avi", {"codec_options": {"x264-params": "keyint=1"}}, 7),
            ("a.mp4", {"codec_options": {"x264-params": "keyint=1"}}, 39),
            ("a.mkv", {"codec": "libx265", "codec_options": {"x265-params": "keyint=1"}}, 7),
            ("a.mov", {"codec": "prores_ks", "pix_fmt": "yuv422p10le"}, 7),
        ],
    )
    def test_one_packet_costs_one_frame(self, tmp_path, caplog, name, options, number, decoder):
        path = tmp_path / name
        drawn = render_clip(path, size=SMALL, **options)
        damage_packet(path, number)
        frames, metadata = decode_all(path, decoder)
        assert metadata.total_num_frames == 39
        assert brightness(frames) == pytest.approx(np.delete(drawn.mean((1, 2, 3)), number), abs=3)
        [warning] = [record.message for record in caplog.records]
        assert warning == f"The video {path} seems damaged: 1 packet gives no frame. The other 39 frames are used."

    def test_all_packets(self, tmp_path):
        render_clip(tmp_path / "a.avi", num_frames=5, size=SMALL, **MJPEG)
        for number in range(5):
            damage_packet(tmp_path / "a.avi", number)
        with pytest.raises(ValueError, match=r"a\.avi: none of its frames can be decoded"):
            decode_all(tmp_path / "a.avi")

    @pytest.mark.parametrize("decoder", DECODERS)
    def test_packets_that_a_decoder_leaves_out_without_an_error(self, tmp_path, caplog, decoder):
        render_clip(tmp_path / "a.avi", size=SMALL, codec="mpeg4")
        damage_packet(tmp_path / "a.avi", 20)
        assert len(decode_all(tmp_path / "a.avi", decoder)[0]) == 39
        assert "a.avi seems damaged: 1 packet gives no frame." in caplog.text

    def test_what_comes_before_a_packet_that_ends_a_file(self, tmp_path, caplog):
        """Whatever FFmpeg calls the damage: here a feature that it does not have."""
        drawn = render_clip(tmp_path / "a.apng", size=SMALL, codec="apng", pix_fmt="rgb24")
        content = (tmp_path / "a.apng").read_bytes()
        frame = [match.start() for match in re.finditer(b"fcTL", content)][20]
        (tmp_path / "a.apng").write_bytes(content[: frame + 30] + bytes([255] * 30) + content[frame + 60 :])
        frames, _ = decode_all(tmp_path / "a.apng")
        assert 19 <= len(frames) <= 21
        assert np.array_equal(frames.permute(0, 2, 3, 1), drawn[: len(frames)])
        assert "a.apng seems damaged: 1 packet gives no frame." in caplog.text

    def test_frames_are_chosen_again_of_those_that_are_left(self, tmp_path):
        render_clip(tmp_path / "a.mov", size=SMALL, **MJPEG)
        damage_packet(tmp_path / "a.mov", 20)
        totals = []

        def middle(metadata):
            totals.append(metadata.total_num_frames)
            return [metadata.total_num_frames // 2]

        _, metadata = decode_video(tmp_path / "a.mov", middle)
        assert totals == [40, 39]
        assert metadata.frames_indices == [19]

    @pytest.mark.parametrize("decoder", DECODERS)
    def test_pictures_that_refer_to_a_damaged_one_are_shown(self, tmp_path, decoder):
        """As FFmpeg shows them, at least until the next keyframe in colours that are off."""
        drawn = render_clip(tmp_path / "a.mkv", size=SMALL, codec="libx265", codec_options={"x265-params": GROUPS})
        damage_packet(tmp_path / "a.mkv", 0, b"\xff" * 12)
        frames, _ = decode_all(tmp_path / "a.mkv", decoder)
        assert len(frames) == 39
        assert brightness(frames)[-25:] == pytest.approx(drawn.mean((1, 2, 3))[-25:], abs=1.5)

    def test_an_mp4_that_ends_within_its_last_frame_is_truncated(self, tmp_path):
        render_clip(tmp_path / "a.mp4", size=SMALL, movflags="faststart")
        content = (tmp_path / "a.mp4").read_bytes()
        (tmp_path / "a.mp4").write_bytes(content[:-5])
        with pytest.raises(ValueError, match=r"a\.mp4: it is truncated: it ends within a frame"):
            decode_all(tmp_path / "a.mp4")


class TestVariableFrameRate:
    TIMES = [0.0, 0.2, 1.0, 1.04, 1.08, 1.5, 4.0, 4.04, 4.08, 5.0]

    @pytest.fixture(params=["a.mkv", "a.mp4", "a.ts"])
    def varying(self, tmp_path, request):
        """Ten frames, the last of which is shown for 0.04 s, and what they show; the file begins at 7 s."""
        path = tmp_path / request.param
        drawn = render_clip(tmp_path / "even.mkv", num_frames=10, size=SMALL, codec_options={"bf": "0"})

        def retime(packet):
            packet.pts = packet.dts = 7000 + round(1000 * self.TIMES[packet.pts // 40])
            packet.duration = 40

        copy_packets(tmp_path / "even.mkv", path, change=retime)
        return path, drawn.mean((1, 2, 3))

    @pytest.mark.parametrize("decoder", DECODERS)
    def test_times_come_from_the_packets(self, varying, decoder):
        path, expected = varying
        metadata = assert_shows(path, expected, decoder)
        assert metadata.duration == pytest.approx(5.04, abs=0.01)
        assert metadata.fps == pytest.approx(10 / 5.04, rel=0.01)
        assert metadata.frame_times == pytest.approx(self.TIMES, abs=0.002)
        _, metadata = decode_video(path, lambda metadata: [9, 0, 5], decoder)
        assert metadata.timestamps == pytest.approx([5.0, 0.0, 1.5], abs=0.002)

    def test_frames_a_second_are_counted_in_time(self):
        """One frame a second of 5.04 s: those shown at 0.504, 1.512, 2.52, 3.528 and 4.536 s."""
        metadata = VideoFileMetadata(total_num_frames=10, fps=10 / 5.04, duration=5.04)
        metadata.frame_times = self.TIMES
        assert VideoMambaVideoProcessor().sample_frames(metadata, fps=1).tolist() == [1, 5, 5, 5, 8]
        clips = VideoMambaVideoProcessor().sample_frames(metadata, fps=0.4, num_clips=2).reshape(2, 2)
        assert clips.tolist() == [[1, 5], [5, 8]]

    @pytest.mark.parametrize("rate", [30, Fraction(30000, 1001), 59])
    def test_a_constant_rate_keeps_its_numbers(self, tmp_path, rate):
        """Also where the container rounds times, as Matroska does to milliseconds."""
        with av.open(str(tmp_path / "a.mkv"), "w") as container:
            stream = container.add_stream("libx264", rate=rate)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for _ in range(100):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
            container.mux(stream.encode())
        _, metadata = decode_video(tmp_path / "a.mkv", lambda metadata: [0])
        assert metadata.fps == pytest.approx(float(rate), rel=1e-5)
        assert metadata.duration == 100 / metadata.fps
        assert metadata.frame_times is None
        assert metadata.timestamps == [0.0]


class TestTimesThatRepeat:
    def test_an_mp4_with_all_its_packets_is_not_truncated(self):
        """In joined cuts of VP9, FFmpeg takes frames for half as long as they are."""
        packets = [video_index._Packet(40 * i, 20, True, False) for i in range(10)]
        stream = SimpleNamespace(duration=400, start_time=0, time_base=Fraction(1, 1000), frames=10)
        video_index._require_whole(stream, packets, is_cut_off=False)
        with pytest.raises(UnreadableVideoError, match=r"truncated: it ends after 0\.34 of 0\.40 s"):
            video_index._require_whole(stream, packets[:-1], is_cut_off=False)

    @pytest.mark.parametrize("decoder", DECODERS)
    @pytest.mark.parametrize("container", ["mkv", "mp4"])
    @pytest.mark.parametrize("begin", [40, 400, 420, 860])
    def test_joined_cuts(self, tmp_path, container, begin, decoder):
        """Two clips of 24 frames in one file, the second of which begins at so many milliseconds: they count as stored."""
        drawn = render_clip(tmp_path / "clip.mkv", num_frames=24, size=SMALL)
        path = tmp_path / f"joined.{container}"
        with (
            av.open(str(tmp_path / "clip.mkv")) as first,
            av.open(str(tmp_path / "clip.mkv")) as second,
            av.open(str(path), "w") as joined,
        ):
            stream = joined.add_stream_from_template(first.streams.video[0])
            packets = [packet for clip in (first, second) for packet in clip.demux(video=0) if packet.size]
            for position, packet in enumerate(packets):
                packet.stream = stream
                packet.pts += begin if position >= 24 else 0
                packet.dts = position - 100
                joined.mux(packet)
        assert_shows(path, [*drawn.mean((1, 2, 3))] * 2, decoder)

    def test_joined_transport_streams(self, tmp_path):
        drawn = render_clip(tmp_path / "clip.ts", num_frames=24, size=SMALL)
        (tmp_path / "joined.ts").write_bytes((tmp_path / "clip.ts").read_bytes() * 2)
        assert_shows(tmp_path / "joined.ts", [*drawn.mean((1, 2, 3))] * 2)


class TestFailures:
    ERRORS = [
        IndexError("Invalid frame index=15"),
        KeyError("stream"),
        AssertionError(),
        UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid continuation byte"),
        OverflowError("int too large"),
        MemoryError("Unable to allocate 7 TiB"),
        RuntimeError("decode_av_frame, SingleStreamDecoder.cpp:12\nand a trace"),
        ValueError("bad value"),
        TypeError("bad type"),
        av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory"),
    ]

    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
    @pytest.mark.parametrize("place", ["open_container", "read_index", "decoded_frames"])
    def test_whatever_a_decoder_raises_is_an_error_that_names_the_file(self, clip, monkeypatch, place, error):
        def fail(*args, **kwargs):
            raise error

        monkeypatch.setattr(video_index if place == "open_container" else video_decoding, place, fail)
        with pytest.raises(ValueError, match=r"^Cannot decode the video .*clip\.mp4") as raised:
            decode_all(clip[0], "pyav")
        assert "\n" not in str(raised.value)

    @pytest.mark.skipif(not torchcodec_is_usable(), reason="torchcodec, or its FFmpeg, is not installed")
    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
    @pytest.mark.parametrize("decoder", [None, "torchcodec"])
    def test_what_torchcodec_cannot_decode_pyav_does(self, clip, monkeypatch, decoder, error):
        def fail(*args, **kwargs):
            raise error

        monkeypatch.setattr("torchcodec.decoders.VideoDecoder.get_frames_at", fail)
        frames, metadata = decode_all(clip[0], decoder)
        assert metadata.video_backend == "pyav"
        assert brightness(frames) == pytest.approx(clip[1].mean((1, 2, 3)), abs=1.5)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
    def test_a_run_can_be_interrupted(self, clip, monkeypatch, error):
        def interrupt(*args):
            raise error

        monkeypatch.setattr(video_decoding, "decoded_frames", interrupt)
        with pytest.raises(error):
            decode_all(clip[0], "pyav")

    @pytest.mark.parametrize(
        ("number", "kind"), [(errno.EACCES, PermissionError), (errno.ENOENT, FileNotFoundError), (errno.EIO, ValueError)]
    )
    def test_files_that_may_not_be_read(self, clip, monkeypatch, number, kind):
        def refuse(path, **options):
            raise av.error.classes.get(number, av.error.OSError)(number, "refused", path)

        monkeypatch.setattr(av, "open", refuse)
        with pytest.raises(kind, match=r"clip\.mp4") as raised:
            decode_all(clip[0])
        assert not isinstance(raised.value, av.FFmpegError)
