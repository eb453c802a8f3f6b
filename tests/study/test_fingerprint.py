"""Stored runs belong to the code and the options that they were made with."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import torch

from lightning_noise.study import StorageError, Workers, run_file
from lightning_noise.study.fingerprint import fingerprint
from lightning_noise.study.source import definitions
from lightning_noise.study.storage import UNKNOWN_CODE
from testing.small_studies import Flipped, flipped, scaled, small

ROOT = Path(__file__).parents[2]


@pytest.fixture
def stored():
    storage = optuna.storages.InMemoryStorage()
    return storage, small(storage).run().table


def test_another_model_is_refused_with_both_sides(stored):
    with pytest.raises(StorageError) as refused:
        small(stored[0], make_module=flipped).run()
    said = str(refused.value)
    assert said.startswith("Give this study another name or storage: the runs that are stored as ")
    assert "'study/global_size=32' were made with another make_module, or other code" in said
    assert "accept_changes=True of run() (--accept-changes on the command line) keeps them" in said
    assert "make_module, make_module (- stored, + now):\n  -def make_module(parameters):" in said
    assert "make_module, Flipped (- stored, + now):\n  +class Flipped(cheap.Regression):" in said


def test_other_options_of_the_trainer_are_refused(stored):
    with pytest.raises(StorageError, match=r"another trainer_options, or.*\n.*\n  -\{\}\n  \+\{'g"):
        small(stored[0], trainer_options={"gradient_clip_val": 0.1}).run()


def test_other_bound_arguments_are_refused():
    storage = optuna.storages.InMemoryStorage()
    small(storage, make_module=functools.partial(scaled, 1.0)).run()
    with pytest.raises(StorageError, match=r"-partial\(scaled, tuple\(1\.0\), \{\}\)\n  \+partial"):
        small(storage, make_module=functools.partial(scaled, 0.5)).run()


def test_accepted_changes_keep_the_runs_and_stay_in_the_warnings(stored):
    storage, table = stored
    result = small(storage, make_module=flipped).run(accept_changes=True)
    told = "runs from before a change of make_module are kept, as accepted"
    assert result.table == table
    fix = "Run under another name if the change can change a result: about 3 runs"
    assert result.run_warnings == (told,)
    assert result.warnings[0].startswith(f"{told}. {fix}")
    again = small(storage, make_module=flipped).run()
    assert (again.table, again.warnings) == (table, result.warnings)


def test_the_same_code_is_accepted_with_more_threads_and_workers(stored):
    assert small(stored[0], workers=Workers(count=1, threads=2)).run().table == stored[1]


def test_a_failed_first_run_may_be_mended():
    storage = optuna.storages.InMemoryStorage()
    broken = small(storage, make_module=functools.partial(scaled, None))
    with pytest.raises(RuntimeError, match="search run of trial 0"):
        broken.run()
    assert len(small(storage).run().table) == 3


def test_runs_of_an_old_version_are_kept_with_one_warning(stored, monkeypatch):
    storage, table = stored
    monkeypatch.setattr("lightning_noise.study.storage.CODE", "what the old version did not write:")
    with pytest.warns(UserWarning, match="did not record make_module") as told:
        old = small(storage).run()
    assert len(told) == 1
    assert (old.table, old.run_warnings) == (table, (UNKNOWN_CODE,))
    assert old.warnings[0].startswith(f"{UNKNOWN_CODE}. Run under another name")
    assert UNKNOWN_CODE not in small(storage).run().run_warnings  # recorded now


FILE = """
from lightning_noise.study import Goal, Search
from testing import cheap
from own_models import Net

SMALL = {"batch_sizes": [32], "search": Search(trials=2, seeds=1)}

def loss_of(module, batch):
    return module.loss(batch)

def make_module(parameters):
    return Net(**parameters)

study = cheap.study(
    None,
    make_module=make_module,
    goal=Goal(metric="val_loss", target=0.7),
    noise_scale={"geometry": "hessian", "loss_fn": loss_of},
    **SMALL,
)
"""
MODELS = '''
from testing import cheap
SCALE = 1.0

class Net(cheap.Regression):
    def __init__(self, learning_rate):
        """Sets the rate."""
        super().__init__(learning_rate * SCALE)  # of the optimizer
'''


def command(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    call = [sys.executable, "-m", "lightning_noise", "study", "mine.py", "--storage", "a.journal"]
    return subprocess.run(
        [*call, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.slow
def test_an_edited_file_is_refused_on_the_command_line(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "own_models.py").write_text(MODELS)
    assert command(tmp_path).returncode == 0
    (tmp_path / "own_models.py").write_text(MODELS.replace("1.0", "0.5").replace("Sets", "Takes"))
    refused = command(tmp_path)
    assert refused.returncode == 2
    assert "make_module, SCALE (- stored, + now):\n  -1.0\n  +0.5\n" in refused.stderr
    assert "Takes" not in refused.stderr  # a docstring changes no result
    accepted = command(tmp_path, "--accept-changes")
    assert accepted.returncode == 0
    assert "runs from before a change of make_module are kept" in accepted.stdout


def test_a_file_passes_the_word_on(tmp_path):
    (tmp_path / "fixed.py").write_text(
        "from pathlib import Path\n"
        "from testing.small_studies import *\n"
        "study = small(None, make_module=flipped if Path(__file__).with_name('b').exists() else "
        "cheap.make_module)\n",
    )
    run_file(tmp_path / "fixed.py", storage=tmp_path / "a.journal")
    (tmp_path / "b").touch()
    other = tmp_path / "other.py"
    shutil.copy(tmp_path / "fixed.py", other)  # a file is loaded once per process
    with pytest.raises(StorageError, match="another make_module"):
        run_file(other, storage=tmp_path / "a.journal")
    assert len(run_file(other, storage=tmp_path / "a.journal", accept_changes=True).table) == 3


WIDTH = 3
LOSS = torch.nn.CrossEntropyLoss(label_smoothing=0.25)
cache = None


def helper(x):
    """Not part of the code."""
    return x + WIDTH  # neither is this


@functools.cache
def cached():
    return helper(1)


def user(x, base=helper):
    global cache
    cache = cached()
    return LOSS(torch.relu(x), x) + cache


def test_what_a_function_refers_to_is_read():
    found = definitions(user)
    assert set(found) == {"", "user", "cached", "LOSS", "helper", "WIDTH"}
    assert found["helper"] == "def helper(x):\n    return x + WIDTH"
    assert found["WIDTH"] == "3"
    assert found["LOSS"].startswith("CrossEntropyLoss(")


def test_classes_bring_their_bases_methods_and_attributes():
    found = definitions(Flipped)
    assert list(found) == ["", "Flipped", "Regression", "Body"]
    assert "return 2 * super().loss(batch)" in found["Flipped"]


def test_a_lambda_is_read_without_its_surroundings():
    factor = 2
    pair = [lambda x: x * factor, 5]
    found = definitions(pair[0])
    name = next(name for name in found if name.endswith("<lambda>"))
    assert (found[name], found["factor"]) == ("lambda x: x * factor", "2")


def test_code_without_a_source_counts_by_its_bytecode():
    texts = []
    for body in ("x + 1", "x + 2", "x + 1"):
        names = {"__name__": "__main__"}
        exec(f"def f(x): return {body}", names)
        texts.append(definitions(names["f"])["f"])
    assert texts[0] == texts[2] != texts[1]
    assert texts[0].startswith("source not readable, bytecode sha256 ")


def test_values_are_told_by_content_and_without_addresses():
    class Option:
        def __init__(self, weights):
            self.weights = weights
            self.run = helper

    texts = [definitions({"a": Option(torch.full((3,), fill))})[""] for fill in (1.0, 2.0, 1.0)]
    assert texts[0] == texts[2] != texts[1]
    assert " at 0x" not in texts[0]
    plain = definitions({"b": 1, "a": {2, 1}, "c": range})[""]
    assert plain == "{'a': set(1, 2), 'b': 1, 'c': range}"


def test_long_texts_are_bounded_and_still_told_apart():
    long = ["x" * 50_000, "x" * 50_000 + "y"]
    first, second = (fingerprint({"make_data": {"a": text}})["make_data"][""] for text in long)
    assert first != second
    assert len(first) < 6_100
