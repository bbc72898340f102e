"""tinyshakespeare in equal training time: this library against transformers' GPT-2 class.

    python bench/shakespeare.py [--corpus ../shared/data/tinyshakespeare] [--seed 0] [--repeats 1]

The clock is the peer, in the shape of nanoGPT's documented CPU settings: 4 layers, 4 heads, 128 wide,
characters, block 64, batch 12, AdamW, 2,000 iterations, float32. Both train in turns, a slice of each, in
one process, so that a noisy machine slows both. Ours takes a fixed number of steps; the ratio of the two
training times is printed, and must not be above 1. Both are scored on all of the same validation text, the
last tenth. Python, tokenizer training and scoring are outside of both clocks.
"""

import argparse, json, math, statistics, sys, time
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
import torch
from nanochat.corpus import documents, folder_index, in_order
from nanochat.distributed import MuonAdamW, param_groups
from nanochat.evaluate import model_bpb
from nanochat.gpt import GPT, MODERN, n_params
from nanochat.loader import Lanes, batches, prefetch, val_rows
from nanochat.pretrain import set_rates, train_step
from nanochat.runtime import keep_memory, pick_dtype, provenance, seed_all
from nanochat.scaling import config_for
from nanochat.tokenizer import Tokenizer

# ours: found by trials on two cores
OURS = dict(
    vocab_size=1024,
    depth=4,
    n_embd=128,
    n_head=2,
    seq_len=256,
    rows=4,
    lanes=4,
    steps=1250,
    matrix_lr=0.01,
    embed_lr=0.1,
    head_lr=0.002,
    warmdown=0.5,
)
PEER = dict(
    n_layer=4,
    n_head=4,
    n_embd=128,
    block=64,
    batch=12,
    iterations=2000,
    lr=1e-3,
    min_lr=1e-4,
    warmup=100,
    betas=(0.9, 0.99),
    weight_decay=0.1,
    clip=1.0,
)


class Peer:
    "nanoGPT's recipe on characters, the model being transformers' GPT2LMHeadModel"

    def __init__(self, train: str, val: str, seed: int):
        from transformers import GPT2Config, GPT2LMHeadModel

        p = PEER
        self.chars = sorted(set(train + val))
        self.at = {c: i for i, c in enumerate(self.chars)}
        self.data = torch.tensor([self.at[c] for c in train])
        torch.manual_seed(seed)
        self.dice = torch.Generator().manual_seed(seed)
        self.model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(self.chars),
                n_positions=p["block"],
                n_embd=p["n_embd"],
                n_layer=p["n_layer"],
                n_head=p["n_head"],
                resid_pdrop=0,
                embd_pdrop=0,
                attn_pdrop=0,
                bos_token_id=0,
                eos_token_id=0,
                use_cache=False,
            )
        ).train()
        decay = [q for q in self.model.parameters() if q.dim() > 1]
        plain = [q for q in self.model.parameters() if q.dim() <= 1]
        self.opt = torch.optim.AdamW(
            [dict(params=decay, weight_decay=p["weight_decay"]), dict(params=plain, weight_decay=0)],
            lr=p["lr"],
            betas=p["betas"],
        )
        self.step = 0

    def run(self, n: int):
        p = PEER
        for _ in range(n):
            i = self.step
            lr = (
                p["lr"] * (i + 1) / p["warmup"]
                if i < p["warmup"]
                else p["min_lr"]
                + (p["lr"] - p["min_lr"])
                * (1 + math.cos(math.pi * (i - p["warmup"]) / (p["iterations"] - p["warmup"])))
                / 2
            )
            for g in self.opt.param_groups:
                g["lr"] = lr
            ix = torch.randint(len(self.data) - p["block"] - 1, (p["batch"],), generator=self.dice)
            x = torch.stack([self.data[k : k + p["block"]] for k in ix])
            y = torch.stack([self.data[k + 1 : k + p["block"] + 1] for k in ix])
            loss = torch.nn.functional.cross_entropy(self.model(x).logits.flatten(0, 1), y.flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), p["clip"])
            self.opt.step()
            self.opt.zero_grad()
            self.step += 1

    @torch.no_grad()
    def bpb(self, text: str) -> float:
        "Bits per character, which here is a byte, over all blocks of a text"
        self.model.eval()
        ids = torch.tensor([self.at[c] for c in text])
        T, nats = PEER["block"], 0.0
        n = (len(ids) - 1) // T
        x, y = ids[: n * T].view(n, T), ids[1 : n * T + 1].view(n, T)
        for k in range(0, n, 256):
            nats += torch.nn.functional.cross_entropy(
                self.model(x[k : k + 256]).logits.flatten(0, 1), y[k : k + 256].flatten(), reduction="sum"
            ).item()
        return nats / (n * T) / math.log(2)


class Ours:
    "The library: its tokenizer, loader, model, optimizer and training step"

    def __init__(self, corpus: str, seed: int, **over):
        o = self.o = {**OURS, **over}

        def docs(at=0):
            return documents(corpus, "train", seed, at)

        self.tok = Tokenizer.train(documents(corpus, "train", seed, epochs=1), o["vocab_size"])
        seed_all(seed)
        self.dtype = pick_dtype("cpu", "auto")
        self.model = GPT(
            config_for(
                o["depth"],
                self.tok.vocab_size,
                o["seq_len"],
                n_embd=o["n_embd"],
                n_head=o["n_head"],
                **MODERN,
            ),
            self.dtype,
        ).train()
        self.opt = MuonAdamW(param_groups(self.model, o["matrix_lr"], o["embed_lr"], o["head_lr"]))
        lanes = Lanes(docs, self.tok.encode_batch, self.tok.bos, o["seq_len"] + 1, o["lanes"])
        self.stream, self.step, self.corpus, self.seed = (
            prefetch(batches(lanes, o["rows"], o["seq_len"], o["steps"])),
            0,
            corpus,
            seed,
        )

    def run(self, n: int):
        for _ in range(n):
            set_rates(self.opt, self.step, self.o)
            train_step(self.model, self.opt, [next(self.stream)])
            self.step += 1

    def bpb(self) -> float:
        self.model.eval()
        return model_bpb(
            self.model,
            val_rows(
                documents(self.corpus, "val", self.seed), self.tok.encode, self.tok.bos, self.o["seq_len"]
            ),
            self.tok,
            self.o["seq_len"],
        )


def race(corpus: str, seed: int, slices: int = 20) -> dict:
    "Both trained in turns; seconds and bits per byte of each"
    keep_memory()
    train, val = ("".join(in_order(folder_index(corpus), s)) for s in ("train", "val"))
    ours, peer, clock = Ours(corpus, seed), Peer(train, val, seed), dict(ours=0.0, peer=0.0)
    for k in range(slices):
        for name, who, total in (("peer", peer, PEER["iterations"]), ("ours", ours, ours.o["steps"])):
            t0 = time.perf_counter()
            who.run(total * (k + 1) // slices - total * k // slices)
            clock[name] += time.perf_counter() - t0
        print(
            f"\r{k + 1}/{slices}  peer {clock['peer']:.0f} s  ours {clock['ours']:.0f} s",
            end="",
            file=sys.stderr,
            flush=True,
        )
    print(file=sys.stderr)
    ours.stream.close()
    return dict(
        seed=seed,
        peer_seconds=clock["peer"],
        our_seconds=clock["ours"],
        ratio=clock["ours"] / clock["peer"],
        peer_bpb=peer.bpb(val),
        our_bpb=ours.bpb(),
        validation_bytes=len(val.encode()),
        peer_params=sum(p.numel() for p in peer.model.parameters()),
        our_params=n_params(ours.model)[0],
        dtype=str(ours.dtype)[6:],
    )


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--corpus", default=str(here.parent / "shared" / "data" / "tinyshakespeare"))
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--repeats", type=int, default=1, help="races, each with the next seed")
    a = ap.parse_args()
    if not Path(a.corpus).exists():
        sys.exit(
            f"error: no such folder: {a.corpus}; give --corpus DIR with tinyshakespeare's input.txt in it"
        )
    races = []
    for seed in range(a.seed, a.seed + a.repeats):
        r = race(a.corpus, seed)
        races.append(r)
        print(
            f"seed {seed}: peer {r['peer_seconds']:.1f} s, {r['peer_bpb']:.3f} bits/byte; ours "
            f"{r['our_seconds']:.1f} s, {r['our_bpb']:.3f} bits/byte; time ours/peer {r['ratio']:.2f}"
        )

    def med(k):
        return statistics.median(r[k] for r in races)

    out = dict(
        what="tinyshakespeare in equal training time",
        ours=OURS,
        peer={k: list(v) if isinstance(v, tuple) else v for k, v in PEER.items()},
        races=races,
        ratio=med("ratio"),
        our_bpb=med("our_bpb"),
        peer_bpb=med("peer_bpb"),
        versions=provenance(),
    )
    import transformers

    out["versions"]["transformers"] = transformers.__version__
    (here / "bench" / "results").mkdir(exist_ok=True)
    (here / "bench" / "results" / "shakespeare.json").write_text(json.dumps(out, indent=1) + "\n")
    ok = out["ratio"] <= 1 and out["our_bpb"] < 2.36
    print(
        f"{'ok  ' if ok else 'MISS'} {out['our_bpb']:.3f} bits/byte in {out['ratio']:.2f} of the peer's "
        "time (asked: under 2.36 in at most 1.00; goal 2.25)"
    )
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
