"""What a probe of single examples does not see, in words."""

from typing import Protocol

from lightning_noise.probes.examples.coverage import Coverage


class _Seen(Protocol):
    @property
    def doubtful(self) -> list[str]: ...
    @property
    def unchecked(self) -> tuple[str, ...]: ...

    coverage: Coverage | None


def left_out(probe: _Seen) -> tuple[str, ...]:
    """What a probe of single examples does not see, by name."""
    found = []
    if probe.doubtful:
        found.append(
            f"layers with as many positions as the batch has examples ({', '.join(probe.doubtful[:5])}): right if the batch is "
            "dimension 0 of what they get, wrong without a sign if it is dimension 1"
        )
    if probe.unchecked:
        reasons = "; ".join(probe.unchecked)
        unchecked = f"not checked whether the examples of a batch mix ({reasons})"
        found.append(f"{unchecked}: if they do, the number is wrong")
    return (*found, *_missing(probe.coverage))


def _missing(coverage: Coverage | None) -> tuple[str, ...]:
    if coverage is None or not coverage.missing:
        return ()
    names = ", ".join(f"{part.name} ({part.reason})" for part in coverage.missing[:5])
    more = f" and {len(coverage.missing) - 5} more" if len(coverage.missing) > 5 else ""
    return (f"the number covers {coverage.describe().splitlines()[0]}; left out: {names}{more}",)
