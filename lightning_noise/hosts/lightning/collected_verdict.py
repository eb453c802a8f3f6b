"""The verdict on one optimizer, collected from a session."""

from collections.abc import Iterable, Mapping
from itertools import starmap

from lightning_noise.core.moments import Key
from lightning_noise.measure.session import Session
from lightning_noise.measure.track import Track
from lightning_noise.say.geometry_lines import curvature_line, optimizer_line
from lightning_noise.say.verdict import Verdict


def verdict_of(
    session: Session,
    track: Track,
    *,
    learning_rate: float,
    rate_exponent: float,
    unit: str,
    story: Iterable[str],
    warnings: Iterable[str],
    seconds: Mapping[float, float],
) -> Verdict:
    """What was found about the optimizer of a track.

    Args:
        session: the measurement.
        track: of the optimizer.
        learning_rate: in use.
        rate_exponent: of the large-batch model's rule for the learning rate.
        unit: what a batch size counts.
        story: what the adaptive batch size did, in lines.
        warnings: those that do not come from the probe.
        seconds: of an optimizer step by batch size, where it was timed.
    """
    readings = session.readings
    tally = readings.tallies[track.name]
    headline = Key(optimizer=track.name)
    return Verdict(
        estimate=readings.estimate(headline),
        average=readings.windows(headline).current(),
        trajectory=readings.trajectories[headline],
        probe=track.probe.name,
        groups=track.offer.reason,
        global_size=tally.global_size,
        learning_rate=learning_rate,
        rate_exponent=rate_exponent,
        data_size=tally.data_size,
        skipped=dict(tally.skipped),
        twins=tally.twins,
        unit=unit,
        optimizer=track.name,
        story=tuple(story),
        seconds=seconds,
        geometries=_geometry_lines(session, track),
        left_out=track.probe.left_out,
        warnings=(*warnings, *track.probe.remarks(), *sorted(track.notes)),
    )


def _geometry_lines(session: Session, track: Track) -> tuple[str, ...]:
    metric = Key("optimizer", track.name)
    curved = starmap(curvature_line, session.curvatures.items())
    if metric not in session.readings.averages:
        return tuple(curved)
    return (optimizer_line(session.readings.estimate(metric)), *curved)
