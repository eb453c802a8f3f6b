"""What a callback calls where the batch size does not adapt, and the keys of one that does."""

import copy

from lightning_noise import AdaptiveBatchSize
from lightning_noise.hosts.lightning.adapter import Adapter, adapting_by
from lightning_noise.hosts.lightning.adapting import NoAdapting


def test_without_settings_nothing_adapts():
    nothing = adapting_by(None, "examples")
    assert isinstance(nothing, NoAdapting)
    nothing.load_state_dict({"adaptation": {"of": "an adapting run"}})
    assert (nothing.decides, nothing.factor, nothing.values()) == (False, 1.0, {})
    assert (nothing.story(), nothing.state_dict()) == ([], {})


def test_the_state_is_one_part_of_the_callback_s_state():
    adapter = adapting_by(AdaptiveBatchSize(), "examples")
    assert isinstance(adapter, Adapter) and adapter.decides
    assert adapter.values() == {"noise_scale/learning_rate_factor": 1.0}
    state = adapter.state_dict()
    assert list(state) == ["adaptation"]
    state["adaptation"] |= {"start": [4, 1, 1], "current": [8, 1, 1], "factors": [2.0, 2.0]}
    state["adaptation"] |= {"decided": 8, "history": [[0, 4, 24, 96.0, None]]}
    adapter.load_state_dict({"version": 2, "monitors": {}, **state})
    assert adapter.state_dict() == state and adapter.factor == 2.0
    assert adapter.values() == {
        "noise_scale/learning_rate_factor": 2.0,
        "noise_scale/decided_global_size": 8,
    }
    assert copy.deepcopy(adapter).state_dict() == state
    adapter.load_state_dict({"version": 2, "monitors": {}})  # of a run that only measured
    assert adapter.state_dict() == adapting_by(AdaptiveBatchSize(), "examples").state_dict()


def test_advice_logs_the_decision_alone():
    adapter = adapting_by(AdaptiveBatchSize(advise_only=True), "tokens")
    state = adapter.state_dict()["adaptation"]
    adapter.load_state_dict({"adaptation": {**state, "decided": 512.0}})
    assert adapter.values() == {"noise_scale/decided_global_size": 512.0}
    story = ["advice at the end (nothing was changed): a global size of 512 tokens"]
    assert adapter.story() == story
