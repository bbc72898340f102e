"""Attention: every way gives the numbers of a float64 reference, and a table says which is taken when

The reference is written out here: scores, a mask, softmax, a sum. Ways with a kernel on the CPU are forced by
name; the others are marked `cuda`, and what they hand to their kernel is checked with a stand-in that does
what the kernel's documentation says."""

import itertools, subprocess, sys
import pytest
import torch
from conftest import ROOT, environment
from torch.testing import assert_close
from nanochat.attention import (
    ROPE_BASE, TORCH_HAS_VARLEN, WAYS, KVCache, attend, attend_varlen, band_mask, choose_way, cut_into_blocks,
    document_starts, rope_cache, why_not, windows, with_block_before,
)  # fmt: skip
from nanochat.runs import UserError

WHOLE_PASS = ["blocks", "band", "step", "masked", "sdpa"]  # ways with a kernel and a backward pass on the CPU
FROM_CACHE = ["step", "masked"]
needs_varlen = pytest.mark.skipif(not TORCH_HAS_VARLEN, reason="varlen_attn knows windows from torch 2.12 on")


def reference(q_BTHD, k_BSHD, v_BSHD, window=0, pos=None, document=None):
    "In float64, by the formula; (B,T,H,D)"
    q, k, v = (t.double() for t in (q_BTHD, k_BSHD, v_BSHD))
    B, T, H, D = q.shape
    S, share = k.size(1), H // k.size(2)
    k, v = k.repeat_interleave(share, 2), v.repeat_interleave(share, 2)
    pos = torch.arange(S - T, S, device=q.device) if pos is None else pos
    back = pos.expand(B, T)[:, :, None] - torch.arange(S, device=q.device)
    seen = back >= 0
    if window:
        seen = seen & (back <= window)
    if document is not None:
        seen = seen & (document[:, :, None] == document[:, None, :])
    scores = torch.einsum("bthd,bshd->bhts", q, k) / D**0.5
    weights = scores.masked_fill(~seen[:, None], float("-inf")).softmax(-1)
    return torch.einsum("bhts,bshd->bthd", weights, v)


def numbers(B, T, S, H, G, D=8, dtype=torch.float64, seed=0, device="cpu"):
    g = torch.Generator().manual_seed(seed)
    shapes = (B, T, H, D), (B, S, G, D), (B, S, G, D)
    return [torch.randn(s, generator=g, dtype=torch.float64).to(device, dtype) for s in shapes]


def compare(way, tensors, dtype, window=0, pos=None, document=None, grad=True):
    "Output and gradients of one way against the reference; tolerances are those of its dtype"
    if way == "flex":
        torch._dynamo.reset()  # it traces every new shape, and the ninth is refused
    close = {torch.float64: 1e-6, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}[dtype]
    a = [t.detach().clone().requires_grad_(grad) for t in tensors]
    b = [t.detach().double().requires_grad_(grad) for t in tensors]
    got = attend(*a, window, pos, way=way, document=document)
    want = reference(*b, window, pos, document)
    assert got.dtype == dtype
    assert_close(got.double(), want, atol=close, rtol=close)
    if not grad:
        return
    g = torch.Generator().manual_seed(9)
    out = torch.randn(got.shape, generator=g, dtype=torch.float64).to(got.device, dtype)
    got.backward(out)
    want.backward(out.double())
    for x, y in zip(a, b):
        size = y.grad.abs().max().item() if dtype in (torch.bfloat16, torch.float16) else 1.0
        assert_close(x.grad.double(), y.grad, atol=close * max(1.0, size), rtol=close)


# --- forced, one by one ---

SHAPES = [(1, 1, 1), (2, 4, 2), (3, 3, 1), (9, 2, 2)]  # rows, heads of queries, heads of keys
LENGTHS = [
    (1, 0), (2, 1), (8, 7), (9, 8), (9, 7), (16, 8), (17, 8), (17, 1), (24, 8), (25, 8), (40, 39), (40, 40),
    (40, 0), (129, 0), (129, 16), (130, 127), (130, 128), (257, 100),
]  # fmt: skip


@pytest.mark.parametrize("way", WHOLE_PASS)
def test_a_whole_pass_and_its_gradients(way):
    "Few and many rows, grouped heads, lengths on both sides of a window's and a block's edge"
    for (B, H, G), (T, window) in itertools.product(SHAPES, LENGTHS):
        if T > 64 and (B, H, G) != (2, 4, 2):
            continue
        if way == "sdpa" and 0 < window < T - 1:
            continue
        compare(way, numbers(B, T, T, H, G), torch.float64, window)


@pytest.mark.parametrize("way", WHOLE_PASS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_the_dtypes_of_training(way, dtype):
    for T, window in ((17, 0), (40, 8), (130, 64)):
        if way != "sdpa" or not window:
            compare(way, numbers(2, T, T, 4, 2, D=16, dtype=dtype), dtype, window)


def test_flex_on_a_cpu_has_the_numbers_and_no_gradient():
    "Its rule is what the GPU compiles: rows, groups, windows, positions, documents"
    for T, window in ((1, 0), (9, 8), (17, 8), (40, 0), (40, 39), (129, 16)):
        compare("flex", numbers(2, T, T, 4, 2), torch.float64, window, grad=False)
    for pos in (torch.tensor([3, 9]), torch.tensor([[3, 4], [18, 19]])):
        compare("flex", numbers(2, 2, 20, 4, 2), torch.float64, 5, pos, grad=False)
    torch._dynamo.reset()
    q, k, v = (t.requires_grad_() for t in numbers(1, 5, 5, 1, 1))
    with pytest.raises(UserError, match="no backward pass on a CPU"):
        attend(q, k, v, way="flex")
    with torch.no_grad():
        attend(q, k, v, way="flex")


@pytest.mark.parametrize("way", FROM_CACHE)
def test_queries_at_any_positions(way):
    for B, T, S, window in ((1, 1, 1, 0), (3, 1, 20, 0), (9, 1, 33, 7), (2, 3, 9, 0), (2, 5, 24, 6)):
        tensors = numbers(B, T, S, 4, 2)
        g = torch.Generator().manual_seed(1)
        for pos in (None, torch.arange(S - T, S), torch.randint(S, (B, T), generator=g)):
            compare(way, tensors, torch.float64, window, pos)


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("window", [0, 3, 8])
def test_cached_steps_are_the_full_pass(way, window):
    "A first pass by this way where it runs here, then steps of one and three tokens by it where it can"
    if way == "varlen" or way == "sdpa" and window:
        window_way = None
    else:
        window_way = way
    torch._dynamo.reset()
    lens, T = torch.tensor([4, 9, 6]), 20
    q, k, v = numbers(3, T, T, 4, 2)
    full = reference(q, k, v, window)
    cache = KVCache(1, 3, T, 2, 8, torch.float64)
    n = int(lens.max())
    attended = attend(q[:, :n], *cache.update(0, k[:, :n], v[:, :n]), window, way=window_way)
    assert_close(attended, full[:, :n], atol=1e-6, rtol=1e-6)
    cache.advance(n)
    cache.set_lengths(lens)
    step_way = window_way if WAYS[way].cache else None
    for new in (1, 3, 1):
        pos = cache.positions(new)
        rows = torch.arange(3)[:, None]
        kk, vv = cache.update(0, k[rows, pos], v[rows, pos])
        got = attend(q[rows, pos], kk, vv, window, pos, way=step_way)
        assert_close(got, full[rows, pos], atol=1e-6, rtol=1e-6)
        cache.advance(new)


def test_a_window_is_obeyed_in_decoding():
    "What lies further back than the window may be anything"
    torch._dynamo.reset()
    for way in ("step", "masked", "flex", None):
        q, k, v = numbers(2, 1, 30, 4, 2)
        pos = torch.tensor([[20], [29]])
        before = attend(q, k, v, 6, pos, way=way)
        k[0, :14] = k[1, :23] = 99.0
        v[0, :14] = v[1, :23] = float("-99")
        assert torch.equal(attend(q, k, v, 6, pos, way=way), before)
        v[0, 14] += 1
        assert not torch.equal(attend(q, k, v, 6, pos, way=way)[0], before[0])


# --- documents ---


def alone(q, k, v, window, document_BT):
    "A loop over documents: each as if it were alone"
    out = torch.zeros_like(q, dtype=torch.float64)
    for row, document_T in enumerate(document_BT):
        for number in document_T.unique():
            own = document_T == number
            out[row, own] = reference(*(t[row : row + 1, own] for t in (q, k, v)), window)[0]
    return out


PACKED = torch.tensor([[0] * 7 + [1] + [2] * 12, [5] * 20, [3] + [4] * 18 + [9], list(range(20))])


def stand_in(
    query, key, value, starts_q, starts_k, most_q, most_k, *, window_size=(-1, -1), enable_gqa=False, **_
):
    "What `varlen_attn` does by its documentation: sequences end to end, each with a causal window"
    assert starts_q.dtype == starts_k.dtype == torch.int32 and window_size[1] == 0
    assert enable_gqa or query.size(1) == key.size(1)
    sizes = starts_q.diff()
    assert int(starts_q[0]) == 0 and int(starts_q[-1]) == query.size(0) and (sizes > 0).all()
    assert most_q >= int(sizes.max()) and most_k >= int(starts_k.diff().max())
    back = max(0, window_size[0])  # -1 is everything; our windows begin at 1
    spans = zip(starts_q.tolist(), starts_q.tolist()[1:])
    return torch.cat([reference(*(t[a:b][None] for t in (query, key, value)), back)[0] for a, b in spans])


@pytest.mark.parametrize("window", [0, 1, 6, 12, 19])
def test_documents_do_not_see_each_other(window):
    q, k, v = numbers(4, 20, 20, 4, 2)
    assert_close(attend(q, k, v, window, document=PACKED), alone(q, k, v, window, PACKED))
    compare("masked", (q, k, v), torch.float64, window, document=PACKED)
    compare("flex", (q, k, v), torch.float64, window, document=PACKED, grad=False)


@needs_varlen
@pytest.mark.parametrize("window", [0, 1, 6, 12, 19])
def test_varlen_is_told_the_right_borders(window, monkeypatch):
    q, k, v = numbers(4, 20, 20, 4, 2)
    want = alone(q, k, v, window, PACKED)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", stand_in)
    heads_first = [t.transpose(1, 2) for t in (q, k, v)]
    assert_close(attend_varlen(*heads_first, window, PACKED).transpose(1, 2), want)
    assert_close(attend_varlen(*heads_first, window).transpose(1, 2), reference(q, k, v, window))


def test_a_document_of_its_own_changes_nothing_elsewhere():
    q, k, v = numbers(1, 12, 12, 2, 2)
    document = torch.tensor([[0] * 5 + [1] * 7])
    whole = attend(q, k, v, document=document)
    assert_close(whole[:, 5:], attend(q[:, 5:], k[:, 5:], v[:, 5:]))
    k[:, :5] = 7.0
    assert torch.equal(attend(q, k, v, document=document)[:, 5:], whole[:, 5:])


def test_where_documents_start():
    assert document_starts(torch.tensor([[0, 0, 0, 1], [0, 1, 1, 1]])).tolist() == [0, 3, 4, 5, 8]
    assert document_starts(torch.zeros(3, 5, dtype=torch.long)).tolist() == [0, 5, 10, 15]
    assert document_starts(PACKED)[-1] == PACKED.numel() and document_starts(PACKED).dtype == torch.int32


# --- which way when ---

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
TABLE = [  # device, dtype, T, S, window, has_positions, grad, more, way
    ("cpu", F32, 256, 256, 0, False, True, {}, "blocks"),
    ("cpu", BF16, 1024, 1024, 0, False, True, {}, "blocks"),
    ("cpu", F32, 1025, 1025, 0, False, True, {}, "sdpa"),
    ("cpu", F32, 4096, 4096, 512, False, True, {}, "blocks"),
    ("cpu", F32, 1, 1, 0, False, False, {}, "blocks"),
    ("cpu", F32, 1, 200, 0, True, False, dict(rows=64), "masked"),
    ("cpu", BF16, 1, 200, 0, True, False, dict(rows=7), "masked"),
    ("cpu", BF16, 1, 200, 0, True, False, dict(rows=8), "step"),
    ("cpu", BF16, 1, 200, 64, False, False, dict(rows=8), "step"),
    ("cpu", BF16, 2, 200, 0, True, False, dict(rows=8), "masked"),
    ("cpu", BF16, 200, 200, 0, True, False, dict(rows=8), "masked"),
    ("cpu", F32, 256, 256, 0, False, True, dict(has_documents=True), "masked"),
    ("cuda", BF16, 2048, 2048, 0, False, True, dict(has_varlen=True), "sdpa"),
    ("cuda", BF16, 2048, 2048, 512, False, True, dict(has_varlen=True), "varlen"),
    ("cuda", BF16, 2048, 2048, 1024, False, True, dict(has_varlen=True), "varlen"),
    ("cuda", BF16, 2048, 2048, 512, False, True, {}, "band"),
    ("cuda", BF16, 2048, 2048, 1024, False, True, {}, "masked"),
    ("cuda", F32, 2048, 2048, 512, False, True, {}, "band"),
    ("cuda", BF16, 1, 2048, 512, True, False, dict(has_varlen=True, rows=64), "masked"),
    ("cuda", BF16, 2048, 2048, 0, False, True, dict(has_varlen=True, has_documents=True), "varlen"),
    ("cuda", F32, 2048, 2048, 0, False, True, dict(has_documents=True), "masked"),
    ("mps", F32, 256, 256, 0, False, True, {}, "sdpa"),
]


@pytest.mark.parametrize("case", TABLE, ids=lambda c: f"{c[0]}-{c[2]}-{c[3]}-{c[4]}-{c[-1]}")
def test_the_table(case):
    *asked, more, way = case
    assert choose_way(*asked, **more) == way


def every_question():
    "All that can be asked, in a few sizes"
    yes_no = (False, True)
    for device, dtype in itertools.product(("cpu", "cuda", "mps", "meta"), (F32, BF16, F16, torch.float64)):
        for (T, S), window in itertools.product(((1, 1), (1, 99), (3, 99), (99, 99), (1500, 1500)), (0, 40)):
            for positions, grad, documents, varlen in itertools.product(yes_no, repeat=4):
                flash = device == "cuda" and dtype in (BF16, F16)
                if documents and (positions or S > T) or varlen and not flash:
                    continue
                for rows in (1, 8):
                    yield dict(device=device, dtype=dtype, T=T, S=S, window=window, has_positions=positions,
                               grad=grad, rows=rows, has_documents=documents, has_varlen=varlen)  # fmt: skip


def test_what_is_chosen_can_be_done():
    asked = list(every_question())
    assert not [(a, w) for a in asked if (w := choose_way(**a)) not in WAYS or why_not(w, **a)]
    assert {choose_way(**a) for a in asked} == set(WAYS) - {"flex"}


def test_on_a_cpu_the_choice_is_the_old_one():
    "As it stood when the laptop's results were recorded: the same kernels, so the same bits"
    for a in every_question():
        if a["device"] != "cpu" or a["has_documents"]:
            continue
        if a["has_positions"] or a["S"] > a["T"]:
            old = "step" if a["T"] == 1 and a["dtype"] == BF16 and a["rows"] >= 8 else "masked"
        else:
            old = "blocks" if a["window"] > 0 or a["T"] <= 1024 else "sdpa"
        assert choose_way(**a) == old, a


@pytest.mark.parametrize(
    "way,window,S,document,words",
    [
        ("flash", 0, 4, None, "no way 'flash'; there are blocks, band, step, masked, sdpa, varlen, flex"),
        ("sdpa", 2, 4, None, "'sdpa' has no windows: take blocks or band or step or masked or varlen"),
        ("band", 2, 9, None, "4 queries, 9 keys): take step or masked or flex"),
        ("sdpa", 0, 9, None, "'sdpa' wants a whole pass"),
        ("varlen", 0, 4, None, "'varlen' wants bfloat16 or float16 on a GPU"),
        ("blocks", 0, 4, [0, 0, 1, 1], "'blocks' can't keep documents apart: take masked or varlen or flex"),
        ("masked", 0, 9, [0, 0, 1, 1], "in a whole pass only, and not in a cache"),
    ],
)
def test_what_a_way_cannot_do_is_one_line(way, window, S, document, words):
    q, k, v = numbers(1, 4, S, 2, 2)
    document = None if document is None else torch.tensor([document])
    with pytest.raises(UserError) as e:
        attend(q, k, v, window, way=way, document=document)
    assert words in str(e.value) and "\n" not in str(e.value)


def test_a_window_over_everything_is_none():
    "So a way without windows takes it, and one with windows takes none"
    tensors = numbers(2, 6, 6, 2, 2)
    for way in ("sdpa", "band", "blocks", "step", "masked"):
        for window in (5, 6, 600):
            compare(way, tensors, torch.float64, window)


def test_documents_in_a_cache_are_refused_by_default_too():
    q, k, v = numbers(1, 4, 9, 2, 2)
    with pytest.raises(UserError, match="in a cache"):
        attend(q, k, v, document=torch.zeros(1, 4, dtype=torch.long))


# --- the parts ---


def test_blocks_of_a_band():
    t = torch.arange(2 * 3 * 10 * 4.0).view(2, 3, 10, 4)
    cut = cut_into_blocks(t, 4)
    assert cut.shape == (2, 3, 3, 4, 4) and torch.equal(cut[:, 1], t[:, :, 4:8])
    assert torch.equal(cut[:, 2, :, :2], t[:, :, 8:]) and not cut[:, 2, :, 2:].any()
    two = with_block_before(cut)
    assert torch.equal(two[:, 1], t[:, :, :8]) and not two[:, 0, :, :4].any()
    mask = band_mask(3, 4)
    assert mask.shape == (3, 1, 4, 8)
    for block, query, key in itertools.product(range(3), range(4), range(8)):
        i, j = block * 4 + query, (block - 1) * 4 + key
        assert mask[block, 0, query, key] == (j >= 0 and 0 <= i - j <= 4)


@pytest.mark.parametrize(
    "pattern,n_layer,expected",
    [
        ("SSSL", 8, [9, 9, 9, 0, 9, 9, 9, 0]),
        ("SSSL", 6, [9, 9, 9, 0, 9, 0]),
        ("SSSL", 1, [0]),
        ("L", 3, [0, 0, 0]),
        ("S", 4, [9, 9, 9, 0]),
        ("LS", 5, [0, 9, 0, 9, 0]),
        ("SL", 0, []),
    ],
)
def test_windows_of_all_layers(pattern, n_layer, expected):
    assert windows(pattern, n_layer, 9) == expected
    assert windows(pattern, n_layer, 0) == [0] * n_layer


@pytest.mark.parametrize("pattern", ["", "SSM", "sssl", "S L", "S,L"])
def test_a_pattern_of_other_letters_is_one_line(pattern):
    with pytest.raises(UserError, match="made of S and L"):
        windows(pattern, 4, 9)


def test_one_base_for_rope():
    assert all(torch.equal(a, b) for a, b in zip(rope_cache(9, 8), rope_cache(9, 8, ROPE_BASE)))


def test_nothing_is_compiled_or_loaded_at_import():
    "What torch does not load by itself, the module loads only when it is used"
    code = """import sys, torch
before = set(sys.modules)
import nanochat.attention
late = "torch._dynamo", "torch._inductor", "torch.nn.attention"
new = [m for m in set(sys.modules)-before if m.startswith(late)]
assert not new, new
assert nanochat.attention.compiled_flex.cache_info().currsize == 0"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_it_can_be_traced_whole():
    "No break in the graph: what torch.compile needs, and what chapter 12 relies on"
    q, k, v = numbers(2, 20, 20, 4, 2, dtype=F32)
    traced = torch.compile(attend, backend="eager", fullgraph=True)
    for window in (0, 5):
        assert torch.equal(traced(q, k, v, window), attend(q, k, v, window))
    pos = torch.tensor([[7], [9]])
    assert torch.equal(traced(q[:, :1], k, v, 5, pos), attend(q[:, :1], k, v, 5, pos))


@needs_varlen
def test_varlen_is_called_as_torch_wants_it():
    "The real function, its backward pass and its trace, on tensors without numbers"
    tensors = [t.transpose(1, 2) for t in numbers(3, 20, 20, 4, 2, dtype=BF16, device="meta")]
    q, k, v = (t.detach().requires_grad_() for t in tensors)
    traced = torch.compile(attend_varlen, backend="aot_eager", fullgraph=True)
    for way, window in itertools.product((attend_varlen, traced), (0, 7)):
        y = way(q, k, v, window)
        assert y.shape == q.shape and y.dtype == BF16
        y.square().sum().backward()
        assert [t.grad.shape for t in (q, k, v)] == [t.shape for t in (q, k, v)]


# --- on a GPU ---


@pytest.mark.cuda
@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_on_a_gpu_a_whole_pass_and_its_gradients(way, dtype):
    if way == "varlen" and dtype == torch.float32:
        pytest.skip("FlashAttention has no float32")
    lengths = (64, 0), (300, 64), (257, 128), (513, 500)
    for (B, H, G), (T, window) in itertools.product(((1, 2, 2), (3, 4, 2)), lengths):
        if way != "sdpa" or not window:
            compare(way, numbers(B, T, T, H, G, D=64, dtype=dtype, device="cuda"), dtype, window)


@pytest.mark.cuda
@pytest.mark.parametrize("way", ["step", "masked", "flex"])
def test_on_a_gpu_queries_at_any_positions(way):
    for B, T, S, window in ((3, 1, 200, 0), (9, 1, 333, 70), (2, 5, 240, 60)):
        pos = torch.randint(S, (B, T), generator=torch.Generator().manual_seed(1)).cuda()
        tensors = numbers(B, T, S, 4, 2, D=64, dtype=BF16, device="cuda")
        compare(way, tensors, BF16, window, pos, grad=False)


@pytest.mark.cuda
@pytest.mark.parametrize("way", ["masked", "varlen", "flex", None])
def test_on_a_gpu_documents_do_not_see_each_other(way):
    document = PACKED.repeat_interleave(16, 1).cuda()
    for window in (0, 40, 200):
        tensors = numbers(4, 320, 320, 4, 2, D=64, dtype=BF16, device="cuda")
        compare(way, tensors, BF16, window, document=document)


@pytest.mark.cuda
def test_on_a_gpu_the_default_is_right_and_can_be_traced():
    for dtype, window in itertools.product((BF16, F32), (0, 64, 300)):
        tensors = numbers(2, 512, 512, 4, 2, D=64, dtype=dtype, device="cuda")
        compare(None, tensors, dtype, window)
        traced = torch.compile(attend, backend="aot_eager", fullgraph=True)
        assert_close(traced(*tensors, window), attend(*tensors, window), atol=3e-2, rtol=3e-2)
