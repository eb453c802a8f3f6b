"""What TensorBoard reads in the event files of a folder."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def events(folder):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def scalars(folder):
    """(step, value) pairs by tag."""
    accumulator = events(folder)
    tags = accumulator.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in tags}
