"""What a fit writes beside the logs for `lightning-noise report`."""

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_noise import GradientNoiseScale
from lightning_noise.report.page.answer import answer_of
from lightning_noise.report.page.find_logs import find_courses
from lightning_noise.say.run_facts import FILE, RunFacts, from_text
from testing.gans import Gan, gan_data
from testing.toys import Regression, data, fit

LOGGERS = (TensorBoardLogger, CSVLogger)


class Adam(Regression):
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def count_tokens(batch):
    return 10 * len(batch[0])


def written(logger):
    with open(f"{logger.log_dir}/{FILE}", encoding="utf-8") as file:  # noqa: PTH123  # a str
        return from_text(file.read())


@pytest.mark.parametrize("kind", LOGGERS)
def test_a_fit_writes_what_its_scalars_do_not_say(tmp_path, kind):
    logger, callback = kind(tmp_path, prefix="mine"), GradientNoiseScale(batch_size_fn=count_tokens)
    fit(Adam(), data(), callback, logger=logger, epochs=2)
    verdict = str(callback.verdict())
    assert written(logger) == {"": RunFacts("AdamW", 0.5, "tokens", verdict, 15)}


@pytest.mark.filterwarnings("ignore")
def test_each_optimizer_has_its_own_facts(tmp_path):
    logger = CSVLogger(tmp_path)
    loader = gan_data(examples=400)
    fit(Gan(), loader, GradientNoiseScale(), accumulate=1, logger=logger, log_every_n_steps=10)
    found = written(logger)
    assert list(found) == ["Adam", "Adam-1"]
    assert found["Adam-1"].verdict.startswith("Adam-1: ")


class Interrupted(Regression):
    def on_train_batch_start(self, batch, batch_idx):
        if self.current_epoch == 1:
            raise KeyError


def test_the_verdict_of_an_interrupted_fit_is_that_of_its_last_epoch(tmp_path):
    logger = CSVLogger(tmp_path)
    with pytest.raises(KeyError):
        fit(Interrupted(), data(), GradientNoiseScale(), logger=logger, epochs=2)
    found = written(logger)[""]
    assert found.step == 7
    assert found.verdict.startswith("Whether your batch size of 8 is right cannot be determined:")


def test_both_logs_of_a_run_give_the_same_answer(tmp_path):
    """The data set is as small as the noise scale, which no scalar says."""
    loggers = [TensorBoardLogger(tmp_path / "a"), CSVLogger(tmp_path / "b")]
    callback = GradientNoiseScale(figures=False)
    options = {"accumulate": 1, "epochs": 20, "log_every_n_steps": 5}
    fit(Adam(), data(), callback, logger=loggers, **options)
    first, second = find_courses([tmp_path / "a", tmp_path / "b"])
    assert "is of the order of the data set" in str(callback.verdict())
    assert answer_of(first).lines == answer_of(second).lines
    assert answer_of(first).lines[0].startswith("Whether your batch size of")


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_a_file_that_cannot_be_written_does_not_end_a_fit(tmp_path):
    logger = CSVLogger(tmp_path, name="run", version=0)
    (tmp_path / "run" / "version_0" / FILE).mkdir(parents=True)
    callback = GradientNoiseScale()
    with pytest.warns(UserWarning, match=f"{FILE} could not be written") as warned:
        fit(Regression(), data(), callback, logger=logger, epochs=2)
    assert callback.session.steps_read == 16
    assert any("could not be written" in str(one.message) for one in warned)
