"""A run that cannot fit ends before it starts, and says what would fit."""

from __future__ import annotations

import re

import pytest
import torch

from pretune.data.loading import corpus
from pretune.errors import DoesNotFitError
from pretune.models import build
from pretune.objectives.pretraining.masked_lm import MaskedLM
from pretune.training import memory
from pretune.training.job import Job

CPU = torch.device("cpu")


@pytest.fixture
def sequences(tmp_path, words):
    """A corpus of 40 rows of 16 tokens."""
    corpus.write(tmp_path, [[(row * 7 + place) % 300 + 4 for place in range(16)] for row in range(40)])
    return corpus.Sequences(tmp_path, 16, int(words.pad_token_id))


@pytest.fixture
def job(tiny, words, sequences, params):
    """A tiny job whose activations outweigh its parameters."""
    settings = params.pretrain.model_copy(update={"batch_size": 40, "precision": "fp32", "steps": 3})
    objective = MaskedLM(sequences, words, rate=0.3, seed=0)
    return Job(build.new(MaskedLM, tiny()), words, objective, None, settings, 3, {}, {})


@pytest.fixture
def limit(monkeypatch):
    """A function that lets only so many bytes be available; the process itself weighs nothing."""

    def to(number):
        monkeypatch.setattr(memory, "held", lambda _: 0)
        monkeypatch.setattr(memory, "available", lambda _: number)

    return to


def refused(job):
    """The error that the job ends in."""
    with pytest.raises(DoesNotFitError) as caught:
        job.cost("pretrain", 0, CPU)
    return caught.value


def total(job):
    """Bytes that it takes in all."""
    found = job.cost("pretrain", 0, CPU)
    return found.memory + found.snapshot


def test_what_fits_is_not_refused(job, limit):
    """To the byte."""
    limit(10**12)
    needed = total(job)
    limit(2 * needed)
    assert total(job) > 0


def test_the_message_names_need_and_supply_and_a_command(job, limit):
    """Gigabytes of both, the settings, and the command line that has them."""
    limit(10**12)
    limit(total(job) // 2)
    error = refused(job)
    assert error.exit_code == 11
    assert re.match(r"pretrain needs \d+\.\d GB of memory, and \d+\.\d GB are available", error.problems[0])
    assert re.match(r"pretune run pretrain --set pretrain\.\w+=\S+", error.next_step)


@pytest.mark.parametrize("share", [0.7, 0.5, 0.4])
def test_the_settings_named_do_fit(job, limit, share):
    """With them, the same memory is enough."""
    limit(10**12)
    most = int(total(job) * share)
    limit(most)
    found = dict(re.findall(r"--set pretrain\.(\w+)=(\S+)", refused(job).next_step))
    values = {"gradient_accumulation_steps": int(found.get("gradient_accumulation_steps", 1)), "gradient_checkpointing": found.get("gradient_checkpointing") == "true"}  # fmt: skip  # noqa: E501
    less = Job(**vars(job) | {"params": job.params.model_copy(update=values)})
    limit(10**12)
    assert total(less) <= most * 1.1  # the heap of this process has a past


@pytest.mark.slow
def test_where_no_setting_is_enough_the_model_must_be_smaller(job, limit):
    """Fewer layers where that is enough."""
    job = Job(**vars(job) | {"params": job.params.model_copy(update={"batch_size": 4})})
    limit(10**12)
    limit(int(job.cost("pretrain", 0, CPU).snapshot * 2))
    assert "model.config.num_hidden_layers=1" in refused(job).next_step
    limit(1000)
    error = refused(job)
    assert error.next_step.startswith("make `model` smaller")


def test_processes_share_the_memory_of_a_machine(monkeypatch):
    """Two of them have half each of what is free."""
    alone = memory.available(CPU) - memory.held(CPU)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert memory.available(CPU) - memory.held(CPU) == pytest.approx(alone / 2, rel=0.2)


@pytest.mark.parametrize("version", [1, 2])
def test_a_control_group_limits_what_is_available(tmp_path, monkeypatch, version):
    """Whichever version of them, and whichever folder above sets it; cached files do not count as used."""
    names = [("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")][version - 1]
    top = tmp_path / ("memory" if version == 1 else "")
    folder = top / "batch" / "job"
    folder.mkdir(parents=True)
    for place, most in ((folder, "9000000"), (folder.parent, "6000000")):
        (place / names[0]).write_text(most, encoding="ascii")
        (place / names[1]).write_text("3000000", encoding="ascii")
        (place / "memory.stat").write_text("total_inactive_file 1000000\ninactive_file 1000000\n", encoding="ascii")
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/batch/job\n" if version == 1 else "0::/batch/job\n", encoding="ascii")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_GROUPS", own)
    assert memory.available(CPU) - memory.held(CPU) == pytest.approx(4_000_000, abs=2_000_000)
