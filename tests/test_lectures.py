"""Lectures are slides, and nbconvert makes slides of them

Each has its slide types (nbdev_clean may not take them away), speaker notes, three questions and what is in
the papers."""

import json, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
LECTURES = sorted((ROOT / "lectures").glob("[0-9A][0-9]_*.ipynb"))


def test_there_are_lectures():
    assert "01_bpe.ipynb" in [p.name for p in LECTURES]


@pytest.mark.parametrize("path", LECTURES, ids=lambda p: p.stem)
def test_slides(path, tmp_path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    kinds = [c["metadata"].get("slideshow", {}).get("slide_type") for c in cells]
    assert 15 <= kinds.count("slide") <= 25, f"{kinds.count('slide')} slides"
    assert kinds.count("notes") >= kinds.count("slide") / 2
    titles = ["".join(c["source"]).splitlines()[0] for c, k in zip(cells, kinds) if k == "slide"]
    assert all(t.startswith("#") for t in titles) and len(set(titles)) == len(titles)
    assert sum("Question" in t for t in titles) == 3
    assert any("papers" in t for t in titles)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "nbconvert",
            "--to",
            "slides",
            "--no-input",
            "--output-dir",
            str(tmp_path),
            str(path),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    html = (tmp_path / f"{path.stem}.slides.html").read_text("utf-8")
    assert html.count("<section") > kinds.count("slide") and 'class="notes"' in html
