"""The loss of the head: its agreement with torch's, its memory, its speed, and the scores of counting models.

    python bench/loss.py                 agreement, scoreboard, speed, memory: some minutes on two cores, 3 GB
    python bench/loss.py full            (32, 2048, 65536) and its gradients, 32 channels: ten minutes, 2 GB
    python bench/loss.py speed memory    some of the parts; bench/results/loss.json keeps the others' results

Each memory figure comes from a process of its own: the most it ever held, less what it held before the loss
(the stream, the head, torch). Speeds are taken in turns, a lap of each way after the other, so that a busy
neighbour meets all of them; the ratio is what counts.
"""

import argparse, json, math, os, subprocess, sys, time
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
import torch
import torch.nn.functional as F
from nanochat.loader import to_batch, val_rows
from nanochat.loss import NGram, Scoreboard, _losses, lm_loss, softcap, token_losses
from nanochat.runs import atomic_write
from nanochat.runtime import peak_rss_mb, provenance
from nanochat.tokenizer import Tokenizer
from nanochat.world import World


def torch_loss(x, w, t, cap):
    "What everybody writes first: all logits, then torch's loss"
    return F.cross_entropy(softcap(F.linear(x, w), cap).flatten(0, -2), t.flatten(), ignore_index=-1)


# ---- memory ----


def high_water() -> float:
    "Most memory of this process, in MB: Linux's own count; getrusage has the parent's from before exec, too"
    try:
        return next(int(l.split()[1]) / 1024 for l in open("/proc/self/status") if l.startswith("VmHWM"))
    except OSError:
        return peak_rss_mb()


def forget_high_water():
    "Let Linux count the most memory anew from what is held now"
    try:
        open("/proc/self/clear_refs", "w").write("5")
    except OSError:
        pass


def child(way: str, B: int, T: int, V: int, C: int, chunk: int):
    "Forward and backward once; prints the memory that they added and the seconds that they took"
    torch.manual_seed(0)
    x, w, t = (
        torch.randn(B, T, C, requires_grad=True),
        torch.randn(V, C, requires_grad=True),
        torch.randint(V, (B, T)),
    )
    f = {
        "torch": lambda x, t, chunk: torch_loss(x, w, t, 15.0),
        "ours": lambda x, t, chunk: lm_loss(x, w, t, 15.0, chunk=chunk),
    }[way]
    f(
        x[:1, :2], t[:1, :2], V
    ).backward()  # wakes up the libraries (checkpoint alone brings 140 MB), makes room for the gradients
    x.grad = w.grad = None
    forget_high_water()
    before, t0 = high_water(), time.perf_counter()
    loss = f(x, t, chunk)
    loss.backward()
    print(
        json.dumps(
            dict(
                mb=round(high_water() - before, 1),
                seconds=round(time.perf_counter() - t0, 2),
                loss=loss.item(),
                grad=w.grad.norm().item(),
            )
        )
    )


def peak(way: str, B: int, T: int, V: int, C: int = 32, chunk: int = 1 << 26) -> dict:
    "Memory of one way at one size, in a process of its own"
    # freed blocks go back to the system at once, so that what is measured is what is used
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps([way, B, T, V, C, chunk])],
        capture_output=True,
        text=True,
        env=env,
    )
    if done.returncode:
        raise SystemExit(
            f"error: {way} at {(B, T, V)} ended with status {done.returncode} (out of memory?): "
            f"{done.stderr[-300:]}"
        )
    return dict(
        json.loads(done.stdout),
        way=way,
        shape=[B, T, V],
        channels=C,
        chunk=chunk if way == "ours" else None,
        logits_mb=round(B * T * V * 4 / 2**20, 1),
    )


def show(r):
    print(
        f"  {r['way']:5} {str(tuple(r['shape'])):18} logits {r['logits_mb']:9,.0f} MB"
        + (f", chunks of {r['chunk'] * 4 / 2**20:3.0f} MB" if r["chunk"] else " " * 19)
        + f": peak {r['mb']:8,.0f} MB more, {r['seconds']:6.1f} s"
    )
    return r


def full() -> dict:
    "The shape of a GPU's step at depth 20, ours only: torch's loss would take 69 GB"
    return show(peak("ours", 32, 2048, 65536))


def memory() -> list:
    "torch's loss and ours, side by side where torch's fits"
    rows = []
    for B, T, V in ((1, 2048, 16384), (1, 2048, 65536)):
        for way, chunk in (("torch", 0), ("ours", 1 << 21), ("ours", 1 << 23)):
            rows.append(show(peak(way, B, T, V, chunk=chunk)))
    for shape in {tuple(r["shape"]) for r in rows}:
        same = [r for r in rows if tuple(r["shape"]) == shape]
        assert all(
            math.isclose(r["loss"], same[0]["loss"], rel_tol=1e-5)
            and math.isclose(r["grad"], same[0]["grad"], rel_tol=1e-4)
            for r in same
        ), "the two ways differ"
    return rows


# ---- agreement ----


def agreement(trials: int = 200) -> dict:
    """Largest relative difference from torch's cross_entropy in float64: loss and both gradients

    Over random shapes, caps, chunks and masks."""
    g, worst = torch.Generator().manual_seed(0), [0.0, 0.0, 0.0]
    for k in range(trials):
        B, T, C, V = (int(torch.randint(1, n, (), generator=g)) for n in (5, 20, 12, 60))
        x, w = (torch.randn(*s, C, generator=g, dtype=torch.float64).requires_grad_() for s in ((B, T), (V,)))
        t = torch.randint(V, (B, T), generator=g).masked_fill(torch.rand(B, T, generator=g) < k / trials, -1)
        cap, chunk = ((0.0, 15.0, 2.0)[k % 3], (1 << 26, 7 * V, 1)[k // 3 % 3])
        ours = lm_loss(x, w, t, cap, chunk=chunk)
        theirs = torch_loss(x, w, t, cap) if (t >= 0).any() else 0 * (x.sum() + w.sum())
        for i, (a, b) in enumerate(
            zip((ours, *torch.autograd.grad(ours, (x, w))), (theirs, *torch.autograd.grad(theirs, (x, w))))
        ):
            worst[i] = max(
                worst[i], ((a - b).norm() / b.norm().clamp(min=1e-30)).item() if b.norm() else a.norm().item()
            )
    print(
        f"  {trials} random cases: largest relative difference {worst[0]:.1e} (loss), {worst[1]:.1e} "
        f"(stream), {worst[2]:.1e} (head)"
    )
    return dict(trials=trials, loss=worst[0], grad_stream=worst[1], grad_head=worst[2])


# ---- speed ----


def speed(laps: int = 12) -> list:
    "Forward and backward, best of laps in turns: autograd on whole logits, one pass, chunks recomputed"
    rows = []
    for N, C, V in ((4096, 128, 1024), (4096, 256, 4096)):
        for dtype in (torch.float32, torch.bfloat16):
            x, w, t = (
                torch.randn(1, N, C).to(dtype).requires_grad_(),
                torch.randn(V, C).mul_(0.05).requires_grad_(),
                torch.randint(V, (1, N)),
            )
            ways = {
                "autograd": lambda: _losses(x[0], w, t[0], 15.0).sum(),
                "one pass": lambda: token_losses(x, w, t).sum(),
                "chunks": lambda: token_losses(x, w, t, chunk=N * V // 8).sum(),
            }
            times = {k: [] for k in ways}
            for _ in range(laps):
                for k, f in ways.items():
                    t0 = time.perf_counter()
                    f().backward()
                    times[k].append(time.perf_counter() - t0)
                    x.grad = w.grad = None
            best = {k: min(v) for k, v in times.items()}
            rows.append(
                dict(
                    tokens=N,
                    channels=C,
                    vocab_size=V,
                    dtype=str(dtype)[6:],
                    seconds=best,
                    speed={k: best["autograd"] / b for k, b in best.items()},
                )
            )
            print(
                f"  {N} tokens, {C} channels, vocabulary {V}, {str(dtype)[6:]:8}: "
                + ", ".join(f"{k} {s:.2f}" for k, s in rows[-1]["speed"].items())
                + " times autograd's speed"
            )
    return rows


# ---- scoreboard ----


def text(split, n_bytes, seed=0):
    "World's documents, about so many bytes"
    out, size = [], 0
    for d in World(seed).documents(split):
        out.append(d)
        size += len(d.encode())
        if size >= n_bytes:
            return out


def scoreboard(vocab_size: int = 1024) -> dict:
    "Bits per byte of models that count, on World as chapter 06 reads it"
    train, val = text("train", 1_000_000), text("val", 100_000)
    tok = Tokenizer.train(train, vocab_size)
    fit, rows = (val_rows(iter(d), tok.encode, tok.bos, 256) for d in (train, val))
    board, batches = Scoreboard(), [to_batch(rows[k : k + 32], 257) for k in range(0, len(rows), 32)]
    board.add("uniform", NGram(1, tok.vocab_size).losses, batches, tok.token_bytes())
    seconds = {}
    for order, name in ((1, "unigram"), (2, "bigram"), (3, "trigram")):
        t0 = time.perf_counter()
        board.add(name, NGram(order, tok.vocab_size).fit(fit).losses, batches, tok.token_bytes())
        seconds[name] = round(time.perf_counter() - t0, 2)
    print(
        "  "
        + ", ".join(f"{k} {v:.3f}" for k, v in board.items())
        + f" bits per byte on {board.n_bytes:,} bytes"
    )
    return dict(
        bpb=dict(board),
        n_bytes=board.n_bytes,
        train_bytes=sum(len(d.encode()) for d in train),
        vocab_size=tok.vocab_size,
        seconds=seconds,
    )


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument(
        "parts", nargs="*", help="agreement, scoreboard, speed, memory, full; default: all but full"
    )
    p.add_argument(
        "--out", type=Path, default=here / "bench" / "results" / "loss.json", help="where the figures go"
    )
    p.add_argument("--child", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child:
        return child(*json.loads(a.child))
    parts = dict(agreement=agreement, scoreboard=scoreboard, speed=speed, memory=memory, full=full)
    if unknown := set(a.parts) - set(parts):
        p.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(parts)}")
    out = json.loads(a.out.read_text()) if a.out.exists() else {}
    for name in a.parts or list(parts)[:-1]:
        print(name)
        found = parts[name]()
        out[name] = dict(
            figures=found,
            command=f"python bench/loss.py {name}",
            threads=torch.get_num_threads(),
            provenance=provenance(),
        )
        atomic_write(a.out, json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
