"""A run is not continued with other settings: all that changes the weights is compared."""

import json
from dataclasses import dataclass, fields

import pytest
from transformers import TrainingArguments

from modeling_videomamba.data.settings import check_settings, compare_settings
from modeling_videomamba.training.arguments import (
    AlignmentArguments,
    AugmentationArguments,
    DataArguments,
    ModelArguments,
    VideoMambaTrainingArguments,
)
from modeling_videomamba.training.settings import settings_of


# What may change: how a run is written down and how often it is looked at, and how many machines do what at once
MAY_CHANGE = {
    *("recipe", "early_stopping_patience", "output_dir", "eval_strategy", "save_strategy", "save_total_limit", "report_to"),
    *("logging_steps", "use_cpu", "ddp_find_unused_parameters", "dataloader_pin_memory", "disable_tqdm"),
    *("dataloader_num_workers", "dataloader_drop_last", "remove_unused_columns", "restore_callback_states_from_checkpoint"),
}
MAY_CHANGE_OF_DATA = {"strict", "num_clips", "num_crops", "merge"}  # the last three are of an evaluation


def own_fields(arguments: type) -> set[str]:
    """What the class adds to transformers', or has another default for."""
    return {name for name in vars(arguments)["__annotations__"] if name in {field.name for field in fields(arguments)}}


class TestWhatCounts:
    def test_all_of_the_model_the_augmentation_and_the_teacher(self):
        for kind in (ModelArguments, AugmentationArguments, AlignmentArguments):
            assert settings_of(kind()).keys() == {field.name for field in fields(kind)}

    def test_all_of_the_data_but_what_only_an_evaluation_asks_for(self):
        assert settings_of(DataArguments()).keys() == {field.name for field in fields(DataArguments)} - MAY_CHANGE_OF_DATA

    def test_of_training_all_that_a_weight_depends_on(self, tmp_path):
        settings = settings_of(VideoMambaTrainingArguments(output_dir=str(tmp_path), use_cpu=True))
        assert own_fields(VideoMambaTrainingArguments) - MAY_CHANGE <= settings.keys()
        transformers_own = {"seed", "max_steps", "bf16", "per_device_train_batch_size", "gradient_accumulation_steps"}
        transformers_own |= {"adam_beta1", "adam_beta2", "adam_epsilon"}
        assert transformers_own <= settings.keys()
        assert not settings.keys() & MAY_CHANGE

    def test_names_are_those_of_the_arguments(self, tmp_path):
        """transformers may rename one, which would then be compared no longer."""
        known = {field.name for field in fields(TrainingArguments)} | own_fields(VideoMambaTrainingArguments)
        assert settings_of(VideoMambaTrainingArguments(output_dir=str(tmp_path), use_cpu=True)).keys() <= known

    def test_arguments_of_a_command_s_own_count_whole(self):
        @dataclass
        class Own:
            depth: int = 3

        assert settings_of(Own(), AugmentationArguments()).items() >= {"depth": 3, "mixup": 0.0}.items()


class TestComparing:
    def test_what_is_the_same_goes_on(self, tmp_path):
        for _ in range(2):
            check_settings(tmp_path / "settings.json", {"seed": 1, "data": "a"})
        compare_settings(tmp_path / "nothing.json", {"seed": 1})
        assert not (tmp_path / "nothing.json").exists()

    def test_all_that_differs_is_named(self, tmp_path):
        check_settings(tmp_path / "settings.json", {"seed": 1, "data": "a", "mixup": 0.0})
        before = (tmp_path / "settings.json").read_text()
        changes = "seed was 1 and is 2; new was None and is 3"
        for check in (check_settings, compare_settings):
            with pytest.raises(ValueError, match=f"{tmp_path} has results of other settings: {changes}. Give another"):
                check(tmp_path / "settings.json", {"seed": 2, "data": "a", "new": 3})
        assert (tmp_path / "settings.json").read_text() == before

    def test_notes_are_written_for_people_and_not_compared(self, tmp_path):
        check_settings(tmp_path / "settings.json", {"seed": 1}, notes={"host": "a"})
        assert json.loads((tmp_path / "settings.json").read_text()) == {"host": "a", "seed": 1}
        check_settings(tmp_path / "settings.json", {"seed": 1}, notes={"host": "b"})

    @pytest.mark.parametrize(("text", "wrong"), [("[1]", "not the settings of a run"), ("{", "not JSON")])
    def test_a_file_that_is_not_of_settings(self, tmp_path, text, wrong):
        (tmp_path / "settings.json").write_text(text)
        with pytest.raises(ValueError, match=f"{tmp_path}/settings.json.*: {wrong}"):
            compare_settings(tmp_path / "settings.json", {"seed": 1})
