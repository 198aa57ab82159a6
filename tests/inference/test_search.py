"""`videomamba search`: an index that survives what happens to it, and what sentences find in it."""

import io
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from transformers import BertTokenizer

from modeling_videomamba import VideoMambaForVideoTextRetrieval, VideoMambaVideoProcessor
from modeling_videomamba.checkpoints.default_processor import processor_for
from modeling_videomamba.commands import index as index_command
from modeling_videomamba.commands import search as search_command
from modeling_videomamba.data import outputs
from modeling_videomamba.inference import indexing
from modeling_videomamba.inference.contact_sheet import CAPTION_HEIGHT, STRIP_FRAMES, STRIP_WIDTH
from modeling_videomamba.video_text_losses import similarities
from tests.conftest import WORDS, render_noise, save_model, small_config, small_video_text_config
from tests.forks import fork


NAMES = ["0.gif", "1.gif", "more/2.gif", "more/3.gif", "more/4.gif"]
SENTENCE = "the cat moves up"
REFUSAL = (SystemExit, ValueError, OSError)  # one line, when it is the command that ends
TOKENS = [WORDS.index(word) for word in ("[CLS]", *SENTENCE.split(), "[SEP]")]

pytestmark = pytest.mark.usefixtures("one_thread")


def save_retrieval_model(directory: Path, seed: int) -> Path:
    """A model whose weights are random, and so large that its scores differ from video to video."""
    torch.manual_seed(seed)
    config = small_video_text_config(vision_config=small_config(initializer_range=0.3), initializer_range=0.3)
    config.text_config.initializer_range = 0.3
    VideoMambaForVideoTextRetrieval(config).save_pretrained(directory)
    processor_for(config).save_pretrained(directory)
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_retrieval_model(tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture
def videos(tmp_path) -> Path:
    """Five videos in a folder and a folder in it, of which no two look alike."""
    (tmp_path / "videos/more").mkdir(parents=True)
    for i, name in enumerate(NAMES):
        render_noise(tmp_path / "videos" / name, seed=i, num_frames=8 + 3 * i)
    (tmp_path / "videos/notes.txt").write_text("no video")
    return tmp_path / "videos"


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """Grows by the number of videos whenever some go through the model."""
    sizes, encode = [], indexing.encode_videos

    def count(model, clips):
        sizes.append(len(clips))
        return encode(model, clips)

    monkeypatch.setattr(indexing, "encode_videos", count)
    return sizes


def index_videos(videos: Path, model: Path | str, index: Path, *options) -> None:
    index_command.main([str(videos), "--model", str(model), "--index", str(index), *map(str, options)])


def search(index: Path, *options) -> None:
    search_command.main(["--index", str(index), *map(str, options)])


@pytest.fixture
def index(videos, model, tmp_path, capsys) -> Path:
    index_videos(videos, model, tmp_path / "index")
    capsys.readouterr()
    return tmp_path / "index"


def entries(index: Path) -> dict[str, dict]:
    return json.loads((index / "index.json").read_text())["videos"]


def vectors(index: Path) -> dict[str, torch.Tensor]:
    """Of each video, `(frames, width)`."""
    known = {name: entry for name, entry in entries(index).items() if "shard" in entry}
    return {name: load_file(index / f"vectors-{e['shard']:05}.safetensors")["frames"][e["row"]] for name, e in known.items()}


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@torch.inference_mode()
def expected_scores(videos: Path, model: Path) -> dict[str, tuple[float, float]]:
    """Cosine and matching logit of each video with [`SENTENCE`], by path, computed one by one."""
    network = VideoMambaForVideoTextRetrieval.from_pretrained(model).eval()
    processor = VideoMambaVideoProcessor.from_pretrained(model)
    text = network.get_text_features(torch.tensor([TOKENS]))
    scores = {}
    for path in sorted(videos.rglob("*.gif")):
        video = network.get_video_features(processor(path, return_tensors="pt")["pixel_values"])
        cosine = similarities(F.normalize(video.pooler_output, dim=-1), F.normalize(text.pooler_output, dim=-1))
        scores[str(path)] = cosine.item(), network.match(text.last_hidden_state, None, video.last_hidden_state)[0, 1].item()
    return scores


def printed(output: str) -> list[tuple[str, list[float]]]:
    """Paths, and their scores, in the order of their places."""
    rows = [line.split() for line in output.splitlines() if line.endswith(".gif")]
    assert [row[0] for row in rows] == [f"{place}." for place in range(1, len(rows) + 1)]
    return [(row[-1], [float(word) for word in row[1:-1] if word != "match"]) for row in rows]


class TestTheIndex:
    def test_has_a_vector_of_unit_length_for_each_frame(self, index, videos, model):
        found = vectors(index)
        assert list(found) == NAMES
        network = VideoMambaForVideoTextRetrieval.from_pretrained(model).eval()
        processor = VideoMambaVideoProcessor.from_pretrained(model)
        for name, of_video in found.items():
            assert of_video.dtype == torch.float16
            with torch.inference_mode():
                features = network.get_video_features(**processor(videos / name, return_tensors="pt")).pooler_output
            assert of_video.shape == (4, 16)
            torch.testing.assert_close(of_video.float(), F.normalize(features[0], dim=-1), rtol=0, atol=1e-3)

    def test_workers_and_batches_change_nothing_but_digits(self, index, videos, model, tmp_path, encoded):
        index_videos(videos, model, tmp_path / "other", "--num_workers", 2, "--batch_size", 3)
        assert encoded == [3, 2]
        torch.testing.assert_close(vectors(tmp_path / "other"), vectors(index), rtol=0, atol=1e-3)

    def test_interrupted_and_started_again_it_encodes_what_is_missing(self, index, videos, model, tmp_path, monkeypatch):
        encode, calls = indexing.encode_videos, []

        def interrupt_third(network, clips):
            calls.append(len(clips))
            if len(calls) == 3:
                raise KeyboardInterrupt
            return encode(network, clips)

        monkeypatch.setattr(indexing, "encode_videos", interrupt_third)
        with pytest.raises(KeyboardInterrupt):
            index_videos(videos, model, tmp_path / "other")
        assert list(entries(tmp_path / "other")) == NAMES[:2]
        index_videos(videos, model, tmp_path / "other")
        assert calls == [1] * 6, "the third one twice"
        torch.testing.assert_close(vectors(tmp_path / "other"), vectors(index), rtol=0, atol=0)
        assert not list((tmp_path / "other").glob("*.tmp"))

    def test_killed_it_has_what_it_saved(self, videos, model, tmp_path, encoded):
        for i in range(100):
            shutil.copy(videos / "0.gif", videos / f"copy{i:03}.gif")
        out = tmp_path / "other"
        process = fork(index_videos, videos, model, out, "--save_seconds", 0)
        while not (out / "index.json").exists() or len(entries(out)) < 5:
            assert process.is_alive()
            time.sleep(0.005)
        process.kill()
        process.join()
        done = len(entries(out))
        assert 5 <= done < 105, "it was over before it was killed"
        (out / "vectors-09999.safetensors").write_text("of a save that was killed before its list")
        index_videos(videos, model, out)
        assert sum(encoded) == 105 - done
        assert len(vectors(out)) == 105
        assert not (out / "vectors-09999.safetensors").exists()

    def test_new_changed_and_vanished_videos(self, index, videos, model, encoded, capsys):
        before = vectors(index)
        render_noise(videos / "more/3.gif", seed=9, num_frames=8)
        render_noise(videos / "5.gif", seed=5, num_frames=8)
        (videos / "0.gif").unlink()
        index_videos(videos, model, index)
        assert sum(encoded) == 2
        assert f"{videos / '0.gif'} is gone" in capsys.readouterr().out
        after = vectors(index)
        assert sorted(after) == ["1.gif", "5.gif", *NAMES[2:]]
        assert {name for name in after if name in before and not torch.equal(after[name], before[name])} == {"more/3.gif"}

        os.utime(videos / "1.gif", ns=(0, 0))
        index_videos(videos, model, index)
        index_videos(videos, model, index)
        assert sum(encoded) == 3

    def test_a_file_without_entries_is_removed_and_one_that_was_lost_made_again(self, index, videos, model, encoded):
        for name in NAMES:
            os.utime(videos / name, ns=(0, 0))
        index_videos(videos, model, index)
        assert [path.name for path in index.glob("vectors-*")] == ["vectors-00001.safetensors"]
        (index / "vectors-00001.safetensors").unlink()
        index_videos(videos, model, index)
        assert sum(encoded) == 10
        assert list(vectors(index)) == NAMES

    def test_what_cannot_be_read_is_named_and_left_alone_until_it_changes(self, videos, model, tmp_path, encoded, capsys):
        (videos / "1.gif").write_text("no video")
        (videos / "link.mp4").symlink_to(tmp_path / "nowhere.mp4")
        index_videos(videos, model, tmp_path / "index")
        printed = capsys.readouterr()
        assert f"error: Cannot decode the video {videos / '1.gif'}" in printed.err
        assert "2 of 6 cannot be read" in printed.out
        known = entries(tmp_path / "index")
        assert known["1.gif"]["error"].startswith("Cannot decode the video")
        assert known["link.mp4"]["error"].endswith("nowhere.mp4, which does not exist.")
        assert sum(encoded) == 4

        index_videos(videos, model, tmp_path / "index")
        printed = capsys.readouterr()
        assert "error:" not in printed.err
        assert "6 videos, of which 6 are done" in printed.out
        assert "2 of 6 cannot be read" in printed.out
        render_noise(videos / "1.gif", seed=1, num_frames=8)
        index_videos(videos, model, tmp_path / "index")
        assert "1 of 6 cannot be read" in capsys.readouterr().out
        assert sum(encoded) == 5

    def test_frames_that_patches_do_not_cover_have_their_reason(self, videos, model, tmp_path):
        shutil.copytree(model, tmp_path / "model")
        processor = VideoMambaVideoProcessor.from_pretrained(model)
        processor.size = {"height": 30, "width": 32}
        processor.save_pretrained(tmp_path / "model")
        index_videos(videos, tmp_path / "model", tmp_path / "index", "--batch_size", 5)
        assert entries(tmp_path / "index")["0.gif"]["error"].startswith(f"{videos / '0.gif'}: The position embeddings cover")
        with pytest.raises((ValueError, OSError), match="has no videos"):
            search(tmp_path / "index", "a cat")


class TestWhatGoesWrong:
    def test_whatever_a_file_makes_the_reader_raise_is_its_reason(self, videos, model, tmp_path, monkeypatch, encoded, capsys):
        read = VideoMambaVideoProcessor.__call__

        def raise_or_read(self, video, *args, **kwargs):
            if Path(video).name == "1.gif":
                raise IndexError("list index out of range")
            return read(self, video, *args, **kwargs)

        monkeypatch.setattr(VideoMambaVideoProcessor, "__call__", raise_or_read)
        for _ in range(2):
            index_videos(videos, model, tmp_path / "index")
            assert "1 of 5 cannot be read" in capsys.readouterr().out
        assert entries(tmp_path / "index")["1.gif"]["error"] == f"{videos}/1.gif: IndexError: list index out of range"
        assert sum(encoded) == 4
        search(tmp_path / "index", SENTENCE, "--picture", tmp_path / "best.png")

    def test_what_fails_in_the_model_is_tried_again_the_next_time(self, videos, model, tmp_path, monkeypatch, capsys):
        encode, sizes = indexing.encode_videos, []

        def fail_first(network, clips):
            sizes.append(len(clips))
            if len(sizes) == 1:
                raise torch.OutOfMemoryError("too large")
            return encode(network, clips)

        monkeypatch.setattr(indexing, "encode_videos", fail_first)
        index_videos(videos, model, tmp_path / "index")
        assert "1 of 5 cannot be read" in capsys.readouterr().out
        index_videos(videos, model, tmp_path / "index")
        assert "0 of 5 cannot be read" in capsys.readouterr().out
        assert sizes == [1] * 6

    def test_a_second_indexer_is_refused_and_changes_nothing(self, index, videos, model, monkeypatch):
        monkeypatch.setattr(outputs, "PATIENCE", 0)
        before = contents(index)
        (videos / "0.gif").unlink()
        with FileLock(index / outputs.LOCK), pytest.raises(REFUSAL, match="index is in use: another run is writing to it"):
            index_videos(videos, model, index)
        (index / outputs.LOCK).unlink()
        assert contents(index) == before

    @pytest.mark.parametrize("what", ["the directory", "its files"])
    def test_an_index_that_vanishes_is_no_success(self, videos, model, tmp_path, monkeypatch, what):
        encode, index = indexing.encode_videos, tmp_path / "index"

        def remove(network, clips):
            for file in index.glob("vectors-*"):
                shutil.rmtree(index) if what == "the directory" else file.unlink()
            return encode(network, clips)

        monkeypatch.setattr(indexing, "encode_videos", remove)
        with pytest.raises(REFUSAL, match="was removed"):
            index_videos(videos, model, index, "--save_seconds", 0)
        monkeypatch.undo()
        index_videos(videos, model, index)
        assert sorted(vectors(index)) == NAMES

    @pytest.mark.parametrize(
        "content",
        [
            *("", "{", "3", "{}", '{"videos": {}}', "[" * 100_000, "\0", "1" * 5000, "entry 3", 'entry {"row": 0}'),
            *('entry {"shard": "a", "row": 0}', 'entry {"shard": 0, "row": -1}', 'entry {"shard": NaN, "row": 0}'),
        ],
    )
    def test_a_damaged_index_is_named(self, index, videos, model, content):
        if content.startswith("entry "):
            whole = json.loads((index / "index.json").read_text())
            content = json.dumps(whole | {"videos": {"0.gif": json.loads(content[6:])}})
        (index / "index.json").write_text(content)
        before = contents(index)
        for act in (lambda: search(index, SENTENCE), lambda: index_videos(videos, model, index)):
            with pytest.raises(REFUSAL, match="index.json"):
                act()
        assert contents(index) == before

    def test_vectors_that_are_missing_or_damaged_are_named(self, index):
        file, entry = index / "vectors-00000.safetensors", json.loads((index / "index.json").read_text())
        whole = file.read_bytes()
        for damage in (b"", whole[:-10], whole[:9], to_safetensors({"other": torch.zeros(1)})):
            file.write_bytes(damage)
            with pytest.raises(REFUSAL, match="vectors-00000.safetensors is damaged"):
                search(index, SENTENCE)
        file.write_bytes(whole)
        entry["videos"]["0.gif"]["row"] = 7
        (index / "index.json").write_text(json.dumps(entry))
        with pytest.raises(REFUSAL, match=r"vectors-00000.safetensors is damaged: it has vectors of shape \(5, 4, 16\)"):
            search(index, SENTENCE)
        file.unlink()
        with pytest.raises(REFUSAL, match="vectors-00000.safetensors is missing"):
            search(index, SENTENCE)

    def test_names_with_control_characters_are_found_and_printed_escaped(self, index, videos, model, capsys):
        (videos / "0.gif").rename(videos / "\x1b[2Ja.gif")
        (videos / "1.gif").rename(videos / "two\nlines.gif")
        (videos / "\x1b[31m.mp4").write_text("no video")
        index_videos(videos, model, index)
        search(index, SENTENCE)
        output = capsys.readouterr()
        assert {rf"{videos}/\x1b[2Ja.gif", rf"{videos}/two\nlines.gif"} <= {path for path, _ in printed(output.out)}
        assert "\x1b" not in output.out + output.err.replace("\x1b[A", "")
        index_videos(videos, model, index)
        assert "6 videos, of which 6 are done" in capsys.readouterr().out


class TestRefusals:
    def test_another_models_index_is_left_as_it_is(self, index, videos, tmp_path):
        other, before = save_retrieval_model(tmp_path / "model", seed=1), contents(index)
        (videos / "0.gif").unlink()
        with pytest.raises((ValueError, OSError), match="was made by another model"):
            index_videos(videos, other, index)
        with pytest.raises((ValueError, OSError), match="was made by another model"):
            search(index, SENTENCE, "--model", other)
        assert contents(index) == before

    def test_another_way_of_reading_videos_makes_another_model(self, index, videos, model, tmp_path):
        shutil.copytree(model, tmp_path / "model")
        VideoMambaVideoProcessor.from_pretrained(model, resample=2).save_pretrained(tmp_path / "model")
        with pytest.raises((ValueError, OSError), match="was made by another model"):
            index_videos(videos, tmp_path / "model", index)

    def test_another_folder_or_none_empties_no_index(self, index, videos, model, tmp_path):
        before = contents(index)
        with pytest.raises((ValueError, OSError), match="is an index of .*videos, not of .*videos/more"):
            index_videos(videos / "more", model, index)
        with pytest.raises((ValueError, OSError), match="There is no folder"):
            index_videos(tmp_path / "nowhere", model, index)
        assert contents(index) == before

    def test_other_directories_are_no_index(self, videos, model, tmp_path):
        with pytest.raises((ValueError, OSError), match="There is no index in"):
            search(tmp_path / "index", SENTENCE)
        with pytest.raises((ValueError, OSError), match="has files, but no index"):
            index_videos(videos, model, videos)

    def test_a_classifier_is_no_model_for_it(self, videos, tmp_path):
        classifier = save_model(tmp_path / "classifier")
        with pytest.raises((ValueError, OSError), match="has no model of videos and texts, but a videomamba"):
            index_videos(videos, classifier, tmp_path / "index")
        with pytest.raises((ValueError, OSError), match="There is no model in"):
            index_videos(videos, tmp_path, tmp_path / "index")
        assert not (tmp_path / "index").exists()

    def test_batches_of_nothing(self, videos, model, tmp_path):
        with pytest.raises((ValueError, OSError), match="--batch_size must be at least 1, got 0"):
            index_videos(videos, model, tmp_path / "index", "--batch_size", 0)
        assert not (tmp_path / "index").exists()

    @pytest.mark.parametrize("sentence", ["", "  ", "?!"])
    def test_an_empty_sentence(self, index, sentence):
        with pytest.raises((ValueError, OSError), match="The sentence is empty"):
            search(index, sentence)


class TestSearch:
    def test_ranks_by_cosine_as_the_model_itself(self, index, videos, model, capsys):
        scores = expected_scores(videos, model)
        search(index, f"{SENTENCE.title()}!", "--top", 3)
        found = printed(capsys.readouterr().out)
        assert [path for path, _ in found] == sorted(scores, key=lambda path: -scores[path][0])[:3]
        assert [row for _, row in found] == [[pytest.approx(scores[path][0], abs=2e-3)] for path, _ in found]

    def test_looks_again_at_the_best(self, index, videos, model, capsys):
        scores = expected_scores(videos, model)
        by_cosine = sorted(scores, key=lambda path: -scores[path][0])
        search(index, SENTENCE, "--rerank", 3)
        found = printed(capsys.readouterr().out)
        assert [path for path, _ in found] == sorted(by_cosine[:3], key=lambda path: -scores[path][1]) + by_cosine[3:]
        for path, (cosine, *match) in found:
            assert cosine == pytest.approx(scores[path][0], abs=2e-3)
            assert match == ([pytest.approx(scores[path][1], abs=1e-2)] if path in by_cosine[:3] else [])

        Path(by_cosine[0]).unlink()
        search(index, SENTENCE, "--rerank", 3, "--top", 1)
        output = capsys.readouterr()
        assert printed(output.out)[0][0] == max(by_cosine[1:3], key=lambda path: scores[path][1])
        assert f"left out: No such video file: {by_cosine[0]}" in output.err

    def test_a_name_that_is_no_utf8_is_printed_escaped(self, index, videos, model, tmp_path, capsys):
        (videos / "0.gif").rename(videos / "caf\udce9.gif")
        index_videos(videos, model, index)
        search(index, SENTENCE, "--picture", tmp_path / "best.png")
        assert f"{videos}/caf\\udce9.gif" in [path for path, _ in printed(capsys.readouterr().out)]
        (videos / "caf\udce9.gif").unlink()
        index_videos(videos, model, index)
        assert f"{videos}/caf\\udce9.gif is gone" in capsys.readouterr().out

    def test_a_long_sentence_is_cut_and_it_says_so_once(self, index, capsys):
        search(index, SENTENCE, "--max_length", 6, "--rerank", 2)
        output = capsys.readouterr()
        assert "cut" not in output.err
        search(index, f"{SENTENCE} and more of it", "--max_length", 6, "--rerank", 2)
        cut = capsys.readouterr()
        assert cut.err.count("1 of 1 captions are cut to 6 tokens, the longest has 10") == 1
        assert cut.out == output.out
        search(index, "cat " * 40)  # more than BERT has positions for
        assert "cut to 16 tokens" in capsys.readouterr().err

    def test_without_a_sentence_it_asks_until_an_empty_line(self, index, capsys, monkeypatch):
        search(index, SENTENCE, "--top", 2)
        expected = printed(capsys.readouterr().out)
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{SENTENCE}\n?\n{SENTENCE}\n\na cat\n"))
        search(index, "--top", 2)
        output = capsys.readouterr()
        assert output.out.count(expected[0][0]) == 2
        assert output.out.count("sentence: ") == 4
        assert output.err.count("error: The sentence is empty.") == 1
        monkeypatch.setattr("sys.stdin", io.StringIO(SENTENCE))
        search(index, "--top", 2)
        assert capsys.readouterr().out.count("sentence: ") == 2

    def test_the_model_and_the_videos_may_move(self, index, videos, model, tmp_path, encoded, capsys):
        shutil.copytree(model, tmp_path / "model")
        search(index, SENTENCE, "--model", tmp_path / "model")
        before = [Path(path).name for path, _ in printed(capsys.readouterr().out)]
        videos.rename(tmp_path / "moved")
        index_videos(tmp_path / "moved", tmp_path / "model", index)
        capsys.readouterr()
        assert encoded == []
        search(index, SENTENCE)
        found = [Path(path) for path, _ in printed(capsys.readouterr().out)]
        assert [path.name for path in found] == before
        assert all(path.exists() for path in found)

    def test_a_model_of_the_hub_is_downloaded_by_its_name(self, videos, model, tmp_path, monkeypatch, capsys):
        asked = []

        def download(repository, allow_patterns):
            asked.append(repository)
            return str(model)

        monkeypatch.setattr("modeling_videomamba.checkpoints.by_name.snapshot_download", download)
        index_videos(videos, "someone/retrieval", tmp_path / "index")
        search(tmp_path / "index", SENTENCE)
        assert asked == ["someone/retrieval"] * 2
        assert len(printed(capsys.readouterr().out)) == len(NAMES)


class TestTheContactSheet:
    def test_has_a_row_of_four_frames_for_each_of_the_best(self, index, tmp_path):
        search(index, SENTENCE, "--top", 3, "--picture", tmp_path / "best.png")
        with Image.open(tmp_path / "best.png") as picture:
            width = STRIP_WIDTH / STRIP_FRAMES  # of a frame and, but for the last, the gap behind it
            assert picture.width == STRIP_WIDTH
            assert picture.height == pytest.approx(CAPTION_HEIGHT + 3 * (CAPTION_HEIGHT + width * 32 / 48), rel=0.05)
            for line in (0, 1):  # what was looked for, and the first caption
                text = picture.crop((0, line * CAPTION_HEIGHT, STRIP_WIDTH, (line + 1) * CAPTION_HEIGHT))
                assert len(set(text.convert("L").tobytes())) > 2, line

    def test_a_video_that_is_gone_has_no_frames(self, index, videos, tmp_path, capsys):
        shutil.rmtree(videos)
        search(index, SENTENCE, "--top", 2, "--picture", tmp_path / "best.jpg")
        assert capsys.readouterr().err.count("no picture: No such video file") == 2
        with Image.open(tmp_path / "best.jpg") as picture:
            assert picture.size == (STRIP_WIDTH, 3 * CAPTION_HEIGHT)

    @pytest.mark.parametrize("name", ["best", "best.psd"])  # Pillow reads .psd, but does not write it
    def test_it_needs_a_name_that_tells_its_kind(self, index, tmp_path, name):
        with pytest.raises((ValueError, OSError), match="there is no such kind of picture"):
            search(index, SENTENCE, "--picture", tmp_path / name)

    def test_it_needs_a_directory(self, index, tmp_path, capsys):
        with pytest.raises((ValueError, OSError), match=f"there is no directory {tmp_path}/nowhere"):
            search(index, SENTENCE, "--picture", tmp_path / "nowhere/best.png")
        assert printed(capsys.readouterr().out) == [], "an error before the search"
