"""The callback's arguments, checked where they are given."""

import re
from dataclasses import dataclass, fields

from lightning_noise.adapt.adaptive_settings import AdaptiveBatchSize, adaptive_settings
from lightning_noise.adapt.policy import BatchSizePolicy
from lightning_noise.measure.batches import BatchSizeFn, resolve
from lightning_noise.measure.what import LossFn, What
from lightning_noise.probes.catalogue import NAMES
from lightning_noise.probes.probe import Probe

GEOMETRIES = ("euclidean", "hessian", "gauss_newton", "optimizer")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Arguments of ``GradientNoiseScale``; see there.

    Raises:
        TypeError, ValueError: with the argument, the rule, the value and the fix.
    """

    probe: str | Probe
    geometry: str | tuple[str, ...]
    every_n_steps: int | None
    decay: float
    adaptive_batch_size: bool | BatchSizePolicy | AdaptiveBatchSize
    batch_size_fn: BatchSizeFn | str | None
    per_layer: bool | int
    prog_bar: bool
    loss_fn: LossFn | str | None = None
    split: int = 1
    verbose: bool = True
    figures: bool = True

    @classmethod
    def names(cls) -> list[str]:
        """Of the arguments."""
        return [field.name for field in fields(cls)]

    def __post_init__(self) -> None:
        self._check_probe()
        self._check_geometry()
        if self.every_n_steps is not None:
            _check_count("every_n_steps", self.every_n_steps, "None or ")
        _check_type("decay", self.decay, (int, float), "a number")
        if not 0 < self.decay < 1:
            raise ValueError(
                f"decay must lie strictly between 0 and 1, got {self.decay!r}. "
                "0.99 averages about 200 steps."
            )
        adaptive_settings(self.adaptive_batch_size)
        _check_function("batch_size_fn", self.batch_size_fn)
        _check_function("loss_fn", self.loss_fn)
        if "gauss_newton" in self.geometries and self.loss_fn is None:
            raise ValueError(
                "geometry 'gauss_newton' needs loss_fn, (module, batch) -> (loss, outputs), but it "
                "is None."
            )
        if not isinstance(self.per_layer, bool):
            _check_count("per_layer", self.per_layer, "True, False or ")
        _check_count("split", self.split, "")
        _check_type("prog_bar", self.prog_bar, (bool,), "a bool", allow_bool=True)
        _check_type("verbose", self.verbose, (bool,), "a bool", allow_bool=True)
        _check_type("figures", self.figures, (bool,), "a bool", allow_bool=True)

    @property
    def adaptive(self) -> AdaptiveBatchSize | None:
        """How the batch size adapts; ``None`` where it does not."""
        return adaptive_settings(self.adaptive_batch_size)

    @property
    def what(self) -> What:
        """What the session measures."""
        adaptive = self.adaptive
        return What(
            probe=self.probe,
            geometries=self.geometries,
            every_n_steps=self.every_n_steps,
            decay=self.decay,
            per_layer=self.per_layer,
            batch_size_fn=self.batch_size_fn,
            loss_fn=resolve(self.loss_fn, "loss_fn"),
            decay_by_examples=adaptive is not None and adaptive.averages_by_examples,
        )

    @property
    def geometries(self) -> tuple[str, ...]:
        """By name; the Euclidean one is always measured too, as the others share its gradients."""
        if isinstance(self.geometry, str):
            return (self.geometry,)
        return tuple(self.geometry)

    @property
    def unit(self) -> str:
        """What batch sizes and noise scales count, in words: ``my_data.count_tokens`` counts
        tokens.
        """
        if self.batch_size_fn is None:
            return "examples"
        is_path = isinstance(self.batch_size_fn, str)
        path = str(self.batch_size_fn)
        if not is_path:
            path = getattr(self.batch_size_fn, "__name__", "")
        counted = re.fullmatch(r"(?:.*[.:])?(?:count|number_of|num|n)_([a-z]\w*)", path)
        if counted:
            return counted[1].replace("_", " ")
        if is_path or path.isidentifier():
            return f"units of {path}"
        return "units of batch_size_fn"

    def _check_probe(self) -> None:
        names = list(NAMES)
        if isinstance(self.probe, str):
            if self.probe not in names:
                raise ValueError(f"probe must be one of {names} or a Probe, got {self.probe!r}.")
        elif isinstance(self.probe, type) or not isinstance(self.probe, Probe):
            raise TypeError(
                f"probe must be one of {names} or a Probe instance, got {self.probe!r}."
            )

    def _check_geometry(self) -> None:
        if not isinstance(self.geometry, (str, tuple, list)):  # YAML knows lists only
            raise TypeError(f"geometry must be a name or a tuple of names, got {self.geometry!r}.")
        names = self.geometries
        if not names or not all(isinstance(name, str) for name in names):
            raise TypeError(f"geometry must be a name or a tuple of names, got {self.geometry!r}.")
        different = set(names)
        if len(different) < len(names) or not different.issubset(GEOMETRIES):
            raise ValueError(
                f"geometry must hold different names out of {list(GEOMETRIES)}, got "
                f"{self.geometry!r}. Leave it out to use the Euclidean metric."
            )


def _check_function(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str) and not callable(value):
        raise TypeError(f"{name} must be None, a callable or a dotted path, got {value!r}.")
    resolve(value, name)


def _check_count(name: str, value: object, also: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be {also}an int >= 1, got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be {also}an int >= 1, got {value!r}.")


def _check_type(
    name: str, value: object, types: tuple[type, ...], rule: str, *, allow_bool: bool = False
) -> None:
    is_stray_bool = isinstance(value, bool) and not allow_bool
    if is_stray_bool or not isinstance(value, types):
        raise TypeError(f"{name} must be {rule}, got {value!r}.")
