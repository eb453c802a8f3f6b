"""The two parts of the noise scale, |G|² and tr(Σ), over a run and against each other."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_noise.core.digits import in_digits
from lightning_noise.report.axes import colours, plain_ticks, two_panels
from lightning_noise.report.run_figure import INK, NOISE, SIZE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Triple = tuple[int, float, float]  # step, |G|², tr(Σ)


def draw_components(components: Sequence[Triple], size: float | None) -> "Figure":
    """|G|² and tr(Σ) over the steps; below, tr(Σ) against |G|² on logarithmic axes.

    Their quotient is the noise scale, so that the line tr(Σ) = B |G|² of the batch size B in use
    divides the plane: above it the noise scale is larger than the batch size. Values that are not
    positive, as they may be while not resolved, have no place on these axes.

    Args:
        components: step, |G|² and tr(Σ); at least one with both of them positive.
        size: the batch size in use; ``None``: no line.

    Raises:
        NoMatplotlibError: matplotlib is not installed.
        ValueError: in no component both are positive.
    """
    positive = [triple for triple in components if triple[1] > 0 and triple[2] > 0]
    if not positive:
        raise ValueError("components must hold positive |G|² and tr(Σ) at a step, got none.")
    figure, upper, lower = two_panels(2, 3)
    _draw_course(upper, components)
    _draw_phases(lower, positive, size)
    figure.canvas.draw()
    return figure


def _draw_course(axes: "Axes", components: Sequence[Triple]) -> None:
    axes.set_yscale("log", nonpositive="mask")
    steps = [step for step, _, _ in components]
    traces = [trace for _, _, trace in components]
    squares = [grad_sq for _, grad_sq, _ in components]
    axes.plot(steps, traces, color=NOISE, label=r"noise, tr($\Sigma$)")
    axes.plot(steps, squares, color=INK, linestyle="-.", label=r"signal, $|G|^2$")
    if len(steps) == 1:
        for line in axes.get_lines():
            line.set_marker("o")
    axes.set_xlabel("optimizer step")
    axes.legend(loc="best", edgecolor="none", framealpha=0.9)


def _draw_phases(axes: "Axes", positive: Sequence[Triple], size: float | None) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    steps = [step for step, _, _ in positive]
    squares = [grad_sq for _, grad_sq, _ in positive]
    traces = [trace for _, _, trace in positive]
    axes.plot(squares, traces, color="0.75", linewidth=0.8, zorder=1)
    dots = axes.scatter(squares, traces, c=steps, cmap=colours(), s=18, zorder=2)
    axes.figure.colorbar(dots, ax=axes, label="optimizer step")
    axes.set_xlabel(r"signal, $|G|^2$")
    axes.set_ylabel(r"noise, tr($\Sigma$)")
    if size:
        # over what is seen, without moving the axis across; the line may lie far off the other
        across = axes.get_xlim()
        label = f"noise scale = batch size in use, {in_digits(size)}"
        line = [size * end for end in across]
        axes.plot(across, line, color=SIZE, linestyle="--", linewidth=1.8, label=label)
        axes.set_xlim(*across)
        axes.legend(loc="best", edgecolor="none", framealpha=0.9)
    plain_ticks(axes.xaxis, *axes.get_xlim())
    plain_ticks(axes.yaxis, *axes.get_ylim())
