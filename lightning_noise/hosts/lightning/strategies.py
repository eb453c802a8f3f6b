"""Strategies that show each rank's gradients before they are reduced."""

from typing import TYPE_CHECKING, Any

from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch.nn.parallel import DistributedDataParallel

from lightning_noise.hosts.lightning.strategy_names import Renaming
from lightning_noise.hosts.lightning.two_packages import INSTALLED, PACKAGES, package_of
from lightning_noise.probes.ranks import BucketTap, CommHook, mean_hook

if TYPE_CHECKING:
    _Base = DDPStrategy
else:
    _Base = object


class NoiseStrategyMixin(_Base):
    """Puts a tap before the reduction of gradients in any strategy derived from Lightning's
    ``DDPStrategy``.

    ``class Mine(NoiseStrategyMixin, MyDDPStrategy): ...`` then ``Trainer(strategy=Mine(...))``,
    with the mixin first. The strategy's own communication hook, its state and its wrapper run
    unchanged behind the tap, and on every device (Lightning skips hooks on CPU). Without a hook,
    gradients are averaged as DDP does it, bit for bit.

    ``noise_tap`` is the :class:`~lightning_noise.probes.ranks.BucketTap` that
    ``GradientNoiseScale`` listens to.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.noise_tap = BucketTap()

    def __repr__(self) -> str:
        """Lightning quotes it where a strategy of its twin package is refused."""
        own = package_of(self)
        other = PACKAGES[0]
        if own == other:
            other = PACKAGES[1]
        return (
            f"<{type(self).__name__}, for a Trainer of {own}; with {other} write "
            "strategy='ddp_noise' or derive a class from NoiseStrategyMixin and "
            f"{other}.strategies.DDPStrategy>"
        )

    def _register_ddp_hooks(self) -> None:
        """Registers the hook of the base strategies behind the tap; torch takes one hook only,
        once.
        """
        model = self.model
        if not isinstance(model, DistributedDataParallel):
            super()._register_ddp_hooks()
            return
        wanted: list[tuple[Any, CommHook]] = []

        def note(state: Any, hook: CommHook) -> None:
            wanted.append((state, hook))

        model.register_comm_hook = note  # type: ignore[method-assign]  # for the next call only
        try:
            super()._register_ddp_hooks()
        finally:
            del model.register_comm_hook  # the method of the class is visible again
        if not wanted:
            wanted.append(self._own_hook(model))
        state, hook = wanted[-1]
        model.register_comm_hook(state, self.noise_tap.before(hook))

    def _own_hook(self, model: DistributedDataParallel) -> tuple[Any, CommHook]:
        """The hook given to the strategy (Lightning registers none on CPU), else DDP's average."""
        hook: CommHook | None = self._ddp_comm_hook
        if hook is None:
            return None, mean_hook(model.process_group)
        wrapper = self._ddp_comm_wrapper
        if wrapper is not None:
            hook = wrapper(hook)
        return self._ddp_comm_state, hook


class _Named(NoiseStrategyMixin):
    @classmethod
    def register_strategies(cls, strategy_registry: Any) -> None:
        """Registers every variant that Lightning has of "ddp" under "ddp_noise"; once, however
        often it is called.
        """
        # Lightning calls nothing else of it
        super().register_strategies(Renaming(strategy_registry))  # type: ignore[arg-type]


class NoiseDDPStrategy(_Named, DDPStrategy):
    """Lightning's DDPStrategy, showing each rank's gradients before they are reduced; "ddp_noise"
    by name.

    It has the tap of :class:`NoiseStrategyMixin`. Registered under Lightning's usual variants too
    (``ddp_noise_spawn``, ``ddp_noise_find_unused_parameters_true``, …), and in
    ``pytorch_lightning`` for the same class over its ``DDPStrategy``.
    """


NoiseDDPStrategy.register_strategies(StrategyRegistry)

if INSTALLED:
    from pytorch_lightning import strategies as twin

    # mypy takes that base for the twin of _Named's
    class TwinNoiseDDPStrategy(_Named, twin.DDPStrategy):  # type: ignore[misc]  # an optional base
        """What "ddp_noise" is in ``pytorch_lightning``."""

    TwinNoiseDDPStrategy.register_strategies(twin.StrategyRegistry)
