"""``measure_noise_scale``: a pause at frozen weights, for checkpoints and studies."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import nn
from torch.optim import Optimizer

from lightning_noise.core.curvature_average import Bounded
from lightning_noise.core.estimate import NoiseEstimate
from lightning_noise.core.moments import Key
from lightning_noise.hosts.frozen_arguments import (
    LossFn,
    check_data,
    check_limits,
    choose_loss,
    geometry_names,
    trainable,
    weighted_norms,
)
from lightning_noise.hosts.frozen_batches import Batches, loader_kept
from lightning_noise.hosts.lightning.pause_progress import show_progress
from lightning_noise.measure.batches import BatchSizeFn, local_size, resolve
from lightning_noise.measure.frozen_sample import Batch, Pause
from lightning_noise.measure.frozen_session import FrozenSession
from lightning_noise.measure.kept_state import frozen
from lightning_noise.measure.sampling_plan import Plan
from lightning_noise.probes.double_float import has_float64


class NoiseScales(dict[str, NoiseEstimate]):
    """Noise scales by geometry, as from :func:`measure_noise_scale`.

    Args:
        estimates: by geometry. For "hessian" ``noise_scale`` is B_noise = tr(HΣ)/(GᵀHG), ``signal``
            GᵀHG, ``noise`` tr(HΣ).
        eps_max: |G|²/(GᵀHG), the best learning rate of plain SGD; ``None`` where it is not defined
            or not resolved.
        dl_max: |G|⁴/(2GᵀHG), the best decrease of the loss in one step; ``None`` likewise.
        indefinite: share of probes that met a direction of curvature <= 0; ``None`` without a
            curvature.
        examples: used.
        needed: examples that the requested precision takes, by the latest forecast; ``None`` where
            there is none.
        passes: passes over the loader begun. With more than one, the interval is about this data
            set and not about new data.
    """

    def __init__(
        self,
        estimates: dict[str, NoiseEstimate],
        *,
        eps_max: Bounded | None,
        dl_max: Bounded | None,
        indefinite: float | None,
        examples: float,
        needed: float | None,
        passes: int,
    ) -> None:
        super().__init__(estimates)
        self.eps_max, self.dl_max, self.indefinite = eps_max, dl_max, indefinite
        self.examples, self.needed, self.passes = examples, needed, passes


def measure_noise_scale(
    module: nn.Module,
    loader: Iterable[Any],
    *,
    loss_fn: LossFn | None = None,
    geometry: str | Sequence[str] = ("euclidean", "hessian"),
    relative_error: float = 0.2,
    max_examples: int = 100_000,
    optimizer: Optimizer | None = None,
    batch_size_fn: BatchSizeFn | str | None = None,
    progress: bool = True,
) -> NoiseScales:
    """Noise scales of ``module`` at its present weights, from as many batches as the requested
    precision takes.

    Gradients come from pairs of batches, the curvature from further batches that no gradient has
    seen. After a pilot of eight probes it says how many examples it will take. Weights, buffers
    (BatchNorm statistics), ``.grad``, train and eval flags and the random states of torch, numpy
    and Python are in the end what they were, also after an exception. The passes are those of
    training: dropout and augmentation count as noise. A loader that ends is started again.

    Args:
        module: on its device; batches are moved there.
        loader: yields micro-batches of training data in random order, anything that can be iterated
            again and again.
        loss_fn: (module, batch) → mean loss over the batch's examples; for "gauss_newton" (loss,
            outputs). ``None`` for a LightningModule: what ``training_step`` returns, on a private
            copy with its logging switched off.
        geometry: one or several of "euclidean" (B_simple), "hessian" (B_noise), "gauss_newton",
            "optimizer".
        relative_error: requested standard error of every noise scale, relative to it.
        max_examples: stops there, whether the precision is reached or not; the pilot is completed
            in any case (32 batches with a curvature).
        optimizer: for "optimizer", in use on the parameters of ``module``.
        batch_size_fn: as in :class:`~lightning_noise.GradientNoiseScale`.
        progress: shows a progress bar.

    Returns:
        A dictionary of :class:`~lightning_noise.NoiseEstimate` by geometry, with more as
        attributes.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, out of range or missing; names the
            fix.
        DifferencesDisagreeError: there is no double backward, and finite differences cannot be
            trusted either.

    Source: McCandlish et al. 2018 (arXiv 1812.06162), section 2 and appendix A.

    >>> model = nn.Linear(2, 1)
    >>> data = torch.utils.data.DataLoader(torch.randn(512, 2), batch_size=16, shuffle=True)
    >>> loss = lambda module, x: (module(x) - 1).square().mean()
    >>> how = {"geometry": "hessian", "max_examples": 2000, "progress": False}
    >>> found = measure_noise_scale(model, data, loss_fn=loss, **how)
    >>> found["hessian"].noise_scale > 0, found.eps_max.value > 0, found.indefinite
    (True, True, 0.0)
    """
    names = geometry_names(geometry, optimizer)
    check_limits(relative_error, max_examples)
    check_data(module, loader)
    size_of = resolve(batch_size_fn)
    parameters = trainable(module)
    device = parameters[0].device
    if not has_float64(device):
        raise ValueError(
            "Move the module to the CPU (module.cpu()): measure_noise_scale sums in float64, which "
            f"the {device.type} device does not have."
        )
    loss, subject = choose_loss(module, loss_fn)
    weighted = None
    if optimizer is not None and "optimizer" in names:
        weighted = weighted_norms(optimizer, parameters)
    # of the private copy, where there is one
    pause = Pause(lambda batch: loss(subject, batch), trainable(subject), names, weighted)

    def prepare(content: Any) -> Batch:
        return Batch(move_data_to_device(content, device), local_size(content, size_of))

    session = FrozenSession(pause, names)
    plan = Plan(relative_error, max_examples)
    with loader_kept(loader), frozen(subject), torch.enable_grad():
        batches = Batches(loader, prepare)
        _run(session, batches, plan, progress)
    return _scales(session, names, plan, batches.passes)


def _run(session: FrozenSession, batches: Batches, plan: Plan, progress: bool) -> None:
    more = True
    with show_progress(plan, shown=progress) as bar:
        while more:
            used = 0.0
            for _ in range(plan.probes):
                used = session.sample(batches, plan.pairs)
                plan.used += used
                bar.probe_done()
            more = plan.next_stage(session.averages, used)
            bar.stage_done()


def _scales(session: FrozenSession, names: Sequence[str], plan: Plan, passes: int) -> NoiseScales:
    """Estimates by geometry; eps_max and dl_max of the first curvature."""
    found = NoiseScales(
        {name: session.estimate(Key(name)) for name in names},
        eps_max=None,
        dl_max=None,
        indefinite=None,
        examples=plan.used,
        needed=plan.needed,
        passes=passes,
    )
    for first in session.curvatures.values():
        found.eps_max, found.dl_max = first.eps_max(), first.dl_max()
        found.indefinite = first.indefinite
        break
    return found
