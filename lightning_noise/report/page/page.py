"""The page as a whole."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from lightning_noise.report.errors import ReportError
from lightning_noise.report.page import cards, markup
from lightning_noise.report.page.answer import answer_of
from lightning_noise.report.page.comparison import Summary, comparison
from lightning_noise.report.page.costs import costs_of
from lightning_noise.report.page.course import Course
from lightning_noise.report.page.find_logs import find_courses
from lightning_noise.report.page.health import health_of
from lightning_noise.report.page.style import STYLE
from lightning_noise.report.page.times import span_of
from lightning_noise.say.words import count

QUESTION = "Is the batch size right?"
# where a log does not name the unit
UNITS = "Batch sizes count what the run counted: examples, unless it had a batch_size_fn."
# The browser holds the page to it: nothing is loaded from elsewhere, and no script runs.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
"""
END = "\n</body>\n</html>\n"


def write_report(folders: Sequence[Path], out: Path, price: float | None = None) -> None:
    """Writes the page on the runs in folders.

    Args:
        folders: of runs, or above them.
        out: the file; its folder is created.
        price: of the machine per hour, in any currency; None: no costs.

    Raises:
        NoMatplotlibError: matplotlib is not installed.
        OSError: the file cannot be written.
        ReportError: ``out`` is a folder, or a folder holds no log of a noise scale.
    """
    if out.is_dir():
        fix = f"give {out / 'report.html'} instead"
        raise ReportError(f"--out must name a file, got the folder {out}: {fix}.")
    page = page_of(find_courses(folders), price)
    out.parent.mkdir(parents=True, exist_ok=True)
    # the name of a folder may hold bytes that are no text
    out.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")


def page_of(courses: Sequence[Course], price: float | None = None) -> str:
    """The page on runs, at least one."""
    summaries = [_summary(course) for course in courses]
    title = courses[0].title
    if len(courses) > 1:
        title = count(len(courses), "run")
    head = HEAD.format(policy=POLICY, title=escape(f"{QUESTION} {title}"), style=STYLE)
    subject = f"Gradient noise scale of {title}, reported by lightning-noise"
    header = markup.text("h1", QUESTION) + markup.text("p", subject, class_="soft")
    parts = [markup.element("header", header)]
    kind = "single"
    if len(courses) > 1:
        kind = "runs"
        heading = markup.text("h2", "Comparison")
        table = comparison(summaries)
        parts.append(markup.element("section", heading + table, class_="comparison"))
    articles = [_article(summary, price) for summary in summaries]
    parts.append(markup.element("div", "\n".join(articles), class_=kind))
    if any(course.facts is None for course in courses):
        parts.append(markup.element("footer", markup.text("p", UNITS, class_="soft")))
    return head + markup.element("main", "\n".join(parts)) + END


def _summary(course: Course) -> Summary:
    answer, span = answer_of(course), span_of(course)
    costs = []
    if answer.basis is not None:
        costs = costs_of(answer.basis, span)
    return course, answer, costs, health_of(course), span


def _article(summary: Summary, price: float | None) -> str:
    course, answer, costs, health, span = summary
    parts = [
        markup.text("h2", course.title),
        cards.answer_card(answer),
        cards.course_card(course, answer),
        cards.cost_card(course, costs, span, price),
        cards.components_card(course),
        cards.layers_card(course),
        cards.health_card(course, health),
        cards.verdict_card(course),
    ]
    return markup.element("article", "\n".join(filter(None, parts)))
