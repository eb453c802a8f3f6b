"""``branched_check``: the critical batch size at a checkpoint, by branches at larger sizes."""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import lightning as L
from tqdm import tqdm  # type: ignore[import-untyped]  # ships no types

from lightning_noise.study.branch import (
    Branch,
    BranchEnd,
    BranchRecipe,
    measure_point,
)
from lightning_noise.study.branch_rate import RateRule, check_rate_rule
from lightning_noise.study.branch_restore import read_checkpoint
from lightning_noise.study.branched_result import (
    SIGNS,
    BranchedCheck,
    BranchRun,
    check_tolerance,
    tolerance_of,
)
from lightning_noise.study.branching import train_branches
from lightning_noise.study.checks import check_count, check_functions, has_duplicates
from lightning_noise.study.loading import StudyFileError, load
from lightning_noise.study.progress import wanted
from lightning_noise.study.runner import TrialError
from lightning_noise.study.settings import Workers

NEAR = 1e-9  # relative: 0.1 · 30 counts as 3


def branched_check(
    checkpoint: str | Path,
    make_module: Callable[[dict[str, Any]], L.LightningModule],
    make_data: Callable[[int, int], Any],
    *,
    global_size: int,
    examples: int,
    factors: Sequence[float] = (1, 2, 4, 8, 16),
    learning_rate: RateRule = "auto",
    tolerance: float | None = None,
    seeds: int = 3,
    metric: str = "val_loss",
    mode: Literal["min", "max"] = "min",
    noise_scale: bool | Mapping[str, Any] = True,
    trainer_options: Mapping[str, Any] | None = None,
    workers: Workers = Workers(count=0),
    progress: bool | None = None,
) -> BranchedCheck:
    """The critical batch size at one point of a run: how far the batch can grow from there.

    From a checkpoint, branches train with k times the batch size for the same number of further
    examples. Each restores the weights and the optimizer's state and holds the learning rate at
    that of the checkpoint times a factor. Their metric is then read on the validation data. The
    branches of a seed see the same examples in the same order where ``make_data`` orders them by
    the seed alone, so that the differences are paired over seeds. The reference is the smallest
    factor, 1 by default.

    A batch size is surely fine where the interval of its difference from the reference lies within
    the tolerance, and surely too large where it lies above. The critical batch size lies between
    the largest that is surely fine and the smallest that is surely too large. Each interval is that
    of Student's t at 95 % by itself. It holds the noise of training, not that of the choice of the
    validation data, which are the same for all branches.

    It is no number to be equal to the noise scale: it depends on the tolerance and on ``examples``.
    By the large-batch model, with the best learning rate at every size, a share q of the progress
    is lost at q/(1 − q) of the noise scale: a ninth of it for the default tolerance, all of it for
    one half.

    Args:
        checkpoint: of Lightning, with weights and the state of one optimizer. It is unpickled, as
            Lightning itself does: use your own.
        make_module: from parameters, ``{"learning_rate": …}`` with the rate at the checkpoint, to a
            fresh ``LightningModule`` that the checkpoint fits. Automatic optimization.
        make_data: from (global_size, seed) to a pair of loaders (training, validation) or a
            ``LightningDataModule`` whose batches make up ``global_size`` examples per step. Use
            ``drop_last``, validation data that do not depend on the arguments, and an order of the
            training data that depends on the seed alone.
        global_size: batch size of the run that the checkpoint is of, in examples.
        examples: that each branch trains on, a multiple of every batch size. Enough for the loss to
            recover from the change of the learning rate, few enough that the point is still the
            same.
        factors: k, two or more. Each k · ``global_size`` must be an integer, and 1 is one of them.
            Factors below 1 show whether the run itself is already above its critical batch size.
        learning_rate: "auto": times k for optimizers of the SGD kind, times its root for others;
            "linear": k; "sqrt": its root; None: unchanged; or a function from k to the factor.
        tolerance: how much worse a branch may end, in units of the metric. None: a tenth of what
            the reference gains from the checkpoint to its end, so that a batch size is fine whose
            branches make nine tenths of the progress. Merrill et al. 2025 use 0.01 nats.
        seeds: branches at each factor, two or more. The interval of three is 1.7 times as wide as
            that of five by Student's t alone.
        metric: logged in validation.
        mode: "min" where smaller values of the metric are better, otherwise "max".
        noise_scale: measures B_simple at the weights of the checkpoint, with at most ``examples``
            examples; a dict gives arguments of :func:`~lightning_noise.measure_noise_scale`.
        trainer_options: more arguments of ``Trainer``, such as ``{"accelerator": "gpu"}``; CPU by
            default.
        workers: processes that train, a :class:`Workers`; in this one by default.
        progress: shows a bar; None: on a terminal, not in continuous integration.

    Returns:
        A :class:`BranchedCheck`.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range, or the checkpoint
            does not fit the module.
        FileNotFoundError: there is no such checkpoint.
        TrialError: a branch or the measurement of the noise scale failed, or the reference
            diverged.

    A branch counts its steps and epochs from 0, learning-rate schedules are taken out, and the
    states of callbacks, of loaders and of a gradient scaler are not restored.

    Source: Merrill et al. 2025 (arXiv 2505.23971), branched training.
    """
    check_functions(make_module, make_data)
    check_count("global_size", global_size, 1)
    check_count("examples", examples, 1)
    check_count("seeds", seeds, 2)
    sizes = _sizes(factors, global_size)
    _check_examples(examples, list(sizes))
    check_rate_rule(learning_rate)
    if tolerance is not None:
        check_tolerance(tolerance)
    if mode not in SIGNS:
        raise ValueError(f"mode must be one of {list(SIGNS)}, got {mode!r}.")
    if not isinstance(workers, Workers):
        raise TypeError(f"workers must be a Workers, such as Workers(count=2), got {workers!r}.")
    read_checkpoint(checkpoint)
    recipe = BranchRecipe(
        checkpoint=str(checkpoint),
        make_module=make_module,
        make_data=make_data,
        metric=metric,
        rule=learning_rate,
        trainer_options=dict(trainer_options or {}),
        threads=workers.threads,
    )
    point = measure_point(recipe, global_size, seeds, _noise_arguments(noise_scale, examples))
    branches = []
    for seed in range(seeds):
        for size, factor in sizes.items():
            branches.append(Branch(factor, size, examples // size, seed))
    ends = {}
    bar = tqdm(total=len(branches), desc="branches", disable=not wanted(progress))
    with bar:
        for branch, end in train_branches(recipe, branches, workers.count):
            ends[branch] = end
            bar.update()
    runs = _runs(branches, ends, SIGNS[mode])
    given = tolerance
    if given is None:
        given = tolerance_of(runs, point.value, mode)
    return BranchedCheck(
        runs=runs,
        metric=metric,
        mode=mode,
        global_size=global_size,
        examples=examples,
        start=point.value,
        rate_rule=ends[branches[-1]].rate_rule,
        tolerance=given,
        is_share=tolerance is None,
        noise_scales=point.noise_scales,
    )


def run_branch_file(path: str | Path, checkpoint: str | Path) -> BranchedCheck:
    """Runs the check that a file defines: a function ``branch`` from a checkpoint to its result.

    Args:
        path: of a Python file, which is imported.
        checkpoint: is passed to its function.

    Raises:
        FileNotFoundError: there is no such file.
        StudyFileError: the file defines no such function, or it returns something else.
    """
    make = getattr(load(path), "branch", None)
    rule = "must define branch(checkpoint), which returns branched_check(checkpoint, ...)"
    if not callable(make):
        raise StudyFileError(f"{path} {rule}, got {make!r}.")
    found = make(str(checkpoint))
    if not isinstance(found, BranchedCheck):
        raise StudyFileError(f"{path} {rule}, but it returned {found!r}.")
    return found


def _sizes(factors: Sequence[float], global_size: int) -> dict[int, float]:
    """Batch size → factor, in ascending order."""
    rule = "factors must hold two or more different numbers > 0"
    if not isinstance(factors, (list, tuple)) or not all(map(_is_factor, factors)):
        raise TypeError(f"{rule}, such as (1, 2, 4, 8), got {factors!r}.")
    if len(factors) < 2 or has_duplicates(factors):
        raise ValueError(f"{rule}, got {factors!r}.")
    if 1 not in factors:
        why = "the branch that goes on as the run does"
        raise ValueError(f"factors must hold 1, {why}, got {factors!r}.")
    sizes = {}
    for factor in sorted(factors):
        size = factor * global_size
        whole = round(size)
        if whole < 1 or abs(size - whole) > NEAR * size:
            rule = f"every one of factors times global_size ({global_size}) must be an integer"
            raise ValueError(f"{rule}, which {factor!r} is not.")
        sizes[whole] = whole / global_size
    return sizes


def _is_factor(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    number = float(value)
    return math.isfinite(number) and number > 0


def _check_examples(examples: int, sizes: Sequence[int]) -> None:
    """Refuses a number with which the branches would train on different numbers of examples."""
    common = math.lcm(*sizes)
    if examples % common:
        nearest = max(1, round(examples / common)) * common
        rule = f"examples must be a multiple of every batch size {list(sizes)}"
        raise ValueError(f"{rule}, so of {common}, got {examples}. Take {nearest}.")


def _noise_arguments(
    noise_scale: bool | Mapping[str, Any],
    examples: int,
) -> dict[str, Any] | None:
    """Arguments of ``measure_noise_scale``; None where the noise scale is not measured."""
    if not isinstance(noise_scale, (bool, Mapping)):
        rule = "True, False or a dict of arguments of measure_noise_scale"
        raise TypeError(f"noise_scale must be {rule}, got {noise_scale!r}.")
    default = {"geometry": "euclidean", "max_examples": examples, "progress": False}
    if isinstance(noise_scale, Mapping):
        return {**default, **noise_scale}
    if noise_scale:
        return default
    return None


def _runs(
    branches: Sequence[Branch],
    ends: Mapping[Branch, BranchEnd],
    sign: int,
) -> tuple[BranchRun, ...]:
    """The table of all branches, by seed and batch size.

    Raises:
        TrialError: the reference diverged with one of the seeds.
    """
    first = min(branch.global_size for branch in branches)
    reference = {}
    for branch in branches:
        if branch.global_size == first:
            reference[branch.seed] = ends[branch].value
    if not all(map(math.isfinite, reference.values())):
        fix = "Give a smaller factor too, or a lower rate with learning_rate=..."
        raise TrialError(f"{fix}: the branches of the reference ({first}) ended at {reference}.")
    runs = []
    for branch in branches:
        end = ends[branch]
        worse = sign * (end.value - reference[branch.seed])
        runs.append(
            BranchRun(
                factor=branch.factor,
                global_size=branch.global_size,
                seed=branch.seed,
                steps=branch.steps,
                examples=branch.steps * branch.global_size,
                learning_rate=end.learning_rate,
                value=end.value,
                worse=worse,
                seen=end.seen,
            )
        )
    return tuple(runs)
