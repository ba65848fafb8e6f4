"""Classes of data among those of a model: by name, by one of several, by number."""

import pytest

from jax_train.errors import UserError
from jax_train.runs.class_names import find_classes

BIRDS = ["tench, Tinca tinca", "crane", "wall_clock", "crane", "kite, hawk", "hawk"]


def find(wanted, known=BIRDS):
    return find_classes("hf:a/b", known, "folder:birds", wanted)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("tench, Tinca tinca", 0),
        ("Tench", 0),
        ("tinca_tinca", 0),
        ("Wall-Clock", 2),
        ("kite", 4),
        ("hawk", 5),  # the whole name of one class, a part of another's
    ],
)
def test_a_name_is_found_in_any_case_whole_or_as_one_of_several(name, number):
    assert find([name]) == ([number], [])


def test_the_order_is_that_of_the_data():
    assert find(["hawk", "tench", "wall clock"])[0] == [5, 0, 2]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (["cat", "dog"], ["No class of folder:birds", "cat, dog", "crane", "hf:a/b"]),
        (["crane", "hawk"], ["does not know 1 of the 2 classes", "folder:birds: crane."]),
        (["hawk", "kites"], ["1 of the 2 classes", "Is 'kites' its 'kite, hawk'?"]),
        (["tench", "Tinca tinca"], ["'tench' and 'Tinca tinca'", "one class", "Join them"]),
    ],
)
def test_others_are_refused_in_a_paragraph(wanted, words):
    with pytest.raises(UserError) as error:
        find(wanted)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_without_names_the_same_number_is_taken_in_order():
    numbers, (note,) = find(["b", "a"], ["class 0", "class 1"])
    assert numbers == [0, 1]
    assert "hf:a/b does not name its classes" in note
    with pytest.raises(UserError, match="No class of"):
        find(["b", "a"], ["class 0", "class 1", "class 2"])


def test_all_of_imagenet_is_known_by_wordnets_numbers():
    wordnet = [f"n{k:08}" for k in range(1000)]
    numbers, (note,) = find(wordnet, [f"thing {k}" for k in range(1000)])
    assert numbers == list(range(1000))
    assert "ImageNet" in note
    with pytest.raises(UserError, match="No class of"):
        find(wordnet[:-1], [f"thing {k}" for k in range(1000)])
