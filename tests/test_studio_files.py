"Exports that a real Label Studio wrote, read without it: tests/studio/exports.json says what was answered."

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cpo_nb.annotations import read_annotations
from cpo_nb.cli import app
from cpo_nb.comparison import read_comparisons, win_rate
from cpo_nb.criteria import load_criteria
from cpo_nb.studio import read_answers

HERE = Path(__file__).resolve().parent / "studio" / "exports"
ANNA = {"light/edge": 1, "light/glow": -1, "accord": 0}
EDITED = {"light/edge": -1, "light/glow": 0}


@pytest.fixture(scope="module")
def files():
    "The images' hashes, as the tasks carry them."
    tasks = json.loads((HERE / "answers.json").read_text())
    return {t["data"]["file_name"]: t["data"]["sha256"] for t in tasks} | {"3.png": "d" * 64}
