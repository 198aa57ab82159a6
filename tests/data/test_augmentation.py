"""What happens to a clip between its file and the model in training: the reference's augmentation, drawn reproducibly."""

import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader
from torchvision.transforms import InterpolationMode, v2

from modeling_videomamba import video_decoding
from modeling_videomamba.data import clips as clips_module
from modeling_videomamba.data.augmentation import (
    GREY,
    ClipAutoAugment,
    ClipRandomErasing,
    MultiScaleCrop,
    pretraining_transform,
    training_transform,
)
from modeling_videomamba.data.clips import ClipCollator, TrainingClips, UnreadableFiles, drawn_from
from modeling_videomamba.data.frame_sampling import FRAME_SAMPLINGS
from modeling_videomamba.data.mixing import ClipMixing
from tests.conftest import golden, render_clip


POLICIES = ["rand-m5-n2-mstd0.25-inc1", "rand-m7-n4-mstd0.5-inc1"]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def picture(height=48, width=64, seed=0) -> torch.Tensor:
    """A smooth picture `(3, height, width)`, uint8, without symmetry."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(256, (1, 3, 5, 7), generator=generator).float()
    return interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 255).byte()


def still(num_frames=3, **kwargs) -> torch.Tensor:
    return picture(**kwargs).repeat(num_frames, 1, 1, 1)


def coordinates(height, width) -> torch.Tensor:
    """A picture whose first channel counts rows and whose second counts columns."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, torch.zeros_like(rows)])


class TestAllFramesAlike:
    @pytest.mark.parametrize(
        "transform",
        [
            *map(ClipAutoAugment, POLICIES),
            MultiScaleCrop(32),
            training_transform(32, MEAN, STD, POLICIES[0], random_erasing=0),
            training_transform(32, MEAN, STD, POLICIES[1], random_erasing=0),
        ],
        ids=[*POLICIES, "multi-scale crop", "training, m5", "training, m7"],
    )
    def test_identical_frames_stay_identical(self, transform):
        seen = set()
        for seed in range(40):
            seed_everything(seed)
            clip = transform(still())
            assert len(clip) == 3
            assert torch.equal(clip, clip[:1].expand_as(clip)), seed
            seen.add(clip[0].numpy().tobytes())
        assert len(seen) > 20  # it did something

    def test_random_erasing_erases_one_box_but_with_new_noise_everywhere(self):
        erase = ClipRandomErasing(p=1)
        for seed in range(20):
            torch.manual_seed(seed)
            clip = torch.full((4, 3, 48, 64), 100.0)
            erased = erase(clip) != clip
            assert torch.equal(erased, erased[0, 0].expand_as(erased))
            rows, columns = erased[0, 0].any(1).nonzero()[:, 0], erased[0, 0].any(0).nonzero()[:, 0]
            height, width = (int(side[-1] - side[0]) + 1 for side in (rows, columns))
            assert erased[0, 0].sum() == height * width
            assert 0.02 * 0.85 < height * width / (48 * 64) < 1 / 3 * 1.1  # sides are rounded
            assert 0.3 * 0.8 < height / width < 1 / 0.3 * 1.2
            noise = erase(clip)
            noise = noise[noise != 100]
            assert noise.unique().numel() > 0.99 * noise.numel()
            assert noise.mean() == pytest.approx(0, abs=0.15)
            assert noise.std() == pytest.approx(1, abs=0.15)

    def test_random_erasing_leaves_most_clips_alone(self):
        torch.manual_seed(0)
        clip = torch.zeros(1, 3, 16, 16)
        erased = [bool(ClipRandomErasing(p=0.25)(clip).any()) for _ in range(1000)]
        assert np.mean(erased) == pytest.approx(0.25, abs=0.04)


class TestRandAugment:
    """The operations, and what their arguments may be at a magnitude m from 0 to 10."""

    ARGUMENTS = {
        "AutoContrast": None,
        "Equalize": None,
        "Invert": None,
        "Rotate": lambda m: {-3 * m, 3 * m},  # degrees
        "PosterizeIncreasing": lambda m: {4 - int(0.4 * m)},  # bits that are kept
        "SolarizeIncreasing": lambda m: {256 - int(25.6 * m)},  # what is brighter is inverted
        "SolarizeAdd": lambda m: {int(11 * m)},  # to what is darker than 128
        "ColorIncreasing": lambda m: {1 - 0.09 * m, 1 + 0.09 * m},
        "ContrastIncreasing": lambda m: {1 - 0.09 * m, 1 + 0.09 * m},
        "BrightnessIncreasing": lambda m: {1 - 0.09 * m, 1 + 0.09 * m},
        "SharpnessIncreasing": lambda m: {1 - 0.09 * m, 1 + 0.09 * m},
        "ShearX": lambda m: {-0.03 * m, 0.03 * m},
        "ShearY": lambda m: {-0.03 * m, 0.03 * m},
        "TranslateXRel": lambda m: {-0.045 * m, 0.045 * m},  # of the size
        "TranslateYRel": lambda m: {-0.045 * m, 0.045 * m},
    }

    @pytest.mark.parametrize("policy", POLICIES)
    def test_operations_and_their_arguments(self, policy):
        operations = {operation.name: operation for operation in ClipAutoAugment(policy).augment.ops}
        assert list(operations) == list(self.ARGUMENTS)
        random.seed(0)
        for name, arguments in self.ARGUMENTS.items():
            operation = operations[name]
            if arguments is None:
                assert operation.level_fn is None
                continue
            for magnitude in (0, 2.7, 5, 7, 10):
                drawn = {operation.level_fn(magnitude, operation.hparams)[0] for _ in range(40)}
                assert sorted(drawn) == pytest.approx(sorted(arguments(magnitude))), (name, magnitude)

    @pytest.mark.parametrize(("policy", "magnitude", "spread", "count"), [(POLICIES[0], 5, 0.25, 2), (POLICIES[1], 7, 0.5, 4)])
    def test_how_many_are_applied_and_how_strongly(self, policy, magnitude, spread, count):
        per_unit = {"Rotate": 3, "ShearX": 0.03, "ShearY": 0.03, "TranslateXRel": 0.045, "TranslateYRel": 0.045}
        augment = ClipAutoAugment(policy)
        applied = []

        def recorder(name):
            def record(image, *args, **kwargs):
                assert kwargs == {"fillcolor": (128, 128, 128), "resample": Image.Resampling.BICUBIC}
                applied[-1].append((name, *args))
                return image

            return record

        for operation in augment.augment.ops:
            operation.aug_fn = recorder(operation.name)
        seed_everything(0)
        for _ in range(800):
            applied.append([])
            augment(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))

        numbers = [len(names) for names in applied]
        assert max(numbers) == count
        assert np.mean(numbers) == pytest.approx(0.5 * count, rel=0.07)
        every = [name for names in applied for name, *_ in names]
        shares = [every.count(name) / len(every) for name in self.ARGUMENTS]
        assert shares == pytest.approx([1 / 15] * 15, abs=0.03)
        assert any(len({name for name, *_ in names}) < len(names) for names in applied)  # drawn with replacement
        magnitudes = [abs(args[0]) / per_unit[name] for names in applied for name, *args in names if name in per_unit]
        assert np.mean(magnitudes) == pytest.approx(magnitude, abs=0.1)
        assert np.std(magnitudes) == pytest.approx(spread, rel=0.15)

    def test_magnitudes_end_at_10(self):
        augment = ClipAutoAugment("rand-m10-n1-mstd3-inc1-p1")
        augment.augment.ops = [operation for operation in augment.augment.ops if operation.name == "TranslateXRel"]
        shifts = []
        augment.augment.ops[0].aug_fn = lambda image, shift, **kwargs: shifts.append(abs(shift)) or image
        seed_everything(0)
        for _ in range(100):
            augment(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
        assert max(shifts) == 0.45
        assert shifts.count(0.45) == pytest.approx(50, abs=15)

    def test_room_is_filled_with_grey(self):
        augment = ClipAutoAugment("rand-m10-n1-p1-inc1")
        augment.augment.ops = [operation for operation in augment.augment.ops if operation.name == "TranslateXRel"]
        seed_everything(0)
        clip = augment(torch.full((2, 3, 20, 100), 255, dtype=torch.uint8))
        assert clip.dtype == torch.uint8
        assert clip.unique().tolist() == [GREY[0], 255]
        assert (clip[0, 0, 0] == 128).sum() == 45

    def test_every_frame_is_changed_as_if_it_were_alone(self):
        """What an operation measures, as AutoContrast does, it measures in each frame; what it draws, it draws once."""
        augment, frames = ClipAutoAugment(POLICIES[1]), [picture(seed=seed) for seed in range(3)]
        for seed in range(10):
            alone = []
            for frame in frames:
                seed_everything(seed)
                alone.append(augment(frame[None])[0])
            seed_everything(seed)
            assert torch.equal(augment(torch.stack(frames)), torch.stack(alone))

    def test_drawn_anew_for_every_clip_and_reproducible(self):
        augment, clip = ClipAutoAugment(POLICIES[1]), still()
        runs = []
        for _ in range(2):
            seed_everything(5)
            runs.append([augment(clip) for _ in range(10)])
        assert all(torch.equal(*pair) for pair in zip(*runs))
        assert len({result.numpy().tobytes() for result in runs[0]}) > 5


class TestMultiScaleCrop:
    @staticmethod
    def draws(crop, height, width, count=4000) -> set[tuple[int, int, int, int]]:
        random.seed(0)
        clip = torch.empty(1, 3, height, width, dtype=torch.uint8)
        draws = [crop.make_params([clip]) for _ in range(count)]
        return {(draw["height"], draw["width"], draw["top"], draw["left"]) for draw in draws}

    def test_sides_are_at_most_one_step_apart(self):
        sizes = {(height, width) for height, width, _, _ in self.draws(MultiScaleCrop(224), 240, 320)}
        steps = [240, 210, 180, 158]  # 1, 0.875, 0.75 and 0.66 of the shorter side
        assert sizes == {(steps[i], steps[j]) for i in range(4) for j in range(4) if abs(i - j) <= 1}

    def test_a_side_that_is_almost_the_models_becomes_it(self):
        sides = {height for height, _, _, _ in self.draws(MultiScaleCrop(224), 226, 300)}
        assert sides == {224, 197, 169, 149}
        sides = {height for height, _, _, _ in self.draws(MultiScaleCrop(224), 227, 300)}
        assert sides == {227, 198, 170, 149}

    def test_places(self):
        """In quarters of the room that the crop leaves, rounded down."""
        draws = self.draws(MultiScaleCrop(224), 200, 300)
        places = {(top, left) for height, width, top, left in draws if (height, width) == (150, 150)}
        corners = {(0, 0), (0, 148), (48, 0), (48, 148)}
        edges = {(0, 74), (24, 0), (24, 148), (48, 74)}
        quadrants = {(12, 37), (12, 111), (36, 37), (36, 111)}
        assert places == corners | edges | quadrants | {(24, 74)}

    @pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (30, 40)])
    def test_pixels_are_those_of_pil(self, height, width):
        """The reference crops and resizes, here also up, PIL images."""
        crop, frame = MultiScaleCrop(32), picture(height, width)
        image = v2.functional.to_pil_image(frame)
        for seed in range(20):
            random.seed(seed)
            params = crop.make_params([frame])
            random.seed(seed)
            clip = crop(frame.repeat(2, 1, 1, 1))
            assert clip.shape == (2, 3, 32, 32)
            assert clip.dtype == torch.uint8
            top, left = params["top"], params["left"]
            box = (left, top, left + params["width"], top + params["height"])
            expected = v2.functional.pil_to_tensor(image.crop(box).resize((32, 32), Image.Resampling.BILINEAR))
            assert (clip[0].int() - expected.int()).abs().max() <= 1


class TestTrainingTransform:
    PLAIN = {"auto_augment": None, "horizontal_flip": False, "random_erasing": 0}

    @pytest.mark.parametrize("policy", [None, *POLICIES])
    def test_shape_and_type(self, policy):
        seed_everything(0)
        clip = training_transform(24, MEAN, STD, policy)(still(num_frames=5))
        assert clip.shape == (5, 3, 24, 24)
        assert clip.dtype == torch.float32

    def test_normalisation(self):
        clip = training_transform(24, MEAN, STD, **self.PLAIN)(torch.full((2, 3, 48, 64), 51, dtype=torch.uint8))
        expected = (0.2 - torch.tensor(MEAN)) / torch.tensor(STD)
        torch.testing.assert_close(clip, expected[:, None, None].expand_as(clip))

    def test_resize_is_the_references(self):
        """Bilinear without antialiasing, of normalised pixels: here of a whole picture."""
        frames = torch.stack([picture(64, 64, seed) for seed in range(2)])
        clip = training_transform(24, MEAN, STD, min_area=1, **self.PLAIN)(frames)
        expected = interpolate(v2.functional.normalize(frames / 255, MEAN, STD), (24, 24), mode="bilinear")
        torch.testing.assert_close(clip, expected, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("min_area", [0.08, 0.5])
    def test_area_and_ratio_of_crops(self, min_area):
        """Seen in the slopes of a picture of its own coordinates."""
        transform = training_transform(32, [0] * 3, [1] * 3, min_area=min_area, **self.PLAIN)
        frame, boxes = coordinates(256, 256).byte(), []
        seed_everything(0)
        for _ in range(300):
            rows, columns, _ = 255 * transform(frame[None])[0]
            boxes.append(((rows[20, 0] - rows[10, 0]) / 10 * 32, (columns[0, 20] - columns[0, 10]) / 10 * 32))
        heights, widths = torch.tensor(boxes).T
        areas, ratios = heights * widths / 256**2, widths / heights
        assert 0.98 * min_area < areas.min() < min_area + 0.05
        assert 0.95 < areas.max() <= 1
        assert areas.mean() == pytest.approx((min_area + 1) / 2, abs=0.08)  # large crops of other ratios do not fit
        assert 0.73 < ratios.min() < 0.77
        assert 1.3 < ratios.max() < 1.36
        assert ratios.log().mean() == pytest.approx(0, abs=0.03)

    def test_the_flip_can_be_left_out(self):
        frames = (3 * coordinates(48, 64)).byte().repeat(2, 1, 1, 1)
        for flips, expected in ((True, {True, False}), (False, {False})):
            transform = training_transform(16, MEAN, STD, **self.PLAIN | {"horizontal_flip": flips})
            seed_everything(0)
            seen = set()
            for _ in range(30):
                rows, columns, _ = transform(frames)[0]
                assert (rows.diff(dim=0) > 0).all()  # never upside down
                seen.add(bool((columns.diff(dim=1) < 0).all()))
            assert seen == expected

    def test_steps_are_the_references_by_default(self):
        augment, _, crop, flip, _, erase = training_transform(224, MEAN, STD).transforms
        assert augment.policy == "rand-m7-n4-mstd0.5-inc1"
        assert crop.interpolation == InterpolationMode.BILINEAR
        assert flip.p == 0.5
        assert erase.p == 0.25


class TestPretrainingTransform:
    def test_normalisation(self):
        clip = pretraining_transform(24, MEAN, STD)(torch.full((2, 3, 48, 64), 51, dtype=torch.uint8))
        expected = (0.2 - torch.tensor(MEAN)) / torch.tensor(STD)
        torch.testing.assert_close(clip, expected[:, None, None].expand(2, 3, 24, 24))

    def test_the_flip_can_be_left_out(self):
        frames = (3 * coordinates(48, 64)).byte().repeat(2, 1, 1, 1)
        for flips, expected in ((True, {True, False}), (False, {False})):
            seed_everything(0)
            transform = pretraining_transform(16, [0] * 3, [1] * 3, horizontal_flip=flips)
            clips = [transform(frames) for _ in range(30)]
            assert {bool((clip[0, 1].diff(dim=1) < 0).all()) for clip in clips} == expected
            assert all((clip[0, 0].diff(dim=0) > 0).all() for clip in clips)  # never upside down


class TestMixing:
    def test_mixed_as_the_reference_mixes(self):
        reference = golden("mixup_video")
        args = reference.meta["args"]
        mixing = ClipMixing(args["num_classes"], args["mixup_alpha"], args["cutmix_alpha"], args["label_smoothing"])
        clips, labels = reference.inputs["x"].transpose(1, 2), reference.inputs["y"]
        original = clips.clone()
        for seed in range(4):
            np.random.seed(seed)
            mixed, targets = mixing(clips, labels)
            torch.testing.assert_close(mixed.transpose(1, 2), reference.outputs[f"seed{seed}.x"], rtol=0, atol=1e-6)
            torch.testing.assert_close(targets, reference.outputs[f"seed{seed}.target"], rtol=0, atol=1e-6)
            assert targets.dtype == torch.float32
        assert torch.equal(clips, original)

    @pytest.fixture
    def clips(self):
        return torch.randn(4, 2, 3, 12, 16, generator=torch.Generator().manual_seed(0))

    def test_smoothing_alone(self, clips):
        state = np.random.get_state()[1].copy()
        mixed, targets = ClipMixing(5, mixup_alpha=0, cutmix_alpha=0, label_smoothing=0.1)(clips, torch.tensor([0, 1, 2, 4]))
        assert torch.equal(mixed, clips)
        torch.testing.assert_close(targets, torch.eye(5)[[0, 1, 2, 4]] * 0.9 + 0.02)
        assert (np.random.get_state()[1] == state).all()

    def test_mixup_alone(self, clips):
        mixing = ClipMixing(4, cutmix_alpha=0, label_smoothing=0)
        for seed in range(10):
            np.random.seed(seed)
            mixed, targets = mixing(clips, torch.arange(4))
            weight = targets[0, 0]
            assert 0 < weight < 1
            torch.testing.assert_close(targets, torch.eye(4) * weight + torch.eye(4).flip(0) * (1 - weight))
            torch.testing.assert_close(mixed, clips * weight + clips.flip(0) * (1 - weight))

    def test_cutmix_alone(self, clips):
        mixing, boxes = ClipMixing(4, mixup_alpha=0, label_smoothing=0), set()
        for seed in range(10):
            np.random.seed(seed)
            mixed, targets = mixing(clips, torch.arange(4))
            is_partners = mixed == clips.flip(0)
            assert torch.equal(is_partners, is_partners[0, 0, 0].expand_as(is_partners))  # one box, in all frames
            assert torch.equal(mixed[~is_partners], clips[~is_partners])
            weight = 1 - is_partners.float().mean()  # of what is left where the box leaves the frame
            torch.testing.assert_close(targets, torch.eye(4) * weight + torch.eye(4).flip(0) * (1 - weight))
            boxes.add(is_partners[0, 0, 0].numpy().tobytes())
        assert len(boxes) > 5

    def test_the_box_of_cutmix_has_the_share_that_was_drawn(self, clips, monkeypatch):
        """A weight of 3/4, which is that of the clip itself: a box of a quarter of the frame, at its centre."""
        monkeypatch.setattr(np.random, "beta", lambda *alphas: 0.75)
        monkeypatch.setattr(np.random, "randint", lambda size: size // 2)
        mixed, targets = ClipMixing(4, mixup_alpha=0, label_smoothing=0)(clips, torch.arange(4))
        expected = clips.clone()
        expected[..., 3:9, 4:12] = clips.flip(0)[..., 3:9, 4:12]  # of 12 x 16
        assert torch.equal(mixed, expected)
        assert targets[0].tolist() == [0.75, 0, 0, 0.25]

    def test_mixup_and_cutmix_take_turns(self, clips, monkeypatch):
        """Each with its own alpha."""
        alphas = []
        draw = np.random.beta
        monkeypatch.setattr(np.random, "beta", lambda *given: alphas.append(given) or draw(*given))
        np.random.seed(0)
        mixed = [ClipMixing(4, mixup_alpha=0.8, cutmix_alpha=1.5)(clips, torch.arange(4))[0] for _ in range(200)]
        are_cut = [bool(((clip == clips) | (clip == clips.flip(0))).all()) for clip in mixed]
        assert set(zip(alphas, are_cut)) == {((0.8, 0.8), False), ((1.5, 1.5), True)}
        assert np.mean(are_cut) == pytest.approx(0.5, abs=0.1)


WIDTHS = (32, 48, 64)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Dataset:
    """Three videos of 24 frames, told apart by their widths and by their labels, and one that is none, the third."""
    folder = tmp_path_factory.mktemp("videos")
    for i, width in enumerate(WIDTHS):
        render_clip(folder / f"{i}.mp4", num_frames=24, size=(32, width))
    (folder / "broken.mp4").write_text("not a video " * 100)
    names = ["0.mp4", "1.mp4", "broken.mp4", "2.mp4"]
    return Dataset.from_dict({"video": [str(folder / name) for name in names], "label": [0, 1, 9, 2]})


def training_clips(videos, folder, transform=None, repeats=1, seed=0, strict=False, sampling="segments", num_frames=4):
    transform = transform or training_transform(16, MEAN, STD, POLICIES[1])
    unreadable = UnreadableFiles(folder / "unreadable_files.txt", strict)
    return TrainingClips(
        videos, videos["label"][:], FRAME_SAMPLINGS[sampling], num_frames, transform, repeats, seed, unreadable
    )


def as_they_are(frames):
    return frames


class TestRepeatedAugmentation:
    def test_both_clips_of_a_video_follow_each_other(self, videos, tmp_path):
        clips = training_clips(videos, tmp_path, repeats=2)
        items = [clips[i] for i in (3, 0, 1)]
        assert items[0]["pixel_values"].shape == (2, 4, 3, 16, 16)
        batch = ClipCollator()(items)
        assert batch.keys() == {"pixel_values", "labels"}
        assert batch["pixel_values"].shape == (6, 4, 3, 16, 16)
        assert torch.equal(batch["pixel_values"][2:4], items[1]["pixel_values"])
        assert batch["labels"].tolist() == [2, 2, 0, 0, 1, 1]

    def test_a_video_is_decoded_once_and_augmented_twice(self, videos, tmp_path, monkeypatch):
        decoded = []

        def decode_video(video, *args, **kwargs):
            decoded.append(video)
            return video_decoding.decode_video(video, *args, **kwargs)

        monkeypatch.setattr(clips_module, "decode_video", decode_video)
        first, second = training_clips(videos, tmp_path, repeats=2)[1]["pixel_values"]
        assert decoded == [videos[1]["video"]]
        assert not torch.equal(first, second)
        first, second = training_clips(videos, tmp_path, as_they_are, repeats=2)[1]["pixel_values"]
        assert torch.equal(first, second)  # of the same frames

    def test_only_sampled_frames_become_pictures(self, videos, tmp_path, monkeypatch):
        pictures = []

        def make_picture(frame):
            pictures.append(frame.pts)
            return to_picture(frame)

        to_picture = video_decoding._picture
        monkeypatch.setattr(video_decoding, "torchcodec_is_usable", lambda: False)
        monkeypatch.setattr(video_decoding, "_picture", make_picture)
        training_clips(videos, tmp_path, repeats=2, sampling="ssv2", num_frames=6)[0]
        assert len(pictures) == 6
        assert len(set(pictures)) == 6  # of the 24

    def test_mixing_is_drawn_like_the_rest(self, videos, tmp_path):
        clips = training_clips(videos, tmp_path, repeats=2)
        items = [clips[0], clips[3]]
        collator = ClipCollator(ClipMixing(3))
        seed_everything(0)
        batch = collator(items)
        seed_everything(1)
        again = collator(items)
        assert batch["labels"].shape == (4, 3)
        assert not torch.equal(batch["pixel_values"], torch.cat([item["pixel_values"] for item in items]))
        assert all(torch.equal(batch[name], again[name]) for name in batch)
        for item in items:
            del item["key"]  # as in evaluation
        assert collator(items)["labels"].tolist() == [0, 0, 2, 2]


class TestReproducibility:
    @staticmethod
    def batches(loader) -> list[torch.Tensor]:
        return [tensor for batch in loader for tensor in (batch["pixel_values"], batch["labels"])]

    def test_workers_draw_what_the_main_process_draws_and_see_the_epoch(self, videos, tmp_path):
        clips, collator = training_clips(videos, tmp_path, repeats=2), ClipCollator(ClipMixing(3))
        alone = DataLoader(clips, batch_size=2, collate_fn=collator, sampler=[0, 3, 1, 3])
        helped = DataLoader(
            clips, batch_size=2, collate_fn=collator, sampler=[0, 3, 1, 3], num_workers=2, persistent_workers=True
        )
        epochs = []
        for epoch in (0, 1, 0):
            clips.epoch.fill_(epoch)
            seed_everything(epoch)
            epochs.append(self.batches(alone))
            assert all(torch.equal(*pair) for pair in zip(epochs[-1], self.batches(helped), strict=True))
        first, second, third = epochs
        assert all(torch.equal(*pair) for pair in zip(first, third))
        assert not any(torch.equal(*pair) for pair in zip(first[::2], second[::2]))

    def test_every_part_of_the_key_counts(self, videos, tmp_path):
        items = []
        same = videos.select([0, 0, 0])
        for seed, epoch, index in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3)]:
            clips = training_clips(same, tmp_path, seed=seed)
            clips.epoch.fill_(epoch)
            items.append(clips[index]["pixel_values"])
        assert len({item.numpy().tobytes() for item in items}) == len(items)  # item 3 is another copy of the first of three

    def test_every_generator_is_seeded(self):
        """Python's draws frames, NumPy's operations, and torch's crops."""
        draws = []
        for key in ((0, 1), (0, 1), (0, 2)):
            with drawn_from(*key):
                draws.append((random.random(), np.random.rand(), torch.rand(()).item()))
        assert draws[0] == draws[1]
        assert not set(draws[0]) & set(draws[2])

    def test_frames_are_drawn_anew_in_every_epoch(self, videos, tmp_path):
        clips, seen = training_clips(videos, tmp_path, as_they_are), set()
        for epoch in range(5):
            clips.epoch.fill_(epoch)
            seen.add(clips[0]["pixel_values"].numpy().tobytes())
        assert len(seen) > 1

    @staticmethod
    def generators():
        name, *numbers = np.random.get_state()
        return random.getstate(), name, [np.asarray(part).tolist() for part in numbers], torch.get_rng_state().tolist()

    def test_global_generators_are_left_alone(self, videos, tmp_path):
        seed_everything(3)
        before = self.generators()
        clips = training_clips(videos, tmp_path, repeats=2)
        ClipCollator(ClipMixing(3))([clips[0], clips[3]])
        assert self.generators() == before
        with pytest.raises(KeyError), drawn_from(1, 2):
            assert self.generators() != before
            raise KeyError
        assert self.generators() == before


class TestUnreadableFiles:
    def test_the_next_takes_its_place_and_it_is_named_once(self, videos, tmp_path, capfd):
        for _ in range(2):  # also if another process finds it
            clips = training_clips(videos, tmp_path, as_they_are, repeats=2)
            for _ in range(2):
                item = clips[2]
                assert item["labels"].tolist() == [2, 2]
                assert item["pixel_values"].shape[-1] == WIDTHS[2]
        assert clips.unreadable.file.read_text().splitlines() == [videos[2]["video"]] == clips.unreadable.names()
        message = capfd.readouterr().err
        assert message.count(f"warning: skipped {videos[2]['video']}: Cannot decode the video") == 1

    def test_after_the_last_comes_the_first(self, videos, tmp_path):
        clips = training_clips(videos.select([0, 3, 2]), tmp_path, as_they_are)
        assert clips[2]["labels"].tolist() == [0]
        assert clips[2]["pixel_values"].shape[-1] == WIDTHS[0]

    def test_strict(self, videos, tmp_path):
        clips = training_clips(videos, tmp_path, strict=True)
        assert clips[0]["labels"].tolist() == [0]
        with pytest.raises(ValueError, match=f"Cannot read {videos[2]['video']} \\(--strict\\): Cannot decode the video"):
            clips[2]
        assert clips.unreadable.names() == []

    def test_a_missing_file_is_unreadable_too(self, videos, tmp_path):
        gone = Dataset.from_dict({"video": ["gone.mp4", videos[0]["video"]], "label": [5, 6]})
        clips = training_clips(gone, tmp_path)
        assert clips[0]["labels"].tolist() == [6]
        assert clips.unreadable.names() == ["gone.mp4"]

    def test_none_can_be_read(self, videos, tmp_path):
        with pytest.raises(ValueError, match="None of the 2 videos or images to train on can be read"):
            training_clips(videos.select([2, 2]), tmp_path)[0]
