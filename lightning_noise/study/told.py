"""What the runs of a study report beside their rows."""

from collections.abc import Iterator, Sequence

from lightning_noise.say.words import count, number
from lightning_noise.study.plan import SizePlan
from lightning_noise.study.space import COMPLEMENT, float_ranges
from lightning_noise.study.state import State
from lightning_noise.study.task import Done


def told_by(plans: Sequence[SizePlan], done: Done) -> list[str]:
    """Each text once, whatever the order in which the runs ended."""
    texts: dict[str, None] = {}
    for plan in plans:
        state = plan.state(done)
        texts |= dict.fromkeys(_widened(plan, state))
        for key in sorted(state.outcomes):
            warning = state.outcomes[key].warning
            if warning:
                texts[warning] = None
    return list(texts)


def _widened(plan: SizePlan, state: State) -> Iterator[str]:
    """What was searched beyond the ranges that were given."""
    further: dict[str, int] = {}
    for strip in state.strips:
        trials = strip.count(plan.search.trials)
        further[strip.name] = further.get(strip.name, 0) + trials
    given = float_ranges(plan.space)
    searched = float_ranges(state.space)
    for name, trials in further.items():
        was, now = given[name], searched[name]
        ends = (was.low, was.high, now.low, now.high)
        if name.startswith(COMPLEMENT):
            ends = (1 - was.high, 1 - was.low, 1 - now.high, 1 - now.low)
        low, high, new_low, new_high = map(number, ends)
        yield (
            f"at global size {plan.global_size} the best trial lay at an edge, so the range of "
            f"{name.removeprefix(COMPLEMENT)} was widened from [{low}, {high}] to "
            f"[{new_low}, {new_high}], with {count(trials, 'further trial')}"
        )
