"""Pipelines for video classification: transformers' own, and one with views, frame rates and batches."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoVideoProcessor, pipeline

from modeling_videomamba import VideoMambaVideoClassificationPipeline
from tests.conftest import render_clip, save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    save_model(folder / "model")
    render_clip(folder / "a.mp4")
    render_clip(folder / "b.mp4", num_frames=20)
    return folder


@pytest.fixture(scope="module")
def plain(folder):
    return pipeline("video-classification", model=str(folder / "model"))


@pytest.fixture(scope="module")
def classify(folder):
    return pipeline("video-classification", model=str(folder / "model"), pipeline_class=VideoMambaVideoClassificationPipeline)


def scores(answers):
    return {answer["label"]: answer["score"] for answer in answers}


def check_same(answers, expected):
    assert scores(answers) == pytest.approx(scores(expected), rel=1e-5)


def test_both_take_a_video_in_every_form(folder, plain, classify):
    path = folder / "a.mp4"
    content = path.read_bytes()
    expected = plain(str(path))
    assert len(expected) == 5
    for video in (str(path), path, content, io.BytesIO(content), {"path": None, "bytes": content}):
        check_same(plain(video), expected)
        check_same(classify(video), expected)
    frames = np.zeros((16, 32, 48, 3), np.uint8)
    expected = plain(frames)
    for video in (torch.from_numpy(frames), frames.astype(np.float32), frames[..., :1]):
        check_same(plain(video), expected)
    [answers] = plain([[Image.fromarray(frame) for frame in frames]])
    check_same(answers, expected)


def test_scores_of_views_are_averaged(folder, classify):
    path = str(folder / "a.mp4")
    processor, model = classify.video_processor, classify.model
    for options, num_views in (({"num_clips": 2}, 2), ({"num_crops": 3}, 3), ({"num_clips": 2, "num_crops": 3}, 6)):
        with torch.inference_mode():
            logits = model(**processor(path, num_frames=4, return_tensors="pt", **options)).logits
        assert len(logits) == num_views
        [expected] = processor.post_process_video_classification(logits, num_views)
        answers = classify(path, **options)
        assert scores(answers) == pytest.approx({f"LABEL_{i}": score for i, score in enumerate(expected.tolist())}, rel=1e-5)
        assert [answer["score"] for answer in answers] == sorted(scores(answers).values(), reverse=True)
        assert answers[0]["score"] != pytest.approx(logits[0].softmax(-1).max().item(), rel=1e-4)  # of the first view


def test_options_of_the_pipeline_itself(folder):
    classify = pipeline(
        "video-classification",
        model=str(folder / "model"),
        pipeline_class=VideoMambaVideoClassificationPipeline,
        num_clips=2,
        top_k=2,
    )
    path = str(folder / "a.mp4")
    check_same(classify(path), classify(path, num_clips=2, top_k=2))
    assert len(classify(path, top_k=3)) == 3


def test_frames_a_second(folder, classify):
    path = str(folder / "a.mp4")
    check_same(classify(path, fps=5), classify(path, num_frames=8))
    with pytest.raises(ValueError, match="exclude each other"):
        classify(path, fps=5, num_frames=8)


def test_batches(folder, plain, classify):
    paths = [str(folder / name) for name in ("a.mp4", "b.mp4", "a.mp4")]
    for options in ({}, {"num_clips": 2, "num_crops": 3}):
        for answers, expected in zip(classify(paths, batch_size=2, **options), classify(paths, **options), strict=True):
            check_same(answers, expected)
    with pytest.raises(ValueError, match="without tokenizer or feature_extractor cannot do batching"):
        plain(paths, batch_size=2)
    processor = AutoVideoProcessor.from_pretrained(folder / "model")
    batching = pipeline("video-classification", model=str(folder / "model"), feature_extractor=processor)
    for answers, expected in zip(batching(paths, batch_size=2), plain(paths), strict=True):
        check_same(answers, expected)


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none"])
def test_functions(folder, plain, classify, function):
    path = str(folder / "a.mp4")
    check_same(classify(path, function_to_apply=function), plain(path, function_to_apply=function))


def test_problem_types(folder, classify, monkeypatch):
    path = str(folder / "a.mp4")
    for problem_type, function in (("multi_label_classification", "sigmoid"), ("regression", "none")):
        expected = classify(path, function_to_apply=function)
        monkeypatch.setattr(classify.model.config, "problem_type", problem_type)
        check_same(classify(path), expected)
        monkeypatch.setattr(classify.model.config, "problem_type", None)
