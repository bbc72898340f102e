"The map of the course is true: every chapter is on it under its own title, no link is broken, code is folded"

import json
import re
from conftest import ROOT

NBS = ROOT / "nbs"
CELLS = json.loads((NBS / "index.ipynb").read_text(encoding="utf-8"))["cells"]
BOOKS = sorted(NBS.glob("[0-9A][0-9]_*.ipynb"))


def saved(kind):
    "What the map shows of one kind: the road is text/html, the tables are text/markdown"
    data = [out.get("data", {}) for cell in CELLS for out in cell.get("outputs", [])]
    return "\n".join("".join(d[kind]) for d in data if kind in d)


def title_and_promise(path):
    "The two lines that open a notebook"
    source = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    return re.match(r"# (.+)(?:\n+> (.+))?", source).groups()


def test_every_chapter_is_on_the_map():
    road, tables = saved("text/html"), saved("text/markdown")
    for path in BOOKS:
        title, promise = title_and_promise(path)
        stale = f"{path.name}: the map is out of date; execute nbs/index.ipynb and save it"
        assert f'href="{path.name}"' in road, stale
        assert f"[{title}]({path.name}) | {promise or ''} |" in tables, stale


def test_every_chapter_is_in_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in BOOKS:
        title, promise = title_and_promise(path)
        row = f"| {path.name[:2]} | [{title}](nbs/{path.name}) | {promise or ''} |"
        assert row in readme, f"README.md's table of chapters lacks: {row}"


def test_no_link_is_broken():
    texts = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    shown = texts + saved("text/markdown") + saved("text/html")
    links = re.findall(r"\]\(([^)]+)\)", shown) + re.findall(r'href="([^"]+)"', shown)
    assert len(links) > 3 * len(BOOKS)
    assert not [link for link in links if "://" not in link and not (NBS / link).exists()]


def test_a_reader_sees_no_code():
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert code and all(cell["metadata"].get("jupyter", {}).get("source_hidden") for cell in code)
