"""What jsonargparse says, and the line of ours that comes of it."""

from abc import ABC, abstractmethod

import pytest

from m2ib_lightning.cli.messages import one_line, unknown_verb

HERE = __name__


class Shape(ABC):
    """What arguments of these messages must be."""

    @abstractmethod
    def area(self): ...


class Circle(Shape):
    def __init__(self, radius: float = 1.0, filled: bool = True) -> None: ...

    def area(self): ...


class Ring(Circle):
    """One whose base is no contract."""


class Square(Shape):
    def area(self): ...


class Hexagon(Shape):
    def area(self): ...


class Colour:
    """Nothing of the kind."""


class Blob:
    """What the class in a file of one's own is below."""


def union(key: str, reasons: str, value: str, kind: str = f"<class '{HERE}.Shape'>") -> str:
    """A value that none of several types is right for, as jsonargparse says it."""
    return (
        f'Parser key "{key}":\n  Does not validate against any of the Union subtypes\n'
        f"  Subtypes: [{kind}, <class 'NoneType'>]\n  Errors:\n    - {reasons}\n"
        f"    - Expected a <class 'NoneType'>\n  Given value type: <class 'str'>\n  Given value: {value}"
    )


def within(owner: str, inner: str, option: str, value: str) -> str:
    """The same of an argument of the class that `shape` was given, which the command line names."""
    lines = inner.replace("\n", "\n        ")
    reasons = f"Problem with given class_path '{HERE}.{owner}':\n        {lines}"
    return union("shape", reasons, f"NestedArg(key='{option}', val='{value}')")


CHOICE = "Expected a typing.Literal['smooth', 'patch']. Got value: {}"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            union("shape", "Expected a dot import path string: Squre", "Squre"),
            "Expected `shape` to be a known Shape but got Squre. Remedy: did you mean Square?",
        ),
        (
            union("shape", "Expected a dot import path string: Moon", "Moon"),
            "Expected `shape` to be a known Shape but got Moon. "
            "Remedy: choose one of Circle, Hexagon, Ring, Square, or FILE.CLASS for one of your own.",
        ),
        (  # an abstract class is none that can be chosen
            union("shape", "Expected an instantiatable class, but is abstract", "Shape"),
            "Expected `shape` to be a known Shape but got Shape. "
            "Remedy: choose one of Circle, Hexagon, Ring, Square, or FILE.CLASS for one of your own.",
        ),
        (
            union("shape", "Import path does not correspond to a subclass of Shape", f"{HERE}.Colour"),
            f"Expected `shape` to be a Shape but {HERE}.Colour is none. "
            "Remedy: name a class below Shape, such as Circle, Hexagon, Ring.",
        ),
        (
            union("shapes", f"Import path {HERE}.Colour does not correspond to a subclass of Shape", "['...']"),
            f"Expected `shapes` to be a Shape but {HERE}.Colour is none. "
            "Remedy: name a class below Shape, such as Circle, Hexagon, Ring.",
        ),
        (
            union("colour", "Import path does not correspond to a subclass of Colour", f"{HERE}.Ring", "<class 'int'>"),
            f"Expected `colour` to be a Colour but {HERE}.Ring is a Circle. Remedy: name a class below Colour.",
        ),
        (
            union("colour", "Import path does not correspond to a subclass of Colour", "no.where", "<class 'int'>"),
            "Expected `colour` to be a Colour but no.where is none. Remedy: name a class below Colour.",
        ),
        (
            within("Circle", "Option 'filed' is not accepted", "filed", "3"),
            "Expected an argument of Circle but got `shape.filed`. Remedy: did you mean filled?",
        ),
        (
            within("Circle", "Option 'weight' is not accepted", "weight", "3"),
            "Expected an argument of Circle but got `shape.weight`. Remedy: Circle takes radius, filled.",
        ),
        (  # an option of a class within the class: its path stands once
            within(
                "Square", union("parts", f"Problem with given class_path '{HERE}.Circle':\n  "
                "Option 'filed' is not accepted", "NestedArg(key='filed', val='x')"), "parts.filed", "x",
            ),
            "Expected an argument of Circle but got `shape.parts.filed`. Remedy: did you mean filled?",
        ),
        (
            within("Square", union("parts", f"Problem with given class_path '{HERE}.Circle':\n  "
                                   "Option 'filed' is not accepted", "[{}]"), "parts", "[{}]"),
            "Expected an argument of Circle but got `shape.parts.filed`. Remedy: did you mean filled?",
        ),
        (
            within("Circle", 'Parser key "radius":\n  Expected a <class \'float\'>. Got value: wide', "radius", "wide"),
            "Expected `shape.radius` to be a number but got wide. Remedy: see --help.",
        ),
        (
            within("Circle", f'Parser key "style":\n  {CHOICE.format("smoth")}', "style", "smoth"),
            "Expected `shape.style` to be one of 'smooth', 'patch' but got smoth. Remedy: did you mean smooth?",
        ),
        (
            f'Parser key "style":\n  {CHOICE.format("9")}',
            "Expected `style` to be one of 'smooth', 'patch' but got 9. Remedy: choose one of these.",
        ),
        (
            'Parser key "pairs":\n  Expected a <class \'int\'>. Got value: two',
            "Expected `pairs` to be a whole number but got two. Remedy: see --help.",
        ),
        (
            'Parser key "share":\n  Expected a <class \'bool\'>. Got value: maybe',
            "Expected `share` to be true or false but got maybe. Remedy: see --help.",
        ),
        (
            'Parser key "name":\n  Expected a <class \'str\'>. Got value: [1]',
            "Expected `name` to be str but got [1]. Remedy: see --help.",
        ),
        (
            union("layer", "Expected a <class 'int'>\n    - Expected a typing.Literal['embeddings']", "middle",
                  "<class 'int'>, typing.Literal['embeddings']"),
            "Expected `layer` to be one of int, Literal['embeddings'], null but got middle. Remedy: see --help.",
        ),
        (  # that of the innermost argument
            within("Circle", union("layer", "Expected a <class 'int'>", "middle", "<class 'int'>"), "layer", "middle"),
            "Expected `shape.layer` to be one of int, null but got middle. Remedy: see --help.",
        ),
        (
            union("words", "Expected a typing.Literal['auto']", "cat", "typing.Literal['auto'], list[str]"),
            "Expected `words` to be one of Literal['auto'], list[str], null but got cat. "
            "Remedy: [cat] is a list of one.",
        ),
        (  # a known class where several are asked for
            union("shapes", "Expected a list", "Ring"),
            "Expected `shapes` to be a list but got Ring. Remedy: [Ring] is a list of one.",
        ),
        (
            "Subcommand 'draw' does not accept option 'colour'",
            "Expected a known option but got --colour. Remedy: see `m2ib fit --help`.",
        ),
        (
            "Parser key \"config\": File does not exist: '/somewhere/else.yaml'",
            "Expected a file as `config` but /somewhere/else.yaml does not exist. Remedy: correct the path.",
        ),
        (
            "ambiguous option: --data.scen=1 could match --data.scenes, --data.scene_seed",
            "Expected one option but `--data.scen=1` may be --data.scenes, --data.scene_seed. "
            "Remedy: write it in full.",
        ),
        (
            "argument --data.scenes: expected one argument",
            "Expected one value after --data.scenes but got none. Remedy: see `m2ib fit --help`.",
        ),
        (
            "argument subcommand: invalid choice: 'predcit' (choose from 'fit', 'predict', 'train-reader')",
            "Expected a verb after `m2ib` but got 'predcit'. Remedy: did you mean predict?",
        ),
        (
            "argument subcommand: invalid choice: 'tarot' (choose from 'fit', 'train-reader')",
            "Expected a verb after `m2ib` but got 'tarot'. Remedy: `m2ib --help` shows them: fit, train-reader.",
        ),
        (
            "unrecognized arguments: cat.png",
            "Expected options, --NAME VALUE, after the verb but got 'cat.png'. Remedy: see `m2ib fit --help`.",
        ),
        ("nothing\n   that - is\n\n known ", "nothing that - is known"),
        ('Parser key "a":\n  Something that nobody knows', 'Parser key "a": Something that nobody knows'),
    ],
)  # fmt: skip
def test_a_fault_of_the_arguments_is_said_in_one_line(message, line):
    assert one_line(message, "fit") == line


def test_what_has_a_remedy_is_said_as_it_stands_and_the_first_of_several():
    said = "Problems:\n  - no reason\n  - Expected more but got less. Remedy: add.\n  - Expected b. Remedy: leave."
    assert one_line(said) == "Expected more but got less. Remedy: add."


OPTIONS = {"fit": ["--output", "--data.image"], "predict": ["--maps", "--output"], "test": ["--maps", "--metrics"]}


@pytest.mark.parametrize(
    ("verb", "option", "line"),
    [
        (
            "fit", "--maps=float16",
            "Expected an option of `m2ib fit` but got --maps. "
            "Remedy: leave it out; `m2ib predict` and `m2ib test` can use it.",
        ),
        (
            "test", "--data.image=a.png",
            "Expected an option of `m2ib test` but got --data.image. Remedy: leave it out; `m2ib fit` can use it.",
        ),
        ("fit", "--image=a=b", "Expected a known option but got --image. Remedy: did you mean --data.image?"),
        # No other verb's name is offered, and not this one's own that it knows.
        ("fit", "--metrix", "Expected a known option but got --metrix. Remedy: see `m2ib fit --help`."),
        ("predict", "--maps", "Expected an option of `m2ib predict` but got --maps. "
                              "Remedy: leave it out; `m2ib test` can use it."),
        ("", "--tarot", "Expected a known option but got --tarot. Remedy: see `m2ib --help`."),
    ],
)  # fmt: skip
def test_an_option_that_is_not_known_gets_the_verb_that_takes_it_or_the_nearest_name(verb, option, line):
    assert one_line(f"unrecognized arguments: {option} and more", verb, OPTIONS) == line


def test_where_no_options_are_known_the_help_is_named():
    assert one_line("unrecognized arguments: --tarot", "fit").endswith("got --tarot. Remedy: see `m2ib fit --help`.")


MODULE = """
from {here} import Blob, Colour
class Mine(Blob): ...
class Other: ...
class _Hidden(Blob): ...
mine = Mine()
"""


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    """The name of a module of one's own in the folder of the call."""
    (tmp_path / "blobs_of_mine.py").write_text(MODULE.format(here=HERE))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return "blobs_of_mine"


def astray(module: str, name: str, kind: str = f"<class '{HERE}.Blob'>") -> str:
    reasons = f"Problem with given class_path '{module}.{name}':\n        module '{module}' has no attribute '{name}'"
    return union("shape", reasons, f"{module}.{name}", kind)


def test_a_class_that_its_file_does_not_have_gets_those_of_its_kind(own_file, tmp_path, monkeypatch):
    head = f"Expected `shape` to be a class in its file but {own_file}.py has no class"
    assert one_line(astray(own_file, "Mime")) == f"{head} Mime. Remedy: did you mean Mine?"
    assert one_line(astray(own_file, "Tarot")) == f"{head} Tarot. Remedy: it has Blob, Mine."
    of_any_kind = one_line(astray(own_file, "Tarot", "<class 'none.Such'>"))
    assert of_any_kind == f"{head} Tarot. Remedy: it has Blob, Colour, Mine, Other."
    of_none = one_line(astray(own_file, "Tarot", "<class 'pathlib.PurePath'>"))
    assert of_none == f"{head} Tarot. Remedy: write it, or correct the name; it has no PurePath."
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert f" but {tmp_path / own_file}.py has no class Mime." in one_line(astray(own_file, "Mime"))


def test_a_folder_without_a_file_of_its_own_is_called_one(tmp_path, monkeypatch):
    (tmp_path / "folder_of_shapes").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert "to be a class in its file but its folder has no class Mine." in one_line(astray("folder_of_shapes", "Mine"))


def test_a_file_that_is_not_there_is_named():
    reasons = "Problem with given class_path 'terms.Mine':\n        No module named 'terms'"
    assert one_line(union("shape", reasons, "terms.Mine")) == (
        "Expected `shape` to be FILE.CLASS but there is no terms.py here. "
        "Remedy: call m2ib in the folder of that file, or correct the name."
    )


@pytest.mark.parametrize(("count", "end"), [(20, "Name19, or FILE.CLASS"), (21, "Name19, ..., or FILE.CLASS")])
def test_at_most_twenty_names_are_listed(count, end, monkeypatch):
    base = type("Base", (), {"__module__": HERE})
    made = [type(f"Name{i:02}", (base,), {"__module__": HERE}) for i in range(count)]
    monkeypatch.setitem(globals(), "Base", base)
    said = one_line(union("one", "Expected a dot import path string: Moon", "Moon", f"<class '{HERE}.Base'>"))
    assert f"choose one of Name00, Name01, Name02, {', '.join(f'Name{i:02}' for i in range(3, 19))}, {end}" in said
    assert len(made) == count


def test_the_verb_that_was_meant_is_offered_and_all_of_them_otherwise():
    assert unknown_verb("fti", ["fit", "test"]) == "Expected a verb after `m2ib` but got 'fti'. " + (
        "Remedy: `m2ib --help` shows them: fit, test."
    )
    assert unknown_verb("tests", ["fit", "test"]).endswith("Remedy: did you mean test?")
