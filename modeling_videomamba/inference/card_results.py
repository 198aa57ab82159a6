"""Results of an evaluation in a model card: metadata that the hub reads, and a table that people read."""

import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData


METRICS = {  # key in the results -> (type on the hub, name, factor, decimals)
    "accuracy": ("accuracy", "top-1, %", 100, 2),
    "top5_accuracy": ("accuracy", "top-5, %", 100, 2),
    "map": ("mAP", "mean average precision, %", 100, 2),
    "micro_f1": ("f1", "micro F1, %", 100, 2),
    "mse": ("mse", "mean squared error", 1, 4),
}
NEW_CARD = "---\nlibrary_name: transformers\npipeline_tag: video-classification\n---\n\n# {name}\n"


def results_card(results: dict, model_name: str) -> ModelCard:
    """A card with nothing but the results, as they are in `results.json`: their metadata, and the block for the text."""
    data = ModelCardData(model_name=model_name, eval_results=_eval_results(results))
    return ModelCard(f"---\n{data}\n---\n\n{_block(results)}\n")


def update_card(readme: Path, results: dict) -> None:
    """Puts results into a model card, in place of earlier ones on the same data set and split.

    Other results stay: those on other data, and those that name a source, such as the claims of a released model's authors.
    """
    name = readme.parent.resolve().name
    card = ModelCard.load(readme) if readme.exists() else ModelCard(NEW_CARD.format(name=name))
    new = _eval_results(results)
    place = new[0].dataset_name, new[0].dataset_split
    kept = [
        result
        for result in card.data.eval_results or []
        if (result.dataset_name, result.dataset_split) != place or result.source_url
    ]
    card.data.model_name = card.data.model_name or name
    card.data.eval_results = kept + new

    block, (start, end) = _block(results), _markers(results)
    old = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if old.search(card.text):
        card.text = old.sub(lambda _: block, card.text)
    else:
        card.text = f"{card.text.rstrip()}\n\n{block}\n"
    unfinished = readme.with_name(".README.md")
    card.save(unfinished)
    unfinished.replace(readme)


def _eval_results(results: dict) -> list[EvalResult]:
    name = _data_set(results)
    num_frames, num_crops, num_clips = _views(results)
    is_on_hub = not Path(results["data"]).exists()
    return [
        EvalResult(
            task_type="video-classification",
            dataset_type=results["data"] if is_on_hub else results["dataset_name"].lower().replace(" ", "-"),
            dataset_name=name,
            dataset_config="shuffled frames" if results["shuffle_frames"] else results["data_config"],
            dataset_split=results["split"],
            dataset_revision=results["videos_fingerprint"],  # keeps these numbers apart from those of others on this data set
            metric_type=METRICS[key][0],
            metric_value=value,
            metric_name=f"{METRICS[key][1]}, {num_frames} frames x {num_crops} crops x {num_clips} clips",
        )
        for key, value in _values(results).items()
    ]


def _block(results: dict) -> str:
    start, end = _markers(results)
    row = {
        "frames x crops x clips": " x ".join(map(str, _views(results))),
        "videos": f"{results['num_videos']:,}",
        "merged by": results["merge"],
    } | {METRICS[key][1]: f"{value:.{METRICS[key][3]}f}" for key, value in _values(results).items()}
    notes = [f"frame sampling `{results['frame_sampling']}`", "bf16 autocast" if results["bf16"] else "fp32"]
    if results["window_seconds"]:
        windows = f"{results['window_seconds']:g} s every {results['window_stride']:g} s"
        notes.append(f"{results['num_samples']:,} windows of {windows}")
    if results["shuffle_frames"]:
        notes.append("**the frames of every clip in disorder**")
    if results["unreadable_videos"]:
        notes.append(f"{len(results['unreadable_videos'])} video(s) could not be read and do not count")
    lines = [
        start,
        f"## Results on {_data_set(results)}, {results['split']}",
        "",
        f"| {' | '.join(row)} |",
        f"|{'---|' * len(row)}",
        f"| {' | '.join(row.values())} |",
        "",
        f"Measured with `videomamba evaluate`: {', '.join(notes)}.",
        end,
    ]
    return "\n".join(lines)


def _markers(results: dict) -> tuple[str, str]:
    what = f"results on {_data_set(results)}, {results['split']}"
    return f"<!-- {what} -->", f"<!-- end of {what} -->"


def _data_set(results: dict) -> str:
    return results["dataset_name"] + (" (frames shuffled)" if results["shuffle_frames"] else "")


def _views(results: dict) -> tuple[int, int, int]:
    return results["num_frames"], results["num_crops"], results["num_clips"]


def _values(results: dict) -> dict[str, float]:
    """Metrics as the card shows them; of five labels or fewer, the best five say nothing."""
    return {
        key: round(factor * results[key], decimals)
        for key, (_, _, factor, decimals) in METRICS.items()
        if key in results and not (key == "top5_accuracy" and results["num_labels"] <= 5)
    }
