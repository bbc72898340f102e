"A plan is what it says: read as written, refused where it is none, and carried as an object"

import ast
import json
from dataclasses import asdict, replace

import pytest
from conftest import ROOT

from nanochat.corpus import Corpus
from nanochat.runs import Damaged, Plan, UserError, from_json, read_plan, run_dir, write_plan, write_sealed
from nanochat.scaling import (
    LAPTOP,
    RECIPES,
    SMOKE,
    TIERS,
    all_params,
    count_tokens,
    describe,
    make_plan,
    model_config,
    open_run,
    plan_tier,
    recipe_plan,
    shrink,
    with_rows,
)


@pytest.mark.parametrize("tier", TIERS)
def test_a_plan_survives_its_file(base, tier):
    plan = replace(TIERS[tier], corpus="tinystories", seed=-7, dtype="bfloat16")
    write_plan(run_dir("one"), plan)
    assert read_plan(run_dir("one")) == plan
    assert from_json(Plan, json.loads(json.dumps(asdict(plan)))) == plan


def older_settings():
    "The settings.json of a smoke run, in the form of the versions before plans were dataclasses"
    said = asdict(SMOKE)
    for name in ("model", "recipe", "card", "gpus", "fp8", "bf16_tables", "checkpoint_blocks", "rehearsal"):
        said.pop(name)
    for stage in ("base", "mid", "sft"):
        for name in ("warmup", "final", "planned_steps", "scalar_lr", "table", "weight_decay"):
            said[stage].pop(name, None)
    for name in ("warmup", "warmdown", "final", "device_rows", "mask_cut", "ratio_cap", "task"):
        said["rl"].pop(name)
    return said


def test_settings_of_older_runs_are_read(base):
    write_sealed(run_dir("old") / "settings.json", older_settings())
    assert read_plan(run_dir("old")) == SMOKE
    assert open_run("old", tier="smoke", seed=0).plan == SMOKE


def test_settings_of_an_older_run_that_had_not_begun_are_refused_in_one_line(base):
    "They said how often a folder may be read, and left the number of steps for later"
    said = older_settings()
    said["base"]["epochs"] = 4
    write_sealed(run_dir("old") / "settings.json", said)
    with pytest.raises(Damaged, match="base.epochs is unknown") as e:
        read_plan(run_dir("old"))
    assert "\n" not in str(e.value) and "clean old" in str(e.value)


def leaves(said, where=()):
    "Every key of nested dicts"
    for name, value in said.items():
        yield (*where, name)
        if isinstance(value, dict) and name not in ("switches", "mix"):
            yield from leaves(value, (*where, name))


def changed(said, path, change):
    "A copy in which the part of the last key is changed"
    said = json.loads(json.dumps(said))
    part = said
    for name in path[:-1]:
        part = part[name]
    change(part, path[-1])
    return said


PLAN = json.loads(json.dumps(asdict(LAPTOP)))


@pytest.mark.parametrize("path", list(leaves(PLAN)), ids=".".join)
def test_every_key_is_checked(path):
    "Misspelt: named, with the key that is known. Of another kind: named with what it is"

    def misspell(part, name):
        part[name + "x"] = part.pop(name)

    with pytest.raises(ValueError, match=rf"{path[-1]}x is unknown, \S*{path[-1]} is known"):
        from_json(Plan, changed(PLAN, path, misspell))
    for wrong in ([], None, object):
        if wrong is object:
            wrong = 5 if isinstance(getattr_path(path), (str, dict)) else "five"

        def put(part, name, wrong=wrong):
            part[name] = wrong

        with pytest.raises(ValueError, match=path[-1]) as e:
            from_json(Plan, changed(PLAN, path, put))
        assert "\n" not in str(e.value) and len(str(e.value)) < 150


def getattr_path(path):
    "A part of the laptop's plan"
    part = PLAN
    for name in path:
        part = part[name]
    return part


def test_a_switch_that_no_model_has_is_one_line(base):
    write_plan(run_dir("odd"), replace(SMOKE, switches=dict(smeer=True)))
    with pytest.raises(UserError, match="smeer"):
        model_config(read_plan(run_dir("odd")))


def test_tokens_of_a_folder_are_estimated_well(tmp_path, base):
    "By a tokenizer of its first megabyte, against the tokenizer that the run will have"
    from nanochat.tokenizer import Tokenizer

    stream = Corpus("world").documents(start=6000)
    texts = [next(stream) for _ in range(6000)]
    (tmp_path / "book.txt").write_text("\n\n".join(texts))
    corpus = Corpus(str(tmp_path))
    learned = list(corpus.documents(epochs=1))
    for vocab_size in (300, 1024):
        tok = Tokenizer.train(learned, vocab_size)
        exact = sum(len(tok.encode(text)) + 1 for text in learned)
        assert count_tokens(corpus, vocab_size) == pytest.approx(exact, rel=0.05), vocab_size


def test_no_function_takes_a_settings_dict():
    "What was carried as a dict with string keys is a `Plan`, a `Stage`, a `Corpus` or a `Run`"
    for path in sorted((ROOT / "nanochat").glob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name != "open_run":
                for arg in (*node.args.args, *node.args.kwonlyargs):
                    is_dict = isinstance(arg.annotation, ast.Name) and arg.annotation.id == "dict"
                    vague = arg.arg in ("settings", "plan") and arg.annotation is None
                    named = arg.arg in ("s", "settings", "cfg", "config", "plan")
                    assert not (named and is_dict or vague), f"{path.name}: {node.name}({arg.arg})"
            keys = ("base", "mid", "sft", "rl", "corpus", "seed", "depth", "seq_len", "vocab_size", "eval_n")
            if (
                isinstance(node, ast.Subscript)
                and isinstance(node.slice, ast.Constant)
                and node.slice.value in keys
            ):
                carrier = ast.unparse(node.value)
                assert carrier not in ("s", "cfg", "plan", "self.s"), (
                    f"{path.name}:{node.lineno}: {ast.unparse(node)}"
                )


def test_who_says_how_many_steps_gets_them(tmp_path):
    (tmp_path / "a.txt").write_text("The old miller walked to the market.\n\n" * 3000)
    short = make_plan("laptop", corpus=str(tmp_path))
    asked = make_plan("laptop", corpus=str(tmp_path), num_iterations=5000)
    assert short.base.steps < short.base.planned_steps == LAPTOP.base.steps
    assert (asked.base.steps, asked.base.planned_steps) == (5000, 0)


@pytest.mark.parametrize("seq_len", [128, 1024, 4096])
def test_windows_keep_their_share_of_a_row(seq_len):
    "A quarter of it, as in nanochat's recipe of 2026, whoever decides how long rows are"
    scale = plan_tier("full", seq_len=seq_len)
    config = RECIPES["2026"].sized(seq_len, 32_768).config(24)
    small = with_rows(replace(LAPTOP, switches=dict(LAPTOP.switches, window=64)), seq_len)
    for plan in (small, recipe_plan(scale), shrink(recipe_plan(scale))):
        assert plan.switches["window"] == plan.seq_len // 4 == model_config(plan).window
    assert config.window == seq_len // 4 and scale.params == all_params(config)
    assert make_plan("laptop", seq_len=seq_len).switches == LAPTOP.switches, "without windows none are made"


def test_a_task_that_there_is_not_is_one_line():
    from nanochat.sft import mixture

    plan = replace(SMOKE, mid=replace(SMOKE.mid, mix=dict(sums=1, poems=2)))
    with pytest.raises(UserError, match="mid.mix holds poems, which is no task: there are .*spelling") as e:
        mixture(None, plan, "mid")
    assert "\n" not in str(e.value)


ODD = {
    "a share above 1": ("warmdown", "base", 5),
    "another": ("final", "sft", 2),
    "a rate beyond floats": ("lr_scale", "mid", 10**400),
    "steps without end": ("steps", "base", 10**30),
}


@pytest.mark.parametrize("name", ODD)
def test_numbers_beyond_all_sense_are_refused(base, name):
    key, stage, value = ODD[name]
    said = asdict(SMOKE)
    said[stage][key] = value
    write_sealed(run_dir("odd") / "settings.json", said)
    with pytest.raises(Damaged, match=f"{stage}.{key} is .* more than") as e:
        read_plan(run_dir("odd"))
    assert "\n" not in str(e.value)


def test_more_odd_plans(base):
    for change in (
        dict(seed=2**64),
        dict(depth=2**70),
        dict(sft=asdict(SMOKE.sft) | dict(mix=dict(talk=1e308, sums=1e308))),
    ):
        write_sealed(run_dir("odd") / "settings.json", asdict(SMOKE) | change)
        with pytest.raises(Damaged):
            read_plan(run_dir("odd"))
    write_sealed(run_dir("odd") / "settings.json", asdict(SMOKE) | {"ev\x1b[2J\nil": 1})
    with pytest.raises(Damaged) as e:
        read_plan(run_dir("odd"))
    assert "\n" not in str(e.value) and "\x1b" not in str(e.value)


@pytest.mark.parametrize(
    "switches",
    [
        dict(vocab_size=300),
        dict(n_embd=64),
        dict(n_layer="two"),
        dict(softcap="x"),
        dict(value_embeds="no"),
        dict(smear=1),
        dict(n_kv_head=0),
        dict(moons=2),
    ],
    ids=str,
)
def test_switches_that_no_model_has_are_refused(switches):
    with pytest.raises(UserError) as e:
        model_config(replace(SMOKE, switches=SMOKE.switches | switches))
    assert next(iter(switches)) in str(e.value) and "\n" not in str(e.value)


def test_how_often_a_small_folder_is_read_is_said_as_it_is(base, tmp_path):
    "100 steps are the fewest: a tiny folder is read more than four times, and the plan says so"
    (tmp_path / "a.txt").write_text("\n\n".join(f"Page {i} of a very small book." * 4 for i in range(60)))
    plan = make_plan("laptop", corpus=str(tmp_path))
    n_tokens = count_tokens(Corpus(str(tmp_path), 0), plan.vocab_size)
    assert plan.base.planned_steps and plan.tokens("base") > 5 * n_tokens
    assert "4 times or more" in describe(plan) and "4 times, and" not in describe(plan)


# --- the runs that a recipe makes ---


@pytest.mark.parametrize("recipe", ["2025", "2026"])
@pytest.mark.parametrize("gpus", [1, 4, 8])
def test_a_recipes_run_is_the_same_on_any_number_of_gpus(base, recipe, gpus):
    "Only what a GPU computes at once may differ, and a later start may bring another number of them"
    for small in (lambda plan: plan, shrink):
        plan, eight = (small(recipe_plan(plan_tier("full", recipe, gpus=n))) for n in (gpus, 8))
        assert from_json(Plan, json.loads(json.dumps(asdict(plan)))) == plan
        stages = ("base", "mid", "sft", "rl")
        alike = {name: replace(plan.stage(name), device_rows=1, save_every=1) for name in stages}
        others = {name: replace(eight.stage(name), device_rows=1, save_every=1) for name in stages}
        for stages in (alike, others):
            stages["rl"] = replace(stages["rl"], answer_rows=0)
        assert replace(plan, gpus=1, **alike) == replace(eight, gpus=1, **others)
    write_plan(run_dir("one"), plan)
    assert open_run("one", gpus=2, card="a100", recipe=recipe).plan == plan
    with pytest.raises(UserError, match="was made with recipe"):
        open_run("one", recipe={"2025": "2026", "2026": "2025"}[recipe])


def test_the_optimizer_of_a_plan_is_its_recipes(base):
    "Rates by the batch, decay by batch and length, kinds and drift by the table"
    import torch
    from nanochat.optim import NANOCHAT_2026
    from nanochat.pretrain import new_model, new_optimizer, set_rates, table_of
    from nanochat.scaling import RECIPES

    large, full = recipe_plan(plan_tier("full")).base, RECIPES["2026"]
    assert large.matrix_lr == pytest.approx(2**0.5 * NANOCHAT_2026.matrix_lr)
    assert large.weight_decay == pytest.approx(full.decay(24))
    plan = shrink(recipe_plan(plan_tier("full")))
    factor = (plan.base.rows * plan.seq_len / 2**20) ** 0.5  # the recipe's rule for another batch
    opt = new_optimizer(new_model(plan, "cpu", torch.float32), plan.base)
    found = {group["of"]: group for group in opt.groups}
    assert found["matrices"]["base_lr"] == pytest.approx(factor * large.matrix_lr)
    assert found["matrices"]["weight_decay"] == pytest.approx(factor * large.weight_decay)
    assert found["matrices"]["cautious"]
    assert found["gates"]["kind"] == "muon" and found["value tables"]["weight_decay"] == 0.01
    drift = table_of(plan.base).drift
    set_rates(opt, 0, plan.base, drift)
    assert found["matrices"]["momentum"] == pytest.approx(0.85, abs=0.01)
    assert found["matrices"]["lr"] == pytest.approx(found["matrices"]["base_lr"] / 4)
    set_rates(opt, plan.base.steps - 1, plan.base, drift)
    assert found["matrices"]["weight_decay"] < 0.01 * factor * large.weight_decay
    assert found["value tables"]["weight_decay"] == 0.01, "only Muon's decay fades"
    with pytest.raises(UserError, match="base.table is 'moon', and there are course, 2026"):
        table_of(replace(plan.base, table="moon"))


def test_todays_tiers_train_as_before():
    "A table and a drift have names now; what they say of the laptop tier is what its code said"
    import torch
    from nanochat.distributed import param_groups
    from nanochat.pretrain import new_model, new_optimizer, set_rates

    model = new_model(SMOKE, "cpu", torch.float32)
    base = SMOKE.base
    old = param_groups(model, base.matrix_lr, base.embed_lr, base.head_lr)
    opt = new_optimizer(model, base)
    for was, now in zip(old, opt.groups):
        for name in ("names", "lr", "weight_decay", "kind", "of"):
            assert was[name] == now[name]
    for step in (0, 7, 30, 59):
        set_rates(opt, step, base)
        muon = [group for group in opt.groups if group["kind"] == "muon"]
        assert {group["weight_decay"] for group in muon} == {0.0}
        was = 0.85 + 0.1 * min((step + 1) / 100, 1)
        assert {torch.tensor(group["momentum"]).item() for group in muon} == {torch.tensor(was).item()}


def test_a_rehearsal_of_another_depth_goes_on(base):
    "In miniature it has other sizes than those that were asked for, and the same command must find it"
    given = dict(tier="full", recipe="2025", depth=26, vocab_size=4096, compile="off", rehearse=True)
    run = open_run(**given)
    assert run.folder.name == "full-2025-d26-s0" and run.plan.depth == 6
    assert open_run(**given).plan == run.plan
    with pytest.raises(UserError, match="was made with seed 0, now 1"):
        open_run("full-2025-d26-s0", seed=1)


def test_a_plan_for_another_card_is_refused_before_anything_is_made(base, monkeypatch):
    import torch
    from types import SimpleNamespace

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    room = SimpleNamespace(name="NVIDIA GeForce RTX 4090", total_memory=24e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: room)
    for given, words in (
        (
            dict(tier="gpu", card="h100"),
            "for card h100 with 80 GB, and the GPU here has 24 GB: give --card, one of h100",
        ),
        (dict(tier="full", card="4090", depth=4), "has 1 GPU: give --gpus 1, which trains the same model"),
        (dict(tier="gpu", card="3070", depth=24), "even with one row at once, too much for a 3070"),
    ):
        with pytest.raises(UserError, match=words):
            open_run(**given)
    assert not base.exists()


def test_without_its_gpu_a_run_does_not_go_on_by_itself(base, monkeypatch):
    from nanochat.runtime import find_run

    monkeypatch.delenv("NANOCHAT_DEVICE", raising=False)
    write_plan(run_dir("big"), recipe_plan(plan_tier("gpu", card="t4")))
    with pytest.raises(UserError, match="planned for 1 x t4, and this machine shows no GPU"):
        with find_run("big", "cpu").at_work():
            pass
    monkeypatch.setenv("NANOCHAT_DEVICE", "cpu")
    with find_run("big").at_work() as run:
        assert run.plan.dtype == "float16"


@pytest.mark.parametrize("card", ["h100", "t4", "mps"])
def test_checkpoints_are_minutes_apart_and_in_every_stage(card):
    plan = recipe_plan(plan_tier("gpu", card=card))
    for name in ("base", "mid", "sft"):
        stage = plan.stage(name)
        assert 1 <= stage.save_every <= stage.steps
    assert plan.base.save_every < plan.base.steps / 8


def test_a_cap_on_ratios_is_a_part_of_the_plan(base):
    "Truncated importance sampling changes a run's numbers, so it is settled when the run is made"
    opened = open_run("capped", "cpu", tier="smoke", ratio_cap=2)
    assert read_plan(opened.folder).rl.ratio_cap == 2.0
    assert "a token weighs 2 at most" in describe(opened.plan)
    assert open_run("capped", "cpu").plan == opened.plan
    with pytest.raises(UserError, match=r"ratio_cap 2.0, now 3.0"):
        open_run("capped", "cpu", ratio_cap=3.0)
    assert make_plan("full", ratio_cap=1.5, rehearse=True).rl.ratio_cap == 1.5
    with pytest.raises(UserError, match="from 1"):
        make_plan("smoke", ratio_cap=0.5)
    with pytest.raises(UserError, match="only pretrained"):
        make_plan("smoke", ratio_cap=2, model="baseline")
