"""The arguments of the probe, checked."""

from torch import nn

from lightning_noise.probes.examples.refusals import coupled_examples


def check_arguments(
    exact: object,
    sketches: object,
    min_coverage: object,
    eager: object,
    calls: object,
) -> None:
    """Raises for an argument of ``Examples`` that cannot be used.

    Raises:
        TypeError, ValueError: names the argument, the rule and the value.
    """
    if not isinstance(exact, bool):
        raise TypeError(f"exact must be a bool, got {exact!r}.")
    if not isinstance(eager, bool):
        raise TypeError(f"eager must be a bool, got {eager!r}.")
    if not isinstance(calls, bool):
        raise TypeError(f"calls must be a bool, got {calls!r}.")
    if isinstance(sketches, bool) or not isinstance(sketches, int):
        raise TypeError(f"sketches must be an int >= 1, got {sketches!r}.")
    if sketches < 1 or (exact and sketches > 1):
        raise ValueError(f"sketches must be an int >= 1, and 1 with exact=True, got {sketches!r}.")
    if isinstance(min_coverage, bool) or not isinstance(min_coverage, (int, float)):
        raise TypeError(f"min_coverage must be a number, got {min_coverage!r}.")
    if not 0 < min_coverage <= 1:
        raise ValueError(
            f"min_coverage must lie in (0, 1], got {min_coverage!r}. With 0.9, a tenth may be left "
            "out."
        )


def check_module(module: nn.Module) -> None:
    """Raises for a model that ``Examples`` cannot be bound to.

    Raises:
        TypeError: ``module`` is not a module.
        UnsupportedModelError: BatchNorm in train mode ties the examples together.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}.")
    refusal = coupled_examples(module)
    if refusal is not None:
        raise refusal
