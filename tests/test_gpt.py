"The model: its first weights are a table, it is made once, and its weights travel to transformers and back"

import hashlib, importlib.resources, itertools, json, math, re, subprocess, sys
from dataclasses import replace
import pytest, torch
import nanochat.gpt
from torch.testing import assert_close
from conftest import ROOT, environment, warmly
from nanochat.attention import rope_cache
from nanochat.chat import render_prompt
from nanochat.gpt import FIRST_TABLES, GPT, HF_NAMES, MODERN, GPTConfig
from nanochat.gpt import empty_model, find_checkpoint, first_weights, flops_per_token, from_hf, hf_config
from nanochat.gpt import hf_name, is_modern, layer_window, load_model, n_params, save_model, to_hf
from nanochat.runs import STAGES, Damaged, UserError, write_checked
from nanochat.scaling import SMOKE, model_config
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer

EVERYTHING = dict(MODERN, n_head=4, n_kv_head=2, window=5, n_layer=5)
SWITCHES = {**{switch: (False, True) for switch in MODERN}, "window": (0, 3), "n_kv_head": (4, 2)}
NEWER = dict(EVERYTHING, pattern="SL", qk_scale=1.2, narrow_gates=True)
COMBINATIONS = [dict(zip(SWITCHES, values)) for values in itertools.product(*SWITCHES.values())]


def small(seed=0, **kw):
    "A small model as it is born"
    torch.manual_seed(seed)
    return GPT(
        GPTConfig(**{**dict(vocab_size=300, seq_len=32, n_layer=4, n_head=4, n_kv_head=4, n_embd=64), **kw})
    )


def shaken(seed=0, **kw):
    "The same with all parameters random, so that nothing hides behind a zero"
    model = small(seed, **kw).eval()
    for p in model.parameters():
        p.data = torch.randn_like(p) * (0.2 if p.ndim == 2 else 0.7)
    return model


def some_ids(rows, T, V=300, seed=1):
    return torch.randint(V, (rows, T), generator=torch.Generator().manual_seed(seed))


# --- first weights ---


def drawn_by_hand(cfg):
    "The random weights of a model in the order of drawing, written out without a table"
    V, C, E = cfg.vocab_size, cfg.n_embd, cfg.n_kv_head * cfg.head_dim
    bound = 3**0.5 * C**-0.5
    weights = {"wte.weight": torch.empty(V, C).normal_(std=1.0)}
    for i in range(cfg.n_layer):
        for name, n_out in (("attn.c_q", C), ("attn.c_k", E), ("attn.c_v", E), ("mlp.c_fc", 4 * C)):
            weights[f"blocks.{i}.{name}.weight"] = torch.empty(n_out, C).uniform_(-bound, bound)
    if cfg.value_embeds:
        for i in range((cfg.n_layer - 1) % 2, cfg.n_layer, 2):
            weights[f"value_embeds.{i}.weight"] = torch.empty(V, E).uniform_(-bound, bound)
    return weights


@pytest.mark.parametrize("n_layer", [1, 2, 5])
@pytest.mark.parametrize("kw", COMBINATIONS[:: len(COMBINATIONS) // 7], ids=str)
def test_first_weights_are_the_ones_written_out_by_hand(kw, n_layer):
    "Bit for bit, and the stream of random numbers goes on from the same place: nothing is drawn in vain"
    model, after = small(5, n_layer=n_layer, **kw), torch.rand(8)
    torch.manual_seed(5)
    by_hand = drawn_by_hand(model.cfg)
    assert torch.equal(torch.rand(8), after)
    constant = {"resid_scale": 1.0, "x0_scale": 0.1}
    for name, weight in model.named_parameters():
        assert torch.equal(weight, by_hand.get(name, torch.full_like(weight, constant.get(name, 0.0)))), name


KEPT_WEIGHTS = {  # sha256 of all weights but the embedding, whose last bits depend on the CPU's vectors
    "classic": "5916be20a6bf3ac2",
    "modern": "775fe485aa0b9f2b",
}
KEPT_EMBEDDING = [-0.07664429, 0.35988152, -0.78201681, 0.07152773]


@pytest.mark.parametrize("name, kw", [("classic", {}), ("modern", dict(MODERN, window=8, n_kv_head=1))])
def test_seeded_weights_are_the_kept_ones(name, kw):
    "Whoever changes them on purpose records them again, and KEPT_TRACE in test_training.py"
    torch.manual_seed(3)
    model = GPT(GPTConfig(vocab_size=300, seq_len=32, n_layer=5, n_embd=64, **kw))
    digest = hashlib.sha256()
    for key, weight in sorted(model.state_dict().items()):
        if key != "wte.weight":
            digest.update(key.encode() + weight.numpy().tobytes())
    assert digest.hexdigest()[:16] == KEPT_WEIGHTS[name]
    assert model.wte.weight[0, :4].tolist() == pytest.approx(KEPT_EMBEDDING, abs=1e-6)


@pytest.mark.parametrize("first", FIRST_TABLES)
def test_one_row_speaks_of_each_parameter_and_each_row_of_some(first):
    spoken_of, table = set(), FIRST_TABLES[first]
    for kw in COMBINATIONS:
        with torch.device("meta"):
            for name, _ in small(**kw).named_parameters():
                spoken_of.add(first_weights(name, table))
    assert spoken_of == set(table)
    for name in ("blocks.0.attn.c_new.weight", "wte.weights", "blocks.x.attn.c_q.weight"):
        with pytest.raises(AssertionError, match="0 rows"):
            first_weights(name, table)
    kinds = ("normal", "uniform", "positive", "constant", "by layer")
    assert all(row.fill in kinds and row.source for row in table)


@pytest.mark.parametrize("first", FIRST_TABLES)
def test_sizes_are_what_the_table_says(first):
    model = small(n_embd=128, first=first, **MODERN)
    for name, weight in model.named_parameters():
        row = first_weights(name, FIRST_TABLES[first])
        size = row.size_at(128, 4)
        if row.fill == "by layer":
            assert weight.tolist() == pytest.approx([row.size_at(128, 4, layer) for layer in range(4)])
        elif row.fill == "constant":
            assert (weight == size).all(), name
        elif row.fill == "positive":
            assert 0 <= weight.min() and size * 0.9 < weight.max() <= size, name
        else:
            assert weight.std().item() == pytest.approx(size, rel=0.02), name
            assert row.fill == "normal" or weight.abs().max() <= 3**0.5 * size, name
    ids = some_ids(2, 33)
    near = 1e-5 if first == "2025" else 1e-3  # in 2026 the head does not begin at zero
    assert model(ids[:, :-1], ids[:, 1:]).item() == pytest.approx(math.log(300), abs=near)


def test_the_first_weights_of_2026_are_the_published_ones():
    "By layer, from the first to the last; a model of one layer takes the first"
    model = small(first="2026", n_layer=4, **MODERN)
    assert model.resid_scale.tolist() == pytest.approx([1.15, 1.15 - 0.1 / 3, 1.15 - 0.2 / 3, 1.05])
    assert model.x0_scale.tolist() == pytest.approx([0.2, 0.15, 0.1, 0.05])
    assert (model.backout_scale.item(), model.smear_scale.item()) == (pytest.approx(0.2), 0.0)
    assert model.wte.weight.std().item() == pytest.approx(0.8, rel=0.03)
    assert model.blocks[2].mlp.c_fc.weight.std().item() == pytest.approx(0.4 * 64**-0.5, rel=0.02)
    assert model.blocks[2].attn.c_q.weight.std().item() == pytest.approx(64**-0.5, rel=0.02)
    assert small(first="2026", n_layer=1, **MODERN).x0_scale.tolist() == pytest.approx([0.2])
    with pytest.raises(UserError, match="no first weights of '1999': there are 2025, 2026"):
        small(first="1999")



# --- documents of a row kept apart ---

LENGTHS = [[9, 1, 22], [32], [4, 28]]  # of the documents in three rows of 32


def numbers_of(lengths=LENGTHS):
    "The document of each position"
    return torch.stack(
        [torch.cat([torch.full((n,), i) for i, n in enumerate(row)]) for row in lengths]
    )


@pytest.mark.parametrize("switches", [{}, EVERYTHING, NEWER], ids=["classic", "modern", "newer"])
def test_a_document_is_read_as_if_it_were_alone(switches):
    "Logits and gradients of rows with borders are those of every document by itself"
    model, ids, document_BT = shaken(**switches), some_ids(3, 32), numbers_of()
    together = model(ids, document_BT=document_BT)
    alone = [
        model(part[None])[0] for row, lengths in zip(ids, LENGTHS) for part in row.split(lengths)
    ]
    assert_close(together.flatten(0, 1), torch.cat(alone), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(together, model(ids), atol=1e-2)  # the border is seen
    targets = some_ids(3, 32, seed=2)
    model.zero_grad()
    model(ids, targets, document_BT=document_BT).backward()
    got = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for row, asked, lengths in zip(ids, targets, LENGTHS):
        for part, want in zip(row.split(lengths), asked.split(lengths)):
            model(part[None], want[None], n_tokens=ids.numel()).backward()
    for name, p in model.named_parameters():
        scale = p.grad.abs().max().item() + 1e-6
        far = (got[name] - p.grad).abs().max().item() / scale
        assert far < 4e-3, f"{name}: {far}"


def test_documents_have_no_cache():
    model = small(**EVERYTHING)
    cache = model.new_cache(3, 64)
    model(some_ids(3, 32), cache=cache)
    for begun in (cache, model.new_cache(3, 64)):  # the next token would see all of them
        with pytest.raises(UserError, match="documents are kept apart in a whole pass only"):
            model(some_ids(3, 2), cache=begun, document_BT=torch.zeros(3, 2, dtype=torch.long))


def test_a_number_that_comes_back_is_another_document():
    model, ids = shaken(**EVERYTHING), some_ids(1, 8)
    returning, counted = torch.tensor([[4, 4, 7, 7, 4, 4, 7, 7]]), torch.tensor([[0, 0, 1, 1, 2, 2, 3, 3]])
    assert torch.equal(model(ids, document_BT=returning), model(ids, document_BT=counted))


def test_blocks_that_run_twice_keep_documents_apart():
    from nanochat.precision import checkpoint_blocks

    model, ids, document_BT = shaken(**EVERYTHING), some_ids(3, 32), numbers_of()
    want = model(ids, ids, document_BT=document_BT)
    assert_close(checkpoint_blocks(model)(ids, ids, document_BT=document_BT), want)


# --- switches that are off by default ---


def test_the_pattern_says_which_layers_are_short():
    def windows_of(n, **kw):
        return [layer_window(GPTConfig(n_layer=n, window=5, **kw), i) for i in range(n)]

    for n in range(1, 14):  # what was a rule before there was a pattern
        assert windows_of(n) == [0 if i == n - 1 or i % 4 == 3 else 5 for i in range(n)]
    assert windows_of(5, pattern="SL") == [5, 0, 5, 0, 0]
    assert windows_of(5, pattern="S") == [5, 5, 5, 5, 0]
    assert windows_of(5, pattern="L") == [0] * 5
    per_token = {p: flops_per_token(small(window=8, pattern=p, n_layer=8), 32) for p in ("L", "SL", "SSSL")}
    assert per_token["L"] - per_token["SL"] == 12 * 64 * 4 * (32 - 8)
    assert per_token["L"] - per_token["SSSL"] == 12 * 64 * 6 * (32 - 8)
    for bad in ("", "SX", "ssl", 5):
        with pytest.raises(UserError, match="made of S and L"):
            GPTConfig(pattern=bad)


@pytest.mark.parametrize("dtype, tol", [(torch.float32, 1e-6), (torch.bfloat16, 0.04)])
def test_queries_and_keys_are_scaled_after_their_norm(monkeypatch, dtype, tol):
    "As if attention itself multiplied them; 1 changes nothing, to the bit"
    plain, scaled, ids = shaken(**EVERYTHING), shaken(qk_scale=1.2, **EVERYTHING), some_ids(2, 40)
    plain.dtype = scaled.dtype = dtype
    attend, seen = nanochat.gpt.attend, {}

    def by_hand(q, k, v, *how, **more):
        seen["rms"] = q.float().square().mean().sqrt().item()
        return attend(1.2 * q, 1.2 * k, v, *how, **more)

    with torch.no_grad():
        before, found = plain(ids), scaled(ids)
        monkeypatch.setattr(nanochat.gpt, "attend", by_hand)
        wanted = plain(ids)
    assert seen["rms"] == pytest.approx(1, abs=0.01)
    assert (found - wanted).norm() < tol * wanted.norm()
    assert (found - before).norm() > 0.1 * wanted.norm()
    with pytest.raises(UserError, match="larger than 0"):
        GPTConfig(qk_scale=-1.0)


def test_narrow_gates_read_the_first_channels_only():
    model, ids = shaken(narrow_gates=True, **EVERYTHING), some_ids(2, 40)
    gates = [m for m in model.modules() if isinstance(m, type(model.smear_gate)) and m.out_features < 4]
    assert [tuple(gate.weight.shape) for gate in gates] == [(2, 12)] * 3 + [(1, 24)]
    wide = shaken(**EVERYTHING)
    state = model.state_dict()
    for name, weight in wide.state_dict().items():  # the same with zeros for the channels that are not read
        if state[name].shape != weight.shape:
            filled = torch.zeros_like(weight)
            filled[:, : state[name].size(1)] = state[name]
            state[name] = filled
    wide.load_state_dict(state)
    with torch.no_grad():
        assert_close(model(ids), wide(ids), atol=1e-4, rtol=1e-4)
    assert small(narrow_gates=True, n_embd=8, n_head=2, n_kv_head=2, **MODERN)(ids).shape == (2, 40, 300)


@pytest.mark.parametrize("kw", [NEWER, dict(qk_scale=0.7), dict(MODERN, window=3, pattern="S")], ids=str)
def test_a_cached_step_equals_the_full_pass_with_the_newer_switches(kw):
    model, ids = shaken(**kw), some_ids(2, 20)
    cache = model.new_cache(2, 20)
    with torch.no_grad():
        parts = [model(part, cache=cache) for part in ids.split((5, 1, 2, 1, 11), 1)]
        assert_close(torch.cat(parts, 1), model(ids), atol=1e-4, rtol=1e-4)
        assert torch.equal(model(ids)[:, :9], model(torch.cat((ids[:, :9], ids[:, :11]), 1))[:, :9])


def test_a_plan_turns_the_newer_switches():
    "By the names of the config's fields; a pattern that can't be is one line"
    newer = dict(window=8, pattern="SL", qk_scale=1.2, narrow_gates=True, first="2026")
    cfg = model_config(replace(SMOKE, switches={**MODERN, **newer}))
    assert {name: getattr(cfg, name) for name in newer} == newer
    with pytest.raises(UserError, match="made of S and L"):
        model_config(replace(SMOKE, switches=dict(pattern="X")))
    with pytest.raises(UserError, match="qk_scale is '1.2', not of type float"):
        model_config(replace(SMOKE, switches=dict(qk_scale="1.2")))


def test_checkpoints_from_before_the_newer_switches_load(tmp_path):
    model = shaken(**EVERYTHING)
    save_model(model, tmp_path / "new")
    meta = json.loads((tmp_path / "new" / "meta.json").read_text())
    assert {"pattern", "qk_scale", "narrow_gates", "first"} <= set(meta["config"])
    newer = ("pattern", "qk_scale", "narrow_gates", "first")
    config = {name: value for name, value in meta["config"].items() if name not in newer}

    def kept_as(folder, config):
        weights = (tmp_path / "new" / "model.safetensors").read_bytes()
        write_checked(tmp_path / folder, {"model.safetensors": weights}, dict(config=config, dtype="float32"))
        loaded, _ = load_model(tmp_path / folder)
        return loaded

    assert kept_as("old", config).cfg == model.cfg
    with pytest.raises(UserError, match="its model has paired_heads, which this version does not know"):
        kept_as("newer", dict(config, paired_heads=True))
    with pytest.raises(UserError, match="holds chapter 07's baseline, which `nanochat.baseline` loads"):
        kept_as("baseline", dict(config, dropout=0.0, bias=False))


# --- made once ---


def test_nothing_is_drawn_for_a_model_that_is_loaded(tmp_path):
    model = shaken(**EVERYTHING)
    save_model(model, tmp_path / "model")
    torch.manual_seed(9)
    state = torch.get_rng_state()
    loaded, _ = load_model(tmp_path / "model")
    to_hf(tmp_path / "model", tmp_path / "hf")
    from_hf(tmp_path / "hf")
    assert torch.equal(torch.get_rng_state(), state)
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name
    ids = some_ids(2, 20)
    assert torch.equal(loaded(ids), model(ids)), "the tables of angles are there, too"
    assert all(p.requires_grad for p in loaded.parameters())


def test_tables_of_angles_are_made_where_the_model_is():
    cos, sin = rope_cache(64, 16)
    for model in (small(), empty_model(small().cfg)):
        assert torch.equal(model.cos, cos) and torch.equal(model.sin, sin)
        assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    with torch.device("meta"):
        model = small(**EVERYTHING)
    tensors = [*model.parameters(), *model.buffers()]
    assert all(t.is_meta for t in tensors) and n_params(model) == n_params(small(**EVERYTHING))


def test_the_newest_checkpoint_of_the_last_stage_is_meant(tmp_path):
    for n, stage in enumerate(STAGES):
        for step in (5, 10 + n):
            save_model(small(), tmp_path / "run" / stage / f"step_{step}")
        assert find_checkpoint(tmp_path / "run") == tmp_path / "run" / stage / f"step_{10 + n}"
    assert find_checkpoint(tmp_path / "run" / "base") == tmp_path / "run" / "base" / "step_10"
    with pytest.raises(UserError, match="no checkpoint in"):
        find_checkpoint(tmp_path)


# --- to transformers ---


@pytest.fixture(scope="module")
def transformers(tmp_path_factory):
    "The referee, offline; a model's code is copied into a folder of ours and not into somebody's home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_MODULES_CACHE", str(tmp_path_factory.mktemp("code")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        module = pytest.importorskip("transformers", reason="the referee, transformers, is not installed")
        module.utils.logging.disable_progress_bar()
        yield module


def exported(folder, model):
    save_model(model, folder / "ours")
    return to_hf(folder / "ours", folder / "theirs", bos_token_id=1, eos_token_id=2)


def settings(folder, name="config.json"):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_no_two_weights_share_a_name():
    ours = [name for name, _ in small(n_layer=12, **MODERN).named_parameters()]
    assert len({hf_name(name) for name in ours}) == len(ours)
    assert len(set(HF_NAMES.values())) == len(HF_NAMES)


@pytest.mark.parametrize(
    "kw", [{}, dict(n_kv_head=2, softcap=0.0), dict(n_kv_head=1, rope_base=100000.0, n_layer=1)], ids=str
)
def test_classic_logits_are_those_of_transformers(transformers, tmp_path, kw):
    model = shaken(**kw)
    folder = exported(tmp_path, model)
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert type(theirs).__module__.startswith("transformers.models.nanochat")
    ids = some_ids(3, 60)
    with torch.no_grad():
        assert_close(theirs(ids).logits, model(ids), atol=1e-4, rtol=0)
    assert (theirs.config.bos_token_id, theirs.generation_config.eos_token_id) == (1, 2)


def modern(transformers, folder):
    auto = transformers.AutoModelForCausalLM
    model, report = auto.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


@pytest.mark.parametrize(
    "kw",
    [
        *[kw for kw in COMBINATIONS if any(kw[s] for s in (*MODERN, "window"))][::9],
        NEWER,
        dict(qk_scale=1.2),
        dict(window=3, pattern="LSS", n_kv_head=2),
    ],
    ids=str,
)
def test_modern_logits_are_those_of_the_code_that_travels(transformers, tmp_path, kw):
    "Rows of 60 tokens, windows of 3; and with a mask of ones, and in bfloat16 nearly"
    model = shaken(**kw)
    theirs, ids = modern(transformers, exported(tmp_path, model)), some_ids(3, 60)
    with torch.no_grad():
        logits = model(ids)
        assert_close(theirs(ids).logits, logits, atol=1e-4, rtol=0)
        assert_close(theirs(ids, attention_mask=torch.ones_like(ids)).logits, logits, atol=1e-4, rtol=0)
        assert_close(theirs(ids, logits_to_keep=2).logits, logits[:, -2:], atol=1e-4, rtol=0)
        loss = model(ids[:, :-1], ids[:, 1:])
        assert_close(theirs(ids, labels=ids).loss, loss, atol=1e-4, rtol=0)
        half = theirs.to(torch.bfloat16)(ids).logits
    assert (half - logits).norm() < 0.1 * logits.norm()


def test_batches_of_a_step_add_up_to_it_as_transformers_trainer_has_it(transformers, tmp_path):
    "A forward that takes **kwargs is told how many tokens the step scores, and divides by that number"
    theirs, ids = modern(transformers, exported(tmp_path, shaken(**EVERYTHING))), some_ids(4, 16)
    theirs(ids, labels=ids).loss.backward()
    want = theirs.lm_head.weight.grad.clone()
    theirs.zero_grad()
    for row in ids.split(1):
        theirs(row, labels=row, num_items_in_batch=torch.tensor(4 * 15)).loss.backward()
    assert_close(theirs.lm_head.weight.grad, want, atol=1e-5, rtol=1e-3)


def test_an_export_leaves_no_tokenizer_of_another(transformers, tmp_path):
    folder = exported(tmp_path, small())
    for name in nanochat.gpt.TOKENIZER_FILES:
        (folder / name).write_text("of another model")
    assert exported(tmp_path, small(**MODERN)) == folder
    assert not list(folder.glob("token*")) and not (folder / "chat_template.jinja").exists()


def test_an_export_to_a_file_or_without_a_stop_is_one_line(tmp_path):
    save_model(small(), tmp_path / "ours")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file: export to a folder"):
        to_hf(tmp_path / "ours", tmp_path / "file")
    with pytest.raises(UserError, match="eos_token_id is an empty list"):
        to_hf(tmp_path / "ours", tmp_path / "theirs", eos_token_id=[])
    assert (tmp_path / "file").read_text() == "mine" and not (tmp_path / "theirs").exists()


def test_scaled_positions_are_refused_in_both_spellings(tmp_path):
    save_model(small(), tmp_path / "ours")
    folder = to_hf(tmp_path / "ours", tmp_path / "theirs")
    said = settings(folder)
    for name in ("rope_scaling", "rope_parameters"):
        other = dict(said, **{name: dict(rope_type="linear", factor=4.0, rope_theta=10000.0)})
        (folder / "config.json").write_text(json.dumps(other))
        with pytest.raises(UserError, match="rope_"):
            from_hf(folder)


@pytest.mark.parametrize("name", ["max_position_embeddings", "num_hidden_layers", "vocab_size"])
def test_a_size_that_no_model_has_takes_no_memory(tmp_path, name):
    save_model(small(), tmp_path / "ours")
    folder = to_hf(tmp_path / "ours", tmp_path / "theirs")
    (folder / "config.json").write_text(json.dumps(dict(settings(folder), **{name: 10**12})))
    with pytest.raises(UserError, match=f"{name} is 1000000000000, which is no size"):
        from_hf(folder)


@pytest.fixture(scope="module")
def pair(transformers, tmp_path_factory):
    "All switches, shared heads, windows, a soft cap; room for long answers: ours and theirs"
    model = shaken(3, seq_len=160, **NEWER)
    theirs = modern(transformers, exported(tmp_path_factory.mktemp("pair"), model))
    theirs.generation_config.eos_token_id = None  # go on, whatever comes
    return model, theirs


def greedy(model, ids, n):
    "The likeliest next token, n times, each from the beginning"
    with torch.no_grad():
        for _ in range(n):
            ids = torch.cat((ids, model(ids)[:, -1:].argmax(-1)), 1)
    return ids


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_text_is_ours_for_200_tokens(pair, use_cache):
    ours, theirs = pair
    ids = some_ids(2, 9)
    expected = greedy(ours, ids, 200)
    found = theirs.generate(ids, max_new_tokens=200, do_sample=False, use_cache=use_cache)
    assert torch.equal(found, expected)
    assert len(set(expected[0, 9:].tolist())) > 20, "and the text is not one word"


def test_the_cache_of_transformers_gives_what_one_pass_gives(pair, transformers):
    "In pieces, through the lazy cache and the one that knows the config, under both of its names"
    _, theirs = pair
    ids = some_ids(2, 40)
    with torch.no_grad():
        whole = theirs(ids).logits
        for cache in (transformers.DynamicCache(), transformers.DynamicCache(config=theirs.config)):
            parts = [
                theirs(part, past_key_values=cache, use_cache=True).logits
                for part in ids.split((7, 1, 1, 9, 22), 1)
            ]
            assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=0)


def test_rows_padded_on_the_left_answer_as_if_they_were_alone(pair):
    _, theirs = pair
    rows = [some_ids(1, n, seed=n) for n in (3, 11, 7)]
    alone = [theirs.generate(r, max_new_tokens=30, do_sample=False)[0, -30:] for r in rows]
    padded = torch.cat([torch.nn.functional.pad(row, (11 - row.size(1), 0)) for row in rows])
    mask = torch.cat([torch.nn.functional.pad(torch.ones_like(row), (11 - row.size(1), 0)) for row in rows])
    together = theirs.generate(
        padded, attention_mask=mask, max_new_tokens=30, do_sample=False, pad_token_id=0
    )
    assert torch.equal(together[:, -30:], torch.stack(alone))


def test_beams_take_their_cache_along(pair):
    _, theirs = pair
    ids = some_ids(1, 8)
    how = dict(max_new_tokens=24, do_sample=False, num_beams=4)
    assert torch.equal(
        theirs.generate(ids, use_cache=True, **how), theirs.generate(ids, use_cache=False, **how)
    )


def test_what_the_travelling_code_cannot_do_it_says(pair):
    _, theirs = pair
    ids = some_ids(2, 8)
    with pytest.raises(ValueError, match="reads input_ids"):
        theirs(inputs_embeds=torch.zeros(1, 3, 64))
    with pytest.raises(ValueError, match="attention_mask has shape"):
        theirs(ids, attention_mask=torch.ones(2, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="DynamicCache"):
        theirs.generate(ids, max_new_tokens=4, cache_implementation="static")


def test_a_modern_model_is_not_taken_for_a_classic_one(transformers, tmp_path):
    folder = exported(tmp_path, shaken(**EVERYTHING))
    assert settings(folder)["model_type"] == "nanochat_modern"
    with pytest.raises(ValueError, match="trust_remote_code"):
        transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)


STRANGER = """
import sys, torch
sys.modules["nanochat"] = None                  # whoever imports the library here fails
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
tok = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
ids = torch.tensor([tok("the cat, the mat and the cat")["input_ids"]])
with torch.no_grad():
    torch.save(dict(ids=ids, logits=model(ids).logits), out)
model.save_pretrained(folder+"-again")          # as transformers would save it after tuning
tok.save_pretrained(folder+"-again")
again = AutoModelForCausalLM.from_pretrained(folder+"-again", trust_remote_code=True).eval()
with torch.no_grad():
    assert torch.equal(again(ids).logits, model(ids).logits)
assert AutoTokenizer.from_pretrained(folder+"-again", trust_remote_code=True)("a <|bos|>") == tok("a <|bos|>")
"""


# --- the tokenizer that goes along ---


@pytest.fixture(scope="module")
def tok():
    docs = ["the cat sat on the mat; the end. " * 9, "für Ж 猫 <|user_start|> 12 345\n\n  x = 1\n" * 5]
    return Tokenizer.train([*docs, " ".join(SPECIAL_TOKENS)], 400)


def as_run(folder, tok, **kw):
    "A run with a tokenizer and one checkpoint"
    tok.save(folder / "tokenizer")
    save_model(shaken(vocab_size=tok.vocab_size, **kw), folder / "sft" / "step_7")
    return folder


@pytest.fixture(scope="module")
def folders(tok, tmp_path_factory):
    "Exports of a run with a tokenizer"
    base = tmp_path_factory.mktemp("runs")
    kinds = dict(classic={}, modern=EVERYTHING)
    return {kind: to_hf(as_run(base / kind, tok, **kw), base / f"{kind}-hf") for kind, kw in kinds.items()}


@pytest.mark.parametrize("kind", ["classic", "modern"])
def test_the_folder_knows_its_tokenizer_and_where_answers_end(folders, tok, kind):
    folder = folders[kind]
    said, generation = settings(folder), settings(folder, "generation_config.json")
    stops = [tok.special(name) for name in ("<|assistant_end|>", "<|user_start|>", "<|bos|>")]
    assert said["eos_token_id"] == generation["eos_token_id"] == stops
    assert said["bos_token_id"] == generation["bos_token_id"] == tok.bos
    assert generation["pad_token_id"] == stops[0]
    kept = json.loads((folder.parent / kind / "tokenizer" / "tokenizer.json").read_text())
    assert said["tokenizer_sha256"] == kept["sha256"]
    assert (
        said["tokenizer_json_sha256"] == hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    )
    code = sorted(p.name for p in folder.glob("*.py"))
    wanted = ["configuration_nanochat.py", "modeling_nanochat.py", "tokenization_nanochat.py"]
    assert code == (wanted if kind == "modern" else []), "a classic model needs no code"


def test_a_stranger_without_this_library_reads_a_modern_model(transformers, folders, tok, tmp_path):
    env = environment(HF_HUB_OFFLINE=1, HF_MODULES_CACHE=tmp_path / "code", HF_HOME=tmp_path / "home")
    env.pop("PYTHONPATH")
    command = [sys.executable, "-c", STRANGER, str(folders["modern"]), str(tmp_path / "out.pt")]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    out = torch.load(tmp_path / "out.pt", weights_only=True)
    assert out["ids"].tolist() == [tok.encode("the cat, the mat and the cat")]
    model, _ = load_model(folders["modern"].parent / "modern")
    with torch.no_grad():
        assert_close(out["logits"], model(out["ids"]), atol=1e-4, rtol=0)


HOSTILE = [
    "", " ", "\n", "the cat", "  two  spaces\t\ttabs\r\n", "a\x00b", "café cafe\u0301 \u200b\u200e",
    "🙂👩‍👩‍👧",
    "猫が", "<|", "|>", "<|bos", "<|nothing|>", "12345678901234567890", "it's I'LL",
    "\ue000\ue001\ufdd0",
    "x" * 3000,
    *SPECIAL_TOKENS, " <|assistant_end|>", "a<|bos|>b <|user_start|> c", "<|bos|>" * 3,
    "<|<|bos|>|>",
]  # fmt: skip


def test_ids_are_ours_on_hostile_text(transformers, folders, tok):
    "A classic folder has no code of its own: there names stay text with split_special_tokens=True"
    auto = transformers.AutoTokenizer
    own = auto.from_pretrained(folders["modern"], trust_remote_code=True)
    plain = auto.from_pretrained(folders["classic"])
    assert type(own).__name__ == "NanoChatTokenizer" and len(own) == len(plain) == tok.vocab_size
    for text in HOSTILE:
        ids = tok.encode(text)
        assert own(text)["input_ids"] == own.encode(text) == ids, text
        assert plain(text, split_special_tokens=True)["input_ids"] == ids, text
        assert own.decode(ids) == plain.decode(ids) == tok.decode(ids), text
        if not any(name in text for name in SPECIAL_TOKENS):
            assert plain(text)["input_ids"] == ids, text
    assert own([h for h in HOSTILE])["input_ids"] == [tok.encode(h) for h in HOSTILE]


def says(role, content):
    return dict(role=role, content=content)


CHATS = [
    [says("user", "the cat?")],
    [says("user", ""), says("assistant", ""), says("user", "  the mat \n")],
    [says(("user", "assistant")[n % 2], text) for n, text in enumerate(("a", "b", "c", "d", "e\n\n"))],
    [says("system", "the end."), says("user", "\n x = 1"), says("assistant", "x"), says("user", "{{ bos }}")],
    [
        says("user", "12 + 345"),
        says("assistant", [
            dict(type="text", text="it is "),
            dict(type="python", text="12+345"),
            dict(type="output", text="357"),
            dict(type="text", text=" the end"),
        ]),
        says("user", "猫"),
    ],
]  # fmt: skip


def test_the_chat_template_renders_as_we_do(transformers, folders, tok):
    auto = transformers.AutoTokenizer
    for kind, trust in (("classic", False), ("modern", True), ("modern", False)):
        theirs = auto.from_pretrained(folders[kind], trust_remote_code=trust)
        for chat in CHATS:
            ids = render_prompt(tok, chat)
            assert theirs.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] == ids, chat
            assert theirs.apply_chat_template(chat)["input_ids"] == ids[:-1], chat
            text = theirs.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            assert text == tok.decode(ids), chat


def test_nobody_writes_a_special_token_in_a_chat(transformers, folders, tok):
    "With the class that travels a name is text, as with us; without it, it is refused"
    auto = transformers.AutoTokenizer
    own = auto.from_pretrained(folders["modern"], trust_remote_code=True)
    plain = auto.from_pretrained(folders["classic"])
    for text in HOSTILE:
        turns = [says("user", "a"), says("assistant", text), says("user", f"{text}!")]
        for chat in ([says("user", text)], turns, [says("system", text), says("user", text)]):
            ids = render_prompt(tok, chat)
            assert own.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] == ids, chat
            if any(name in text for name in SPECIAL_TOKENS):
                with pytest.raises(Exception, match="only the template may write"):
                    plain.apply_chat_template(chat)
            else:
                assert plain.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] == ids, chat


@pytest.mark.parametrize("chat", [
    [says("tool", "x")], [says("system", "x")], [says("user", "x"), says("system", "y")],
    [says("user", [dict(type="image", text="x")])], [says("assistant", [dict(type="image", text="x")])],
], ids=str)  # fmt: skip
def test_what_we_refuse_the_template_refuses(transformers, folders, tok, chat):
    theirs = transformers.AutoTokenizer.from_pretrained(folders["modern"], trust_remote_code=True)
    with pytest.raises(UserError):
        render_prompt(tok, chat)
    with pytest.raises(Exception, match="an answer is made of|a chat has turns"):
        theirs.apply_chat_template(chat)


def test_several_chats_become_one_batch(transformers, folders, tok):
    theirs = transformers.AutoTokenizer.from_pretrained(folders["modern"], trust_remote_code=True)
    how = dict(add_generation_prompt=True, padding=True, return_tensors="pt")
    batch = theirs.apply_chat_template(CHATS, **how)
    for row, mask, chat in zip(batch["input_ids"], batch["attention_mask"], CHATS):
        assert row[mask.bool()].tolist() == render_prompt(tok, chat)
    assert (batch["attention_mask"][:, -1] == 1).all(), "padded on the left"
    one = theirs.apply_chat_template(
        CHATS[0], add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    assert one.tolist() == [render_prompt(tok, CHATS[0])]


def test_an_answer_ends_where_ours_ends(transformers, folders, tok):
    "The text of `generate` with the folder's own settings is that of a loop that knows the stop ids"
    model, _ = load_model(folders["modern"].parent / "modern")
    theirs, stops = modern(transformers, folders["modern"]), settings(folders["modern"])["eos_token_id"]
    model.lm_head.weight.data[stops] *= 3  # so that some answers end
    theirs.lm_head.weight.data[stops] *= 3
    ended = 0
    for seed in range(8):
        ids = torch.tensor([render_prompt(tok, [says("user", f"cat {seed}")])])
        text = greedy(model, ids, 30)[0].tolist()
        at = next((n for n in range(ids.size(1), len(text)) if text[n] in stops), len(text) - 1)
        ended += text[at] in stops
        assert theirs.generate(ids, max_new_tokens=30, do_sample=False)[0].tolist() == text[: at + 1]
    assert ended


def test_the_template_knows_all_special_tokens():
    template = (importlib.resources.files("nanochat") / "hf" / "chat_template.jinja").read_text(
        encoding="utf-8"
    )
    assert set(re.findall(r"'(<\|\w+\|>)'", template)) == set(SPECIAL_TOKENS)


def test_a_tokenizer_is_found_from_wherever_one_stands(tok, tmp_path, monkeypatch):
    monkeypatch.chdir(as_run(tmp_path / "run", tok) / "sft")
    for number, source in enumerate(("step_7", ".", "..", tmp_path / "run")):
        folder = to_hf(source, tmp_path / f"hf{number}")
        assert settings(folder)["bos_token_id"] == tok.bos, source
    assert not (exported(tmp_path / "no_run", shaken()) / "tokenizer.json").exists()


def test_an_export_destroys_nothing(tok, tmp_path):
    run = as_run(tmp_path / "run", tok)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    for place in (run / "sft" / "step_7", run / "tokenizer"):
        with pytest.raises(UserError, match="another folder"):
            to_hf(run, place)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    Tokenizer.train(["another one"], 270).save(run / "tokenizer")
    with pytest.raises(UserError, match=r"\d+ ids and the model \d+: they do not belong"):
        to_hf(run, tmp_path / "hf")


# --- back from transformers ---


@pytest.mark.parametrize(
    "kw",
    [{}, dict(n_kv_head=1, softcap=0.0, rope_base=5e5), EVERYTHING, NEWER, dict(qk_scale=1.2)],
    ids=str,
)
def test_there_and_back_is_the_same_to_the_bit(tmp_path, kw):
    model = shaken(**kw)
    back = from_hf(exported(tmp_path, model))
    assert back.cfg == model.cfg
    for name, weight in back.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name


def test_folders_from_before_the_newer_switches_are_read(tmp_path):
    "And what no switch can be is one line; how the weights began is not exported"
    model = shaken(first="2026", **EVERYTHING)
    folder = exported(tmp_path, model)
    said = settings(folder)
    assert "first" not in said and said["pattern"] == "SSSL"
    assert from_hf(folder).cfg == small(**EVERYTHING).cfg
    newer = ("pattern", "qk_scale", "narrow_gates")
    (folder / "config.json").write_text(json.dumps({k: v for k, v in said.items() if k not in newer}))
    assert torch.equal(from_hf(folder)(some_ids(1, 9)), model(some_ids(1, 9)))
    for change, words in (
        (dict(pattern="SM"), "made of S and L"),
        (dict(pattern=None), "made of S and L"),
        (dict(qk_scale="1.2"), "'1.2' is no number for qk_scale"),
        (dict(window="far"), "'far' is no number for window"),
        (dict(qk_scale=0), "must be larger than 0"),
    ):
        (folder / "config.json").write_text(json.dumps(said | change))
        with pytest.raises(UserError, match=words):
            from_hf(folder)


def test_a_scale_makes_a_model_modern(tmp_path):
    "transformers' own NanoChat has no such scale, and would silently leave it out"
    assert not is_modern(GPTConfig(first="2026", pattern="L", narrow_gates=True))
    assert is_modern(GPTConfig(qk_scale=1.2))
    assert hf_config(GPTConfig())["model_type"] == "nanochat"
    assert hf_config(GPTConfig(qk_scale=1.2))["model_type"] == "nanochat_modern"


def stranger(transformers, folder, shard="5GB", **kw):
    "A classic model that transformers made and saved"
    torch.manual_seed(2)
    shape = dict(
        vocab_size=120, hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4
    )
    config = transformers.NanoChatConfig(
        **{**shape, "num_key_value_heads": 2, "max_position_embeddings": 64, **kw}
    )
    model = transformers.NanoChatForCausalLM(config).eval()
    model.save_pretrained(folder, max_shard_size=shard)
    return model


@pytest.mark.parametrize(
    "shard, dtype", [("5GB", torch.float32), ("60KB", torch.float32), ("5GB", torch.bfloat16)]
)
def test_a_model_that_transformers_made_has_its_logits_here(transformers, tmp_path, shard, dtype):
    stranger(transformers, tmp_path).to(dtype).save_pretrained(tmp_path / "kept", max_shard_size=shard)
    # read again: what went through bfloat16 has rounded angles, too, which are in no file
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "kept", dtype=torch.float32).eval()
    assert len(list((tmp_path / "kept").glob("*.safetensors"))) > 3 or shard == "5GB"
    ours, ids = from_hf(tmp_path / "kept"), some_ids(2, 50, 120)
    assert ours.cfg.seq_len == 32 and all(p.dtype == torch.float32 for p in ours.parameters())
    with torch.no_grad():
        difference = (ours(ids) - theirs(ids).logits).abs().max().item()
    print(f"largest difference {difference:.1e}")
    assert difference < 1e-4


@pytest.mark.parametrize("change, words", [
    (dict(model_type="llama"), "its model_type is 'llama', and only nanochat"),
    (dict(model_type=None), "its model_type is None"),
    (dict(attention_bias=True), "attention_bias is True"),
    (dict(hidden_act="silu"), "hidden_act is 'silu'"),
    (dict(intermediate_size=200), "intermediate_size is 200, and here it can only be 256"),
    (dict(head_dim=32), "head_dim is 32"),
    (dict(tie_word_embeddings=True), "tie_word_embeddings is True"),
    (dict(quantization_config=dict(bits=4)), "quantization_config is"),
    (dict(rope_parameters=dict(rope_type="yarn", rope_theta=1e4)), "rope_type is 'yarn'"),
    (dict(hidden_size=0), "hidden_size is 0"),
    (dict(num_attention_heads="four"), "num_attention_heads is 'four'"),
    (dict(num_attention_heads=3, num_key_value_heads=3), "must divide"),
    (dict(rms_norm_eps="small"), "'small' is no number for norm_eps"),
    (dict(hidden_size=1 << 20, intermediate_size=1 << 22), "has shape (120, 64) and not (120, 1048576)"),
    (dict(num_hidden_layers=4), "model.layers.3.self_attn.q_proj.weight is missing"),
    (dict(num_hidden_layers=2), "model.layers.2.mlp.fc1.weight is unknown"),
    (dict(vocab_size=121), "lm_head.weight has shape (120, 64) and not (121, 64)"),
])  # fmt: skip
def test_what_does_not_fit_is_one_line(transformers, tmp_path, change, words):
    stranger(transformers, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(settings(tmp_path) | change))
    with pytest.raises(UserError) as e:
        from_hf(tmp_path)
    assert words in str(e.value) and "\n" not in str(e.value) and len(str(e.value)) < 600, e.value


def test_files_that_are_not_there_or_damaged_are_one_line(transformers, tmp_path):
    def refused(kind, words):
        with pytest.raises(kind) as e:
            from_hf(folder)
        assert words in str(e.value) and "\n" not in str(e.value), e.value

    folder = tmp_path / "nowhere"
    refused(UserError, "config.json: No such file")
    folder = tmp_path / "kept"
    stranger(transformers, folder, "60KB")
    index, shards = folder / "model.safetensors.index.json", sorted(folder.glob("*.safetensors"))
    kept, first = index.read_bytes(), shards[1].read_bytes()
    shards[1].write_bytes(first[: len(first) // 2])
    refused(Damaged, f"{shards[1].name} is damaged")
    shards[1].unlink()
    refused(UserError, f"{shards[1].name} is missing")
    shards[1].write_bytes(shards[0].read_bytes())
    refused(UserError, "is there twice")
    shards[1].write_bytes(first)
    assert from_hf(folder)
    outside = json.loads(kept)
    outside["weight_map"]["lm_head.weight"] = "../secret.safetensors"
    (tmp_path / "secret.safetensors").write_bytes(first)
    index.write_text(json.dumps(outside))
    refused(UserError, "../secret.safetensors is missing")
    index.write_text("{")
    refused(UserError, "is not JSON")
    index.write_text('{"weight_map": []}')
    refused(UserError, "is missing")
    (folder / "config.json").write_text("[]")
    refused(UserError, "holds no settings")


def test_integers_are_no_weights(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = exported(tmp_path, shaken())
    weights = load_file(folder / "model.safetensors")
    save_file(
        weights | {"lm_head.weight": weights["lm_head.weight"].to(torch.int8)}, folder / "model.safetensors"
    )
    with pytest.raises(UserError, match="lm_head.weight is kept in I8"):
        from_hf(folder)


def test_a_model_from_elsewhere_can_be_kept_and_exported_again(transformers, tmp_path):
    theirs = stranger(transformers, tmp_path / "theirs")
    save_model(from_hf(tmp_path / "theirs"), tmp_path / "ours")
    to_hf(tmp_path / "ours", tmp_path / "again")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, theirs.state_dict()[name]), name


def test_the_files_that_travel_are_part_of_the_package():
    found = sorted(p.name for p in (importlib.resources.files("nanochat") / "hf").iterdir() if p.is_file())
    wanted = ["__init__.py", "chat_template.jinja"]
    wanted += [f"{part}_nanochat.py" for part in ("configuration", "modeling", "tokenization")]
    assert found == wanted
    assert '"hf/*.py", "hf/*.jinja"' in (ROOT / "setup.py").read_text()
    for name in wanted[2:]:
        text = (ROOT / "nanochat" / "hf" / name).read_text(encoding="utf-8")
        imports = set(re.findall(r"^(?:from|import) (\.?\w+)", text, re.M))
        assert imports <= {
            "re",
            "secrets",
            "dataclasses",
            "torch",
            "transformers",
            ".configuration_nanochat",
        }, imports


def test_a_model_is_made_and_loaded_without_sympy(tmp_path):
    "torch would load it to think about shapes; every start of every command would wait a second for it"
    script = tmp_path / "loads.py"
    script.write_text(
        "import sys, torch\n"
        "from nanochat.gpt import GPT, GPTConfig, MODERN, load_model, save_model\n"
        "shape = dict(vocab_size=64, seq_len=64, n_layer=2, n_embd=64, n_head=2, n_kv_head=2)\n"
        "save_model(GPT(GPTConfig(**shape, **MODERN)), sys.argv[1])\n"
        "model = load_model(sys.argv[1], 'cpu')[0]\n"
        "assert model(torch.zeros(1, 8, dtype=torch.long)).shape == (1, 8, 64)\n"
        "print('sympy' in sys.modules)\n"
    )
    done = warmly([script, tmp_path / "model"], tmp_path, 60, {})
    assert done.stdout == "False\n", done.stdout + done.stderr
