"""What a published table says before it is measured again."""

import pytest
import yaml

from m2ib_lightning.evaluation import published
from m2ib_lightning.evaluation.published import PublishedTable, duration, load_table, table_names

FIELDS = {
    "title": "Confidence on pairs", "paper": "Somebody, 2020", "source": "Table 1", "model": "some/clip",
    "model_note": "600 MB, MIT", "data": "some/pairs", "data_note": "2 GB, CC BY", "get": "FOLDER holds pairs",
    "read": {"dataset": {"class_path": "Pairs", "init_args": {"folder": "{at}/test", "count": 3}}, "names": ["{at}"]},
    "pairs": 100, "protocols": ["as_released", "corrected"], "metrics": ["PointingGame"],
    "methods": {"M2IB": {}, "GradCAM": {}}, "why": [], "teraflop": 3.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def known_speed(monkeypatch):
    monkeypatch.setattr(published, "speed", lambda: 0.5)


def test_a_plan_says_what_is_downloaded_done_and_how_long_it_takes():
    table = PublishedTable(**FIELDS)
    assert table.seconds(100) == 600
    assert table.plan(100, None, None).splitlines() == [
        "Table     Confidence on pairs (Somebody, 2020)",
        "Model     some/clip; 600 MB, MIT",
        "Pairs     the first 100 of some/pairs",
        "          2 GB, CC BY",
        "          With no network, --data FOLDER: FOLDER holds pairs",
        "Methods   M2IB, GradCAM",
        "Protocol  as_released, then corrected",
        "Time      about 10 minutes on this machine, by the speed of its matrix products",
        "Published Table 1",
    ]


def test_what_is_given_takes_the_place_of_what_would_be_downloaded():
    said = PublishedTable(**FIELDS | {"slow": {"RISE": {}, "FIxLIP": {}}}).plan(3, "here", "mine").splitlines()
    assert said[1:4] == ["Model     mine, given", "Pairs     the first 3 of here", "Methods   M2IB, GradCAM" + (
        "; left out unless --slow true: RISE, FIxLIP"
    )]  # fmt: skip


def test_what_is_on_no_hub_is_said_to_be_needed():
    said = PublishedTable(**FIELDS | {"model": None, "data": None}).plan(3, None, None)
    assert "Model     not on the hub, so --model FOLDER is needed; 600 MB, MIT\n" in said
    assert "the first 3 of not on the hub, so --data FOLDER is needed\n" in said


def test_the_name_or_folder_of_the_pairs_is_filled_in_wherever_it_stands():
    read = PublishedTable(**FIELDS).reading("there")
    init = {"folder": "there/test", "count": 3}
    assert read == {"dataset": {"class_path": "Pairs", "init_args": init}, "names": ["{at}"]}


def test_a_table_of_ones_own_is_a_file_and_other_fields_are_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(FIELDS))
    table = load_table(str(path))
    assert table.name == "mine" and table.published == table.slow == {} and table.pairs == 100
    path.write_text(yaml.safe_dump(FIELDS | {"colour": "red"}))
    with pytest.raises(ValueError, match=r"Expected the fields of a published table in .*mine\.yaml but got: .*colour"):
        load_table(str(path))
    with pytest.raises(ValueError, match=r"Expected a table of adaib-refcoco, .* but got nix"):
        load_table("nix")
    assert load_table("nib-cc").name == "nib-cc" and table_names() == sorted(table_names())


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "1 minute"), (89, "1 minute"), (91, "2 minutes"), (61 * 60, "61 minutes"), (89.4 * 60, "89 minutes"),
        (90 * 60, "2 hours"), (89.6 * 60, "2 hours"), (60 * 3600, "60 hours"),
    ],
)  # fmt: skip
def test_a_time_is_said_in_minutes_and_from_an_hour_and_a_half_on_in_hours(seconds, said):
    assert duration(seconds) == f"about {said}"
