"""Model cards: checked in as the tables make them, valid for the hub, honest about their numbers, with snippets that run."""

import csv
import re
import runpy
import shutil
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from conversion import make_model_cards
from conversion.make_model_cards import CARDS
from modeling_videomamba import VideoMambaModel
from modeling_videomamba.checkpoints.converter import convert, save
from modeling_videomamba.checkpoints.model_card import (
    RECALLS,
    TRAINING_RECIPES,
    model_card,
    outdated_cards,
    released_model_card,
    write_cards,
)
from modeling_videomamba.checkpoints.released import load_released
from tests.conftest import ROOT, golden, render_clip, small_config
from tests.rows import for_every


RELEASED = load_released()
TEXTS = {name: released_model_card(row) for name, row in RELEASED.items()}
PIPELINE_TAGS = {"masked-pretraining": "feature-extraction", "video-text": "feature-extraction"}  # the others: their task

every_card = for_every(RELEASED.values())


def snippets(card: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)\n```$", card, flags=re.MULTILINE | re.DOTALL)


class TestCheckedIn:
    def test_as_the_tables_make_them(self):
        assert outdated_cards(CARDS) == [], "run python conversion/make_model_cards.py"

    def test_one_for_every_checkpoint_and_nothing_else(self):
        assert sorted(str(path.relative_to(CARDS)) for path in CARDS.rglob("*") if path.is_file()) == sorted(
            f"{name}/README.md" for name in RELEASED
        )

    def test_check_finds_what_differs_and_writing_mends_it(self, tmp_path):
        shutil.copytree(CARDS, tmp_path, dirs_exist_ok=True)
        assert outdated_cards(tmp_path) == []
        edited, missing, unknown = (
            tmp_path / name / "README.md" for name in ("videomamba-m-k400-f16", "videomamba-s-in1k", "videomamba-xl-k400-f16")
        )
        edited.write_text(edited.read_text(encoding="utf-8").replace("81.9", "91.9"), encoding="utf-8")
        missing.unlink()
        unknown.parent.mkdir()
        unknown.write_text("a card of nothing")
        assert outdated_cards(tmp_path) == [edited, missing, unknown]
        write_cards(tmp_path)
        assert outdated_cards(tmp_path) == []
        assert not unknown.parent.exists()

    def test_check_fails_and_names_the_files(self, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["make_model_cards.py", "--check"])
        make_model_cards.main()
        monkeypatch.setattr(make_model_cards, "outdated_cards", lambda _: [CARDS / "videomamba-m-k400-f16" / "README.md"])
        with pytest.raises(SystemExit, match="model_cards/videomamba-m-k400-f16/README.md") as error:
            make_model_cards.main()
        assert isinstance(error.value.code, str)  # which is exit status 1


class TestMetadata:
    @every_card
    def test_the_hub_reads_what_was_written(self, row):
        card = ModelCard(TEXTS[row.id])
        assert card.data.to_dict() == ModelCard(str(card)).data.to_dict()
        assert card.data.license == "apache-2.0"
        assert card.data.library_name == "transformers"
        assert card.data.pipeline_tag == PIPELINE_TAGS.get(row.task, row.task)
        assert card.data.tags[0] == "videomamba"
        assert card.data.datasets
        assert set(card.data.to_dict()) <= {
            *("license", "library_name", "pipeline_tag", "tags", "datasets", "base_model", "model-index")
        }

    @every_card
    def test_the_base_model_is_the_parent(self, row):
        base_model = ModelCard(TEXTS[row.id]).data.base_model
        assert base_model == row.parent
        assert base_model is None or base_model in RELEASED

    @every_card
    def test_the_claims_are_those_of_the_tables_and_called_claims(self, row):
        claims = ModelCard(TEXTS[row.id]).data.eval_results or []
        if row.task == "video-text":
            with RECALLS.open(newline="") as file:
                recalls = [recall for recall in csv.DictReader(file) if recall["id"] == row.id]
            expected = [
                (f"{recall['direction']}-retrieval", recall["dataset"], f"recall_at_{k}", float(recall[f"r{k}"]))
                for recall in recalls
                for k in (1, 5, 10)
            ]
            assert [(x.task_type, x.dataset_type, x.metric_type, x.metric_value) for x in claims] == expected
        else:
            assert [claim.metric_value for claim in claims] == [value for value in (row.top1, row.top5) if value is not None]
            assert {claim.task_type for claim in claims} <= {row.task}
            views = f"{row.clips} clips x {row.crops} crops" if row.frames else "1 view"
            assert all(views in claim.metric_name for claim in claims)
        assert bool(claims) == (row.task != "masked-pretraining")
        for claim in claims:
            assert "reported by the authors" in claim.metric_name
            assert "not measured by this project" in claim.source_name
            assert claim.source_url.endswith("/MODEL_ZOO.md")
            assert claim.dataset_split in ("validation", "test")

    def test_the_data_sets_are_those_of_all_trainings(self):
        assert ModelCard(TEXTS["videomamba-m-coin-f64"]).data.datasets == ["AlexFierro9/Kinetics400", "imagenet-1k"]
        assert ModelCard(TEXTS["videomamba-m-ssv2-mask-f8"]).data.datasets == ["HuggingFaceM4/something_something_v2"]


class TestText:
    @every_card
    def test_sections(self, row):
        assert re.findall(r"^##? (.*)$", TEXTS[row.id].split("\n---\n", 1)[1].split("```")[0], re.MULTILINE)[0] == row.id
        assert re.findall(r"^## (.*)$", TEXTS[row.id], flags=re.MULTILINE) == [
            "Use",
            "How it was trained",
            "Results, as reported by the authors",
            "Limits and quirks",
            "Citation",
        ]

    @every_card
    def test_nothing_is_left_unsaid_or_undefined(self, row):
        text = TEXTS[row.id]
        for value in (row.file, *row.quirks, *(str(x) for x in (row.top1, row.top5) if x is not None)):
            assert value in text
        assert not re.search(r"\b(None|nan)\b", text)
        assert not re.search(r"my-model|\bFILE\b|\bTASK\b|CLIPS|CROPS", text)

    def test_costs(self):
        text = TEXTS["videomamba-m-k400-f16"]
        assert "| parameters | 73,880,464 |" in text
        assert "| GFLOPs a view, as the authors print them, the scan left out | 202 |" in text
        assert "| GFLOPs a view, the scan counted | 246 |" in text
        assert "the scan left out | not printed |" in TEXTS["videomamba-ti-coin-f32"]

    def test_training(self):
        text = TEXTS["videomamba-m-k400-f64-res384"]
        assert "started from `videomamba-m-k400-f64`, which started from `videomamba-m-in1k`." in text
        assert "| epochs | 6, of which 1 warm-up |" in text
        assert "| samples a step | 64, each video in 2 augmentations |" in text
        assert "| learning rate (AdamW) | 1.25e-6 after warm-up, down to 2.5e-7 by a cosine |" in text
        assert "- The paper prints 10 epochs, 2 of them warm-up." in text
        assert "Training started from scratch." in TEXTS["videomamba-s-in1k"]

    def test_the_layer_decay_that_does_not_decay_is_told_of_every_fine_tuning(self):
        told = {name for name, text in TEXTS.items() if "thousandth of the learning rate" in text}
        assert told == {name for name, row in RELEASED.items() if row.task == "video-classification"}

    def test_label_names(self):
        assert "huggingface/label-files" in TEXTS["videomamba-ti-k400-f8"]
        assert "own ten" in TEXTS["videomamba-ti-breakfast-f32"]
        assert "`LABEL_0` to `LABEL_179`" in TEXTS["videomamba-ti-coin-f32"]
        assert "Label" not in TEXTS["videomamba-m-k400-mask-pt"].split("## Limits")[1]

    @every_card
    def test_who_learned_from_clip_says_so(self, row):
        assert ("CLIP, whose features it learned to predict" in TEXTS[row.id]) == ("-mask" in row.id or "-mm-" in row.id)

    @for_every(["5m", "17m", "25m"])
    def test_video_text_tells_the_quick_score_from_the_better_one(self, size):
        text = TEXTS[f"videomamba-m-mm-{size}"]
        assert "190,354,621" in text
        assert "outputs.logits_per_text" in text
        assert "model.match(" in text


class TestPublished:
    """The card of a repository of an organisation, instead of a directory."""

    texts = {name: released_model_card(row, organisation="my-lab") for name, row in RELEASED.items()}

    def test_snippets_load_from_the_repository(self):
        wrong = [
            name
            for name, text in self.texts.items()
            for snippet in snippets(text)
            if f'"my-lab/{name}"' not in snippet or f'"{name}"' in snippet
        ]
        assert wrong == []
        assert [name for name, text in self.texts.items() if "videomamba convert" in text] == []

    def test_the_base_model_is_the_parent_s_repository(self):
        found = {name: ModelCard(text).data.base_model for name, text in self.texts.items()}
        assert found == {name: row.parent and f"my-lab/{row.parent}" for name, row in RELEASED.items()}


class TestTrainingRecipes:
    with TRAINING_RECIPES.open(encoding="utf-8", newline="") as file:
        recipes = list(csv.DictReader(file))

    every_recipe = for_every(recipes)

    def test_every_checkpoint_has_one(self):
        assert [recipe["id"] for recipe in self.recipes] == list(RELEASED)

    @every_recipe
    def test_values_make_sense(self, recipe):
        assert 0 < float(recipe["warmup_epochs"]) < int(recipe["epochs"]) <= 801
        assert 0 < float(recipe["min_lr"]) <= float(recipe["peak_lr"]) < 0.01
        assert float(recipe["weight_decay"]) in (0.1, 0.05, 1e-8)
        assert 0 <= float(recipe["drop_path"]) <= 0.8
        assert int(recipe["repeated_augmentation"]) in (1, 2, 3)
        assert recipe["augmentation"]
        for note in recipe["notes"].split("; "):
            assert re.fullmatch(r"\S.*[^.\s]", note), note
            assert note[0].isupper() or note[0].isdigit()

    @every_recipe
    def test_learning_rates_follow_the_samples_of_a_step(self, recipe):
        """Fine-tuning scales both by the samples, augmentations counted, over 256; images scale the peak only, over 512."""
        row, samples = RELEASED[recipe["id"]], int(recipe["samples_per_step"])
        if row.task == "image-classification":
            assert float(recipe["peak_lr"]) / samples * 512 == pytest.approx(5e-4 if row.parent is None else 5e-6)
        elif row.task == "video-classification":
            assert recipe["repeated_augmentation"] == "2"
            assert float(recipe["min_lr"]) / samples * 256 == pytest.approx(1e-6)
            base = float(recipe["peak_lr"]) / samples * 256
            assert any(base == pytest.approx(rate) for rate in ((5e-6,) if row.resolution > 224 else (1e-4, 2e-4, 4e-4)))

    @every_recipe
    def test_directions_are_not_flipped(self, recipe):
        """Something-Something tells left from right; the one training that flipped its clips all the same is a quirk."""
        row = RELEASED[recipe["id"]]
        if row.task == "video-classification":
            flipped = row.dataset != "something-something-v2" or row.id == "videomamba-m-ssv2-mask-f16-res288"
            assert recipe["augmentation"].endswith("horizontal flips" if flipped else "no flips")


class TestSnippets:
    @every_card
    def test_compile(self, row):
        found = snippets(TEXTS[row.id])
        assert len(found) == (2 if row.task == "video-classification" else 1)
        for snippet in found:
            compile(snippet, row.id, "exec")

    def test_run_where_this_package_is_not_installed(self, tmp_path, monkeypatch):
        cases = {"videomamba-m-k400-f16": "video_cls_base", "videomamba-ti-in1k": "image_cls_base"}
        for name, case in cases.items():
            save(convert(golden(case).checkpoint)[0], tmp_path / name, card="")
        render_clip(tmp_path / "video.mp4")
        Image.new("RGB", (90, 70), "red").save(tmp_path / "image.jpg")
        monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
        found = (snippet for name in cases for snippet in snippets(TEXTS[name]))
        script = "\nprint('next')\n".join(["import sys", "sys.modules['modeling_videomamba'] = None", *found])
        process = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        answers = process.stdout.split("next\n")[2:]
        assert [len(answer.splitlines()) for answer in answers] == [1, 5, 1]  # of a pipeline, of views, of a pipeline
        assert all(answer.count("LABEL_") >= 1 for answer in answers)

    def test_run_with_a_masked_pretraining_model(self, tmp_path, monkeypatch, converted):
        name = "videomamba-m-k400-mask-pt"
        converted(golden("pretrain_k1").checkpoint).rename(tmp_path / name)
        render_clip(tmp_path / "video.mp4")
        monkeypatch.chdir(tmp_path)
        [snippet] = snippets(TEXTS[name])
        variables = {}
        exec(compile(snippet, name, "exec"), variables)
        assert variables["features"].shape[:2] == (1, 1 + variables["nothing"].shape[1])
        assert variables["classifier"].classifier.out_features == 10


class TestOwnCheckpoint:
    @for_every(
        [
            ("video_cls_base", "video-classification", []),
            ("image_cls_base", "image-classification", []),
            ("pretrain_k1", "feature-extraction", ["masked-pretraining"]),
        ]
    )
    def test_a_valid_card_without_claims(self, case, tag, tags):
        text = model_card(convert(golden(case).checkpoint)[0], "fine", "mine.pth")
        data = ModelCard(text).data
        assert (data.pipeline_tag, data.library_name, data.tags[3:]) == (tag, "transformers", tags)
        assert (data.eval_results, data.base_model, data.license) == (None, None, None)
        assert "`mine.pth`" in text
        assert re.search(r" [1-9] frame\(s\) of \d\d pixels, ", text)
        [snippet] = snippets(text)
        compile(snippet, case, "exec")
        assert '"fine"' in snippet

    def test_without_any_head(self):
        [snippet] = snippets(model_card(VideoMambaModel(small_config(num_labels=0)), "fine", "mine.pth"))
        assert 'AutoModel.from_pretrained("fine", trust_remote_code=True)' in snippet


def test_the_script_runs_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["make_model_cards.py", "--check"])
    runpy.run_path(str(ROOT / "conversion" / "make_model_cards.py"), run_name="__main__")
