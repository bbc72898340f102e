"""The tokenizer against tiktoken, Hugging Face's libraries and hostile text

Equal ids on 388 languages, nothing forged, nothing lost, damage named."""

import base64
import gzip
import json
import lzma
import math
import random
import subprocess
import sys
import pytest
from hypothesis import given, settings, strategies as st
from conftest import ROOT, environment
from nanochat import bpe
from nanochat.runs import Damaged, UserError
from nanochat.tokenizer import (
    LONGEST_BLANK,
    SPECIAL_TOKENS,
    TASK,
    StreamDecoder,
    Tokenizer,
    byte_letters,
    halves,
    tasks_of,
)
from test_bpe import HOSTILE, text

NAMES = [
    *SPECIAL_TOKENS,
    "<|",
    "|>",
    "<|bos|",
    "<|bos<|user_end|>|>",
    "＜|bos|＞",
    "<\u200b|bos|>",
    "<|endoftext|>",
    "<s>",
    "[INST]",
    "<|im_start|>",
]
poisoned = st.lists(
    st.one_of(st.sampled_from(NAMES), st.sampled_from(HOSTILE), st.text(max_size=3)), max_size=12
).map("".join)
many = settings(max_examples=200, deadline=None)


def languages(shared):
    with lzma.open(shared / "tokenizer_text" / "udhr2.jsonl.xz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return {row["file"]: row["text"] for row in rows}


def all_texts(shared):
    "Every text of the folder, by name"
    d = shared / "tokenizer_text"
    yield from languages(shared).items()
    for i, s in enumerate(json.loads((d / "blns.json").read_text("utf-8"))):
        yield f"naughty string {i}", s
    yield "blns.txt", (d / "blns.txt").read_text("utf-8")
    yield "emoji", gzip.open(d / "emoji-test.txt.gz", "rt", encoding="utf-8").read()
    yield "taylorswift", (d / "taylorswift.txt").read_text("utf-8")


@pytest.fixture(scope="module")
def tok():
    return Tokenizer.train(
        [
            "".join(HOSTILE) * 3,
            "the then there that this ab aab aaab " * 5,
            "for i in range(10):\n    print(i)\n" * 4,
        ],
        500,
    )


@pytest.fixture(scope="module")
def world_tok(shared, tmp_path_factory):
    "8,192 ids from all languages of the declaration, English prose and emoji, and the folder of its export"
    texts = dict(all_texts(shared))
    tok = Tokenizer.train(texts.values(), 8192)
    tok.to_hf(folder := tmp_path_factory.mktemp("hf"))
    return tok, folder, texts


# ---- others' encoders ----


def test_export_loads_in_tokenizers_with_equal_ids(world_tok):
    tokenizers = pytest.importorskip("tokenizers")
    tok, folder, texts = world_tok
    hf = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    hf.encode_special_tokens = True
    assert len([t for t in texts if t.endswith(".txt")]) >= 388
    for name, t in texts.items():
        ids = tok.encode(t)
        assert hf.encode(t).ids == ids, name
        assert hf.decode(ids) == tok.decode(ids) == t, name
    assert hf.get_vocab_size() == tok.vocab_size == 8192
    assert {s: hf.token_to_id(s) for s in SPECIAL_TOKENS} == tok.specials


def test_export_loads_in_transformers_with_equal_ids(world_tok):
    transformers = pytest.importorskip("transformers")
    tok, folder, texts = world_tok
    hf = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    for name, t in [*texts.items(), *((s, f"a {s} b") for s in NAMES)]:
        ids = tok.encode(t)
        assert hf(t, add_special_tokens=False)["input_ids"] == ids, name
        assert hf.decode(ids) == t, name
    assert (hf.bos_token_id, len(hf)) == (tok.bos, tok.vocab_size)


def test_real_text_as_tiktoken_and_chapter_01(world_tok):
    tok, _, texts = world_tok
    for name, t in texts.items():
        ids = tok.encode(t)
        assert ids == tok.enc.encode_ordinary(t) and tok.decode(ids) == t, name
        assert int(tok.token_bytes()[ids].sum()) == len(t.encode()), name
    for name, t in random.Random(0).sample(list(texts.items()), 60):
        assert tok.encode(t[:2000]) == bpe.encode(t[:2000], tok.ranks), name


@many
@given(text=text)
def test_any_text_comes_back(tok, text):
    ids = tok.encode(text)
    assert tok.decode(ids) == text and ids == tok.enc.encode_ordinary(text)
    decoder = StreamDecoder(tok)
    assert "".join([*map(decoder.push, ids), decoder.end()]) == text


@many
@given(ids=st.lists(st.integers(0, 499), max_size=30))
def test_any_ids_stream_as_they_decode(tok, ids):
    ids = [i for i in ids if i < tok.vocab_size]
    decoder = StreamDecoder(tok)
    assert "".join([*map(decoder.push, ids), decoder.end()]) == tok.decode(ids)


def test_halves_are_the_merges_that_were_made(tok, crate):
    "Replaying the merges of an export gives the tokens again, in order"
    pairs = [halves(t, tok.ranks) for t in tok.tokens[256:]]
    assert [a + b for a, b in pairs] == tok.tokens[256:] and len(set(pairs)) == len(pairs)


def test_byte_letters_are_gpt2s():
    pytest.importorskip("transformers")
    from tokenizers.pre_tokenizers import ByteLevel

    ours, theirs = byte_letters(), ByteLevel(add_prefix_space=False, use_regex=False)
    assert set(ours.values()) == set(ByteLevel.alphabet())
    assert all(theirs.pre_tokenize_str(chr(b))[0][0] == ours[b] for b in range(128))


def test_export_leaves_our_own_file_alone(tok, tmp_path):
    tok.save(tmp_path)
    before = (tmp_path / "tokenizer.json").read_bytes()
    with pytest.raises(UserError, match="another folder"):
        tok.to_hf(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == before
    assert not (tmp_path / "tokenizer_config.json").exists()
    tok.to_hf(tmp_path / "hf")
    tok.to_hf(tmp_path / "hf")  # its own it may write again


# ---- nothing is forged ----


@many
@given(text=poisoned)
def test_no_text_holds_a_special_id(tok, text):
    ids = tok.encode(text)
    assert max(ids, default=0) < len(tok.ranks) and tok.decode(ids) == text
    assert tok.encode_batch([text, text], 2) == [ids, ids]


def test_names_learned_from_a_corpus_stay_text():
    "A corpus full of the names makes ordinary tokens of their parts and nothing else"
    tok = Tokenizer.train([" ".join(SPECIAL_TOKENS) * 50], 400)
    for name in SPECIAL_TOKENS:
        assert max(tok.encode(name)) < len(tok.ranks) <= tok.special(name)


def test_export_finds_names_only_where_told(world_tok):
    tokenizers = pytest.importorskip("tokenizers")
    tok, folder, _ = world_tok
    hf = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tok.bos in hf.encode("a <|bos|> b").ids  # the library's default: the danger that the chapter shows
    assert json.loads((folder / "tokenizer_config.json").read_text())["split_special_tokens"] is True


# ---- batches ----


@many
@given(texts=st.lists(text, max_size=30), n=st.integers(1, 5))
def test_batches_equal_single_texts(tok, texts, n):
    assert tok.encode_batch(texts, n) == [tok.encode(t) for t in texts]


@many
@given(texts=st.lists(st.integers(0, 50).map("x".__mul__), max_size=60), size=st.integers(1, 100))
def test_tasks_hold_every_text_in_order(texts, size):
    tasks = tasks_of(texts, size)
    assert [t for task in tasks for t in task] == texts
    assert all(sum(map(len, task[:-1])) < size for task in tasks)  # a task goes on only while it is not full
    assert all(sum(map(len, task)) >= size for task in tasks[:-1])  # and only the last may be smaller


def test_large_batches_through_threads(tok):
    rng = random.Random(3)
    texts = ["".join(rng.choices(HOSTILE, k=rng.choice([0, 3, 30, 3000]))) for _ in range(400)]
    assert sum(map(len, texts)) > 4 * TASK
    want = [tok.enc.encode_ordinary(t) for t in texts]
    for n in (2, 3, 8):
        assert tok.encode_batch(texts, n) == want


# ---- bad input ----


@pytest.mark.parametrize("bad", ["\ud83d", "a\udc00b", "ok " * 10 + "\ud800", "\udfff\ud800"])
def test_half_a_character_is_one_clear_error(tok, bad, tmp_path):
    ways = (
        lambda: tok.encode(bad),
        lambda: tok.encode_batch(["fine"] * 5000 + [bad], 2),
        lambda: Tokenizer.train(["fine", bad], 300),
    )
    for way in ways:
        with pytest.raises(UserError, match="half a character .lone surrogate U.D[89A-F]..") as e:
            way()
        assert "\n" not in str(e.value)


def test_half_a_character_in_the_python_trainer(monkeypatch):
    monkeypatch.setitem(sys.modules, "nanochat.rustbpe", None)
    monkeypatch.delattr("nanochat.rustbpe", raising=False)
    with pytest.raises(UserError, match="half a character"):
        Tokenizer.train(["fine", "bad \ud800"], 300)


@pytest.mark.parametrize("blank", [" ", "\t", "\u3000", "\n"])
def test_a_million_spaces(tok, blank):
    t = "x" + blank * (LONGEST_BLANK + 200_000) + "y"
    assert tok.decode(tok.encode(t)) == t


def test_sizes_and_ids_out_of_range(tok):
    with pytest.raises(UserError, match="at least 265"):
        Tokenizer.train(["a"], 264)
    for i in (-1, tok.vocab_size, 10**9):
        with pytest.raises(UserError, match=f"id {i} "):
            tok.decode([i])
    with pytest.raises(KeyError):
        tok.special("<|system|>")


# ---- on disk ----


def test_saved_and_loaded_is_the_same(tok, tmp_path):
    tok.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert (again.ranks, again.pattern, again.specials) == (tok.ranks, tok.pattern, tok.specials)
    d = json.loads((tmp_path / "tokenizer.json").read_text())  # plain JSON that anybody can read
    assert [base64.b64decode(b) for b in d["ranks"]] == tok.tokens


def reordered(d):
    d["ranks"][300], d["ranks"][301] = d["ranks"][301], d["ranks"][300]


def shorter(d):
    d["ranks"].pop()


def other_pattern(d):
    d["pattern"] = d["pattern"].replace("{1,2}", "{1,3}")


def other_specials(d):
    d["special_tokens"][0] = "<|endoftext|>"


def no_base64(d):
    d["ranks"][300] = "!!"


@pytest.mark.parametrize(
    "change",
    [
        reordered,
        shorter,
        other_pattern,
        other_specials,
        no_base64,
        lambda d: d.pop("ranks"),
        lambda d: d.pop("sha256"),
        lambda d: d.update(ranks=7),
    ],
)
def test_a_changed_file_is_refused(tok, tmp_path, change):
    tok.save(tmp_path)
    f = tmp_path / "tokenizer.json"
    d = json.loads(f.read_text())
    change(d)
    f.write_text(json.dumps(d))
    with pytest.raises(Damaged, match="tokenizer.json is damaged"):
        Tokenizer.load(tmp_path)


def test_a_pickle_is_never_opened(tmp_path):
    import os
    import pickle

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "boom"),)

    (tmp_path / "tokenizer.json").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(Damaged):
        Tokenizer.load(tmp_path)
    assert not (tmp_path / "boom").exists()


# ---- the measurement itself ----


def test_bench_runs_small(crate, tmp_path):
    "Training at a small size: identical merges, peak memory of each process, results only where told"
    pytest.importorskip("rustbpe")
    pytest.importorskip("tokenizers")
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    corpus.mkdir()
    rng = random.Random(0)

    def word():
        return "".join(rng.choices("aeioubcdrst", k=rng.randrange(2, 8)))

    paragraphs = [" ".join(word() for _ in range(60)) for _ in range(1500)]
    (corpus / "a.txt").write_text("\n\n".join(paragraphs))

    def bench(*args):
        command = [
            sys.executable,
            str(ROOT / "bench" / "tokenizer.py"),
            "--corpus",
            str(corpus),
            "--out",
            str(out),
        ]
        env = environment(tmp_path / "base")
        return subprocess.run([*command, *args], env=env, capture_output=True, text=True, timeout=240)

    done = bench(*"--only train --sizes 0.2,0.3 --vocabs 400 --repeats 2 --python_mb 0.2".split())
    assert done.returncode == 0, done.stderr
    rows = json.loads((out / "tokenizer_train.json").read_text())["rows"]
    three = {"ours", "rustbpe", "tokenizers"}
    assert [set(row["trainers"]) for row in rows] == [three | {"python"}, three]
    assert all(all(row["identical_merges"].values()) for row in rows)
    for took in (took for row in rows for took in row["trainers"].values()):
        assert took["tokens"] == 400 and took["peak_mb"] > took["before_mb"] * 0.5 > 0
    done = bench(*"--growth --growth_sizes 4,5,6 --registry_mb 4".split())
    assert done.returncode == 0, done.stderr
    grown = json.loads((out / "tokenizer_growth.json").read_text())
    first = grown["rows"][0]
    assert abs(first["distinct_words_counted"] / first["distinct_words"] - 1) < 0.05
    assert first["identical_merges"]
    assert math.isfinite(grown["at_2_gb"]["peak_mb"])  # so small, the line through them is noise
    # more than the corpus holds: an error, not a smaller measurement
    assert bench("--sizes", "5").returncode != 0
