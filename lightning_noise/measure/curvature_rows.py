"""Probes of the curvature as rows of numbers, and back."""

import math
from collections.abc import Mapping, Sequence

from lightning_noise.core.curvature_average import CurvatureAverage, CurvatureProbe
from lightning_noise.core.moments import Key, Moments
from lightning_noise.measure.pending_rows import ReadRow
from lightning_noise.measure.readings import Readings

SOURCE = "curvature"
FIELDS = len(Moments._fields)
WIDTH = 2 * FIELDS + 1  # moments in the metric, Euclidean moments, and the indefinite share


def pack(geometries: Sequence[str], probes: Mapping[str, CurvatureProbe]) -> list[float]:
    """The numbers of one row: WIDTH for each geometry, NaN where there is no probe.

    >>> flat = Moments(5.5, 4.5, 1.0, 0.5)
    >>> pack(["hessian"], {"hessian": CurvatureProbe(flat, flat, 0.0)})
    [5.5, 4.5, 1.0, 0.5, 5.5, 4.5, 1.0, 0.5, 0.0]
    """
    numbers: list[float] = []
    for name in geometries:
        if name in probes:
            probe = probes[name]
            numbers += [*probe.moments, *probe.euclidean, probe.indefinite]
        else:
            numbers += [math.nan] * WIDTH
    return numbers


def read_row(geometries: Sequence[str], row: ReadRow, readings: Readings) -> None:
    """Adds the usable probes of a row that :func:`pack` made to their averages."""
    for index, name in enumerate(geometries):
        part = row.values[WIDTH * index : WIDTH * (index + 1)]
        metric, euclidean = Moments(*part[:FIELDS]), Moments(*part[FIELDS : 2 * FIELDS])
        probe = CurvatureProbe(metric, euclidean, part[-1])
        average = readings.averages[Key(name)]
        if probe.is_usable and isinstance(average, CurvatureAverage):
            average.update(probe)
            readings.note(Key(name), probe.moments, row)
