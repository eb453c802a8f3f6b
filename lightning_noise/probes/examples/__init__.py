"""Per-example squared gradient norms by hooks on the layers, sketched so that they cost next to nothing."""

from lightning_noise.probes.examples.contribution import Contribution, Dense, Form, NotPerExample
from lightning_noise.probes.examples.coverage import Coverage, CoverageError, Missing, UnsupportedModelError
from lightning_noise.probes.examples.outer import Outer
from lightning_noise.probes.examples.probe import Examples
from lightning_noise.probes.examples.refusals import uses_batch_statistics
from lightning_noise.probes.examples.registry import register_rule

__all__ = [
    "Contribution",
    "Coverage",
    "CoverageError",
    "Dense",
    "Examples",
    "Form",
    "Missing",
    "NotPerExample",
    "Outer",
    "UnsupportedModelError",
    "register_rule",
    "uses_batch_statistics",
]
