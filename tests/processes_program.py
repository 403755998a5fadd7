"""What the tests of several processes start by `accelerate launch`, with FOLDER and WHAT...

For each WHAT, trains a tiny random pipeline and writes where its adapter began and ended.
"""

import atexit, json, os, signal, sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from cpo_nb import methods  # noqa: F401  AlignConfig knows all of them
from cpo_nb.align import AlignConfig, align
from cpo_nb.atelier import sample_scenes
from cpo_nb.painter import paint, painted_columns
from cpo_nb.backbone import load_backbone
from cpo_nb.bank import BankConfig
from cpo_nb.core import CpoError, processes, torch_rng
from cpo_nb.criteria import load_criteria
from cpo_nb.sampling import sample
from cpo_nb.sft import SftConfig, sft
from cpo_nb.batches import training_set
from cpo_nb.training import Execution, TrainConfig


def main(what: str, folder: Path) -> None:
    torch.set_num_threads(1)
    family, method = what.split("-")[:2]
    if method == "annotate":
        return annotated(what, folder)
    if method == "evaluate":
        return evaluated(what, folder)
    bb = load_backbone(folder / family, resolution=64)
    rows = painted_columns(sample_scenes(24, 0))
    out = folder / f"{what}-{processes().count}"
    stores = folder / f"stores-{what}-{processes().count}"
    data = training_set(rows, bb, folder=stores)  # shared out between the processes
    loop = TrainConfig(steps=10, batch_size=4, lr=1e-2, warmup=2, checkpoint_every=4)
    if "checkpointing" in what:
        bb.checkpoint_activations()
    seen = []

    def on_log(row):
        seen.append(row)
        if "dies" in what and row["step"] == 5:
            raise RuntimeError("this process has died")
        if "stops" in what and row["step"] == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    def die(step):
        if "second" in what and processes().rank == 1 and step == 4:
            raise RuntimeError("the second process has died")

    kw = dict(
        validation=data[np.arange(8)],
        prompts_folder=stores,
        on_log=on_log,
        on_checkpoint=die,
        execution=Execution(micro_batch=1 if "passes" in what else None),
    )
    tree = load_criteria("painting")
    if method == "sft":
        name = "auxiliary"
        sft(bb, data, tree, out, SftConfig(loop, rank=2, precision="fp32", prompt_variants=2), **kw)
    else:
        name = "policy"
        bb.add_adapter("auxiliary", rank=2, seed=1)
        for i, p in enumerate(bb.adapter_parameters("auxiliary").values()):
            p.data += 0.05 * torch.randn(p.shape, generator=torch_rng(i, "aux"))
        bank = (
            BankConfig(2, folder=folder / f"bank-{what}-{processes().count}", batch_size=4)
            if "bank" in what
            else None
        )
        align(
            bb,
            data,
            tree,
            out,
            AlignConfig(loop, method, rank=2, precision="fp32"),
            bank=bank,
            **kw,
        )
    kept = {k: p.detach().contiguous() for k, p in bb.adapter_parameters(name).items()}
    save_file(kept, folder / f"{what}-of-{processes().count}-rank{processes().rank}.safetensors")
    image = sample(bb, ["a red boat"], [0], steps=2, adapter=name, precision="fp32")
    local = sum(
        p.to_local().numel() if hasattr(p, "to_local") else p.numel()
        for n, p in bb.denoiser.named_parameters()
        if ".lora_" not in n
    )
    (folder / f"{what}-of-{processes().count}-rank{processes().rank}.json").write_text(
        json.dumps(
            dict(
                count=processes().count,
                logged=len(seen),
                sharded=bb.sharded,
                local=local,
                image=int(image.astype(int).sum()),
            )
        )
    )


def annotated(what: str, folder: Path) -> None:
    "Fit an annotator to pictures, label others, and say how many images this process measured."
    from cpo_nb import annotate, measures

    seen, own = [], measures._chunk_values

    def counted(job):
        seen.append(len(job[0]))
        return own(job)

    measures._chunk_values = counted
    fitted = annotate.Annotator.fit(list(paint(sample_scenes(25, 0))), workers="launched")
    values = fitted.values(paint(sample_scenes(11, 1)), workers="launched")
    try:
        measures.measure([np.zeros((4, 4, 3), np.uint8)] * 3, workers="launched")
        problem = ""
    except CpoError as e:
        problem = str(e)
    (folder / f"{what}-of-{processes().count}-rank{processes().rank}.json").write_text(
        json.dumps(
            dict(
                low=fitted.low,
                values=values.tolist(),
                reference=len(fitted.reference),
                measured=sum(seen),
                problem=problem,
            )
        )
    )


def evaluated(what: str, folder: Path) -> None:
    "Evaluate a policy by the command, then again with other settings, which is refused."
    from typer.testing import CliRunner
    from cpo_nb.cli import app

    (folder / "prompts.txt").write_text("a red boat\nan oak\n")
    out = folder / f"{what}-{processes().count}"
    line = f"evaluate --base {folder}/sd --adapter {folder}/sd-cpo-1/adapter --seeds 0,1,2,3,4"
    line += f" --prompts {folder}/prompts.txt --batch-size 2 --judge measures --scores none"
    line += f" --resolution 64 --out {out} --steps"
    done = [CliRunner().invoke(app, [*line.split(), n], prog_name="cpo") for n in ("1", "2")]
    said = [dict(code=d.exit_code, text=d.output) for d in done]
    path = folder / f"{what}-of-{processes().count}-rank{processes().rank}.json"
    path.write_text(json.dumps(said))


def at_end(folder: Path, first: str) -> None:
    "Say whether the group of processes is still there."
    count, rank = os.environ.get("WORLD_SIZE", 1), os.environ.get("RANK", 0)
    path = folder / f"end-{first}-of-{count}-rank{rank}.json"
    path.write_text(json.dumps(torch.distributed.is_initialized()))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    atexit.register(at_end, folder, sys.argv[2])  # called after what is registered later
    for what in sys.argv[2:]:
        main(what, folder)
