"""The documentation site: links of pages, notebooks, docstrings, and a strict build."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from testing.launch import ROOT
from tools.site import links, notebooks
from tools.site.docstrings import as_markdown

PICTURE = "iVBORw0KGgo="


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("README.md", "index.md"),
        ("docs/adaptive.md", "adaptive.md"),
        ("docs/digits.ipynb", "digits.md"),
        ("docs/images/run.png", "images/run.png"),
        ("benchmarks/RESULTS.md", "benchmarks/RESULTS.md"),
    ],
)
def test_where_a_file_is_on_the_site(path, place):
    assert links.place(path) == place


@pytest.mark.parametrize(
    ("page", "link", "on_site"),
    [
        ("README.md", "[a](docs/setups.md#refused)", "[a](setups.md#refused)"),
        ("README.md", "![a](docs/images/run.png)", "![a](images/run.png)"),
        ("docs/first_steps.md", "[a](../README.md)", "[a](index.md)"),
        ("docs/first_steps.md", "[a](digits.ipynb)", "[a](digits.md)"),
        ("docs/scale.md", "[a](../benchmarks/RESULTS.md#x)", "[a](benchmarks/RESULTS.md#x)"),
        ("benchmarks/RESULTS.md", "[a](../docs/scale.md)", "[a](../scale.md)"),
        ("benchmarks/README.md", "[results](results/)", "results"),
        ("docs/scale.md", "[a](https://arxiv.org/abs/1)", "[a](https://arxiv.org/abs/1)"),
        ("docs/scale.md", "[a](#in-a-step)", "[a](#in-a-step)"),
        ("README.md", "`[a](docs/scale.md)`", "`[a](docs/scale.md)`"),
    ],
)
def test_links_lead_to_where_their_targets_are(page, link, on_site):
    assert links.on_site(page, link) == on_site


def test_files_that_a_page_links_to_are_found():
    text = "[a](../benchmarks/results/coverage.csv) [b](scale.md) `[c](setups.md)` [d](images/)"
    assert links.linked("docs/caveats.md", text) == {
        "benchmarks/results/coverage.csv",
        "docs/scale.md",
    }


def test_a_notebook_is_a_page_with_what_its_cells_gave(tmp_path):
    outputs = [
        {"output_type": "stream", "text": ["one\n", "two\n"]},
        {"output_type": "execute_result", "data": {"text/html": "<b>3</b>", "text/plain": "3"}},
        {"output_type": "execute_result", "data": {"text/plain": "4"}},
        {"output_type": "display_data", "data": {"image/png": PICTURE, "text/plain": "<Figure>"}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "Text."]},
        {"cell_type": "code", "source": "run()", "outputs": outputs},
    ]
    path = tmp_path / "example.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    page = notebooks.page(path)
    assert page.text.split("\n\n") == [
        "# Title",
        "Text.",
        "```python\nrun()\n```",
        "```text\none\ntwo\n```",
        '<div class="output">\n<b>3</b>\n</div>',
        "```text\n4\n```",
        "![What the cell above shows](images/example_0.png)\n",
    ]
    assert page.pictures == {"example_0.png": b"\x89PNG\r\n\x1a\n"}


def test_docstrings_have_no_words_of_sphinx_and_examples_are_code():
    text = "See :class:`~lightning_noise.Key`.\n\n>>> 1 + 1\n2\n\nMore."
    assert as_markdown(text) == "See `Key`.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nMore."


class Settings(yaml.SafeLoader):
    """Reads mkdocs.yml without making the functions that it names."""


Settings.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def pages_in(nav):
    for entry in nav:
        (value,) = entry.values()
        if isinstance(value, str):
            yield value
        else:
            yield from pages_in(value)


def test_every_page_is_in_the_navigation():
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(), Settings)
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.ipynb")]
    expected = {links.place(str(path.relative_to(ROOT))) for path in pages}
    outside = {"index.md", "CHANGELOG.md", "CONTRIBUTING.md"}
    outside |= {"benchmarks/README.md", "benchmarks/RESULTS.md"}
    assert set(pages_in(settings["nav"])) == expected | outside


def test_every_public_name_is_in_the_reference():
    import lightning_noise

    text = (ROOT / "docs" / "api.md").read_text()
    named = set(re.findall(r"^::: lightning_noise\.(\w+)$", text, re.MULTILINE))
    assert set(lightning_noise.__all__) <= named


def test_every_figure_is_in_the_gallery():
    text = (ROOT / "docs" / "gallery.md").read_text()
    shown = set(re.findall(r"\(images/(.+?\.png)\)", text))
    assert shown == {path.name for path in (ROOT / "docs" / "images").glob("*.png")}


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing(tmp_path):
    """Nothing from the network: neither fonts, scripts, styles nor pictures."""
    mkdocs = Path(sys.executable).parent / "mkdocs"
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [mkdocs, "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    first = (tmp_path / "site" / "index.html").read_text()
    assert "Your batch size of 32 is about" in first
    reference = (tmp_path / "site" / "api.html").read_text()
    assert 'id="lightning_noise.GradientNoiseScale"' in reference and ":class:" not in reference
    for page in (tmp_path / "site").rglob("*.html"):
        found = re.findall(r'(?:src|<link[^>]+href)="(https?:[^"]+)"', page.read_text())
        assert found == [], page.name
