"""The parser of every verb: its help, its errors, and what it makes."""

import re

import pytest
from lightning.pytorch import LightningModule

from m2ib_lightning.cli import main
from m2ib_lightning.cli.parser import OneLineParser
from m2ib_lightning.data import PairDataModule
from m2ib_lightning.methods import M2IB, AttributionMethod, GradCAM
from m2ib_lightning.metrics import PointingGame


def helped(capsys, verb: str) -> str:
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert left.value.code == 0
    return capsys.readouterr().out


def test_the_help_of_a_fit_is_in_groups_of_which_the_packages_own_come_first(capsys):
    help = helped(capsys, "fit")
    groups = re.findall(r"^(\S.*):$", help, re.MULTILINE)
    assert groups == [
        "options", "The method", "Settings of M2IB; those of another: --model.help NAME", "The pairs",
        "When a fit stops (Lightning's EarlyStopping)", "Linked arguments",
        "What a fit goes on from (Lightning's ModelCheckpoint)", "Lightning's Trainer", "Going on",
    ]  # fmt: skip
    settings = help[help.index("Settings of M2IB") : help.index("The pairs")]
    assert "--model.image_beta" in settings and not re.search(
        r"^  --model(\.(backbone\.)?help)? ", settings, re.MULTILINE
    )
    assert help.count("--model.image_beta ") == 1
    assert not re.search(r"return_predictions|seed_everything", help)
    method = " ".join(help[help.index("The method") : help.index("Settings of M2IB")].split())
    listed = re.search(r"--model NAME (.+), or FILE\.CLASS of yours; M2IB by default\.$", method)
    assert listed, method
    names = listed[1].split(", ")  # those of other tests may be among them
    assert names == sorted(names) and {"AttentionRollout", "CentrePrior", "UniformMap"} <= set(names)


def test_the_help_of_another_verb_hides_what_changes_nothing(capsys):
    help = helped(capsys, "predict")
    assert not re.search(r"return_predictions|seed_everything", help)
    assert "--part_pairs" in help and "Going on" not in help


def made(**options) -> OneLineParser:
    parser = OneLineParser(prog="m2ib own", verb="own", **options)
    parser.add_argument("--output", type=str, default="out")
    parser.add_argument("--count", type=int, default=1)
    return parser


def test_an_error_is_one_line_with_the_option_that_was_meant_and_the_status_2(capsys):
    parser = made()
    assert parser.option_names() == ["--help", "--output", "--count"]
    with pytest.raises(SystemExit) as left:
        parser.parse_args(["--coumt", "3"])
    assert left.value.code == 2
    said = "m2ib: error: Expected a known option but got --coumt. Remedy: did you mean --count?\n"
    assert capsys.readouterr().err == said
    parser.options = {"own": ["--other"], "second": ["--coumt"]}
    with pytest.raises(SystemExit):
        parser.parse_args(["--coumt", "3"])
    assert "`m2ib second` can use it." in capsys.readouterr().err


def test_one_of_several_ways_that_are_tried_does_not_end_the_command():
    with pytest.raises(Exception, match="coumt"):
        made(exit_on_error=False).parse_args(["--coumt", "3"])


def test_what_is_measured_and_how_is_parsed(capsys):
    parser = made()
    parser.add_measures()
    plain = parser.parse_args([])
    assert plain.metrics is None and plain.protocol == "corrected"
    given = parser.instantiate(parser.parse_args(["--metrics", "[PointingGame]", "--protocol", "as_released"]))
    assert isinstance(given.metrics[0], PointingGame) and given.protocol == "as_released"


@pytest.mark.parametrize(
    ("word", "phrases"), [("auto", "auto"), ("[crab, red tree]", ["crab", "red tree"]), ("null", None)]
)
def test_phrases_are_a_keyword_or_a_list_and_go_to_the_pairs_by_either_name(word, phrases, tmp_path):
    parser = made()
    parser.add_class_arguments(PairDataModule, "data")
    parser.add_argument("--config", action="config")
    parser.add_phrases()
    (tmp_path / "config.yaml").write_text(f"data:\n  phrases: {word}\n")
    for words in (["--phrases", word], ["--data.phrases", word], ["--config", str(tmp_path / "config.yaml")]):
        assert parser.parse_args(words).data.phrases == phrases
    assert parser.parse_args([]).data.phrases is None and "phrases" not in parser.parse_args([])


def test_the_method_is_made_as_configured_with_changes_and_another_one_is_refused():
    parser = made()
    parser.add_lightning_class_args(AttributionMethod, "model", subclass_mode=True)
    parser.set_defaults({"model": {"class_path": "m2ib_lightning.M2IB"}})
    config = parser.parse_args(["--model.steps", "7", "--model.seed", "3"])
    method = parser.make_m2ib(config, seed=5)
    assert isinstance(method, M2IB) and isinstance(method, LightningModule)
    assert (method.steps, method.noise.seed, config.model.init_args.seed) == (7, 5, 3)
    with pytest.raises(ValueError, match=f"Expected M2IB as the method but got {GradCAM.__name__}"):
        parser.make_m2ib(parser.parse_args(["--model", "GradCAM"]))
