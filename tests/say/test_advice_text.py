"""What an advice says of the smallest batch size there is."""

from lightning_noise.core.advice import advise
from lightning_noise.say.advice_text import Context, advice_lines


def test_a_batch_of_one_above_the_noise_scale_cannot_be_lowered():
    lines = advice_lines(advise(1, 0.25, 0.2, 0.3), Context("0.25 [0.2, 0.3]"))
    assert lines == [
        "Your batch size of 1 is about 4 times above the noise scale, 0.25 [0.2, 0.3] examples.",
        "It cannot be lowered.",
    ]


def test_a_batch_of_one_cannot_be_halved():
    lines = advice_lines(advise(1, 1.0, 0.8, 1.25), Context("1 [0.8, 1.25]"))
    assert [line.split()[0] for line in lines] == ["Your", "Doubling"]
    lines = advice_lines(advise(2, 2.0, 1.6, 2.5), Context("2 [1.6, 2.5]"))
    assert [line.split()[0] for line in lines] == ["Your", "Doubling", "Halving"]


def test_without_the_optimizer_the_factor_on_the_learning_rate_is_left_out():
    context = Context("160 [108, 250]", rate_exponent=None)
    lines = advice_lines(advise(32, 160, 108, 250), context)
    assert lines[1].startswith("Raising it to 128 would need about 62 %")
