"""All benchmarks, in the order of the index. A new one is a module with a ``BENCHMARK`` and a line
here.
"""

from benchmarks.atlas import atlas_noise, atlas_study
from benchmarks.cost import (
    calls_cost,
    calls_memory,
    curvature,
    examples_probe,
    gpu,
    host_reads,
    launch_bound,
    overhead,
    overhead_ddp,
    overhead_memory,
    overhead_shards,
    precision,
    scale,
)
from benchmarks.gain import (
    adaptive,
    cosine_quality,
    edge,
    guard_rate,
    least_time,
    least_time_changes,
    measured_clock,
    sweep,
)
from benchmarks.right import (
    advice,
    coverage,
    critical_fit,
    curvature_precision,
    geometries,
    gradient_error,
    large_batch_model,
    policy,
    quadratic,
    study_chaos,
    study_protocol,
)
from benchmarks.right.setups import setups
from benchmarks.right.zoo import zoo

MODULES = (
    coverage,
    critical_fit,
    gradient_error,
    setups,
    zoo,
    quadratic,
    large_batch_model,
    geometries,
    curvature_precision,
    policy,
    advice,
    study_chaos,
    study_protocol,
    overhead,
    overhead_memory,
    host_reads,
    overhead_ddp,
    overhead_shards,
    examples_probe,
    calls_cost,
    calls_memory,
    launch_bound,
    curvature,
    precision,
    scale,
    gpu,
    sweep,
    least_time,
    cosine_quality,
    edge,
    guard_rate,
    least_time_changes,
    measured_clock,
    adaptive,
    atlas_study,
    atlas_noise,
)
BENCHMARKS = {module.BENCHMARK.name: module.BENCHMARK for module in MODULES}
