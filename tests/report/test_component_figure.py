"""The figure of |G|² and tr(Σ): what is drawn, by what was logged."""

import pytest

from lightning_noise.report.component_figure import draw_components

COMPONENTS = [(0, 4.0, 400.0), (10, -1.0, 300.0), (20, 1.0, 200.0)]


def drawn(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}


def test_both_are_drawn_over_the_steps():
    upper = draw_components(COMPONENTS, 32.0).axes[0]
    lines = drawn(upper)
    assert lines[r"noise, tr($\Sigma$)"] == [[0, 400.0], [10, 300.0], [20, 200.0]]
    assert lines["signal, $|G|^2$"] == [[0, 4.0], [10, -1.0], [20, 1.0]]
    assert upper.get_yscale() == "log"


def test_the_phases_are_those_at_which_both_are_positive():
    lower = draw_components(COMPONENTS, 32.0).axes[1]
    assert lower.collections[0].get_offsets().tolist() == [[4.0, 400.0], [1.0, 200.0]]
    assert lower.collections[0].get_array().tolist() == [0, 20]
    assert (lower.get_xscale(), lower.get_yscale()) == ("log", "log")


def test_on_the_line_the_noise_scale_is_the_batch_size_in_use():
    lower = draw_components(COMPONENTS, 32.0).axes[1]
    line = drawn(lower)["noise scale = batch size in use, 32"]
    assert [trace / grad_sq for grad_sq, trace in line] == pytest.approx([32.0, 32.0])
    assert len(draw_components(COMPONENTS, None).axes[1].get_lines()) == 1


def test_without_positive_components_it_is_refused():
    with pytest.raises(ValueError, match=r"must hold positive .* at a step, got none"):
        draw_components(COMPONENTS[1:2], 32.0)
