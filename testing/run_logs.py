"""Logs of runs with known values, written by Lightning's own loggers."""

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_noise.say.run_facts import FILE, to_text

LOGGERS = {"TensorBoard": TensorBoardLogger, "CSV": CSVLogger}
B, LOW, HIGH, SIZE, RATE = 160.0, 108.0, 250.0, 32.0, 0.125  # all exact in float32


def values(b=B, low=LOW, high=HIGH, *, size=SIZE, rate=RATE, grad_sq=2.0, layers=None):
    """What is logged at a step: a value that is ``None`` is absent, as where it is not resolved."""
    found = {
        "b_simple": b,
        "b_simple_low": low,
        "b_simple_high": high,
        "grad_sq": grad_sq,
        "trace": 160.0 * grad_sq,
        "global_size": size,
        "learning_rate": rate,
    }
    for name, value in (layers or {}).items():
        found[f"layer/{name}"] = value
    return {f"noise_scale/{name}": one for name, one in found.items() if one is not None}


def unresolved(low=LOW, **others):
    """The same where there is no upper end."""
    return values(None, low, None, **others)


def write_run(folder, rows, *, kind="TensorBoard", verdict=None, facts=None, prefix=""):
    """Logs the values of each step below a folder, as a run of that name."""
    logger = LOGGERS[kind](folder.parent, name=folder.name, version="", prefix=prefix)
    for step, row in rows.items():
        logger.log_metrics(row, step)
        logger.log_metrics({"train_loss": 1.0}, step)
    if verdict is not None:
        text = verdict.replace("\n", "  \n")
        logger.experiment.add_text("noise_scale/verdict", text, max(rows))
    logger.save()
    logger.finalize("success")
    if facts is not None:
        (folder / FILE).write_text(to_text(facts), encoding="utf-8")
    return folder


def write_events(folder, points):
    """Writes single scalars, each as (name, step, value, seconds since 1970)."""
    logger = TensorBoardLogger(folder.parent, name=folder.name, version="")
    for name, step, value, seconds in points:
        logger.experiment.add_scalar(f"noise_scale/{name}", value, step, walltime=seconds)
    logger.finalize("success")
    return folder
