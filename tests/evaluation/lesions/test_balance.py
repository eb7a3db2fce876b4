"""A balance of sizes, textures and malignancy: read, met by real lesions, and told."""

import numpy as np
import pytest

from evaluation.lesions.balance import (
    TABLES,
    LesionClass,
    achieved,
    balance_of,
    balance_table,
    counted,
    read_balance,
    write_balance,
)
from evaluation.lesions.characters import characters_of
from evaluation.lesions.real_lesions import CHARACTER, load_real_lesions


@pytest.fixture(scope="module")
def real():
    return load_real_lesions()


@pytest.mark.parametrize("table", list(TABLES))
def test_lesions_that_are_drawn_have_the_shares_of_the_table_and_what_belongs_together_stays(real, table):
    classes = read_balance(table)
    drawn = characters_of("real", {"diameter_mm": (4.0, 30.0)}, real, classes)
    characters = [drawn.draw(number, np.random.default_rng(number)) for number in range(300)]
    for one in classes:
        name = one.attribute
        values = np.array([c.mask_mm if name == "diameter_mm" else c.requested[name] for c in characters])
        inside = (values >= one.low) & (values < one.high + (one.high in (5, 30)))
        assert inside.mean() == pytest.approx(one.share, abs=0.015)  # by chance alone it would be off by 0.03
        assert [str(one) in c.classes.split(", ") for c in characters] == inside.tolist()
    known = {tuple(row) for row in real.character}
    assert all(tuple(c.requested[name] for name in CHARACTER) in known for c in characters)


def test_a_lesion_depends_on_its_number_and_seed_alone_and_the_first_ones_are_balanced_too(real):
    classes = read_balance("equal")
    drawn = characters_of("real", {}, real, classes)
    first = [drawn.draw(number, np.random.default_rng(number)) for number in range(36)]
    assert [drawn.draw(number, np.random.default_rng(number)) for number in reversed(range(36))][::-1] == first
    assert [drawn.draw(number, np.random.default_rng(99)) for number in range(36)] != first
    sizes = [sum(str(one) in c.classes for c in first) for one in classes if one.attribute == "diameter_mm"]
    assert max(sizes) - min(sizes) <= 2


def test_weights_are_those_of_proportional_fitting_in_closed_form():
    """Two attributes that are independent: each weight is the product of the shares over the counts."""
    values = {"texture": np.array([1, 1, 1, 5, 5, 5.0]), "malignancy": np.array([1, 5, 5, 1, 5, 5.0])}
    table = {("texture", 1, 3): 0.8, ("texture", 3, 5): 0.2, ("malignancy", 1, 3): 0.5, ("malignancy", 3, 5): 0.5}
    classes = [LesionClass(*place, share) for place, share in table.items()]
    balance = balance_of(classes, values, np.ones(6, bool))
    weight = np.zeros(6)
    for share, rows, weights in zip(balance.share, balance.rows, balance.weights, strict=True):
        weight[rows] = share * weights
    np.testing.assert_allclose(weight, [0.4, 0.2, 0.2, 0.1, 0.05, 0.05], atol=1e-9)
    only = balance_of(classes, values, np.array([1, 1, 0, 1, 1, 0], bool))
    assert sorted(np.concatenate(only.rows)) == [0, 1, 3, 4]


def test_borders_belong_to_the_class_above_and_the_highest_one_holds_its_end():
    classes = [LesionClass("texture", 1, 3, 0.5), LesionClass("texture", 3, 5, 0.5)]
    found = counted(classes, {"texture": np.array([0.5, 1, 2.9, 3, 5, 5.1, np.nan])})
    assert [one.share for one in found] == [2, 2]


def test_what_was_made_is_told_for_each_class_and_can_be_read_again(tmp_path):
    classes = [LesionClass("texture", 1, 3, 0.25), LesionClass("texture", 3, 5, 0.75)]
    low, high = map(str, classes)
    rows = [(low, 0, False), (low, 0, True), (high, 1, True), (high, 2, False), (high, 3, True), (None, None, False)]
    table = dict(zip(("balance", "lesion", "accepted"), map(list, zip(*rows, strict=True)), strict=True))
    found = achieved(classes, table)
    assert [(row["share"], row["requested"], row["made"]) for row in found] == [
        (0.25, 0.25, pytest.approx(1 / 3)),
        (0.75, 0.75, pytest.approx(2 / 3)),
    ]
    assert balance_table(found).splitlines()[1].split() == ["texture", "1", "to", "3", "25.0%", "25.0%", "33.3%"]
    write_balance(tmp_path / "b.csv", [one._asdict() for one in classes])
    assert read_balance(str(tmp_path / "b.csv")) == classes


HEAD = "attribute,low,high,share\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attribute,low,share\ntexture,1,2\n", "columns attribute, low, share, expected attribute, low, high, share"),
        (HEAD, "no class, expected one row for each"),
        (HEAD + ",1,2,1\n", "line 2: no attribute, expected for example diameter_mm"),
        (HEAD + "texture,1,x,1\n", "line 2: high 'x', expected a number"),
        (HEAD + "texture,1,nan,1\n", "line 2: high 'nan', expected a number"),
        (HEAD + "texture,3,3,1\n", "line 2: from 3 to 3, expected the lower number first"),
        (HEAD + "texture,1,3,-1\n", "line 2: share -1, expected a number of at least 0"),
        (HEAD + "texture,1,3,1\ntexture,2,5,1\n", "classes texture 1 to 3 and texture 2 to 5 overlap"),
        (HEAD + "texture,1,3,0\ntexture,3,5,0\n", "all shares of texture are 0"),
    ],
)
def test_a_bad_table_is_refused_in_one_sentence_that_names_file_and_line(tmp_path, text, message):
    (tmp_path / "mix.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"mix.csv[:,] .*{message}"):
        read_balance(str(tmp_path / "mix.csv"))


def test_shares_that_no_real_lesions_have_are_refused(real):
    with pytest.raises(ValueError, match=r"balance nope: no such file; expected equal, lidc, or a CSV table"):
        read_balance("nope")
    for classes, message in (
        ([LesionClass("colour", 1, 2, 1.0)], 'attribute "colour" is unknown; known: diameter_mm'),
        (
            [LesionClass("diameter_mm", 200, 300, 1.0)],
            "no real lesion within the ranges is in the class diameter_mm 200",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            characters_of("real", {}, real, classes)
    with pytest.raises(ValueError, match=r"take --population real"):
        characters_of("uniform", {"diameter_mm": (4, 8)}, real, read_balance("equal"))
    values = {"texture": np.array([1.0, 5.0]), "malignancy": np.array([1.0, 5.0])}
    table = {("texture", 1, 3): 0.8, ("texture", 3, 5): 0.2, ("malignancy", 1, 3): 0.5, ("malignancy", 3, 5): 0.5}
    with pytest.raises(ValueError, match=r"no choice of real lesions has these shares at once"):
        balance_of([LesionClass(*p, s) for p, s in table.items()], values, np.ones(2, bool))
