"""docs/ as a site: it builds, its reference is complete, it loads nothing from a network."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from docs.site import commands_page, config_page, gallery_page

import frostline
from frostline.commands.main import COMMANDS, command_parser

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
ROW = re.compile(r"^\| `([\w.]+)` \| (.*) \| (.*) \| (.*) \|$", re.MULTILINE)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def keys(values, prefix):
    """The dotted keys of a config's values, those inside it first."""
    if isinstance(values, dict):
        return [key for name, value in values.items() for key in keys(value, f"{prefix}.{name}")]
    if isinstance(values, list) and values and isinstance(values[0], dict):
        return [key for item in values for key in keys(item, f"{prefix}.0")]
    return [prefix]


def documented(page, key):
    """Whether a key, or the one whose value has names of the user's own, has a row."""
    rows = {row[0] for row in ROW.findall(page)}
    kinds = set(re.findall(r"^`([\w.]+\.kind)` is set by the option", page, re.MULTILINE))
    parts = key.split(".")
    free = ("groups", "options", "lr", "optimizer", "space", "when", "until")
    above = [".".join(parts[:i]) for i in range(2, len(parts)) if parts[i - 1] in free]
    return bool({key, *above} & (rows | kinds))


@pytest.fixture(scope="module")
def config_reference():
    return config_page.page()


@pytest.mark.parametrize(
    "path", sorted(CONF.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_the_reference_has_each_option_and_its_keys(path, config_reference):
    group = path.parent.name
    section = config_reference.split(f"\n## {group} {{")[1].split("\n## ")[0]
    assert re.search(rf"^\| `{path.stem}`( \(default\))? \| \S", section, re.MULTILINE)
    if group == "experiment":  # its keys are those of the groups
        return
    values = yaml.safe_load(path.read_text())
    values.pop("defaults", None)
    missing = [key for key in keys(values, group) if not documented(section, key)]
    assert not missing


def test_the_reference_has_the_keys_outside_groups(config_reference):
    values = yaml.safe_load((CONF / "config.yaml").read_text())
    own = {name: value for name, value in values.items() if name not in ("defaults", "hydra", "pretrain")}
    found = {key.removeprefix(".") for key in keys(own, "")}
    assert "input.size" in found
    assert found <= {row[0] for row in ROW.findall(config_reference)} | {"gate"}


def test_each_key_has_a_type_a_default_and_a_meaning(config_reference):
    rows = ROW.findall(config_reference)
    assert len(rows) > 120
    assert [row for row in rows if not all(cell.strip() for cell in row)] == []
    assert ("optimizer.lr", "number > 0") in {row[:2] for row in rows}


def test_its_defaults_are_those_of_conf(config_reference):
    found = {name: default for name, _, default, _ in ROW.findall(config_reference)}
    assert found["trainer.epochs"] == "`20`"
    assert found["optimizer.lr"] == "`0.001`; lamb: `0.005`; sgd: `0.03`"
    assert found["dataset.path"] == "required"
    assert found["trainer.threads"] == "computed"
    assert found["sweep.trials"].startswith("`null`; cmaes, nsga2: `60`")


def test_the_reference_has_every_command_and_option():
    page = commands_page.page()
    for name, parser in commands_page.commands(command_parser(COMMANDS)):
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for action in commands_page.arguments(parser):
            for option in action.option_strings or [action.metavar or action.dest]:
                name = re.escape(option.replace("|", "\\|"))
                assert re.search(rf"^\|.*`{name}[ `].* \| \w.* \|$", section, re.MULTILINE), option
    assert {f"frostline {name}" for name in COMMANDS} <= set(re.findall(r"^## (.*)$", page, re.MULTILINE))


def test_the_navigation_has_every_page():
    text = (ROOT / "docs" / "site" / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.name for path in (ROOT / "docs").glob("*.md")]
    assert len(pages) > 20
    assert [name for name in pages if not re.search(rf"^ +- (?:.*: )?{name}$", text, re.MULTILINE)] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a site")
    words = ["-m", "mkdocs", "build", "--strict", "--quiet", "-f", "docs/site/mkdocs.yml", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": "src"}
    built = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.mark.slow
def test_the_site_loads_nothing_from_a_network(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(
            r"<(?:script|img|iframe|link)\b[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*>", text
        ), page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


@pytest.mark.slow
def test_the_site_has_the_python_api_and_the_gallery(site):
    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for name in frostline.__all__:
        assert name.startswith("__") or f'id="frostline.{name}"' in python, name
    gallery = (site / "gallery.html").read_text(encoding="utf-8")
    for name in gallery_page.names():
        assert f'src="schedules/gallery/{name}.svg"' in gallery
        assert (site / "schedules" / "gallery" / f"{name}.svg").read_bytes().startswith(b"<?xml")


@pytest.mark.slow
@pytest.mark.ui
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_its_search_works_from_disk(site):
    from playwright.sync_api import sync_playwright

    requests = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_page()
        view.on("request", lambda request: requests.append(request.url))
        view.goto((site / "architecture.html").as_uri())
        view.locator("input[name=query]").click()
        view.keyboard.type("label_smoothing")
        view.locator(".md-search-result__item", has_text="Config keys").wait_for()
        browser.close()
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
