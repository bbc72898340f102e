"""How a row is made: what opens the continuation of a long document, and may neighbours see each other?

    continue  long documents: every further piece of one opens with BOS, with nothing, or after 64 tokens
              of the piece before, which are read and not learned again
    apart     short documents packed into rows: each sees all that stands before it in its row, or only itself
    report    paired differences and their intervals from the runs kept so far

At rows of 256 and of 1,024 tokens, with as many tokens a step; seed by seed the same documents in the same
order. One run is a line of bench/results/rows.jsonl and is not done twice; `--share 0/2` works beside
`--share 1/2`. Shape, rates and steps are those of bench/ablations.py, with today's recipe.
Each model is scored twice. In use every conversation begins with BOS and fits in a row: so, first, the
openings of documents that nobody was trained on. And second, whole documents as the model is used to
reading them.
"""

import argparse, json, os, random, re, statistics, sys, time
from dataclasses import replace
from itertools import islice
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(here), str(here / "bench")]
import torch
from ablations import SHAPE, STEPS, TODAY, VOCABULARY, WARMDOWN, append, config_of, paired, set_rates
from ablations import share_of, table_for, whole_lines
from nanochat.corpus import Corpus
from nanochat.distributed import MuonAdamW, param_groups
from nanochat.gpt import GPT
from nanochat.loader import Lane, to_batch
from nanochat.loss import bits_per_byte
from nanochat.runs import atomic_write
from nanochat.runtime import keep_memory, provenance, seed_all
from nanochat.tokenizer import Tokenizer

RUNS = here / "bench" / "results" / "rows.jsonl"
REPORT = here / "bench" / "results" / "rows.json"
TOKENS_A_STEP, LENGTHS, SEEDS = 1024, (256, 1024), range(3)
CONTEXT = {"BOS": 0, "nothing": 1, "64 tokens": 64}  # read before a continuation, in place of BOS
PARTS = {"continue": tuple(CONTEXT), "apart": ("together", "apart")}  # the first is today's
VAL_DOCUMENTS = 80  # of about 2,300 tokens


# ---- rows ----


class Segment(list):
    "Ids of a piece of a document, ~id where one is only read; what stands before them in the row"

    def __init__(self, ids, opener):
        super().__init__(ids)
        self.opener = opener


class Continuing(Lane):
    "A lane whose continuations open with the last `context` tokens of the piece before; 0: with BOS"

    def __init__(self, bos, size, context):
        super().__init__(bos, size)
        self.context = context

    def following(self, before: list, ids: list, context: int) -> Segment:
        "A continuation: the end of what comes before it is read again, and not learned again"
        known = [~i if i >= 0 else i for i in before[len(before) - context :]] if context else []
        return Segment([*known[1:], *ids], known[0] if known else self.bos)

    def put(self, ids):
        room = self.size - 1
        self.add(Segment(ids[:room], self.bos), self.age)
        new = self.size - max(1, self.context)  # places that the context leaves
        for start in range(room, len(ids), new):
            self.add(self.following(ids[:start], ids[start : start + new], self.context), self.age)

    def crop(self, n):
        "As in a lane; what remains is a continuation like any other, with as much context as was cut off"
        if n == 0:
            return [Segment([], self.bos)]
        places, k = self.shortest()
        age = self.shelf.take(places, k)
        whole = self.segments[age]
        self.total -= places
        cut = Segment(whole[:n], whole.opener)
        self.add(self.following(cut, whole[n:], min(self.context, n)), age)
        return [cut]

    def row(self):
        return [i for ids in self.pieces() for i in (ids.opener, *ids)]


def paragraphs(page: str, least: int = 400) -> list[str]:
    "A page cut at empty lines into documents of at least so many characters"
    documents, held = [], ""
    for part in re.split(r"\n\s*\n", page):
        held = f"{held}\n\n{part}" if held else part
        if len(held) >= least:
            documents.append(held)
            held = ""
    return documents


def short_documents(pages, seed: int, held: int = 256):
    "Paragraphs in an order in which neighbours are strangers: one of those of 256 pages at a time"
    rng, waiting = random.Random(seed), []
    for page in pages:
        waiting.append(paragraphs(page))
        if len(waiting) < held:
            continue
        yield from drawn(waiting, rng)
        waiting = []
    yield from drawn(waiting, rng)


def drawn(pages: list, rng) -> list[str]:
    documents = [document for page in pages for document in page]
    rng.shuffle(documents)
    return documents


class Text:
    "The books, their tokenizer, and documents of either part"

    def __init__(self, folder: str, part: str):
        self.folder, self.part = folder, part
        self.tok = Tokenizer.train(Corpus(folder, 0).documents(epochs=1), VOCABULARY)
        self.held_out = list(self.documents("val", 0))[: VAL_DOCUMENTS if part == "continue" else 600]

    def documents(self, split: str, seed: int):
        pages = Corpus(self.folder, seed).documents(split)
        return pages if self.part == "continue" else short_documents(pages, seed)

    def rows(self, T: int, seed: int, context: int):
        "Rows without end"
        lane = Continuing(self.tok.bos, T + 1, context)
        stream = self.documents("train", seed)
        while documents := list(islice(stream, 64)):
            for ids in self.tok.encode_batch(documents):
                lane.put(ids)
            while lane.ready(64):
                yield lane.row()

    def val_rows(self, T: int, context: int) -> list:
        "Rows of the documents held out, each token of them scored once"
        lane = Continuing(self.tok.bos, T + 1, context)
        for ids in self.tok.encode_batch(self.held_out):
            lane.put(ids)
        rows = []
        while len(lane):
            rows.append(lane.row())
        return rows

    def openings(self, T: int) -> list:
        "The first T tokens of each document, one in a row"
        ids = self.tok.encode_batch(self.held_out)
        return [[self.tok.bos, *document[:T]] for document in ids]


def numbers(ids_BT, bos: int):
    "The document of each position: a new one begins at every BOS"
    return (ids_BT == bos).cumsum(1)


# ---- one run ----


def loss_of(model, ids_BT, targets_BT, bos, apart: bool, **kw):
    document_BT = numbers(ids_BT, bos) if apart else None
    return model(ids_BT, targets_BT, document_BT=document_BT, **kw)


def score(model, rows: list, T: int, tok, apart: bool) -> float:
    "Bits per byte over rows"
    batches = [to_batch(rows[i : i + 4096 // T], T + 1) for i in range(0, len(rows), 4096 // T)]

    def losses(ids_BT, targets_BT):
        return loss_of(model, ids_BT, targets_BT, tok.bos, apart, reduction="none")

    with torch.inference_mode():
        return bits_per_byte(losses, batches, tok.token_bytes())


def run(text: Text, way: str, T: int, seed: int, dtype, steps: int = STEPS) -> dict:
    "Train one model and score it twice"
    seed_all(seed)
    on, apart, context = tuple(sorted(TODAY)), way == "apart", CONTEXT.get(way, 0)
    model = GPT(replace(config_of(on), seq_len=T), dtype).train()
    groups = param_groups(model, table=table_for(on))
    for group in groups:
        group["base_decay"] = group["weight_decay"]
    opt, stream, losses = MuonAdamW(groups), text.rows(T, seed, context), []
    began = time.perf_counter()
    for step in range(steps):
        set_rates(opt, step, steps, on)
        ids_BT, targets_BT = to_batch(list(islice(stream, TOKENS_A_STEP // T)), T + 1)
        loss = loss_of(model, ids_BT, targets_BT, text.tok.bos, apart)
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
    seconds = time.perf_counter() - began
    model.eval()
    return dict(
        opening=round(score(model, text.openings(T), T, text.tok, apart), 5),
        whole=round(score(model, text.val_rows(T, context), T, text.tok, apart), 5),
        last_loss=round(statistics.mean(losses[-50:]), 4),
        seconds=round(seconds, 1),
    )


# ---- keeping and saying ----


def kept() -> list:
    return whole_lines(RUNS) if RUNS.exists() else []


def named(line: dict) -> tuple:
    return line["part"], line["way"], line["T"], line["seed"]


def work_off(part: str, folder: str, dtype, share: tuple):
    "Run what is not there yet, this process's share of it"
    todo = [(part, way, T, seed) for seed in SEEDS for T in LENGTHS for way in PARTS[part]]
    number, of = share
    text = Text(folder, part)
    for trial in todo[number::of]:
        if trial in map(named, kept()):
            continue
        _, way, T, seed = trial
        outcome = run(text, way, T, seed, dtype)
        line = dict(part=part, way=way, T=T, seed=seed, **outcome, dtype=str(dtype)[6:])
        append(RUNS, line)
        print(json.dumps(line), flush=True)


def report() -> dict:
    "Each way less today's, seed by seed; negative: it helps"
    lines = {named(line): line for line in kept()}
    found = []
    for part, (today, *others) in PARTS.items():
        for T in LENGTHS:
            for way in others:
                pairs = [(lines.get((part, today, T, s)), lines.get((part, way, T, s))) for s in SEEDS]
                pairs = [(a, b) for a, b in pairs if a and b]
                if not pairs:
                    continue
                row = dict(part=part, T=T, way=way, today=today)
                for exam in ("opening", "whole"):
                    row[exam] = paired([round(b[exam] - a[exam], 5) for a, b in pairs])
                    row[exam]["today"] = statistics.mean(a[exam] for a, _ in pairs)
                row["seconds"] = statistics.median(b["seconds"] / a["seconds"] for a, b in pairs)
                found.append(row)
    return dict(
        what="bits per byte less today's, paired seeds; `opening`: first T tokens of documents held out, "
        "`whole`: all of them, in rows made as in training",
        shape={**SHAPE, "seq_len": list(LENGTHS), "vocab_size": VOCABULARY, "steps": STEPS,
               "tokens_a_step": TOKENS_A_STEP, "warmdown": WARMDOWN},
        rows=found,
        versions=provenance(),
    )


def show(out: dict):
    for row in out["rows"]:
        print(f"{row['part']}, T = {row['T']}, {row['way']} for {row['today']}:")
        for exam in ("opening", "whole"):
            e = row[exam]
            reach = f" [{e['lo']:+.4f}, {e['hi']:+.4f}] p={e['p']:.3g}: {e['verdict']}" if "p" in e else ""
            print(f"  {exam:8} {e['today']:.4f} {e['mean']:+.4f}{reach}")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("what", choices=[*PARTS, "report"])
    p.add_argument("--corpus", default=str(here.parent / "shared" / "data" / "books"))
    p.add_argument("--share", default="0/1", help="this process's share of the list, as 0/2 and 1/2")
    a = p.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    keep_memory()
    if a.what == "report":
        out = report()
        atomic_write(REPORT, json.dumps(out, indent=1) + "\n")
        return show(out)
    if not Path(a.corpus).exists():
        sys.exit(f"error: no such folder: {a.corpus}; give --corpus DIR with books in it")
    work_off(a.what, a.corpus, torch.float32, share_of(a.share))


if __name__ == "__main__":
    main()
