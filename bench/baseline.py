"""nanoGPT's documented CPU settings: chapter 07's baseline beside transformers' GPT-2 class.

    python bench/baseline.py [--parts race board] [--corpus ../shared/data/tinyshakespeare] [--seed 0]

4 layers, 4 heads, 128 wide, characters, block 64, batch 12, AdamW, float32. Three models train in turns, a
slice of each, in one process, so that a noisy machine slows all: ours as documented (no biases), ours with
biases, which is the very function that transformers' class computes and begins with the same weights, and
that class. All see the same windows and the same learning rates, and have the same fused AdamW. The clock
runs in training only; afterwards each is scored on all of the validation text, the last tenth.

`board` is chapter 07's line on the scoreboard after a longer training: the chapter's text, tokenizer, shape
and rates, and four times its steps. It measures no time.
"""

import argparse, json, sys, time
from dataclasses import asdict, replace
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
import torch
import torch.nn.functional as F
from nanochat.baseline import (
    RECIPES,
    SIZES,
    BaselineConfig,
    Characters,
    Recipe,
    Trainer,
    decay_groups,
    evaluate,
    in_order_rows,
    n_params,
    rate_at,
    read_folder,
    step_seed,
    to_ids,
    windows,
)
from nanochat.loader import to_batch, val_rows
from nanochat.loss import bits_per_byte
from nanochat.runtime import keep_memory, provenance, seed_all
from nanochat.tokenizer import Tokenizer
from nanochat.world import World

CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


class Peer:
    "transformers' GPT2LMHeadModel, trained as ours is, from the same first weights"

    def __init__(self, like: Trainer):
        from transformers import GPT2Config, GPT2LMHeadModel

        config, recipe = like.model.config, like.recipe
        self.recipe, self.seed, self.ids_N, self.step = recipe, like.seed, like.ids_N, 0
        self.seq_len = config.seq_len
        shape = dict(n_embd=config.n_embd, n_layer=config.n_layer, n_head=config.n_head)
        none = dict(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0)
        sizes = dict(vocab_size=config.vocab_size, n_positions=config.seq_len, use_cache=False)
        self.model = GPT2LMHeadModel(GPT2Config(**sizes, **shape, **none))
        with torch.no_grad():
            for name, ours in like.model.named_parameters():
                theirs = self.model.transformer.get_parameter(name)
                theirs.copy_(ours.T if name.endswith(CONV1D) else ours)
        self.optimizer = torch.optim.AdamW(
            decay_groups(self.model, recipe.weight_decay),
            lr=recipe.lr,
            betas=(recipe.beta1, recipe.beta2),
            fused=True,
        )

    def train_step(self) -> float:
        seed_all(step_seed(self.seed, self.step))
        self.model.train()
        ids, targets = windows(self.ids_N, self.recipe.rows, self.seq_len)
        loss = F.cross_entropy(self.model(ids).logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.step, self.recipe)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return loss.item()

    @torch.no_grad()
    def nats(self, ids_N) -> float:
        "Per character, over all of a text"
        self.model.eval()
        total = 0.0
        for ids, targets in in_order_rows(ids_N, self.seq_len):
            logits = self.model(ids).logits.flatten(0, 1)
            total += F.cross_entropy(logits, targets.flatten(), ignore_index=-1, reduction="sum").item()
        return total / (len(ids_N) - 1)


def race(corpus: str, seed: int, steps: int, slices: int = 40) -> dict:
    "All trained in turns: seconds, losses and scores of each"
    keep_memory()
    docs = read_folder(corpus)
    codec = Characters("".join(docs["train"] + docs["val"]))
    train, val = (to_ids(docs[split], codec) for split in ("train", "val"))
    recipe = replace(RECIPES["cpu"], steps=steps)
    config = replace(SIZES["cpu"], vocab_size=codec.vocab_size)
    with_bias = replace(config, bias=True)
    racers = {
        "ours": Trainer(config, recipe, train, seed),
        "ours with biases": Trainer(with_bias, recipe, train, seed),
    }
    racers["transformers"] = Peer(racers["ours with biases"])
    seconds = dict.fromkeys(racers, 0.0)
    losses = {name: [] for name in racers}
    for k in range(slices):
        for name, racer in racers.items():
            n = steps * (k + 1) // slices - steps * k // slices
            began = time.perf_counter()
            losses[name] += [racer.train_step() for _ in range(n)]
            seconds[name] += time.perf_counter() - began
        said = ", ".join(f"{name} {s:.0f} s" for name, s in seconds.items())
        print(f"\r{k + 1}/{slices}  {said}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    found = {}
    for name, racer in racers.items():
        if isinstance(racer, Peer):
            nats = racer.nats(val)
        else:
            nats = evaluate(racer.model, val, codec.token_bytes()).nats
        last = losses[name][-100:]
        found[name] = dict(
            seconds=seconds[name],
            validation_nats=nats,
            last_training_nats=sum(last) / len(last),
            first_loss=losses[name][0],
            params=sum(p.numel() for p in racer.model.parameters()),
        )
    ours = evaluate(racers["ours"].model, val, codec.token_bytes())
    assert found["ours"]["params"] == n_params(config)
    return dict(
        what="nanoGPT's documented CPU settings on tinyshakespeare, three models in turns",
        seed=seed,
        steps=steps,
        size=asdict(config),
        recipe=asdict(recipe),
        validation_characters=len(val),
        perplexity=ours.perplexity,
        bits_per_byte=ours.bits_per_byte,
        ratio=seconds["ours"] / seconds["transformers"],
        ratio_same_function=seconds["ours with biases"] / seconds["transformers"],
        racers=found,
        threads=torch.get_num_threads(),
    )


def world_text(split: str, n_bytes: int) -> list[str]:
    "Documents of World, about n_bytes of them, as in chapters 06 and 07"
    docs, size = [], 0
    for doc in World(0).documents(split):
        docs.append(doc)
        size += len(doc.encode())
        if size >= n_bytes:
            return docs
    return docs


def board(steps: int = 2400, seed: int = 0) -> dict:
    "Bits per byte of World's validation text, by steps"
    train_docs, val_docs = world_text("train", 1_000_000), world_text("val", 100_000)
    tok = Tokenizer.train(train_docs, 1024)
    train_ids = torch.tensor([i for doc in train_docs for i in (tok.bos, *tok.encode(doc))])
    config = BaselineConfig(tok.vocab_size, seq_len=64, n_layer=2, n_head=4, n_embd=128, bias=False)
    recipe = Recipe(steps=steps, rows=12, lr=2e-3, min_lr=2e-4, warmup=30)
    trainer = Trainer(config, recipe, train_ids, seed)
    for k in range(steps):
        trainer.train_step()
        if k % 100 == 99:
            print(f"\r{k + 1}/{steps}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    ids, targets = to_batch(val_rows(iter(val_docs), tok.encode, tok.bos, 64), 65)
    batches = zip(ids.split(128), targets.split(128))
    bpb = bits_per_byte(trainer.model.eval().losses, batches, tok.token_bytes())
    return dict(steps=steps, seed=seed, bits_per_byte=bpb, params=n_params(config))


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--parts", nargs="+", choices=("race", "board"), default=("race", "board"))
    ap.add_argument("--corpus", default=str(here.parent / "shared" / "data" / "tinyshakespeare"))
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--steps", type=int, default=Recipe().steps)
    a = ap.parse_args()
    if "race" in a.parts and not Path(a.corpus).exists():
        sys.exit(f"error: no such folder: {a.corpus}; give --corpus DIR with tinyshakespeare's input.txt")
    path = here / "bench" / "results" / "baseline.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    if "board" in a.parts:
        kept["board"] = board(seed=a.seed)
        path.write_text(json.dumps(kept, indent=1) + "\n")
        print(f"on World, {kept['board']['steps']} steps: {kept['board']['bits_per_byte']:.3f} bits per byte")
    if "race" not in a.parts:
        return
    out = race(a.corpus, a.seed, a.steps)
    import transformers

    out["versions"] = {**provenance(), "transformers": transformers.__version__}
    if a.steps == Recipe().steps:
        path.write_text(json.dumps({**kept, "race": out}, indent=1) + "\n")
    for name, r in out["racers"].items():
        print(
            f"{name:18} {r['seconds']:6.1f} s  {r['validation_nats']:.3f} nats a character, "
            f"{r['last_training_nats']:.3f} in training, {r['params']:,} parameters"
        )
    print(
        f"time ours/transformers: {out['ratio']:.2f}; of the same function: "
        f"{out['ratio_same_function']:.2f}; "
        f"perplexity {out['perplexity']:.2f}, {out['bits_per_byte']:.3f} bits per byte"
    )


if __name__ == "__main__":
    main()
