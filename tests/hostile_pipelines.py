"""Pipelines and adapters that somebody broke, on purpose or not: `mutations(seed, n)`.

A mutation is (name, function): the function changes a copy of a tiny Stable Diffusion pipeline's
folder. `adapter_mutations` does the same with an adapter's folder. `HARMLESS` names those that must
still load. A test asks for one clear `CpoError` of every other one.
"""

import json, math, os, random, shutil
from pathlib import Path
from typing import Callable, Iterator

import torch
from safetensors.torch import load_file, save_file

Mutation = tuple[str, Callable[[Path], None]]
DENOISER = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
WEIGHTS = (DENOISER, VAE, TEXT)
CONFIGS = (
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
)
# settings by config, each with values that no working pipeline has
SETTINGS = {
    "unet/config.json": dict(
        in_channels=[9, 0, -4, 10**9, None],
        out_channels=[8, 0, None],
        block_out_channels=[[0, 0], [-1, -1], [8], [10**5, 10**5], [], "x"],
        layers_per_block=[10**6, 0, -1, [1, 1, 1], "x"],
        transformer_layers_per_block=[10**7, 3],
        cross_attention_dim=[8, 10**9, None],
        attention_head_dim=[0, -1, "x"],
        norm_num_groups=[0, 3, 10**9],
        norm_eps=[math.nan, 0, -1.0, 5.0],
        sample_size=[None, 10**9, 0, -8, "x"],
        dropout=[math.nan, -1.0, 3.0],
        act_fn=["evil"],
        class_embed_type=["timestep"],
        addition_embed_type=["text_time"],
        quantization_config=[dict(quant_method="bitsandbytes")],
        down_block_types=[["DownBlock2D"], ["Evil", "Evil"]],
    ),
    "vae/config.json": dict(
        scaling_factor=[None, "x", 0, -1.0, math.nan, math.inf, [1.0], True],
        shift_factor=["x", math.nan],
        block_out_channels=[[], [8], [0, 0, 0]],
        latent_channels=[0, 3, 16, 10**9],
        layers_per_block=[10**6, -1],
        norm_num_groups=[0, 3],
        act_fn=["evil"],
    ),
    "text_encoder/config.json": dict(
        num_hidden_layers=[0, -1, 2, 10**9],
        hidden_size=[10**9, 8, 0, -1, "x"],
        vocab_size=[10**9, 1, 0, -5],
        max_position_embeddings=[8, 0, 10**9],
        num_attention_heads=[0, 3, -1],
        hidden_act=["evil", 5],
        layer_norm_eps=[math.nan, -1.0, 0.0],
        intermediate_size=[0, 33],
        attention_dropout=[math.nan, 7.0],
    ),
    "scheduler/scheduler_config.json": dict(
        num_train_timesteps=[0, -1, 10**12, None, "x", 2.5],
        beta_schedule=["evil", None],
        beta_start=[-0.1, math.nan, math.inf, "x"],
        beta_end=[-0.1, math.nan, 2.0],
        trained_betas=[[0.1], [math.nan] * 1000, "x"],
        prediction_type=[None, "evil", 3],
        timestep_spacing=["evil", None],
    ),
    "tokenizer/tokenizer_config.json": dict(
        model_max_length=[-1, 0, 1, 2, 78, None, 1e30, "x", math.nan],
        bos_token=["<unknown>"],
        pad_token=["<unknown>"],
    ),
    "model_index.json": dict(
        _class_name=[["a"], {}, None, 5, "FluxPipeline", "x" * 10_000, "\x1b[31mx"],
        unet=[["os", "system"], [None, None], "x", {}, ["diffusers", "AutoencoderKL"], []],
        vae=[["diffusers", "UNet2DConditionModel"], [None, None], ["diffusers", 5]],
        text_encoder=[
            [None, None],
            ["transformers", "T5EncoderModel"],
            ["transformers", "pipeline"],
        ],
        tokenizer=[[None, None], ["transformers", "T5Tokenizer"]],
        scheduler=[
            ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            ["diffusers", "UNet2DConditionModel"],
            [None, None],
        ],
    ),
}
JUNK = ["", "{", "[]", "5", "null", '"x"', "[" * 50_000, "\x00\xff", "1" * 5000, '{"a": 1e999999}']


def _set(folder: Path, file: str, key: str, value) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


def _write(folder: Path, file: str, text: str) -> None:
    (folder / file).write_bytes(text.encode("latin-1"))


def _replace(folder: Path, file: str, kind: str) -> None:
    "A file is gone, or a pipe, a folder, a device, a link to itself stands in its place."
    path = folder / file
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "zeros":
        path.symlink_to("/dev/zero")


def _tensors(folder: Path, file: str, change: Callable[[dict, str], None], k: int) -> None:
    path = folder / file
    state = load_file(path)
    names = sorted(n for n, t in state.items() if t.is_floating_point())
    change(state, names[k % len(names)])
    save_file(state, path, metadata={"format": "pt"})


def _drop(state, name):
    del state[name]


def _rename(state, name):
    state[f"{name}.other"] = state.pop(name)


def _add(state, name):
    state["evil.weight"] = state[name].clone()


def _reshape(state, name):
    state[name] = torch.zeros(*state[name].shape, 2)


def _integers(state, name):
    state[name] = state[name].to(torch.int8)


def _fill(value: float):
    def change(state, name):
        state[name] = torch.full_like(state[name], value)

    return change


CHANGES = dict(
    missing=_drop,
    renamed=_rename,
    spare=_add,
    shape=_reshape,
    int8=_integers,
    nan=_fill(math.nan),
    inf=_fill(-math.inf),
    huge=_fill(1e30),
)


def _cut(folder: Path, file: str, k: int) -> None:
    path = folder / file
    whole = path.read_bytes()
    path.write_bytes(whole[: k % len(whole)])


def _header(folder: Path, file: str, k: int) -> None:
    "Random bytes in the header's length or text."
    path, r = folder / file, random.Random(k)
    whole = bytearray(path.read_bytes())
    for _ in range(8):
        whole[r.randrange(8 if k % 3 else 200)] = r.randrange(256)
    path.write_bytes(whole)


def _index(folder: Path, k: int) -> None:
    "An index of several files that is wrong."
    component = folder / "unet"
    name = "diffusion_pytorch_model.safetensors"
    places = {key: name for key in load_file(component / name)}
    wrong = [
        {key: 5 for key in places},
        {key: f"../unet/{name}" for key in places},
        {key: "gone.safetensors" for key in places},
        dict(list(places.items())[1:]),
        places | {"evil": name},
        [],
    ][k % 6]
    (component / f"{name}.index.json").write_text(json.dumps(dict(weight_map=wrong)))


def _swap(folder: Path) -> None:
    "The weights of the VAE in the place of the UNet's."
    shutil.copy(folder / VAE, folder / DENOISER)


def every_mutation() -> list[Mutation]:
    "One mutation of each kind and value, the same list every time."
    out: list[Mutation] = []
    for file, settings in SETTINGS.items():
        for key, values in settings.items():
            for value in values:
                name = f"{file} {key}={str(value)[:40]}"
                out.append((name, lambda f, a=file, k=key, v=value: _set(f, a, k, v)))
    for file in (*CONFIGS, "model_index.json"):
        for i, text in enumerate(JUNK):
            out.append((f"{file} junk {i}", lambda f, a=file, t=text: _write(f, a, t)))
    for file in (*CONFIGS, *WEIGHTS, "model_index.json"):
        for kind in ("gone", "pipe", "folder", "loop", "zeros"):
            out.append((f"{file} {kind}", lambda f, a=file, k=kind: _replace(f, a, k)))
    for file in WEIGHTS:
        for what, change in CHANGES.items():
            for k in (0, 7, 13):
                name = f"{file} {what} {k}"
                out.append((name, lambda f, a=file, c=change, n=k: _tensors(f, a, c, n)))
        for k in (0, 5, 100, 1000):
            out.append((f"{file} cut {k}", lambda f, a=file, n=k: _cut(f, a, n)))
    for k in range(6):
        out.append((f"index {k}", lambda f, n=k: _index(f, n)))
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        out.append((f"{part} gone", lambda f, p=part: shutil.rmtree(f / p)))
    out.append(("vae's weights as unet's", _swap))
    return out


# values that the libraries take as their defaults, or that fit: these must load
HARMLESS = {
    "tokenizer/tokenizer_config.json bos_token=<unknown>",
}


def mutations(
    seed: int,  # of the choice
    n: int,  # how many
) -> Iterator[Mutation]:
    "n mutations: a choice from `every_mutation`, and settings and headers changed at random."
    r, known = random.Random(seed), every_mutation()
    for _ in range(n):
        kind = r.random()
        if kind < 0.7:
            yield r.choice(known)
        elif kind < 0.85:
            yield _random_setting(r)
        else:
            file, k = r.choice(WEIGHTS), r.randrange(10**6)
            yield f"{file} header {k}", lambda f, a=file, k=k: _header(f, a, k)


def _random_setting(r: random.Random) -> Mutation:
    "Any setting of any config, with a value of the wrong kind."
    file = r.choice(CONFIGS)
    k, value = r.randrange(1000), r.choice([None, -1, 0, 10**12, "evil", [], {}, [[]], math.nan])

    def change(folder):
        keys = sorted(k for k in json.loads((folder / file).read_text()) if k[0] != "_")
        _set(folder, file, keys[k % len(keys)], value)

    return f"{file} setting {k} = {value!r}", change


# adapters

LORA = "pytorch_lora_weights.safetensors"
NOTES = ["[]", "5", "null", '"x"', '{"info": "x"}', '{"info": []}', '{"info": 1}', '{"base": {}}']
NOTES += ['{"base": "FluxPipeline"}', '{"base_model": 5}', "[" * 50_000, "{", "\x00"]


def _half(folder: Path, which: str) -> None:
    state = load_file(folder / LORA)
    save_file({k: t for k, t in state.items() if which in k}, folder / LORA)


def _metadata(folder: Path, text: str) -> None:
    state = load_file(folder / LORA)
    save_file(state, folder / LORA, metadata=dict(format="pt", lora_adapter_metadata=text))


def _every(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    state = load_file(folder / LORA)
    save_file({k: change(t) for k, t in state.items()}, folder / LORA)


def adapter_mutations() -> list[Mutation]:
    "Mutations of an adapter's folder, the same list every time."
    out: list[Mutation] = []
    for i, text in enumerate(NOTES):
        out.append((f"adapter.json {i}", lambda f, t=text: _write(f, "adapter.json", t)))
    for text in ("[]", "5", '{"unet.evil": 1}', '{"unet.r": "x"}', '{"unet.lora_alpha": NaN}', "{"):
        out.append((f"metadata {text}", lambda f, t=text: _metadata(f, t)))
    for what, change in CHANGES.items():
        for k in (0, 7):
            out.append((f"{what} {k}", lambda f, c=change, n=k: _tensors(f, LORA, c, n)))
    for which in ("lora_A", "lora_B", "nothing"):
        out.append((f"only {which}", lambda f, w=which: _half(f, w)))
    out.append(("zeros", lambda f: _every(f, torch.zeros_like)))
    out.append(("integers", lambda f: _every(f, lambda t: t.to(torch.int32))))
    out.append(("complex", lambda f: _every(f, lambda t: t.to(torch.complex64))))
    for k in (0, 5, 100, 1000):
        out.append((f"cut {k}", lambda f, n=k: _cut(f, LORA, n)))
    for kind in ("gone", "pipe", "folder", "loop", "zeros"):
        out.append((f"file {kind}", lambda f, k=kind: _replace(f, LORA, k)))
    return out
