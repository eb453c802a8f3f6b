"""The optimizers under measurement: each with its name in the logs, its probe and its monitor."""

import copy
from typing import NamedTuple

import lightning as L
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_noise.core.moments import Key
from lightning_noise.hosts.lightning import trainer_facts
from lightning_noise.hosts.lightning.settings import PROBES, Settings
from lightning_noise.hosts.lightning.strategies import sum_over_ranks
from lightning_noise.hosts.lightning.two_packages import MisconfigurationException
from lightning_noise.measure.layer_keys import list_keys
from lightning_noise.measure.monitor import Monitor
from lightning_noise.measure.probe_choice import Choice, NoGroupsError, choose
from lightning_noise.measure.steps import AnnouncedSteps, FoundSteps, Steps
from lightning_noise.probes.examples import Examples
from lightning_noise.probes.preconditioner import Preconditioner, UnknownPreconditionerError
from lightning_noise.probes.probe import Probe
from lightning_noise.probes.ranks import Ranks


class Measured(NamedTuple):
    """One optimizer: its name ("" where there is one), its place in ``trainer.optimizers``, how it is seen and by what."""

    name: str
    place: int
    choice: Choice
    monitor: Monitor


def measure_each(trainer: L.Trainer, module: L.LightningModule, settings: Settings) -> list[Measured]:
    """A probe and a monitor for every optimizer of the trainer.

    Raises:
        MisconfigurationException: a step of an optimizer will not have two groups of gradients; names the way out.
    """
    names = trainer_facts.optimizer_names(trainer)
    return [_measure(trainer, module, settings, name, index) for index, name in enumerate(names)]


def _measure(trainer: L.Trainer, module: L.LightningModule, settings: Settings, name: str, index: int) -> Measured:
    trained = trainer_facts.trained_parameters(module, trainer.optimizers[index])
    wanted = settings.probe if index == 0 else copy.deepcopy(settings.probe)  # a probe watches one optimizer
    choice, probe = _choose_probe(trainer, module, wanted, trained)
    layers = trained if name else dict(module.named_parameters())  # those unfrozen later are numbered from the start
    keys = list_keys(layers, settings.per_layer)
    if "optimizer" in settings.geometries:
        keys[Key("optimizer")] = list(layers)
        _give_preconditioner(probe, trainer.optimizers[index], choice)
    monitor = Monitor(
        probe,
        keys=keys,
        decay=settings.decay,
        every_n_steps=settings.every_n_steps or 1,
        replicas=trainer.world_size,
        rank=trainer.global_rank,
        reduce=None if trainer.world_size == 1 else sum_over_ranks,
        decay_by_examples=settings.adaptive is not None and not settings.adaptive.advise_only,
    )
    return Measured(name, index, choice, monitor)


def _give_preconditioner(probe: Probe, optimizer: Optimizer, choice: Choice) -> None:
    if not hasattr(probe, "diagonal"):
        raise MisconfigurationException(
            f"`GradientNoiseScale`: geometry 'optimizer' weighs whole gradients, and probe {choice.probe!r} sees none. Use "
            "Trainer(accumulate_grad_batches=2) or more with probe='micro_batches', several ranks, or measure_noise_scale."
        )
    try:
        probe.diagonal = Preconditioner(optimizer)
    except UnknownPreconditionerError as error:
        raise MisconfigurationException(f"`GradientNoiseScale`: {error}") from error


def _choose_probe(
    trainer: L.Trainer, module: L.LightningModule, wanted: str | Probe, trained: dict[str, Parameter]
) -> tuple[Choice, Probe]:
    examples = wanted if isinstance(wanted, Examples) else Examples()
    name = wanted if isinstance(wanted, str) else getattr(wanted, "name", type(wanted).__name__)
    facts = trainer_facts.facts(trainer)._replace(no_examples=trainer_facts.no_examples(trainer, module, examples, trained))
    try:
        choice = choose(name, facts)
    except NoGroupsError as error:
        raise MisconfigurationException(str(error)) from error
    if choice.probe == Examples.name:
        return choice, examples
    probe = PROBES[choice.probe]() if isinstance(wanted, str) else wanted
    if isinstance(probe, Ranks):
        probe.tap = trainer_facts.bucket_tap(trainer) or probe.tap
    return choice, probe


def steps_of(trainer: L.Trainer, module: L.LightningModule, measured: list[Measured]) -> Steps:
    """How backward passes become steps: Lightning announces them, or the module makes them by itself."""
    if module.automatic_optimization:
        return AnnouncedSteps(measured[0].monitor, trainer.optimizers[0])
    return FoundSteps([(one.name, one.monitor) for one in measured], trainer.optimizers)
