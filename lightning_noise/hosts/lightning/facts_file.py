"""Writes what scalars do not say beside the files of loggers, for ``lightning-noise report``."""

from collections.abc import Mapping

import lightning as L
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_noise.hosts.lightning.two_packages import either
from lightning_noise.say.run_facts import FILE, RunFacts, to_text

WITH_FOLDERS = (*either(TensorBoardLogger), *either(CSVLogger))


def has_folder(trainer: L.Trainer) -> bool:
    """Whether this rank has a logger whose folder takes the file."""
    if not trainer.is_global_zero:
        return False
    return any(isinstance(logger, WITH_FOLDERS) for logger in trainer.loggers)


def write_facts(trainer: L.Trainer, facts: Mapping[str, RunFacts]) -> None:
    """Writes the file into the folder of every logger that ``report`` can read.

    The loggers have logged before, so that their folders exist. Only rank 0 writes.
    """
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        if isinstance(logger, WITH_FOLDERS):
            path = f"{logger.log_dir}/{FILE}"
            try:
                with get_filesystem(path).open(path, "w") as file:
                    file.write(to_text(facts))
            except OSError as error:  # no reason to end a fit
                rank_zero_warn(f"GradientNoiseScale: {path} could not be written: {error}")
