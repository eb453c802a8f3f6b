"""Where a file of the repository is on the site, and the links of a page as they are there.

Pages link to each other by their paths in the repository, where they are read too. On the site the
pages of ``docs`` are at the top, the README is the first page, and all other files keep their path.
"""

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIRST = "index.md"
LINK = re.compile(r"(!?\[[^\]]*\])\(([^)#\s]+)(#[^)\s]*)?\)")
CODE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)


def place(path: str) -> str:
    """The place on the site of a file, by its path in the repository."""
    if path == "README.md":
        return FIRST
    if path.endswith(".ipynb"):
        path = path.removesuffix(".ipynb") + ".md"
    return path.removeprefix("docs/")


def _target(page: str, link: str) -> str:
    """The path in the repository that a link of a page leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def _is_outside(link: str) -> bool:
    return "://" in link or link.startswith("mailto:")


def _prose(text: str) -> str:
    """A text without its code."""
    return CODE.sub("", text)


def linked(page: str, text: str) -> set[str]:
    """The files of the repository that a page links to, by their paths; no folders."""
    links = [found[2] for found in LINK.finditer(_prose(text)) if not _is_outside(found[2])]
    targets = {_target(page, link) for link in links}
    return {target for target in targets if (ROOT / target).is_file()}


def on_site(page: str, text: str) -> str:
    """The text of a page, with links to where its targets are on the site.

    A link to a folder of the repository is its words alone: a site has no listing of folders.
    """

    def moved(found: re.Match[str]) -> str:
        words, link, anchor = found[1], found[2], found[3] or ""
        if _is_outside(link):
            return found[0]
        target = _target(page, link)
        if (ROOT / target).is_dir():
            return words.strip("[]")
        here = posixpath.dirname(place(page))
        return f"{words}({posixpath.relpath(place(target), here or '.')}{anchor})"

    parts = CODE.split(text)  # prose and code in turn
    parts[::2] = [LINK.sub(moved, part) for part in parts[::2]]
    return "".join(parts)
