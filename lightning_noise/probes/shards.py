"""Every micro-batch on every rank is a group, seen where FSDP2 or FSDP has gathered the parameters,
before anything is reduced.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.utils.hooks import RemovableHandle

from lightning_noise.core.errors import NoiseScaleError
from lightning_noise.core.moments import Key
from lightning_noise.core.reasons import CannotMeasureError, Reason, Severity
from lightning_noise.probes.double_float import Wide
from lightning_noise.probes.examples.hooks import ModuleHook
from lightning_noise.probes.keyed_norms import KeyedNorms
from lightning_noise.probes.micro_batches import MicroBatches
from lightning_noise.probes.norms import chunk_norms
from lightning_noise.probes.probe import EUCLIDEAN, Context, Offer
from lightning_noise.probes.setup import Setup
from lightning_noise.probes.sharding import Sharding, Unit, is_sharded, own_piece, sharding_of
from lightning_noise.probes.trained import trained

NOT_SHARDED = Reason(
    "not_sharded",
    Severity.REFUSE,
    "the shards probe needs a model that FSDP2 or FSDP has sharded",
    "Use the micro_batches probe.",
)
NO_SHARDED_MODULE = Reason(
    "no_sharded_module",
    Severity.REFUSE,
    "the shards probe must know the sharded model, and was given parameters only",
    "Pass the module.",
)


class ShardedNorms(KeyedNorms):
    """Squared norms of gradients that are whole on every rank, and of averaged gradients of which a
    rank holds one piece.

    A piece counts times the number of pieces: the mean over the ranks is then the squared norm of
    the whole, whether a piece exists once or on several replicas (HSDP). Padding is in no piece.

    Args:
        parameters, keys: as for :class:`~lightning_noise.probes.keyed_norms.KeyedNorms`.
        pieces: of each parameter, by name.
    """

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        keys: Mapping[Key, Sequence[str]],
        pieces: Mapping[str, int],
    ) -> None:
        super().__init__(parameters, keys)
        self._pieces = pieces

    def add_gradients(
        self,
        parameters: Mapping[str, Parameter],
        small: Mapping[int, Tensor] | None = None,
    ) -> None:
        """Notes the norms of this rank's piece of every averaged gradient; ``small`` is unused."""
        for name, parameter in parameters.items():
            if parameter.grad is None:
                continue
            factor = math.sqrt(self._pieces[name])
            norms = chunk_norms(own_piece(parameter.grad))
            self.add_norms(self.cell_of[name], [factor * part.double() for part in norms])


class Shards(MicroBatches):
    """Probe whose groups are the micro-batches of a step on every rank, for models sharded by FSDP2
    or FSDP (FULL_SHARD, SHARD_GRAD_OP, NO_SHARD, HSDP).

    A shard gets its gradient only after the reduction. So a hook is put on the gathered parameter
    during the forward pass, and sees the gradient of this rank and this micro-batch, whole and in
    the precision of the backward pass. Nothing of the communication is touched: a reduce dtype,
    ``no_sync``, a custom reduce-scatter or a communication hook stay what they are. The averaged
    gradient is read as shards.

    A step in which a module has got a gradient that no hook has seen cannot be used; if it is the
    first one, training stops with a :class:`~lightning_noise.core.reasons.CannotMeasureError`.
    A step in which hooks have seen a module, but not all of its parameters with a gradient other
    than 0, counts as not finite.

    Needs the outermost module: a host passes it to :meth:`offer`, or call :meth:`bind`.
    """

    name: ClassVar[str] = "shards"
    metrics: ClassVar[frozenset[str]] = EUCLIDEAN
    watches_forward: ClassVar[bool] = True
    sees_shards: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self._model: nn.Module | None = None
        self._ranks = 1
        self._sharding = Sharding([], {})
        self._passes = ExitStack()  # hooks on modules and gathered parameters
        self._listening = False
        self._hooked: dict[str, Tensor] = {}
        self._heard: set[str] = set()
        self._blind: Reason | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # hooks and modules belong to one process and one fit

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]  # as if built anew

    def bind(self, module: nn.Module, *, ranks: int = 1) -> None:
        """Names the outermost module, and how many ranks train on different examples."""
        self._model = module
        self._ranks = ranks

    def offer(
        self, setup: Setup, model: nn.Module | None, parameters: Mapping[str, Parameter]
    ) -> Offer | Reason:
        """Needs a sharded model, and two micro-batches per step, on one rank or several."""
        if not is_sharded(model, parameters.values()):
            return NOT_SHARDED
        if model is None:
            return NO_SHARDED_MODULE
        self.bind(model, ranks=setup.ranks)
        try:
            self._sharding_of(parameters)
        except CannotMeasureError as error:
            return error.reasons[0]
        answer = super().offer(setup, model, parameters)
        if isinstance(answer, Reason):
            return answer
        return answer._replace(reason=f"{answer.reason}, and the model is sharded")

    def _sharding_of(self, parameters: Mapping[str, Parameter]) -> Sharding:
        if self._model is None:
            raise RuntimeError("Shards.bind(module) must be called before attach.")
        return sharding_of(self._model, trained(parameters), self._ranks)

    # What is hooked

    def _norms_of(
        self,
        parameters: Mapping[str, Parameter],
        keys: Mapping[Key, Sequence[str]],
        context: Context,
    ) -> KeyedNorms:
        self._sharding = self._sharding_of(parameters)
        return ShardedNorms(parameters, keys, self._sharding.pieces)

    def _hook_gradients(self, stack: ExitStack) -> None:
        stack.callback(self.rest)

    def listen(self, examples: int | None = None) -> None:
        """Hooks the units until :meth:`rest`, so that each hooks its parameters once they are
        gathered.
        """
        if self._listening:
            return
        self._listening = True
        for unit in self._sharding.units:
            hook = ModuleHook(partial(self._gathered, unit))
            self._passes.callback(unit.module.register_forward_pre_hook(hook).remove)

    def _gathered(self, unit: Unit, *_: Any) -> None:
        """The parameters of a unit are whole: FSDP's own hook stands before this one."""
        for name, place in unit.places.items():
            tensor: Tensor = getattr(place.module, place.attribute)
            if tensor.requires_grad and self._hooked.get(name) is not tensor:
                self._hooked[name] = tensor
                handle: RemovableHandle = tensor.register_hook(self._hook(name))
                self._passes.callback(handle.remove)

    def rest(self) -> None:
        """Removes every hook."""
        self._listening = False
        self._hooked = {}
        self._passes.close()

    # One step

    def end(self) -> None:
        """Closes the gate and adds the micro-batch to the step as one group."""
        if self._open:
            self._heard |= self._seen | self._parts.keys()
        super().end()

    def row(self) -> Wide | None:
        """Moments of the step, shape (keys, 4); reads the big norm from the shards of ``.grad``.
        ``None`` where no group was seen, or a gradient that no hook has seen.
        """
        if self._fault is None:
            self._blind = self._unheard()
            if self._blind is not None:
                self._fault = self._blind._replace(severity=Severity.SKIP)
        missed = self._missed_norm()
        row = super().row()
        if row is None or missed is None:
            return row
        # decided on the device: no rank waits, and the sum spoils the step on all ranks alike
        return row * torch.where(missed > 0, math.nan, 1.0).to(torch.float64)

    def _missed_norm(self) -> Tensor | None:
        """The sum of norms of averaged gradients that no hook has seen, of parameters whose module
        was seen; more than 0 unless they are those of parameters that the step did not use.
        """
        norms: list[Tensor] = []
        for name in self._sharding.pieces.keys() - self._heard:
            gradient = self._parameters[name].grad
            if gradient is not None:
                norms += chunk_norms(own_piece(gradient))
        if not norms:
            return None
        return torch.cat(norms).sum()

    def _unheard(self) -> Reason | None:
        """A unit with a gradient that no hook has seen: it would be counted as 0."""
        for unit in self._sharding.units:
            if not self._heard.isdisjoint(unit.places):
                continue
            for name in unit.places:
                if self._parameters[name].grad is not None:
                    return _blind_to(unit, name)
        return None

    @property
    def refusal(self) -> NoiseScaleError | None:
        """A unit whose gradients cannot be seen."""
        if self._blind is None:
            return None
        return CannotMeasureError([self._blind])

    def _reset(self) -> None:
        super()._reset()
        self._heard = set()


def _blind_to(unit: Unit, parameter: str) -> Reason:
    return Reason(
        "unseen_shard",
        Severity.REFUSE,
        f"parameter {parameter!r} has a gradient, but none was seen of module "
        f"{unit.name!r} before the reduction: its forward pre-hooks did not run",
        "Call the sharded module itself, and not a method of it.",
    )
