"""``measure_noise_scale``: a pause at frozen weights, for checkpoints and studies."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from numbers import Real
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from lightning_noise.core.averaging import RunningAverage
from lightning_noise.core.curvature_average import Bounded, CurvatureAverage
from lightning_noise.core.estimate import NoiseEstimate, estimate_from
from lightning_noise.hosts.lightning.pause_progress import show_progress
from lightning_noise.hosts.lightning.two_packages import either
from lightning_noise.measure.batches import BatchSizeFn, local_size, resolve
from lightning_noise.measure.frozen_sample import CURVED, Batch, Pause, PauseProbe, Weighted
from lightning_noise.measure.kept_state import frozen
from lightning_noise.measure.sampling_plan import Plan
from lightning_noise.probes.preconditioner import (
    Preconditioner,
    check_optimizer,
    weighted_chunk_norms,
)

GEOMETRIES = ("euclidean", "hessian", "gauss_newton", "optimizer")
LossFn = Callable[[nn.Module, Any], Any]


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
        needed: examples that the wished error needs, by the latest forecast; ``None`` where there
            is none.
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
    """Noise scales of ``module`` at its present weights, from as many batches as the wished error
    needs.

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
        relative_error: wished standard error of every noise scale, relative to it.
        max_examples: stops there, wished error or not; the pilot is made whole in any case (32
            batches with a curvature).
        optimizer: for "optimizer", in use on the parameters of ``module``.
        batch_size_fn: as in :class:`~lightning_noise.GradientNoiseScale`.
        progress: shows a progress bar.

    Returns:
        A dictionary of :class:`~lightning_noise.NoiseEstimate` by geometry, with more as
        attributes.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, out of range or missing; names the
            way out.
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
    names = _check(geometry, relative_error, max_examples, optimizer)
    _check_data(module, loader)
    size_of, parameters = (
        resolve(batch_size_fn),
        [p for p in module.parameters() if p.requires_grad],
    )
    if not parameters:
        raise ValueError(
            "module has no parameter that requires a gradient, so there is no noise scale. "
            "Unfreeze some of it."
        )
    loss, subject = _loss_of(module, loss_fn)
    weighted = (
        _weighted(optimizer, parameters) if optimizer is not None and "optimizer" in names else None
    )
    own = [
        p for p in subject.parameters() if p.requires_grad
    ]  # of the private copy, where there is one
    pause = Pause(lambda batch: loss(subject, batch), own, names, weighted)
    device = parameters[0].device
    with _random_state_kept(loader), _iterator_kept(loader), frozen(subject), torch.enable_grad():
        batches = Batches(
            loader,
            lambda batch: Batch(move_data_to_device(batch, device), local_size(batch, size_of)),
        )
        return _run(pause, batches, names, Plan(relative_error, max_examples), progress)


class Batches(Iterator[Batch]):
    """The loader, again and again.

    Raises:
        ValueError: it is empty, or cannot be started again.
    """

    def __init__(self, loader: Iterable[Any], prepare: Callable[[Any], Batch]) -> None:
        self._loader, self._prepare = loader, prepare
        self.passes = 0
        self._iterator: Iterator[Any] = iter(())

    def __next__(self) -> Batch:
        try:
            found = next(self._iterator)
        except StopIteration:
            self._iterator = iter(self._loader)
            self.passes += 1
            found = next(self._iterator, None)
            if found is None:
                raise ValueError(
                    f"loader gave no batch in pass {self.passes}. It must yield batches, and again "
                    f"when it is iterated anew."
                ) from None
        return self._prepare(found)


def _run(
    pause: Pause, batches: Batches, names: Sequence[str], plan: Plan, progress: bool
) -> NoiseScales:
    tally, more = Tally(names), True
    with show_progress(plan, shown=progress) as bar:
        while more:
            used = 0.0
            for _ in range(plan.probes):
                used = tally.add(pause.probe(batches, plan.pairs))
                plan.used += used
                bar.probe_done()
            more = plan.next_stage(tally.averages, used)
            bar.stage_done()
    return tally.result(plan, batches.passes)


class Tally:
    """The averages of a pause, by geometry."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._flat = {name: RunningAverage(1.0) for name in names if name not in CURVED}
        self._curved = {name: CurvatureAverage(1.0) for name in names if name in CURVED}

    def add(self, probe: PauseProbe) -> float:
        """Takes what is usable of a probe; returns the examples it used."""
        for name, average in self._flat.items():
            if probe.flat[name].is_finite:
                average.update(probe.flat[name])
        for name, curvature in self._curved.items():
            if probe.curved[name].is_usable:
                curvature.update(probe.curved[name])
        return probe.examples

    @property
    def averages(self) -> list[RunningAverage]:
        """One a geometry."""
        return [*self._flat.values(), *(curvature.average for curvature in self._curved.values())]

    def result(self, plan: Plan, passes: int) -> NoiseScales:
        """Estimates by geometry; eps_max and dl_max of the first curvature."""
        first = next(iter(self._curved.values()), None)
        return NoiseScales(
            {
                n: estimate_from(self._flat[n]) if n in self._flat else self._curved[n].estimate()
                for n in self._names
            },
            eps_max=first.eps_max() if first else None,
            dl_max=first.dl_max() if first else None,
            indefinite=first.indefinite if first else None,
            examples=plan.used,
            needed=plan.needed,
            passes=passes,
        )


def _check(
    geometry: str | Sequence[str], error: float, most: int, optimizer: Optimizer | None
) -> tuple[str, ...]:
    names: tuple[str, ...] = ()  # anything else than strings is refused below
    if isinstance(geometry, str):
        names = (geometry,)
    elif isinstance(geometry, Iterable):
        names = tuple(geometry)
    if not names or len(set(names)) < len(names) or any(name not in GEOMETRIES for name in names):
        raise ValueError(
            f"geometry must be one or several different ones of {list(GEOMETRIES)}, got "
            f"{geometry!r}."
        )
    if isinstance(error, bool) or not isinstance(error, Real) or not 0 < error < math.inf:
        raise ValueError(f"relative_error must be a number > 0, got {error!r}. 0.2 means 20 %.")
    if isinstance(most, bool) or not isinstance(most, Real) or not most > 0:
        raise ValueError(f"max_examples must be a number > 0, got {most!r}.")
    if "optimizer" in names:
        if optimizer is None:
            raise TypeError(
                "geometry 'optimizer' needs optimizer=, the one in use, whose state holds the "
                "preconditioner."
            )
        check_optimizer(optimizer)
    return names


def _check_data(module: nn.Module, loader: Iterable[Any]) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"module must be a torch.nn.Module, whose parameters are differentiated, got "
            f"{module!r}."
        )
    if not isinstance(loader, Iterable) and not hasattr(loader, "__getitem__"):
        raise TypeError(
            f"loader must yield batches when it is iterated, such as a DataLoader or a list of "
            f"them, got {loader!r}."
        )


def _loss_of(module: nn.Module, loss_fn: LossFn | None) -> tuple[LossFn, nn.Module]:
    """(loss function, the module to call it with)."""
    if loss_fn is not None:
        if not callable(loss_fn):
            raise TypeError(f"loss_fn must be a function (module, batch) -> loss, got {loss_fn!r}.")
        return loss_fn, module
    if not isinstance(module, either(L.LightningModule)) or not module.automatic_optimization:
        raise TypeError(
            "loss_fn is needed for a module that is not a LightningModule with automatic "
            "optimization. Pass "
            "loss_fn=lambda module, batch: ..., which returns the mean loss over the batch."
        )
    copy = deepcopy(module)
    # there is no step to log at
    copy.log = copy.log_dict = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    return _training_step_loss, copy


def _training_step_loss(module: nn.Module, batch: Any) -> Tensor:
    # a LightningModule: checked where this function is chosen
    returned: Any = module.training_step(batch, 0)  # type: ignore[operator]
    loss: Tensor = returned["loss"] if isinstance(returned, dict) else returned
    return loss


def _weighted(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> Weighted:
    diagonal = Preconditioner(optimizer)
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for p in parameters:
        if id(p) not in owned or diagonal(p) is None:
            raise ValueError(
                "geometry 'optimizer' needs an optimizer over all trainable parameters of module "
                "that has made a step or was "
                "restored from a checkpoint: its preconditioner is in its state. Freeze the "
                "others, or restore the state."
            )

    def norms(index: int, gradient: Tensor) -> list[Tensor]:
        # checked above, and the state only grows
        return weighted_chunk_norms(gradient, diagonal(parameters[index]))  # type: ignore[arg-type]

    return norms


@contextmanager
def _random_state_kept(loader: Iterable[Any]) -> Iterator[None]:
    """As Lightning's ``isolate_rng``, and the generators that a DataLoader and its samplers own."""
    batches = getattr(loader, "batch_sampler", None)
    owners = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    own = {
        id(g): (g, g.get_state())
        for o in owners
        if isinstance(g := getattr(o, "generator", None), torch.Generator)
    }
    states = _collect_rng_states(include_cuda=torch.cuda.is_available())
    try:
        yield
    finally:
        _set_rng_states(states)
        for generator, state in own.values():
            generator.set_state(state)


@contextmanager
def _iterator_kept(loader: Iterable[Any]) -> Iterator[None]:
    """A DataLoader with persistent workers has one iterator: starting it anew would disturb a
    training that is under way.
    """
    if not isinstance(loader, DataLoader) or not loader.persistent_workers:
        yield
        return
    kept, loader._iterator = loader._iterator, None  # no public way
    try:
        yield
    finally:
        loader._iterator = kept
