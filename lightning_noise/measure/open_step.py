"""The micro-batches of the optimizer step in progress, as the host announces them."""

from dataclasses import dataclass, field


@dataclass
class OpenStep:
    """What has been seen of the optimizer step in progress.

    Args:
        measured: whether a probe watches this step.
        sizes: examples in each micro-batch so far.
        unknown: whether the size of a micro-batch could not be determined; then the step cannot be
            used.
    """

    measured: bool
    sizes: list[float] = field(default_factory=list)
    unknown: bool = False

    @property
    def local_size(self) -> float:
        """Examples that this rank used in this step."""
        return sum(self.sizes)
