"The course's one scoreboard: a frozen text, a record of every rung, and chapters that print that record"

import hashlib, json, math, shutil, subprocess, sys
from pathlib import Path
import pytest
from conftest import ROOT
from nanochat.loader import to_batch, val_rows
from nanochat.loss import NGram, Scoreboard, bits_per_byte, board_text
from nanochat.runs import Damaged, UserError
from nanochat.tokenizer import Tokenizer

FOLDER = ROOT / "bench" / "scoreboard"
CARD = json.loads((FOLDER / "card.json").read_text())
RECORD = json.loads((ROOT / "bench" / "results" / "scoreboard.json").read_text())
COUNTED = {"uniform": 1, "unigram": 1, "bigram": 2, "trigram": 3}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ---- the frozen text ----


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_text_is_the_one_that_was_frozen(split):
    docs, card = board_text(split), CARD[split]
    lines = "".join(json.dumps(dict(text=doc)) + "\n" for doc in docs)
    assert sha256((FOLDER / f"{split}.jsonl.gz").read_bytes()) == card["sha256"]
    assert sha256(lines.encode()) == card["text_sha256"]
    assert len(docs) == card["documents"] and sum(len(doc.encode()) for doc in docs) == card["bytes"]
    assert RECORD["text"] == CARD, "the record was made on another text: python bench/scoreboard.py"


def test_what_is_scored_was_not_learned_from():
    assert not set(board_text("train")) & set(board_text("val"))


def test_the_tokenizer_loads():
    tok = Tokenizer.load(FOLDER / "tokenizer")
    written = (FOLDER / "tokenizer" / "tokenizer.json").read_bytes()
    assert sha256(written) == CARD["tokenizer"]["sha256"]
    assert tok.vocab_size == CARD["tokenizer"]["vocab_size"]
    doc = board_text("val")[0]
    assert tok.decode(tok.encode(doc)) == doc


def installed(monkeypatch, folder):
    "As if the library lay in a folder"
    monkeypatch.setattr("nanochat.loss.files", lambda package: folder / "nanochat")


def test_without_a_checkout_one_line_says_so(monkeypatch, tmp_path):
    installed(monkeypatch, tmp_path)
    for call in (lambda: board_text("val"), lambda: Scoreboard.read(until=6)):
        with pytest.raises(UserError, match="comes with a checkout of the course") as e:
            call()
        assert "\n" not in str(e.value)


def test_a_changed_text_is_refused(monkeypatch, tmp_path):
    shutil.copytree(FOLDER, tmp_path / "bench" / "scoreboard")
    installed(monkeypatch, tmp_path)
    with (tmp_path / "bench" / "scoreboard" / "val.jsonl.gz").open("ab") as f:
        f.write(b"x")
    assert len(board_text("train")) == CARD["train"]["documents"]
    with pytest.raises(Damaged, match="not the text that was frozen"):
        board_text("val")


# ---- the record ----


def test_the_record_is_whole():
    for line in RECORD["rungs"]:
        for run in filter(None, (line, line["equal_time"])):
            assert 0 < run["bits_per_byte"] < 8 and run["tokens"] >= 0 and run["seconds"] >= 0
            tokens = [point["tokens"] for point in run["curve"]] if line["chapter"] > 6 else []
            assert tokens == sorted(tokens)
            if tokens:
                last = run["curve"][-1]
                assert last["tokens"] == run["tokens"] and last["bits_per_byte"] == run["bits_per_byte"]
    assert len({line["name"] for line in RECORD["rungs"]}) == len(RECORD["rungs"])
    chapters = [line["chapter"] for line in RECORD["rungs"]]
    assert chapters == sorted(chapters) and chapters[0] == 6
    racing = [line for line in RECORD["rungs"] if line["equal_time"]]
    tier = [line for line in RECORD["rungs"] if not line["equal_time"]]
    assert [line["chapter"] for line in tier] in ([], [16, 20, 24]), "the tier has all of its lines, or none"
    assert all(line["val_documents_read"] == 0 for line in tier), "what is scored was learned from"
    learned = [line for line in racing if line["chapter"] > 6]
    assert {line["tokens"] for line in learned} <= {RECORD["equal_tokens"]}
    for line in learned:
        assert line["equal_time"]["seconds"] == pytest.approx(RECORD["equal_seconds"], rel=0.15)


def test_counted_lines_come_out_again():
    tok = Tokenizer.load(FOLDER / "tokenizer")
    train, val = (
        val_rows(iter(board_text(split)), tok.encode, tok.bos, 256) for split in ("train", "val")
    )
    batches, board = [to_batch(val, 257)], Scoreboard.read(until=6)
    assert list(board) == list(COUNTED) and board.n_bytes == CARD["val"]["bytes"]
    for name, order in COUNTED.items():
        model = NGram(order, tok.vocab_size)
        if name != "uniform":
            model.fit(train)
        assert math.isclose(
            bits_per_byte(model.losses, batches, tok.token_bytes()), board[name], rel_tol=1e-9
        )


def test_read_shows_what_was_reached_until_a_chapter():
    whole = Scoreboard.read(until=99)
    assert dict(whole) == {line["name"]: line["bits_per_byte"] for line in RECORD["rungs"]}
    for chapter in (5, 6, 7, 10):
        board = Scoreboard.read(until=chapter)
        assert {rung.chapter for rung in board.rungs} <= set(range(chapter + 1))
        assert list(board) == [rung.name for rung in board.rungs] == list(whole)[: len(board)]
    table = whole._repr_markdown_().splitlines()
    assert len(table) == 2 + len(whole) and {line.count("|") for line in table} == {6}


def test_a_readers_own_line_joins_the_table():
    board = Scoreboard.read(until=6)
    with pytest.raises(UserError, match="take the same validation text"):
        tok = Tokenizer.load(FOLDER / "tokenizer")
        rows = val_rows(iter(board_text("val")[:5]), tok.encode, tok.bos, 256)
        board.add("mine", NGram(1, tok.vocab_size).losses, [to_batch(rows, 257)], tok.token_bytes())
    board["mine"] = 1.234
    assert "| | mine | | 1.234 | |" in board._repr_markdown_()


def test_picture():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    board = Scoreboard.read(until=99)
    fig, axes = plt.subplots(1, 2)
    board.draw(*axes)
    learned = [rung.name for rung in board.rungs if rung.curve]
    assert axes[1].get_legend_handles_labels()[1] == learned
    plt.close(fig)


# ---- what the chapters print ----

HEAD = Scoreboard.read(until=99).course_table().splitlines()[0]


def printed_boards(path: Path) -> list:
    "The course's board, wherever a chapter's saved outputs show it"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [out for cell in cells for out in cell.get("outputs", [])]
    tables = ["".join(out.get("data", {}).get("text/markdown", "")) for out in outputs]
    return [table for table in tables if table.startswith(HEAD)]


@pytest.mark.parametrize("chapter", [6, 7, 8, 9, 10, 14, 16, 20, 24])
def test_a_chapter_prints_the_record(chapter):
    path = next((ROOT / "nbs").glob(f"{chapter:02}_*.ipynb"))
    tables = printed_boards(path)
    if not tables:
        assert chapter != 6, "chapter 06 opens the scoreboard"
        pytest.skip(f"chapter {chapter:02} shows no scoreboard yet")
    for table in tables:
        assert table == Scoreboard.read(until=chapter).course_table(), f"run {path.name} again"


@pytest.mark.parametrize("more", ["--counted", "--run=x"])
def test_a_quick_look_never_touches_the_record(tmp_path, more):
    command = [sys.executable, str(ROOT / "bench" / "scoreboard.py"), "--quick", more]
    done = subprocess.run([*command, "--out", str(tmp_path / "board.json")], capture_output=True, text=True)
    assert done.returncode == 2 and "keeps nothing" in done.stderr and not list(tmp_path.iterdir())


def test_a_line_of_no_bits_and_a_line_of_the_courses_name():
    free = Scoreboard(perfect=0.0, other=1.0)
    assert "| other | 1.000 |  |" in free._repr_markdown_()
    with pytest.raises(UserError, match="choose another name"):
        Scoreboard.read(until=6).add("uniform", None, [], None)
