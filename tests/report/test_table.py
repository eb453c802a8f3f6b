"""The table of a study on disk: what goes in comes out, and what is wrong in it is named."""

import pytest

from lightning_noise.report.errors import TableError
from lightning_noise.report.table import NEEDED, as_runs, goals, of_goal, read_table, write_table
from testing.synthetic_studies import study

WHICH = "goal,global_size,seed,trial,phase,learning_rate"
HEAD = f"{WHICH},status,steps,examples,best_value,best,boundary"


def test_round_trip_keeps_every_value_and_type(tmp_path):
    rows = study(sizes=(8, 16))
    rows[0]["learning_rate"] = None
    rows[1].update(param_schedule="cosine", b_simple_start=12.5)
    write_table(tmp_path / "t.csv", rows)
    read = read_table(tmp_path / "t.csv")
    assert read[0] == {**rows[0], "param_schedule": None, "b_simple_start": None}
    assert read[1] == rows[1]
    assert type(read[1]["global_size"]) is int and type(read[1]["best"]) is bool
    assert list(read[0])[: len(NEEDED)] == list(NEEDED) == HEAD.split(",")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "g,0,0,0,search,0.1,reached,5,40,0.1,True,False",
            "invalid value '0' for column global_size: must be finite and > 0",
        ),
        (
            "g,8,0,0,train,0.1,reached,5,40,0.1,True,False",
            "invalid value 'train' for column phase: must be one of search, repeat, rerun",
        ),
        (
            "g,8,0,0,search,0.1,done,5,40,0.1,True,False",
            "invalid value 'done' for column status: must be one of reached, incomplete, diverged",
        ),
        (
            "g,8,0,0,search,-1,reached,5,40,0.1,True,False",
            "invalid value '-1' for column learning_rate: must be finite and > 0",
        ),
        (
            "g,8,0,0,search,0.1,reached,many,40,0.1,True,False",
            "invalid value 'many' for column steps: could not convert",
        ),
        (
            "g,8,0,0,search,0.1,reached,,40,0.1,True,False",
            "status is 'reached', so steps must not be empty",
        ),
        (
            "g,8,0,0,search,0.1,reached,5,40,0.1,maybe,False",
            "invalid value 'maybe' for column best: must be True or False",
        ),
        ("g,8,0,0,search", "it does not have as many cells"),
        ("g,8,0,0,search,0.1,reached,5,40,0.1,True,False,9", "it does not have as many cells"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(tmp_path, line, message):
    path = tmp_path / "t.csv"
    path.write_text(f"{HEAD}\n{line}\n")
    with pytest.raises(TableError, match=rf"line 2: {message}"):
        read_table(path)


def test_missing_columns_and_rows_are_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("global_size,steps\n")
    with pytest.raises(ValueError, match="lacks the columns goal, seed, trial"):
        read_table(path)
    with pytest.raises(ValueError, match="has a header but no row"):
        read_table(path, needs=("global_size", "steps"))
    path.write_text("")
    with pytest.raises(ValueError, match=r"lacks the column steps; it has none"):
        read_table(path, needs=("steps",))
    with pytest.raises(ValueError, match="at least one run"):
        write_table(path, [])


def test_a_table_of_sizes_and_steps_is_a_table_of_runs(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("global_size,steps,note\n8,900,\n16,,spilled\n2.5,70,1\n")
    rows = as_runs(read_table(path, needs=("global_size", "steps")))
    assert [row["status"] for row in rows] == ["reached", "incomplete", "reached"]
    assert [row["global_size"] for row in rows] == [8, 16, 2.5]
    assert [row["note"] for row in rows] == [None, "spilled", 1.0]
    assert goals(rows) == ["the goal"]


def test_goals():
    rows = [*study(sizes=(8,)), *study(goal="loss 0.1", sizes=(8,))]
    assert goals(rows) == ["error 3 %", "loss 0.1"]
    assert {row["goal"] for row in of_goal(rows, "loss 0.1")} == {"loss 0.1"}
    assert len(of_goal(rows[:5], None)) == 5
    for wrong in (None, "loss"):
        with pytest.raises(ValueError, match=r"goal must be one of 'error 3 %', 'loss 0.1', got"):
            of_goal(rows, wrong)
