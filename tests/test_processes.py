"""Two CPU processes (gloo) against one: the same adapter, base copied or divided.

Errors and signals of one end all.
"""

import json, shlex, subprocess
from functools import cache
from pathlib import Path

import pytest
import torch
from launching import environment, python
from safetensors.torch import load_file

from cpo_nb.flux import tiny_flux
from cpo_nb.backbone import load_backbone
from cpo_nb.pipelines import tiny_pipeline
from cpo_nb.cache import Store
from cpo_nb.runs import last_checkpoint, read_metrics

pytestmark = pytest.mark.xdist_group("processes")  # one launch at a time, by one worker
HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("processes")
    tiny_pipeline(path / "sd")
    tiny_flux(path / "flux")
    return path


SD = ["sd-cpo", "sd-sft-passes", "sd-kto-passes", "sd-cpo-bank", "sd-annotate", "sd-evaluate"]
FLUX = ["flux-cpo-checkpointing", "flux-cpo-bank"]


def launch(folder: Path, count: int, *what: str) -> subprocess.CompletedProcess:
    "Start the program as a user would: by `accelerate launch` with a configuration."
    config = ("cpu-fsdp" if what[0] in FLUX else "cpu-two") if count == 2 else None
    command = python(HERE / "processes_program.py", folder, *what, config=config)
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def both(folder):
    "Lets one process, then two, do all of a family, once: most of a launch's time is imports."

    @cache
    def get(family: str) -> str:  # what went wrong
        for n in (1, 2):
            done = launch(folder, n, *(SD if family == "sd" else FLUX))
            if done.returncode:
                return f"{n} processes:\n{done.stderr[-3000:]}"
        return ""

    return get


def adapter(folder: Path, what: str, count: int, rank: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"{what}-of-{count}-rank{rank}.safetensors")


def start(folder: Path, family: str, name: str) -> dict[str, torch.Tensor]:
    bb = load_backbone(folder / family, resolution=64)
    bb.add_adapter(name, 2, seed=0)
    return {k: p.detach() for k, p in bb.adapter_parameters(name).items()}


def update(kept: dict, began: dict) -> torch.Tensor:
    return torch.cat([(kept[k] - began[k]).flatten() for k in sorted(began)])


def same_bank(one: Path, two: Path):
    "Two processes, each with its share, fill a bank with what one computes."
    assert (one / "bank.json").read_bytes() == (two / "bank.json").read_bytes()
    a, b = (Store(f / "records") for f in (one, two))
    assert set(a.where) == set(b.where) and len({p for p, _ in b.where.values()}) > 1
    for k in a.where:
        torch.testing.assert_close(b.get(k)["z"], a.get(k)["z"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("what", [w for w in SD[:4] + FLUX])
def test_two_processes_make_the_adapter_of_one(folder, both, what):
    assert both(what.split("-")[0]) == ""
    family, method = what.split("-")[:2]
    began = start(folder, family, "auxiliary" if method == "sft" else "policy")
    one, two, other = (
        adapter(folder, what, 1, 0),
        adapter(folder, what, 2, 0),
        adapter(folder, what, 2, 1),
    )
    for k in two:
        assert torch.equal(two[k], other[k]), f"{k} differs between the processes"
    a, b = update(one, began), update(two, began)
    assert a.norm() > 0
    assert float((a - b).norm() / a.norm()) < 1e-3
    said = [
        json.loads((folder / f"{what}-of-{n}-rank{r}.json").read_text())
        for n, r in ((1, 0), (2, 0), (2, 1))
    ]
    assert [s["count"] for s in said] == [1, 2, 2]
    assert [s["logged"] for s in said] == [10, 10, 0]  # one process writes
    assert abs(said[0]["image"] - said[1]["image"]) <= 0.001 * said[0]["image"]
    assert said[1]["sharded"] == (what in FLUX)
    if what in FLUX:  # the base is divided
        assert said[1]["local"] < 0.75 * said[0]["local"]
        assert said[1]["local"] + said[2]["local"] == said[0]["local"]
    if "bank" in what:
        same_bank(*(folder / f"bank-{what}-{n}" for n in (1, 2)))
    losses = [[r["loss"] for r in read_metrics(folder / f"{what}-{n}")] for n in (1, 2)]
    assert torch.allclose(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-3)


def cpo(line: str, count: int) -> subprocess.CompletedProcess:
    "The real command, alone or started by `accelerate launch` in two processes."
    config = "cpu-two" if count == 2 else None
    command = python("-m", "cpo_nb.cli", *shlex.split(line), config=config)
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)


def test_the_command_in_two_processes_gives_the_adapter_of_one(folder):
    line = (
        f"align --data atelier --base {folder}/sd --method dpo --min-gap 1 --scale smoke "
        "--steps 4 --batch-size 4 --lr 1e-3 --rank 2 --resolution 64 --precision fp32 "
        f"--previews 0 --track none --cache {folder}/stores-N --out {folder}/command-N"
    )
    for n in (1, 2):
        done = cpo(line.replace("-N", f"-{n}"), n)
        assert done.returncode == 0, f"{n} processes:\n{done.stderr[-3000:]}"
    files = [
        folder / f"command-{n}" / "adapter" / "pytorch_lora_weights.safetensors" for n in (1, 2)
    ]
    one, two = (load_file(f) for f in files)
    # B begins at zero: its entries are what training did
    a, b = (
        torch.cat([v.flatten() for k, v in sorted(t.items()) if "lora_B" in k]) for t in (one, two)
    )
    assert a.norm() > 0
    assert float((a - b).norm() / a.norm()) < 1e-3
    assert len(read_metrics(folder / "command-2")) == 4  # one process writes


def test_two_processes_measure_each_image_once_and_annotate_as_one(folder, both):
    assert both("sd") == ""
    one, two, other = (
        json.loads((folder / f"sd-annotate-of-{n}-rank{r}.json").read_text())
        for n, r in ((1, 0), (2, 0), (2, 1))
    )
    assert [x["measured"] for x in (one, two, other)] == [36, 12 + 5, 13 + 6]
    for rank in (0, 1):  # the group has ended before the interpreter does
        assert json.loads((folder / f"end-{SD[0]}-of-2-rank{rank}.json").read_text()) is False
    for x in (two, other):
        assert x["low"] == one["low"]
        assert x["values"] == one["values"]
        assert x["reference"] == 25
        assert "image 0: 4x4 pixels" in x["problem"]


def test_two_processes_share_an_evaluation_and_one_reports(folder, both):
    assert both("sd") == ""
    one, two, other = (
        json.loads((folder / f"sd-evaluate-of-{n}-rank{r}.json").read_text())
        for n, r in ((1, 0), (2, 0), (2, 1))
    )
    assert [[x["code"] for x in each] for each in (one, two, other)] == [[0, 2]] * 3, (two, other)
    assert "images of other settings" in two[1]["text"]
    assert "stops with the main process" in other[1]["text"]
    assert "Judged by measures-judge" in two[0]["text"] and "udged" not in other[0]["text"]
    images = [sorted((folder / f"sd-evaluate-{n}" / "images").rglob("*.png")) for n in (1, 2)]
    assert [len(each) for each in images] == [20, 20]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*images))
    reports = [
        json.loads((folder / f"sd-evaluate-{n}" / "report.json").read_text()) for n in (1, 2)
    ]
    assert reports[0]["judges"] == reports[1]["judges"]


@pytest.mark.parametrize(
    "what, message",
    [("sd-cpo-dies", "this process has died"), ("sd-cpo-second", "the second process has died")],
)
def test_a_process_that_dies_stops_the_run(folder, what, message):
    r = launch(folder, 2, what)
    assert r.returncode != 0 and message in r.stderr
    assert last_checkpoint(folder / f"{what}-2")[0] == 4  # what was saved is sound


def test_a_signal_to_one_process_saves_and_stops_all(folder):
    r = launch(folder, 2, "sd-cpo-stops")
    assert r.returncode != 0 and "saved after step" in r.stderr
    step = last_checkpoint(folder / "sd-cpo-stops-2")[0]
    assert step in (5, 6)
    assert len(read_metrics(folder / "sd-cpo-stops-2")) == step


@pytest.mark.parametrize(
    "path", sorted((HERE.parent / "configs").glob("*.yaml")), ids=lambda p: p.stem
)
def test_configurations_are_read_by_accelerate_and_name_a_command_that_exists(path):
    import shlex, typer
    from accelerate.commands.config.config_args import load_config_from_file
    from cpo_nb.cli import app

    config = load_config_from_file(str(path))
    assert config.num_processes == {"one-gpu": 1, "eight-gpus": 8}.get(path.stem, 2)
    assert (str(config.distributed_type).endswith("FSDP")) == ("fsdp" in path.stem)
    words = shlex.split(
        next(l[2:] for l in path.read_text().splitlines() if l.startswith("# accelerate launch"))
    )
    assert words[words.index("--config_file") + 1] == f"configs/{path.name}"
    command = typer.main.get_command(app).commands[words[words.index("cpo_nb.cli") + 1]]
    known = {o for p in command.params for o in p.opts}
    assert [
        w for w in words[words.index("cpo_nb.cli") + 1 :] if w.startswith("--") and w not in known
    ] == []
