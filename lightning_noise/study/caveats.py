"""Every kind of warning that a study gives: its text, what mends it, and what that costs.

The table in docs/studies.md is made from these records.
"""

import re
from typing import NamedTuple

from lightning_noise.report.costs import Cost, with_cost

_FIELD = re.compile(r"\{\w+\}")


class Caveat(NamedTuple):
    """A kind of warning.

    Attributes:
        text: what was found; names in braces stand for what differs.
        action: what to do about it, with the same names.
        cost: which runs the action needs, in words.
    """

    text: str
    action: str
    cost: str

    def say(self, cost: Cost | None = None, **values: object) -> str:
        """The warning, with the values of the names in braces."""
        template = f"{self.text}. {self.action}"
        return with_cost(template.format(**values), cost)

    def matches(self, warning: str) -> bool:
        """Whether a warning, without the name of its goal, is of this kind."""
        parts = map(re.escape, _FIELD.split(self.text))
        return re.match(".+".join(parts), warning) is not None

    @property
    def row(self) -> tuple[str, str, str]:
        """Its row of the table, with an ellipsis for what differs."""
        return _FIELD.sub("…", self.text), _FIELD.sub("…", self.action), self.cost


# of the runs at one batch size
NOT_REACHED = Caveat(
    "no trial reached it at global size {size}",
    "Raise the budget or `trials`, or search another range",
    "all runs at this size",
)
LEFT_OUT = Caveat(
    "at global size {size}, {reached} of {reruns} reached it, so the size is left out",
    "Its winner may have been a lucky run{rate}: {fix}, or raise the budget",
    "all runs at this size",
)
MEDIAN = Caveat(
    "at global size {size}, {reached} of {reruns} reached it, so its steps are the median over "
    "all of them",
    "Raise the budget until all of them reach it",
    "the reruns at this size",
)
# of several batch sizes
AT_BUDGET = Caveat(
    "reruns ended at the budget before they reached it, which biases the fit: {where}",
    "Raise Budget(steps=..., examples=...); only what is missing runs again, at most",
    "at most all runs",
)
BOUNDARY = Caveat(
    "the winner lies on the boundary of the search space at global size {sizes}",
    "Widen the ranges there",
    "all runs at these sizes",
)
# of the fit; their texts are made by the fit itself
NO_LOWER_BOUND = Caveat(
    "b_crit has no lower bound: {why}",
    "Add the sizes {sizes}",
    "the runs at these sizes",
)
NO_UPPER_BOUND = Caveat(
    "b_crit has no upper bound: {why}",
    "Add the sizes {sizes}",
    "the runs at these sizes",
)
POOR_FIT = Caveat(
    "the curve misses the steps by {residual} % (rms), so the shape itself is in doubt",
    "Search the learning rate at the size that is named with more trials and in a wider range, "
    "and run more seeds",
    "as many runs as there are at this size",
)
NO_FIT = Caveat(
    "b_crit could not be determined: {why}",
    "Add the sizes {sizes}",
    "the runs at these sizes",
)
# of the runs themselves, and of what is stored
NOT_MEASURED = Caveat(
    "the noise scale was not measured: {why}",
    "With another module or noise_scale=..., run under another name",
    "all runs",
)
ACCEPTED = Caveat(
    "runs from before a change of {parts} are kept, as accepted",
    "Run under another name if the change can change a result",
    "all runs",
)
UNKNOWN_CODE = Caveat(
    "the stored runs are from a version of lightning-noise that did not record make_module, "
    "make_data and the options they were made with, so it cannot be checked whether these have "
    "changed",
    "Run under another name if they may have",
    "all runs",
)
OF_RUNS = (NOT_MEASURED, ACCEPTED, UNKNOWN_CODE)
ALL = (
    NOT_REACHED,
    LEFT_OUT,
    MEDIAN,
    AT_BUDGET,
    BOUNDARY,
    NO_FIT,
    NO_LOWER_BOUND,
    NO_UPPER_BOUND,
    POOR_FIT,
    *OF_RUNS,
)


def of_runs(text: str, cost: Cost) -> str:
    """What runs or the storage reported, with what mends it and its cost."""
    for caveat in OF_RUNS:
        if caveat.matches(text):
            return with_cost(f"{text.removesuffix('.')}. {caveat.action}", cost)
    return text
