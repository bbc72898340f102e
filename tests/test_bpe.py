"""The three trainers (chapter 01's Python, our Rust crate, the registry's rustbpe) give equal merges

On random, hostile and real text; and bad input is an error in each."""

import gzip, json, lzma, random, signal, subprocess, sys, textwrap, threading, time, unicodedata
import pytest
from hypothesis import example, given, settings, strategies as st
from nanochat import bpe
from nanochat.bpe import SPLIT_PATTERN, decode, encode, split_text, train_bpe, train_ranks

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT4 = SPLIT_PATTERN.replace("{1,2}", "{1,3}")
# look-behind: neither the scanner nor the automaton can do it
BACKTRACKING = r"(?<=\s)\p{L}+|\p{L}+(?=[^\p{L}])|\s+(?!\S)|."

HOSTILE = [
    " ",
    "  ",
    "\n",
    "\r",
    "\r\n",
    "\t",
    "\v",
    "\f",
    "\x1c",
    "\x85",
    "\u00a0",
    "\u2003",
    "\u2028",
    "\u3000",
    "\u200b",
    "\ufeff",
    "\0",
    "'",
    "''",
    "'s",
    "'S",
    "'ſ",
    "'LL",
    "'lL",
    "'l",
    "'ve",
    "'Re",
    "’s",
    "a",
    "b",
    "ab",
    "aa",
    "aaa",
    "the",
    "The",
    "Ä",
    "ß",
    "İ",
    "é",
    "e\u0301",
    "\u0301",
    "при",
    "你好",
    "こん",
    "한국",
    "ไทย",
    "हिन्दी",
    "עבר",
    "1",
    "12",
    "123",
    "٣",
    "Ⅷ",
    "½",
    "²",
    "𝟙",
    "𝔘",
    "🙂",
    "👩‍👩‍👧",
    "🇩🇪",
    ".",
    "...",
    "!?",
    "=>",
    "_",
    "-",
    "$",
    '"',
    "\\",
    "{}\n",
    ";\r\n\r\n",
    "ǅ",
    "ªº",
    "ʰ",
    "\U0010ffff",
    "\ue000",
]
# characters that Unicode has had since 2002: newer letters are letters for one engine and not yet for another
OLD = [chr(c) for c in range(0x110000) if unicodedata.ucd_3_2_0.category(chr(c)) not in ("Cn", "Cs")]
text = st.one_of(
    st.lists(st.sampled_from(HOSTILE), max_size=40).map("".join),  # what has broken tokenizers
    st.text(alphabet="ab ", max_size=60),  # overlaps and ties
    st.lists(st.sampled_from(OLD), max_size=40).map("".join),  # any script
)
corpora = st.lists(text, max_size=6)
many = settings(max_examples=150, deadline=None)


def by_crate(texts, vocab_size, pattern=SPLIT_PATTERN, threads=None):
    from nanochat import rustbpe

    tok = rustbpe.Tokenizer()
    tok.train_from_iterator(iter(texts), vocab_size, pattern=pattern, threads=threads)
    ranks = tok.get_mergeable_ranks()
    assert len(dict(ranks)) == len(ranks), "a token twice"
    return dict(ranks)


def by_registry(texts, vocab_size, pattern=SPLIT_PATTERN):
    tok = pytest.importorskip("rustbpe").Tokenizer()
    tok.train_from_iterator(iter(texts), vocab_size, pattern=pattern)
    return {bytes(b): i for b, i in tok.get_mergeable_ranks()}


def naive(texts, vocab_size):
    "Recount everything before each merge: too slow and plainly right"
    rows, tokens = [list(w.encode()) for t in texts for w in split_text(t)], [bytes([i]) for i in range(256)]
    while len(tokens) < vocab_size:
        counts = bpe.Counter()
        for r in rows:
            counts.update(bpe.count_pairs(r))
        if not counts:
            break
        pair = min(counts, key=lambda p: (-counts[p], p))
        rows = [bpe.merge(r, pair, len(tokens)) for r in rows]
        tokens.append(tokens[pair[0]] + tokens[pair[1]])
    return {t: i for i, t in enumerate(tokens)}


# ---- equal merges ----


@many
@given(corpora, st.integers(256, 330))
@example(["aaaaaaa", "aaaa", "aaa"], 300)
@example(["ab ba ab ba"] * 3, 300)
def test_python_equals_naive(texts, size):
    assert train_bpe(texts, size) == naive(texts, size)


@many
@given(texts=corpora, size=st.integers(256, 400), threads=st.sampled_from([1, 2, 5]))
def test_crate_equals_python(crate, texts, size, threads):
    assert by_crate(texts, size, threads=threads) == train_bpe(texts, size)


@many
@given(texts=corpora, size=st.integers(256, 400))
def test_crate_equals_registry(crate, texts, size):
    assert by_crate(texts, size) == by_registry(texts, size)


@pytest.mark.parametrize("pattern", [GPT2, GPT4, BACKTRACKING, r"(a)|(b+)|[\s\S]"])
@settings(max_examples=60, deadline=None)
@given(texts=corpora, size=st.integers(256, 330))
def test_other_patterns(crate, pattern, texts, size):
    assert by_crate(texts, size, pattern) == train_bpe(texts, size, pattern)


@many
@given(text=text)
def test_crate_splits_as_python(crate, text):
    "Trained until nothing is left to glue, each distinct word is one token: encoding shows the cuts"
    from nanochat import rustbpe

    for pattern in (SPLIT_PATTERN, GPT2):
        tok = rustbpe.Tokenizer()
        tok.train_from_iterator([text], 1_000_000, pattern=pattern)
        tokens = [t for t, _ in tok.get_mergeable_ranks()]
        assert [tokens[i] for i in tok.encode(text)] == [w.encode() for w in split_text(text, pattern)]


def test_order_of_texts_does_not_matter(crate):
    rng = random.Random(0)
    texts = ["".join(rng.choices(HOSTILE, k=30)) for _ in range(200)]
    want = by_crate(texts, 600)
    for _ in range(5):
        assert by_crate(rng.sample(texts, len(texts)), 600, threads=rng.randrange(1, 4)) == want


def real_texts(shared):
    yield "tinyshakespeare", [(shared / "tinyshakespeare" / "input.txt").read_text("utf-8")], 2048
    yield (
        "naughty strings",
        json.loads((shared / "tokenizer_text" / "blns.json").read_text("utf-8"))
        + [(shared / "tokenizer_text" / "blns.txt").read_text("utf-8")],
        2000,
    )
    yield (
        "emoji",
        [gzip.open(shared / "tokenizer_text" / "emoji-test.txt.gz", "rt", encoding="utf-8").read()],
        1500,
    )
    yield (
        "388 languages",
        [
            json.loads(l)["text"][:1500]
            for l in lzma.open(shared / "tokenizer_text" / "udhr2.jsonl.xz", "rt", encoding="utf-8")
        ],
        3000,
    )
    yield (
        "wikitext",
        gzip.open(shared / "wikitext-2" / "valid.txt.gz", "rt", encoding="utf-8").readlines(),
        4096,
    )


def test_real_text(shared, crate):
    for name, texts, size in real_texts(shared):
        ranks = by_crate(texts, size)
        assert len(ranks) == size, name
        assert ranks == train_bpe(texts, size), f"{name}: Python differs"
        assert ranks == by_registry(texts, size), f"{name}: the registry's rustbpe differs"


# ---- encoding ----


@many
@given(text=text)
def test_encoders_agree_and_give_the_text_back(crate, text):
    import tiktoken
    from nanochat import rustbpe

    tok = rustbpe.Tokenizer()
    tok.train_from_iterator(["".join(HOSTILE) * 2, "ab aab aaab the then there" * 3], 420)
    ranks = dict(tok.get_mergeable_ranks())
    ids = tok.encode(text)
    assert (
        ids
        == encode(text, ranks)
        == tiktoken.Encoding(
            "t", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={}
        ).encode_ordinary(text)
    )
    assert tok.batch_encode([text, "", text]) == [ids, [], ids]
    assert tok.decode(ids) == decode(ids, ranks) == text


def test_long_words_take_no_square_of_time(crate):
    from nanochat import rustbpe

    tok, long = rustbpe.Tokenizer(), "-" * 300_000 + "abc" * 100_000
    tok.train_from_iterator([long], 300)
    start = time.perf_counter()
    assert tok.decode(tok.encode(long)) == long
    assert time.perf_counter() - start < 30  # a fraction of a second; the square of 600,000 would be minutes


def test_tokenizer_interface(crate):
    tok = crate.Tokenizer()
    tok.train_from_iterator(["hello hello"], 300)
    assert tok.get_pattern() == crate.SPLIT_PATTERN == SPLIT_PATTERN
    # he, hel, hell, hello, ` hello`: nothing more to glue
    assert tok.vocab_size == len(tok.get_mergeable_ranks()) == 261
    assert all(type(b) is bytes and type(i) is int for b, i in tok.get_mergeable_ranks())
    with pytest.raises(ValueError, match="unknown token id 999"):
        tok.decode([999])
    with pytest.raises(UnicodeDecodeError):
        tok.decode([0xFF])
    assert crate.Tokenizer().encode("hé") == list("hé".encode())  # untrained: bytes


# ---- bad input is an error, in Rust and in Python ----


def broken_source():
    yield "fine"
    raise OSError("the disk is gone")


@pytest.fixture(params=["crate", "python"])
def trainer(request):
    if request.param == "python":
        return train_bpe
    request.getfixturevalue("crate")
    return by_crate_any


def by_crate_any(texts, vocab_size, pattern=SPLIT_PATTERN, progress=None):
    from nanochat import rustbpe

    tok = rustbpe.Tokenizer()
    tok.train_from_iterator(texts, vocab_size, pattern=pattern, progress=progress)
    return dict(tok.get_mergeable_ranks())


@pytest.mark.parametrize(
    "args,kind,words",
    [
        ((["a"], 255), ValueError, "at least 256"),
        ((["a"], -1), ValueError, "at least 256"),
        ((["a"], 300, "("), ValueError, "split pattern"),
        ((["a", "b", 3], 300), TypeError, "item 2 of .* is int, not str"),
        ((["a", None], 300), TypeError, "item 1 of .* is NoneType, not str"),
        (("one text", 300), TypeError, r"pass \[text\]"),
        ((7, 300), TypeError, "not iterable"),
        ((["bad \ud800"], 300), UnicodeEncodeError, "surrogates"),
        ((broken_source(), 300), OSError, "the disk is gone"),
    ],
)
def test_errors(trainer, args, kind, words):
    if args[0].__class__.__name__ == "generator":
        args = (broken_source(), *args[1:])
    with pytest.raises(kind, match=words):
        trainer(*args)


def test_a_split_that_gives_up_is_an_error(crate):
    with pytest.raises(ValueError, match="split pattern"):
        by_crate_any([" " * 3_000_000 + "x"], 300, r"x|\s+(?!\S)")


def test_nothing_to_learn(trainer):
    for texts in ([], [""], ["x"], iter([])):
        assert trainer(texts, 1000) == {bytes([i]): i for i in range(256)}


def test_a_failed_training_changes_nothing(crate):
    tok = crate.Tokenizer()
    tok.train_from_iterator(["hello hello"], 300)
    before = tok.get_mergeable_ranks()
    with pytest.raises(TypeError):
        tok.train_from_iterator(["other other", 1], 300, pattern=GPT4)
    assert tok.get_mergeable_ranks() == before and tok.get_pattern() == SPLIT_PATTERN


def test_progress(trainer):
    told = []
    trainer(
        [" hello world and all the rest of it"] * 3 + ["xyz" * 500], 3000, progress=lambda *a: told.append(a)
    )
    assert [s for s, *_ in told] == sorted((s for s, *_ in told), key=("count", "merge").index)
    counted = [a for a in told if a[0] == "count"]
    assert counted[-1][1] == 3 * len(" hello world and all the rest of it") + 1500
    assert told[-1] == (
        "merge",
        len(train_bpe([" hello world and all the rest of it"] * 3 + ["xyz" * 500], 3000)) - 256,
        3000 - 256,
    )

    def stop(*_):
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        trainer(["some text"] * 10, 300, progress=stop)


def test_python_serves_where_the_crate_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "nanochat.rustbpe", None)
    monkeypatch.delattr("nanochat.rustbpe", raising=False)
    assert not bpe.has_crate()
    assert train_ranks(["the cat and the hat"], 270) == train_bpe(["the cat and the hat"], 270)


# ---- large, interruptible, and kind to others ----


def in_process(code, timeout=60):
    from conftest import environment

    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_the_corpus_is_not_held(crate):
    done = in_process("""
        import resource
        from nanochat import rustbpe
        def texts():
            for i in range(3000):     # 70 KB each, 200 MB in all
                yield f"text number {i} says the same again and again, " * 1500
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rustbpe.Tokenizer().train_from_iterator(texts(), 300)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before)//1024)
    """)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 40, f"{done.stdout.strip()} MB more"


def test_ctrl_c_stops_an_endless_training(crate):
    from conftest import environment

    code = textwrap.dedent("""
        from nanochat import rustbpe
        def texts():
            print("on", flush=True)
            while True: yield "and so on and so on " * 1000
        rustbpe.Tokenizer().train_from_iterator(texts(), 300)
    """)
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout.readline() == "on\n"
    time.sleep(0.3)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert "KeyboardInterrupt" in err and run.returncode != 0


def test_other_threads_go_on(crate):
    ticks, done = [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    one_item = ["one single text " * 4_000_000]  # the iterator is asked only twice
    crate.Tokenizer().train_from_iterator(one_item, 300)
    end = time.perf_counter()
    done.set()
    thread.join()
    inside = [t for t in ticks if start + 0.2 * (end - start) < t < end]
    assert len(inside) >= 5, f"{len(inside)} ticks in {end - start:.2f} s"
