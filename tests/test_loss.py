"The loss is torch's whatever the mask; bits per byte count any text; n-grams are what dictionaries say"

import gzip, itertools, json, lzma, math, subprocess, sys, textwrap
from collections import Counter
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings, strategies as st
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from conftest import ROOT, environment
from nanochat.distributed import torchrun
from nanochat.loader import to_batch, val_rows
from nanochat.loss import CACHE, NGram, Scoreboard, bits_per_byte, lm_loss, softcap, step_count, token_losses
from nanochat.runs import UserError, read_summary, update_summary
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer

many = settings(max_examples=100, deadline=None)

# ---- equal to torch's, in float64 ----


def theirs(x, w, t, cap):
    "torch, given only the tokens that are scored"
    keep = t >= 0
    return F.cross_entropy(softcap(x @ w.T, cap)[keep], t[keep]) if keep.any() else 0 * (x.sum() + w.sum())


def both(x, w, t, cap, chunk):
    "Value and gradients: ours, torch's"
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    return [
        (y.detach(), *torch.autograd.grad(y, (x, w)))
        for y in (lm_loss(x, w, t, cap, chunk=chunk), theirs(x, w, t, cap))
    ]


@many
@given(
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(1, 9),
    st.integers(1, 40),
    st.floats(0, 1),
    st.sampled_from([0.0, 2.0, 15.0]),
    st.sampled_from([1, 50, 1 << 26]),
    st.integers(0, 1000),
)
def test_equals_torch(B, T, C, V, masked, cap, chunk, seed):
    g = torch.Generator().manual_seed(seed)
    x, w = (
        torch.randn(B, T, C, generator=g, dtype=torch.float64),
        torch.randn(V, C, generator=g, dtype=torch.float64) * 3,
    )
    t = torch.randint(V, (B, T), generator=g).masked_fill(torch.rand(B, T, generator=g) < masked, -1)
    ours, want = both(x, w, t, cap, chunk)
    assert_close(ours, want)
    with torch.no_grad():
        assert_close(lm_loss(x, w, t, cap, chunk=chunk), want[0])


def test_every_mask():
    torch.manual_seed(0)
    x, w, t = (
        torch.randn(1, 8, 4, dtype=torch.float64),
        torch.randn(11, 4, dtype=torch.float64),
        torch.randint(11, (1, 8)),
    )
    for keep in itertools.product([True, False], repeat=8):
        masked = t.masked_fill(~torch.tensor([keep]), -1)
        for chunk in (1 << 26, 33):
            assert_close(*both(x, w, masked, 15.0, chunk))


def test_weights_per_token():
    "GRPO multiplies each token's loss before it adds them up"
    torch.manual_seed(0)
    x, w, t, g = (
        torch.randn(2, 9, 4, dtype=torch.float64),
        torch.randn(13, 4, dtype=torch.float64),
        torch.randint(-1, 13, (2, 9)),
        torch.randn(2, 9, dtype=torch.float64),
    )
    for chunk in (1 << 26, 26, 1):
        got, want = [], []
        for out, f in (
            (got, lambda x, w: (token_losses(x, w, t, 15.0, chunk) * g).sum()),
            (
                want,
                lambda x, w: (
                    F.cross_entropy(
                        softcap(x @ w.T).flatten(0, 1), t.flatten(), ignore_index=-1, reduction="none"
                    ).view(2, 9)
                    * g
                ).sum(),
            ),
        ):
            a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
            y = f(a, b)
            out += [y.detach(), *torch.autograd.grad(y, (a, b))]
        assert_close(got, want)


@pytest.mark.parametrize("chunk", [1 << 26, 300])
def test_bfloat16_is_near_float64(chunk):
    torch.manual_seed(0)
    x, w, t = torch.randn(1, 64, 32), torch.randn(100, 32) * 0.2, torch.randint(100, (1, 64))
    _, want = both(x.double(), w.double(), t, 15.0, 1 << 26)
    x, w = x.bfloat16().requires_grad_(), w.clone().requires_grad_()
    loss = lm_loss(x, w, t, chunk=chunk)
    assert loss.dtype == torch.float32 and abs(loss.item() - want[0].item()) < 0.01 * want[0].item()
    for a, b in zip(torch.autograd.grad(loss, (x, w)), want[1:]):
        assert (a.double() - b).norm() < 0.03 * b.norm()


def test_any_negative_target_is_a_mask():
    torch.manual_seed(0)
    x, w = torch.randn(1, 4, 3), torch.randn(5, 3)
    for learn, chunk in itertools.product((True, False), (1 << 26, 5)):
        a, b = (
            lm_loss(x.requires_grad_(learn), w, torch.tensor([[1, m, 2, m]]), chunk=chunk) for m in (-1, -100)
        )
        assert torch.equal(a, b)


def test_shapes_that_do_not_fit_are_told():
    x, w = torch.randn(2, 8, 3), torch.randn(5, 3)
    for t in (
        torch.zeros(2, 7, dtype=torch.long),
        torch.zeros(16, dtype=torch.long),
        torch.zeros(2, 4, dtype=torch.long),
    ):
        with pytest.raises(UserError, match=r"wants targets of shape \(2, 8\)"):
            lm_loss(x, w, t, chunk=20)


# ---- nothing scored ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1 << 26, 60])
@pytest.mark.parametrize("cap", [0.0, 15.0])
def test_all_masked_is_zero_with_finite_gradients(dtype, chunk, cap):
    torch.manual_seed(0)
    x, w, t = (
        torch.randn(2, 7, 4, dtype=dtype, requires_grad=True),
        torch.randn(20, 4, requires_grad=True, dtype=torch.float64 if dtype == torch.float64 else None),
        torch.full((2, 7), -1),
    )
    for n in (None, 0, torch.tensor(0), torch.tensor(0.0), step_count([t])):
        loss = lm_loss(x, w, t, cap, n_tokens=n, chunk=chunk)
        for a in (loss, *torch.autograd.grad(loss, (x, w))):
            assert a.isfinite().all() and not a.any()
    with torch.no_grad():
        assert lm_loss(x, w, t, cap).item() == 0


def test_a_masked_row_changes_nothing_for_others():
    torch.manual_seed(0)
    x, w, t = (
        torch.randn(3, 7, 4, dtype=torch.float64),
        torch.randn(20, 4, dtype=torch.float64),
        torch.randint(20, (3, 7)),
    )
    t[1] = -1
    with_row, without = (both(x[rows], w, t[rows], 15.0, 1 << 26)[0] for rows in ([0, 1, 2], [0, 2]))
    assert_close(with_row[0], without[0])
    assert_close(with_row[1][[0, 2]], without[1])
    assert_close(with_row[2], without[2])
    assert not with_row[1][1].any()


@many
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.floats(0, 1), st.integers(0, 1000))
def test_pieces_with_one_divisor_are_the_whole(pieces, masked, seed):
    g = torch.Generator().manual_seed(seed)
    B = sum(pieces)
    x, w = (
        torch.randn(B, 5, 3, generator=g, dtype=torch.float64),
        torch.randn(9, 3, generator=g, dtype=torch.float64),
    )
    t = torch.randint(9, (B, 5), generator=g).masked_fill(torch.rand(B, 5, generator=g) < masked, -1)
    whole, _ = both(x, w, t, 15.0, 1 << 26)
    x.requires_grad_()
    w.requires_grad_()
    n = step_count(t.split(pieces))
    total = sum(lm_loss(a, w, b, n_tokens=n) for a, b in zip(x.split(pieces), t.split(pieces)))
    assert_close((total.detach(), *torch.autograd.grad(total, (x, w))), whole)


TWO = """
    import json, sys, torch, torch.distributed as dist
    from nanochat.loss import lm_loss, step_count
    from nanochat.runtime import end_dist, init_dist
    rank, world = init_dist(torch.device("cpu"))
    torch.manual_seed(0)
    x = torch.randn(4, 6, 8, dtype=torch.float64)
    w = torch.randn(20, 8, dtype=torch.float64, requires_grad=True)
    t = torch.randint(20, (4, 6))
    uneven, one, nothing = t.clone(), torch.full_like(t, -1), torch.full_like(t, -1)
    uneven[1, 2:] = -1
    uneven[3] = -1
    one[3, 5] = 2
    for name, targets in dict(uneven=uneven, one=one, nothing=nothing).items():
        mine = range(rank, 4, world)
        n, total = step_count([targets[b:b+1] for b in mine]), 0.
        for b in mine:
            loss = lm_loss(x[b:b+1], w, targets[b:b+1], n_tokens=n)
            loss.backward()
            total += loss.detach()
        dist.all_reduce(w.grad)
        dist.all_reduce(total)
        got, total, w.grad = w.grad/world, total/world, None
        whole = lm_loss(x, w, targets)
        whole.backward()
        want, w.grad = w.grad, None
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(total, whole.detach())
        assert n.item() == (targets >= 0).sum().item()/world and got.isfinite().all()
        with open(f"{sys.argv[1]}/{rank}", "a") as f:      # not printed: lines of two processes may mix
            f.write(name + " ")
    end_dist()
"""


def test_two_processes_are_one(tmp_path):
    (tmp_path / "two.py").write_text(textwrap.dedent(TWO))
    torchrun(2, tmp_path / "two.py", tmp_path, timeout=120, PYTHONPATH=str(ROOT))
    for rank in "01":
        assert (tmp_path / rank).read_text().split() == ["uneven", "one", "nothing"]


# ---- never all logits ----


class Largest(TorchDispatchMode):
    "Notes the largest tensor that any operation makes, also in the backward pass"

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for a in tree_flatten(out)[0]:
            if torch.is_tensor(a):
                self.numel = max(self.numel, a.numel())
        return out


def test_watchman_sees_torch():
    x, w, t = (
        torch.randn(1, 64, 4, requires_grad=True),
        torch.randn(4096, 4, requires_grad=True),
        torch.randint(4096, (1, 64)),
    )
    with Largest() as seen:
        F.cross_entropy((x @ w.T).flatten(0, 1), t.flatten()).backward()
    assert seen.numel == 64 * 4096


@pytest.mark.parametrize("learn", [True, False])
@pytest.mark.parametrize("N,V,chunk", [(64, 65536, 1 << 18), (130, 4096, 5 * 4096), (7, 65536, 1)])
def test_no_tensor_is_larger_than_a_chunk(N, V, chunk, learn):
    x, w, t = (
        torch.randn(1, N, 4, requires_grad=learn),
        torch.randn(V, 4, requires_grad=learn),
        torch.randint(V, (1, N)),
    )
    with Largest() as seen:
        loss = lm_loss(x, w, t, chunk=chunk)
        if learn:
            loss.backward()
    assert seen.numel <= max(chunk, V * 4)  # V·C: the head and its gradient
    assert seen.numel < N * V


def test_the_default_cuts_the_large_shape():
    import inspect

    chunk = inspect.signature(lm_loss).parameters["chunk"].default
    assert chunk == inspect.signature(token_losses).parameters["chunk"].default
    assert (32 * 2048 * 65536) // chunk == 64 and chunk // 65536 == 1024 and CACHE < chunk


def test_peak_memory_of_a_process():
    "What the watchman can't see, from outside: less than half of the logits; torch needs more than twice"

    def peak(way):
        done = subprocess.run(
            [
                sys.executable,
                str(ROOT / "bench" / "loss.py"),
                "--child",
                json.dumps([way, 1, 2048, 16384, 16, 1 << 21]),
            ],
            capture_output=True,
            text=True,
            env=environment(OMP_NUM_THREADS=1, MALLOC_MMAP_THRESHOLD_=131072),
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    ours, torchs, logits = peak("ours"), peak("torch"), 2048 * 16384 * 4 / 2**20
    assert ours["mb"] < logits / 2 and torchs["mb"] > 2 * logits, (ours, torchs)
    assert math.isclose(ours["loss"], torchs["loss"], rel_tol=1e-5) and math.isclose(
        ours["grad"], torchs["grad"], rel_tol=1e-4
    )


# ---- bits per byte ----

HOSTILE = [
    "naïve",
    "é",
    "e\u0301",
    "🙂",
    "👩‍👩‍👧",
    "🇩🇪",
    "你好",
    "हिन्दी",
    "עבר",
    "\0",
    "\r\n",
    "\u200b",
    "\ufeff",
    "\U0010ffff",
    " ",
    "   ",
    "the",
    "<|bos|>",
    "<|user_start|>",
    "12345",
    "ﷺ",
    "\x7f",
    "𝔘",
]
words = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(HOSTILE), max_size=60).map("".join))


@pytest.fixture(scope="module", params=[265, 400, 1500])
def tok(request):
    return Tokenizer.train(
        [
            "".join(HOSTILE) * 3,
            "the theatre 🙂 naïve नमस्ते 12 345 other and another hand " * 5,
            " ".join(map(chr, range(0x3040, 0x3100))),
        ],
        request.param,
    )


@many
@given(s=words)
@example(s="")
@example(s="".join(SPECIAL_TOKENS))
def test_bytes_of_tokens_are_bytes_of_the_text(tok, s):
    assert tok.token_bytes()[tok.encode(s)].sum().item() == len(s.encode())


def test_special_tokens_have_no_bytes(tok):
    assert all(tok.token_bytes()[tok.special(s)] == 0 for s in SPECIAL_TOKENS)
    assert (tok.token_bytes() == 0).sum() == len(SPECIAL_TOKENS)


def test_bytes_of_real_texts(tok, shared):
    texts = [
        json.loads(l)["text"]
        for l in lzma.open(shared / "tokenizer_text" / "udhr2.jsonl.xz", "rt", encoding="utf-8")
    ]
    texts += json.loads((shared / "tokenizer_text" / "blns.json").read_text("utf-8")) + [
        gzip.open(shared / "tokenizer_text" / "emoji-test.txt.gz", "rt", encoding="utf-8").read()
    ]
    assert len(texts) > 900
    for s in texts:
        assert tok.token_bytes()[tok.encode(s)].sum().item() == len(s.encode()), s[:80]


@many
@given(docs=st.lists(words, min_size=1, max_size=8), T=st.integers(2, 40), seed=st.integers(0, 99))
def test_batches_do_not_matter(tok, docs, T, seed):
    "Any rows, any batches: the same nats over the same bytes, which are those of the text"
    rows = val_rows(iter(docs), tok.encode, tok.bos, T)
    n_bytes = sum(len(d.encode()) for d in docs)
    tb = tok.token_bytes()
    nats_V = (
        torch.rand(tok.vocab_size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 10
    )

    def losses(ids, targets):
        return nats_V[targets.clamp(min=0)]

    want = sum(nats_V[i].item() for d in docs for i in tok.encode(d)) / math.log(2) / max(n_bytes, 1)
    for size in (1, 2, 3, max(1, len(rows))):
        batches = [to_batch(rows[k : k + size], T + 1) for k in range(0, len(rows), size)]
        assert sum(tb[t.clamp(min=0)][t >= 0].sum().item() for _, t in batches) == n_bytes
        assert math.isclose(bits_per_byte(losses, batches, tb), want, rel_tol=1e-12, abs_tol=1e-15)


def test_what_is_masked_or_special_does_not_count():
    tb = torch.tensor([1, 2, 0])

    def coin(ids, targets):
        return torch.full(targets.shape, math.log(2))

    def impossible(ids, targets):
        "The second token can't come"
        return torch.tensor([[math.log(2), math.inf]])

    def score(*t, f=coin):
        return bits_per_byte(f, [(None, torch.tensor([list(t)]))], tb)

    assert score(0, 1, 0) == pytest.approx(0.75) == score(0, 1, 2, 0, -1) == score(2, 2, 0, -1, 1, 0)
    assert score(2, -1) == 0
    assert score(0, 2, f=impossible) == pytest.approx(1)  # where it is a special token, it does not count
    assert math.isinf(score(0, 1, f=impossible))  # where it is text, it does


def test_uniform_is_log_v(tok):
    docs = ["the theatre and the other 🙂 hand", "naïve"]
    rows = val_rows(iter(docs), tok.encode, tok.bos, 16)
    got = bits_per_byte(NGram(1, tok.vocab_size).losses, [to_batch(rows, 17)], tok.token_bytes())
    assert got == pytest.approx(
        sum(len(tok.encode(d)) for d in docs)
        * math.log2(tok.vocab_size)
        / sum(len(d.encode()) for d in docs),
        rel=1e-12,
    )


# ---- models that count ----


class Dictionaries:
    "Witten and Bell by dictionaries"

    def __init__(self, order, V, rows):
        self.order, self.V, self.counts = order, V, {}
        for row in rows:
            for t, tok in enumerate(row):
                for n in range(min(order, t + 1)):
                    self.counts.setdefault(tuple(row[t - n : t]), Counter())[tok] += 1

    def prob(self, tok, context):
        p = 1 / self.V
        for n in range(min(self.order, len(context) + 1)):
            if c := self.counts.get(tuple(context[len(context) - n :])):
                p = (c[tok] + len(c) * p) / (sum(c.values()) + len(c))
        return p


@many
@given(
    order=st.integers(1, 4),
    rows=st.lists(st.lists(st.integers(0, 5), max_size=20), max_size=6),
    row=st.lists(st.integers(0, 7), min_size=2, max_size=12),
)
def test_ngram_is_what_dictionaries_say(order, rows, row):
    model, slow = NGram(order, 8).fit(rows), Dictionaries(order, 8, rows)
    want = [slow.prob(row[t], row[max(0, t - order + 1) : t]) for t in range(1, len(row))]
    np.testing.assert_allclose(np.exp(-np.array(model.nats(row))), want)
    np.testing.assert_allclose([model.prob(row[t], row[:t]) for t in range(1, len(row))], want)
    for t in range(len(row)):
        np.testing.assert_allclose(model.next_probs(row[:t]).sum(), 1)
    ids = torch.tensor([row])
    np.testing.assert_allclose(model.losses(ids[:, :-1], ids[:, 1:])[0], -np.log(want))


@pytest.mark.parametrize(
    "make,words",
    [
        (lambda: NGram(2, 3).fit([[0, 7]]), "ids must lie in 0..2, found 0..7"),
        (lambda: NGram(2, 3).fit([[-1, 0]]), "found -1..0"),
        (lambda: NGram(5, 65536), "lower order"),
        (lambda: NGram(0, 10), "order 0"),
    ],
)
def test_ngram_says_what_is_wrong(make, words):
    with pytest.raises(UserError, match=words):
        make()


# ---- the scoreboard ----


def board_of(tok, docs, train):
    rows, fit = (val_rows(iter(d), tok.encode, tok.bos, 32) for d in (docs, train))
    return [to_batch(rows, 33)], {k: NGram(k, tok.vocab_size).fit(fit) for k in (1, 2, 3)}


def test_scoreboard(tmp_path):
    train, docs = ["the theatre and the other hand 🙂 " * 20], ["the other hand and the theatre 🙂"]
    a, b, board = Tokenizer.train(train, 265), Tokenizer.train(train, 290), Scoreboard()
    for name, tok in dict(bytes=a, pieces=b).items():
        batches, models = board_of(tok, docs, train)
        for k, m in models.items():
            assert (
                board.add(f"{k} of {name}", m.losses, batches, tok.token_bytes()) == board[f"{k} of {name}"]
            )
    assert board.n_bytes == len(docs[0].encode()) and len(board) == 6
    assert board["2 of pieces"] == bits_per_byte(models[2].losses, batches, tok.token_bytes())
    with pytest.raises(UserError, match="take the same validation text"):
        board.add("other", models[2].losses, board_of(b, ["the hand"], train)[0], b.token_bytes())
    with pytest.raises(UserError, match="no text"):
        board.add("empty", models[2].losses, [], b.token_bytes())
    assert len(board) == 6
    table = board._repr_markdown_().splitlines()
    assert (
        len(table) == 8 and {l.count("|") for l in table} == {5} and f"{board['1 of bytes']:.3f}" in table[2]
    )
    update_summary(tmp_path, bpb=board)
    assert read_summary(tmp_path)["bpb"] == dict(board) == Scoreboard(read_summary(tmp_path)["bpb"])
