"""A notebook as a page: its texts, its code, and what the code gave when the notebook was run."""

import json
from base64 import b64decode
from pathlib import Path
from typing import Any, NamedTuple


class NotebookPage(NamedTuple):
    """A page made of a notebook.

    Args:
        text: Markdown.
        pictures: what the cells drew, by file name.
    """

    text: str
    pictures: dict[str, bytes]


def _joined(lines: str | list[str]) -> str:
    return "".join(lines)


def _fenced(language: str, code: str) -> str:
    return f"```{language}\n{code.rstrip()}\n```"


def page(path: Path) -> NotebookPage:
    """The page of a notebook that has been run."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(path.read_text())["cells"]:
        source = _joined(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(_fenced("python", source))
        for output in cell["outputs"]:
            name = f"{path.stem}_{len(pictures)}.png"
            parts += _shown(output, name, pictures)
    return NotebookPage("\n\n".join(parts) + "\n", pictures)


def _shown(output: dict[str, Any], name: str, pictures: dict[str, bytes]) -> list[str]:
    """What one output of a cell looks like on the page."""
    if output["output_type"] == "stream":
        return [_fenced("text", _joined(output["text"]))]
    data = output.get("data", {})
    if "image/png" in data:
        pictures[name] = b64decode(_joined(data["image/png"]))
        return [f"![What the cell above shows](images/{name})"]
    if "text/html" in data:
        return [f'<div class="output">\n{_joined(data["text/html"])}\n</div>']
    if "text/plain" in data:
        return [_fenced("text", _joined(data["text/plain"]))]
    return []
