"Odd values of options end every command well: a known code, no traceback, no stray file."

import json, os, shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hostile_options import CODES, filled, mutations, odd_places


MORE = int(os.environ.get("CPO_HOSTILE", 60))  # command lines
SEED = int(os.environ.get("CPO_HOSTILE_SEED", 3))


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    "A tiny pipeline, a few images, and an adapter of both; paths that are no ordinary folder."
    import cpo_nb.cli  # noqa: F401  all commands
    from cpo_nb.atelier import sample_scenes
    from cpo_nb.cli_base import run_command
    from cpo_nb.painter import save_painted
    from cpo_nb.pipelines import tiny_pipeline

    work = tmp_path_factory.mktemp("hostile")
    save_painted(sample_scenes(12, 0), work / "images")
    tiny_pipeline(work / "pipe")
    small = "--steps 1 --rank 2 --previews 0 --batch-size 2 --no-cache"
    run_command(f"sft --data {work}/images --base {work}/pipe --out {work}/aux {small}")
    (work / "odd").mkdir()
    (work / "prompts.txt").write_text("an oak\na tower\n")
    own = dict(base="pipe", data="images", adapter="aux/adapter", prompts="prompts.txt", out="out")
    paths = {name: str(work / path) for name, path in own.items()}
    return odd_places(work / "odd") | paths | dict(tree="painting")


@pytest.mark.timeout(60 + 30 * MORE)
def test_odd_options_end_well(places, tmp_path, monkeypatch):
    from cpo_nb.cli import app

    monkeypatch.setenv("CPO_RESULTS", str(tmp_path / "results"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    wrong = []
    for line in mutations(SEED, n=MORE):
        words = filled(line, **places)
        result = CliRunner().invoke(app, words, prog_name="cpo")
        if result.exit_code not in CODES or not isinstance(result.exception, SystemExit | None):
            wrong.append(f"{line.note}: {result.exit_code} {result.exception!r}")
        if "\x1b" in result.output or max(map(len, result.output.split("\n"))) > 5000:
            wrong.append(f"{line.note}: control characters, or a line without end")
        # what was written here was named by a word, or is the default of `criteria plot`
        known = {Path(word.rpartition("=")[2]).parts[:1] for word in words} | {("painting.png",)}
        wrong += [f"{line.note}: wrote {n!r}" for n in os.listdir(here) if (n,) not in known]
        for name in os.listdir(here):
            os.rename(here / name, tmp_path / f"{len(os.listdir(tmp_path))}")
    assert wrong == []


@pytest.mark.parametrize(
    "one, other, lost",
    [
        ("positive", "negative", "move away from"),
        ("negative", "positive", "move towards"),
    ],
)
def test_labels_of_one_kind_are_noted_once(places, tmp_path, one, other, lost):
    from cpo_nb.cli import app

    images = Path(places["data"])
    rows = [json.loads(line) for line in (images / "metadata.jsonl").read_text().splitlines()]
    labelled = [row | {one: row["positive"] or row["negative"], other: []} for row in rows]
    shutil.copytree(images, tmp_path / "images")
    (tmp_path / "images" / "metadata.jsonl").write_text("\n".join(map(json.dumps, labelled)))
    small = "--steps 1 --rank 2 --previews 0 --batch-size 2 --no-cache"
    line = f"sft --data {tmp_path}/images --base {places['base']} --out {tmp_path}/aux {small}"
    output = CliRunner().invoke(app, line.split(), prog_name="cpo").output
    note = f"no row has a {other} attribute: stage 1 learns the {one} ones alone, stage 2 has"
    assert output.count(note) == output.count(f"has a {other} attribute") == 1, output
    assert f"nothing to {lost}" in output


def test_an_adapter_in_8_bits_is_read(places, tmp_path):
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file
    from cpo_nb.cli import app

    adapter = shutil.copytree(places["adapter"], tmp_path / "eight")
    file = adapter / "pytorch_lora_weights.safetensors"
    with safe_open(file, "pt") as opened:
        facts = opened.metadata()
    eight = {name: torch.full_like(x, 0.25) for name, x in load_file(file).items()}
    eight = {name: x.to(torch.float8_e4m3fn) for name, x in eight.items()}
    save_file(eight, file, metadata=facts)
    line = f"sample --base {places['base']} --adapter {adapter} --prompt x --steps 1"
    result = CliRunner().invoke(app, [*line.split(), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
