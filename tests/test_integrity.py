"Nothing loads by half: broken pipelines and adapters end in one clear error, in load and in plan."

import json, logging, shutil, signal, warnings
from pathlib import Path

import pytest
import torch

import hostile_pipelines
from cpo_nb.backbone import load_backbone
from cpo_nb.core import CpoError, torch_rng
from cpo_nb.costs import bare_backbone
from cpo_nb.flux import tiny_flux
from cpo_nb.pipelines import tiny_pipeline
from cpo_nb.sampling import sample
from cpo_nb.sd3 import tiny_sd3
from cpo_nb.sdxl import tiny_sdxl
from cpo_nb.shipped import adapter_folder

EVERY = hostile_pipelines.every_mutation()
ADAPTERS = hostile_pipelines.adapter_mutations()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("whole") / "pipe")


@pytest.fixture(scope="module")
def backbone(whole):
    return load_backbone(whole)


@pytest.fixture(scope="module")
def lora(whole, tmp_path_factory):
    bb = load_backbone(whole)
    bb.add_adapter("x", 2)
    for i, p in enumerate(bb.adapter_parameters("x").values()):
        p.data += 0.1 * torch.randn(p.shape, generator=torch_rng(i, "integrity"))
    return bb.save_adapter("x", tmp_path_factory.mktemp("run") / "adapter")


@pytest.fixture(autouse=True)
def in_time():
    "No input may hang: twenty seconds are enough for any of these."

    def late(*_):
        raise SystemError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refused(call):
    "The message of the `CpoError` that a call raises."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(CpoError) as error:
            call()
    assert len(str(error.value)) < 4000
    return str(error.value)


def broken(whole, tmp_path, name):
    "A copy of the pipeline after the named mutation."
    folder = shutil.copytree(whole, tmp_path / "pipe")
    dict(EVERY)[name](folder)
    return folder


# of each kind one; tests/test_hostile.py takes many more at random
NAMED = {
    "text_encoder/model.safetensors missing 0": "1 tensor of its weights: missing",
    "text_encoder/model.safetensors spare 0": "belong to no layer",
    "unet/diffusion_pytorch_model.safetensors missing 7": "1 tensor of its weights: missing",
    "unet/diffusion_pytorch_model.safetensors int8 0": "no floating-point numbers",
    "unet/diffusion_pytorch_model.safetensors shape 0": "of another shape",
    "vae's weights as unet's": "of its weights: missing",
    "unet/config.json in_channels=9": "",
    "unet/config.json layers_per_block=1000000": "more than 40,000",
    "unet/config.json sample_size=None": "sample_size None",
    "unet/config.json norm_num_groups=0": "unet: ",
    "text_encoder/config.json num_hidden_layers=0": "belong to no layer",
    "text_encoder/config.json num_hidden_layers=1000000000": "too large",
    "text_encoder/config.json hidden_act=evil": "text_encoder: ",
    "vae/config.json scaling_factor=0": "must be positive",
    "vae/config.json scaling_factor=nan": "not a finite number",
    "vae/config.json block_out_channels=[]": "vae: ",
    "scheduler/scheduler_config.json num_train_timesteps=1000000000000": "too large",
    "scheduler/scheduler_config.json beta_schedule=evil": "scheduler: ",
    "tokenizer/tokenizer_config.json model_max_length=78": "reads 77 tokens",
    "tokenizer/tokenizer_config.json model_max_length=x": "tokenizer: ",
    "model_index.json _class_name=['a']": "is not supported",
    "model_index.json unet=['os', 'system']": "is not known here",
    "model_index.json junk 6": "nested too deeply",
    "unet/config.json pipe": "no ordinary file",
    "unet/diffusion_pytorch_model.safetensors pipe": "no ordinary file",
    "index 1": "unet: ",
    "index 3": "names other tensors",
    "tokenizer gone": "tokenizer: its folder is missing",
}


@pytest.mark.parametrize("name", NAMED)
def test_a_broken_pipeline_is_refused(name, whole, tmp_path):
    folder = broken(whole, tmp_path, name)
    assert NAMED[name] in refused(lambda: load_backbone(folder))


@pytest.mark.parametrize("name", list(NAMED)[::6])
def test_plan_says_the_same(name, whole, tmp_path):
    folder = broken(whole, tmp_path, name)
    assert NAMED[name] in refused(lambda: bare_backbone(folder))


@pytest.mark.parametrize(
    "file, kind", [*zip(hostile_pipelines.WEIGHTS, ("nan 0", "inf 7", "huge 13"))]
)
def test_weights_that_are_not_finite_are_refused(file, kind, whole, tmp_path):
    folder = broken(whole, tmp_path, f"{file} {kind}")
    assert "with values that are not finite" in refused(lambda: load_backbone(folder))


def test_an_inpainting_model_is_named(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "pipe")
    hostile_pipelines._set(folder, "unet/config.json", "in_channels", 9)

    def widen(state, _):
        weight = state["conv_in.weight"]
        state["conv_in.weight"] = torch.randn(len(weight), 9, 3, 3)

    hostile_pipelines._tensors(folder, hostile_pipelines.DENOISER, widen, 0)
    for call in (lambda: load_backbone(folder), lambda: bare_backbone(folder)):
        assert "reads 9 channels and its VAE gives 4: an inpainting model" in refused(call)


def test_only_the_fp16_variant_is_refused_by_plan_as_well(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "pipe")
    for file in (folder / name for name in hostile_pipelines.WEIGHTS):
        file.rename(file.with_suffix(".fp16.safetensors"))
    for call in (lambda: load_backbone(folder), lambda: bare_backbone(folder)):
        assert "no weights under the plain name" in refused(call)


@pytest.mark.parametrize(
    "make, file",
    [
        (tiny_sdxl, "text_encoder_2/model.safetensors"),
        (tiny_sd3, "text_encoder_3/model.safetensors"),
        (tiny_flux, "transformer/diffusion_pytorch_model.safetensors"),
    ],
)
def test_every_family_misses_a_tensor(make, file, tmp_path):
    folder = make(tmp_path / "pipe")
    hostile_pipelines._tensors(folder, file, hostile_pipelines._drop, 3)
    assert "1 tensor of its weights: missing" in refused(lambda: load_backbone(folder))


def test_stable_diffusion_3_without_t5_loads_and_samples(tmp_path):
    folder = tiny_sd3(tmp_path / "pipe")
    for name in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(folder / name)
        hostile_pipelines._set(folder, "model_index.json", name, [None, None])
    bb = load_backbone(folder)
    assert sample(bb, ["a boat"], [0], steps=1).shape == (1, 64, 64, 3)


def test_a_pipeline_of_the_hub_is_checked_after_the_download(whole):
    from huggingface_hub.constants import HF_HUB_CACHE  # a temporary folder, see conftest.py

    stored = Path(HF_HUB_CACHE) / "models--tiny--sd"
    shutil.rmtree(stored, ignore_errors=True)
    snapshot = shutil.copytree(whole, stored / "snapshots" / ("a" * 40))
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text("a" * 40)
    assert load_backbone("tiny/sd").name == "tiny/sd"
    hostile_pipelines._tensors(snapshot, hostile_pipelines.TEXT, hostile_pipelines._drop, 3)
    assert "text_encoder: 1 tensor" in refused(lambda: load_backbone("tiny/sd"))


@pytest.mark.parametrize("name", [name for name, _ in ADAPTERS])
def test_a_broken_adapter_is_refused_and_leaves_nothing(name, lora, backbone, tmp_path):
    folder = shutil.copytree(lora, tmp_path / "adapter")
    dict(ADAPTERS)[name](folder)
    refused(lambda: backbone.load_adapter(folder, "broken"))
    assert backbone.adapters == {} and not getattr(backbone.denoiser, "peft_config", {})


def test_a_run_s_folder_stands_for_its_adapter(lora, whole):
    bb = load_backbone(whole)
    bb.load_adapter(lora.parent, "run")
    assert list(bb.adapters) == ["run"]
    assert adapter_folder(lora.parent) == lora
    note = json.loads((lora / "adapter.json").read_text())
    assert note["base"] == "StableDiffusionPipeline"


def test_an_adapter_of_another_width_finds_no_place(lora, tmp_path):
    bb = load_backbone(tiny_sdxl(tmp_path / "pipe"))
    (folder := shutil.copytree(lora, tmp_path / "adapter")).joinpath("adapter.json").unlink()
    assert "does not fit this base" in refused(lambda: bb.load_adapter(folder, "x"))


def test_a_library_s_word_about_drawn_weights_is_never_silenced(whole, tmp_path, caplog):
    from cpo_nb.integrity import quiet_libraries
    from transformers import CLIPTextModel

    folder = broken(whole, tmp_path, "text_encoder/model.safetensors missing 0")
    with quiet_libraries(), caplog.at_level("WARNING"):
        logger = logging.getLogger("transformers")
        logger.propagate = True
        CLIPTextModel.from_pretrained(folder / "text_encoder")
        logger.propagate = False
    assert "MISSING" in caplog.text or "newly initialized" in caplog.text
