"""Training that does not fit into memory fails before it starts, with settings that would fit."""

from __future__ import annotations

import re

import pytest
import torch

from pretune.data.loading import corpus
from pretune.errors import DoesNotFitError
from pretune.models import build
from pretune.objectives.pretraining.masked_lm import MaskedLM
from pretune.training import memory
from pretune.training.estimate import memory_check
from pretune.training.job import Job

CPU = torch.device("cpu")


@pytest.fixture
def sequences(tmp_path, words):
    """A corpus of 40 rows of 16 tokens."""
    corpus.write(tmp_path, [[(row * 7 + place) % 300 + 4 for place in range(16)] for row in range(40)])
    return corpus.Sequences(tmp_path, 16, int(words.pad_token_id))


@pytest.fixture
def job(tiny, words, sequences, params):
    """A tiny job with more activations than parameters."""
    settings = params.pretrain.model_copy(update={"batch_size": 40, "precision": "fp32", "steps": 3})
    objective = MaskedLM(sequences, words, rate=0.3, seed=0)
    return Job(build.new(MaskedLM, tiny()), words, objective, None, settings, 3, {}, {}, 0)


@pytest.fixture
def limit(monkeypatch):
    """A function that sets the available bytes; the process itself uses none."""

    def to(number):
        monkeypatch.setattr(memory, "held", lambda _: 0)
        monkeypatch.setattr(memory, "available", lambda _: number)

    return to


def refused(job):
    """The error of a job that does not fit."""
    with pytest.raises(DoesNotFitError) as caught:
        job.cost("pretrain", CPU)
    return caught.value


def total(job):
    """Bytes that it needs in all."""
    cost = job.cost("pretrain", CPU)
    return cost.memory + cost.snapshot


def test_a_job_that_fits_is_not_refused(job, limit):
    """With more memory than it needs."""
    limit(10**12)
    needed = total(job)
    limit(2 * needed)
    assert total(job) > 0


def test_the_message_names_required_and_available_memory_and_a_command(job, limit):
    """Both in gigabytes, settings that would fit, and the command line with them."""
    limit(10**12)
    limit(total(job) // 2)
    error = refused(job)
    assert error.exit_code == 11
    assert re.match(r"pretrain needs \d+\.\d GB of memory, and \d+\.\d GB are available", error.problems[0])
    assert re.match(r"pretune run pretrain --set pretrain\.\w+=\S+", error.next_step)


@pytest.mark.parametrize("share", [0.7, 0.5, 0.4])
def test_the_settings_in_the_message_fit(job, limit, share):
    """Into the available memory."""
    limit(10**12)
    available = int(total(job) * share)
    limit(available)
    settings = dict(re.findall(r"--set pretrain\.(\w+)=(\S+)", refused(job).next_step))
    values = {
        "gradient_accumulation_steps": int(settings.get("gradient_accumulation_steps", 1)),
        "gradient_checkpointing": settings.get("gradient_checkpointing") == "true",
    }
    smaller = Job(**vars(job) | {"params": job.params.model_copy(update=values)})
    limit(10**12)
    assert total(smaller) <= available * 1.1  # the heap of this process is fragmented


@pytest.mark.slow
def test_if_no_setting_is_enough_the_message_suggests_a_smaller_model(job, limit):
    """With fewer layers, if that is enough."""
    job = Job(**vars(job) | {"params": job.params.model_copy(update={"batch_size": 4})})
    savings = {"gradient_accumulation_steps": 4, "gradient_checkpointing": True}
    cheapest = Job(**vars(job) | {"params": job.params.model_copy(update=savings)})
    smaller = Job(**vars(cheapest) | {"model": memory_check._with_layers(job.model, 1)})
    limit(10**12)
    limit((total(cheapest) + total(smaller)) // 2)
    assert "model.config.num_hidden_layers=1" in refused(job).next_step
    limit(1000)
    error = refused(job)
    assert error.next_step.startswith("make `model` smaller")


def test_processes_share_the_memory_of_a_machine(monkeypatch):
    """Each of two has half of the free memory."""
    alone = memory.available(CPU) - memory.held(CPU)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert memory.available(CPU) - memory.held(CPU) == pytest.approx(alone / 2, rel=0.2)


@pytest.mark.parametrize("version", [1, 2])
def test_a_control_group_limits_what_is_available(tmp_path, monkeypatch, version):
    """In both versions, and for parent groups too; cached files do not count as used."""
    names = [("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")][version - 1]
    top = tmp_path / ("memory" if version == 1 else "")
    folder = top / "batch" / "job"
    folder.mkdir(parents=True)
    for group, maximum in ((folder, "9000000"), (folder.parent, "6000000")):
        (group / names[0]).write_text(maximum, encoding="ascii")
        (group / names[1]).write_text("3000000", encoding="ascii")
        (group / "memory.stat").write_text("total_inactive_file 1000000\ninactive_file 1000000\n", encoding="ascii")
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/batch/job\n" if version == 1 else "0::/batch/job\n", encoding="ascii")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_GROUPS", own)
    assert memory.available(CPU) - memory.held(CPU) == pytest.approx(4_000_000, abs=2_000_000)
