"""Temporary bridge until the pure machine lands."""

from typing import Any

from lightning_noise.hosts.lightning import trainer_facts
from lightning_noise.hosts.lightning.adapter import Adapter


class NoAdapting:
    factor = 1.0
    decides = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        empty: Any = {"values": {}, "story": [], "state_dict": {}}.get(name)
        return lambda *_, **__: empty


class Adapting(Adapter):
    decides = True

    def prepare_loaders(self, trainer: Any) -> None:
        if self.following is not None:
            trainer_facts.prepare_training_loaders(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"adaptation": super().state_dict()}

    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict(state.get("adaptation"))


def adapting_by(settings: Any, unit: str) -> Any:
    return NoAdapting() if settings is None else Adapting(settings, unit)
