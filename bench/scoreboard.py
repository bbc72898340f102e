"""The course's one scoreboard: every rung on one frozen text, at equal tokens and at equal time.

    python bench/scoreboard.py            all rungs, about a quarter of an hour on two quiet cores
    python bench/scoreboard.py --quick    a few steps of each, to see that all of them train; nothing is kept
    python bench/scoreboard.py --run RUN  the laptop tier's lines, from a finished run; the others stay
    python bench/scoreboard.py --freeze   write the text and the tokenizer anew: not without need

The text (about 1.5 MB of World to learn from, 150 KB to be scored on) and the tokenizer of 1,024 ids lie in
bench/scoreboard/, with their sha256 in card.json: World's tables may change, this text does not.

Models that only count (chapter 06) read the training text once. Those that learn have one shape (4 layers,
128 wide, 4 heads, rows of 256) and see the same windows in the same order, 8 rows a step; only the last one
packs its rows as `pretrain` does. Each has one learning rate, that of the chapter it comes from: nothing was
tuned here. They train in turns, a slice of
each, in one process, so that a busy neighbour slows all of them. First as many steps for each (equal
tokens), then as many seconds for each: the first run says how long a step takes, from that follow the steps.
The clock runs in training only. At eight moments each is scored on the whole validation text. The laptop
tier is no part of that race: it learns from its own World, several times as long, with its own tokenizer.
"""

import argparse, gzip, hashlib, itertools, json, os, sys, time
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
import torch
from torch import nn
from nanochat.attention import apply_rope, attend, rms_norm, rope_cache
from nanochat.baseline import Baseline, BaselineConfig, Recipe, decay_groups, rate_at, step_seed, windows
from nanochat.corpus import Corpus
from nanochat.distributed import MuonAdamW, param_groups
from nanochat.evaluate import model_bpb
from nanochat.gpt import GPT, GPTConfig, MODERN, load_model
from nanochat.loader import Lanes, batches, to_batch, val_rows
from nanochat.loss import NGram, bits_per_byte, board_text, lm_loss, token_losses
from nanochat.pretrain import lr_at
from nanochat.runs import atomic_write
from nanochat.runtime import find_run, keep_memory, pick_dtype, provenance, seed_all
from nanochat.tokenizer import Tokenizer

FOLDER = here / "bench" / "scoreboard"
RESULT = here / "bench" / "results" / "scoreboard.json"
VOCAB, T, ROWS, SEED = 1024, 256, 8, 0
SHAPE = dict(n_layer=4, n_head=4, n_embd=128)


# ---- the frozen text ----


def world_text(split: str, n_bytes: int) -> list:
    "Documents of World, about n_bytes of them"
    from nanochat.world import World

    docs, size = [], 0
    for doc in World(SEED).documents(split):
        docs.append(doc)
        size += len(doc.encode())
        if size >= n_bytes:
            break
    return docs


def freeze():
    "Write text, tokenizer and card"
    FOLDER.mkdir(exist_ok=True)
    card = dict(world_seed=SEED)
    for split, n_bytes in (("train", 1_500_000), ("val", 150_000)):
        docs = world_text(split, n_bytes)
        lines = "".join(json.dumps(dict(text=doc)) + "\n" for doc in docs).encode()
        packed = gzip.compress(lines, 9, mtime=0)
        (FOLDER / f"{split}.jsonl.gz").write_bytes(packed)
        card[split] = dict(
            documents=len(docs),
            bytes=sum(len(doc.encode()) for doc in docs),
            sha256=hashlib.sha256(packed).hexdigest(),
            text_sha256=hashlib.sha256(lines).hexdigest(),
        )
        if split == "train":
            tok = Tokenizer.train(docs, VOCAB)
    tok.save(FOLDER / "tokenizer")
    written = (FOLDER / "tokenizer" / "tokenizer.json").read_bytes()
    card["tokenizer"] = dict(vocab_size=tok.vocab_size, sha256=hashlib.sha256(written).hexdigest())
    atomic_write(FOLDER / "card.json", json.dumps(card, indent=1) + "\n")
    print(json.dumps(card, indent=1))


# ---- what learns ----


class Looker(nn.Module):
    "Chapter 08's smallest model that looks back: attention layers on a stream, and nothing else"

    def __init__(self, vocab_size: int, n_layer: int, n_head: int, n_embd: int):
        super().__init__()
        self.n_head = n_head
        self.emb = nn.Embedding(vocab_size, n_embd)
        self.qkv = nn.ModuleList(nn.Linear(n_embd, 3 * n_embd, bias=False) for _ in range(n_layer))
        self.out = nn.ModuleList(nn.Linear(n_embd, n_embd, bias=False) for _ in range(n_layer))
        self.head = nn.Linear(n_embd, vocab_size, bias=False)
        cos, sin = rope_cache(T, n_embd // n_head)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def hidden(self, ids_BT):
        B, length = ids_BT.shape
        x_BTC = self.emb(ids_BT)
        cos, sin = self.cos[:length], self.sin[:length]
        for qkv, out in zip(self.qkv, self.out):
            q, k, v = qkv(rms_norm(x_BTC)).view(B, length, 3, self.n_head, -1).unbind(2)
            q, k = rms_norm(apply_rope(q, cos, sin)), rms_norm(apply_rope(k, cos, sin))
            x_BTC = x_BTC + out(attend(1.2 * q, k, v).flatten(2))
        return rms_norm(x_BTC)

    def forward(self, ids_BT, targets_BT):
        return lm_loss(self.hidden(ids_BT), self.head.weight, targets_BT, cap=0.0)

    def losses(self, ids_BT, targets_BT):
        return token_losses(self.hidden(ids_BT), self.head.weight, targets_BT, cap=0.0)


class Learner:
    "A model in training: what all rungs have in common"

    clip = 0.0  # longest gradient; 0: any

    def __init__(self, vocab_size: int, text: "Text", steps: int):
        self.text, self.steps, self.step = text, steps, 0
        self.seconds = 0.0  # of training
        seed_all(SEED)
        self.model = self.make_model(vocab_size)
        self.optimizer = self.make_optimizer()

    def losses(self, ids_BT, targets_BT):
        "Nats of each token, as `bits_per_byte` wants them"
        return self.model.losses(ids_BT, targets_BT)

    def set_rates(self):
        "Of this step"
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * self.factor()

    def batch(self):
        "The rows of this step: the same windows of the text for every rung"
        seed_all(step_seed(SEED, self.step))
        return windows(self.text.ids_N, ROWS, T)

    def train(self, n: int):
        "n steps, on the clock"
        self.model.train()
        began = time.perf_counter()
        for _ in range(n):
            self.model(*self.batch()).backward()
            if self.clip:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.set_rates()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1
        self.seconds += time.perf_counter() - began

    @property
    def params(self) -> int:
        return sum(p.numel() for p in self.model.parameters())


class BaselineRung(Learner):
    chapter, name, lr, clip = 7, "baseline", 2e-3, 1.0
    recipe = "chapter 07: AdamW, betas 0.9 and 0.99, decay 0.1 of matrices, warm-up 30, cosine to a tenth"

    def make_model(self, vocab_size):
        return Baseline(BaselineConfig(vocab_size, seq_len=T, bias=False, **SHAPE))

    def make_optimizer(self):
        return torch.optim.AdamW(decay_groups(self.model, 0.1), lr=self.lr, betas=(0.9, 0.99), fused=True)

    def factor(self):
        warmup = min(30, self.steps // 10)
        recipe = Recipe(steps=self.steps, rows=ROWS, lr=self.lr, min_lr=self.lr / 10, warmup=warmup)
        return rate_at(self.step, recipe) / self.lr


class AttentionRung(Learner):
    chapter, name, lr = 8, "attention alone", 4e-3
    recipe = "chapter 08: AdamW, betas 0.9 and 0.95, warm-up 30, then a line to 0; no MLP in the layers"

    def make_model(self, vocab_size):
        return Looker(vocab_size, **SHAPE)

    def make_optimizer(self):
        return torch.optim.AdamW(self.model.parameters(), lr=self.lr, betas=(0.9, 0.95), fused=True)

    def factor(self):
        return min(1, (self.step + 1) / 30) * (1 - self.step / self.steps)


class GPTRung(Learner):
    chapter, name, lr, switches = 9, "GPT, classic", 0.01, {}
    recipe = "chapter 09: AdamW, betas 0.8 and 0.95, no decay, flat, then down over the second half"

    def make_model(self, vocab_size):
        shape = dict(SHAPE, n_kv_head=SHAPE["n_head"])
        return GPT(GPTConfig(vocab_size, seq_len=T, **shape, **self.switches))

    def make_optimizer(self):
        some = dict(lr=self.lr, betas=(0.8, 0.95), weight_decay=0.0, fused=True)
        return torch.optim.AdamW(self.model.parameters(), **some)

    def losses(self, ids_BT, targets_BT):
        return self.model(ids_BT, targets_BT, reduction="none")

    def factor(self):
        return lr_at(self.step, self.steps)


class ModernRung(GPTRung):
    name, switches = "GPT, modern", MODERN


class MuonRung(ModernRung):
    chapter, name, lr = 10, "GPT, modern, Muon", 0.02
    recipe = "chapters 10 and 11: Muon for matrices, AdamW for the rest, the table COURSE; flat, then down"

    def make_optimizer(self):
        return MuonAdamW(param_groups(self.model))

    def set_rates(self):
        for group in self.optimizer.groups:
            group["lr"] = group["base_lr"] * self.factor()
            if group["kind"] == "muon":
                group["momentum"] = 0.85 + 0.1 * min((self.step + 1) / 100, 1)  # as chapter 14 does


class RoadRung(MuonRung):
    chapter, name = 14, "GPT as `pretrain` trains it"
    recipe = "chapter 10's, in this machine's fastest dtype, whole documents packed into rows"

    def __init__(self, vocab_size: int, text, steps: int):
        super().__init__(vocab_size, text, steps)
        lanes = Lanes(self.documents, text.tok.encode_batch, text.tok.bos, T + 1, lanes=4)
        self.stream = batches(lanes, ROWS, T)

    def documents(self, at: int = 0):
        "The training text again and again, each time in another order, from document number `at` on"
        n = len(self.text.train)
        for epoch in itertools.count(at // n):
            order = torch.randperm(n, generator=torch.Generator().manual_seed(step_seed(SEED, epoch)))
            yield from (self.text.train[k] for k in order[at % n if epoch == at // n else 0 :].tolist())

    def make_model(self, vocab_size):
        shape = dict(SHAPE, n_kv_head=SHAPE["n_head"])
        return GPT(GPTConfig(vocab_size, seq_len=T, **shape, **self.switches), pick_dtype("cpu"))

    def batch(self):
        return next(self.stream)[:2]


LEARNERS = (BaselineRung, AttentionRung, GPTRung, ModernRung, MuonRung, RoadRung)


# ---- the board ----


class Text:
    "The frozen text as tokens"

    def __init__(self, quick: bool):
        self.tok = Tokenizer.load(FOLDER / "tokenizer")
        train, val = board_text("train"), board_text("val")
        self.train = train
        if quick:
            val = val[:20]
        self.token_bytes = self.tok.token_bytes()
        self.train_rows, self.val_rows = (self.rows_of(docs) for docs in (train, val))
        self.ids_N = torch.tensor([i for doc in train for i in (self.tok.bos, *self.tok.encode(doc))])

    def rows_of(self, docs: list) -> list:
        return val_rows(iter(docs), self.tok.encode, self.tok.bos, T)

    def score(self, losses) -> float:
        "Bits per byte of the validation text"
        cuts = (self.val_rows[k : k + 32] for k in range(0, len(self.val_rows), 32))
        return bits_per_byte(losses, (to_batch(rows, T + 1) for rows in cuts), self.token_bytes)


def counted(text: Text) -> list:
    "Chapter 06's lines"
    rungs, n_tokens = [], sum(map(len, text.train_rows))
    for order, name in enumerate(("uniform", "unigram", "bigram", "trigram")):
        began = time.perf_counter()
        model = NGram(max(order, 1), text.tok.vocab_size)
        if order:
            model.fit(text.train_rows)
        line = dict(
            chapter=6,
            name=name,
            params=sum(len(level.grams) for level in model.levels),
            tokens=n_tokens if order else 0,
            seconds=round(time.perf_counter() - began, 3) if order else 0.0,
            bits_per_byte=text.score(model.losses),
        )
        rungs.append(dict(line, equal_time=dict(line), curve=[], recipe="counts every n-gram once"))
        print(f"  {name:20} {line['bits_per_byte']:.4f}")
    return rungs


def race(text: Text, steps: dict, moments: int) -> dict:
    "All learners trained in turns: {name: learner, curve}"
    learners = {}
    for kind in LEARNERS:
        learners[kind.name] = kind(text.tok.vocab_size, text, steps[kind.name])
    curves = {name: [] for name in learners}
    slices = 5 * moments
    for k in range(slices):
        for name, learner in learners.items():
            learner.train(learner.steps * (k + 1) // slices - learner.step)
        if k % 5 == 4:
            for name, learner in learners.items():
                curves[name].append(point(text, learner))
            said = ", ".join(f"{curve[-1]['bits_per_byte']:.3f}" for curve in curves.values())
            slowest = max(learner.seconds for learner in learners.values())
            print(f"  {k + 1}/{slices} (at most {slowest:.0f} s): {said}", flush=True)
    return {name: (learner, curves[name]) for name, learner in learners.items()}


def point(text: Text, learner: Learner) -> dict:
    "Where a learner stands"
    learner.model.eval()
    return dict(
        tokens=learner.step * ROWS * T,
        seconds=round(learner.seconds, 2),
        bits_per_byte=text.score(learner.losses),
    )


def load_now() -> float:
    return round(os.getloadavg()[0], 2)


def learned(text: Text, steps: int, seconds: float, moments: int) -> list:
    "The lines of chapters 07 to 14"
    print(f"equal tokens: {steps} steps of {ROWS * T:,} tokens for each")
    at_tokens = race(text, {kind.name: steps for kind in LEARNERS}, moments)
    fits = {}
    for name, (learner, _) in at_tokens.items():
        fits[name] = max(moments, round(seconds * steps / learner.seconds))
    print(f"equal time: {seconds:.0f} s for each, {', '.join(map(str, fits.values()))} steps")
    at_time = race(text, fits, moments)
    rungs = []
    for name, (learner, curve) in at_tokens.items():
        line = dict(chapter=learner.chapter, name=name, params=learner.params, **curve[-1])
        other = dict(at_time[name][1][-1], curve=at_time[name][1], steps=fits[name])
        rungs.append(
            dict(line, equal_time=other, curve=curve, steps=steps, lr=learner.lr, recipe=learner.recipe)
        )
    return rungs


TIER = (  # stage, chapter that shows it, and the stages that it has behind it
    ("base", 16, "the laptop tier's base model", ("base",)),
    ("sft", 20, "the same, fine-tuned to chat", ("base", "mid", "sft")),
    ("rl", 24, "the same, after the whole road", ("base", "mid", "sft", "rl")),
)


def tier_lines(run: str, text: Text) -> list:
    "A finished run of the laptop tier on the frozen text, and how many of its documents the run could read"
    found = find_run(run, "cpu")
    tok, held_out = Tokenizer.load(found.folder / "tokenizer"), set(board_text("val"))
    read = Corpus(found.plan.corpus, found.plan.seed).documents()
    seen = len(held_out.intersection(itertools.islice(read, 60_000)))  # more than pretraining gets to
    print(f"{seen} of {len(held_out)} documents of the validation text are among the run's first 60,000")
    summary = json.loads((found.folder / "results" / "summary.json").read_text())
    rows = val_rows(iter(board_text("val")), tok.encode, tok.bos, found.plan.seq_len)
    lines = []
    for stage, chapter, name, behind in TIER:
        model, _ = load_model(found.folder / stage)
        lines.append(
            dict(
                chapter=chapter,
                name=name,
                params=sum(p.numel() for p in model.parameters()),
                tokens=sum(summary["tokens"][before] for before in behind),
                seconds=round(sum(summary["seconds"][before] for before in behind), 1),
                bits_per_byte=model_bpb(model.eval(), rows, tok, found.plan.seq_len),
                equal_time=None,
                curve=[],
                val_documents_read=seen,
                recipe=f"bash speedrun.sh --tier laptop --seed {found.plan.seed}",
            )
        )
    return lines


def about(steps: int, seconds: float) -> dict:
    "What every line of the record shares"
    card = json.loads((FOLDER / "card.json").read_text())
    return dict(
        what="bits per byte of one frozen text, rung by rung, at equal tokens and at equal time",
        text=card,
        n_bytes=card["val"]["bytes"],
        shape=dict(SHAPE, seq_len=T, rows=ROWS, dtype="float32"),
        road_dtype=str(pick_dtype("cpu"))[6:],  # of chapter 14's line
        equal_tokens=steps * ROWS * T,
        equal_seconds=seconds,
        seed=SEED,
        command="python bench/scoreboard.py",
        threads=torch.get_num_threads(),
        provenance=provenance(),
    )


def tier_kept(path: Path) -> list:
    "Lines of the tier, which a race does not touch"
    kept = json.loads(path.read_text())["rungs"] if path.exists() else []
    return [line for line in kept if not line["equal_time"]]


def keep(path: Path, found: dict):
    "Write the record, and show it"
    atomic_write(path, json.dumps(found, indent=1) + "\n")
    for line in found["rungs"]:
        in_time = f"{line['equal_time']['bits_per_byte']:.4f}" if line["equal_time"] else ""
        print(f"{line['name']:32} {line['params']:9,} {line['bits_per_byte']:.4f} {in_time}")


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--freeze", action="store_true", help="write text and tokenizer anew")
    ap.add_argument("--quick", action="store_true", help="a few steps of each; nothing is kept")
    ap.add_argument("--counted", action="store_true", help="chapter 06's lines only; the others stay")
    ap.add_argument("--run", help="the laptop tier's lines only, from this finished run; the others stay")
    ap.add_argument("--steps", type=int, default=480, help="optimizer steps of each, at equal tokens")
    ap.add_argument("--seconds", type=float, default=60.0, help="training time of each, at equal time")
    ap.add_argument("--out", type=Path, default=RESULT, help="where the result goes")
    a = ap.parse_args()
    if a.quick and (a.counted or a.run):
        ap.error("--quick keeps nothing: leave --counted and --run out")
    if a.freeze:
        return freeze()
    keep_memory()
    text, before = Text(a.quick), load_now()
    if a.run:
        kept = json.loads(a.out.read_text())
        others = [line for line in kept["rungs"] if line["equal_time"]]
        return keep(a.out, dict(kept, rungs=others + tier_lines(a.run, text)))
    rungs = counted(text)
    if a.counted:
        kept = json.loads(a.out.read_text()) if a.out.exists() else about(a.steps, a.seconds)
        others = [line for line in kept.get("rungs", []) if line["chapter"] != 6]
        found = dict(kept, rungs=rungs + others)
    elif a.quick:
        rungs += learned(text, 10, 1.0, 2)
        assert all(len(line["curve"]) == 2 for line in rungs[4:])
        print("every rung trains")
        return
    else:
        rungs += learned(text, a.steps, a.seconds, 8)
        load = dict(before=before, after=load_now())
        found = dict(about(a.steps, a.seconds), load=load, rungs=rungs + tier_kept(a.out))
    keep(a.out, found)


if __name__ == "__main__":
    main()
