"The optimizers: pure updates, switches that are off, kinds of parameters, states with old and new names"

import json, math
from dataclasses import FrozenInstanceError, replace
from itertools import product
import pytest, torch
from conftest import torchrun
from nanochat.distributed import MuonAdamW, param_groups
from nanochat.gpt import GPT, GPTConfig, MODERN
from nanochat.optim import COURSE, NANOCHAT_2026, NEWTON_SCHULZ, PATTERNS, Update
from nanochat.optim import adamw_update, advance, advance_squares, apply_update, equalize_rows, even_lengths
from nanochat.optim import mean_square_shape, momentum_at, muon_update, polar, to_full_length, weight_decay_at
from nanochat.runs import UserError

TABLES = {"course": COURSE, "2026": NANOCHAT_2026}


def tiny(dtype=torch.float32, seed=0, **over):
    torch.manual_seed(seed)
    shape = dict(vocab_size=64, seq_len=32, n_layer=3, n_embd=32, n_head=2, n_kv_head=2, **MODERN)
    return GPT(GPTConfig(**{**shape, **over}), dtype)


def steps(model, opt, n, seed=0):
    "Losses of some steps on one batch"
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(64, (8, 17), generator=g)
    losses = []
    for _ in range(n):
        loss = model(x[:, :-1], x[:, 1:])
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
    return losses


# --- the functions ---


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adamw_is_torchs_bit_for_bit(weight_decay, dtype):
    torch.manual_seed(1)
    shapes = [(5, 3), (7,), (), (2, 3, 4), (1, 1)]
    ours = [torch.randn(s, dtype=dtype) for s in shapes]
    theirs = [torch.nn.Parameter(x.clone()) for x in ours]
    means, squares = ([torch.zeros_like(x) for x in ours] for _ in range(2))
    kw = dict(lr=0.03, betas=(0.8, 0.95), eps=1e-10, weight_decay=weight_decay)
    opt = torch.optim.AdamW(theirs, **kw)
    for t in range(1, 61):
        for p in theirs:
            p.grad = torch.randn_like(p)
        grads = [p.grad for p in theirs]
        advance(means, grads, 0.8)
        advance_squares(squares, grads, 0.95)
        apply_update(ours, adamw_update(means, squares, t, (0.8, 0.95), 1e-10), 0.03, weight_decay)
        opt.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs))


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (32, 32)])
def test_muon_is_torchs_where_the_recipes_coincide(shape):
    "Jordan's coefficients, no safety factor: what is left is the rounding of bfloat16"
    torch.manual_seed(2)
    weight, buffer = torch.randn(shape), torch.zeros(1, *shape)
    start, theirs = weight.clone(), torch.nn.Parameter(weight.clone())
    opt = torch.optim.Muon([theirs], lr=0.02, momentum=0.95, weight_decay=0.1)
    for _ in range(10):
        theirs.grad = torch.randn(shape)
        advance([buffer], [theirs.grad[None]], 0.95)
        update = muon_update(theirs.grad[None], buffer, coefs=NEWTON_SCHULZ, safety=1.0)
        apply_update([weight], update, 0.02, 0.1)
        opt.step()
    assert (weight - theirs).norm() < 0.02 * (theirs - start).norm()


def test_updates_are_pure():
    torch.manual_seed(3)
    given = [torch.randn(3, 8, 5), torch.randn(3, 8, 5), torch.rand(3, 8, 1)]
    kept = [t.clone() for t in given]
    options = dict(mean_square=given[2], equalize=True, renormalize=True)
    a, b = (muon_update(given[0], given[1], **options) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a.directions, b.directions))
    adamw_update(given[:2], [t.square() for t in given[:2]], 3)
    assert all(torch.equal(x, y) for x, y in zip(given, kept))


def test_a_stack_is_its_matrices_one_by_one():
    torch.manual_seed(4)
    grads, buffer, squares = torch.randn(4, 6, 9), torch.randn(4, 6, 9), torch.rand(4, 6, 1)
    kw = dict(dtype=torch.float32, equalize=True, renormalize=True)
    whole = muon_update(grads, buffer, mean_square=squares, **kw)
    for i in range(4):
        part = slice(i, i + 1)
        one = muon_update(grads[part], buffer[part], mean_square=squares[part], **kw)
        torch.testing.assert_close(one.directions[0], whole.directions[i])
        torch.testing.assert_close(one.mean_square[0], whole.mean_square[i])


def test_cautious_decay_acts_only_where_update_and_weight_agree():
    torch.manual_seed(5)
    for update in (Update([torch.randn(400)]), Update([torch.randn(400)], [torch.rand(400) + 0.1], 0.3)):
        w = torch.randn(400)
        w[:5] = 0
        plain, careful, bare = w.clone(), w.clone(), w.clone()
        apply_update([plain], update, 0.1, 0.5)
        apply_update([careful], update, 0.1, 0.5, cautious=True)
        apply_update([bare], update, 0.1)
        agree = update.directions[0] * w > 0
        torch.testing.assert_close(careful[agree], plain[agree])
        assert torch.equal(careful[~agree], bare[~agree]) and agree.any() and (~agree).any()


def test_no_decay_is_no_decay_cautious_or_not():
    w, update = torch.randn(50), Update([torch.randn(50)])
    a, b = w.clone(), w.clone()
    apply_update([a], update, 0.1)
    apply_update([b], update, 0.1, 0.0, cautious=True)
    assert torch.equal(a, b)


@pytest.mark.parametrize("out, fan_in", [(12, 5), (5, 12), (7, 7), (1, 9), (9, 1), (1, 1)])
def test_lengths_are_evened_along_the_chosen_side(out, fan_in):
    torch.manual_seed(6)
    longer = fan_in > out
    assert mean_square_shape(out, fan_in) == (out, 1)
    assert mean_square_shape(out, fan_in, "longer") == ((1, fan_in) if longer else (out, 1))
    for side in ("rows", "longer"):
        U = torch.randn(2, out, fan_in) * torch.rand(2, out, 1) * torch.rand(2, 1, fan_in)
        running = torch.zeros(2, *mean_square_shape(out, fan_in, side))
        for _ in range(200):
            evened, running = even_lengths(U, running)
        torch.testing.assert_close(evened.norm(dim=(1, 2)), U.norm(dim=(1, 2)))
        columns = side == "longer" and longer
        lengths = evened.norm(dim=1 if columns else 2)
        assert (lengths - lengths.mean(1, keepdim=True)).abs().max() < 0.01 * lengths.max()


def test_rows_of_one_length_before_the_polar_factor():
    torch.manual_seed(7)
    G = torch.randn(3, 6, 10) * torch.logspace(0, -6, 6)[:, None]
    G[0, 2] = 0
    out = equalize_rows(G)
    assert out.isfinite().all() and not out[0, 2].any() and not equalize_rows(torch.zeros(2, 3, 4)).any()
    lengths = out[1:].norm(dim=-1)
    torch.testing.assert_close(lengths, lengths.mean(1, keepdim=True).expand_as(lengths))
    torch.testing.assert_close(out[1:].norm(dim=(1, 2)), G[1:].norm(dim=(1, 2)))
    torch.testing.assert_close(equalize_rows(1e-9 * G), 1e-9 * out)


def test_the_full_length_of_a_polar_factor():
    for shape in ((6, 10), (10, 6), (4, 4)):
        U = polar(torch.randn(2, *shape), dtype=torch.float32)
        full = to_full_length(U)
        torch.testing.assert_close(full.norm(dim=(1, 2)), torch.full((2,), min(shape) ** 0.5))
        torch.testing.assert_close(full / full.norm(), U / U.norm(), rtol=1e-2, atol=1e-2)
    assert not to_full_length(torch.zeros(3, 3)).any()


def test_schedules():
    "Momentum's default is what training does today, to the last bit of float32"
    for step in range(300):
        today = 0.85 + 0.1 * min((step + 1) / 100, 1)
        for a, b in ((momentum_at(step), today), (1 - momentum_at(step), 1 - today)):
            assert torch.tensor(a, dtype=torch.float32) == torch.tensor(b, dtype=torch.float32)
    way = [momentum_at(t, 400, 0.85, 0.97, 2000, 0.65, 0.90) for t in range(2001)]
    assert max(way) == pytest.approx(0.97) and way[-1] == pytest.approx(0.90)
    assert way[:399] == sorted(way[:399]) and way[800:] == sorted(way[800:], reverse=True)
    short = [momentum_at(t, 400, 0.85, 0.97, 100, 0.65, 0.90) for t in range(101)]  # the rise never ends
    assert max(abs(a - b) for a, b in zip(short, short[1:])) < 0.002, "no jump"
    drift = NANOCHAT_2026.drift
    assert [drift.momentum(t, 2000, 0.65) for t in range(2001)] == way and COURSE.drift.decay(7, 9) == 1
    assert [drift.decay(t, 50) for t in range(51)] == [weight_decay_at(t, 50) for t in range(51)]
    assert [COURSE.drift.momentum(t, 90, 0.4) for t in range(90)] == [momentum_at(t) for t in range(90)]
    decay = [weight_decay_at(t, 50) for t in range(51)]
    assert decay[0] == 1 and decay[-1] == pytest.approx(0) and decay == sorted(decay, reverse=True)


# --- kinds of parameters ---


@pytest.mark.parametrize("table", TABLES)
def test_every_parameter_of_every_switch_is_of_one_kind(table):
    for on in product((False, True), repeat=len(MODERN)):
        for shape in (dict(n_layer=1), dict(n_layer=4, n_kv_head=1)):
            model = tiny(**dict(zip(MODERN, on)), **shape)
            groups = param_groups(model, table=TABLES[table])
            names = [n for g in groups for n in g["names"]]
            assert sorted(names) == sorted(n for n, _ in model.named_parameters())
            for g in groups:
                assert {TABLES[table].kind_of(n).name for n in g["names"]} == {g["of"]} <= set(PATTERNS)
                if g["kind"] == "muon":
                    assert len({p.shape for p in g["params"]}) == 1 and g["params"][0].ndim == 2
            MuonAdamW(groups)


def test_an_unknown_parameter_is_refused_in_one_line():
    model = tiny()
    model.mystery = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(UserError, match="'mystery' belongs to 0 kinds") as e:
        param_groups(model)
    assert "\n" not in str(e.value)


def test_the_courses_numbers_are_those_of_before():
    "Rates, betas and decay as they were when they stood in the code of chapter 11"
    model, scale = tiny(), (32 / 768) ** -0.5
    for g in param_groups(model):
        rate = {"matrices": 0.02, "embeddings": 0.2 * scale, "head": 0.004 * scale}
        rate["value tables"] = rate["embeddings"]
        assert g["lr"] == g["base_lr"] == rate.get(g["of"], 0.05)
        assert g["weight_decay"] == 0 and not g["cautious"]
        assert g.get("betas") == (None if g["kind"] == "muon" else (0.8, 0.95))
        assert (g["kind"] == "muon") == (g["of"] == "matrices")
    given = {g["of"]: g["base_lr"] for g in param_groups(model, 1, 2, 3, 4, 5)}
    assert (given["matrices"], given["embeddings"], given["head"]) == (1, 2 * scale, 3 * scale)
    assert {given[k] for k in given if "scale" in k or k in ("gates", "smear and backout")} == {4}
    assert {g["weight_decay"] for g in param_groups(model, weight_decay=5) if g["kind"] == "muon"} == {5}


def test_nanochats_numbers_of_2026():
    rates = {g["of"]: g["lr"] for g in param_groups(tiny(n_embd=768, n_layer=1), table=NANOCHAT_2026)}
    assert rates == pytest.approx({
        "matrices": 0.02, "embeddings": 0.3, "value tables": 0.15, "head": 0.008, "residual scales": 0.005,
        "x0 scales": 0.5, "smear and backout": 0.2, "gates": 0.02})  # fmt: skip
    assert NANOCHAT_2026.kind_of("blocks.1.mlp.c_fc.weight").muon.side == "longer"
    with pytest.raises(FrozenInstanceError):
        NANOCHAT_2026.kinds[0].rate = 2.0


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_tables_train(table, dtype):
    model = tiny(dtype)
    losses = steps(model, MuonAdamW(param_groups(model, table=TABLES[table])), 20)
    assert all(map(math.isfinite, losses)) and losses[-1] < 0.5 * losses[0], losses


@pytest.mark.parametrize("switch", [
    dict(side="longer"), dict(equalize=True), dict(renormalize=True), dict(safety=1.01),
])  # fmt: skip
def test_each_switch_of_muon_is_off_does_something_and_trains(switch):
    matrices = replace(COURSE.kinds[0], muon=replace(COURSE.kinds[0].muon, **switch))
    table = replace(COURSE, kinds=(matrices, *COURSE.kinds[1:]))
    plain, turned = tiny(), tiny()
    steps(plain, MuonAdamW(param_groups(plain)), 3)
    losses = steps(turned, MuonAdamW(param_groups(turned, table=table)), 20)
    again = tiny()
    steps(again, MuonAdamW(param_groups(again, table=table)), 3)
    assert any(not torch.equal(p, q) for p, q in zip(plain.parameters(), again.parameters()))
    assert losses[-1] < 0.5 * losses[0]


# --- compiled ---


def twenty_one_steps(table, compiled):
    "Losses and last weights where rate, momentum, decay and count are others in each step"
    model = tiny(n_layer=1, backout=False)  # of one layer backout's gradient is nothing but rounding
    opt, forward, losses = MuonAdamW(param_groups(model, weight_decay=0.1, table=table)), model, []
    with torch.no_grad():
        for p in model.parameters():  # away from the zeros of the start, whose gradients are rounding as well
            p += 0.1 * torch.randn_like(p)
    if compiled:
        opt.compile(backend="eager")
        forward = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
    for step in range(21):
        for group in opt.groups:
            group["lr"] = group["base_lr"] * (1 - step / 21)
            group["weight_decay"] = group["base_decay"] * weight_decay_at(step, 20)  # the last is 0
            group["momentum"] = momentum_at(step)
        x = torch.randint(64, (8, 17), generator=torch.Generator().manual_seed(step))
        with torch.compiler.set_stance("fail_on_recompile" if compiled and step else "default"):
            loss = forward(x[:, :-1], x[:, 1:])
            loss.backward()
            opt.step()
        opt.zero_grad()
        losses.append(loss.item())
    return losses, dict(model.named_parameters())


@pytest.mark.parametrize("table", TABLES)
def test_a_compiled_step_is_built_once(table):
    "Model and optimizer are whole graphs, which twenty steps do not build anew; and they compute the same"
    torch.compiler.reset()
    (losses, weights), (as_compiled, other) = (twenty_one_steps(TABLES[table], on) for on in (False, True))
    assert as_compiled == pytest.approx(losses, rel=1e-5) and len(set(losses)) == 21
    for name, p in weights.items():
        torch.testing.assert_close(other[name], p, rtol=1e-3, atol=1e-4, msg=name)


# --- the run's dtype ---


@pytest.mark.parametrize("table", TABLES)
def test_a_float32_run_multiplies_nothing_in_bfloat16(table):
    from test_training import matmul_dtypes

    for dtype in (torch.float32, torch.bfloat16):
        model = tiny(dtype)
        opt = MuonAdamW(param_groups(model, table=TABLES[table]))
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        assert matmul_dtypes(opt.step) == {dtype}


# --- state ---


def old_names(state):
    "As checkpoints had it until November 2026"
    short = dict(momentum_buffer="m", row_mean_square="v", exp_avg="m", exp_avg_sq="v")
    return {f"{k.rsplit('.', 1)[0]}.{short[k.rsplit('.', 1)[1]]}": t for k, t in state.items()}


def test_a_state_with_the_old_names_goes_on_as_if_nothing_had_been():
    straight = tiny()
    opt = MuonAdamW(param_groups(straight))
    steps(straight, opt, 3)
    weights = {n: t.clone() for n, t in straight.state_dict().items()}
    state = {n: t.clone() for n, t in opt.state_tensors().items()}
    assert {n.rsplit(".", 1)[1] for n in state} == {
        "momentum_buffer", "row_mean_square", "exp_avg", "exp_avg_sq"}  # fmt: skip
    after = steps(straight, opt, 3)
    for names in (state, old_names(state)):
        model = tiny()
        model.load_state_dict(weights)
        resumed = MuonAdamW(param_groups(model))
        resumed.load_state_tensors(names, 3)
        assert steps(model, resumed, 3) == after


@pytest.mark.parametrize("spoil", ["missing", "shape", "other table"])
def test_a_state_that_does_not_fit_is_refused_in_one_line(spoil):
    model = tiny()
    opt = MuonAdamW(param_groups(model))
    steps(model, opt, 1)
    state, table = opt.state_tensors(), COURSE
    if spoil == "missing":
        del state["wte.weight.exp_avg"]
    if spoil == "shape":
        state["lm_head.weight.exp_avg_sq"] = torch.zeros(3, 3)
    if spoil == "other table":
        table = NANOCHAT_2026
    fresh = MuonAdamW(param_groups(model, table=table))
    with pytest.raises(UserError, match="optimizer state: .* missing or of another shape") as e:
        fresh.load_state_tensors(state, 1)
    assert "\n" not in str(e.value) and fresh.t == 0


SEVERAL = """
import json, sys, torch, torch.distributed as dist
from pathlib import Path
from bench.timeline import recorded, watch
from safetensors.torch import load_file, save_file
from nanochat.distributed import MuonAdamW, param_groups, state_bytes, step_messages
from nanochat.gpt import GPT, GPTConfig, MODERN
from nanochat.optim import COURSE, NANOCHAT_2026
from nanochat.runtime import end_dist, init_dist

rank, world = init_dist(torch.device("cpu"))
folder, begin = sys.argv[1:]
for name, table in (("course", COURSE), ("2026", NANOCHAT_2026)):
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=1000, seq_len=32, n_layer=3, n_embd=32, n_head=2, n_kv_head=2, **MODERN))
    for p in model.parameters():
        p.data += 0.1*torch.randn_like(p)
    opt = MuonAdamW(param_groups(model, table=table))
    if world == 2 and begin == "-":
        opt.compile(backend="eager")
    if begin != "-":
        model.load_state_dict(load_file(f"{folder}/{begin}-{name}-model"))
        opt.load_state_tensors(load_file(f"{folder}/{begin}-{name}-state"), 3)
    for step in range(opt.t, opt.t+3):
        x = torch.randint(1000, (8, 17), generator=torch.Generator().manual_seed(step)).chunk(world)[rank]
        model(x[:, :-1], x[:, 1:]).backward()
        opt.step()
        opt.zero_grad()
    kept = [t for p in opt.parts if hasattr(p, "stacks") for t in p.stacks().values()]
    kept += [t for means in opt.state.values() for t in means]
    assert 4*sum(t.numel() for t in kept) == state_bytes(opt.groups, world)[rank]
    state = opt.state_tensors()
    if rank == 0:
        save_file(model.state_dict(), f"{folder}/{world}{begin}-{name}-model")
        save_file(state, f"{folder}/{world}{begin}-{name}-state")
if world == 2 and begin == "-":
    watch(opt)
    model(x[:, :-1], x[:, 1:]).backward()
    spans, names = recorded(opt, MuonAdamW.step, Path(folder, f"trace-{rank}.json"))
    found = spans, names, len(step_messages(opt.groups, 2))
    Path(folder, f"spans-{rank}.json").write_text(json.dumps(found))
end_dist()
"""


def test_one_and_two_processes_agree_with_both_tables(tmp_path):
    "Columns that are evened are shared out, kept and found again like rows; compiled steps are the same"
    from safetensors.torch import load_file

    script = tmp_path / "several.py"
    script.write_text(SEVERAL)
    for world, begin in ((1, "-"), (2, "-"), (1, "2-"), (2, "1-")):
        done = torchrun(world, script, tmp_path, begin)
        assert done.returncode == 0, done.stderr[-3000:]
    for name, (a, b) in product(TABLES, (("1-", "2-"), ("12-", "21-"))):
        for what in ("model", "state"):
            one, two = (load_file(tmp_path / f"{w}-{name}-{what}") for w in (a, b))
            assert list(one) == list(two)
            for key in one:
                assert (one[key] - two[key]).norm() <= 1e-3 * one[key].norm(), (name, what, key)
    names = {k.rsplit(".", 1)[1] for k in load_file(tmp_path / "2--2026-state")}
    assert "column_mean_square" in names and "row_mean_square" in names
    # what the profiler saw of one more step: all is sent before the first group is stepped
    for rank in range(2):
        spans, names, count = json.loads((tmp_path / f"spans-{rank}.json").read_text())
        assert {span[0] for span in spans} == {rank} and sum(names.values()) == count
        assert len([kind for _, kind, *_ in spans if kind in ("reduce", "gather")]) == count
        sent = [start + length for _, kind, _, start, length in spans if kind == "send"]
        steps = [(start, number) for _, kind, number, start, _ in spans if kind == "step"]
        assert max(sent) < min(steps)[0] and [n for _, n in sorted(steps)] == sorted(n for _, n in steps)
