"""Tokenizers beside their peers, each number measured in one run with interleaved repeats.

    python bench/tokenizer.py --corpus ../shared/data/books                 train, then encode
    python bench/tokenizer.py --corpus ../shared/data/books --growth        memory as the text grows to 2 GB
    python bench/tokenizer.py --corpus ../shared/data/books --languages \\
                              ../shared/data/tokenizer_text/udhr2.jsonl.xz

Training: the crate, the registry's `rustbpe`, Hugging Face `tokenizers` and chapter 01's Python (up to
--python_mb), all with the course's split pattern, on the same documents. Each training runs in a process of
its own, which reads the documents from a file one by one, so that its peak memory is its own; the time is
the training's alone. The growing text is synthetic (about 5 GB of temporary files). Medians of --repeats
rounds; a ratio is the median of the rounds' ratios. Results go to bench/results/tokenizer*.json.
"""

import argparse, array, hashlib, importlib.metadata, json, os, random, statistics, subprocess
import sys, tempfile, time
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))

# ---- documents on disk: their bytes one after the other, and a file of their lengths ----


def write_documents(docs, file: Path, n_bytes: int) -> dict:
    "The first documents that make up n_bytes; their number and size"
    lengths, size = array.array("I"), 0
    with open(file, "wb") as f:
        for d in docs:
            b = d.encode()
            f.write(b)
            lengths.append(len(b))
            size += len(b)
            if size >= n_bytes:
                break
    with open(f"{file}.len", "wb") as f:
        lengths.tofile(f)
    return dict(documents=len(lengths), bytes=size)


def read_documents(file: str):
    "The documents again, one at a time"
    lengths = array.array("I")
    lengths.frombytes(Path(f"{file}.len").read_bytes())
    with open(file, "rb") as f:
        for n in lengths:
            yield f.read(n).decode()


def corpus_documents(folder: str, seed: int = 0) -> list[str]:
    "All documents of a folder, cut as the library cuts them, in an order fixed by the seed"
    from nanochat.corpus import folder_files, pieces, read_texts

    docs = [p for f in folder_files(folder) for t in read_texts(f) for p in pieces(t) if p.strip()]
    random.Random(seed).shuffle(docs)
    return docs


# ---- the trainers, each in a process of its own ----


def memory(key: str) -> float:
    "VmHWM (the peak) or VmRSS of this process, in MB; ru_maxrss would inherit the parent's peak"
    for line in open("/proc/self/status"):
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024


def hf_trainer(docs, vocab_size, pattern):
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        special_tokens=[],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    return lambda: tok.train_from_iterator(docs, trainer), lambda: tok.get_vocab()


def train_once(trainer: str, file: str, vocab_size: int) -> dict:
    "One training, here and now: seconds, memory, a fingerprint of its merges"
    from nanochat.bpe import SPLIT_PATTERN, train_bpe  # light: no torch

    docs, out = read_documents(file), {}
    if trainer == "python":

        def run():
            out.update(train_bpe(docs, vocab_size))

        def ranks():
            return out
    elif trainer == "tokenizers":
        run, ranks = hf_trainer(docs, vocab_size, SPLIT_PATTERN)
    else:
        if trainer == "ours":
            from nanochat import rustbpe
        else:
            import rustbpe
        tok = rustbpe.Tokenizer()

        def run():
            tok.train_from_iterator(docs, vocab_size, pattern=SPLIT_PATTERN)

        def ranks():
            return {bytes(b): i for b, i in tok.get_mergeable_ranks()}

    before = memory("VmRSS")
    start = time.perf_counter()
    run()
    seconds, peak = time.perf_counter() - start, memory("VmHWM")
    merges = ranks()
    order = sorted(merges, key=merges.get)
    prints = None
    if trainer != "tokenizers":  # its ties go another way
        prints = hashlib.sha256(b"".join(len(t).to_bytes(4, "big") + t for t in order)).hexdigest()
    return dict(seconds=seconds, peak_mb=peak, before_mb=before, tokens=len(merges), merges=prints)


def in_own_process(trainer: str, file: Path, vocab_size: int) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, "--one", trainer, str(file), str(vocab_size)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(
            f"error: {trainer} on {file.name} failed: {(done.stderr.strip().splitlines() or ['no word'])[-1]}"
        )
    return json.loads(done.stdout)


def versions() -> dict:
    from nanochat.runtime import provenance

    def of(p):
        try:
            return importlib.metadata.version(p)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {
        **provenance(),
        **{p: of(p) for p in ("rustbpe", "tokenizers", "tiktoken")},
        "load": round(os.getloadavg()[0], 2),
    }


def median(rows, key):
    return statistics.median(r[key] for r in rows)


def bench_training(
    docs: list[str], sizes: list[float], vocabs: list[int], repeats: int, python_mb: float
) -> list[dict]:
    out = []
    with tempfile.TemporaryDirectory() as tmp:
        for mb in sizes:
            file = Path(tmp) / f"{mb:g}MB"
            made = write_documents(docs, file, int(mb * 1e6))
            for v in vocabs:
                names = ["ours", "rustbpe", "tokenizers"] + ["python"] * (mb <= python_mb)
                rounds = {n: [] for n in names}
                for k in range(repeats):
                    for n in names if k % 2 == 0 else names[::-1]:  # back and forth: a drift hits all alike
                        if n != "python" or k == 0:
                            rounds[n].append(in_own_process(n, file, v))
                row = dict(
                    **made,
                    vocab_size=v,
                    trainers={
                        n: dict(
                            seconds=median(r, "seconds"),
                            peak_mb=max(x["peak_mb"] for x in r),
                            before_mb=median(r, "before_mb"),
                            tokens=r[0]["tokens"],
                            all_seconds=[round(x["seconds"], 4) for x in r],
                        )
                        for n, r in rounds.items()
                    },
                )
                row["times_as_fast"] = {
                    n: statistics.median(
                        a["seconds"] / b["seconds"] for a, b in zip(rounds[n], rounds["ours"])
                    )
                    for n in names[1:]
                }
                row["identical_merges"] = {
                    n: len({x["merges"] for x in rounds["ours"] + rounds[n]}) == 1
                    for n in names[1:]
                    if n != "tokenizers"
                }
                out.append(row)
                print(
                    f"\n{made['bytes'] / 1e6:.1f} MB in {made['documents']:,} documents, vocabulary {v:,}, "
                    f"medians of {repeats}",
                    flush=True,
                )
                for n, t in row["trainers"].items():
                    same = (
                        ""
                        if n not in row["identical_merges"]
                        else ", identical merges"
                        if row["identical_merges"][n]
                        else ", OTHER MERGES"
                    )
                    print(
                        f"  {n:11}{t['seconds']:8.3f} s {t['peak_mb']:6.0f} MB"
                        + (
                            f"   ours is {row['times_as_fast'][n]:.1f} times as fast{same}"
                            if n != "ours"
                            else ""
                        ),
                        flush=True,
                    )
    return out


# ---- encoding ----


def bench_encoding(docs: list[str], repeats: int, mb: float = 4, vocab_size: int = 32_768) -> list[dict]:
    "Megabytes per second of several encoders on text of three kinds; rounds interleaved, one process"
    import tokenizers, rustbpe as registry
    from nanochat.corpus import documents
    from nanochat.tokenizer import Tokenizer
    from nanochat.world import World

    half = len(docs) // 2
    tok = Tokenizer.train(docs[:half], vocab_size)
    other = registry.Tokenizer()
    other.train_from_iterator(iter(docs[:half]), len(tok.ranks), pattern=tok.pattern)
    with tempfile.TemporaryDirectory() as tmp:
        tok.to_hf(tmp)
        hf = tokenizers.Tokenizer.from_file(str(Path(tmp) / "tokenizer.json"))
    hf.encode_special_tokens = True

    def upto(ds):
        out, size = [], 0
        for d in ds:
            out.append(d)
            size += len(d.encode())
            if size >= mb * 1e6:
                break
        return out

    long = "".join(docs[half:])
    step = 400_000
    kinds = dict(
        documents=upto(docs[half:]),
        short=upto(documents("world", "train", 0, start=World.OPENING)),
        long=upto(long[i : i + step] for i in range(0, len(long), step)),
    )
    ways = {
        "encode": lambda t: [tok.encode(x) for x in t],
        "tiktoken": lambda t: [tok.enc.encode_ordinary(x) for x in t],
        "encode_batch": lambda t: tok.encode_batch(t, 2),
        "tiktoken batch, 2 threads": lambda t: tok.enc.encode_ordinary_batch(t, num_threads=2),
        "tiktoken batch, its default 8": lambda t: tok.enc.encode_ordinary_batch(t),
        "rustbpe batch": lambda t: other.batch_encode(t),
        "tokenizers batch": lambda t: [e.ids for e in hf.encode_batch_fast(t)],
    }
    out = []
    for kind, texts in kinds.items():
        size, seconds, cpu = sum(len(t.encode()) for t in texts), {w: [] for w in ways}, {w: [] for w in ways}
        want = ways["tiktoken"](texts)
        for w in ways:
            assert [list(i) for i in ways[w](texts)] == want, f"{w}: other ids"
        for k in range(repeats):
            for w in list(ways) if k % 2 == 0 else list(ways)[::-1]:
                start, busy = time.perf_counter(), time.process_time()
                ways[w](texts)
                seconds[w].append(time.perf_counter() - start)
                cpu[w].append(time.process_time() - busy)

        def ratio(a, b, of=seconds):
            return statistics.median(x / y for x, y in zip(of[a], of[b]))

        row = dict(
            kind=kind,
            texts=len(texts),
            bytes=size,
            vocab_size=tok.vocab_size,
            tokens=sum(map(len, want)),
            mb_per_s={w: size / 1e6 / statistics.median(s) for w, s in seconds.items()},
            encode_over_tiktoken=ratio("tiktoken", "encode"),
            batch_over_tiktoken_2=ratio("tiktoken batch, 2 threads", "encode_batch"),
            batch_over_tiktoken_8=ratio("tiktoken batch, its default 8", "encode_batch"),
            # processor time of all threads: what a busy neighbour can't take away
            batch_over_tiktoken_2_cpu=ratio("tiktoken batch, 2 threads", "encode_batch", cpu),
        )
        out.append(row)
        print(
            f"\nencoding {kind}: {size / 1e6:.1f} MB in {len(texts):,} texts, medians of {repeats}, equal "
            f"ids; encode_batch is {row['batch_over_tiktoken_2']:.2f} times as fast as tiktoken's batch "
            f"with 2 threads, {row['batch_over_tiktoken_8']:.2f} with 8; with 2 threads tiktoken's takes "
            f"{row['batch_over_tiktoken_2_cpu']:.2f} times its processor time"
        )
        for w, v in row["mb_per_s"].items():
            print(f"  {w:30}{v:7.1f} MB/s", flush=True)
    return out


# ---- growth: synthetic text whose vocabulary grows as that of the corpus ----


def heaps(docs: list[str]) -> dict:
    "Distinct words of the corpus after n bytes, and the line through them: log V = log K + b log n"
    import numpy as np
    from nanochat.bpe import SPLIT_PATTERN
    import regex

    rx, words, size, points, nxt = regex.compile(SPLIT_PATTERN), {}, 0, [], 1e6
    for d in docs:
        for w in rx.findall(d):
            words[w] = words.get(w, 0) + 1
        size += len(d.encode())
        if size >= nxt:
            points.append((size, len(words)))
            nxt *= 2**0.5
    points.append((size, len(words)))
    b, logk = np.polyfit(*np.log(np.array(points, dtype=float)).T, 1)
    common = np.array(sorted(words.values(), reverse=True), dtype=float)
    ranks = np.arange(1, len(common) + 1)
    few = (ranks >= 10) & (ranks <= 10_000)
    zipf = -np.polyfit(np.log(ranks[few]), np.log(common[few]), 1)[0]
    return dict(K=float(np.exp(logk)), b=float(b), zipf=float(zipf), points=points, words=words)


def synthetic(law: dict, seed: int = 0, words_per_doc: int = 1500):
    """Endless documents: after n bytes K n^b distinct words have occurred; old ones return by Zipf's law

    Rare words are invented from halves of the corpus's own."""
    import numpy as np

    rng, dice = np.random.default_rng(seed), random.Random(seed)
    known = [
        w
        for w in sorted(law["words"], key=law["words"].get, reverse=True)
        if len(w) > 1 and w[0] == " " and w[1:].isalpha()
    ]
    table, seen, rare = list(known), set(known), known[len(known) // 2 :]

    def invent():
        while True:
            a, b = dice.choice(rare), dice.choice(rare)
            w = a[: len(a) // 2 + 1] + b[len(b) // 2 + 1 :]
            if len(w) > 2 and w not in seen:
                seen.add(w)
                return w

    V, size, n_words, a, block = 0, 0, 0, law["zipf"], 100 * words_per_doc
    if abs(a - 1) < 1e-6:
        a = 1 + 1e-6
    while True:
        n_bytes = size + block * (size / n_words if n_words else 5.5)
        fresh = min(max(int(law["K"] * n_bytes ** law["b"]) - V, 0), block)
        while len(table) < V + fresh:
            table.append(invent())
        old = (((max(V, 1) ** (1 - a) - 1) * rng.random(block - fresh) + 1) ** (1 / (1 - a))).astype(
            np.int64
        ) - 1
        ids = np.concatenate([np.clip(old, 0, max(V, fresh, 1) - 1), np.arange(V, V + fresh)])
        rng.shuffle(ids)
        V += fresh
        words = list(map(table.__getitem__, ids.tolist()))
        n_words += block
        for i in range(0, block, words_per_doc):
            d = "".join(words[i : i + words_per_doc])
            size += len(d.encode())
            yield d


def bench_growth(docs: list[str], sizes: list[float], vocab_size: int, registry_mb: float) -> dict:
    import numpy as np

    law = heaps(docs)
    rows = []
    print(
        f"Heaps' law of the corpus: V = {law['K']:.2f} * bytes^{law['b']:.3f}; {law['points'][-1][1]:,} "
        f"distinct words in {law['points'][-1][0] / 1e6:.1f} MB; Zipf exponent {law['zipf']:.3f}",
        flush=True,
    )
    for mb in sizes:
        with tempfile.TemporaryDirectory() as tmp:
            file = Path(tmp) / f"synthetic {mb:g} MB"
            start = time.perf_counter()
            made = write_documents(synthetic(law), file, int(mb * 1e6))
            row = dict(
                **made,
                distinct_words=int(law["K"] * made["bytes"] ** law["b"]),
                writing_seconds=time.perf_counter() - start,
                ours=in_own_process("ours", file, vocab_size),
            )
            if mb <= min(sizes):
                row["distinct_words_counted"] = len(heaps(list(read_documents(file)))["words"])
            if mb <= registry_mb:
                row["rustbpe"] = in_own_process("rustbpe", file, vocab_size)
                row["identical_merges"] = row["ours"]["merges"] == row["rustbpe"]["merges"]
        rows.append(row)
        print(
            f"synthetic {made['bytes'] / 1e6:,.0f} MB, {row['distinct_words']:,} distinct words: ours "
            f"{row['ours']['seconds']:.1f} s, {row['ours']['peak_mb']:.0f} MB, {row['ours']['tokens']:,} "
            "tokens"
            + (
                f"; rustbpe {row['rustbpe']['seconds']:.1f} s, {row['rustbpe']['peak_mb']:.0f} MB, "
                f"identical merges: {row['identical_merges']}"
                if "rustbpe" in row
                else ""
            ),
            flush=True,
        )
    fit = [r for r in rows if r["bytes"] < 1e9]
    out = dict(law={k: law[k] for k in ("K", "b", "zipf", "points")}, vocab_size=vocab_size, rows=rows)
    if len(fit) > 1:  # where the small ones say it ends, beside what was measured
        slope, base = np.polyfit([r["distinct_words"] for r in fit], [r["ours"]["peak_mb"] for r in fit], 1)
        out["at_2_gb"] = dict(
            from_mb=[round(r["bytes"] / 1e6) for r in fit],
            distinct_words=int(law["K"] * 2e9 ** law["b"]),
            peak_mb=float(base + slope * law["K"] * 2e9 ** law["b"]),
            bytes_per_distinct_word=float(slope * 2**20),
        )
        print(
            f"from {out['at_2_gb']['from_mb']} MB: {slope * 2**20:.0f} bytes for each distinct word, so "
            f"{out['at_2_gb']['peak_mb']:.0f} MB at 2 GB"
        )
    return out


# ---- languages ----


def script(text: str) -> str:
    "The script that most letters belong to, by their names in Unicode"
    import unicodedata
    from collections import Counter

    n = Counter(unicodedata.name(c, "?").split()[0] for c in text if c.isalpha())
    return n.most_common(1)[0][0].capitalize() if n else "none"


def bench_languages(docs: list[str], file: str, vocab_size: int = 32_768) -> dict:
    "Bytes per token of each language, by a tokenizer of English books and one that has read half of each"
    import gzip, lzma
    from nanochat.tokenizer import Tokenizer

    opener = lzma.open if file.endswith(".xz") else gzip.open if file.endswith(".gz") else open
    texts = {
        (d := json.loads(l))["file"].removesuffix(".txt"): d["text"]
        for l in opener(file, "rt", encoding="utf-8")
    }

    def halves(t):
        k = t.find("\n", len(t) // 2) if "\n" in t[len(t) // 2 :] else len(t) // 2
        return t[:k], t[k:]

    english, mixed = (
        Tokenizer.train(docs, vocab_size),
        Tokenizer.train([*docs[: len(docs) // 8], *(halves(t)[0] for t in texts.values())], vocab_size),
    )
    rows, empty = [], [code for code, t in texts.items() if not halves(t)[1].strip()]
    for code, t in texts.items():
        if code in empty:
            continue  # named in the result, not hidden
        unseen = halves(t)[1]
        rows.append(
            dict(
                code=code,
                script=script(t),
                chars=len(unseen),
                bytes=len(unseen.encode()),
                english=len(english.encode(unseen)),
                mixed=len(mixed.encode(unseen)),
            )
        )

    def mid(k):
        return statistics.median(r["bytes"] / r[k] for r in rows)

    print(
        f"{len(rows)} languages, second halves: without text: {', '.join(empty) or 'none'}; median bytes "
        f"per token {mid('english'):.2f} with English merges, {mid('mixed'):.2f} with a mixture",
        flush=True,
    )
    return dict(
        text="Universal Declaration of Human Rights, second half of each language's text",
        vocab_size=english.vocab_size,
        english="trained on the books",
        mixed="trained on an eighth of the books and the first half of each language's text",
        without_text=empty,
        rows=rows,
    )


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument(
        "--corpus", default=str(here.parent / "shared" / "data" / "books"), help="a folder of text"
    )
    ap.add_argument("--repeats", type=int, default=5)
    ap.add_argument("--sizes", default="10,40", help="megabytes")
    ap.add_argument("--vocabs", default="4096,32768")
    ap.add_argument(
        "--python_mb", type=float, default=10, help="chapter 01's Python trains on texts up to this size"
    )
    ap.add_argument("--only", choices=["train", "encode"], help="one half of the default run")
    ap.add_argument("--growth", action="store_true")
    ap.add_argument("--growth_sizes", default="40,200,800,2000")
    ap.add_argument(
        "--registry_mb",
        type=float,
        default=200,
        help="up to this size the registry's rustbpe runs beside ours",
    )
    ap.add_argument(
        "--languages",
        metavar="FILE",
        help="the declaration in many languages, one JSON line each: {file, text}",
    )
    ap.add_argument("--out", type=Path, default=here / "bench" / "results", help="folder for the results")
    ap.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    a = ap.parse_args()
    if a.one:
        return print(json.dumps(train_once(a.one[0], a.one[1], int(a.one[2]))))
    try:
        from nanochat.bpe import has_crate
        from nanochat.runs import UserError

        if not has_crate():
            raise UserError("the Rust crate is not built: `bash speedrun.sh setup`")
        docs = corpus_documents(a.corpus)
    except UserError as e:
        sys.exit(f"error: {e}")
    total = sum(len(d.encode()) for d in docs)
    a.out.mkdir(parents=True, exist_ok=True)

    def numbers(s):
        return [float(x) for x in s.split(",")]

    def save(name, **result):
        (a.out / f"{name}.json").write_text(
            json.dumps(
                dict(corpus=Path(a.corpus).resolve().name, corpus_bytes=total, **result, versions=versions()),
                indent=1,
            )
            + "\n"
        )
        print(f"kept in {a.out.name}/{name}.json")

    if a.growth:
        return save(
            "tokenizer_growth",
            what="memory and time as synthetic text grows",
            **bench_growth(docs, numbers(a.growth_sizes), 65_536, a.registry_mb),
        )
    if a.languages:
        return save(
            "tokenizer_languages", what="bytes per token by language", **bench_languages(docs, a.languages)
        )
    if max(numbers(a.sizes)) > total / 1e6:
        sys.exit(
            f"error: {a.corpus} holds {total / 1e6:.1f} MB, and --sizes asks for {max(numbers(a.sizes)):g}"
        )
    if a.only != "encode":
        save(
            "tokenizer_train",
            what="training beside peers",
            pattern="the course's split pattern",
            repeats=a.repeats,
            rows=bench_training(
                docs, numbers(a.sizes), [int(v) for v in a.vocabs.split(",")], a.repeats, a.python_mb
            ),
        )
    if a.only != "train":
        save(
            "tokenizer_encode",
            what="encoding beside peers",
            repeats=a.repeats,
            rows=bench_encoding(docs, a.repeats),
        )


if __name__ == "__main__":
    main()
