"Chapter 12: formats, float16 with a loss scale, products in eight bits, what is kept, compile, the roofline"

import itertools, json, math
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from torch import nn
from nanochat import precision
from nanochat.attention import KVCache
from nanochat.distributed import MuonAdamW, param_groups
from nanochat.gpt import GPT, GPTConfig, MODERN, Linear, load_model, save_model
from nanochat.precision import (
    E4M3,
    E5M2,
    FORMATS,
    EightBitLinear,
    LossScale,
    Machine,
    bf16_tables,
    bits_of,
    checkpoint_blocks,
    choose_dtype,
    compile_pays,
    intensity,
    linear_eight,
    mfu,
    saved_bytes,
    saves_time,
    to_eight,
    use_fp8,
    value_of,
)
from nanochat.runs import UserError
from nanochat.runtime import gpu_dtype

SHAPE = dict(vocab_size=64, seq_len=32, n_layer=2, n_embd=64, n_head=2, n_kv_head=2)


def small(dtype=torch.float32, seed=0, **over):
    "A model without matrices of zeros, so that gradients flow everywhere"
    torch.manual_seed(seed)
    model = GPT(GPTConfig(**{**SHAPE, **over}), dtype)
    for p in model.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.1)
    return model


def some(seed=1, rows=4, T=32):
    ids = torch.randint(64, (rows, T + 1), generator=torch.Generator().manual_seed(seed))
    return ids[:, :-1], ids[:, 1:]


def gradients(model, ids, targets):
    model.zero_grad()
    model(ids, targets).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# ---- formats ----


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_torchs(name):
    format, info = FORMATS[name], torch.finfo(FORMATS[name].dtype)
    assert (format.largest, format.gap) == (info.max, info.eps)
    assert format.smallest == torch.tensor(info.smallest_normal).double().item() * info.eps


def test_bits_and_values_belong_together():
    random = torch.Generator().manual_seed(0)
    for name, x in itertools.product(FORMATS, torch.randn(40, generator=random).tolist()):
        format = FORMATS[name]
        code = int(bits_of(x, format).replace(" ", ""), 2)
        assert value_of(code, format) == torch.tensor(x).to(format.dtype).double().item()


# ---- which dtype ----


@pytest.mark.parametrize(
    "capability,dtype",
    [
        ((6, 1), "float32"),
        ((7, 0), "float16"),
        ((7, 5), "float16"),
        ((8, 0), "bfloat16"),
        ((8, 9), "bfloat16"),
        ((12, 0), "bfloat16"),
    ],
)
def test_emulated_bfloat16_is_never_chosen(monkeypatch, capability, dtype):
    "A T4 says that it supports bfloat16, and means that torch imitates it"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.version, "hip", None)
    chosen = choose_dtype("cuda")
    assert chosen.dtype == getattr(torch, dtype)
    assert chosen.scale_loss == (dtype == "float16")


def test_amd_and_cpu():
    assert gpu_dtype((9, 0), hip=True) == torch.bfloat16
    chosen = choose_dtype("cpu")
    assert chosen.dtype in (torch.float32, torch.bfloat16) and not chosen.scale_loss
    assert choose_dtype("cpu", chosen.dtype) == chosen  # a choice that was made is explained, not made again
    assert choose_dtype("cpu", torch.float32).why != choose_dtype("cpu", torch.bfloat16).why


# ---- the loss scale ----


@pytest.mark.parametrize("seed", range(4))
def test_loss_scale_follows_torchs_rule(seed):
    chance = torch.Generator().manual_seed(seed)
    ours = LossScale(2.0**12, growth=4.0, backoff=0.25, patience=3)
    theirs = torch.amp.GradScaler("cpu", 2.0**12, growth_factor=4.0, backoff_factor=0.25, growth_interval=3)
    mine, other = (nn.Linear(3, 1, bias=False) for _ in range(2))
    other.load_state_dict(mine.state_dict())
    steps = [torch.optim.AdamW(model.parameters(), lr=0.01) for model in (mine, other)]
    for _ in range(50):
        bad = torch.rand((), generator=chance) < 0.25
        factor = torch.tensor([1.0, math.nan if bad else 1.0, 1.0])
        ours((mine.weight * factor).square().sum()).backward()
        finite = ours.undo(mine)
        if finite:
            steps[0].step()
        ours.update(finite)
        theirs.scale((other.weight * factor).square().sum()).backward()
        theirs.step(steps[1])
        theirs.update()
        for opt in steps:
            opt.zero_grad()
        assert finite != bool(bad)
        assert ours.scale == theirs.get_scale()
        assert torch.equal(mine.weight, other.weight)


def test_loss_scale_goes_on_from_a_checkpoint():
    def run(scale, steps):
        for good in steps:
            scale.update(good)
        return scale.state_dict()

    steps = [True] * 3 + [False] + [True] * 9
    whole = run(LossScale(patience=4), steps)
    for cut in range(len(steps)):
        first = run(LossScale(patience=4), steps[:cut])
        second = LossScale(patience=4)
        second.load_state_dict(first)
        assert run(second, steps[cut:]) == whole


def test_float16_gradients_vanish_without_it_and_not_with_it():
    model, (ids, targets) = small(torch.float16), some()
    tiny = 1e-7

    def first_layer(scale):
        model.zero_grad()
        scale(model(ids, targets) * tiny).backward()
        assert scale.undo(model)
        return model.blocks[0].mlp.c_proj.weight.grad / tiny

    lost, kept = first_layer(LossScale(1.0)), first_layer(LossScale(2.0**20))
    exact = gradients(small(), ids, targets)["blocks.0.mlp.c_proj.weight"]
    assert (lost == 0).float().mean() > 0.9
    assert (kept - exact).norm() < 0.02 * exact.norm()


def test_an_infinite_gradient_is_skipped_and_halves_the_scale():
    model, scale = small(torch.float16), LossScale(2.0**60)
    scale(model(*some())).backward()
    finite = scale.undo(model)
    scale.update(finite)
    assert not finite and scale.scale == 2.0**59


# ---- eight bits ----


def naive(x, w, grad):
    "The three products with rounded factors in float64"
    x, w, grad = (t.float().double() for t in (to_eight(x), to_eight(w), to_eight(grad, E5M2)))
    return x @ w.T, grad @ w, grad.T @ x


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 5e-3)])
@pytest.mark.parametrize("K,O,N", [(16, 16, 16), (16, 64, 32), (128, 48, 80)])
def test_eight_bit_products(K, O, N, dtype, tolerance):
    torch.manual_seed(K + O)
    x, grad = torch.randn(N, K, dtype=dtype), torch.randn(N, O, dtype=dtype) * 1e-4
    w = (torch.randn(O, K) * 0.05).requires_grad_()
    rows = x.view(2, N // 2, K).clone().requires_grad_()
    y = linear_eight(rows, w)
    y.backward(grad.view(2, N // 2, O))
    assert (y.dtype, rows.grad.dtype, w.grad.dtype) == (dtype, dtype, torch.float32)
    got = y.detach().view(N, O), rows.grad.view(N, K), w.grad
    for mine, wanted in zip(got, naive(x, w.detach(), grad)):
        assert (mine.double() - wanted).abs().max() <= tolerance * wanted.abs().max()
    exact = x.double() @ w.detach().double().T
    assert (got[0].double() - exact).norm() < 0.06 * exact.norm()


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_zeros_huge_and_tiny_tensors(dtype):
    assert torch.equal(to_eight(torch.zeros(5, 5), dtype).float(), torch.zeros(5, 5))
    for size in (1e-30, 1e-12, 1.0, 1e30, 3e38):
        x = torch.tensor([1.0, -1.0, 0.5, 0.0]) * size
        back = to_eight(x, dtype).float()
        assert back.isfinite().all()
        if size > 1e-12:
            assert (back - x).abs().max() <= 0.07 * size
    for bad in (math.nan, math.inf):
        assert to_eight(torch.tensor([bad, 1.0]), dtype).float().isnan().any()


def test_saturated_products_hold_no_nan():
    x, w = torch.full((16, 16), 3e38), torch.zeros(16, 16, requires_grad=True)
    y = linear_eight(x, w)
    assert torch.equal(y, torch.zeros(16, 16))
    y.backward(torch.full((16, 16), 1e-30))
    assert w.grad.isfinite().all()


@pytest.mark.parametrize("format", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_cpu_multiplies_what_a_gpu_is_asked_to(format):
    "torch's own product of codes, which takes a thousand times as long on some processors"
    torch.manual_seed(0)
    a, b = to_eight(torch.randn(16, 32), format), to_eight(3 * torch.randn(48, 32))
    theirs = torch._scaled_mm(
        a.codes, b.codes.t(), scale_a=a.inverse, scale_b=b.inverse, out_dtype=torch.bfloat16
    )
    torch.testing.assert_close(precision.product(a, b, torch.bfloat16), theirs, rtol=2**-7, atol=1e-5)


def test_a_cpu_is_not_asked_for_a_gpus_kernel(monkeypatch):
    "Chapter 12 took thirteen minutes on a processor whose stand-in for it is slow"
    monkeypatch.setattr(torch, "_scaled_mm", lambda *a, **k: pytest.fail("asked on a CPU"))
    assert linear_eight(torch.ones(16, 16), torch.ones(16, 16)).sub(16).abs().max() < 1e-3


@pytest.mark.parametrize("switches", [{}, MODERN, dict(n_kv_head=1)])
def test_use_fp8_reaches_every_product_in_training_only(monkeypatch, switches):
    model, (ids, targets) = small(**switches), some()
    plain_loss, plain_grads = model(ids, targets), gradients(model, ids, targets)
    pointers = {name: p.data_ptr() for name, p in model.named_parameters()}
    keys = list(model.state_dict())
    switched = use_fp8(model, smallest=32)
    assert len(switched) == 2 * 6 and "lm_head" not in switched
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == pointers
    assert list(model.state_dict()) == keys
    calls = []
    real = precision.product
    monkeypatch.setattr(precision, "product", lambda *a, **k: calls.append(1) or real(*a, **k))
    grads = gradients(model, ids, targets)
    assert len(calls) == 2 * 4 * 3  # two blocks, four matrices (q, k, v in one), three products
    assert not torch.equal(grads["blocks.0.attn.c_q.weight"], plain_grads["blocks.0.attn.c_q.weight"])
    calls.clear()
    with torch.no_grad():
        assert torch.equal(model(ids, targets), plain_loss)
    for name, grad in gradients(model.eval(), ids, targets).items():
        assert torch.equal(grad, plain_grads[name])
    assert not calls


def test_use_fp8_leaves_what_does_not_fit():
    model = small(n_embd=80, n_head=2, n_kv_head=2, vocab_size=100, **MODERN)
    assert all("gate" not in name and name != "lm_head" for name in use_fp8(model))
    odd = nn.Sequential(Linear(24, 64), Linear(64, 64), Linear(64, 16))
    assert use_fp8(odd) == ["1"]
    assert use_fp8(odd) == []  # a second time there is nothing left to do
    assert use_fp8(small(), keep=("lm_head", "blocks.0.mlp.c_fc")) == [
        name for name in use_fp8(small()) if name != "blocks.0.mlp.c_fc"
    ]


def test_rows_that_are_no_multiple_of_sixteen_are_multiplied_as_before():
    torch.manual_seed(0)
    layer = EightBitLinear(32, 32)
    for rows in (0, 1, 15, 17):
        x = torch.randn(rows, 32, requires_grad=True)
        assert torch.equal(layer(x), F.linear(x, layer.weight))
    x = torch.randn(16, 32, requires_grad=True)
    assert not torch.equal(layer(x), F.linear(x, layer.weight))


def test_use_fp8_refuses_an_older_gpu(monkeypatch):
    class Model(nn.Module):
        def parameters(self, recurse=True):
            yield type("Weight", (), {"device": torch.device("cuda")})()

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "A100")
    with pytest.raises(UserError, match="A100 multiplies no numbers of eight bits"):
        use_fp8(Model())


def train(prepare=None, dtype=torch.bfloat16, steps=50, seed=0):
    "Losses of a small model that learns to count in sevens"
    torch.manual_seed(seed)
    model = GPT(GPTConfig(**SHAPE, **MODERN), dtype)
    if prepare:
        prepare(model)
    opt, losses = MuonAdamW(param_groups(model), dtype=torch.float32), []
    chance = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in opt.groups:
            group["lr"] = group["base_lr"] * (1 - step / steps)
        ids = (torch.randint(64, (4, 1), generator=chance) + 7 * torch.arange(33)) % 64
        loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        opt.step()
        model.zero_grad()
        losses.append(loss.item())
    return losses


def test_training_falls_in_all_ways_alike():
    ends = {}
    for name, prepare in dict(plain=None, eight=use_fp8, tables=bf16_tables).items():
        losses = train(prepare)
        assert all(map(math.isfinite, losses)) and losses[0] > 4
        ends[name] = sum(losses[-5:]) / 5
    assert ends["plain"] < 1.0
    assert abs(ends["eight"] - ends["plain"]) < 0.25, ends
    assert abs(ends["tables"] - ends["plain"]) < 0.25, ends


def test_tables_are_kept_in_bfloat16_and_learn():
    model = small(torch.bfloat16, **MODERN)
    assert bf16_tables(model) == ["wte", "value_embeds.1"]
    assert {p.dtype for name, p in model.named_parameters() if "wte" in name or "embeds" in name} == {
        torch.bfloat16
    }
    assert model.lm_head.weight.dtype == torch.float32
    before = model.wte.weight.clone()
    opt = MuonAdamW(param_groups(model))
    model(*some()).backward()
    opt.step()
    assert model.wte.weight.dtype == torch.bfloat16 and not torch.equal(model.wte.weight, before)


def test_all_switches_leave_a_checkpoint_as_it_is(tmp_path):
    "Weights are saved under their names; a model without any switch reads them and computes the same"
    model, (ids, _) = small(torch.bfloat16, **MODERN), some()
    bf16_tables(model)
    use_fp8(checkpoint_blocks(model))
    save_model(model, tmp_path / "step_1")
    loaded, _ = load_model(tmp_path / "step_1")
    assert loaded.wte.weight.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(loaded(ids), model(ids))


def test_the_model_is_one_graph_with_eight_bits():
    model, batch = small(torch.bfloat16, n_layer=1), some()
    use_fp8(model)
    wanted = gradients(model, *batch)
    traced = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
    model.zero_grad()
    traced(*batch).backward()
    for name, p in model.named_parameters():
        if name in wanted:
            assert (p.grad - wanted[name]).norm() <= 0.05 * wanted[name].norm(), name


# ---- what is kept ----


@pytest.mark.parametrize("switches", [{}, MODERN])
@pytest.mark.parametrize("prepare", [lambda model: model, use_fp8])
def test_checkpointed_gradients_are_equal_bit_for_bit(switches, prepare):
    model, batch = small(torch.bfloat16, **switches), some()
    prepare(model)
    wanted = gradients(model, *batch)
    for on in (True, True, False):
        got = gradients(checkpoint_blocks(model, on), *batch)
        assert wanted.keys() == got.keys()
        assert all(torch.equal(wanted[name], got[name]) for name in wanted)
        assert all(("forward" in block.__dict__) == on for block in model.blocks)


def test_decoding_is_not_computed_twice(monkeypatch):
    model = checkpoint_blocks(small())

    def refuse(*_, **__):
        raise AssertionError("a decoding model was checkpointed")

    monkeypatch.setattr(precision, "checkpoint", refuse)
    ids = some()[0]
    with torch.no_grad():
        wanted = model(ids)
    cfg = model.cfg
    model(ids, cache=KVCache(cfg.n_layer, len(ids), 40, cfg.n_kv_head, cfg.head_dim))
    with pytest.raises(AssertionError, match="was checkpointed"):
        model(ids)
    assert torch.equal(checkpoint_blocks(model, False)(ids), wanted)


def deep(depth, **switches):
    heads = math.ceil(depth / 2)
    shape = dict(vocab_size=32_768, seq_len=2048, n_layer=depth, n_embd=128 * heads)
    return GPTConfig(**shape, n_head=heads, n_kv_head=heads, **switches)


def per_channel(config, **how):
    kept = saved_bytes(config, **how)
    kept.pop("copies")
    return sum(kept.values()) / (config.seq_len * config.n_embd * config.n_layer)


def test_bytes_kept_for_each_token_and_channel():
    assert abs(per_channel(deep(20)) - 40.3) < 0.05
    assert abs(per_channel(deep(20, **MODERN)) - 41.6) < 0.05
    assert abs(per_channel(deep(20), prepare=use_fp8) - 35.3) < 0.05
    assert per_channel(deep(20), prepare=checkpoint_blocks) < 3
    assert per_channel(deep(12, window=512)) == per_channel(deep(12))


def test_kept_bytes_grow_with_the_rows():
    one, five = (saved_bytes(deep(4), rows) for rows in (1, 5))
    copies = one.pop("copies")
    assert five.pop("copies") == copies > 2 * 4 * 12 * 256**2
    assert five == {part: 5 * size for part, size in one.items()}
    short = saved_bytes(deep(4), T=1024)
    assert short.pop("copies") < copies  # the angles of half as many positions
    assert short == {part: size / 2 for part, size in one.items()}


def test_the_head_keeps_less_than_its_logits():
    kept = saved_bytes(deep(4), rows=8, head=True)
    assert 0 < kept["head"] < 8 * 2048 * 32_768 * 4


# ---- compile and the roof ----


class Clock:
    "A step that takes as long as it says, on a clock of its own"

    def __init__(self):
        self.now = 0.0

    def step(self, seconds, first=0.0):
        waits = itertools.chain([seconds + first], itertools.repeat(seconds))

        def one():
            self.now += next(waits)

        return one


@pytest.mark.parametrize(
    "compiled,first,steps_left,tried,pays,use",
    [
        (0.2, 30.0, 10, False, False, False),
        (0.2, 30.0, 2000, True, True, True),
        (0.29, 50.0, 2000, True, False, True),  # built at a loss, but now it is there
        (0.4, 50.0, 2000, True, False, False),
    ],
)
def test_the_probe_counts_its_own_cost(monkeypatch, compiled, first, steps_left, tried, pays, use):
    clock = Clock()
    monkeypatch.setattr(precision.time, "perf_counter", lambda: clock.now)
    found = compile_pays(clock.step(0.3), clock.step(compiled, first), steps_left)
    assert (found.compiled is not None, found.pays, found.use_compiled) == (tried, pays, use)
    if tried:
        assert abs(found.cost - first) < 1e-9 and abs(found.compiled - compiled) < 1e-9
        assert pays == saves_time(0.3, compiled, first, steps_left)


def test_cold_first_steps_do_not_make_compiling_look_good(monkeypatch):
    "At 33 ms a step 3,600 steps can't pay for a minute of building, however slow the first ones were"
    clock, built = Clock(), []
    cold = itertools.chain([0.4, 0.15, 0.12, 0.11, 0.09], itertools.repeat(0.033))
    monkeypatch.setattr(precision.time, "perf_counter", lambda: clock.now)

    def plain():
        clock.now += next(cold)

    found = compile_pays(plain, lambda: built.append(1), 3600)
    assert abs(found.plain - 0.033) < 1e-9 and found.compiled is None and not built


def test_a_later_stage_finds_what_an_earlier_one_has_built(monkeypatch):
    from nanochat import pretrain

    asked = []
    monkeypatch.setattr(pretrain, "compile_pays", lambda *args, **more: asked.append(more))
    pretrain.probe_compile(small(), lambda: None, (), 10)
    pretrain.probe_compile(small(), lambda: None, (), 10, built=True)
    assert asked == [{}, dict(usual_cost=pretrain.BUILT_BEFORE)]


def test_kept_bytes_of_any_row_length_in_eight_bits():
    "One row of 40 tokens is no multiple of 16, and would be weighed in another format than two"
    config = GPTConfig(**dict(SHAPE, vocab_size=64))
    for T in (40, 48):
        kept = saved_bytes(config, rows=2, T=T, prepare=use_fp8)
        assert all(size > 0 for size in kept.values()), (T, kept)
    short, long = (saved_bytes(config, rows=2, T=T, prepare=use_fp8) for T in (40, 80))
    assert long["MLP in"] == 2 * short["MLP in"] and long["MLP out"] == 2 * short["MLP out"]


def test_heads_that_do_not_fit_together_stay_as_they_are():
    "Queries, keys and values are one product, of 36 rows here: eight bits would want a multiple of 16"
    layer = EightBitLinear(32, 32)
    x, weight = torch.randn(16, 32), torch.randn(36, 32)
    assert torch.equal(layer.multiply(x, weight), F.linear(x, weight))
    assert to_eight(torch.randn(16, 32).t()).codes.is_contiguous()


def test_the_roof():
    machine = Machine(100.0, 10.0)
    assert machine.ridge == 10.0
    assert [machine.attainable(x) for x in (1.0, 10.0, 99.0)] == [10.0, 100.0, 100.0]
    assert intensity(64, 64, 64, n_bytes=1) == 2 * intensity(64, 64, 64)
    assert intensity(10**9, 512, 2048) < 2 * 512 * 2048 / (2 * (512 + 2048)) * 1.001
    assert mfu(1000.0, 6e6, 12e9) == 0.5 and mfu(1.0, 1.0, None) is None
    assert precision.copy_speed(megabytes=4, repeats=1) > 0


# ---- what the chapter says of kept measurements ----


def test_kept_pairs_are_as_the_chapter_says():
    kept = json.loads((ROOT / "bench" / "results" / "precision.json").read_text())["bits"]["figures"]
    assert (kept["pairs"], kept["steps"]) == (8, 200)
    tables, eight = (kept["differences"][name] for name in ("tables", "eight"))
    assert abs(tables["mean"]) < tables["standard_error"]
    assert 0 < eight["mean"] < min(0.01, 2 * eight["standard_error"])


# ---- on a GPU ----


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eight_bit_products_on_a_gpu(dtype):
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU multiplies no numbers of eight bits")
    torch.manual_seed(0)
    x = torch.randn(256, 128, dtype=dtype, device="cuda", requires_grad=True)
    w = torch.randn(192, 128, device="cuda", requires_grad=True)
    grad = torch.randn(256, 192, dtype=dtype, device="cuda")
    y = linear_eight(x, w)
    y.backward(grad)
    for mine, wanted in zip((y, x.grad, w.grad), naive(x.detach(), w.detach(), grad)):
        assert (mine.double() - wanted).norm() <= 0.01 * wanted.norm()
