"""From text to batches: tokens a second beside tiktoken alone, and what several packers waste.

    python bench/loader.py [--corpus ../shared/data/books] [--mb 12] [--rounds 5]
                           [--vocab 4096,32768] [--T 256,2048]

For each vocabulary a tokenizer is trained on the corpus. Then all ways are measured in turns, so that a
noisy machine slows all of them, and the median of the rounds is shown with the ratio to the ceiling:
tiktoken's own `encode_ordinary_batch` on two threads, which makes ids and nothing else. The loader is
measured in its steady state: its lanes are filled before the clock starts. `process` is processor time,
`clock` the wall.
"""

import argparse, json, os, shutil, statistics, sys, tempfile, time
from itertools import cycle, islice
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
from nanochat.corpus import documents
from nanochat.loader import Lanes, batches, encode_arrays, prefetch, remembered, show_waste, waste
from nanochat.runs import atomic_write
from nanochat.runtime import peak_rss_mb, provenance
from nanochat.tokenizer import Tokenizer

LANES = 16


def ceiling(tok, docs, threads):
    "Seconds by the clock, of the processor, and tokens of tiktoken alone"

    def run():
        w, c = time.perf_counter(), time.process_time()
        n = sum(map(len, tok.enc.encode_ordinary_batch(docs, num_threads=threads)))
        return time.perf_counter() - w, time.process_time() - c, n

    return run


def loader(tok, docs, T, B, n_tokens, encode, threads, ahead):
    "The same for the whole road: documents to (ids, targets)"

    def run():
        lanes = Lanes(lambda k: islice(cycle(docs), k, None), encode, tok.bos, T + 1, LANES, threads=threads)
        stream = batches(lanes, B, T)
        if ahead:
            stream = prefetch(stream)
        next(stream)
        n = 0
        w, c = time.perf_counter(), time.process_time()
        while n < n_tokens:
            n += next(stream)[0].numel()
        w, c = time.perf_counter() - w, time.process_time() - c
        stream.close()
        return w, c, n

    return run


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--corpus", default=str(here.parent / "shared" / "data" / "books"))
    ap.add_argument("--mb", type=float, default=12)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--vocab", default="4096,32768")
    ap.add_argument("--T", default="256,2048")
    ap.add_argument("--out", default=str(here / "bench" / "results" / "loader.json"))
    a = ap.parse_args()
    if not Path(a.corpus).exists():
        sys.exit(f"error: no corpus at {a.corpus}: give --corpus, a folder of text")
    docs, size = [], 0
    for d in documents(a.corpus, "train", 0, epochs=1):
        docs.append(d)
        size += len(d.encode())
        if size >= a.mb * 1e6:
            break
    print(f"{len(docs):,} documents, {size / 1e6:.1f} MB of {Path(a.corpus).name}")
    load = os.getloadavg()[0]  # of what else was running: over 0.5, trust the ratios and not the clock
    tmp, cells, reports = Path(tempfile.mkdtemp(prefix="nanochat-bench-")), [], {}
    try:
        for V in map(int, a.vocab.split(",")):
            tok = Tokenizer.train(docs, V)
            lengths = [len(i) for i in tok.encode_batch(docs)]
            n = sum(lengths)
            arrays = encode_arrays(tok.enc, tok.encode)
            memory = remembered(tmp / str(V), lambda: docs, tok.encode_batch, tok.vocab_size, dict(vocab=V))
            for T in map(int, a.T.split(",")):
                B = max(1, 16_384 // T)
                ways = {
                    "tiktoken alone, 2 threads": ceiling(tok, docs, 2),
                    "tiktoken alone, 1 thread": ceiling(tok, docs, 1),
                    "loader, no threads": loader(
                        tok, docs, T, B, n, lambda t: tok.encode_batch(t, 1), 0, False
                    ),
                    "loader": loader(tok, docs, T, B, n, tok.encode_batch, 1, True),
                    "loader, arrays": loader(tok, docs, T, B, n, arrays, 2, True),
                    "loader, remembered ids": loader(tok, docs, T, B, n, memory, 1, True),
                }
                seen = {k: [] for k in ways}
                for _ in range(a.rounds):
                    for k, f in ways.items():
                        seen[k].append(f())
                top = [n / w for w, _, n in seen["tiktoken alone, 2 threads"]]
                print(f"\nvocabulary {V:,}, T {T:,}, {size / n:.2f} bytes a token")
                print(f"{'':28}{'million tokens/s':>18}{'of the ceiling':>16}{'ns of processor a token':>26}")
                for k, runs in seen.items():
                    cell = dict(
                        vocab=V,
                        T=T,
                        way=k,
                        tokens_per_s=statistics.median(n / w for w, _, n in runs),
                        ratio=statistics.median(n / w / t for (w, _, n), t in zip(runs, top)),
                        ns_process=statistics.median(c / n * 1e9 for _, c, n in runs),
                        rounds=[round(n / w) for w, _, n in runs],
                    )
                    cells.append(cell)
                    millions = cell["tokens_per_s"] / 1e6
                    print(f"{k:28}{millions:>18.2f}{cell['ratio']:>16.2f}{cell['ns_process']:>26.0f}")
                reports[f"{V}/{T}"] = waste(lengths, T)
                show_waste(reports[f"{V}/{T}"])
    finally:
        shutil.rmtree(tmp)
    out = Path(a.out)
    atomic_write(
        out,
        json.dumps(
            dict(
                corpus=Path(a.corpus).name,
                bytes=size,
                documents=len(docs),
                lanes=LANES,
                speed=cells,
                waste=reports,
                peak_rss_mb=round(peak_rss_mb()),
                load_before=round(load, 2),
                machine=provenance(),
            ),
            indent=1,
        )
        + "\n",
    )
    print(f"\nkept in {out.name}; peak memory {peak_rss_mb():.0f} MB, all ways together")


if __name__ == "__main__":
    main()
