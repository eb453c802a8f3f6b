"""Pieces of HTML. Whatever comes from a log is escaped here."""

from collections.abc import Iterable, Sequence
from html import escape

from lightning_noise.report.page.pictures import Picture

NARROW_SCREEN = "(max-width: 640px)"


def text(tag: str, content: str, **attributes: str) -> str:
    """An element that holds text. An attribute ``class_`` is a class.

    >>> text("p", "a < b", class_="first")
    '<p class="first">a &lt; b</p>'
    """
    return element(tag, escape(content), **attributes)


def element(tag: str, content: str, **attributes: str) -> str:
    """An element around HTML."""
    named = []
    for name, value in attributes.items():
        named.append(f' {name.rstrip("_")}="{escape(value)}"')
    return f"<{tag}{''.join(named)}>{content}</{tag}>"


def items(lines: Iterable[str], **attributes: str) -> str:
    """A list of texts."""
    return element("ul", "".join(text("li", line) for line in lines), **attributes)


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """A list of names with their values."""
    lines = []
    for name, value in rows:
        lines.append(element("div", text("dt", name) + text("dd", value)))
    return element("dl", "".join(lines))


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    marked: Sequence[bool] = (),
) -> str:
    """A table whose first column names its rows. It can be scrolled where it is too wide.

    Args:
        caption: what it shows.
        head: names of the columns.
        rows: texts.
        marked: which rows are set off.
    """
    columns = "".join(text("th", name, scope="col") for name in head)
    body = []
    for place, (name, *cells) in enumerate(rows):
        content = text("th", name, scope="row") + "".join(text("td", cell) for cell in cells)
        kind = {}
        if place < len(marked) and marked[place]:
            kind = {"class_": "marked"}
        body.append(element("tr", content, **kind))
    inside = (
        text("caption", caption)
        + element("thead", element("tr", columns))
        + element("tbody", "\n".join(body))
    )
    return scrolling(element("table", inside), caption)


def scrolling(content: str, label: str) -> str:
    """What may be wider than the screen, reachable with the keyboard."""
    # a group, not a region: a page on many runs would have as many landmarks
    names = {"class": "scrolling", "role": "group", "tabindex": "0", "aria-label": label}
    return element("div", content, **names)


def picture(image: Picture) -> str:
    """An image with a version for narrow screens."""
    narrow = f'<source media="{NARROW_SCREEN}" srcset="{image.narrow}">'
    wide = f'<img src="{image.wide}" alt="{escape(image.alt)}">'
    return element("figure", element("picture", narrow + wide))
