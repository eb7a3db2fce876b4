import pytest

from evaluation.guided.wishes import WISHES, AskedValue, asked_values, known_wishes, strengths

HU = {"mean_hu": [-100.0, -600.0, -100.0]}


def test_each_wish_has_its_values_from_low_to_high_in_the_words_of_the_pipeline():
    assert asked_values("malignancy", HU) == [AskedValue("benign", 1.0), AskedValue("malignant", 5.0)]
    assert [value.wish for value in asked_values("texture", HU)] == ["ground-glass", "part-solid", "solid"]
    assert [value.wish for value in asked_values("spiculation", HU)] == [1, 2, 3, 4, 5]
    assert asked_values("mean_hu", HU) == [AskedValue("-600", -600.0), AskedValue("-100", -100.0)]
    assert asked_values("mean_hu", HU)[0].wish == -600.0
    with pytest.raises(ValueError, match="wish 'diameter_mm', expected some of malignancy, "):
        asked_values("diameter_mm", HU)


def test_every_value_is_one_that_a_pipeline_takes():
    from diffusion.attributes import check_wish

    for name in WISHES:
        for value in asked_values(name, dict.fromkeys(WISHES, (-800.0, 350.0))):
            assert check_wish(name, value.wish, WISHES) == value.number


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("cfg", (4, 0.5, 1)), ("classifier", (1.5, 4, 1)), ("both", (4, 4, 1)), ("hu", (1.5, 0.5, 4))],
)
def test_what_is_not_swept_keeps_its_strength(kind, expected):
    own = {"cfg_scale": 1.5, "guidance_scale": 0.5, "hu_scale": 1}
    assert tuple(strengths(kind, 4, own).values()) == expected


def test_wishes_that_a_kind_of_guidance_does_not_know_are_passed_over_with_a_sentence():
    unet, guide, refused = ("malignancy", "mean_hu"), ("malignancy", "texture", "lobulation"), {"lobulation": "0.1"}
    wishes = ("malignancy", "texture", "lobulation", "mean_hu")
    assert known_wishes(wishes, "cfg", unet, guide, refused)[0] == ["malignancy", "mean_hu"]
    known, notes = known_wishes(wishes, "classifier", unet, guide, refused)
    assert known == ["malignancy", "texture"]
    assert notes[0] == "lobulation: not asked for, the guide refuses it (0.1)" and notes[1].startswith("mean_hu: not")
    assert known_wishes(wishes, "both", unet, guide, refused)[0] == ["malignancy", "texture", "mean_hu"]
    assert known_wishes(wishes, "hu", unet, guide, refused)[0] == ["mean_hu"]
    with pytest.raises(ValueError, match=r"knows none of them by guidance of kind 'cfg'; its U-Net knows none, its"):
        known_wishes(wishes, "cfg", (), guide, refused)
