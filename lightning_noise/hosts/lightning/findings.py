"""What the verdict is made from, gathered at the end of a fit."""

from collections.abc import Mapping, Sequence

import lightning as L

from lightning_noise.core.curvature_average import CurvatureAverage
from lightning_noise.core.moments import Key
from lightning_noise.hosts.lightning import trainer_facts
from lightning_noise.hosts.lightning.tracks import Measured
from lightning_noise.say.verdict import Findings, curvature_line, optimizer_line


def gather(
    trainer: L.Trainer,
    module: L.LightningModule,
    measured: Measured,
    *,
    learning_rate: float,
    unit: str,
    story: Sequence[str],
    curvatures: Mapping[str, CurvatureAverage],
) -> Findings:
    """The findings about one optimizer."""
    monitor, metric = measured.monitor, Key("optimizer")
    readings = monitor.readings
    own = [optimizer_line(monitor.estimate(metric))] if metric in readings.windows else []
    return Findings(
        estimate=monitor.estimate(),
        average=readings.windows[Key()].current(),
        trajectory=readings.trajectories[Key()],
        choice=measured.choice,
        global_size=readings.global_size,
        learning_rate=learning_rate,
        data_size=readings.data_size,
        skipped=dict(readings.skipped),
        twins=readings.twins,
        unit=unit,
        optimizer=measured.name,
        story=tuple(story),
        geometries=(*own, *(curvature_line(geometry, average) for geometry, average in curvatures.items())),
        warnings=(*trainer_facts.cautions(trainer, module), *trainer_facts.left_out(monitor.probe), *sorted(monitor.notes)),
    )
