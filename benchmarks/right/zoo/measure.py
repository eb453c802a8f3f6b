"""The row of one model: fits with the callback beside a loop of plain backward()."""

import importlib.metadata
from collections.abc import Iterable, Mapping
from statistics import mean, stdev
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.right.zoo.entry import Batch, Entry, Trained, cast, drawn
from benchmarks.right.zoo.fit import Fit, digest, fit, uses_batch_statistics
from benchmarks.right.zoo.oracle import Oracle, gradients, halves, of_examples, of_halves
from benchmarks.right.zoo.row import Row
from lightning_noise import GradientNoiseScale
from lightning_noise.probes.examples import Examples
from lightning_noise.probes.examples.coverage import Coverage, by_cause
from lightning_noise.probes.examples.errors import CoverageError, UnsupportedModelError

SKETCHED_STEPS = 24  # at the same weights, each with signs of its own
EXACT_STEPS = 3
SPLIT_STEPS = 2
ANY_COVERAGE = 1e-9
DISTRIBUTIONS = {"segmentation_models_pytorch": "segmentation-models-pytorch"}
PREFIX = "model."  # of every parameter's name in Trained

Fields = Mapping[str, Any]


class RandomnessError(RuntimeError):
    """The loss of an entry depends on the random state, so that nothing can be compared."""


def measure(entry: Entry) -> Row:
    """Everything about one model.

    Raises:
        RandomnessError: the entry draws random numbers in its forward pass.
        Exception: whatever building or training the model raises.
    """
    batch, module = drawn(entry), Trained(entry)
    check_randomness(module, batch)
    row = Row(
        entry.name,
        entry.package,
        version_of(entry.package),
        numbers_in(module),
        uses_batch_statistics(module),
    )
    row = row._replace(**without_accumulation(entry, batch))
    return row._replace(**with_split(entry, batch))


def version_of(package: str) -> str:
    """The version that is installed."""
    return importlib.metadata.version(DISTRIBUTIONS.get(package, package))


def check_randomness(module: Trained, batch: Batch) -> None:
    """Two passes from different random states must give the same gradients."""
    digests = set()
    for seed in (3, 4):
        torch.manual_seed(seed)
        digests.add(digest(list(gradients(module, batch).values())))
    if len(digests) > 1:
        raise RandomnessError("the forward pass draws random numbers")


# ---- one batch per step -------------------------------------------------------------------------


class Truth(NamedTuple):
    """The oracle for single examples.

    Args:
        oracle: ``None`` where no loop over single examples can be run.
        invalid: why the oracle is none; "" where it is one.
        dtype: in which it was made.
    """

    oracle: Oracle | None
    invalid: str
    dtype: torch.dtype = torch.float64


def truth_of(entry: Entry, batch: Batch) -> Truth:
    """In fp64 where the model can be trained so, in fp32 elsewhere."""
    error: Exception | None = None
    for dtype in (torch.float64, torch.float32):
        try:
            oracle = of_examples(Trained(entry), batch, dtype)
        except (RuntimeError, ValueError, TypeError) as found:
            error = found
            continue
        if oracle.adds_up:
            return Truth(oracle, "", dtype)
        off = f"the examples' gradients do not add up to the batch's: {oracle.gap:.2g} of it"
        return Truth(None, off, dtype)
    return Truth(None, f"one example alone cannot be trained on: {first_line(error)}")


def without_accumulation(entry: Entry, batch: Batch) -> Fields:
    """With default arguments; and with exact norms of whatever can be covered."""
    truth = truth_of(entry, batch)
    found = fit(entry, [batch] * SKETCHED_STEPS, GradientNoiseScale())
    plain = fit(entry, [batch] * max(1, len(found.digests)))
    exact = exact_fit(entry, batch, truth.dtype)
    coverage = found.coverage or exact.coverage or lacking(Trained(entry))
    fields = {
        "oracle": truth.invalid,
        "outcome": outcome(found),
        "identical": identical(found, plain),
        **covered(coverage, truth.oracle),
        **exact_errors(exact, truth),
    }
    if found.refusal is not None:
        code, text, passes = found.refusal
        return {**fields, "code": code, "reason": first_line(text), "passes": passes}
    return {**fields, **errors_of_sketch(found, truth)}


def exact_fit(entry: Entry, batch: Batch, dtype: torch.dtype) -> Fit:
    """With ``exact=True``, however little is covered."""
    return fit(
        entry,
        [cast(batch, dtype)] * EXACT_STEPS,
        GradientNoiseScale(probe=Examples(exact=True, min_coverage=ANY_COVERAGE)),
        precision="64-true" if dtype is torch.float64 else "32-true",
    )


def lacking(module: Trained) -> Coverage | None:
    """What is covered of a model that is refused for it before training; ``None`` for others."""
    probe = Examples()
    try:
        probe.bind(module)
        probe.survey(dict(module.named_parameters()))
    except CoverageError as error:
        return error.coverage
    except UnsupportedModelError:
        return None
    return None


def covered(coverage: Coverage | None, oracle: Oracle | None) -> Fields:
    """Both shares, and what is left out."""
    if coverage is None:
        return {}
    groups = [str(group).strip() for group in by_cause(coverage.missing)]
    left_out = "; ".join(groups).replace(PREFIX, "").replace("\n", " ")
    fields: dict[str, Any] = {"share_parameters": coverage.parameters, "left_out": left_out}
    if oracle is not None:
        fields["share_grad_sq"] = oracle.share(seen(oracle, coverage))
    return fields


def seen(oracle: Oracle, coverage: Coverage) -> list[str]:
    """Names of the parameters that are covered."""
    missing = {part.name for part in coverage.missing}
    return [name for name in oracle.small if name not in missing]


def errors_of_sketch(found: Fit, truth: Truth) -> Fields:
    """The mean over the steps against the truth, with its standard error."""
    if truth.oracle is None or found.coverage is None:
        return {}
    names = seen(truth.oracle, found.coverage)
    right = truth.oracle.q_small(names)
    ratios = [one.q_small / right for one in found.moments]
    return {
        "sketched": mean(ratios) - 1,
        "standard_error": stdev(ratios) / len(ratios) ** 0.5,
        "q_big": worst([one.q_big for one in found.moments], truth.oracle.q_big(names)),
    }


def exact_errors(exact: Fit, truth: Truth) -> Fields:
    """The largest errors over the steps."""
    if truth.oracle is None or exact.refusal is not None or exact.coverage is None:
        return {}
    names = seen(truth.oracle, exact.coverage)
    return {
        "precision": 64 if truth.dtype is torch.float64 else 32,
        "exact_small": worst([m.q_small for m in exact.moments], truth.oracle.q_small(names)),
        "exact_big": worst([m.q_big for m in exact.moments], truth.oracle.q_big(names)),
    }


# ---- a batch split in two -----------------------------------------------------------------------


def with_split(entry: Entry, batch: Batch) -> Fields:
    """``split=2``, beside a run without the callback that accumulates both halves."""
    found = fit(entry, [batch] * SPLIT_STEPS, GradientNoiseScale(split=2))
    plain = fit(entry, halves(batch) * SPLIT_STEPS, accumulate=2)
    fields = {"split_outcome": outcome(found), "split_identical": identical(found, plain)}
    if found.refusal is not None:
        return {**fields, "split_reason": first_line(found.refusal.text)}
    oracle = of_halves(Trained(entry), batch)
    names = list(oracle.small)
    return {
        **fields,
        "split_small": worst([m.q_small for m in found.moments], oracle.q_small(names)),
        "split_big": worst([m.q_big for m in found.moments], oracle.q_big(names)),
    }


# ---- comparing ----------------------------------------------------------------------------------


def worst(found: Iterable[float], right: float) -> float:
    """The largest relative error."""
    return max(abs(one / right - 1) for one in found)


def outcome(found: Fit) -> str:
    """In a word."""
    if found.refusal is None:
        return "measured"
    return "not measured" if found.refusal.code == "no_row" else "refused"


def identical(found: Fit, plain: Fit) -> str:
    """Whether every gradient, and in the end all weights and the random state, are those of the run
    without the callback.
    """
    steps = len(found.digests)
    if steps == 0:
        return ""
    same = found.digests == plain.digests[:steps]
    if outcome(found) != "refused":  # it went on to the end
        same = same and found.state == plain.state
    return "yes" if same else "no"


def first_line(error: BaseException | str | None) -> str:
    """Of a text or of an error's."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    lines = text.strip().splitlines()
    return lines[0].replace(PREFIX, "") if lines else ""


def numbers_in(module: nn.Module) -> int:
    """Trainable numbers."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
