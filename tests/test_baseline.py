"The baseline of 2023: torch's own layers, published sizes, GPT-2's weights, resume bit for bit, its command"

import errno
import importlib
import json
import math
import re
import subprocess
import sys
import time
from dataclasses import replace
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close
from conftest import ROOT, Run, door, environment, lines_of, one_line, refused, run_module
from nanochat.baseline import (
    SIZES,
    RECIPES,
    Baseline,
    BaselineConfig,
    Block,
    CausalSelfAttention,
    Characters,
    Recipe,
    Trainer,
    decay_groups,
    evaluate,
    flops_per_token,
    held,
    in_order_rows,
    load_baseline,
    load_gpt2,
    main,
    n_params,
    rate_at,
    resume,
    sample,
    sampling_probs,
    save_checkpoint,
    step_seed,
    to_ids,
    windows,
)
from nanochat.runs import (
    ROAD,
    STAGES,
    Damaged,
    UserError,
    checkpoints,
    open_lock,
    road_of,
    step_is_done,
    take,
    write_plan,
)
from nanochat.scaling import baseline_config, baseline_recipe, describe, make_plan
from nanochat.tokenizer import Tokenizer

TINY = BaselineConfig(vocab_size=23, seq_len=16, n_layer=2, n_head=4, n_embd=32)


def shaken(model, seed=0):
    "A model whose every parameter is random, so that none can be forgotten"
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model


# ---- layers ----


@pytest.mark.parametrize("bias", [True, False])
def test_layers_are_torchs(bias):
    config = replace(TINY, bias=bias)
    x = 3 * torch.randn(2, 9, 32, dtype=torch.float64) + 1
    block = shaken(Block(config)).double()
    norm = nn.LayerNorm(32, bias=bias).double()
    norm.load_state_dict(block.ln_1.state_dict())
    assert_close(block.ln_1(x), norm(x))
    mlp = nn.Sequential(block.mlp.c_fc, nn.GELU(approximate="tanh"), block.mlp.c_proj)
    assert_close(block.mlp(x), mlp(x))
    q, k, v = (
        part.view(2, 9, 4, 8).transpose(1, 2) for part in block.attn.c_attn(x).split(32, dim=-1)
    )
    scores = q @ k.mT / math.sqrt(8) + torch.full((9, 9), -math.inf, dtype=torch.float64).triu(1)
    y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    assert_close(block.attn(x), block.attn.c_proj(y))
    after = x + block.attn(block.ln_1(x))
    assert_close(block(x), after + block.mlp(block.ln_2(after)))
    assert bias == any(name.endswith("bias") for name, _ in block.named_parameters())


def test_attention_is_torchs_multihead_attention():
    "Forward and every gradient, against nn.MultiheadAttention with the same weights"
    ours = shaken(CausalSelfAttention(TINY)).double()
    theirs = nn.MultiheadAttention(32, 4, batch_first=True).double()
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.c_attn.weight.data, ours.c_attn.bias.data
    theirs.out_proj.load_state_dict(ours.c_proj.state_dict())
    x = torch.randn(2, 9, 32, dtype=torch.float64, requires_grad=True)
    future = torch.ones(9, 9, dtype=torch.bool).triu(1)
    want = theirs(x, x, x, attn_mask=future, need_weights=False)[0]
    assert_close(ours(x), want)
    grads = [torch.autograd.grad(y.square().sum(), x, retain_graph=True)[0] for y in (ours(x), want)]
    assert_close(*grads)


def test_the_past_cannot_see_the_future():
    model = shaken(Baseline(TINY))
    ids = torch.randint(23, (2, 16))
    before = model(ids)
    for t in range(1, 16):
        changed = ids.clone()
        changed[:, t:] = (changed[:, t:] + 1) % 23
        assert torch.equal(model(changed)[:, :t], before[:, :t])


def test_loss_is_torchs_and_masks():
    model = shaken(Baseline(TINY))
    ids, targets = torch.randint(23, (2, 3, 16)).unbind(0)
    targets[:, :5] = -1
    logits = model(ids).flatten(0, 1)
    assert_close(model(ids, targets), F.cross_entropy(logits, targets.flatten(), ignore_index=-1))
    each = F.cross_entropy(logits, targets.flatten(), ignore_index=-1, reduction="none").view(3, 16)
    assert_close(model.losses(ids, targets), each)


def test_first_weights():
    config = BaselineConfig(vocab_size=500, seq_len=64, n_layer=8, n_head=4, n_embd=128)
    torch.manual_seed(0)
    model = Baseline(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            assert (parameter == (0 if name.endswith("bias") else 1)).all(), name
        else:
            want = 0.02 / 4 if name.endswith("c_proj.weight") else 0.02
            assert abs(parameter.std().item() / want - 1) < 0.05, name
    ids = torch.randint(500, (4, 64))
    assert abs(model(ids, ids.roll(-1, 1)).item() - math.log(500)) < 0.1


def test_dropout_only_while_training():
    config = replace(TINY, dropout=0.5)
    torch.manual_seed(0)
    model = shaken(Baseline(config))
    ids = torch.randint(23, (2, 16))
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))
    plain = Baseline(TINY).eval()
    plain.load_state_dict(model.state_dict())
    assert_close(model(ids), plain(ids))


# ---- sizes ----


def test_published_sizes():
    "Every number once, the tied head counted once, positions included"
    counts = {name: n_params(config) for name, config in SIZES.items()}
    assert counts["gpt2"] == 124_439_808
    assert counts["gpt2-medium"] == 354_823_168
    assert counts["gpt2-large"] == 774_030_080
    assert counts["gpt2-xl"] == 1_557_611_200
    by_formula = {
        name: c.vocab_size * c.n_embd
        + c.seq_len * c.n_embd
        + c.n_layer * (12 * c.n_embd**2 + c.bias * 9 * c.n_embd + (1 + c.bias) * 2 * c.n_embd)
        + (1 + c.bias) * c.n_embd
        for name, c in SIZES.items()
    }
    assert counts == by_formula


def test_documented_settings_for_a_cpu():
    c, r = SIZES["cpu"], RECIPES["cpu"]
    assert (c.n_layer, c.n_head, c.n_embd, c.seq_len, c.dropout) == (4, 4, 128, 64, 0)
    assert (r.rows, r.steps, r.lr, r.min_lr, r.warmup) == (12, 2000, 1e-3, 1e-4, 100)
    assert (r.beta1, r.beta2, r.weight_decay, r.clip, r.accumulate) == (0.9, 0.99, 0.1, 1.0, 1)
    assert RECIPES["gpt2"].accumulate * RECIPES["gpt2"].rows * SIZES["gpt2"].seq_len == 491_520


@pytest.mark.parametrize(
    "bad", [dict(n_embd=30), dict(n_layer=0), dict(seq_len=2.5), dict(dropout=1), dict(dropout=-0.1)]
)
def test_shapes_that_cannot_be(bad):
    with pytest.raises(UserError):
        replace(TINY, **bad)


@pytest.mark.parametrize(
    "bad",
    [dict(steps=0), dict(rows=0), dict(lr=0), dict(lr=float("nan")), dict(lr=math.inf), dict(min_lr=2e-3)],
)
def test_recipes_that_cannot_be(bad):
    with pytest.raises(UserError):
        Recipe(**bad)


# ---- optimizer, schedule, batches ----


def test_every_parameter_is_in_one_group():
    model = Baseline(TINY)
    decay, plain = decay_groups(model, 0.1)
    assert (decay["weight_decay"], plain["weight_decay"]) == (0.1, 0)
    named = dict(model.named_parameters())
    matrices = {id(p) for name, p in named.items() if name.endswith("weight") and "ln_" not in name}
    assert {id(p) for p in decay["params"]} == matrices
    assert {id(p) for p in plain["params"]} == {id(p) for p in named.values()} - matrices


def test_schedule():
    r = Recipe(steps=1000, warmup=100)
    rates = [rate_at(step, r) for step in range(1200)]
    assert rates[0] > 0 and rates[100] == max(rates) == r.lr
    assert all(a < b for a, b in zip(rates[:100], rates[1:101]))
    assert all(a > b for a, b in zip(rates[100:1000], rates[101:1001]))
    assert rates[550] == pytest.approx((r.lr + r.min_lr) / 2)
    assert set(rates[1000:]) == {r.min_lr}
    assert rate_at(0, Recipe(steps=10, warmup=0)) == r.lr
    assert all(0 < rate_at(step, Recipe(steps=10, warmup=50)) < r.lr for step in range(10))


def test_windows():
    ids = torch.arange(100, dtype=torch.int32)
    torch.manual_seed(0)
    starts = set()
    for _ in range(50):
        x, y = windows(ids, 40, 16)
        assert x.shape == y.shape == (40, 16) and x.dtype == torch.int64
        assert (y == x + 1).all() and (x[:, 1:] == x[:, :-1] + 1).all()
        starts |= set(x[:, 0].tolist())
    assert starts == set(range(84))
    assert len({step_seed(seed, step) for seed in (-1, 0, 1, 11) for step in range(500)}) == 2000


def test_every_token_is_scored_once():
    for n in (17, 33, 50, 64, 65, 66):
        ids = torch.arange(n) % 23
        batches = list(in_order_rows(ids, 16, rows=2))
        targets = torch.cat([t.flatten() for _, t in batches])
        assert torch.equal(targets[targets >= 0], ids[1:])
        read = torch.cat([x.flatten() for x, _ in batches])
        assert torch.equal(read[targets >= 0], ids[:-1])


def test_score():
    model = shaken(Baseline(TINY)).eval()
    ids, n_bytes = torch.randint(23, (70,)), torch.randint(1, 4, (23,))
    score = evaluate(model, ids, n_bytes)
    nats = torch.cat([model.losses(x, t).flatten() for x, t in in_order_rows(ids, 16)]).sum().item()
    assert score.nats == pytest.approx(nats / 69) and score.perplexity == pytest.approx(math.exp(nats / 69))
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / n_bytes[ids[1:]].sum().item())


def test_accumulated_gradients_are_those_of_one_batch():
    ids = torch.randint(23, (17,))  # one window: every micro-batch is the same
    one, four = (Trainer(TINY, Recipe(steps=3, rows=4, accumulate=n, warmup=0), ids) for n in (1, 4))
    for _ in range(3):
        assert one.train_step() == pytest.approx(four.train_step(), abs=1e-6)
    for a, b in zip(one.model.parameters(), four.model.parameters()):
        assert_close(a, b, atol=2e-5, rtol=0)


def test_one_batch_is_learned_by_heart():
    ids = torch.randint(23, (17,))
    trainer = Trainer(TINY, Recipe(steps=150, rows=2, lr=5e-3, warmup=5), ids)
    losses = [trainer.train_step() for _ in range(150)]
    assert losses[0] > 2.8 and losses[-1] < 0.05
    assert sample(trainer.model, ids[:3].tolist(), 14, temperature=0) == ids[3:].tolist()


def test_a_gradient_that_is_no_number_stops_training():
    trainer = Trainer(TINY, Recipe(steps=3, rows=2), torch.randint(23, (40,)))
    with torch.no_grad():
        trainer.model.wpe.weight[3, 3] = math.nan
    with pytest.raises(UserError, match="step 1 has a loss of nan"):
        trainer.train_step()


# ---- sampling ----


def test_a_diverged_step_says_what_to_do():
    trainer = Trainer(TINY, Recipe(steps=2, rows=2), torch.arange(200) % 23)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(math.nan)
    with pytest.raises(UserError, match="a loss of nan .* give a smaller --lr and another --out"):
        trainer.train_step()


def test_sampling_probs():
    z = torch.tensor([1.0, 3.0, 2.0, -1.0])
    assert_close(sampling_probs(z, 2.0), (z / 2).softmax(0))
    assert sampling_probs(z, 0).tolist() == [0, 1, 0, 0]
    for tiny in (1e-6, 1e-7, 1e-40, 1e-320):
        assert sampling_probs(z, tiny).tolist() == [0, 1, 0, 0]
    top = sampling_probs(z, 1.0, 2)
    assert top[[0, 3]].tolist() == [0, 0] and top[1] / top[2] == pytest.approx(math.e)
    assert_close(sampling_probs(z, 1.0, 99), z.softmax(0))
    for bad in (dict(temperature=-1), dict(temperature=math.nan), dict(top_k=0)):
        with pytest.raises(UserError):
            sampling_probs(z, **bad)


def test_sample():
    model = shaken(Baseline(TINY)).train()
    a, b, c = (sample(model, [1, 2], 40, seed=s) for s in (0, 0, 1))
    assert a == b != c and len(a) == 40 and model.training
    greedy = sample(model, [5], 20, temperature=0)
    ids = [5]
    for _ in range(20):
        ids.append(model(torch.tensor([ids[-16:]]))[0, -1].argmax().item())
    assert ids[1:] == greedy
    with pytest.raises(UserError, match="prompt"):
        sample(model, [], 3)


# ---- characters ----


def test_characters(tmp_path):
    text = "naïve 🙂\n日本"
    codec = Characters(text)
    assert codec.vocab_size == len(set(text)) and codec.decode(codec.encode(text)) == text
    assert codec.token_bytes()[codec.encode(text)].sum() == len(text.encode())
    with pytest.raises(UserError, match=r"character 'x' \(U\+0078\)"):
        codec.encode("x")
    with pytest.raises(UserError, match="id 99"):
        codec.decode([0, 99])
    assert codec.decode(torch.tensor(codec.encode("本日"))) == "本日"


# ---- checkpoints ----


@pytest.mark.parametrize("accumulate", [1, 2])
def test_resume_is_bit_for_bit(tmp_path, accumulate):
    config, recipe = replace(TINY, dropout=0.3), Recipe(steps=8, rows=3, warmup=3, accumulate=accumulate)
    codec = Characters("abcdefghijklmnopqrstuvw")
    ids = torch.randint(23, (200,), dtype=torch.int32)

    def fresh():
        return Trainer(config, recipe, ids, seed=-3)

    straight = fresh()
    losses = [straight.train_step() for _ in range(8)]
    for stop in (1, 5):
        first = fresh()
        for _ in range(stop):
            first.train_step()
        save_checkpoint(first, codec, tmp_path)
    torch.randn(7)  # whatever the dice did in between
    second = fresh()
    assert resume(second, tmp_path)["step"] == second.step == 5
    assert [second.train_step() for _ in range(3)] == losses[5:]
    for a, b in zip(straight.model.state_dict().values(), second.model.state_dict().values()):
        assert torch.equal(a, b)
    model, found = load_baseline(tmp_path)
    assert found.characters == codec.characters and not model.training
    assert [step for step, _ in checkpoints(tmp_path, "baseline")] == [1, 5]


def test_damage_is_passed_over_and_nothing_non_finite_is_kept(tmp_path, capsys):
    codec, recipe = Characters("abcdefghijklmnopqrstuvw"), Recipe(steps=9, rows=2)
    trainer = Trainer(TINY, recipe, torch.randint(23, (40,)))
    for _ in range(3):
        trainer.train_step()
        save_checkpoint(trainer, codec, tmp_path)
    assert [step for step, _ in checkpoints(tmp_path, "baseline")] == [2, 3]
    newest = tmp_path / "baseline" / "step_3" / "optim.safetensors"
    newest.write_bytes(newest.read_bytes()[:-4] + b"oops")
    again = Trainer(TINY, recipe, trainer.ids_N)
    assert resume(again, tmp_path)["step"] == 2
    assert "optim.safetensors" in capsys.readouterr().err
    with torch.no_grad():
        again.model.wte.weight[0, 0] = math.inf
    with pytest.raises(UserError, match="wte.weight holds an infinity"):
        save_checkpoint(again, codec, tmp_path)


# ---- GPT-2's weights ----


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    "A folder as transformers writes it, of random weights, and the logits of transformers' own class"
    transformers = pytest.importorskip("transformers", reason="transformers is not in this environment")
    folder = tmp_path_factory.mktemp("gpt2")
    config = transformers.GPT2Config(
        vocab_size=101, n_positions=24, n_embd=128, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=0
    )
    theirs = shaken(transformers.GPT2LMHeadModel(config)).eval()
    theirs.save_pretrained(folder)
    ids = torch.randint(101, (2, 24))
    with torch.no_grad():
        return folder, ids, theirs(ids).logits


def copied(released, tmp_path, change=None, config=True):
    "The released folder once more, its tensors changed"
    folder, _, _ = released
    tensors = dict(load_file(folder / "model.safetensors"))
    if change:
        change(tensors)
    save_file({name: t.contiguous().clone() for name, t in tensors.items()}, tmp_path / "model.safetensors")
    if config:
        (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    return tmp_path


def test_logits_are_those_of_transformers(released):
    folder, ids, logits = released
    with torch.no_grad():
        ours = load_gpt2(folder)(ids)
    assert logits.abs().max() > 1
    assert (ours - logits).abs().max() < 1e-4


def without_prefix(tensors):
    for name in list(tensors):
        tensors[name.removeprefix("transformer.")] = tensors.pop(name)


def with_buffers(tensors):
    mask = torch.ones(24, 24).tril().view(1, 1, 24, 24)
    for layer in range(3):
        tensors[f"transformer.h.{layer}.attn.bias"] = mask.clone()
        tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)


def with_head(tensors):
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()


@pytest.mark.parametrize("change", [without_prefix, with_buffers, with_head])
@pytest.mark.parametrize("config", [True, False])
def test_other_forms_of_the_same_weights(released, tmp_path, change, config):
    _, ids, logits = released
    with torch.no_grad():
        ours = load_gpt2(copied(released, tmp_path, change, config))(ids)
    assert (ours - logits).abs().max() < 1e-4


def missing_one(tensors):
    del tensors["transformer.h.1.ln_2.bias"]


def unknown_one(tensors):
    tensors["transformer.h.0.attn.rotary"] = torch.zeros(3)


def unknown_layer(tensors):
    tensors["transformer.h.foo.w"] = torch.zeros(3)


def one_layer_less(tensors):
    for name in [name for name in tensors if name.startswith("transformer.h.2.")]:
        del tensors[name]


def not_transposed(tensors):
    tensors["transformer.h.2.mlp.c_fc.weight"] = tensors["transformer.h.2.mlp.c_fc.weight"].T


def other_head(tensors):
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + 1


def no_table(tensors):
    del tensors["transformer.wpe.weight"]


@pytest.mark.parametrize(
    "change,words",
    [
        (missing_one, "h.1.ln_2.bias is missing"),
        (unknown_one, "h.0.attn.rotary is unknown"),
        (unknown_layer, "h.foo.w is unknown"),
        (one_layer_less, "config.json says n_layer 3, and the weights have 2 layers"),
        (not_transposed, "h.2.mlp.c_fc.weight is (512, 128), not (128, 512)"),
        (other_head, "lm_head.weight is not wte.weight"),
        (no_table, "no table wpe.weight"),
    ],
)
def test_what_does_not_fit_is_named(released, tmp_path, change, words):
    with pytest.raises(UserError) as told:
        load_gpt2(copied(released, tmp_path, change))
    assert words in str(told.value) and "\n" not in str(told.value)


def test_other_models_and_broken_files_are_refused(released, tmp_path):
    folder = copied(released, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "activation_function": "relu"}))
    with pytest.raises(UserError, match="activation_function is 'relu'"):
        load_gpt2(folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="config.json holds a list"):
        load_gpt2(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(Damaged, match="config.json"):
        load_gpt2(folder)
    (folder / "model.safetensors").write_bytes(b"oops")
    with pytest.raises(Damaged, match="model.safetensors can't be read"):
        load_gpt2(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no model.safetensors"):
        load_gpt2(folder)


# ---- the command ----


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    folder = tmp_path_factory.mktemp("books")
    things = [(a, b, c) for a in ("old", "wet") for b in ("cat", "dog") for c in ("mat", "box")]
    lines = [f"The {a} {b} sat on the {c}.\n" for a, b, c in things]
    (folder / "a.txt").write_text("".join(lines) * 40)
    return folder


SHORT = ("--rows", 2, "--n_sample", 12)


def test_command_trains_stops_and_goes_on(tmp_path, books):
    "Killed or not: the same bytes, and the same last line"
    one, two = tmp_path / "one", tmp_path / "two"
    args = ("--corpus", books, "--steps", 6, "--save_every", 3, "--device", "cpu", *SHORT)
    whole = run_module("baseline", *args, "--out", one, base=tmp_path / "base")
    assert "bits per byte" in whole.stdout and "nats a character" in whole.stdout
    silent = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    command = [sys.executable, "-m", "nanochat.baseline", *map(str, args), "--out", str(two)]
    killed = subprocess.Popen(command, env=environment(tmp_path / "base"), **silent)
    while not (two / "baseline" / "step_3").exists() and killed.poll() is None:
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert (two / "baseline" / "step_3").exists()
    newest = two / "baseline" / "step_6" / "model.safetensors"
    if newest.exists():  # it was faster than the kill
        newest.write_bytes(b"damaged")
    again = run_module("baseline", *args, "--out", two, base=tmp_path / "base")
    assert again.stdout == whole.stdout
    assert (one / "baseline" / "step_6" / "model.safetensors").read_bytes() == newest.read_bytes()
    log = [json.loads(line)["step"] for line in (two / "log.jsonl").read_text().splitlines()]
    assert log == [1, 2, 3, 4, 5, 6]
    result = json.loads((two / "results" / "baseline.json").read_text())
    assert result["unit"] == "character" and 0 < result["bits_per_byte"] < 8
    seed = run_module("baseline", *args, "--out", two, "--seed", 1, base=tmp_path / "base", check=False)
    refused(seed, "seed 0, now 1")
    with open_lock(two / ".lock") as lock:
        assert take(lock)
        with pytest.raises(SystemExit, match="two is in use by another process"):
            main(corpus=books, steps=6, rows=2, out=two)


def test_a_full_disk_is_that_of_the_training(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "log.jsonl"))
    with pytest.raises(UserError, match=f"disk of {re.escape(str(tmp_path))}: .*another --out"):
        with held(tmp_path):
            raise full
    with pytest.raises(KeyError):
        with held(tmp_path):
            raise KeyError("a bug stays one")


def test_command_with_tokens(tmp_path, books):
    args = ("--corpus", books, "--vocab_size", 280, "--steps", 2, "--seq_len", 8, "--prompt", "The old")
    done = run_module("baseline", *args, *SHORT, "--out", tmp_path / "out", base=tmp_path / "base")
    assert "nats a token" in done.stdout and "The old" in done.stdout
    model, codec = load_baseline(tmp_path / "out")
    assert isinstance(codec, Tokenizer) and model.config.vocab_size == codec.vocab_size
    ids = to_ids(["The old", " cat"], codec)
    assert (ids == codec.bos).sum() == 2 and ids[0] == codec.bos


@pytest.mark.parametrize(
    "given,words",
    [
        (dict(), "give --corpus DIR"),
        (dict(corpus="/nowhere"), "no such folder"),
        (dict(corpus="world"), "no such folder"),
        (dict(size="huge"), "there are cpu, gpu, gpt2"),
        (dict(steps=0), "must be above 0"),
        (dict(seed=10**20), "seed 100000000000000000000: must be a whole number from -922337203685477580"),
        (dict(lr=math.nan), "lr nan"),
        (dict(dropout=1.0), "dropout 1.0"),
        (dict(temperature=-1.0), "temperature -1.0"),
        (dict(prompt="é", steps=1), "character 'é' (U+00E9)"),
        (dict(seq_len=100_000), "too short for rows"),
        (dict(vocab_size=100), "vocab_size 100 is too small"),
        (dict(save_every=0), "save_every"),
        (dict(device="abacus"), "device 'abacus'"),
    ],
)
def test_bad_input_is_one_line(tmp_path, base, books, given, words):
    if given:
        given.setdefault("corpus", books)
    with pytest.raises(SystemExit) as told:
        main(out=tmp_path / "out", **given)
    line = str(told.value)
    assert line.startswith("error: ") and words in line and "\n" not in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text,words", [("", "hold no text"), ("\n", "too short"), ("ab\n", "too short")])
def test_too_little_text(tmp_path, base, text, words):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(SystemExit, match=words):
        main(corpus=tmp_path / "a.txt", out=tmp_path / "out")


def test_a_file_in_the_place_of_the_folder(tmp_path, books):
    (tmp_path / "out").write_text("mine")
    args = ("--corpus", books, "--steps", 1, "--out", tmp_path / "out")
    refused(run_module("baseline", *args, base=tmp_path / "base", check=False), "can't be written")
    assert (tmp_path / "out").read_text() == "mine"


# ---- on the road: `--model baseline` ----

PLANNED = dict(tier="smoke", model="baseline", num_iterations=12, save_every=4)
SHORT_ROAD = ("settings", "tokenizer", "evaluate_tokenizer", "base", "evaluate_base", "tasks_base", "report")


def killed_in_base(base, *given):
    "Start pretraining, and kill it after its first checkpoint"
    run = Run(base, "smoke-world-baseline-d2-s0")
    command = [sys.executable, "-m", "nanochat.pretrain", *map(str, given)]
    silent = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    job = subprocess.Popen(command, env=environment(base), **silent)
    while not (run.dir / "base" / "step_4" / "meta.json").exists() and job.poll() is None:
        time.sleep(0.002)
    job.kill()
    job.wait()
    assert (run.dir / "base").exists()
    return run


STEPS = [  # of the road, without a start of Python for each
    ("tokenizer", {}),
    ("evaluate", dict(stage="tokenizer")),
    ("pretrain", {}),
    ("evaluate", dict(stage="base")),
    ("tasks", dict(stage="base")),
    ("report", {}),
]


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    "The whole road of the baseline, and the same pretraining killed in the middle"
    whole, killed = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("killed")
    run = Run(whole, "smoke-world-baseline-d2-s0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(whole))
        importlib.import_module("nanochat.scaling").main(**PLANNED)
        run.change(eval_n=8, val_tokens=1024)
        for module, given in STEPS:
            importlib.import_module(f"nanochat.{module}").main(run=run.name, **given)
    options = [word for name, value in PLANNED.items() for word in (f"--{name}", value)]
    return run, killed_in_base(killed, *options)


def error_of(main, **given):
    "The line with which a module's main ends"
    with pytest.raises(SystemExit) as told:
        main(**given)
    line = str(told.value)
    assert line.startswith("error: ") and "\n" not in line, line
    return line


def test_the_road_of_the_baseline_ends_after_base(road):
    run, _ = road
    summary = json.loads((run.dir / "results" / "summary.json").read_text())
    assert set(summary["scores"]) == set(summary["tokens"]) == {"base"}
    assert set(summary["scores"]["base"]) == {"core"} and summary["scores"]["base"]["core"]["n"] == 8
    assert summary["bpb"]["base"] < summary["bpb"]["uniform"] and summary["tokens"]["base"] == 12 * 8 * 128
    losses = [line["loss"] for line in lines_of(run.dir, "base")]
    assert len(losses) == 12 and losses[-1] < losses[0]
    report = (run.dir / "report.md").read_text()
    assert "Nothing: all stages are trained and scored" in report and "model baseline" in report
    assert f"{run.name:<40} finished" in door("runs", base=run.base).stdout


def test_the_main_door_walks_it(road, tmp_path):
    "What the road leaves out is passed over, and a finished run is recognised without torch"
    run = road[0].copy(tmp_path)
    (run.dir / "report.md").unlink()
    done = door("--tier", "smoke", "--model", "baseline", base=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("== ")] == ["== report =="]
    assert f"python -m nanochat.baseline --run {run.name}" in done.stderr and "talk to it" not in done.stderr
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    again = door(
        "--tier", "smoke", "--model", "baseline", base=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}"
    )
    assert again.returncode == 0 and "finished already" in again.stderr and "== " not in again.stderr


def test_killed_or_not_it_is_the_same_baseline(road, monkeypatch):
    from nanochat import pretrain

    whole, killed = road
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(killed.base))
    pretrain.main(run=killed.name)
    assert killed.weights("base") == whole.weights("base")
    for name in ("optim.safetensors", "stream.json"):
        assert (killed.last("base") / name).read_bytes() == (whole.last("base") / name).read_bytes(), name
    logs = [[(line["step"], line["loss"], line["lr"]) for line in lines_of(run.dir, "base")] for run in road]
    assert logs[0] == logs[1]
    took = json.loads((killed.dir / "results" / "base.json").read_text())
    assert took["dtype"] == "float32" and took["steps"] == 12 and took["flops_per_token"] > 0
    config = BaselineConfig(**json.loads((killed.last("base") / "meta.json").read_text())["config"])
    assert (config.n_layer, config.n_embd, config.dropout, config.bias) == (2, 64, 0, False)


def test_what_a_baseline_can_not_do_is_one_line(road, monkeypatch):
    from nanochat import chat, evaluate, grpo, serve, sft, tasks

    run = road[0]
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(run.base))
    for module in (chat, serve):
        line = error_of(module.main, run=run.name)
        assert "never taught to talk" in line and f"nanochat.baseline --run {run.name}" in line
    before = sorted(path.name for path in run.dir.rglob("*"))
    for module, stage in ((sft, "mid"), (sft, "sft"), (tasks, "mid"), (evaluate, "mid"), (grpo, "rl")):
        given = {} if module is grpo else dict(stage=stage)
        line = error_of(module.main, run=run.name, **given)
        assert "road ends after base" in line and f"{stage} needs a run with --model gpt" in line
    assert sorted(path.name for path in run.dir.rglob("*")) == before


def test_a_run_keeps_its_model(road, tmp_path, monkeypatch):
    from nanochat import evaluate, pretrain

    run = road[0].copy(tmp_path)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    assert "model baseline, now gpt" in error_of(pretrain.main, run=run.name, model="gpt")
    one_line(door("--run", run.name, "--model", "gpt", base=tmp_path), "model baseline, now gpt", status=1)
    run.change(model="gpt", switches={})  # whoever forces it meets the results of another run
    assert "of another run" in error_of(evaluate.main, run=run.name, stage="base")


def test_a_sample_of_the_run(road, monkeypatch, capsys):
    run, said = road[0], []
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(run.base))
    for seed in (0, 0, 1):
        main(run=run.name, n_sample=20, prompt="The", seed=seed)
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2] and "The" in said[0]
    assert "no run named" in error_of(main, run="nobody")


@pytest.mark.parametrize(
    "given, words",
    [
        (("--model", "moon"), ("--model", "gpt, baseline")),
        (("--model", "baseline", "--tier", "full"), ("full", "--model gpt")),
    ],
)
def test_refused_combinations(base, given, words):
    one_line(door(*given), *words, status=2)
    assert not list(base.glob("runs/*"))


@pytest.mark.parametrize(
    "given, words",
    [
        (dict(tier="full"), "full"),
        (dict(tier="smoke", dtype="bfloat16"), "dtype bfloat16: the baseline computes in float32"),
        (dict(tier="smoke", depth=400), "depth 400"),
    ],
)
def test_refused_plans(base, given, words):
    from nanochat import scaling

    assert words in error_of(scaling.main, model="baseline", **given)
    assert not list(base.glob("runs/*"))


def test_plans_of_the_baseline(base, tmp_path):
    plan, gpt = make_plan("laptop", model="baseline"), make_plan("laptop")
    assert plan.stages == ("base",) and road_of(plan) == SHORT_ROAD
    assert gpt.stages == STAGES and road_of(gpt) == ROAD
    assert plan.tokens("base") == gpt.tokens("base") and (plan.depth, plan.n_embd) == (gpt.depth, gpt.n_embd)
    recipe = baseline_recipe(plan.base)
    assert (recipe.lr, recipe.min_lr, recipe.warmup / recipe.steps) == (1e-3, pytest.approx(1e-4), 0.05)
    assert make_plan("smoke", model="baseline", depth=3).depth == 3
    line = describe(plan).splitlines()
    assert "model baseline" in line[0] and "nanoGPT knew one stage" in line[-1] and len(line) == 3
    for bad in (dict(switches=dict(smear=True)), dict(n_head=3)):
        with pytest.raises(UserError):
            baseline_config(replace(plan, **bad))
    with pytest.raises(UserError, match="one for all"):
        baseline_recipe(replace(plan.base, head_lr=0.5))
    with pytest.raises(UserError, match="one process"):
        make_plan("smoke", model="baseline", world=2)
    write_plan(tmp_path, plan)
    assert all(step_is_done(tmp_path, step) == (step not in SHORT_ROAD[1:]) for step in ROAD)
    write_plan(tmp_path, replace(plan, model="moon"))
    with pytest.raises(Damaged, match="model is 'moon'"):
        step_is_done(tmp_path, "base")


def test_floating_point_operations_are_those_of_the_matrices():
    "6 a parameter that multiplies: all but positions and scales, the table once, as the head"
    config = SIZES["gpt2"]
    matrices = config.n_layer * 12 * config.n_embd**2 + config.vocab_size * config.n_embd
    want = 6 * matrices + 12 * config.n_layer * config.n_embd * config.seq_len
    assert flops_per_token(config) == want


# ---- what the chapter says was measured ----


def test_chapter_quotes_what_was_measured():
    kept = json.loads((ROOT / "bench" / "results" / "baseline.json").read_text())
    race, board = kept["race"], kept["board"]
    ours, same, theirs = (race["racers"][name] for name in ("ours", "ours with biases", "transformers"))
    cells = json.loads((ROOT / "nbs" / "07_baseline.ipynb").read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert race["ratio"] < 1 and race["ratio_same_function"] < 1
    assert abs(same["validation_nats"] - theirs["validation_nats"]) < 0.001
    for words in (
        f"reaches **{board['bits_per_byte']:.3f}** bits per byte",
        f"both end at {same['validation_nats']:.3f} nats a character",
        f"ours takes {race['ratio_same_function']:.2f} of the time",
        f"it takes {race['ratio']:.2f} and ends at {ours['validation_nats']:.3f}",
        f"{ours['seconds']:.0f} s, {race['threads']} core",
        f"{ours['validation_nats']:.2f} nats a character of tinyshakespeare",
    ):
        assert words in text, words
