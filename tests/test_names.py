"""Which name was meant, and which names there are."""

import inspect
from abc import ABC, abstractmethod

import pytest

from m2ib_lightning.names import meant, nearest, parameters, subclasses, with_article


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        ("abcdefgxyz", ["abcdefg123"], "abcdefg123"),  # 2 * 7 of 20 letters are alike: just enough
        ("abcdefgxyz", ["abcdef1234"], None),
        ("abcd", ["abxy"], None),  # half of it
        ("image_beta", ["image_beta2", "IMAGEBETA", "image-layer"], "IMAGEBETA"),
        ("--image", ["--output", "--data.image", "--model.image_beta"], "--data.image"),
        ("model.lr", ["data.lr", "model.lr"], "model.lr"),  # the same whole before the same last word
        ("model.weight", ["model.weights", "loss.weight"], "loss.weight"),  # 0.99 of the last word, 0.96 of the whole
        ("a", [], None),
    ],
)
def test_the_name_that_is_most_alike_is_the_one_that_was_meant(name, known, found):
    assert nearest(name, known) == found
    assert meant(name, known, "otherwise.") == ("otherwise." if found is None else f"did you mean {found}?")


@pytest.mark.parametrize(
    ("name", "said"),
    [("Term", "a Term"), ("IBTerm", "an IBTerm"), ("unit", "an unit"), ("Ba", "a Ba"), ("ab", "an ab")],
)
def test_an_article_follows_the_first_letter(name, said):
    assert with_article(name) == said


class Plain:
    def __init__(self, a, /, b, *rest, c=1): ...


class Passing(Plain):
    def __init__(self, d=2, **keywords): ...


class Silent(Passing):
    """Has no constructor of its own."""


class Closed(Passing):
    def __init__(self, e): ...


def test_what_a_constructor_takes_is_listed_as_far_as_keywords_are_passed_on():
    assert parameters(Plain) == ["b", "c"]
    assert parameters(Passing) == parameters(Silent) == ["d", "b", "c"]
    assert parameters(Closed) == ["e"]


def named(name: str, base: type, module: str = "elsewhere") -> type:
    return type(name, (base,), {"__module__": module})


def test_classes_that_can_be_made_are_listed_by_name_and_contracts_are_not():
    class Base(ABC):
        @abstractmethod
        def give(self): ...

    def give(self): ...

    made = type("Zebra", (Base,), {"give": give, "__module__": "elsewhere"})
    below = named("Ant", made)
    kept = [
        made,
        below,
        named("_Hidden", made),
        named("Half", made, "elsewhere.base"),
        named("Other", made, "a.baseline"),
    ]
    kept.append(type("Abstract", (Base,), {"__module__": "elsewhere"}))
    assert inspect.isabstract(kept[-1])
    assert list(subclasses(Base).items()) == [("Ant", below), ("Zebra", made)]


@pytest.mark.parametrize("ours_first", [True, False])
def test_of_two_classes_of_one_name_that_of_this_package_is_listed(ours_first):
    class Base: ...

    modules = ["m2ib_lightning.losses", "elsewhere"]
    made = [named("Same", Base, module) for module in (modules if ours_first else modules[::-1])]
    assert len(made) == 2 and subclasses(Base)["Same"].__module__ == "m2ib_lightning.losses"
    assert list(subclasses(Base)) == ["Same"]
