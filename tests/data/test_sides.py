"""Names of classes that tell left from right are found, whose clips must not be mirrored."""

from examples.demos.render_demo_clips import CLASSES
from modeling_videomamba.data.sides import names_with_sides
from modeling_videomamba.training.recipe import RECIPES
from tests.rows import all_rows


def test_sides():
    def check(names, found):
        assert len(names_with_sides(names)) == found

    all_rows(
        check,
        [
            (["pan_left", "pan_right", "zoom_in"], 2),
            (["swipeLeft", "SwipeRight", "Stop"], 2),
            (["Turning something to the LEFT", "Holding something"], 1),
            (["left-handed", "jump"], 1),
            (["panleft", "panright", "bright"], 2),
            (["clockwise", "counter-clockwise"], 2),
            (["rotateAnticlockwise", "still"], 1),
            (["hand_L", "hand_R"], 2),
            (["turn CW", "turn CCW"], 2),
            (["drives east", "drives west"], 2),
            (["moving westwards", "standing"], 1),
            (["links abbiegen", "rechts abbiegen"], 2),
            (["gira a la izquierda", "gira a la derecha"], 2),
            (["左转", "右转"], 2),
            (["0 left", "0 right", "1 left", "1 right"], 4),
            (["bright light", "upright piano", "cleft", "copyright", "delights"], 0),
            (["golf links", "port", "vitamin r", "western", "Easter"], 0),
            (["jump", "run", "cartwheel"], 0),
            (["fly", "fry", "play", "pray"], 0),
            ([], 0),
        ],
    )


def test_they_keep_their_order():
    assert names_with_sides(list(CLASSES)) == ["pan_left", "pan_right", "rotate_right", "rotate_left"]


def test_no_recipe_says_otherwise_of_its_own_data():
    """Something-Something V2 tells left from right; so do the demo's classes and the digits'."""
    for name in ("videomamba-ti-ssv2-f8", "demo", "digits-finetuning"):
        assert "horizontal_flip: false" in (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
