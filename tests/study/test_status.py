"""What `lightning-noise status` reports, without the study's file and without writing."""

import pytest

from lightning_noise.__main__ import main
from lightning_noise.study import Search
from lightning_noise.study.goal import Goal
from lightning_noise.study.opening import opened
from lightning_noise.study.status import plan_of, status
from testing.small_studies import small


def half_done(storage):
    """Three runs of a study of two sizes."""
    small(storage).run()
    study = small(storage, batch_sizes=[16, 32])
    with opened(storage, "study") as found:
        study._shelf(found, study._plan(16))


@pytest.fixture(params=["{}/a.journal", "sqlite:///{}/a.db"])
def storage(request, tmp_path):
    return request.param.format(tmp_path)


def test_it_reports_the_runs_of_every_size(storage):
    half_done(storage)
    *lines, left = status(storage).splitlines()
    assert left.endswith(" of training left, one run after the other")
    assert lines == [
        "study 'study': 3 of about 6 runs done",
        "  global size  runs done  expected  running  fewest steps",
        "           16          0         3        0      none yet",
        "           32          3         3        0         0.933",
    ]


def test_it_can_be_asked_while_the_study_runs(storage):
    small(storage).run()
    with opened(storage, "study"):
        assert status(storage).startswith("study 'study': 3 of about 3 runs done")


def test_it_writes_nothing(storage, tmp_path):
    half_done(storage)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    status(storage)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_plan_follows_from_what_is_stored(tmp_path):
    study = small(
        tmp_path / "a.journal",
        search=Search(trials=4, seeds=3, seed=5, prune=False, wave=2, widen=1),
        goal=[Goal(metric="val_loss", target=0.7), Goal(metric="val_loss", target=2, mode="max")],
    )
    with opened(tmp_path / "a.journal", "study") as found:
        shelf = study._shelf(found, study._plan(32))
        settings = shelf._search.user_attrs["settings"]
    assert plan_of(32, settings) == study._plan(32)


def test_several_studies_in_a_storage(storage):
    small(storage, name="a").run()
    small(storage, name="b").run()
    texts = status(storage).split("\n\n")
    assert [text.split(":")[0] for text in texts] == ["study 'a'", "study 'b'"]


def test_the_command_takes_a_study_file_too(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from testing.small_studies import small\nstudy = small('a.journal')\n"
    )
    small("a.journal").run()
    assert main(["status", "a.journal"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("study 'study': 3 of about 3 runs done\n")
    assert main(["status", "mine.py"]) == 0
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("missing", ["none.journal", "sqlite:///none.db", "none.py"])
def test_what_does_not_exist_is_not_made(tmp_path, capsys, monkeypatch, missing):
    monkeypatch.chdir(tmp_path)
    assert main(["status", missing]) == 2
    assert "lightning-noise: there is no" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
