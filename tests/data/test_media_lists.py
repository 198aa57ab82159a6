"""Labelled videos from folders, lists and data sets: what is read, and what is said about mistakes."""

import datasets
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, Video

from modeling_videomamba.data.clips import read_frames
from modeling_videomamba.data.label_sets import size_of_head
from modeling_videomamba.data.media_files import find_files
from modeling_videomamba.data.media_lists import (
    SPLIT_NAMES,
    count_classes,
    hold_out,
    label_ids,
    label_names,
    label_values,
    load_media,
    load_splits,
    name_of,
    read_list,
    source_of,
    write_list,
)
from modeling_videomamba.data.windows import cut_into_windows
from tests.conftest import render_clip
from tests.rows import all_rows


def make_files(folder, *names):
    """Empty files: nothing is decoded here."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def rows_of(videos, folder) -> list[tuple]:
    return [(row["video"].removeprefix(f"{folder}/"), row["label"]) for row in videos]


class TestFindingFiles:
    def found(self, folder) -> list[str]:
        return [str(path.relative_to(folder)) for path in find_files(folder, "video")]

    def test_at_whatever_depth_in_order_without_hidden_ones(self, tmp_path):
        make_files(tmp_path, "b/c/2.mp4", "b/1.MKV", "a.mp4", "notes.txt", ".git/c.mp4", "b/.c.mp4")
        assert self.found(tmp_path) == ["a.mp4", "b/1.MKV", "b/c/2.mp4"]

    def test_links_are_followed(self, tmp_path):
        make_files(tmp_path, "elsewhere/deep/1.mp4", "videos/a.mp4")
        (tmp_path / "videos/link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "videos/b.mp4").symlink_to(tmp_path / "videos/a.mp4")
        (tmp_path / "all").symlink_to(tmp_path / "videos")
        assert self.found(tmp_path / "videos") == self.found(tmp_path / "all") == ["a.mp4", "b.mp4", "link/deep/1.mp4"]

    def test_links_in_a_circle_end_and_no_folder_is_searched_twice(self, tmp_path):
        make_files(tmp_path, "videos/z/1.mp4", "elsewhere/2.mp4")
        (tmp_path / "videos/a").symlink_to(tmp_path / "videos/z")
        (tmp_path / "videos/z/up").symlink_to(tmp_path / "videos")
        (tmp_path / "videos/z/link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere/back").symlink_to(tmp_path / "videos/z")
        (tmp_path / "videos/z/self").symlink_to("self")
        assert self.found(tmp_path / "videos") == ["z/1.mp4", "z/link/2.mp4"]

    def test_a_folder_is_no_video(self, tmp_path):
        make_files(tmp_path, "dir.mp4/1.mp4")
        assert self.found(tmp_path) == ["dir.mp4/1.mp4"]


class TestClassFolders:
    def test_a_folder_a_class(self, tmp_path):
        make_files(tmp_path, "run/b.mp4", "jump/deep/a.MKV", "run/a.webm", "run/notes.txt", ".git/c.mp4", "d.mp4")
        videos = load_media(str(tmp_path), "train")
        assert rows_of(videos, tmp_path) == [("jump/deep/a.MKV", 0), ("run/a.webm", 1), ("run/b.mp4", 1)]
        assert label_names(videos) == ["jump", "run"]

    def test_classes_are_in_alphabetical_order(self, tmp_path):
        make_files(tmp_path, *(f"{name}/a.mp4" for name in ("walk", "jump", "swim", "fly", "run")))
        assert label_names(load_media(str(tmp_path), "train")) == ["fly", "jump", "run", "swim", "walk"]

    def test_without_splits_all_are_for_training(self, tmp_path):
        make_files(tmp_path, "run/a.mp4")
        assert load_media(str(tmp_path), "val") is None
        assert load_media(str(tmp_path), "test") is None

    def test_a_folder_a_split(self, tmp_path):
        make_files(tmp_path, "train/jump/a.mp4", "train/run/b.mp4", "validation/run/c.mp4")
        assert rows_of(load_media(str(tmp_path), "train"), tmp_path) == [("train/jump/a.mp4", 0), ("train/run/b.mp4", 1)]
        validation = load_media(str(tmp_path), "val")
        assert rows_of(validation, tmp_path) == [("validation/run/c.mp4", 0)]
        assert label_ids(validation, {0: "jump", 1: "run"}, "val") == [1]  # a class is its name, not its place
        assert load_media(str(tmp_path), "test") is None

    @pytest.mark.parametrize(("split", "name"), [(split, name) for split, names in SPLIT_NAMES.items() for name in names])
    def test_names_of_splits(self, tmp_path, split, name):
        make_files(tmp_path, f"{name}/run/a.mp4")
        assert rows_of(load_media(str(tmp_path), split), tmp_path) == [(f"{name}/run/a.mp4", 0)]

    def test_a_name_that_is_no_utf8_is_escaped(self, tmp_path):
        """What opens it finds no such file, counts and names it: a table cannot hold the name as it is."""
        make_files(tmp_path, "run/caf\udce9.mp4", "run/a.mp4")
        assert rows_of(load_media(str(tmp_path), "train"), tmp_path) == [("run/a.mp4", 0), ("run/caf\\udce9.mp4", 0)]
        unlabelled = load_media(str(tmp_path), "train", labelled=False)
        assert unlabelled["video"][:] == [f"{tmp_path}/run/a.mp4", f"{tmp_path}/run/caf\\udce9.mp4"]

    def test_an_empty_class_folder_is_named(self, tmp_path):
        make_files(tmp_path, "jump/readme.txt", "run/a.mp4")
        with pytest.raises(
            ValueError, match=f"The class folder {tmp_path}/jump has no videos, 1 other file passed over \\(.txt\\)"
        ):
            load_media(str(tmp_path), "train")

    def test_no_class_folders(self, tmp_path):
        make_files(tmp_path, "a.mp4")
        with pytest.raises(ValueError, match=f"{tmp_path} has no class folders: expected {tmp_path}/CLASS/VIDEO.mp4"):
            load_media(str(tmp_path), "train")


class TestLists:
    @pytest.fixture
    def load(self, tmp_path):
        """Writes a list beside three videos, and loads it."""
        make_files(tmp_path, "a.mp4", "b.mp4", "sub dir/c d.mp4")

        def load(*lines, **kwargs):
            (tmp_path / "list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
            return load_media(str(tmp_path / "list.csv"), "train", **kwargs)

        return load

    @pytest.mark.parametrize("separator", [",", ", ", " ", "   "])
    def test_separated_by_commas_or_spaces(self, load, tmp_path, separator):
        videos = load(*(separator.join(fields) for fields in [("a.mp4", "1"), ("sub dir/c d.mp4", "0"), ("b.mp4", "12")]))
        assert rows_of(videos, tmp_path) == [("a.mp4", 1), ("sub dir/c d.mp4", 0), ("b.mp4", 12)]
        assert label_names(videos) is None

    def test_addresses_stay_as_they_are(self, load):
        addresses = ["https://example.com/a.mp4", "HTTP://example.com/b.mp4"]
        videos = load("a.mp4,1", *(f"{address},0" for address in addresses))
        assert [source_of(row) for row in videos][1:] == addresses

    def test_quotes_keep_commas(self, load, tmp_path):
        make_files(tmp_path, "one, two.mp4")
        assert rows_of(load('"one, two.mp4",3', "a.mp4,1"), tmp_path) == [("one, two.mp4", 3), ("a.mp4", 1)]

    @pytest.mark.parametrize("header", ["path,label", "file_name,label,duration", "path label", "Path,Label_ID"])
    def test_a_header_is_skipped(self, load, tmp_path, header):
        separator = "," if "," in header else " "
        assert rows_of(load(header, "", separator.join(["a.mp4", "1"])), tmp_path) == [("a.mp4", 1)]

    def test_a_file_is_not_a_header_whatever_its_class(self, load, tmp_path):
        assert rows_of(load("a.mp4,action", "path,run"), tmp_path) == [("a.mp4", "action"), ("path", "run")]

    @pytest.mark.parametrize("header", ["path,duration,label", "filename,fold", "video_path"])
    def test_a_header_without_labels_in_the_second_column_is_refused(self, load, tmp_path, header):
        with pytest.raises(ValueError, match=f"{tmp_path}/list.csv, line 1: the second column of a list is that of labels"):
            load(header, "a.mp4,1,2")

    def test_names_of_classes(self, load, tmp_path):
        videos = load("a.mp4,riding a bike", "b.mp4,7", "sub dir/c d.mp4,riding a bike")
        assert rows_of(videos, tmp_path) == [("a.mp4", "riding a bike"), ("b.mp4", "7"), ("sub dir/c d.mp4", "riding a bike")]
        assert label_names(videos) == ["7", "riding a bike"]

    def test_names_of_digits_with_an_underscore_are_names(self, load):
        assert label_names(load("a.mp4,1_0", "b.mp4,1_1")) == ["1_0", "1_1"]

    def test_values_to_regress(self, load):
        videos = load("a.mp4,1", "b.mp4,-0.25")
        assert label_names(videos) is None
        assert label_values(videos, "train") == [1.0, -0.25]

    @pytest.mark.parametrize("separator", [",", " "])
    def test_durations(self, load, separator):
        videos = load(*(separator.join(fields) for fields in [("a.mp4", "3", "95"), ("sub dir/c d.mp4", "4", "59.5")]))
        assert videos["label"][:] == [3, 4]
        assert videos["duration"][:] == [95, 59.5]

    def test_durations_that_only_some_have_are_left_out(self, load):
        assert "duration" not in load("a.mp4,3,95", "b.mp4,4").column_names

    @pytest.mark.parametrize("separator", [",", " "])
    def test_folders_of_pictures(self, load, tmp_path, separator):
        make_files(tmp_path, *(f"frames/{i}/img_{k:05}.jpg" for i in (1, 2) for k in (1, 2, 3)))
        videos = load(separator.join(["frames/1", "3", "17"]), separator.join(["frames/2", "3", "5"]))
        assert rows_of(videos, tmp_path) == [("frames/1", 17), ("frames/2", 5)]
        assert "duration" not in videos.column_names

    def test_where_paths_start(self, load, tmp_path):
        make_files(tmp_path / "elsewhere", "e.mp4")
        [row] = load("e.mp4,1", root=str(tmp_path / "elsewhere"))
        assert row["video"] == str(tmp_path / "elsewhere" / "e.mp4")
        [row] = load(f"{tmp_path}/a.mp4,1", root="nowhere")  # absolute paths stay
        assert row["video"] == str(tmp_path / "a.mp4")

    def test_none_of_the_videos_exists(self, load, tmp_path):
        message = f"None of the 2 videos in {tmp_path}/list.csv exists, the first is 'nowhere/a.mp4'.* --media_root"
        with pytest.raises(FileNotFoundError, match=message):
            load("a.mp4,1", "b.mp4,0", root="nowhere")

    def test_some_videos_are_missing(self, load, tmp_path):
        """They stay: whatever opens them counts and names them."""
        assert rows_of(load("gone.mp4,1", "b.mp4,0"), tmp_path) == [("gone.mp4", 1), ("b.mp4", 0)]

    @pytest.mark.parametrize("lines", [[], ["", "  "], ["path,label"]])
    def test_empty(self, load, tmp_path, lines):
        with pytest.raises(ValueError, match=f"The list {tmp_path}/list.csv is empty"):
            load(*lines)

    @pytest.mark.parametrize("line", ["a.mp4", "a.mp4,1,2,3"])
    def test_a_line_of_another_form_is_quoted(self, load, tmp_path, line):
        with pytest.raises(ValueError, match=rf"{tmp_path}/list.csv, line 2: expected `path label`.*, got \['a.mp4'"):
            load("b.mp4,1", line)

    def test_a_line_of_one_word(self, load):
        with pytest.raises(ValueError, match=r"expected `path label`.*, got \['a.mp4'\]"):
            load("a.mp4")

    def test_a_duration_that_is_no_number_is_quoted(self, load, tmp_path):
        def check(line):
            wrong = line.split(",")[2]
            with pytest.raises(ValueError, match=rf"{tmp_path}/list.csv, line 2: the third field .* seconds.*: '{wrong}'"):
                load("b.mp4,1,20", line)

        all_rows(check, ["a.mp4,1,long", "a.mp4,1,-3", "a.mp4,1,0", "a.mp4,1,nan", "a.mp4,1,1e400", "folder,num_frames,label"])

    def test_a_missing_path_with_spaces_is_still_a_path(self, load, tmp_path):
        assert rows_of(load("a.mp4 1", "gone away.mp4 0"), tmp_path) == [("a.mp4", 1), ("gone away.mp4", 0)]

    def test_a_missing_folder_of_pictures_keeps_its_label(self, load, tmp_path):
        make_files(tmp_path, "frames/1/img_00001.jpg")
        videos = load("frames/1 30 5", "frames/2 40 6")
        assert rows_of(videos, tmp_path) == [("frames/1", 5), ("frames/2", 6)]

    @pytest.mark.parametrize("path", ["x" * 5000, "x\x07y", "http://h/" + "x" * 5000])
    def test_a_path_that_no_file_can_have_is_a_missing_one(self, load, path):
        assert load("a.mp4,1,9", f"{path},0,9")["label"][:] == [1, 0]

    def test_lists_of_splits(self, tmp_path):
        make_files(tmp_path, "a.mp4", "b.mp4")
        (tmp_path / "train.csv").write_text("a.mp4,0")
        (tmp_path / "val.csv").write_text("b.mp4,1")
        splits = {split: load_media(str(tmp_path), split) for split in SPLIT_NAMES}
        assert rows_of(splits["train"], tmp_path) == [("a.mp4", 0)]
        assert rows_of(splits["val"], tmp_path) == [("b.mp4", 1)]
        assert splits["test"] is None

    def test_of_several_names_of_a_split_the_first_counts(self, tmp_path):
        """Whatever the process: a set's order changes from one to the next."""
        make_files(tmp_path, "a.mp4")
        for label, name in enumerate(["val", "validation", "valid"]):
            (tmp_path / f"{name}.csv").write_text(f"a.mp4,{label}")
        assert rows_of(load_media(str(tmp_path), "val"), tmp_path) == [("a.mp4", 0)]

    def test_a_single_list_is_every_split(self, load, tmp_path):
        load("a.mp4,1")
        for split in SPLIT_NAMES:
            assert rows_of(load_media(str(tmp_path / "list.csv"), split), tmp_path) == [("a.mp4", 1)]

    def test_the_line_that_is_wrong_is_named(self, load, tmp_path):
        def check(lines, number, wrong):
            with pytest.raises(ValueError, match=f"^{tmp_path}/list.csv, line {number}: .*{wrong}"):
                load(*lines)

        all_rows(
            check,
            [
                (["a.mp4,cat", 'b.mp4,"dog', "a.mp4,cat"], 2, "a quote is not closed"),
                (["path,label", "a.mp4,cat", '"b.mp4,dog', 'a.mp4,"cat"'], 3, "a quote is not closed"),
                (["a.mp4,cat", 'b.mp4,"dog" bone'], 2, "not CSV"),
                (["a.mp4,cat", "", "  ", 'b.mp4,"dog'], 4, "a quote is not closed"),  # lines are counted as editors do
                (["a.mp4,cat", f"b.mp4,{'d' * 200_000}"], 2, "not CSV .*field larger than field limit"),
                (["a.mp4,cat", "b.mp4;dog"], 2, "expected `path label`"),
                (["a.mp4,cat", "b.mp4\tdog"], 2, "expected `path label`"),
                (["a.mp4 cat", "b.mp4,dog"], 2, "expected `path label`"),
                (["a.mp4 cat", "my b.mp4;dog"], 2, "the label holds the name of a file"),
                (["a.mp4 cat", "my b.mp4,dog"], 2, "the label holds the name of a file"),
                (["one, two.mp4 cat"], 1, "the label holds the name of a file"),
                (["a.mp4;1", "b.mp4;2"], 1, "expected `path label`"),
                (["a.mp4,1", ",2"], 2, "there is no path"),
                (["a.mp4,1.5", "b.mp4,nan"], 2, "the label 'nan' is not finite"),
                (["a.mp4,1.5", "b.mp4,-1e400"], 2, "the label '-1e400' is not finite"),
                (["a.mp4,1", f"b.mp4,{10**30}"], 2, "the label '10+' is .* larger"),
                (["a.mp4,1", f"b.mp4,{'1' * 5000}"], 2, r"the label '1+\.\.\.1+' is not finite"),
                (["a.mp4,1", "b.mp4,\0"], 2, "holds a null character"),
            ],
        )

    def test_as_spreadsheets_and_editors_write_it(self, tmp_path):
        def check(content):
            make_files(tmp_path, "a.mp4", "b.mp4")
            (tmp_path / "list.csv").write_bytes(content.encode())
            assert rows_of(read_list(tmp_path / "list.csv"), tmp_path) == [("a.mp4", 1), ("b.mp4", 0)]

        all_rows(
            check,
            [
                "a.mp4,1\r\nb.mp4,0\r\n",
                "\ufeffa.mp4,1\nb.mp4,0",
                "a.mp4,1,\nb.mp4,0,,\n",
                "a.mp4\t1\nb.mp4\t0\n",
                '"path","label"\n"a.mp4","1"\n"b.mp4", "0"\n',
                "path\tlabel\na.mp4\t1\nb.mp4\t0\n",
            ],
        )

    def test_tabs_keep_spaces_in_names(self, load, tmp_path):
        assert rows_of(load("a.mp4\triding a bike", "b.mp4\trun, fast"), tmp_path) == [
            ("a.mp4", "riding a bike"),
            ("b.mp4", "run, fast"),
        ]

    @pytest.mark.parametrize("labelled", [False, True])
    @pytest.mark.parametrize(
        ("content", "number", "wrong"),
        [
            ("café.mp4 1".encode("utf-16"), 1, "UTF-16"),
            ("a.mp4 1\ncafé.mp4 1".encode("latin-1"), 2, "not text in UTF-8 .*0xe9"),
        ],
    )
    def test_one_that_is_not_utf8_is_named(self, tmp_path, content, number, wrong, labelled):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(ValueError, match=f"{tmp_path}/list.txt, line {number}: .*{wrong}.*Save it as UTF-8"):
            read_list(tmp_path / "list.txt", labelled=labelled)


class TestListsWithoutLabels:
    @pytest.fixture
    def load(self, tmp_path):
        """Writes a list beside some videos; its videos, as they are in it."""
        make_files(tmp_path, "a.mp4", "#1.mp4", "my old video.wmv", "frames/1/img_00001.jpg")

        def load(*lines) -> list[str]:
            (tmp_path / "list.txt").write_text("\n".join(lines), encoding="utf-8")
            return [name.removeprefix(f"{tmp_path}/") for name in read_list(tmp_path / "list.txt", labelled=False)["video"]]

        return load

    def test_a_path_or_address_is_a_whole_line(self, load):
        def check(path):
            assert load(path, "a.mp4") == [path, "a.mp4"]
            assert load("a.mp4", path) == ["a.mp4", path]

        all_rows(
            check,
            [
                "comma, name.mp4",
                "a, b, c, d.mp4",
                "sub dir/c d.mp4",
                'a "quote".mp4',
                "my old video.wmv",  # no suffix that is known, but there is such a file
                "another old video.wmv",  # and here there is none
                "http://h/v.mp4?x=1,2",
                "http://h/a b?id=3",
                "https://h/" + "x" * 300,
            ],
        )

    def test_quotes_may_be_around_it(self, load):
        assert load("a.mp4", '"comma, name.mp4"') == ["a.mp4", "comma, name.mp4"]

    @pytest.mark.parametrize("comment", ["# my videos, all of them", "#", "  # old ones", "#gone.mp4"])
    def test_comments_are_left_out(self, load, comment):
        assert load(comment, "a.mp4", comment, "#1.mp4") == ["a.mp4", "#1.mp4"]

    @pytest.mark.parametrize("separator", [",", " ", "\t"])
    def test_a_file_is_no_comment_with_a_label_either(self, load, separator):
        assert load(f"a.mp4{separator}run", f"#1.mp4{separator}run", f"#2.mp4{separator}run") == ["a.mp4", "#1.mp4"]

    @pytest.mark.parametrize("header", ["path", "Video", '"file_name"', "path,label", "path label", "path,width"])
    def test_a_header_is_left_out(self, load, header):
        assert load("# mine", header, "a.mp4") == ["a.mp4"]

    @pytest.mark.parametrize("lines", [["a.mp4,1", "one two.mp4,run", "http://h/v.mp4,2"], ["a.mp4 1", "frames/1 30 5"]])
    def test_the_labels_of_a_labelled_list_are_no_part_of_its_paths(self, load, lines):
        expected = [line.split(",")[0] if "," in line else line.split()[0] for line in lines]
        assert load(*lines) == expected
        separator = "," if "," in lines[0] else " "
        assert load(separator.join(["path", "label"]), *lines) == expected

    @pytest.mark.parametrize("header", [[], ["path,label"]])
    def test_a_quote_that_is_not_closed_swallows_nothing(self, load, tmp_path, header):
        lines = [*header, "a.mp4,cat", 'one.mp4,"dog', "two.mp4,cat"]
        with pytest.raises(ValueError, match=f"{tmp_path}/list.txt, line {len(header) + 2}: a quote is not closed"):
            load(*lines)

    def test_nothing_but_comments_is_an_empty_list(self, load, tmp_path):
        with pytest.raises(ValueError, match=f"The list {tmp_path}/list.txt is empty"):
            load("# a.mp4")


class TestWindows:
    def test_a_row_a_window(self, tmp_path):
        make_files(tmp_path, "a.mp4", "b.mp4")
        (tmp_path / "train.csv").write_text("a.mp4,3,95\nb.mp4,4,20")
        videos = cut_into_windows(load_media(str(tmp_path), "train"), 60.0, 30.0)
        assert rows_of(videos, tmp_path) == [("a.mp4", 3)] * 3 + [("b.mp4", 4)]
        assert list(zip(videos["start"], videos["end"])) == [(0, 60), (30, 90), (60, 95), (0, 20)]

    @pytest.mark.parametrize(("length", "stride"), [(0, 1), (-1, 1), (float("nan"), 1), (60, 0), (60, -1), (60, float("inf"))])
    def test_windows_go_forward(self, tmp_path, length, stride):
        make_files(tmp_path, "a.mp4")
        (tmp_path / "train.csv").write_text("a.mp4,3,95")
        with pytest.raises(ValueError, match="Windows need a length and a stride above 0 seconds"):
            cut_into_windows(load_media(str(tmp_path), "train"), length, stride)

    def test_windows_need_durations(self, tmp_path):
        make_files(tmp_path, "a.mp4")
        (tmp_path / "train.csv").write_text("a.mp4,3")
        with pytest.raises(ValueError, match="third column is the duration of the video in seconds"):
            cut_into_windows(load_media(str(tmp_path), "train"), 60.0, 30.0)


class TestDataSets:
    """Those that `datasets` saved; how one on the hub is turned into a table is the same code."""

    CLASSES = ClassLabel(names=["run", "jump"])

    def saved(self, folder, columns, features, split=None):
        dataset = Dataset.from_dict(columns, Features(features))
        (dataset if split is None else DatasetDict({split: dataset})).save_to_disk(folder / "saved")
        return str(folder / "saved")

    def test_paths_and_class_labels(self, tmp_path):
        data = self.saved(
            tmp_path,
            {"id": [7, 8], "video": ["a.mp4", "b.mp4"], "label": [1, 0]},
            {"id": Value("int64"), "video": Value("string"), "label": self.CLASSES},
        )
        videos = load_media(data, "train")
        assert videos[:] == {"video": ["a.mp4", "b.mp4"], "label": [1, 0]}
        assert label_names(videos) == ["run", "jump"]
        assert load_media(data, "val") is None

    @pytest.mark.parametrize("decode", [False, True])
    def test_a_video_column_of_paths_and_of_bytes(self, tmp_path, decode):
        """Nothing is decoded before frames are asked for, even of a column that was saved to be decoded."""
        render_clip(tmp_path / "a.mp4", num_frames=3)
        content = (tmp_path / "a.mp4").read_bytes()
        data = self.saved(
            tmp_path,
            {"clip": [str(tmp_path / "a.mp4"), {"path": None, "bytes": content}], "action": [1, 0]},
            {"clip": Video(decode=decode), "action": self.CLASSES},
        )
        videos = load_media(data, "train")
        assert videos.column_names == ["video", "label"]
        assert videos.features["video"] == Video(decode=False)
        assert name_of(videos[1]) == f"<{len(content)} bytes>"
        expected = read_frames({"video": str(tmp_path / "a.mp4")}, lambda total: range(total))
        assert len(expected) == 3
        (tmp_path / "a.mp4").unlink()  # `save_to_disk` put its content into the data set
        for row in videos:
            assert torch.equal(read_frames(row, lambda total: range(total)), expected)

    @pytest.mark.parametrize(("split", "name"), [(split, name) for split, names in SPLIT_NAMES.items() for name in names])
    def test_names_of_splits(self, tmp_path, split, name):
        features = {"video": Value("string"), "label": Value("float64")}
        data = self.saved(tmp_path, {"video": ["a.mp4"], "label": [0.5]}, features, split=name)
        for other in SPLIT_NAMES:
            videos = load_media(data, other)
            assert (videos is not None) == (other == split)

    def test_missing_columns(self, tmp_path):
        data = self.saved(tmp_path, {"image": ["a.png"], "label": [1]}, {"image": Value("string"), "label": self.CLASSES})
        with pytest.raises(ValueError, match=r"has no column .video. and not just one Video: \['image', 'label'\]"):
            load_media(data, "train")

    def test_a_name_of_nothing(self, monkeypatch):
        def not_found(name, config):
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub")

        monkeypatch.setattr(datasets, "load_dataset", not_found)
        with pytest.raises(FileNotFoundError, match="my_videos is no folder, no list and no data set"):
            load_media("my_videos", "train")


class TestLabels:
    def of(self, labels, feature=None):
        features = Features({"label": feature}) if feature else None
        return Dataset.from_dict({"label": labels}, features)

    def test_names_find_their_place_in_the_head(self):
        head = {0: "walk", 1: "run", 2: "jump"}
        assert label_ids(self.of([0, 1, 1], ClassLabel(names=["jump", "run"])), head, "train") == [2, 1, 1]
        assert label_ids(self.of(["walk", "jump"]), head, "train") == [0, 2]

    def test_numbers_are_places_in_the_head(self):
        ids = label_ids(self.of([2, 0]), {0: "walk", 1: "run", 2: "jump"}, "train")
        assert ids == [2, 0]
        assert all(type(label) is int for label in ids)

    def test_names_that_the_head_does_not_have(self):
        message = "validation has labels that the model's head of 2 does not have: 'fly', 'swim'. It has walk, run"
        for labels in (["run", "swim", "fly"], ["fly", "swim"]):
            with pytest.raises(ValueError, match=message):
                label_ids(self.of(labels), {0: "walk", 1: "run"}, "validation")

    @pytest.mark.parametrize(("labels", "strangers"), [([0, 2, 1, 7], "2, 7"), ([0, -1], "-1"), ([0.0, 0.5], "0.5")])
    def test_numbers_that_the_head_does_not_have(self, labels, strangers):
        with pytest.raises(
            ValueError, match=f"train has labels that the model's head of 2 does not have: {strangers}. It has"
        ):
            label_ids(self.of(labels), {0: "walk", 1: "run"}, "train")

    def test_videos_without_a_label(self):
        """Test splits on the hub have -1 for a class, or nothing."""
        for unlabelled in (-1, None):
            with pytest.raises(ValueError, match="test has videos without a label"):
                label_ids(self.of([0, unlabelled], ClassLabel(names=["walk", "run"])), {0: "walk", 1: "run"}, "test")

    def test_only_some_of_many_are_named(self):
        with pytest.raises(ValueError, match="does not have: 2, 3, 4, 5, 6, .... It has walk, run"):
            label_ids(self.of(list(range(100))), {0: "walk", 1: "run"}, "train")

    @pytest.mark.parametrize("lines", ["a.mp4,0\nb.mp4,", "a.mp4,run\nb.mp4,,\n", "a.mp4,run,9\nb.mp4,,9\n"])
    def test_the_line_of_a_missing_label_is_named(self, tmp_path, lines):
        make_files(tmp_path, "a.mp4")
        (tmp_path / "list.txt").write_text(lines)
        with pytest.raises(ValueError, match=f"train has videos without a label, the first in {tmp_path}/list.txt, line 2"):
            label_ids(read_list(tmp_path / "list.txt"), {0: "0", 1: "run"}, "train")

    def test_the_line_of_a_stranger_is_named(self, tmp_path):
        make_files(tmp_path, "a.mp4")
        (tmp_path / "list.txt").write_text("a.mp4 0\nb.mp4 7\n")
        with pytest.raises(ValueError, match=f"does not have: 7. .* The first is in {tmp_path}/list.txt, line 2"):
            label_ids(read_list(tmp_path / "list.txt"), {0: "walk", 1: "run"}, "train")

    def test_a_head_that_has_a_name_twice_is_found_by_ids_only(self):
        """As that of ImageNet: two cranes."""
        head = {0: "crane", 1: "tench", 2: "crane"}
        assert label_ids(self.of([2, 0, 1]), head, "train") == [2, 0, 1]
        assert label_ids(self.of(["tench"]), head, "train") == [1]
        with pytest.raises(ValueError, match="several labels named 'crane', so train needs class ids"):
            label_ids(self.of(["crane"]), head, "train")

    @pytest.mark.parametrize(("labels", "value"), [([1.0, None], "None"), ([1.0, float("nan")], "nan")])
    def test_regression_needs_a_number_everywhere(self, labels, value):
        with pytest.raises(ValueError, match=f"row 2: regression needs a finite number, got {value}"):
            label_values(self.of(labels), "train")

    def test_regression_refuses_names(self):
        assert label_values(self.of([3, 1]), "train") == [3.0, 1.0]
        for videos in (self.of([1, 0], ClassLabel(names=["run", "jump"])), self.of(["run", "walk"])):
            with pytest.raises(ValueError, match="train: regression needs numbers as labels, got names such as 'run'"):
                label_values(videos, "train")


class TestTheSizeOfAHead:
    def of(self, tmp_path, *labels):
        make_files(tmp_path, "a.mp4")
        (tmp_path / "list.txt").write_text("".join(f"a.mp4,{label}\n" for label in labels))
        return read_list(tmp_path / "list.txt")

    @pytest.mark.parametrize(("labels", "size"), [((0, 1, 2), 3), ((0, 399), 400), ((999,), 1000), (range(0, 3000, 10), 2991)])
    def test_is_one_more_than_the_largest_id(self, tmp_path, labels, size):
        assert count_classes(self.of(tmp_path, *labels)) == size

    def test_is_what_it_is_said_to_be(self, tmp_path):
        assert count_classes(self.of(tmp_path, 0, 1, 2), 10) == 10
        assert count_classes(self.of(tmp_path, 21840), 21841) == 21841

    @pytest.mark.parametrize("label", [1000, 10_000_000_000, 2**62])
    def test_does_not_follow_an_id_that_stands_alone(self, tmp_path, label):
        message = (
            f"{tmp_path}/list.txt, line 3: the class id {label} is very large for data with 3 different ids.* --num_labels"
        )
        with pytest.raises(ValueError, match=message):
            count_classes(self.of(tmp_path, 0, 1, label))

    def test_is_the_same_for_several_labels_a_video(self, tmp_path):
        videos = self.of(tmp_path, "0;2", "", "1")
        assert size_of_head(videos, [[0, 2], [], [1]]) == 3
        with pytest.raises(ValueError, match=f"{tmp_path}/list.txt, line 1: the class id 10000000000 is very large"):
            size_of_head(videos, [[0, 10_000_000_000], [], [1]])

    @pytest.mark.parametrize(("labels", "wrong"), [((0, -1), "got -1"), ((0, 2.5), "got 0.0")])
    def test_needs_ids(self, tmp_path, labels, wrong):
        with pytest.raises(ValueError, match=f"line .: expected a class id, 0 or more, {wrong}"):
            count_classes(self.of(tmp_path, *labels))

    def test_is_above_all_ids(self, tmp_path):
        with pytest.raises(ValueError, match=f"{tmp_path}/list.txt, line 2: the class id 3 is not below --num_labels 3"):
            count_classes(self.of(tmp_path, 0, 3), 3)

    @pytest.mark.parametrize("num_labels", [0, -1, 10**10])
    def test_has_bounds(self, tmp_path, num_labels):
        with pytest.raises(ValueError, match="--num_labels must be between 1 and 1,000,000"):
            count_classes(self.of(tmp_path, 0), num_labels)


class TestHoldOut:
    def test_every_class_gives_a_part_and_keeps_one(self):
        videos = Dataset.from_dict({"video": list("abcdefghijklm"), "label": [0] * 10 + [1, 1] + [2]})
        kept, held_out = hold_out(videos, fraction=0.2, seed=0)
        assert list(held_out["label"]) == [0, 0, 1]
        assert sorted([*kept["video"], *held_out["video"]]) == list("abcdefghijklm")
        assert list(hold_out(videos, fraction=0.2, seed=0)[1]["video"]) == list(held_out["video"])

    def test_the_seed_draws_which(self):
        """Of a list in the order in which videos were filmed, not the first."""
        videos = Dataset.from_dict({"video": list(range(40)), "label": [0] * 20 + [1] * 20})
        draws = [tuple(hold_out(videos, fraction=0.2, seed=seed)[1]["video"]) for seed in range(40)]
        assert len(set(draws)) > 30
        assert {video for draw in draws for video in draw} == set(range(40))
        assert all(sum(video < 20 for video in draw) == 4 == len(draw) - 4 for draw in draws)

    def test_the_seed_and_the_fraction_are_those_of_the_run(self, tmp_path):
        make_files(tmp_path, *(f"{name}/{i}.mp4" for name in "ab" for i in range(8)))

        def held_out(**changed) -> list[str]:
            return load_splits(str(tmp_path), None, None, **{"validation_fraction": 0.25, "seed": 0} | changed)[1]["video"][:]

        assert len(held_out()) == 4
        assert len(held_out(validation_fraction=0.5)) == 8
        assert held_out() == held_out() != held_out(seed=1)
        in_one = [[path.split("/")[-2] for path in held_out(seed=seed, by_class=False)] for seed in range(9)]
        assert any(classes.count("a") != 2 for classes in in_one)

    def test_of_one_a_class_none_can_be_held_out(self, tmp_path):
        make_files(tmp_path, "cat/1.mp4", "dog/1.mp4")
        with pytest.raises(ValueError, match=f"No class of {tmp_path} has two videos, so none can be held out"):
            load_splits(str(tmp_path), None, None, validation_fraction=0.1, seed=0)

    def test_values_are_one_class(self):
        videos = Dataset.from_dict({"video": list("abcd"), "label": [0.1, 0.2, 0.3, 0.4]})
        kept, held_out = hold_out(videos, fraction=0.25, seed=0)
        assert (len(kept), len(held_out)) == (3, 1)

    def test_a_written_list_is_read_again(self, tmp_path):
        (tmp_path / "videos/run").mkdir(parents=True)
        (tmp_path / "videos/run/a b,c.mp4").touch()
        videos = load_media(str(tmp_path / "videos"), "train")
        write_list(videos, tmp_path / "list.csv")
        again = read_list(tmp_path / "list.csv")
        assert list(again["video"]) == list(videos["video"])
        assert list(again["label"]) == ["run"]

    def test_a_written_list_keeps_durations_and_addresses(self, tmp_path):
        """So that it can be cut into the same windows."""
        make_files(tmp_path, "a.mp4")
        (tmp_path / "list.csv").write_text("a.mp4,3,95.5\nhttps://example.com/b.mp4,4,20\n")
        videos = read_list(tmp_path / "list.csv")
        (tmp_path / "elsewhere").mkdir()
        write_list(videos, tmp_path / "elsewhere/again.csv")
        again = read_list(tmp_path / "elsewhere/again.csv")
        for column in ("video", "label", "duration"):
            assert again[column][:] == videos[column][:]
