"""Which files of a folder are videos and images, and what is said of the others."""

import mimetypes
from collections import Counter

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from modeling_videomamba.data.clips import read_frames
from modeling_videomamba.data.media_files import NOT_VIDEO_SUFFIXES, SUFFIXES, find_files, passed_over, search_folder
from modeling_videomamba.data.media_lists import read_class_folders
from tests.rows import all_rows


class TestSuffixes:
    def test_videos_of_phones_cameras_television_and_the_web(self):
        names = "mp4 m4v mov qt mkv webm avi divx wmv asf flv f4v 3gp 3g2 mts m2ts m2t ts trp mpg mpeg mpe m1v m2v vob ogv ogm"
        names += " mxf gxf dv rm rmvb wtv dav insv lrv tod gif apng mjpeg mjpg h264 264 hevc 265 ivf obu y4m nut amv swf"
        assert not [name for name in names.split() if f".{name}" not in SUFFIXES["video"]]

    def test_no_sound_pictures_subtitles_playlists_or_texts(self):
        names = "mp3 m4a wav ogg wma aac flac mka png jpg jpeg webp heic avif bmp srt vtt ass sub idx mks m3u m3u8 mpd sdp pls"
        names += " asx ffconcat avs vpy txt nfo csv json zip pdf py part"
        assert not [name for name in names.split() if f".{name}" in SUFFIXES["video"]]

    def test_all_that_python_knows(self):
        types = mimetypes.MimeTypes(filenames=()).types_map[True]
        assert {suffix for suffix, kind in types.items() if kind.startswith("video/")} - NOT_VIDEO_SUFFIXES <= SUFFIXES[
            "video"
        ]

    def test_all_that_ffmpeg_knows_of_a_format(self):
        def check(name):
            suffixes = {f".{suffix}" for suffix in av.format.ContainerFormat(name).extensions}
            assert suffixes - NOT_VIDEO_SUFFIXES <= SUFFIXES["video"]

        all_rows(check, ["mov", "matroska", "avi", "asf", "flv", "mpegts", "mpeg", "mxf", "gif", "hevc"])

    def test_images(self):
        assert set(IMG_EXTENSIONS) <= SUFFIXES["image"]
        assert {".jpe", ".jfif"} <= SUFFIXES["image"]
        assert not SUFFIXES["image"] & SUFFIXES["video"]


class TestFilesPassedOver:
    @pytest.fixture
    def folder(self, tmp_path):
        for name in ("a/1.mp4", "a/2.WMV", "a/readme.txt", "b/3.m2ts", "b/4.JPG", "b/notes.TXT", "b/noname", ".hidden.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    def test_are_counted(self, folder, capsys):
        found = find_files(folder, "video", others := Counter())
        assert [path.name for path in found] == ["1.mp4", "2.WMV", "3.m2ts"]
        assert others == {".txt": 2, ".jpg": 1, "": 1}
        assert search_folder(folder, "video") == found
        assert capsys.readouterr().err == f"{folder}: 3 videos, 4 other files passed over (.txt, without a suffix, .jpg)\n"

    def test_of_all_classes_together(self, folder, capsys):
        assert len(read_class_folders(folder)) == 3
        assert capsys.readouterr().err == f"{folder}: 3 videos, 4 other files passed over (.txt, without a suffix, .jpg)\n"

    def test_nothing_is_said_of_none(self, tmp_path, capsys):
        (tmp_path / "1.mp4").touch()
        search_folder(tmp_path, "video")
        assert capsys.readouterr().err == ""

    def test_where_there_is_nothing_else(self, tmp_path):
        (tmp_path / "a.flac").touch()
        with pytest.raises(ValueError, match=r"has no videos, 1 other file passed over \(\.flac\)\."):
            search_folder(tmp_path, "video")
        with pytest.raises(ValueError, match="There is no folder .*nowhere"):
            search_folder(tmp_path / "nowhere", "video")

    def test_few_suffixes_are_named(self):
        others = Counter({f".{i}": 9 - i for i in range(8)})
        assert passed_over(others) == ", 44 other files passed over (.0, .1, .2, .3, .4, ...)"


def test_pictures_of_16_bits_in_a_folder_of_frames(tmp_path):
    """They are frames of one video, like those of 8 bits."""
    levels = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    Image.fromarray(levels).save(tmp_path / "0.png")
    Image.fromarray(levels.astype(np.uint16) * 257).save(tmp_path / "1.png")
    Image.fromarray(levels).convert("RGBA").save(tmp_path / "2.png")
    frames = read_frames({"video": str(tmp_path)}, range)
    assert frames.shape == (3, 3, 6, 8)
    assert frames.dtype == torch.uint8
    assert all(torch.equal(frame, frames[0]) for frame in frames)
    Image.fromarray(levels[:2]).save(tmp_path / "3.png")
    with pytest.raises(ValueError, match=f"pictures in {tmp_path} are not of one size: 3.png"):
        read_frames({"video": str(tmp_path)}, range)
