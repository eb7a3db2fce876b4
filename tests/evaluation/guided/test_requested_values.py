import pytest

from evaluation.guided.requested_values import REQUESTABLE, RequestedValue, known_requests, requested_values, strengths

HU = {"mean_hu": [-100.0, -600.0, -100.0]}


def test_each_wish_has_its_values_from_low_to_high_in_the_words_of_the_pipeline():
    assert requested_values("malignancy", HU) == [RequestedValue("benign", 1.0), RequestedValue("malignant", 5.0)]
    assert [value.request for value in requested_values("texture", HU)] == ["ground-glass", "part-solid", "solid"]
    assert [value.request for value in requested_values("spiculation", HU)] == [1, 2, 3, 4, 5]
    assert requested_values("mean_hu", HU) == [RequestedValue("-600", -600.0), RequestedValue("-100", -100.0)]
    assert requested_values("mean_hu", HU)[0].request == -600.0
    with pytest.raises(ValueError, match="request 'diameter_mm', expected some of malignancy, "):
        requested_values("diameter_mm", HU)


def test_every_value_is_one_that_a_pipeline_takes():
    from diffusion.attributes import check_attribute

    for name in REQUESTABLE:
        for value in requested_values(name, dict.fromkeys(REQUESTABLE, (-800.0, 350.0))):
            assert check_attribute(name, value.request, REQUESTABLE) == value.number


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("cfg", (4, 0.5, 1)), ("classifier", (1.5, 4, 1)), ("both", (4, 4, 1)), ("hu", (1.5, 0.5, 4))],
)
def test_what_is_not_swept_keeps_its_strength(kind, expected):
    own = {"cfg_scale": 1.5, "guidance_scale": 0.5, "hu_scale": 1}
    assert tuple(strengths(kind, 4, own).values()) == expected


def test_wishes_that_a_kind_of_guidance_does_not_know_are_passed_over_with_a_sentence():
    unet, guide, refused = ("malignancy", "mean_hu"), ("malignancy", "texture", "lobulation"), {"lobulation": "0.1"}
    requests = ("malignancy", "texture", "lobulation", "mean_hu")
    assert known_requests(requests, "cfg", unet, guide, refused)[0] == ["malignancy", "mean_hu"]
    known, notes = known_requests(requests, "classifier", unet, guide, refused)
    assert known == ["malignancy", "texture"]
    assert notes[0] == "lobulation: not requested, the guide refuses it (0.1)" and notes[1].startswith("mean_hu: not")
    assert known_requests(requests, "both", unet, guide, refused)[0] == ["malignancy", "texture", "mean_hu"]
    assert known_requests(requests, "hu", unet, guide, refused)[0] == ["mean_hu"]
    with pytest.raises(ValueError, match=r"knows none of them by guidance of kind 'cfg'; its U-Net knows none, its"):
        known_requests(requests, "cfg", (), guide, refused)
