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
from nanochat.gpt import GPT, GPTConfig, MODERN
from nanochat.loss import (
    CACHE,
    CHUNK,
    FEWEST,
    NGram,
    Scoreboard,
    _rows_at_once,
    bits_per_byte,
    lm_loss,
    softcap,
    step_count,
    token_losses,
)
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


def plainly(x, w, t, cap=15.0):
    "Loss of every token by torch's own functions"
    logits = softcap(x @ w.T, cap).flatten(0, -2)
    return F.cross_entropy(logits, t.flatten(), ignore_index=-1, reduction="none").view(t.shape)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("chunk", [None, 300])
@pytest.mark.parametrize("cap", [0.0, 15.0])
def test_half_precision_is_near_float64(dtype, chunk, cap):
    "Of the mean, and of a sum with a weight for each token; the head's master copy is float32"
    torch.manual_seed(0)
    x, w, t = torch.randn(1, 64, 32), torch.randn(100, 32) * 0.2, torch.randint(-1, 100, (1, 64))
    weights, n = torch.rand(1, 64), (t >= 0).sum()
    low = x.to(dtype).requires_grad_(), w.clone().requires_grad_()
    high = x.double().requires_grad_(), w.double().requires_grad_()
    for ours, theirs in (
        (lm_loss(*low, t, cap, chunk=chunk), plainly(*high, t, cap).sum() / n),
        ((token_losses(*low, t, cap, chunk) * weights).sum(), (plainly(*high, t, cap) * weights).sum()),
    ):
        assert ours.dtype == torch.float32 and abs(ours.item() - theirs.item()) < 0.01 * theirs.item()
        got, want = (torch.autograd.grad(y, inputs) for y, inputs in ((ours, low), (theirs, high)))
        assert [g.dtype for g in got] == [dtype, torch.float32]
        for a, b in zip(got, want):
            assert (a.double() - b).norm() < 0.02 * b.norm()


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("weight", DTYPES)
@pytest.mark.parametrize("stream", DTYPES)
def test_any_pair_of_dtypes(stream, weight):
    "Losses in float32 or more, gradients in the dtype of what they belong to"
    torch.manual_seed(0)
    x = torch.randn(2, 9, 8).to(stream).requires_grad_()
    w, t = (torch.randn(20, 8) * 0.3).to(weight).requires_grad_(), torch.randint(-1, 20, (2, 9))
    want = torch.autograd.grad(plainly(x.double(), w.double(), t).sum(), (x, w))
    for loss in (lm_loss(x, w, t, n_tokens=1, chunk=60), token_losses(x, w, t, chunk=60).sum()):
        assert loss.dtype == torch.promote_types(stream, torch.float32)
        for a, b, of in zip(torch.autograd.grad(loss, (x, w)), want, (x, w)):
            assert a.dtype == of.dtype and a.shape == of.shape
            assert (a.double() - b.double()).norm() < 0.02 * b.double().norm()


def test_many_chunks_add_up_without_rounding():
    "Ones added to a bfloat16 sum end at 256; the head's gradient is added up in float32"
    x, w = torch.ones(1, 2000, 2).bfloat16(), torch.zeros(3, 2).bfloat16().requires_grad_()
    t = torch.zeros(1, 2000, dtype=torch.long)
    lm_loss(x, w, t, n_tokens=1, chunk=3).backward()
    assert_close(w.grad.float()[0], torch.full((2,), -2000 * 2 / 3), rtol=0.01, atol=0)


def test_no_tokens():
    x, w = torch.randn(2, 0, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    t = torch.zeros(2, 0, dtype=torch.long)
    assert token_losses(x, w, t).shape == (2, 0)
    for loss in (lm_loss(x, w, t), token_losses(x, w, t).sum()):
        grad_x, grad_w = torch.autograd.grad(loss, (x, w))
        assert loss == 0 and grad_x.shape == x.shape and not grad_w.any()


def test_a_masked_token_never_counts_even_with_an_infinite_logit():
    x, w = torch.ones(1, 2, 2, requires_grad=True), torch.tensor([[-math.inf, 0.0], [1, 2], [0, 1]])
    t = torch.tensor([[1, -1]])
    for loss in (lm_loss(x, w, t, 0.0), token_losses(x, w, t, 0.0).sum()):
        assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)))


@pytest.mark.parametrize("learn", [True, False])
def test_a_second_gradient_is_refused(learn):
    x, w = torch.randn(1, 4, 3, requires_grad=True), torch.randn(5, 3, requires_grad=learn)
    t = torch.randint(5, (1, 4))
    for loss in (lm_loss(x, w, t), (token_losses(x, w, t) ** 2).sum()):
        with pytest.raises(UserError, match="no gradient of its own"):
            torch.autograd.grad(loss, x, create_graph=True)


def test_backward_twice():
    x, w = torch.randn(1, 4, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    t = torch.randint(5, (1, 4))
    for loss in (lm_loss(x, w, t), token_losses(x, w, t).sum()):
        a, b = (torch.autograd.grad(loss, (x, w), retain_graph=True) for _ in range(2))
        assert all(map(torch.equal, a, b))


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
    "32 rows of 2,048 tokens with 65,536 logits each, on a CPU and on what is none; and a small vocabulary"
    for device, V, rows, few in (
        ("cpu", 65536, FEWEST, CACHE // 65536),
        ("meta", 65536, 1024, 1024),
        ("cpu", 1024, CHUNK // 1024, CACHE // 1024),
    ):
        x, w = torch.empty(4, 1, device=device), torch.empty(V, 1, device=device)
        assert _rows_at_once(x, w, None) == (rows, few)


class Products(TorchDispatchMode):
    "Counts matrix products, and casts of a matrix of a given shape"

    def __init__(self, shape):
        super().__init__()
        self.shape, self.products, self.casts = shape, [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_"):
            self.products.append(tuple(out.shape))
        self.casts += name == "_to_copy" and out.shape == self.shape and out.dtype == torch.bfloat16
        return out


@pytest.mark.parametrize("stream", [torch.float32, torch.bfloat16])
def test_each_pass_casts_the_head_once_and_computes_what_is_wanted(stream):
    "Five chunks: lm_loss makes each chunk's logits once, token_losses twice; no gradient without a taker"
    N, V, C, rows = 20, 50, 8, 4
    t = torch.randint(V, (1, N))
    made, grad_x, grad_w = [(rows, V)] * 5, [(rows, C)] * 5, [(V, C)] * 5
    for of_x, of_w in itertools.product((True, False), repeat=2):
        x = torch.randn(1, N, C).to(stream).requires_grad_(of_x)
        w = torch.randn(V, C, requires_grad=of_w)
        learned = (grad_x if of_x else []) + (grad_w if of_w else [])
        for loss, passes in ((lm_loss, 1), (token_losses, 2)):
            with Products((V, C)) as seen:
                y = loss(x, w, t, chunk=rows * V).sum()
                if learned:
                    y.backward()
            passes = passes if learned else 1
            assert sorted(seen.products) == sorted(made * passes + learned)
            assert seen.casts == (passes if stream == torch.bfloat16 else 0)
            with torch.no_grad(), Products((V, C)) as seen:
                loss(x, w, t, chunk=rows * V)
            assert seen.products == made


def test_one_way_for_every_size():
    "No cliff: the same class, whatever the number of logits is to the chunk"
    w = torch.randn(50, 4, requires_grad=True)
    for N, chunk in itertools.product((1, 7, 300), (1, 50, 1000, None)):
        loss = lm_loss(torch.randn(1, N, 4), w, torch.randint(50, (1, N)), chunk=chunk)
        assert "_SummedLoss" in loss.grad_fn.next_functions[0][0].name()


def most_allocated(f) -> int:
    "Bytes that torch held at most while f ran, beyond those before"
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as prof:
        f()
    events, steps = list(prof.profiler.kineto_results.experimental_event_tree()), []
    while events:
        event = events.pop()
        events += event.children
        if event.tag == torch._C._profiler._EventType.Allocation:
            steps.append((event.start_time_ns, event.extra_fields.alloc_size))
    held = most = 0
    for _, size in sorted(steps):
        held += size
        most = max(most, held)
    return most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1 << 14, 1 << 17])
def test_memory_is_bounded(chunk, dtype):
    """One buffer for a chunk, three pieces in float32, both gradients twice (once multiplied by a number)

    And in bfloat16 the head's copy and a product. The logits would be 4 MB."""
    N, C, V = 256, 16, 4096
    x, w = torch.randn(1, N, C).to(dtype).requires_grad_(), torch.randn(V, C, requires_grad=True)
    t, half = torch.randint(V, (1, N)), dtype == torch.bfloat16
    gradients = N * C * dtype.itemsize + V * C * 4
    bound = chunk * dtype.itemsize + 3 * min(chunk, CACHE) * 4 + 2 * gradients + half * 2 * V * C * 2 + 20_000
    for loss in (lm_loss, token_losses):
        x.grad = w.grad = None
        most = most_allocated(lambda: loss(x, w, t, chunk=chunk).sum().backward())
        assert chunk * dtype.itemsize < most < bound
    logits = N * V * dtype.itemsize
    assert most_allocated(lambda: plainly(x, w.to(dtype), t).sum().backward()) > 2 * logits


def test_the_chapter_says_what_was_measured():
    "Peak of the full shape, 69 GB the plain way; and what bench/results/loss.json must hold"
    record = json.loads((ROOT / "bench" / "results" / "loss.json").read_text())
    found, nb = record["full"]["figures"], json.loads((ROOT / "nbs" / "06_loss.ipynb").read_text())
    text = "".join("".join(cell["source"]) for cell in nb["cells"])
    assert text.count(f"{found['mb'] * 2**20 / 1e9:.2f} GB") == 2  # kept in MiB
    assert f"{4 * math.prod(found['shape']) * 4 / 1e9:.0f} GB" in text
    for way in ("lm_loss", "token_losses"):
        assert max(record["agreement"]["figures"][way].values()) < 1e-12
    if "head" not in record:
        pytest.skip("bench/loss.py head was not kept yet")
    ours = [row for row in record["head"]["figures"]["rows"] if row["way"] == "lm_loss"]
    assert ours and all(row["speed"] > 1 for row in ours), f"slower than plain autograd: {ours}"


# ---- compiled ----


@pytest.mark.parametrize("cap", [0.0, 15.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiles_as_one_graph(dtype, cap):
    torch.manual_seed(0)
    x, w = torch.randn(2, 9, 8).to(dtype).requires_grad_(), torch.randn(30, 8, requires_grad=True)
    t, weights = torch.randint(-1, 30, (2, 9)), torch.rand(2, 9)

    def mean(x, w, t):
        return lm_loss(x, w, t, cap, chunk=150)

    def weighted(x, w, t):
        return (token_losses(x, w, t, cap, chunk=150) * weights).sum()

    for f in (mean, weighted):
        torch._dynamo.reset()
        compiled = torch.compile(f, backend="aot_eager", fullgraph=True)
        for a, b in zip(
            *((y.detach(), *torch.autograd.grad(y, (x, w))) for y in (f(x, w, t), compiled(x, w, t)))
        ):
            assert_close(a, b)
        with torch.no_grad():
            assert_close(compiled(x, w, t), f(x, w, t))


def test_a_model_compiles_as_one_graph():
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=50, seq_len=16, n_layer=2, n_head=2, n_kv_head=2, n_embd=16, **MODERN)
    model, ids = GPT(config), torch.randint(50, (2, 17))
    torch.nn.init.normal_(model.lm_head.weight, std=0.1)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    parameters = list(model.parameters())
    a, b = (
        torch.autograd.grad(m(ids[:, :-1], ids[:, 1:]), parameters, allow_unused=True)
        for m in (model, compiled)
    )
    for x, y in zip(a, b):
        assert x is None and y is None or torch.allclose(x, y, atol=1e-6)


def test_peak_memory_of_a_process():
    "What the watchman can't see, from outside: less than half of the logits; torch needs more than twice"

    def peak(way):
        done = subprocess.run(
            [
                sys.executable,
                str(ROOT / "bench" / "loss.py"),
                "--child",
                json.dumps([way, [1, 2048, 16384], 16, "float32", 15.0, 1 << 21, ""]),
            ],
            capture_output=True,
            text=True,
            env=environment(OMP_NUM_THREADS=1, MALLOC_MMAP_THRESHOLD_=131072),
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    ours, torchs, logits = peak("lm_loss"), peak("plain"), 2048 * 16384 * 4 / 2**20
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
