"Exports that a real Label Studio wrote (tests/studio/exports), read without it."

import json
from pathlib import Path

import pytest

from cpo_nb.comparison import read_comparisons, win_rate
from cpo_nb.core import error_from
from cpo_nb.criteria import load_criteria, parse_criteria
from cpo_nb.studio import read_answers

HERE = Path(__file__).resolve().parent / "studio"
EXPORTS = HERE / "exports"
TREE = (HERE / "tree.yaml").read_text()
SUBMITTED = {"light/edge": 1, "light/glow": -1, "accord": 0}
EDITED = {"light/edge": -1, "light/glow": 0}  # of Light all was looked at


@pytest.fixture(scope="module")
def files():
    "The images' hashes, as the tasks carry them."
    tasks = json.loads((EXPORTS / "answers.json").read_text())
    return {t["data"]["file_name"]: t["data"]["sha256"] for t in tasks}


@pytest.mark.parametrize("form, skipped, suggested", [("answers", 1, 2), ("answers-min", 0, 0)])
def test_answers_of_both_forms_are_the_same(files, form, skipped, suggested):
    found = read_answers(EXPORTS / f"{form}.json", files, parse_criteria(TREE))
    by_image = {}
    for a in found.annotations:
        by_image.setdefault(a.image, {})[a.pair] = a.value
    assert by_image == {files["0.png"]: SUBMITTED, files["2.png"]: EDITED}
    assert found.people == ("studio-1",)
    assert (found.looks, found.skipped, found.suggested) == (2, skipped, suggested)


def test_an_export_of_another_tree_is_refused(files):
    told = error_from(
        lambda: read_answers(EXPORTS / "answers.json", files, load_criteria("painting"))
    )
    assert len([p for p in told.problems if "of the tree 'oaks'" in p]) == 2
    assert any("'light/edge' is no pair" in p for p in told.problems)


def test_images_that_vanished_are_named(files):
    left = {"2.png": files["2.png"]}
    export, tree = EXPORTS / "answers.json", parse_criteria(TREE)
    assert "image '0.png' is not here" in str(error_from(lambda: read_answers(export, left, tree)))
    found = read_answers(export, left, tree, on_error="skip")
    assert len(found.annotations) == 2 and len(found.left_out) == 1


def test_a_blind_comparison_comes_back():
    found = read_comparisons(EXPORTS / "verdicts.json", EXPORTS / "key.json")
    rate = win_rate(found)
    assert (rate["wins"], rate["ties"], rate["losses"], rate["rate"]) == (1, 1, 1, 0.5)
    assert [c.verdict for c in found] == ["policy", "equal", "base"]
