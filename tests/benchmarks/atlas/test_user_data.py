"""Data sets that the user has: read as they were written, and a task each."""

import gzip
import pickle

import numpy as np
import pytest
import torch
from scipy.io import savemat

from benchmarks.atlas.tasks.user_images import make_data, make_module, tasks_in
from benchmarks.atlas.user_data import READERS, available, datasets
from testing.toys import fit

TRAINED, TESTED = 12, 6


def some(count, *shape):
    return np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)


def digits_of(count):
    return np.arange(count) % 10


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes()
    return head + array.astype(np.uint8).tobytes()


def write_mnist(folder):
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", TRAINED), ("t10k", TESTED)):
        images = idx(some(count, 28, 28))
        (raw / f"{name}-images-idx3-ubyte").write_bytes(images)
        labels = gzip.compress(idx(digits_of(count)))
        (raw / f"{name}-labels-idx1-ubyte.gz").write_bytes(labels)
    return some(TRAINED, 28, 28)[:, None], some(TESTED, 28, 28)[:, None]


def write_cifar(folder):
    batches = folder / "cifar-10-batches-py"
    batches.mkdir()
    images = some(TRAINED, 3, 32, 32)
    rows = images.reshape(TRAINED, -1)
    labels = digits_of(TRAINED)
    parts = np.array_split(np.arange(TRAINED), 5)
    for number, part in enumerate(parts, start=1):
        content = {"data": rows[part], "labels": labels[part].tolist()}
        (batches / f"data_batch_{number}").write_bytes(pickle.dumps(content))
    tested = some(TESTED, 3, 32, 32)
    content = {"data": tested.reshape(TESTED, -1), "labels": digits_of(TESTED).tolist()}
    (batches / "test_batch").write_bytes(pickle.dumps(content))
    return images, tested


def write_svhn(folder):
    found = []
    for name, count in (("train", TRAINED), ("test", TESTED)):
        images = some(count, 3, 32, 32)
        labels = digits_of(count)[:, None]
        labels[labels == 0] = 10
        savemat(folder / f"{name}_32x32.mat", {"X": images.transpose(2, 3, 1, 0), "y": labels})
        found.append(images)
    return found


WRITERS = {"MNIST": write_mnist, "CIFAR10": write_cifar, "SVHN": write_svhn}


@pytest.mark.parametrize("name", READERS)
def test_images_and_labels_are_those_of_the_files(name, tmp_path):
    images, tested = WRITERS[name](tmp_path)
    assert available(tmp_path) == [name]
    train, val = datasets(name, tmp_path)
    assert torch.equal((255 * train.tensors[0]).round(), torch.tensor(images).float())
    assert train.tensors[1].tolist() == digits_of(TRAINED).tolist()
    expected = sorted(zip(tested.sum((1, 2, 3)).tolist(), digits_of(TESTED), strict=True))
    sums = (255 * val.tensors[0]).round().sum((1, 2, 3)).long().tolist()
    assert sorted(zip(sums, val.tensors[1].tolist(), strict=True)) == expected


@pytest.mark.parametrize("name", READERS)
def test_a_task_trains_on_them(name, tmp_path):
    WRITERS[name](tmp_path)
    (task,) = tasks_in(tmp_path)
    assert task.paper == name
    module = make_module(name, {"learning_rate": 0.1})
    train, val = make_data(name, tmp_path, 4, seed=0)
    trainer = fit(module, train, val=val, epochs=1, accumulate=1)
    assert trainer.global_step == 3
    assert 0 < float(trainer.callback_metrics["val_loss"]) < 10


def test_another_format_is_refused(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(b"\0\0\x0d\x01")
    with pytest.raises(ValueError, match="must be an IDX file of unsigned bytes"):
        datasets("MNIST", tmp_path)
