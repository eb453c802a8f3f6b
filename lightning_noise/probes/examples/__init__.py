"""Per-example squared gradient norms by hooks on the layers, sketched so that they cost little."""

from lightning_noise.probes.examples.contribution import (
    Contribution,
    Dense,
    Form,
    NotPerExample,
)
from lightning_noise.probes.examples.coverage import Cause, Coverage, Missing
from lightning_noise.probes.examples.errors import CoverageError, UnsupportedModelError
from lightning_noise.probes.examples.outer import Outer
from lightning_noise.probes.examples.probe import Examples
from lightning_noise.probes.examples.refusals import uses_batch_statistics
from lightning_noise.probes.examples.registry import register_rule
from lightning_noise.probes.examples.rule import Rule

__all__ = [
    "Cause",
    "Contribution",
    "Coverage",
    "CoverageError",
    "Dense",
    "Examples",
    "Form",
    "Missing",
    "NotPerExample",
    "Outer",
    "Rule",
    "UnsupportedModelError",
    "register_rule",
    "uses_batch_statistics",
]
