"""tinyshakespeare in equal training time: this library against transformers' GPT-2 class.

    python bench/shakespeare.py                      the race that is kept: about four minutes a seed
    python bench/shakespeare.py --grid               the settings that may be taken, each with its name
    python bench/shakespeare.py --grid all           all of them against the peer (or give some names)
    python bench/shakespeare.py --quick              a proof that everything runs: nothing is kept

The clock is the peer, in the shape of nanoGPT's documented CPU settings: 4 layers, 4 heads, 128 wide,
characters, block 64, batch 12, AdamW, 2,000 iterations, float32. All train in turns, a slice of each, in one
process, so that a noisy machine slows all. Ours takes the number of steps that its setting says; where it
says 0, a few steps of both are timed first, and it gets as many as fit into 0.97 of the peer's time (what
compiling takes is on its clock, too). Afterwards each is scored on all of the same validation text, the last
tenth. Python, tokenizer training and scoring are outside of all clocks.

Settings are never chosen by the validation text that is reported: `--grid` sees the training text alone, and
scores on the last tenth of that. What it found is kept in results/shakespeare_grid.json.

Two scores are given. In the first, rows lie side by side, so that the first tokens of each row have little
to go by. In the second, each row begins with the last half of the row before, which is read and not scored.
The first is what the goal is about.
"""

import argparse, json, math, os, statistics, sys, tempfile, time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
import torch
import torch.nn.functional as F
from nanochat.corpus import documents, folder_index, in_order
from nanochat.distributed import MuonAdamW, param_groups
from nanochat.evaluate import model_bpb
from nanochat.gpt import GPT, MODERN, n_params
from nanochat.loader import Lanes, batches, encode_arrays, prefetch, val_rows
from nanochat.loss import bits_per_byte
from nanochat.pretrain import set_rates, train_step
from nanochat.runs import Stage, atomic_write
from nanochat.runtime import keep_memory, pick_dtype, provenance, seed_all
from nanochat.scaling import config_for
from nanochat.tokenizer import Tokenizer

GOAL = 2.08


@dataclass(frozen=True)
class Setting:
    "How ours is trained; the defaults are those of the race that is kept"

    vocab_size: int = 1024
    depth: int = 4
    n_embd: int = 128
    n_head: int = 2
    seq_len: int = 256
    rows: int = 4
    lanes: int = 4
    steps: int = 1250  # 0: as many as fit into the peer's time
    matrix_lr: float = 0.01
    embed_lr: float = 0.1
    head_lr: float = 0.002
    weight_decay: float = 0.0  # of the matrices
    warmdown: float = 0.5
    final: float = 0.0
    averaged: float = 0.0  # share of the steps, the last ones, whose weights are averaged
    window: int = 0
    modern: bool = True  # every switch of chapter 09
    value_embeds: bool = True
    dtype: str = "auto"
    compiled: bool = False


OURS = Setting()


def rates(factor):
    "All three rates, times a factor"
    return dict(
        matrix_lr=factor * OURS.matrix_lr, embed_lr=factor * OURS.embed_lr, head_lr=factor * OURS.head_lr
    )


# Each changes one thing, and gets the steps that fit into the peer's time. Where text is read about three
# times, what helps may be more steps, or a model that learns less by heart
GRID = {
    "as it is": dict(),
    "vocabulary 512": dict(vocab_size=512),
    "vocabulary 2048": dict(vocab_size=2048),
    "8 rows": dict(rows=8),
    "2 rows": dict(rows=2),
    "rows of 128": dict(seq_len=128, rows=8),
    "rows of 512": dict(seq_len=512, rows=2, lanes=2),
    "96 wide": dict(n_embd=96),
    "192 wide": dict(n_embd=192, n_head=3),
    "256 wide": dict(n_embd=256, n_head=4),
    "3 layers": dict(depth=3),
    "6 layers": dict(depth=6),
    "rates x 0.6": rates(0.6),
    "rates x 1.6": rates(1.6),
    "weight decay 0.1": dict(weight_decay=0.1),
    "weight decay 0.3": dict(weight_decay=0.3),
    "weight decay 0.6": dict(weight_decay=0.6),
    "decay 0.3, vocabulary 512": dict(weight_decay=0.3, vocab_size=512),
    "decay 0.3, no value embeddings": dict(weight_decay=0.3, value_embeds=False),
    "warm-down over 0.8": dict(warmdown=0.8),
    "no warm-down, last 0.3 averaged": dict(warmdown=0.0, averaged=0.3),
    "last 0.1 averaged": dict(averaged=0.1),
    "window 64": dict(window=64),
    "no value embeddings": dict(value_embeds=False),
    "classic": dict(modern=False),
    "float32": dict(dtype="float32"),
    "compiled": dict(compiled=True),
}


@dataclass(frozen=True)
class Recipe2023:
    "nanoGPT's documented settings for a CPU"

    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    block: int = 64
    batch: int = 12
    iterations: int = 2000
    lr: float = 1e-3
    min_lr: float = 1e-4
    warmup: int = 100
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.1
    clip: float = 1.0

    def rate_at(self, step):
        "Up along a line, down along half a cosine"
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.iterations - self.warmup, 1)
        return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * done)) / 2


PEER = Recipe2023()


class Peer:
    "nanoGPT's recipe on characters, the model being transformers' GPT2LMHeadModel"

    def __init__(self, train: str, val: str, seed: int, recipe: Recipe2023 = PEER):
        from transformers import GPT2Config, GPT2LMHeadModel

        self.recipe, self.step = recipe, 0
        self.chars = sorted(set(train + val))
        self.at = {c: i for i, c in enumerate(self.chars)}
        self.data = self.encode(train)
        torch.manual_seed(seed)
        self.dice = torch.Generator().manual_seed(seed)
        shape = dict(n_embd=recipe.n_embd, n_layer=recipe.n_layer, n_head=recipe.n_head)
        none = dict(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0)
        sizes = dict(vocab_size=len(self.chars), n_positions=recipe.block, use_cache=False)
        self.model = GPT2LMHeadModel(GPT2Config(**sizes, **shape, **none)).train()
        decay = [p for p in self.model.parameters() if p.dim() > 1]
        plain = [p for p in self.model.parameters() if p.dim() <= 1]
        self.opt = torch.optim.AdamW(
            [dict(params=decay, weight_decay=recipe.weight_decay), dict(params=plain, weight_decay=0)],
            lr=recipe.lr,
            betas=(recipe.beta1, recipe.beta2),
        )

    @property
    def steps(self):
        return self.recipe.iterations

    def encode(self, text: str):
        return torch.tensor([self.at[c] for c in text])

    def run(self, n: int):
        recipe = self.recipe
        for _ in range(n):
            for group in self.opt.param_groups:
                group["lr"] = recipe.rate_at(self.step)
            starts = torch.randint(
                len(self.data) - recipe.block - 1, (recipe.batch,), generator=self.dice
            ).tolist()
            x = torch.stack([self.data[k : k + recipe.block] for k in starts])
            y = torch.stack([self.data[k + 1 : k + recipe.block + 1] for k in starts])
            F.cross_entropy(self.model(x).logits.flatten(0, 1), y.flatten()).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
            self.opt.step()
            self.opt.zero_grad()
            self.step += 1

    @torch.no_grad()
    def losses(self, ids, targets):
        logits = self.model(ids).logits.flatten(0, 1)
        return F.cross_entropy(logits, targets.flatten(), ignore_index=-1, reduction="none").view_as(targets)

    def bpb(self, val: str) -> dict:
        "Bits per character, which here is a byte"
        self.model.eval()
        ids, T, ones = self.encode(val).tolist(), self.recipe.block, torch.ones(len(self.chars))
        rows = {"side by side": overlapping(ids, T, 0), "overlapping": overlapping(ids, T, T // 2)}
        return {name: bits_per_byte(self.losses, stacked(row, T), ones) for name, row in rows.items()}


def overlapping(ids: list, T: int, again: int, opens=()) -> list:
    "(row, ids not scored): rows of T+1 at most, each beginning with the last `again` ids before it"
    opens = list(opens)
    known = again if opens else max(again, 1)  # something must be read before the first target
    new, rows = T + 1 - len(opens) - known, []
    for start in range(0 if opens else 1, len(ids), new):
        read = opens + ids[max(0, start - known) : start]
        rows.append((read + ids[start : start + new], len(read)))
    return rows


def stacked(rows: list, T: int, batch: int = 64):
    "Batches of (ids, targets), filled up with targets of -1"
    for k in range(0, len(rows), batch):
        part = rows[k : k + batch]
        ids = torch.zeros(len(part), T + 1, dtype=torch.int64)
        targets = torch.full((len(part), T + 1), -1)
        for i, (row, read) in enumerate(part):
            ids[i, : len(row)] = torch.tensor(row)
            targets[i, read : len(row)] = torch.tensor(row[read:])
        yield ids[:, :-1], targets[:, 1:]


class Ours:
    "The library: its tokenizer, loader, model, optimizer and training step"

    def __init__(self, corpus: str, seed: int, setting: Setting):
        self.setting, self.corpus, self.seed, self.step = setting, corpus, seed, 0

        def docs(at=0):
            return documents(corpus, "train", seed, at)

        self.tok = Tokenizer.train(documents(corpus, "train", seed, epochs=1), setting.vocab_size)
        seed_all(seed)
        self.dtype = pick_dtype("cpu", setting.dtype)
        switches = dict(MODERN, value_embeds=setting.value_embeds) if setting.modern else {}
        config = config_for(
            setting.depth,
            self.tok.vocab_size,
            setting.seq_len,
            modern=False,
            n_embd=setting.n_embd,
            n_head=setting.n_head,
            window=setting.window,
            **switches,
        )
        self.model = GPT(config, self.dtype).train()
        self.called = torch.compile(self.model) if setting.compiled else self.model
        rates = setting.matrix_lr, setting.embed_lr, setting.head_lr
        self.opt = MuonAdamW(param_groups(self.model, *rates, weight_decay=setting.weight_decay))
        encode = encode_arrays(self.tok.enc, self.tok.encode)
        lanes = Lanes(docs, encode, self.tok.bos, setting.seq_len + 1, setting.lanes)
        self.stream = prefetch(batches(lanes, setting.rows, setting.seq_len))
        self.mean, self.in_mean = [], 0
        self.plan(setting.steps)

    def plan(self, steps: int):
        "So many steps in all"
        self.steps = steps
        self.stage = Stage(
            steps=max(steps, 1),
            save_every=max(steps, 1),
            warmdown=self.setting.warmdown,
            final=self.setting.final,
        )

    def run(self, n: int):
        for _ in range(n):
            set_rates(self.opt, self.step, self.stage)
            train_step(self.called, self.opt, [next(self.stream)])
            self.step += 1
            if self.step > (1 - self.setting.averaged) * self.steps:
                self.average()

    @torch.no_grad()
    def average(self):
        "Take these weights into the mean"
        weights = list(self.model.parameters())
        self.in_mean += 1
        if self.in_mean == 1:
            self.mean = [w.clone() for w in weights]
        else:
            torch._foreach_lerp_(self.mean, weights, 1 / self.in_mean)

    def bpb(self, val: str) -> dict:
        self.model.eval()
        if self.in_mean:
            with torch.no_grad():
                torch._foreach_copy_(list(self.model.parameters()), self.mean)
        tok, T = self.tok, self.setting.seq_len
        rows = val_rows(documents(self.corpus, "val", self.seed), tok.encode, tok.bos, T)
        again = overlapping(tok.encode(val), T, T // 2, opens=[tok.bos])

        def losses(ids, targets):
            with torch.no_grad():
                return self.model(ids, targets, reduction="none")

        over = bits_per_byte(losses, stacked(again, T), tok.token_bytes())
        return {"side by side": model_bpb(self.model, rows, tok, T), "overlapping": over}


def steps_that_fit(corpus: str, texts: dict, seed: int, setting: Setting, peer: Recipe2023) -> int:
    "Steps of ours in 0.97 of the peer's time, by a few of both in turns; compiling is counted"
    ours, other = Ours(corpus, seed, setting), Peer(texts["train"], texts["val"], seed, peer)
    ours.plan(10**6)
    began = time.perf_counter()
    ours.run(2)
    first = time.perf_counter() - began
    other.run(10)
    laps = []
    for _ in range(9):
        clock = []
        for who, n in ((other, 12), (ours, 6)):
            began = time.perf_counter()
            who.run(n)
            clock.append((time.perf_counter() - began) / n)
        laps.append(clock)
    ours.stream.close()
    theirs, own = (statistics.median(lap[k] for lap in laps) for k in (0, 1))
    lost = max(0.0, first - 2 * own) if setting.compiled else 0.0
    return max(20, int((0.97 * peer.iterations * theirs - lost) / own))


def race(corpus: str, seed: int, settings: dict, peer: Recipe2023 = PEER, slices: int = 20) -> dict:
    "All trained in turns; seconds and bits per byte of each"
    keep_memory()
    texts = {split: "".join(in_order(folder_index(corpus), split)) for split in ("train", "val")}
    racers = {"peer": Peer(texts["train"], texts["val"], seed, peer)}
    for name, setting in settings.items():
        racers[name] = Ours(corpus, seed, setting)
        if not setting.steps:
            racers[name].plan(steps_that_fit(corpus, texts, seed, setting, peer))
    clock = dict.fromkeys(racers, 0.0)
    for k in range(slices):
        for name, racer in racers.items():
            began = time.perf_counter()
            racer.run(racer.steps * (k + 1) // slices - racer.steps * k // slices)
            clock[name] += time.perf_counter() - began
        said = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in list(clock.items())[:2])
        print(f"\r{k + 1}/{slices}  {said}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    found = {}
    for name, racer in racers.items():
        bpb = racer.bpb(texts["val"])
        found[name] = dict(
            seconds=clock[name],
            ratio=clock[name] / clock["peer"],
            steps=racer.steps,
            bpb=bpb["side by side"],
            bpb_overlapping=bpb["overlapping"],
        )
        if name == "peer":
            found[name]["params"] = sum(p.numel() for p in racer.model.parameters())
        else:
            racer.stream.close()
            found[name] |= dict(params=n_params(racer.model)[0], dtype=str(racer.dtype)[6:])
        print(
            f"seed {seed}, {name:20} {clock[name]:6.1f} s ({found[name]['ratio']:.2f} of the peer's), "
            f"{racer.steps:5} steps, {bpb['side by side']:.3f} bits per byte, "
            f"{bpb['overlapping']:.3f} with overlap"
        )
    return dict(seed=seed, validation_bytes=len(texts["val"].encode()), racers=found)


def held_out(corpus: str, folder: str) -> str:
    "A folder with the training text alone: its last tenth is held out, and the validation text is not in it"
    text = "".join(in_order(folder_index(corpus), "train"))
    (Path(folder) / "input.txt").write_text(text)
    return folder


def machine() -> dict:
    "Versions, threads and load"
    import transformers

    more = dict(transformers=transformers.__version__, threads=torch.get_num_threads())
    return provenance() | more | dict(load=os.getloadavg()[0])


def search(corpus: str, names: list, seeds: range, peer: Recipe2023) -> dict:
    "The named settings on the held-out part of the training text"
    settings = {name: replace(OURS, **{"steps": 0, **GRID[name]}) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        inner = held_out(corpus, folder)
        races = [race(inner, seed, settings, peer) for seed in seeds]
    table = {}
    for name in settings:
        rows = [r["racers"][name] for r in races]
        table[name] = dict(
            changes=GRID[name],
            bpb=statistics.mean(row["bpb"] for row in rows),
            bpbs=[row["bpb"] for row in rows],
            ratio=statistics.mean(row["ratio"] for row in rows),
            steps=[row["steps"] for row in rows],
        )
    best = min(table, key=lambda name: table[name]["bpb"])
    print(f"best on the held-out tenth of the training text: {best}, {table[best]['bpb']:.3f}")
    return dict(
        what="settings on tinyshakespeare's training text, scored on its last tenth; the rest is trained on",
        seeds=list(seeds),
        settings=table,
        races=races,
        versions=machine(),
    )


def kept(races: list) -> dict:
    "The race that is kept, with medians over its seeds"
    flat = []
    for r in races:
        peer, own = r["racers"]["peer"], r["racers"]["ours"]
        flat.append(
            dict(
                seed=r["seed"],
                peer_seconds=peer["seconds"],
                our_seconds=own["seconds"],
                ratio=own["ratio"],
                steps=own["steps"],
                peer_bpb=peer["bpb"],
                our_bpb=own["bpb"],
                peer_bpb_overlapping=peer["bpb_overlapping"],
                our_bpb_overlapping=own["bpb_overlapping"],
                validation_bytes=r["validation_bytes"],
                peer_params=peer["params"],
                our_params=own["params"],
                dtype=own["dtype"],
            )
        )
    names = ("ratio", "our_bpb", "peer_bpb", "our_bpb_overlapping", "peer_bpb_overlapping")
    return dict(
        what="tinyshakespeare in equal training time",
        ours=asdict(OURS),
        peer=asdict(PEER),
        races=flat,
        **{name: statistics.median(r[name] for r in flat) for name in names},
        versions=machine(),
    )


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--corpus", default=str(here.parent / "shared" / "data" / "tinyshakespeare"))
    ap.add_argument("--seed", type=int, default=0, help="the first")
    ap.add_argument("--seeds", type=int, default=1, help="how many, each a race of its own")
    ap.add_argument("--grid", nargs="*", help="settings to race; without a name: list them")
    ap.add_argument("--quick", action="store_true", help="40 iterations of the peer; nothing is kept")
    a = ap.parse_args()
    if a.grid == []:
        print("\n".join(f"{name!r:22} {changes}" for name, changes in GRID.items()))
        return
    if not Path(a.corpus).exists():
        sys.exit(f"error: no such folder: {a.corpus}; give --corpus DIR with tinyshakespeare's input.txt")
    names = list(GRID) if a.grid == ["all"] else a.grid or []
    if unknown := [name for name in names if name not in GRID]:
        sys.exit(f"error: no setting {unknown[0]!r}; `--grid` without a name lists them")
    peer = replace(PEER, iterations=40, warmup=2) if a.quick else PEER
    seeds, results = range(a.seed, a.seed + a.seeds), here / "bench" / "results"
    if names:
        out = search(a.corpus, names, seeds, peer)
        if not a.quick:
            path = results / "shakespeare_grid.json"
            before = json.loads(path.read_text())["settings"] if path.exists() else {}
            out["settings"] = before | out["settings"]
            atomic_write(path, json.dumps(out, indent=1) + "\n")
        return
    setting = replace(OURS, steps=0) if a.quick else OURS
    out = kept([race(a.corpus, seed, dict(ours=setting), peer) for seed in seeds])
    if a.quick:
        return
    atomic_write(results / "shakespeare.json", json.dumps(out, indent=1) + "\n")
    ok = out["ratio"] <= 1 and out["our_bpb"] <= GOAL
    print(
        f"{'ok  ' if ok else 'MISS'} {out['our_bpb']:.3f} bits/byte in {out['ratio']:.2f} of the peer's "
        f"time (goal: {GOAL} in at most 1.00)"
    )
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
