"""Processes that train a tiny model and are killed, interrupted or run out of disk space on purpose.

`python trainee.py SOCKET WORDS CORPUS` imports everything once, then forks a process for every case
that arrives at the socket. So a case takes a fraction of a second instead of four.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import io
import json
import os
import signal
import socket
import stat
import sys
import threading
import time
import traceback
import warnings
from contextlib import closing, contextmanager
from pathlib import Path

import torch
import transformers.models.bert.modeling_bert  # imported here for the children
import transformers.models.gpt2.modeling_gpt2
import transformers.models.llama.modeling_llama
import transformers.models.modernbert.modeling_modernbert  # noqa: F401 - the four are the families below
from torch.distributed.checkpoint.filesystem import FileSystem
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from pretune.config.params import TrainingParams
from pretune.data.loading import corpus
from pretune.errors import PretuneError
from pretune.models import build
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.classification import Classification
from pretune.objectives.pretraining.causal_lm import CausalLM
from pretune.objectives.pretraining.masked_lm import MaskedLM
from pretune.training import checkpoint, device, loop, parallel
from pretune.training.learner import Learner

LABELS = ["kitchen", "sea"]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
DROPOUT = {
    "modernbert": {"attention_dropout": 0.1, "mlp_dropout": 0.1, "embedding_dropout": 0.1, "classifier_dropout": 0.1},
    "bert": {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
    "llama": {"attention_dropout": 0.1},
    "gpt2": {"attn_pdrop": 0.1, "resid_pdrop": 0.1, "embd_pdrop": 0.1},
}
SETTINGS = {
    "objective": "masked_lm",
    "settings": {},
    "batch_size": 8,
    "gradient_accumulation_steps": 1,
    "sequence_length": 16,
    "optimizer": "adamw",
    "learning_rate": 5e-3,
    "layer_decay": 0.9,
    "schedule": "cosine",
    "warmup": 0.2,
    "weight_decay": 0.01,
    "gradient_clip": 1.0,
    "precision": "fp32",
    "gradient_checkpointing": False,
    "compile": False,
    "max_skipped_steps": 3,
    "ema_decay": 0.0,
    "evaluate_every": 0,
    "metric_for_best_model": "last",
    "patience": 0,
    "seed": None,
}
WRITING = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")  # audit events


def settings(**changes):
    """SETTINGS with changes."""
    return TrainingParams(**SETTINGS | changes)


class Trainee:
    """One case: a training, and how it is disturbed."""

    def __init__(self, case, words, corpus_folder):
        self.case, self.words, self.corpus_folder = case, words, corpus_folder
        self.resumed = None
        self.operations = []

    def model(self):
        """A model of the case's family, with 10 % dropout unless the case disables it."""
        family = self.case.get("family", "modernbert")
        extra = DROPOUT[family] if self.case.get("dropout", True) else {}
        if family in {"modernbert", "llama", "bert"}:
            extra = extra | {"intermediate_size": 64}
        if family == "modernbert":
            extra = extra | {"global_attn_every_n_layers": 1, "classifier_pooling": "mean"}
        ids = {f"{name}_token_id": getattr(self.words, f"{name}_token_id") for name in ("pad", "cls", "sep")}
        ids |= {"bos_token_id": ids["cls_token_id"], "eos_token_id": ids["sep_token_id"]}
        config = AutoConfig.for_model(
            family, vocab_size=len(self.words), max_position_embeddings=64, **SHAPE, **ids, **extra
        )
        if self.case["objective"] == "masked":
            return build.new(MaskedLM, config)
        if self.case["objective"] == "causal":
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        return build.new(Classification, config, LABELS)

    def objectives(self):
        """Training and validation objective."""
        if self.case["objective"] == "labels":
            texts = [
                {
                    "text": f"number {row} is about {'salt ' * (row % 7) if row % 2 else 'butter oven'}",
                    "label": LABELS[row % 2],
                }
                for row in range(40)
            ]
            context = ObjectiveContext(self.words, 16, 0, None, LABELS)
            return [Classification(part, context) for part in (texts[:29], texts[29:])]
        parts = corpus.Sequences(self.corpus_folder, 16, self.words.pad_token_id).divide(7, seed=0)
        if self.case["objective"] == "causal":
            return [CausalLM(part) for part in parts]
        return [MaskedLM(part, self.words, rate=0.3, seed=0) for part in parts]

    def train(self):
        """Train; return the results."""
        case, params = self.case, settings(**self.case.get("settings", {}))
        device.prepare(0, 1)
        model, (objective, validation) = self.model(), self.objectives()
        self.arrange()
        with closing(Saving(case, self)) as checkpoints:
            model, state = loop.train(
                model,
                objective,
                params,
                case["steps"],
                seed=case.get("seed", 0),
                report=lambda _: None,
                validation=validation if params.evaluate_every else None,
                checkpoints=checkpoints,
                workers=case.get("workers", 0),
            )
        return {
            "weights": fingerprint(model),
            "records": [[record.step, record.loss.hex(), record.learning_rate.hex()] for record in state.records],
            "validations": [
                [result.step, {name: value.hex() for name, value in result.metrics.items()}]
                for result in state.validations
            ],
            "steps": state.step,
            "skipped": state.skipped,
        }

    def arrange(self):
        """Prepare the disturbances at a step or at a file operation."""
        taken = 0
        step = Learner.step

        def counted(learner, batches, rate):
            nonlocal taken
            taken += 1
            if taken == self.case.get("die_after"):
                die()
            if taken == self.case.get("signal_in"):
                for number in self.case["signals"]:
                    os.kill(os.getpid(), number)
            step(learner, batches, rate)

        Learner.step = counted
        if "die_at" in self.case or "full_at" in self.case or self.case.get("count"):
            self.watch()
        if "largest_file" in self.case:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (self.case["largest_file"], -1))

    def watch(self):
        """Count the operations on the folder of checkpoints; at one of them die, or from it on have the disk full."""
        folder = self.case["folder"]

        def hook(event, arguments):
            if event in WRITING:
                inside = folder in str(arguments[0]) or (event != "open" and arguments[-1] not in {-1, None})
                if inside:
                    writes = event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR)
                    self.operation(f"{event} {Path(str(arguments[0])).name}", takes_space=writes)

        fsync, create_stream = os.fsync, FileSystem.create_stream

        def watched_fsync(handle):
            self.operation("fsync")
            if self.case.get("die_at") == len(self.operations) + 1 and stat.S_ISREG(os.fstat(handle).st_mode):
                os.ftruncate(handle, os.fstat(handle).st_size // 2)  # the rest of a file that was not synced
            self.operation("half lost", takes_space=False)
            fsync(handle)
            self.operation("fsynced", takes_space=False)

        @contextmanager
        def watched_stream(system, path, mode):
            with create_stream(system, path, mode) as stream:
                yield Stream(stream, self.operation)

        os.fsync, FileSystem.create_stream = watched_fsync, watched_stream
        sys.addaudithook(hook)

    def operation(self, name, *, takes_space=True):
        """Count an operation; die or raise an error if it is the one."""
        takes_space = takes_space and not name.startswith(("os.remove", "os.rmdir"))
        self.operations.append([name, takes_space])
        number = len(self.operations)
        if number == self.case.get("die_at"):
            die()
        first = self.case.get("full_at", number + 1)
        if takes_space and first <= number < first + self.case.get("full_for", 1):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Stream(io.IOBase):
    """A file that counts three operations for each write: before, halfway, after."""

    def __init__(self, stream, operation):
        self._stream, self._operation = stream, operation

    def write(self, content):
        self._operation("write")
        half = len(content) // 2
        self._stream.write(content[:half])
        self._stream.flush()
        self._operation("half written")
        self._stream.write(content[half:])
        self._stream.flush()
        self._operation("written", takes_space=False)
        return len(content)

    def tell(self):
        return self._stream.tell()

    def flush(self):
        self._stream.flush()

    def fileno(self):
        return self._stream.fileno()

    def close(self):
        self._stream.close()


class Saving(checkpoint.Checkpoints):
    """Checkpoints every `save_every` steps, independent of the clock; or one after the other for `always`."""

    def __init__(self, case, trainee):
        super().__init__(Path(case["folder"]), parallel.single_process(), every=0.0)
        self._case, self._trainee, self._step = case, trainee, 0
        checkpoint.COST = float("inf")  # no limit on the time for writing

    def due(self):
        every = self._case.get("save_every", 1)
        if every == "always":
            return super().due()
        self._step += 1
        return (self._trainee.resumed + self._step) % every == 0

    def save(self, step, tensors, facts):
        super().save(step, tensors, facts)
        if self._case.get("wait", True):
            self.wait()

    def load(self, tensors):
        facts = super().load(tensors)
        self._trainee.resumed = facts["step"] if facts else 0
        return facts


def die():
    """As by `kill -9`."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # until it has


def fingerprint(model):
    """The sha256 of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def run_case(case, words, corpus_folder):
    """Train in this process; write the result, return the exit code."""
    out = Path(case["out"])
    for name, stream in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(out / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    warnings.simplefilter("error")
    trainee = Trainee(case, words, corpus_folder)
    result, code = {}, 0
    try:
        result = trainee.train()
    except KeyboardInterrupt:
        code = 130
    except PretuneError as error:
        print(error, file=sys.stderr)
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
        code = 1
    result |= {"resumed": trainee.resumed, "operations": trainee.operations}
    result["threads"] = sorted(thread.name for thread in threading.enumerate())
    (out / "result.json").write_text(json.dumps(result), encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def serve(path, words, corpus_folder):
    """Fork a process for every connection: read the case, write the pid, run the case, write the exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(16)
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            if os.fork():
                connection.close()
                continue
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            file = connection.makefile("rw", encoding="utf-8")
            case = json.loads(file.readline())
            child = os.fork()
            if not child:
                os._exit(run_case(case, words, corpus_folder))
            print(child, file=file, flush=True)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=file, flush=True)
            os._exit(0)


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # dies with the tests
    torch.set_num_threads(1)
    serve(sys.argv[1], PreTrainedTokenizerFast.from_pretrained(sys.argv[2]), Path(sys.argv[3]))
