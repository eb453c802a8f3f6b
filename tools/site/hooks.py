"""What mkdocs does beside its configuration: pages from outside of ``docs``, and their links."""

import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # mkdocs loads this file by its path

from tools.site import links, notebooks

OUTSIDE = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "benchmarks/RESULTS.md",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from outside of ``docs``, the notebooks, and all files that pages link to."""
    texts = {path: (ROOT / path).read_text() for path in OUTSIDE}
    for file in files.documentation_pages():
        texts[f"docs/{file.src_uri}"] = file.content_string
    for path in sorted((ROOT / "docs").glob("*.ipynb")):
        made = notebooks.page(path)
        texts[f"docs/{path.name}"] = made.text
        for name, picture in made.pictures.items():
            files.append(File.generated(config, f"images/{name}", content=picture))
        stored = files.get_file_from_path(path.name)
        if stored is not None:
            files.remove(stored)
    for path, text in texts.items():
        place = links.place(path)
        old = files.get_file_from_path(place)
        if old is not None:
            files.remove(old)
        content = links.on_site(path, text)
        files.append(File.generated(config, place, content=content))
    for path in sorted(set().union(*(links.linked(*item) for item in texts.items()))):
        place = links.place(path)
        if files.get_file_from_path(place) is None:
            files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_context(context: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Pages are made from several files, so none has a link to edit it."""
    context["page"].edit_url = None
    return context
