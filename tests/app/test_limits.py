"""What the page refuses, and what it keeps to itself."""

from __future__ import annotations

import http.client
import shlex
import subprocess
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

import m2ib_lightning as m2ib
from m2ib_lightning.app import pictures
from m2ib_lightning.app.code import as_command, as_python
from m2ib_lightning.app.explaining import Knobs
from m2ib_lightning.app.handlers import Handlers, Visit
from m2ib_lightning.app.many import explain_all, gather
from m2ib_lightning.app.pictures import read_picture
from m2ib_lightning.app.side_by_side import NOTES
from m2ib_lightning.cli import main
from m2ib_lightning.data import make_scene
from m2ib_lightning.methods import AttributionMethod
from m2ib_lightning.names import subclasses
from m2ib_lightning.types import Pair


def fetch(address, path, method="GET", body=None, headers=None):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    return answer.status, answer.read(), dict(answer.getheaders())


def test_no_file_that_the_visitor_did_not_give_is_served(address, tmp_path):
    (tmp_path / "secret.txt").write_text("nobody may read this")
    for path in ("/etc/hostname", str(tmp_path / "secret.txt"), "pyproject.toml", "../pyproject.toml"):
        for route in ("/gradio_api/file=", "/file="):
            status, body, _ = fetch(address, route + path)
            assert status in (403, 404) and b"nobody may read" not in body


def test_the_page_forbids_browsers_to_load_anything_from_elsewhere(address):
    _, _, headers = fetch(address, "/")
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert "http" not in headers["content-security-policy"] and "*" not in headers["content-security-policy"]


def test_it_listens_on_this_machine_alone(address):
    assert urlsplit(address).hostname == "127.0.0.1"


def test_an_upload_of_too_many_bytes_is_refused(address, monkeypatch):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    body += bytes(pictures.MOST_BYTES + 1) + b"\r\n--x--\r\n"
    status, _, _ = fetch(
        address, "/gradio_api/upload", "POST", body, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert status == 413


def test_a_picture_of_too_many_pixels_is_refused_by_its_head_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MOST_PIXELS", 99)
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])  # what would be decoded is not there
    with pytest.raises(ValueError, match=r"at most 99 pixels but got 10 x 10 in a\.png"):
        read_picture(tmp_path / "a.png")


def test_a_large_picture_is_reduced_before_it_is_kept(tmp_path):
    Image.new("RGB", (3000, 1500)).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").size == (1024, 512)


@pytest.mark.slow
def test_a_table_reads_only_what_was_uploaded_with_it(explainer, tmp_path):
    secret, given, output = tmp_path / "secret", tmp_path / "given", tmp_path / "output"
    for folder in (secret, given, output):
        folder.mkdir()
    make_scene(1, size=32).image.save(secret / "secret.png")
    make_scene(2, size=32).image.save(given / "mine.png")
    rows = ["mine.png,a cat", f"{secret}/secret.png,a dog", "../secret/secret.png,a dog", "folder/mine.png,a hat"]
    (given / "pairs.csv").write_text("\n".join(["image,text", *rows]))
    *_, last = explain_all(explainer, [given / "pairs.csv", given / "mine.png"], output)
    assert (last.done, last.total, len(last.bad)) == (4, 4, 2)
    assert all("Expected 'secret.png' among the uploaded files" in reason for reason in last.bad)


def test_uploads_that_cannot_be_told_apart_are_refused(tmp_path):
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir(), (tmp_path / "out").mkdir()
    for folder in ("one", "two"):
        (tmp_path / folder / "a.txt").write_text("a")
    with pytest.raises(ValueError, match="different names but got a"):
        gather([tmp_path / "one" / "a.txt", tmp_path / "two" / "a.txt"], tmp_path / "out")


def test_nothing_of_a_run_over_many_pairs_is_left_but_the_archive(explainer, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir(), (tmp_path / "out").mkdir()
    make_scene(2, size=32).image.save(tmp_path / "mine.png")
    (tmp_path / "mine.txt").write_text("a cat")
    list(explain_all(explainer, [tmp_path / "mine.png", tmp_path / "mine.txt"], tmp_path / "out"))
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["m2ib-results.zip"]
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("knobs", [Knobs(3, 12.0), Knobs(1, 3.0), Knobs(2, 3.0, keep=0.8)])
def test_settings_changed_on_the_way_end_where_a_new_fit_ends(explainer, knobs):
    pair = Pair("a", make_scene(3, objects=("crab", "key")).image, "a crab")
    *_, found = explainer.watch(pair, explainer.knobs)
    first, exact, whole = explainer.adjust(found, knobs)
    assert [a.exact for a in (first, exact, whole)] == [False, True, True]
    expected = m2ib.explain(pair.image, "a crab", phrases="auto", **knobs.arguments)[0]
    np.testing.assert_allclose(whole.attribution.image_map, expected.image_map, rtol=1e-4, atol=1e-3)
    (phrase,), (expected_phrase,) = whole.attribution.phrases, expected.phrases
    np.testing.assert_allclose(phrase.image_map, expected_phrase.image_map, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"image_beta": 6.0}, {"keep": 0.8}, {"image_layer": 5}])
def test_the_first_answer_from_the_masks_at_hand_is_near_the_last(explainer, change):
    pair = Pair("a", make_scene(3, objects=("crab", "key")).image, "a crab")
    *_, found = explainer.watch(pair, explainer.knobs)
    moved = list(explainer.adjust(found, explainer.knobs._replace(**change)))
    first, last = (a.attribution.image_map.ravel() for a in (moved[0], moved[-1]))
    assert np.corrcoef(first, last)[0, 1] > 0.8


def test_an_answer_against_a_foil_is_that_of_explain_and_names_the_foil(explainer):
    image = make_scene(3, objects=("crab", "key")).image
    *_, found = explainer.watch(Pair("crab", image, "a crab"), explainer.knobs._replace(against="a key"))
    (expected,) = m2ib.explain(image, "a crab", against="a key")
    np.testing.assert_allclose(found.attribution.image_map, expected.image_map, rtol=1e-4, atol=1e-3)
    assert found.attribution.settings == expected.settings and expected.settings["against"] == "a key"


@pytest.mark.slow
def test_a_moved_slider_against_a_foil_gives_what_explain_gives_and_is_near_it_at_once(explainer):
    scene = make_scene(33, objects=("crab", "tree", "moon"), kind="attribute", size=128)
    text, other = (f"a {item.colour} crab" for item in scene.objects[:2])
    pair, foil = Pair("a", scene.image, text), {"against": other}
    *_, found = explainer.watch(pair, explainer.knobs._replace(**foil))
    for change in ({"image_beta": 6.0}, {"image_layer": 2}, {"keep": 0.9}, {}):
        moved = list(explainer.adjust(found, explainer.knobs._replace(**foil, **change)))
        (expected,) = m2ib.explain(scene.image, text, **foil, **change)
        found, (first, last) = moved[-1], (a.attribution.image_map for a in (moved[0], moved[-1]))
        np.testing.assert_allclose(last, expected.image_map, rtol=1e-3, atol=1e-2)
        if "image_beta" in change:
            assert np.corrcoef(first.ravel(), last.ravel())[0, 1] > 0.8


@pytest.mark.slow
def test_a_moved_slider_goes_on_against_the_foil_that_is_shown_whatever_was_typed_since(explainer):
    image = make_scene(3, objects=("crab", "key")).image
    *_, found = explainer.watch(Pair("crab", image, "a crab"), explainer.knobs._replace(against="a key"))
    *_, moved = Handlers(explainer).adjust(Visit(image, found=found), "a crab", "a drum", 3, 6.0, "beta", 0.9)
    shown, visit, code, command = moved
    settings = visit.found.attribution.settings
    assert (settings["against"], settings["image_beta"]) == ("a key", 6.0)
    assert "a key" in code and "a key" in command and "a drum" not in f"{shown}{code}{command}"


@pytest.mark.slow  # a run of the command line
def test_the_code_and_the_command_give_what_is_on_the_page(explainer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scene = make_scene(33, objects=("crab", "tree", "moon"), kind="attribute", size=128)
    scene.image.save("crabs.png")
    knobs = explainer.knobs._replace(keep=0.8, against='a "blue" crab, here')
    text = "a red crab and a tree"
    *_, found = explainer.watch(Pair("a", read_picture("crabs.png"), text), knobs)
    assert explainer.said(found)["phrases"] == "auto"
    for place in (3, 4):  # words that were pointed at: "and", and the second "a"
        found = explainer.find_word(found, place)
    said, run = explainer.said(found), {}
    assert said["phrases"][-2:] == ["and", (15, 16)]
    exec(as_python("crabs.png", False, text, said), run)
    table, command = as_command("crabs.png", False, text, said).split("\n", 1)
    subprocess.run(["sh", "-c", table], check=True)
    main([*shlex.split(command.replace("\\\n", ""))[1:], "--output=out"])
    (fitted,) = m2ib.AttributionStore("out/attributions")
    for a in (run["result"], fitted):
        np.testing.assert_allclose(a.image_map, found.attribution.image_map, rtol=1e-4, atol=1e-3)
        assert a.settings["against"] == knobs.against and a.settings["keep"] == 0.8
        assert [phrase.span for phrase in a.phrases] == [phrase.span for phrase in found.attribution.phrases] != []
        for phrase, shown in zip(a.phrases, found.attribution.phrases, strict=True):
            np.testing.assert_allclose(phrase.image_map, shown.image_map, rtol=1e-3, atol=1e-2)


def test_every_method_of_the_package_has_a_note_of_where_it_fails():
    ours = {name for name, kind in subclasses(AttributionMethod).items() if kind.__module__.startswith("m2ib_")}
    assert set(NOTES) == ours


def test_code_of_any_caption_is_the_caption_again():
    for text in ("it's", 'say "a"', "back\\slash", "line\nbreak", "猫", '"""', "\u202e"):
        said = as_python("a.png", False, text, {}).splitlines()[2]
        assert eval(said.split("explain(")[1].rsplit(")[0]", 1)[0])[1] == text


def test_a_port_that_is_taken_is_named(address, capsys):
    with pytest.raises(SystemExit):
        main(["app", f"--port={urlsplit(address).port}", "--open=false"])
    assert "port" in capsys.readouterr().err


def test_another_method_than_m2ib_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["app", "--model=GradCAM", "--open=false"])
    assert "Expected M2IB as the method but got GradCAM" in capsys.readouterr().err
