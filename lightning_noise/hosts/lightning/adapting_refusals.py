"""Set-ups in which the batch size cannot be changed safely, refused before training starts and
alike on all ranks.
"""

import lightning as L

from lightning_noise.hosts.lightning.refusals import Refusal
from lightning_noise.hosts.lightning.trainer_facts import scheduled_accumulation
from lightning_noise.hosts.lightning.two_packages import MisconfigurationException

FLAG = "`GradientNoiseScale(adaptive_batch_size=...)`:"
FIX = (
    "Leave adaptive_batch_size out, or use AdaptiveBatchSize(advise_only=True), which only reports "
    "what it would do."
)

SEVERAL = Refusal(
    "several optimizers",
    lambda trainer, _: len(trainer.optimizers) > 1,
    lambda trainer, _: (
        f"configure_optimizers returned {len(trainer.optimizers)} optimizers, each with a noise "
        "scale of its own, and one batch size cannot follow them all. Leave adaptive_batch_size "
        "out."
    ),
)
REFUSALS = (
    Refusal(
        "manual optimization",
        lambda _, module: not module.automatic_optimization,
        lambda _, module: (
            f"{type(module).__name__}.automatic_optimization is False: the module itself decides "
            "when it steps, so its accumulation cannot be changed from outside."
        ),
    ),
    Refusal(
        "GradientAccumulationScheduler",
        lambda trainer, _: bool(scheduled_accumulation(trainer)),
        lambda _, __: (
            "GradientAccumulationScheduler sets accumulate_grad_batches by a plan of its own. "
            "Remove it, and give Trainer(accumulate_grad_batches=...) as the start."
        ),
    ),
    Refusal(
        "overfit_batches",
        lambda trainer, _: bool(getattr(trainer, "overfit_batches", 0)),
        lambda trainer, _: (
            f"Trainer(overfit_batches={getattr(trainer, 'overfit_batches', 0)}) trains on a number "
            "of batches, so a larger batch would mean other data."
        ),
    ),
    Refusal(
        "static_graph",
        lambda trainer, _: bool(getattr(trainer.strategy.model, "static_graph", False)),
        lambda _, __: (
            "DDP(static_graph=True) fails inside torch once gradients are accumulated, which "
            "adapting may begin to do. Leave static_graph out."
        ),
    ),
)


def refuse_adapting(trainer: L.Trainer, module: L.LightningModule, *, advise_only: bool) -> None:
    """Raises for the first set-up of the table that holds; advice is refused only where there are
    several noise scales.

    Raises:
        MisconfigurationException: names the set-up, the reason and the fix.
    """
    if SEVERAL.holds(trainer, module):
        reason = SEVERAL.message(trainer, module)
        raise MisconfigurationException(f"{FLAG} {reason}")
    if advise_only:
        return
    for refusal in REFUSALS:
        if refusal.holds(trainer, module):
            raise cannot_adapt(refusal.message(trainer, module))


def cannot_adapt_by_clock() -> MisconfigurationException:
    """The error for a deterministic run that would decide by measured step times."""
    return MisconfigurationException(
        f"{FLAG} give the policy its step times, LeastTime(step_time=(a, b)), where a step of B "
        "examples takes a + b·B seconds. With Trainer(deterministic=True) it must not measure "
        "them, because they differ from run to run. The verdict of a run without "
        "deterministic=True prints the pair."
    )


def cannot_adapt(reason: str) -> MisconfigurationException:
    """The error for a reason, with the fix."""
    return MisconfigurationException(f"{FLAG} {reason} {FIX}")
