"""The tasks of the atlas. A new one is a file with ``TASKS``, and a line here."""

from benchmarks.atlas.task import Task
from benchmarks.atlas.tasks import (
    cartpole,
    digits_cnn,
    digits_mlp,
    digits_resnet,
    next_byte,
    patches,
    quadratic,
    user_images,
)

MODULES = (
    digits_mlp,
    digits_cnn,
    digits_resnet,
    patches,
    next_byte,
    quadratic,
    cartpole,
    user_images,
)
TASKS: dict[str, Task] = {task.name: task for module in MODULES for task in module.TASKS}
