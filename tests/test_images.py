"Files of every kind become the same pixels, and what is done to them is told."

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from cpo_nb.batches import noisy_batch, training_set
from cpo_nb.frozen import frozen_predictions
from cpo_nb.core import error_from
from cpo_nb.criteria import load_criteria
from cpo_nb.images import image_feature, rgb_image, size_conditions
from cpo_nb.job import Job
from cpo_nb.sdxl import StableDiffusionXLBackbone, tiny_sdxl
from cpo_nb.backbone import load_backbone

y, x = np.mgrid[0:40, 0:40]
PIXELS = np.dstack([40 + 5 * x, 60 + 2 * y, 220 - 2 * x]).astype("uint8")
UPRIGHT = np.rot90(PIXELS, -1)[..., [1, 0, 2]]  # turned by EXIF 6, red and green exchanged
TREE = """
id: t
name: T
children: [{id: light, name: L, positive: warm light, negative: cold light, definition: d}]
"""


def _swapped_profile() -> bytes:
    "sRGB with the red and the green primary exchanged."
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in ((b"rXYZ", b"tmp1"), (b"gXYZ", b"rXYZ"), (b"tmp1", b"gXYZ")):
        data = data.replace(old, new)
    return data


def _encoded(image: Image.Image, fmt: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, fmt, **options)
    return out.getvalue()


def _folder(path, files: dict[str, bytes]):
    "A folder with a row for every file."
    path.mkdir(exist_ok=True)
    (path / "tree.yaml").write_text(TREE)
    for name, data in files.items():
        (path / name).write_bytes(data)
    rows = [dict(file_name=n, caption="a", positive=["light"], negative=[]) for n in files]
    (path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def _load(path, **options):
    "Rows by name of the file, and the lines that a command prints."
    lines = []
    job = Job(data=str(path), criteria=str(path / "tree.yaml"), **options)
    tree = load_criteria(job.criteria)
    splits = job.rows(tree, lines.append)
    return [row["image"] for part in splits.values() for row in part], "\n".join(lines)


@pytest.mark.parametrize(
    "fmt, options, tolerance",
    [
        ("PNG", {}, 0),
        ("TIFF", {}, 0),
        ("WEBP", dict(lossless=True), 0),
        ("JPEG", dict(quality=95, subsampling=0), 5),
        ("AVIF", dict(quality=95, subsampling="4:4:4"), 5),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_photograph_is_upright_and_srgb(fmt, options, tolerance):
    Image.init()
    if fmt not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {fmt}")
    exif = Image.Exif()
    exif[0x0112] = 6
    data = _encoded(
        Image.fromarray(PIXELS), fmt, exif=exif, icc_profile=_swapped_profile(), **options
    )
    image = image_feature().decode_example(dict(path=None, bytes=data))  # as a dataset reads it
    np.testing.assert_allclose(np.asarray(image, int), UPRIGHT, atol=tolerance)
    assert image.info == {} and image.mode == "RGB"


def test_what_is_done_to_images_is_told(tmp_path):
    turn = Image.Exif()
    turn[0x0112] = 6
    whole = Image.fromarray(np.tile(PIXELS, (2, 2, 1)))
    almost = whole.convert("RGBA")
    almost.putpixel((0, 0), (0, 0, 0, 254))
    plain = {f"{i}.png": _encoded(whole.rotate(i), "PNG") for i in range(12)}
    pixels, lines = _load(_folder(tmp_path / "plain", plain))
    assert len(pixels) == 12 and "images:" not in lines and "crop:" not in lines

    changed = plain | {
        "turned.png": _encoded(whole, "PNG", exif=turn),
        "profile.png": _encoded(whole, "PNG", icc_profile=_swapped_profile()),
        "broken.png": _encoded(whole, "PNG", icc_profile=b"x" * 200),
        "almost.png": _encoded(almost, "PNG"),
        "cmyk.jpg": _encoded(whole.convert("CMYK"), "JPEG"),
        "tall.png": _encoded(whole.crop((0, 0, 30, 80)), "PNG"),
    }
    _, lines = _load(_folder(tmp_path / "changed", changed))
    for said in (
        "1 turned upright",
        "1 converted to sRGB",
        "1 with an unreadable colour profile, taken as sRGB (e.g. broken.png)",
        "1 in CMYK without a profile",
        "1 nearly opaque, alpha dropped (e.g. almost.png)",
        "crop: 1 of 18 images lose more than 20 %",
        "tall.png, 30 x 80, loses 62 %",
    ):
        assert said in lines, lines
    images, lines = _load(tmp_path / "changed", crop="pad", background="white")
    assert "crop:" not in lines and "1 flattened" in lines
    assert {image.size for image in images} == {(80, 80)}


def test_a_bad_image_is_named_for_what_it_is(tmp_path):
    good = Image.fromarray(PIXELS)
    ink = good.convert("RGBA")
    ink.putalpha(128)
    files = {
        "page.jpg": b"<!DOCTYPE html><html>404</html>",
        "phone.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "ink.png": _encoded(ink, "PNG"),
        "dot.png": _encoded(good.crop((0, 0, 1, 1)), "PNG"),
        "large.png": _encoded(Image.new("1", (3000, 1000)), "PNG"),
    }
    path = _folder(tmp_path / "bad", files)
    text = str(error_from(lambda: _load(path, max_pixels=2_000_000)))
    assert "0x" not in text
    for said in ("an HTML page", "an HEIC image", "alpha 128 of 255", "1 x 1", "3 megapixels"):
        assert said in text, text
    assert rgb_image(files["large.png"]).size == (3000, 1000)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory) -> StableDiffusionXLBackbone:
    return load_backbone(tiny_sdxl(tmp_path_factory.mktemp("sdxl")))


def test_sdxl_is_told_the_true_size_and_crop(sdxl, tmp_path):
    path = _folder(tmp_path / "t", {})
    tree, size = load_criteria(path / "tree.yaml"), sdxl.resolution
    told = []

    def remember(module, args, kwargs):
        told.append(kwargs["added_cond_kwargs"]["time_ids"].tolist())

    def conditions(images, folder=None):
        n = len(images)
        columns = dict(caption=["a"] * n, positive=[["light"]] * n, negative=[[]] * n)
        data = training_set(dict(image=images, **columns), sdxl, folder=folder)
        d = noisy_batch(sdxl, data[np.arange(n)], 0, 0, 0.0)
        told.clear()
        cond = d.told(sdxl.encode_prompts(d.captions))
        frozen_predictions(sdxl, data, d, tree, cond, None, None, precision="fp32")
        return data, told

    square, wide = Image.new("RGB", (size, size)), Image.new("RGB", (3 * size, 2 * size))
    hook = sdxl.denoiser.register_forward_pre_hook(remember, with_kwargs=True)
    try:
        default = [size, size, 0, 0, size, size]
        data, seen = conditions([square, square])
        assert data.sizes is None and seen == [[default] * 2, [default] * 2]
        own = [*size_conditions(3 * size, 2 * size, size), size, size]
        assert own == [2 * size, 3 * size, 0, size // 4, size, size]
        data, seen = conditions(
            [square, wide], tmp_path / "store"
        )  # z_w alone: no negatives; then reference
        assert seen == [[default, own], [default, own]]
    finally:
        hook.remove()
    alone = training_set(
        dict(
            image=[square, square], caption=["a"] * 2, positive=[["light"]] * 2, negative=[[]] * 2
        ),
        sdxl,
    )
    assert torch.equal(alone.latents[0], data.latents.half()[0]) and alone.hash != data.hash
    assert data[np.array([1])].sizes.tolist() == [own[:4]]
