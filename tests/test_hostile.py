"""Hostile pipelines, tables and trees at random: what loads is whole, all else is one `CpoError`.

A sample here; `CPO_HOSTILE=1000` tries a thousand of each, `CPO_HOSTILE_SEED=5` others. Options of
the command line are in test_hostile_options.py, adapters and one named case of each kind in
test_integrity.py.
"""

import os, shutil, signal, warnings

import pytest
import torch

import hostile_pipelines, hostile_tables
from cpo_nb.backbone import load_backbone
from cpo_nb.core import CpoError
from cpo_nb.pipelines import tiny_pipeline
from cpo_nb.sampling import sample

MORE = int(os.environ.get("CPO_HOSTILE", 45))  # inputs of each kind
SEED = int(os.environ.get("CPO_HOSTILE_SEED", 11))


class Late(BaseException):
    "Not an `Exception`: what turns exceptions of foreign files into messages lets it pass."


def in_time(call):
    "What a call returns or raises; `Late` when it takes more than twenty seconds."

    def late(*_):
        raise Late("more than twenty seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    try:
        return call()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def pipeline_problem(folder) -> str:
    "What is wrong with the way in which a hostile pipeline is opened; empty when nothing is."
    try:
        backbone = in_time(lambda: load_backbone(folder))
        same = in_time(lambda: load_backbone(folder))
        for name, value in backbone.denoiser.state_dict().items():
            if not torch.equal(value, same.denoiser.state_dict()[name]):
                return f"{name} is drawn at random"
        in_time(lambda: sample(backbone, ["x"], [0], steps=2, precision="fp32"))
    except CpoError as e:
        return "" if len(str(e)) < 4000 else f"a message of {len(str(e)):,} characters"
    except (Exception, Late) as e:
        return f"{type(e).__name__}: {str(e)[:300]}"
    return ""


@pytest.mark.timeout(60 + 30 * MORE)
def test_no_pipeline_opens_by_half(tmp_path):
    whole = tiny_pipeline(tmp_path / "whole")
    wrong = []
    for name, damage in hostile_pipelines.mutations(SEED, MORE):
        folder = shutil.copytree(whole, tmp_path / "pipe")
        damage(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            problem = pipeline_problem(folder)
        if problem:
            wrong.append(f"{name}: {problem}")
        shutil.rmtree(folder)
    assert wrong == []


@pytest.mark.timeout(60 + 20 * MORE)
def test_no_table_loads_with_other_labels_than_it_gives(tmp_path):
    wrong = []
    for i, (name, write) in enumerate(hostile_tables.mutations(SEED, MORE)):
        folder = tmp_path / str(i)
        folder.mkdir()
        labels = write(folder)
        problem = in_time(lambda: hostile_tables.outcome(folder, labels))
        if problem:
            wrong.append(f"{name}: {problem}")
        shutil.rmtree(folder)
    assert wrong == []
