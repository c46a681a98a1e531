"""What the pages say can be followed and typed: every link leads somewhere, every command is understood."""

import re
import sys

import pytest

from m2ib_lightning.cli import main, run, verbs
from tests.pages import PAGES, ROOT, anchors, block, blocks, commands, links, name

TYPED = list(dict.fromkeys(tuple(words) for page in PAGES for words in commands(page)))
OURS = [words for words in TYPED if "m2ib" in words or "m2ib_lightning" in words]
SCRIPTS = [words for words in TYPED if any(word.startswith("scripts/") for word in words)]


class Understood(BaseException):
    """Raised where a command that was understood would start its work."""


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_of_a_page_leads_somewhere(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        if link.startswith("https://"):
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        assert target.resolve().is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_is_short_and_leads_to_every_page():
    readme = ROOT / "README.md"
    assert len(readme.read_text("utf-8").splitlines()) <= 200
    led_to = {(ROOT / link.partition("#")[0]).resolve() for link in links(readme)}
    beside = {page for page in PAGES if page.parent.parent.name == "m2ib_lightning"}
    assert beside | {ROOT / "scripts" / "README.md"} <= led_to


@pytest.mark.slow
@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_every_command_of_a_page_is_understood(words, tmp_path, monkeypatch):
    def understood(*arguments):
        raise Understood

    monkeypatch.setattr(run.M2IBCLI, "instantiate_classes", understood)
    for verb in verbs.names():
        monkeypatch.setattr(verbs.load(verb), "run", understood)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for code in (code for other in PAGES for code in blocks(other, "python")):
        for file in re.findall(r"# (my_\w+\.py)$", code, re.MULTILINE):
            (tmp_path / file).write_text(code)
    (tmp_path / "few_tokens.yaml").write_text(block("m2ib_lightning/losses/README.md", "yaml", "my_terms.FewTokens"))
    (tmp_path / "OUTPUT").mkdir()
    (tmp_path / "OUTPUT" / "config.yaml").write_text("data:\n  scenes: 4\n")
    for folder, file in (("calibration", "calibration.yaml"), ("reader", "config.yaml")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("model:\n  class_path: M2IB\n")
    start = words.index("m2ib" if "m2ib" in words else "m2ib_lightning")
    with pytest.raises((Understood, SystemExit)) as end:
        main(list(words[start + 1 :]))
    assert end.type is Understood or end.value.code == 0


@pytest.mark.parametrize("words", SCRIPTS, ids=" ".join)
def test_every_script_of_a_page_exists_and_knows_its_options(words):
    (script,) = (word for word in words if word.startswith("scripts/"))
    source = (ROOT / script).read_text("utf-8") + (ROOT / "scripts" / "on_scenes.py").read_text("utf-8")
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert f'"{option}"' in source, option


def test_no_link_of_the_readme_is_relative_where_it_is_published():
    if sys.version_info < (3, 11):
        pytest.skip("tomllib")
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    text = (ROOT / "README.md").read_text("utf-8")
    for change in settings["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    found = re.findall(r"\]\(([^)]+)\)", text)
    assert len(found) > 30 and all(link.startswith("https://") for link in found)
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert pictures and all("/raw" in link for link in pictures)
