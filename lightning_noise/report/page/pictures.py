"""The figures of a run as images within the page, each with its text alternative."""

import base64
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_noise.core.history import History
from lightning_noise.report.component_figure import draw_components
from lightning_noise.report.layer_figure import draw_layers, layer_map
from lightning_noise.report.page.course import Course
from lightning_noise.report.run_figure import WIDE, RunPart, draw_run
from lightning_noise.say.values import Basis, at_end, value_text
from lightning_noise.say.words import count, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NARROW = 4.6  # inches: for screens on which the letters of the wide figure would be too small
# The same input gives the same page: names in the file are not random, and it has no date.
SETTINGS: Any = {"svg.hashsalt": "lightning-noise"}
NO_DATE: dict[str, Any] = {"Date": None}


class Picture(NamedTuple):
    """One figure, drawn for wide and for narrow screens.

    Args:
        wide, narrow: as data URIs.
        alt: what is to be seen, in words.
    """

    wide: str
    narrow: str
    alt: str


def course_picture(course: Course, basis: Basis | None) -> Picture:
    """The noise scale beside the batch size, and the trade-off."""
    part = None
    if basis is not None:
        part = RunPart(basis.size, basis.b, basis.low, basis.high, basis.step)
    moments = _thinned(course.moments)
    wide = draw_run(moments, part, unit=course.unit)
    narrow = draw_run(moments, part, unit=course.unit, size=(NARROW, WIDE[1]))
    first, last = course.moments[0], course.moments[-1]
    alt = (
        f"Line chart over optimizer steps {first.step} to {last.step}: the noise scale is "
        f"{value_text(first.b, first.low, first.high)} at the first logged step and "
        f"{at_end(course.end)} at the last one"
    )
    if last.size:
        alt += f", where the batch size is {number(last.size)}"
    alt += "."
    if part is not None and part.b:
        below = f"Below, steps and {course.unit} by batch size"
        alt += f" {below}; the table of batch sizes has the numbers."
    return Picture(_data_uri(wide), _data_uri(narrow), alt)


def components_picture(course: Course) -> Picture | None:
    """|G|² and tr(Σ); ``None`` where at no step both are positive."""
    positive = [one for one in course.components if one.grad_sq > 0 and one.trace > 0]
    if not positive:
        return None
    shown = _thinned(course.components)
    if not set(shown) & set(positive):
        shown = _thinned(positive)
    figure = draw_components(shown, course.moments[-1].size)
    first, last = positive[0], positive[-1]
    alt = (
        f"Line chart, and tr(Σ) against |G|²: from step {first.step} to {last.step} the signal "
        f"|G|² goes from {number(first.grad_sq)} to {number(last.grad_sq)}, the noise tr(Σ) from "
        f"{number(first.trace)} to {number(last.trace)}."
    )
    return _picture(figure, alt)


def layers_picture(course: Course) -> Picture | None:
    """The map of layers; ``None`` where no layer was logged."""
    if not any(course.layers.values()):
        return None
    found = layer_map(course.layers, [moment.step for moment in course.moments])
    layers = count(len(course.layers), "layer")
    alt = (
        f"Map of {layers} over the optimizer steps, coloured by the logarithm of the noise scale; "
        "the table of layers has the numbers."
    )
    return _picture(draw_layers(found), alt)


def _picture(figure: "Figure", alt: str) -> Picture:
    wide = _data_uri(figure)
    figure.set_size_inches(NARROW, figure.get_size_inches()[1])
    return Picture(wide, _data_uri(figure), alt)


def _data_uri(figure: "Figure") -> str:
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context(SETTINGS):
        figure.savefig(file, format="svg", metadata=NO_DATE)
    code = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:image/svg+xml;base64,{code}"


def _thinned(values: Iterable[Any]) -> list[Any]:
    """As many as a figure can show."""
    history: Any = History()
    for value in values:
        history.add(value)
    return list(history.moments)
