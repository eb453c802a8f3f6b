"""How many examples each batch of a fit holds."""

from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_noise.hosts.lightning import trainer_facts
from lightning_noise.hosts.lightning.two_packages import MisconfigurationException


class BatchSizes:
    """Counts the examples of batches by the user's function, or by the length of their first tensor.

    Args:
        batch_size_fn: batch → number of examples (tokens, nodes, …), or its dotted path.

    Attributes:
        size: of the latest batch, in the user's unit; ``None`` where it cannot be told.
        rows: length of its batch dimension, where ``size`` counts something else.
        known: whether the size of a batch has been told in this fit; until then it is an error if it cannot.
    """

    def __init__(self, batch_size_fn: trainer_facts.BatchSizeFn | str | None) -> None:
        self._fn = trainer_facts.resolve(batch_size_fn)
        self.size: float | None = None
        self.rows: int | None = None
        self.known = False

    def count(self, batch: Any) -> None:
        """Takes the next batch.

        Raises:
            MisconfigurationException: its size cannot be told, and none has been before.
        """
        try:
            self.size = trainer_facts.local_size(batch, self._fn)
            self.rows = trainer_facts.rows(batch, self.size) if self._fn is not None else None
            self.known = True
        except trainer_facts.BatchSizeError as error:
            if not self.known:
                raise MisconfigurationException(f"`GradientNoiseScale`: {error}") from error
            self.size = None
            rank_zero_warn(f"GradientNoiseScale passes over this step: {error}")
