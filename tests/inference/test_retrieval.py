"""`videomamba evaluate-retrieval`, from lists of captions to scores of pairs and recalls."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertTokenizer

from modeling_videomamba import VideoMambaForVideoTextRetrieval, VideoMambaVideoProcessor
from modeling_videomamba.checkpoints.default_processor import processor_for
from modeling_videomamba.commands import evaluate_retrieval
from modeling_videomamba.data import outputs
from modeling_videomamba.data.captions import CaptionedFile, CaptionTokenizer, clean_caption, load_captions
from modeling_videomamba.data.clips import UnreadableFiles
from modeling_videomamba.inference.retrieval import (
    NOT_MATCHED,
    Encoded,
    RetrievalClips,
    encode_texts,
    encode_videos,
    join_readable,
    likeliest,
    ranks,
    read_middle_frames,
    recalls,
    retrieval_metrics,
    score_pairs,
)
from tests.conftest import WORDS, render_clip, render_noise, save_model, small_config, small_video_text_config


CAPTIONS = {
    "0.gif": "A cat moves up.",
    "1.gif": ["The coffee zooms in!", "the coffee moves right"],
    "2.gif": "A rocket; it moves down",
    "3.gif": "the cat zooms out",
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """More of them only get into each other's way with models as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A model whose weights are random, and so large that its scores differ from pair to pair; with its tokenizer."""
    directory = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = small_video_text_config(vision_config=small_config(initializer_range=0.3), initializer_range=0.3)
    config.text_config.initializer_range = 0.3
    config.text_config.max_position_embeddings = 64
    VideoMambaForVideoTextRetrieval(config).save_pretrained(directory)
    processor_for(config).save_pretrained(directory)
    vocabulary = tmp_path_factory.mktemp("words") / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS))
    BertTokenizer(str(vocabulary)).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def model(directory) -> VideoMambaForVideoTextRetrieval:
    return VideoMambaForVideoTextRetrieval.from_pretrained(directory).eval()


@pytest.fixture(scope="module")
def processor(directory) -> VideoMambaVideoProcessor:
    return VideoMambaVideoProcessor.from_pretrained(directory)


@pytest.fixture(scope="module")
def tokenizer(directory) -> BertTokenizer:
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A folder with four videos, and a list of their captions."""
    folder = tmp_path_factory.mktemp("videos")
    for i, name in enumerate(CAPTIONS):
        render_noise(folder / name, seed=i, num_frames=12)
    write_list(folder / "list.json", [{"video": name, "caption": caption} for name, caption in CAPTIONS.items()])
    return folder


def write_list(file: Path, rows: list) -> Path:
    file.write_text(json.dumps(rows))
    return file


def run(directory: Path, data: Path, output_dir: Path, *flags: str, **changed) -> dict:
    """Runs the script in this process; returns what metrics.json says."""
    given = {"model": directory, "data": data, "output_dir": output_dir, "num_workers": 0, "device": "cpu"} | changed
    evaluate_retrieval.main([*flags, *(part for name, value in given.items() for part in (f"--{name}", str(value)))])
    return json.loads((output_dir / "metrics.json").read_text())


class TestCaptions:
    @pytest.mark.parametrize(
        ("text", "cleaned"),
        [
            ("A Cat, moving.", "a cat moving"),
            ('  it\'s   "so-so" (really?)! ', "its so so really"),
            ("up/down: *left*; #1 ~ right", "up down left 1 right"),
            ("<person> greets <PERSON>", "person greets person"),
            ("café_99%\tnaïve", "café_99% naïve"),
        ],
    )
    def test_are_cleaned_as_the_models_were_trained(self, text, cleaned):
        assert clean_caption(text) == cleaned

    def test_are_padded_and_cut_to_one_length_and_that_is_said_once(self, tokenizer, capsys):
        tokenize = CaptionTokenizer(tokenizer, max_length=5)
        ids, mask = tokenize(["a cat"])
        assert ids.tolist() == [tokenizer.convert_tokens_to_ids(["[CLS]", "a", "cat", "[SEP]", "[PAD]"])]
        assert mask.tolist() == [[1, 1, 1, 1, 0]]
        assert capsys.readouterr().err == ""

        ids, mask = tokenize(["a cat moves up", "the cat zooms", "cat"])
        assert ids[0].tolist() == tokenizer.convert_tokens_to_ids(["[CLS]", "a", "cat", "moves", "[SEP]"])
        assert ids.shape == mask.shape == (3, 5)
        assert capsys.readouterr().err == "warning: 1 of 3 captions are cut to 5 tokens, the longest has 6\n"
        tokenize(["a cat moves up and down"])
        assert capsys.readouterr().err == ""


class TestLists:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        for name in ("a.mp4", "b.png"):
            (tmp_path / name).touch()
        return tmp_path

    def expected(self, folder: Path) -> list[CaptionedFile]:
        image = CaptionedFile(str(folder / "b.png"), "image", ("a picture",))
        return [CaptionedFile(str(folder / "a.mp4"), "video", ("one two", "three")), image]

    def test_json_with_one_or_several_captions(self, folder):
        rows = [{"video": "a.mp4", "caption": ["One, two", "three"]}, {"image": "b.png", "caption": "A picture."}]
        assert load_captions(write_list(folder / "list.json", rows)) == self.expected(folder)

    def test_captions_of_one_video_are_joined_wherever_they_are(self, folder):
        rows = [{"path": "a.mp4", "caption": "One, two"}, {"path": "b.png", "caption": "a picture"}]
        rows += [{"path": "a.mp4", "caption": "Three!"}]
        (folder / "list.jsonl").write_text("\n\n".join(map(json.dumps, rows)) + "\n")
        assert load_captions(folder / "list.jsonl") == self.expected(folder)

    def test_csv_as_spreadsheets_write_it(self, folder):
        lines = ["path,caption", 'a.mp4,"One, two"', "b.png,a picture", "a.mp4,three"]
        (folder / "list.csv").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
        assert load_captions(folder / "list.csv") == self.expected(folder)

    def test_relative_paths_start_at_the_root_or_the_list(self, folder, tmp_path):
        (tmp_path / "lists").mkdir()
        absolute, *addresses = str(folder / "a.mp4"), "https://example.com/c.mp4", "HTTP://example.com/d.mp4"
        rows = [{"video": path, "caption": "a"} for path in (absolute, "b.png", *addresses)]
        file = write_list(tmp_path / "lists" / "list.json", rows)
        read = [captioned.path for captioned in load_captions(file, str(folder))]
        assert read == [absolute, str(folder / "b.png"), *addresses]
        with pytest.raises(FileNotFoundError, match=r"None of the 1 files .*lists/b.png.* --media_root"):
            load_captions(write_list(file, rows[1:2]))

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"video": "a.mp4"}, "item 2: expected a `caption`, a text or a list of texts"),
            ({"video": "a.mp4", "caption": []}, "item 2: expected a `caption`"),
            ({"video": "a.mp4", "caption": ["a", 3]}, "item 2: expected a `caption`"),
            ({"caption": "a"}, "item 2: expected one path, as `video`, `image` or `path`"),
            ({"video": "a.mp4", "image": "b.png", "caption": "a"}, "item 2: expected one path"),
            ({"video": 7, "caption": "a"}, "item 2: expected one path"),
            ({"video": "a.mp4", "caption": ["a", " ?!"]}, "item 2: the caption ' \\?!' is empty"),
            ("a.mp4", "item 2: expected an item such as"),
            ({"video": ["a.mp4"], "caption": "a"}, "item 2: expected one path"),
            ({"video": "a\ud800.mp4", "caption": "a"}, "item 2: expected one path"),
            ({"video": "a\0.mp4", "caption": "a"}, "item 2: expected one path"),
            ({"video": "a.mp4", "caption": 5}, "item 2: expected a `caption`"),
            ({"video": "a.mp4", "caption": {"en": "a"}}, "item 2: expected a `caption`"),
            ({"video": "a.mp4", "caption": "half a character \ud800"}, "item 2: expected a `caption`"),
        ],
    )
    def test_what_is_wrong_is_named_with_its_item(self, folder, row, message):
        file = write_list(folder / "list.json", [{"video": "a.mp4", "caption": "a"}, row])
        with pytest.raises(ValueError, match=rf"list.json, {message}"):
            load_captions(file)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.csv", 'path,caption\na.mp4,"one\na.mp4,"two"\n', ", line 2: a quote is not closed"),
            ("a.csv", 'path,caption\na.mp4,"one\na.mp4,two"\n', ", line 2: a quote is not closed"),
            ("a.csv", "path,caption\na.mp4,one, two\n", ", line 2: expected 2 fields, as in the header, got 3"),
            ("a.csv", "path,caption\na.mp4,one\na.mp4\n", ", line 3: expected 2 fields, as in the header, got 1"),
            ("a.csv", f"path,caption\na.mp4,{'a' * 200_000}\n", ", line 2: not CSV"),
            ("a.csv", "a.mp4,one\na.mp4,two\n", ", line 1: expected a header of different names"),
            ("a.csv", "path;caption\na.mp4;one\n", ", line 1: expected a header of different names"),
            ("a.csv", "path,caption,caption\na.mp4,one,two\n", ", line 1: expected a header of different names"),
            ("a.csv", "", ": expected a header of different names"),
            ("a.csv", "path,caption\n", " is empty"),
            ("a.csv", "path,caption\na.mp4,\0\n", ", line 2: not text"),
            ("a.json", "[" * 100_000, ": JSON that is nested too deeply"),
            ("a.json", f'[{{"video": {"1" * 5000}}}]', ": Exceeds the limit"),
            ("a.json", '[{"video": "a.mp4",\n"caption": "one}]\n', ", line 2: not JSON"),
            ("a.json", '[{"video": "a.mp4", "video": "b.mp4", "caption": "a"}]', ": an object has the key 'video' twice"),
            ("a.json", '"a.mp4"', ": expected a list of items, got 'a.mp4'"),
            ("a.json", "1e400", ": expected a list of items, got inf"),
            ("a.jsonl", '{"video": "a.mp4", "caption": "a"}\n"a.mp4"', ", line 2: expected an item such as"),
            ("a.jsonl", '{"video": "a.mp4", "caption": "a"}\n' + "[" * 100_000, ", line 2: JSON that is nested too deeply"),
        ],
    )
    def test_what_is_wrong_is_named_with_its_line(self, folder, name, content, message):
        (folder / name).write_text(content)
        with pytest.raises(ValueError, match=f"{folder}/{name}{message}"):
            load_captions(folder / name)

    @pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl"])
    def test_one_that_is_not_utf8_is_named_with_its_line(self, folder, name):
        for encoding, message in {
            "utf-16": ", line 1: the file is in UTF-16",
            "latin-1": ", line 2: not text in UTF-8",
        }.items():
            (folder / name).write_text("\ncafé", encoding=encoding)
            with pytest.raises(ValueError, match=f"{folder}/{name}{message}"):
                load_captions(folder / name)

    def test_what_is_no_list(self, folder):
        with pytest.raises(FileNotFoundError, match="no list of captions"):
            load_captions(folder / "none.json")
        (folder / "list.txt").write_text("a.mp4 a")
        with pytest.raises(ValueError, match=r"ends in .json, .jsonl, .csv"):
            load_captions(folder / "list.txt")
        with pytest.raises(ValueError, match="is empty"):
            load_captions(write_list(folder / "list.json", []))
        with pytest.raises(ValueError, match="expected a list of items, got {'video'"):
            load_captions(write_list(folder / "list.json", {"video": "a.mp4"}))
        (folder / "list.jsonl").write_text('{"video": "a.mp4", "caption": "a"}\n{"video": \n')
        with pytest.raises(ValueError, match="list.jsonl, line 2: not JSON"):
            load_captions(folder / "list.jsonl")


class TestFrames:
    @pytest.mark.parametrize(
        ("total", "seconds", "expected"),
        [
            (40, None, [2, 7, 12, 17, 22, 27, 32, 37]),
            (27, None, [1, 4, 7, 11, 14, 17, 21, 24]),  # bounds 0 3 6 10 13 16 20 23 27
            (5, None, [0, 1, 2, 3, 4, 4, 4, 4]),
            (40, 0.96, [1, 4, 7, 10, 13, 16, 19, 22]),  # 24 frames at 25 a second
            (16, 30, [0, 2, 4, 6, 8, 10, 12, 14]),
        ],
    )
    def test_are_the_middles_of_intervals_and_the_last_is_repeated(self, tmp_path, total, seconds, expected):
        drawn = render_clip(tmp_path / "clip.mp4", num_frames=total)
        frames = read_middle_frames(CaptionedFile(str(tmp_path / "clip.mp4"), "video", ()), 8, seconds)
        brightness = drawn.mean(axis=(1, 2, 3))  # (total,)
        shown = [int(np.abs(brightness - mean).argmin()) for mean in frames.float().mean(dim=(1, 2, 3)).tolist()]
        assert shown == expected

    def test_are_resized_whole_bicubic_and_not_smoothed(self, processor, tmp_path):
        render_noise(tmp_path / "clip.gif", seed=0, num_frames=12)
        file = CaptionedFile(str(tmp_path / "clip.gif"), "video", ())
        unreadable = UnreadableFiles(tmp_path / "unreadable.txt")
        for settings in (processor, VideoMambaVideoProcessor()):  # whatever the processor does by itself
            _, clip = RetrievalClips([file], settings, (20, 36), 4, unreadable)[0]
            frames = F.interpolate(read_middle_frames(file, 4).float(), (20, 36), mode="bicubic").round().clamp(0, 255)
            mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, None, :, None, None]
            torch.testing.assert_close(clip, (frames / 255 - mean) / std, rtol=0, atol=4 / 255 / 0.224)  # uint8 rounds twice

    def test_an_image_is_a_video_that_stands_still(self, processor, tmp_path):
        Image.new("RGB", (40, 30), (200, 10, 10)).save(tmp_path / "image.png")
        file = CaptionedFile(str(tmp_path / "image.png"), "image", ())
        _, clip = RetrievalClips([file], processor, (32, 32), 4, UnreadableFiles(tmp_path / "unreadable.txt"), 30)[0]
        assert clip.shape == (4, 3, 32, 32)
        assert (clip == clip[0]).all()

    def test_a_batch_leaves_out_what_cannot_be_read(self):
        clip = torch.ones(4, 3, 8, 8)
        indices, clips = join_readable([(3, clip), (4, None), (5, 2 * clip)])
        assert indices == [3, 5]
        assert torch.equal(clips, torch.stack([clip, 2 * clip]))
        assert join_readable([(4, None)]) == ([], None)


class TestMetrics:
    def test_ranks_are_places_from_one_on(self):
        scores = torch.tensor([[0.1, 0.9, 0.5], [0.1, 0.9, 0.5], [0.1, 0.9, 0.5]])
        assert ranks(scores, torch.eye(3, dtype=torch.bool)) == [3, 1, 2]

    def test_of_several_right_answers_the_best_counts(self):
        scores = torch.tensor([[0.1, 0.9, 0.5, 0.7]])
        assert ranks(scores, torch.tensor([[True, False, True, True]])) == [2]

    def test_of_equal_scores_the_first_is_better(self):
        scores = torch.full((2, 50), NOT_MATCHED)
        right = torch.zeros(2, 50, dtype=torch.bool)
        right[0, 0] = right[1, 49] = True
        assert ranks(scores, right) == [1, 50]
        assert likeliest(scores, 3).nonzero()[:, 1].tolist() == [0, 1, 2, 0, 1, 2]

    def test_recalls_and_the_median(self):
        scores = -torch.arange(20.0).repeat(4, 1)
        right = torch.zeros(4, 20, dtype=torch.bool)
        right[range(4), [0, 4, 9, 19]] = True  # places 1, 5, 10, 20
        assert recalls(scores, right) == {"r1": 0.25, "r5": 0.5, "r10": 0.75, "median_rank": 7.5}

    def test_both_ways_with_several_texts_of_a_video(self):
        dual = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.7, 0.6]])  # texts 0 and 1 are of video 0
        scores = {"dual": dual, "video_to_text": -dual, "text_to_video": -dual.T}
        metrics = retrieval_metrics(scores, [0, 0, 1])
        assert metrics["dual_video_to_text_r1"] == 0.5  # video 1 finds text 2 last
        assert metrics["dual_text_to_video_r1"] == pytest.approx(2 / 3)  # text 1 finds video 1 first
        assert metrics["video_to_text_r1"] == 1
        assert metrics["video_to_text_median_rank"] == 1
        assert metrics["text_to_video_r1"] == pytest.approx(1 / 3)
        assert metrics["text_to_video_r5"] == 1

    def test_scores_that_are_no_numbers_are_an_error(self):
        with pytest.raises(ValueError, match="no numbers"):
            ranks(torch.tensor([[0.0, torch.nan]]), torch.tensor([[True, False]]))


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    return torch.randn(5, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tokens(tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    captions = ["a cat", "the coffee moves up", "rocket", "a cat zooms in", "coffee zooms out", "the rocket moves left"]
    return CaptionTokenizer(tokenizer, 8)(captions)


@pytest.fixture(scope="module")
def encoded(model, clips, tokens) -> tuple[Encoded, Encoded]:
    batches = [([0, 1], clips[:2]), ([], None), ([3, 4, 5], clips[2:])]
    readable, videos = encode_videos(model, batches)
    assert readable == [0, 1, 3, 4, 5]
    return videos, encode_texts(model, *tokens, batch_size=4)


@pytest.fixture(scope="module")
def by_hand(model, clips, tokens) -> dict[str, torch.Tensor]:
    """Every pair by itself, `(videos, texts)`."""
    scores = {"dual": torch.zeros(5, 6), "matching": torch.zeros(5, 6)}
    with torch.no_grad():
        for v in range(5):
            for t in range(6):
                ids, mask = (tensor[t : t + 1] for tensor in tokens)
                video, text = model.get_video_features(clips[v : v + 1]), model.get_text_features(ids, mask)
                cosines = F.cosine_similarity(video.pooler_output[0], text.pooler_output)  # (frames,)
                scores["dual"][v, t] = cosines.mean()
                scores["matching"][v, t] = model.match(text.last_hidden_state, mask, video.last_hidden_state)[0, 1]
    return scores


class TestScores:
    def test_of_all_pairs_are_those_of_each_by_itself(self, model, encoded, tokens, by_hand):
        scores = score_pairs(model, *encoded, tokens[1], top_k=128, batch_size=4)
        for name, expected in {
            "dual": by_hand["dual"],
            "video_to_text": by_hand["matching"],
            "text_to_video": by_hand["matching"].T,
        }.items():
            torch.testing.assert_close(scores[name], expected, rtol=1e-4, atol=1e-4)
        assert by_hand["matching"].std() > 0.01

    def test_only_the_likeliest_pairs_are_judged_each_way(self, model, encoded, tokens, by_hand, monkeypatch):
        judged = []
        match = model.match

        def counting_match(states, mask, video_tokens):
            judged.append(len(states))
            return match(states, mask, video_tokens)

        monkeypatch.setattr(model, "match", counting_match)
        scores = score_pairs(model, *encoded, tokens[1], top_k=2, batch_size=3)

        of_videos, of_texts = torch.zeros(2, 5, 6, dtype=torch.bool)
        for v in range(5):
            of_videos[v, by_hand["dual"][v].topk(2).indices] = True
        for t in range(6):
            of_texts[by_hand["dual"][:, t].topk(2).indices, t] = True
        for name, chosen in {"video_to_text": of_videos, "text_to_video": of_texts}.items():
            ours = scores[name] if name == "video_to_text" else scores[name].T
            torch.testing.assert_close(ours[chosen], by_hand["matching"][chosen], rtol=1e-4, atol=1e-4)
            assert (ours[~chosen] == NOT_MATCHED).all()
        assert sum(judged) == (of_videos | of_texts).sum()  # no pair twice
        assert max(judged) <= 3

    def test_in_bf16_they_differ_in_digits(self, model, encoded, tokens, clips):
        _, videos = encode_videos(model, [([0, 1, 2, 3, 4], clips)], bf16=True)
        texts = encode_texts(model, *tokens, batch_size=6, bf16=True)
        half = score_pairs(model, videos, texts, tokens[1], 128, 6, bf16=True)["dual"]
        single = score_pairs(model, *encoded, tokens[1], 128, 6)["dual"]
        torch.testing.assert_close(half, single, rtol=0, atol=0.05)
        assert not torch.equal(half, single)


class TestTheScript:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("msrvtt", (32, False, None)),
            ("didemo", (64, True, 30)),
            ("activitynet", (150, True, None)),
            ("lsmdc", (96, False, None)),
            ("msvd", (64, False, None)),
            (None, (32, False, None)),
        ],
    )
    def test_protocols_say_what_benchmarks_ask_for(self, name, expected):
        args = evaluate_retrieval.RetrievalArguments(model="", data="", output_dir="", protocol=name)
        assert tuple(evaluate_retrieval.protocol_of(args)) == expected
        args.max_text_length, args.paragraph, args.seconds = 7, True, 0
        assert tuple(evaluate_retrieval.protocol_of(args)) == (7, True, None)

    def test_from_a_list_to_scores_and_recalls(self, directory, videos, tmp_path, capsys):
        results = run(directory, videos / "list.json", tmp_path, protocol="msrvtt", batch_size=3)

        scores = load_file(tmp_path / "scores.safetensors")
        shapes = {name: tuple(matrix.shape) for name, matrix in scores.items()}
        assert shapes == {"dual": (4, 5), "video_to_text": (4, 5), "text_to_video": (5, 4)}
        assert torch.equal(scores["video_to_text"], scores["text_to_video"].T)  # all pairs are among the likeliest
        with safe_open(tmp_path / "scores.safetensors", "pt") as file:
            names = {name: json.loads(value) for name, value in file.metadata().items()}
        assert names["videos"] == [str(videos / name) for name in CAPTIONS]
        assert names["texts"][1:3] == ["the coffee zooms in", "the coffee moves right"]

        video_of_text = [0, 1, 1, 2, 3]
        metrics = retrieval_metrics(scores, video_of_text)
        assert metrics.items() <= results.items()
        found = [scores["text_to_video"][t].argmax() == v for t, v in enumerate(video_of_text)]
        assert results["text_to_video_r1"] == np.mean(found)
        wanted = {"num_videos": 4, "num_texts": 5, "unreadable_videos": [], "protocol": "msrvtt", "max_text_length": 32}
        wanted |= {"paragraph": False, "seconds": None, "num_frames": 4, "top_k": 128, "bf16": False}
        assert wanted.items() <= results.items()

        printed = capsys.readouterr().out.splitlines()
        assert "| | R@1 | R@5 | R@10 | median rank |" in printed
        percent = [f"{100 * results[f'text_to_video_r{k}']:.1f}" for k in (1, 5, 10)]
        assert f"| text to video | {' | '.join(percent)} | {results['text_to_video_median_rank']:g} |" in printed

    def test_paragraphs_and_seconds(self, directory, videos, tmp_path, capsys):
        settings = {"protocol": "didemo", "seconds": 0.2, "max_text_length": 6}
        results = run(directory, videos / "list.json", tmp_path / "cut", **settings)
        assert (results["num_texts"], results["paragraph"], results["seconds"]) == (4, True, 0.2)
        assert "2 of 4 captions are cut to 6 tokens, the longest has 10" in capsys.readouterr().err
        with safe_open(tmp_path / "cut" / "scores.safetensors", "pt") as file:
            assert json.loads(file.metadata()["texts"])[1] == "the coffee zooms in the coffee moves right"

        results = run(directory, videos / "list.json", tmp_path / "whole", **(settings | {"seconds": 0}))
        assert results["seconds"] is None
        cut, whole = (load_file(tmp_path / name / "scores.safetensors")["dual"] for name in ("cut", "whole"))
        assert not torch.allclose(cut, whole)
        results = run(directory, videos / "list.json", tmp_path / "apart", **settings, paragraph=False)
        assert results["num_texts"] == 5

    def test_more_frames_and_fewer_pairs(self, directory, videos, tmp_path):
        assert run(directory, videos / "list.json", tmp_path, num_frames=8, top_k=1, num_workers=1)["num_frames"] == 8
        scores = load_file(tmp_path / "scores.safetensors")
        assert ((scores["video_to_text"] != NOT_MATCHED).sum(dim=1) == 1).all()

    def test_an_unreadable_video_is_named_and_does_not_count(self, directory, videos, tmp_path, capsys):
        (tmp_path / "bad.gif").write_text("no video")
        rows = json.loads((videos / "list.json").read_text())
        rows.insert(1, {"video": str(tmp_path / "bad.gif"), "caption": ["a cat", "a rocket"]})
        data = write_list(tmp_path / "list.json", rows)

        results = run(directory, data, tmp_path / "out", media_root=videos)
        assert results["unreadable_videos"] == [str(tmp_path / "bad.gif")]
        assert (results["num_videos"], results["num_texts"]) == (4, 5)
        assert "1 video(s) could not be read" in capsys.readouterr().out
        without = run(directory, videos / "list.json", tmp_path / "without")
        metrics = [name for name in without if name.endswith(("_r1", "_r5", "_r10", "_rank"))]
        assert len(metrics) == 16
        assert {name: results[name] for name in metrics} == {name: without[name] for name in metrics}

        with pytest.raises(ValueError, match=r"Cannot read .*bad.gif"):
            run(directory, data, tmp_path / "strict", "--strict", media_root=videos)
        with pytest.raises(ValueError, match="None of the videos could be read"):
            run(directory, write_list(tmp_path / "list.json", rows[1:2]), tmp_path / "none")

    def test_whatever_a_video_makes_the_reader_raise_is_named_and_does_not_count(
        self, directory, videos, tmp_path, monkeypatch
    ):
        def raise_or_read(file, *args):
            if file.path.endswith("1.gif"):
                raise IndexError("list index out of range")
            return read_middle_frames(file, *args)

        monkeypatch.setattr("modeling_videomamba.inference.retrieval.read_middle_frames", raise_or_read)
        results = run(directory, videos / "list.json", tmp_path / "out")
        assert results["unreadable_videos"] == [f"{videos}/1.gif"]
        assert results["num_videos"] == 3

    def test_the_directory_is_that_of_one_run(self, directory, videos, tmp_path, monkeypatch):
        monkeypatch.setattr(outputs, "PATIENCE", 0)
        (tmp_path / "out").mkdir()
        with FileLock(tmp_path / "out" / outputs.LOCK), pytest.raises(BlockingIOError, match="out is in use: another run"):
            run(directory, videos / "list.json", tmp_path / "out")
        assert [path.name for path in (tmp_path / "out").iterdir()] == [outputs.LOCK]

    @pytest.mark.parametrize("is_made_again", [False, True])
    def test_the_directory_may_not_vanish_during_the_run(self, directory, videos, tmp_path, monkeypatch, is_made_again):
        def remove(*args):
            shutil.rmtree(tmp_path / "out")
            if is_made_again:
                (tmp_path / "out").mkdir()
            return score_pairs(*args)

        monkeypatch.setattr(evaluate_retrieval, "score_pairs", remove)
        with pytest.raises(FileNotFoundError, match="out was removed or replaced while this run was writing to it"):
            run(directory, videos / "list.json", tmp_path / "out")
        assert not list(tmp_path.glob("out/*.*"))

    def test_a_model_that_is_none_of_videos_and_texts(self, videos, tmp_path):
        with pytest.raises(ValueError, match=r"classifier is no model of videos and texts"):
            run(save_model(tmp_path / "classifier"), videos / "list.json", tmp_path / "out")

    def test_a_model_that_lacks_weights(self, directory, videos, tmp_path):
        shutil.copytree(directory, tmp_path / "model")
        tensors = load_file(directory / "model.safetensors")
        del tensors["matching_head.weight"]
        save_file(tensors, tmp_path / "model" / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match=r"model is not trained, it lacks matching_head.weight"):
            run(tmp_path / "model", videos / "list.json", tmp_path / "out")

    def test_settings_that_make_no_sense(self, directory, videos, tmp_path):
        with pytest.raises(ValueError, match="--top_k must be at least 1, got 0"):
            run(directory, videos / "list.json", tmp_path, top_k=0)
        with pytest.raises(ValueError, match="--max_text_length 96, but the model's texts have at most 64 tokens"):
            run(directory, videos / "list.json", tmp_path, protocol="lsmdc")
