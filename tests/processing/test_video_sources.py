"""What a video is opened from: real containers only, under whatever name, and nothing else is opened on the way."""

import ctypes
import io
import os
import select
import socket
import struct
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from modeling_videomamba import VideoMambaVideoProcessor, decode_video
from modeling_videomamba.video_decoding import torchcodec_is_usable
from modeling_videomamba.video_sources import VIDEO_FORMATS, open_container
from tests.conftest import render_clip, served


pytestmark = pytest.mark.usefixtures("one_thread")

DECODERS = [
    "pyav",
    pytest.param(
        "torchcodec",
        marks=pytest.mark.skipif(not torchcodec_is_usable(), reason="torchcodec, or its FFmpeg, is not installed"),
    ),
]
# Texts that make FFmpeg, or a build of it with more libraries, open the file private.mp4 or listen to the network.
NAMING_OTHERS = {
    "ffconcat": "ffconcat version 1.0\nfile private.mp4\n",
    "ffconcat with options": "ffconcat version 1.0\noption safe 0\nfile 'file:private.mp4'\nduration 1\n",
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nprivate.mp4\n#EXT-X-ENDLIST\n",
    "m3u8 with a map": '#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MAP:URI="private.mp4"\n#EXTINF:2,\nprivate.mp4\n',
    "m3u8 after a byte order mark": "\ufeff#EXTM3U\n#EXTINF:2,\nprivate.mp4\n",
    "m3u": "private.mp4\n",
    "mpd": '<?xml version="1.0"?>\n<MPD type="static"><Period><AdaptationSet><Representation><BaseURL>private.mp4</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "imf": '<?xml version="1.0"?><CompositionPlaylist><Id>private.mp4</Id></CompositionPlaylist>',
    "avisynth": 'FFVideoSource("private.mp4")\n',
    "vobsub": "# VobSub index file, v7 (do not modify this line!)\nsize: 720x576\n",
    "pls": "[playlist]\nFile1=private.mp4\n",
    "asx": '<asx version="3.0"><entry><ref href="private.mp4"/></entry></asx>',
    "smil": '<smil><body><video src="private.mp4"/></body></smil>',
}
REFUSED = "a list of files|playlist|manifest|network stream|text file"


@pytest.fixture
def private(tmp_path, monkeypatch):
    """A video which no other file may make anybody open, in the working directory."""
    render_clip(tmp_path / "private.mp4", num_frames=4)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "private.mp4"


@contextmanager
def never_opened(path):
    """Linux tells of every process that opens the file."""
    if not sys.platform.startswith("linux"):
        yield
        return
    libc = ctypes.CDLL(None)
    watch = libc.inotify_init()
    in_open = 0x20
    assert libc.inotify_add_watch(watch, os.fsencode(path), in_open) > 0
    try:
        yield
        assert not select.select([watch], [], [], 0)[0], f"{path} was opened"
    finally:
        os.close(watch)


def test_the_watch_of_these_tests_sees_who_opens(private):
    with pytest.raises(AssertionError, match="was opened"), never_opened(private):
        decode_video(private, lambda metadata: [0])


class TestFilesThatNameOthers:
    @pytest.mark.parametrize("decoder", DECODERS)
    @pytest.mark.parametrize("kind", NAMING_OTHERS)
    def test_by_path(self, private, kind, decoder):
        for name in ("innocent.mp4", "innocent.mkv", "innocent", "innocent.m3u8", "innocent.txt", "innocent.avs"):
            path = private.with_name(name)
            path.write_text(NAMING_OTHERS[kind], encoding="utf-8")
            with never_opened(private), pytest.raises(ValueError, match=REFUSED) as error:
                decode_video(path, lambda metadata: [0], decoder)
            assert str(path) in str(error.value)

    @pytest.mark.parametrize("decoder", DECODERS)
    @pytest.mark.parametrize("kind", NAMING_OTHERS)
    def test_in_memory(self, private, kind, decoder):
        content = NAMING_OTHERS[kind].encode()
        for source in (content, io.BytesIO(content), {"path": "innocent.mp4", "bytes": content}):
            with never_opened(private), pytest.raises(ValueError, match=REFUSED):
                decode_video(source, lambda metadata: [0], decoder)

    def test_from_an_address(self, private):
        with served(private.parent) as address:
            for kind, text in NAMING_OTHERS.items():
                private.with_name(f"{kind}.mp4").write_text(text, encoding="utf-8")
                with never_opened(private), pytest.raises(ValueError, match=REFUSED) as error:
                    decode_video(f"{address}/{kind}.mp4", lambda metadata: [0])
                assert f"{address}/{kind}.mp4" in str(error.value)

    def test_what_to_do_is_said(self, private):
        private.with_name("list.mp4").write_text(NAMING_OTHERS["ffconcat"])
        with pytest.raises(ValueError, match="a list of files for FFmpeg, .* make it one file with `ffmpeg -i"):
            VideoMambaVideoProcessor()("list.mp4")

    @pytest.mark.parametrize(
        "name", ["concat:private.mp4", "subfile,,start,0,end,0,,:private.mp4", "file:private.mp4", "async:private.mp4"]
    )
    def test_a_name_is_never_a_protocol(self, private, name):
        with never_opened(private), pytest.raises(FileNotFoundError, match="No such video file"):
            decode_video(name, lambda metadata: [0])

    @pytest.mark.parametrize("name", ["picture%d.png", "picture[0-9].png", "picture?.png"])
    def test_a_name_is_never_a_pattern(self, private, name):
        other = private.rename(private.with_name("picture0.png"))
        Image.new("RGB", (64, 48)).save(private.with_name(name), format="PNG")
        with never_opened(other), pytest.raises(ValueError, match="a picture \\(PNG\\), not a video"):
            decode_video(private.with_name(name), lambda metadata: [0])

    @pytest.mark.parametrize("decoder", DECODERS)
    def test_pixels_elsewhere(self, private, decoder):
        """QuickTime has them: an `alis` in place of the data reference, with the name of the other file."""
        path = private.with_name("outside.mov")
        render_clip(path, num_frames=4)
        content = bytearray(path.read_bytes())
        place = content.index(b"dref") - 4
        old = int.from_bytes(content[place : place + 4], "big")
        name = b"private.mp4"
        record = struct.pack(">10xBx27s", 1, b"") + bytes(22) + struct.pack(">B63s", len(name), name)
        record = record.ljust(130, b"\0") + struct.pack(">hh", 1, 1) + bytes(16)
        record += struct.pack(">hh", 2, len(name)) + name + b"\0" + struct.pack(">hh", -1, 0)
        alis = struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record
        new = struct.pack(">I4sII", 16 + len(alis), b"dref", 0, 1) + alis
        for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
            start = content.index(box) - 4
            size = int.from_bytes(content[start : start + 4], "big") + len(new) - old
            content[start : start + 4] = size.to_bytes(4, "big")
        content[place : place + old] = new
        path.write_bytes(content)
        with never_opened(private), pytest.raises(ValueError, match="it has no frames"):
            decode_video(path, lambda metadata: [0], decoder)


class TestOtherFiles:
    """Each is called what it is, and none blocks."""

    def check(self, source, message, error_type=ValueError):
        with pytest.raises(error_type, match=message) as error:
            VideoMambaVideoProcessor()(source)
        assert "\n" not in str(error.value)
        if isinstance(source, os.PathLike):
            assert os.fspath(source) in str(error.value)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty: 0 bytes"),
            (b"not a video " * 100, "it is a text file, not a video"),
            (b"caf\xe9\n" * 50, "it is a text file, not a video"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer.*`git lfs pull`"),
            (b"\n<!DOCTYPE HTML><html><body>404</body></html>", "it is an HTML page, not a video"),
            (b"<html><head></head></html>", "it is an HTML page, not a video"),
            (b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data", "not a known video format"),
            (bytes(5000), "empty, truncated or no video"),
        ],
    )
    def test_content_that_is_not_a_video(self, tmp_path, content, message):
        (tmp_path / "clip.mp4").write_bytes(content)
        self.check(tmp_path / "clip.mp4", message)
        self.check(content, message)
        with served(tmp_path) as address:
            self.check(f"{address}/clip.mp4", message)

    @pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.tiff", "picture.mp4"])
    def test_a_picture(self, tmp_path, name):
        Image.new("RGB", (64, 48)).save(tmp_path / name, format="PNG" if name.endswith("mp4") else None)
        self.check(tmp_path / name, "it is a picture .*, not a video")
        self.check((tmp_path / name).read_bytes(), "it is a picture .*, not a video")

    def test_a_folder(self, tmp_path):
        self.check(tmp_path, "is a folder, not a video file")

    def test_a_pipe(self, tmp_path):
        os.mkfifo(tmp_path / "clip.mp4")
        self.check(tmp_path / "clip.mp4", "is a pipe, not a video file")

    def test_a_socket(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # its path may not be long
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("clip.mp4")
            self.check("clip.mp4", "clip.mp4 is a socket, not a video file")

    def test_a_device(self):
        for device in ("/dev/zero", "/dev/null"):
            self.check(device, f"{device} is a device, not a video file")

    def test_links(self, tmp_path):
        render_clip(tmp_path / "clip.mp4")
        (tmp_path / "good.mp4").symlink_to("clip.mp4")
        assert len(VideoMambaVideoProcessor(num_frames=4)(tmp_path / "good.mp4")["pixel_values"]) == 1
        (tmp_path / "broken.mp4").symlink_to("nowhere.mp4")
        self.check(tmp_path / "broken.mp4", "is a link to nowhere.mp4, which does not exist", FileNotFoundError)
        (tmp_path / "loop.mp4").symlink_to("loop.mp4")
        self.check(tmp_path / "loop.mp4", "Cannot read the video .*[Ll]evels of symbolic links")

    def test_missing(self, tmp_path):
        self.check(tmp_path / "nowhere.mp4", "No such video file", FileNotFoundError)
        render_clip(tmp_path / "clip.mp4")
        self.check(tmp_path / "clip.mp4" / "inside.mp4", "No such video file", FileNotFoundError)
        self.check("a\0b.mp4", "Cannot read the video")
        self.check(str(tmp_path / ("x" * 300)), "Cannot read the video .*too long")

    def test_without_permission(self, tmp_path, monkeypatch):
        render_clip(tmp_path / "clip.mp4")
        monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read everything
        self.check(tmp_path / "clip.mp4", "permission denied", PermissionError)

    def test_addresses_that_are_not_http(self):
        for address in ("ftp://host/clip.mp4", "file:///etc/passwd", "s3://bucket/clip.mp4", "hf://datasets/a/b/clip.mp4"):
            self.check(address, f"Only http\\(s\\) addresses are fetched: download {address} first")


class TestForms:
    @pytest.fixture
    def clip(self, tmp_path):
        render_clip(tmp_path / "clip.mp4")
        return tmp_path / "clip.mp4"

    def test_one_video_in_every_form(self, clip):
        content = clip.read_bytes()
        processor = VideoMambaVideoProcessor(num_frames=4)
        expected = processor(str(clip), return_tensors="pt")["pixel_values"]
        written = io.BytesIO()
        written.write(content)  # it stands at its end
        with clip.open("rb") as file:
            forms = [clip, content, bytearray(content), memoryview(content), io.BytesIO(content), written, file]
            forms += [{"path": str(clip), "bytes": None}, {"path": "gone.mp4", "bytes": content}, {"bytes": content}]
            for form in forms:
                assert torch.equal(processor(form, return_tensors="pt")["pixel_values"], expected), form
                frames, metadata = decode_video(form, lambda metadata: [0, 39])
                assert frames.shape == (2, 3, 64, 96)
                assert metadata.total_num_frames == 40
            batch = processor([*forms, str(clip)], return_tensors="pt")["pixel_values"]
        assert torch.equal(batch, expected.repeat(len(forms) + 1, 1, 1, 1, 1))

    def test_a_file_that_cannot_be_wound_back(self, clip):
        reading, writing = os.pipe()
        os.write(writing, content := clip.read_bytes())
        os.close(writing)
        assert len(content) < 2**16  # what a pipe holds
        with open(reading, "rb") as file:
            assert len(decode_video(file, lambda metadata: [0, 39])[0]) == 2

    @pytest.mark.skipif(not torchcodec_is_usable(), reason="torchcodec, or its FFmpeg, is not installed")
    def test_items_of_datasets_and_decoders(self, clip):
        from datasets import Dataset, Video
        from torchcodec.decoders import VideoDecoder

        processor = VideoMambaVideoProcessor(num_frames=4)
        expected = processor(str(clip), return_metadata=True, return_tensors="pt")
        table = Dataset.from_dict({"video": [str(clip)]}).cast_column("video", Video())
        in_memory = Dataset.from_list([{"video": {"bytes": clip.read_bytes(), "path": "x.mp4"}}]).cast_column("video", Video())
        items = [table[0]["video"], table.cast_column("video", Video(decode=False))[0]["video"], in_memory[0]["video"]]
        items += [VideoDecoder(str(clip)), VideoDecoder(str(clip), dimension_order="NHWC")]
        for item in items:
            found = processor(item, return_metadata=True, return_tensors="pt")
            assert torch.equal(found["pixel_values"], expected["pixel_values"])
            [metadata], [expected_metadata] = found["video_metadata"], expected["video_metadata"]
            assert metadata.total_num_frames == 40
            assert metadata.fps == 25
            assert list(metadata.frames_indices) == list(expected_metadata.frames_indices)

    def test_a_file_that_has_only_what_it_needs_to_be_read(self, clip):
        file = SimpleNamespace(read=clip.read_bytes)
        assert len(decode_video(file, lambda metadata: [0, 39])[0]) == 2

    def test_files_that_cannot_be_read(self, clip, tmp_path):
        with clip.open("rb") as file:
            pass
        with pytest.raises(ValueError, match=r"The file .*clip\.mp4 is closed already: open it again, or give its path"):
            decode_video(file, lambda metadata: [0])
        with (tmp_path / "new.mp4").open("wb") as file, pytest.raises(ValueError, match=r"new\.mp4 is not open for reading"):
            decode_video(file, lambda metadata: [0])

    def test_what_is_not_a_video(self, clip):
        processor = VideoMambaVideoProcessor()
        with clip.open(encoding="latin-1") as file, pytest.raises(ValueError, match="is open as text: open it with mode 'rb'"):
            processor(file)
        with pytest.raises(ValueError, match="has a 'path' or 'bytes', got the keys \\['file'\\]"):
            processor({"file": str(clip)})
        with pytest.raises(ValueError, match="has a 'path' or 'bytes'"):
            processor({"path": None, "bytes": None})
        for source in (b"", bytearray(), io.BytesIO()):
            with pytest.raises(ValueError, match="empty: 0 bytes"):
                processor(source)
        for source in (3, None, object(), {1, 2}, [[1, 2], [3, 4]]):
            with pytest.raises(ValueError, match="A video is a path, .*, got "):
                processor(source)
        with pytest.raises(ValueError, match="A video is given by a path, an http\\(s\\) address, bytes .*, got int"):
            decode_video(3, lambda metadata: [0])


class TestContainers:
    """Those that people have keep opening, under any name."""

    @pytest.mark.parametrize(
        ("name", "codec"),
        [
            *(("a.mp4", "libx264"), ("a.mov", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx"), ("a.avi", "mpeg4")),
            *(("a.3gp", "libx264"), ("a.f4v", "libx264"), ("a.flv", "flv1"), ("a.wmv", "wmv2"), ("a.mts", "libx264")),
            *(("a.mpg", "mpeg1video"), ("a.vob", "mpeg2video"), ("a.ogv", "libvpx"), ("a.mxf", "mpeg2video")),
            *(("a.h264", "libx264"), ("a.hevc", "libx265"), ("a.m4v", "mpeg4"), ("a.mjpeg", "mjpeg"), ("a.ivf", "libvpx")),
            *(("a.y4m", "wrapped_avframe"), ("a.apng", "apng"), ("a.gif", "gif"), ("a.m2v", "mpeg2video"), ("a.swf", "flv1")),
            ("a.nut", "mpeg4"),
        ],
    )
    def test_by_content(self, tmp_path, name, codec):
        if codec not in av.codecs_available:
            codec = {"flv1": "flv", "libvpx": "libvpx-vp9"}.get(codec, codec)
        pixels = {"gif": "rgb8", "apng": "rgb24", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        options = {"x265-params": "log-level=none"} if codec == "libx265" else None
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream(codec, rate=25, options=options)
            stream.width, stream.height, stream.pix_fmt = 96, 64, pixels
            for level in range(0, 240, 30):
                picture = np.full((64, 96, 3), level, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)))
            container.mux(stream.encode())
        (tmp_path / name).rename(tmp_path / "unnamed")
        for source in (tmp_path / "unnamed", (tmp_path / "unnamed").read_bytes()):
            frames, metadata = decode_video(source, lambda metadata: [0, metadata.total_num_frames - 1])
            assert metadata.total_num_frames == 8
            first, last = frames.float().mean((1, 2, 3)).tolist()
            assert first < 20 < 190 < last

    def test_only_formats_that_open_no_other_file(self):
        """By FFmpeg's source, these do."""
        devices_and_streams = {"lavfi", "rtp", "rtsp", "sap", "sdp"}
        opening_others = {"concat", "dash", "hls", "image2", "imf", "mlv", "vobsub", "webm_dash_manifest"}
        assert not (opening_others | devices_and_streams) & set(VIDEO_FORMATS)
        assert not [name for name in VIDEO_FORMATS if name.endswith("_pipe")]

    def test_no_other_protocol(self, tmp_path):
        render_clip(tmp_path / "clip.mp4")
        for address in (f"concat:{tmp_path / 'clip.mp4'}", f"data:video/mp4;base64,{'A' * 40}", "http://127.0.0.1:9/clip.mp4"):
            with pytest.raises((av.FFmpegError, OSError, EOFError)):
                open_container(address)
