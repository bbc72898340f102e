"""After pretraining: conversations that stay whole, and a reinforcement that is the same from any number of
processes and moves nothing where nothing was learned"""

import copy, gzip, json, math, random, shutil
from dataclasses import replace
from itertools import islice
import pytest, torch
from hypothesis import given, settings, strategies as st
import warm
from conftest import Run, lines_of, run_module, warmly
from nanochat import chat, grpo, loader, sft, tasks
from nanochat.chat import signed
from nanochat.distributed import MuonAdamW, param_groups
from nanochat.engine import Engine
from nanochat.gpt import GPT, GPTConfig, MODERN
from nanochat.loader import Lanes, to_batch
from nanochat.pretrain import Training, new_model, save_checkpoint, start_stage
from nanochat.runs import RLStage, UserError, read_plan, write_plan
from nanochat.runtime import Run as AtWork, seed_all
from nanochat.scaling import make_plan
from nanochat.tokenizer import Tokenizer
from nanochat.world import World

# ---- a game small enough for a test: which of two digits is larger? ----


class Larger:
    "Items, rewards and the length of an answer"

    max_tokens = 4

    def train_item(self, rng):
        a, b = rng.sample(range(10), 2)
        return dict(question=f"{a} or {b}?", answer=str(max(a, b)))

    def prompt(self, item):
        return [dict(role="user", content=item["question"])]

    def right(self, item, text):
        return text == item["answer"]


class Pays(Larger):
    "The same game; every answer earns what `reward` says"

    def __init__(self, reward):
        self.reward = reward

    def right(self, item, text):
        return self.reward(text)


@pytest.fixture(scope="module")
def tok():
    return Tokenizer.train(["3 or 7?", "7"], 265)


@pytest.fixture(scope="module")
def teacher(tok):
    "A model that knows the form of an answer and names either digit"
    seed_all(0)
    model = GPT(
        GPTConfig(
            vocab_size=tok.vocab_size, seq_len=32, n_layer=2, n_embd=64, n_head=2, n_kv_head=2, **MODERN
        )
    )
    opt, rng = MuonAdamW(param_groups(model)), random.Random(0)
    for _ in range(60):
        talks = [
            [*task.prompt(it), dict(role="assistant", content=it["question"][rng.choice((0, 5))])]
            for task in [Larger()]
            for it in [task.train_item(rng) for _ in range(64)]
        ]
        rows = [[tok.bos, *signed(tok, talk)] for talk in talks]
        model(*to_batch(rows, max(map(len, rows)))).backward()
        opt.step()
        opt.zero_grad()
    return model


STAGE = RLStage(steps=3, save_every=1, prompts=8, samples=4, lr_scale=1.0, device_rows=16)


def step(model, opt, tok, task, number=0, **stage):
    return grpo.rl_step(
        Engine(model, max_rows=64), model, opt, tok, task, replace(STAGE, **stage), seed=0, step=number
    )


def everything(model, opt):
    "All weights and all of the optimizer's state"
    return {
        k: v.clone()
        for k, v in {**model.state_dict(), **{f"opt.{k}": v for k, v in opt.state_tensors().items()}}.items()
    }


# ---- groups that agree ----


@pytest.mark.parametrize("reward", [0.0, 0.1, 0.2, 0.3, 0.7, 1.0, 1 / 3, -2.6, 1e-30, 1e30])
def test_equal_rewards_have_no_advantage_at_all(reward):
    for samples in range(2, 33):
        assert not grpo.advantages(torch.full((3, samples), reward)).any(), (reward, samples)


def test_advantages_of_mixed_groups_are_what_they_were():
    rewards = torch.tensor([[1.0, 0, 0, 0], [0.2, 0.2, 0.2, 0.2], [0.1, 0.2, 0.3, 0.7]])
    got = grpo.advantages(rewards)
    torch.testing.assert_close(got[0], torch.tensor([0.75, -0.25, -0.25, -0.25]))
    torch.testing.assert_close(got[2], rewards[2] - rewards[2].mean())
    assert not got[1].any()


@pytest.mark.parametrize("samples", [2, 7, 8, 12])
@pytest.mark.parametrize("reward", [0.1, 0.2, 0.3, 0.7])
def test_a_step_in_which_no_group_is_mixed_moves_nothing(teacher, tok, reward, samples):
    "Neither weights, nor momentum, nor decay: even where earlier steps left a momentum behind"
    model = copy.deepcopy(teacher)
    opt = MuonAdamW(param_groups(model, weight_decay=0.1))
    first = step(model, opt, tok, Larger())
    assert first["mixed"] > 0 and opt.t == 1
    before = everything(model, opt)

    class Agrees(Pays):  # cut off or not: all earn the same
        max_tokens = 12

    engine = Engine(model, max_rows=64)
    real = engine.generate

    def ended(*args, **kwargs):
        rows = real(*args, **kwargs)
        for row in rows:
            row.reason = "stop"
        return rows

    engine.generate = ended
    out = grpo.rl_step(
        engine, model, opt, tok, Agrees(lambda text: reward), replace(STAGE, samples=samples), seed=0, step=1
    )
    assert out["mixed"] == 0 and out["loss"] == 0 and opt.t == 1
    assert out["reward"] == pytest.approx(reward)
    after = everything(model, opt)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(p.grad is None for p in model.parameters())


def test_mixed_counts_groups_with_fractional_rewards_too(teacher, tok):
    model = copy.deepcopy(teacher)
    out = step(model, MuonAdamW(param_groups(model)), tok, Pays(lambda text: 0.2 if text == "7" else 0.3))
    assert 0 < out["mixed"] <= 1 and out["mixed"] * STAGE.prompts == int(out["mixed"] * STAGE.prompts)


@pytest.mark.parametrize(
    "reward", [math.nan, math.inf, -math.inf, 1e300, None, "much", torch.tensor(math.nan)], ids=str
)
def test_a_reward_that_is_no_number_is_refused_with_its_question(teacher, tok, reward):
    model = copy.deepcopy(teacher)
    opt = MuonAdamW(param_groups(model))
    with pytest.raises(UserError) as e:
        step(model, opt, tok, Pays(lambda text: reward))
    question = grpo.questions(Larger(), 1, 0, 0)[0]["question"]
    assert question in str(e.value) and "\n" not in str(e.value) and "finite" in str(e.value)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), teacher.state_dict().values()))


def test_a_loss_that_is_no_number_moves_nothing(teacher, tok):
    "Rewards at the end of what float32 holds: each is finite, and their sum is not"
    model = copy.deepcopy(teacher)
    opt = MuonAdamW(param_groups(model))
    with pytest.raises(UserError, match="the loss of step 1 is"):
        step(model, opt, tok, Pays(lambda text: 3e38 if text > "4" else 2e38))
    assert opt.t == 0 and all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), teacher.state_dict().values())
    )


def test_questions_of_several_lines_are_named_in_one(teacher, tok):
    class Lines(Pays):
        def prompt(self, item):
            return [dict(role="user", content="which?\n" + item["question"])]

    with pytest.raises(UserError) as e:
        step(copy.deepcopy(teacher), None, tok, Lines(lambda text: math.nan))
    assert "\n" not in str(e.value) and "which?" in str(e.value)


# ---- one limit, one set of ends, one temperature ----


def asked(monkeypatch):
    "What is asked of every engine from now on"
    calls, real = [], Engine.generate

    def generate(
        self, prompts, num_samples=1, max_tokens=256, temperature=0.0, seed=0, stop_ids=(), *args, **kwargs
    ):
        calls.append(dict(max_tokens=max_tokens, temperature=temperature, stop_ids=set(stop_ids)))
        return real(self, prompts, num_samples, max_tokens, temperature, seed, stop_ids, *args, **kwargs)

    monkeypatch.setattr(Engine, "generate", generate)
    return calls


@pytest.mark.parametrize("limit", [1, 3, 110])
def test_answers_may_be_as_long_as_in_the_exam(teacher, tok, monkeypatch, limit):
    class Limited(Larger):
        max_tokens = limit

    calls, model = asked(monkeypatch), copy.deepcopy(teacher)
    out = step(model, MuonAdamW(param_groups(model)), tok, Limited())
    assert [c["max_tokens"] for c in calls] == [limit] and out["length"] <= limit
    assert out["cut"] == 1 if limit == 1 else 0 <= out["cut"] < 1


def test_exam_and_practice_of_word_problems_have_one_limit(tok, teacher, monkeypatch):
    task, model = tasks.world_tasks(make_plan("smoke"))["word_problems"], copy.deepcopy(teacher)
    engine = Engine(model, max_rows=8, max_len=1000)
    engine.model.cos, engine.model.sin = (torch.ones(1000, *t.shape[1:]) for t in (model.cos, model.sin))
    engine.max_len = 1000
    calls = asked(monkeypatch)
    grpo.rl_step(
        engine,
        model,
        MuonAdamW(param_groups(model)),
        tok,
        task,
        replace(STAGE, prompts=1, samples=2),
        seed=0,
        step=0,
    )
    tasks.task_exam(model, engine, tok, task, 2)
    assert [c["max_tokens"] for c in calls] == [task.max_tokens] * 2


def test_answers_end_in_practice_as_they_do_in_a_talk(teacher, tok, monkeypatch):
    calls, model = asked(monkeypatch), copy.deepcopy(teacher)
    step(model, MuonAdamW(param_groups(model)), tok, Larger())
    ends = set(chat.stop_ids(tok))
    assert ends == {tok.special("<|assistant_end|>"), tok.special("<|user_start|>"), tok.bos}
    assert calls[0]["stop_ids"] == ends == set(chat.Conversation(Engine(model), tok).stops)


def test_a_plan_has_no_other_temperature():
    from dataclasses import asdict
    from nanochat.runs import Plan, from_json

    said = asdict(make_plan("smoke"))
    said["rl"]["temperature"] = 0.7
    with pytest.raises(ValueError, match="rl.temperature is unknown"):
        from_json(Plan, said)


def test_cut_answers_are_pushed_down_or_left_out(teacher, tok):
    "In one group: two right answers, one wrong, one cut off"
    rewards, ended = (
        torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]),
        torch.tensor([[True] * 3 + [False], [True, True, False, False]]),
    )
    torch.testing.assert_close(grpo.advantages(rewards)[0], torch.tensor([0.5, 0.5, -0.5, -0.5]))
    left_out = grpo.advantages(rewards, ended)
    torch.testing.assert_close(left_out[0], torch.tensor([1 / 3, 1 / 3, -2 / 3, 0.0]))
    assert not left_out[1].any(), "those that ended agree"
    assert grpo.mixed_groups(rewards, ended).tolist() == [True, False]
    assert not grpo.mixed_groups(rewards, torch.zeros(2, 4, dtype=torch.bool)).any()


def test_a_step_of_cut_answers_only_moves_nothing_where_they_are_left_out(teacher, tok):
    class Limited(Larger):
        max_tokens = 1

    model = copy.deepcopy(teacher)
    opt = MuonAdamW(param_groups(model))
    out = step(model, opt, tok, Limited(), mask_cut=True)
    assert out["cut"] == 1 and out["mixed"] == 0 and opt.t == 0


# ---- engine and trainer on one token ----


def forcing(tok):
    "A tool that speaks nothing, three ids or six after the first of the model's own"
    seen = []

    def hook(i):
        seen.append(i)
        return tok.encode(" or") * (i % 3) if len(seen) == 1 else None

    return hook


class Longer(Larger):
    max_tokens = 8

    def right(self, item, text):
        return text.startswith(item["answer"])


def rolled(model, tok):
    "Answers of one model, of several lengths, many of them interrupted by a tool; their advantages"
    items = grpo.questions(Longer(), 6, 0, 0)
    rows, rewards = grpo.rollout(Engine(model, max_rows=7), tok, Longer(), items, 4, 8, seed=1)
    return rows, grpo.advantages(rewards).flatten()


def gradient(model, work):
    "What some work returns, and the gradient that it leaves"
    model.zero_grad()
    out = work()
    return out, {name: weight.grad.clone() for name, weight in model.named_parameters()}


def weighed(model, rows, adv_B, device_rows, weigh):
    "A step written down plainly; `weigh` gives the weight of each token from its log-probability and its row"
    keep = [i for i, advantage in enumerate(adv_B.tolist()) if advantage != 0]
    keep.sort(key=lambda i: len(rows[i].prompt) + len(rows[i].ids))
    n_tokens, total = sum(sum(row.sampled) for row in rows), 0.0
    for at in range(0, len(keep), device_rows):
        part = keep[at : at + device_rows]
        signed_rows = [grpo.signed_row(rows[i]) for i in part]
        ids_BT, targets_BT = to_batch(signed_rows, max(map(len, signed_rows)))
        logp_BT = -model(ids_BT, targets_BT, reduction="none")
        weight_BT = (targets_BT >= 0).float()
        for k, i in enumerate(part):
            for t, noted in enumerate(rows[i].logp, len(rows[i].prompt) - 1):
                if noted is not None:
                    weight_BT[k, t] = weigh(logp_BT[k, t].item(), noted)
        loss = -(adv_B[part][:, None] * logp_BT * weight_BT).sum() / n_tokens
        loss.backward()
        total += loss.item()
    return total


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.setattr(grpo, "ToolUse", forcing)


def test_in_float32_engine_and_trainer_agree(teacher, tok, tool):
    model = copy.deepcopy(teacher)
    rows, adv_B = rolled(model, tok)
    assert not all(all(row.sampled) for row in rows) and {row.reason for row in rows} == {"stop", "length"}
    _, gaps_N = grpo.grpo_step(model, rows, adv_B, 5)
    assert len(gaps_N) == sum(sum(row.sampled) for row, advantage in zip(rows, adv_B) if advantage != 0)
    assert gaps_N.max() < 1e-4
    out = step(model, MuonAdamW(param_groups(model)), tok, Longer())
    assert out["mixed"] > 0 and 0 <= out["gap"] <= out["gap_max"] < 1e-4


def test_the_gap_is_seen_in_bfloat16_and_where_the_engine_has_other_weights(teacher, tok, tool):
    half = copy.deepcopy(teacher)
    half.dtype = torch.bfloat16
    out = step(half, MuonAdamW(param_groups(half)), tok, Longer())
    print(f"bfloat16: gap {out['gap']:.4f}, the largest {out['gap_max']:.3f} nats")
    assert 2e-5 < out["gap"] < 0.1 and out["gap"] < out["gap_max"] < 1
    moved = copy.deepcopy(teacher)
    with torch.no_grad():
        moved.lm_head.weight.mul_(1.5)
    stale = Engine(teacher, max_rows=64)
    out = grpo.rl_step(stale, moved, MuonAdamW(param_groups(moved)), tok, Longer(), STAGE, seed=0, step=0)
    assert out["gap"] > 0.01 and out["gap_max"] > 0.1


def test_a_step_in_which_nothing_is_read_has_no_gap(teacher, tok):
    model = copy.deepcopy(teacher)
    out = step(model, MuonAdamW(param_groups(model)), tok, Pays(lambda text: 0.0))
    assert out["mixed"] == 0 and out["gap"] == out["gap_max"] == 0


def test_without_a_cap_a_step_is_bit_for_bit_what_it_was(teacher, tok, tool):
    model = copy.deepcopy(teacher)
    rows, adv_B = rolled(model, tok)
    want, want_grad = gradient(model, lambda: weighed(model, rows, adv_B, 5, lambda logp, noted: 1.0))
    (loss, _), grad = gradient(model, lambda: grpo.grpo_step(model, rows, adv_B, 5))
    assert STAGE.ratio_cap == 0, "which is the default"
    assert loss == want and all(torch.equal(grad[name], want_grad[name]) for name in want_grad)


def test_capped_ratios_by_hand():
    "Trainer 0.3, 0.1, 0.9, engine 0.2 each: ratios 1.5, 0.5 and 4.5; two answers with advantages 1 and -2"
    trainer, drew = torch.tensor([0.3, 0.1, 0.9]), torch.full((3,), 0.2)
    weights = grpo.capped_ratio(trainer.log() - drew.log(), 2.0)
    torch.testing.assert_close(weights, torch.tensor([1.5, 0.5, 2.0]))
    logp_BT = torch.tensor([[0.3, 0.1], [0.9, 0.5]]).log().requires_grad_()
    mask_BT = torch.tensor([[weights[0], weights[1]], [weights[2], 0.0]])
    loss = grpo.policy_loss(logp_BT, mask_BT, torch.tensor([1.0, -2.0]), 3)
    by_hand = -(1.5 * math.log(0.3) + 0.5 * math.log(0.1) - 2 * 2 * math.log(0.9)) / 3
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    loss.backward()
    torch.testing.assert_close(logp_BT.grad, torch.tensor([[-0.5, -0.5 / 3], [4 / 3, 0.0]]))
    assert grpo.capped_ratio(torch.tensor([1e4, -1e4]), 2.0).tolist() == [2.0, 0.0]  # no infinity


def test_with_a_cap_tokens_weigh_what_engine_and_trainer_say(teacher, tok, tool):
    model = copy.deepcopy(teacher)
    rows, adv_B = rolled(model, tok)
    with torch.no_grad():
        head = model.lm_head.weight  # the trainer's weights are no longer the engine's
        head.add_(torch.randn(head.shape, generator=torch.Generator().manual_seed(0)) * head.std())
    seen = []

    def weigh(logp, noted):
        seen.append(math.exp(logp - noted))
        return min(seen[-1], 1.1)

    want, want_grad = gradient(model, lambda: weighed(model, rows, adv_B, 5, weigh))
    assert min(seen) < 0.9 and max(seen) > 1.1, "some are cut, some are not"
    (loss, _), grad = gradient(model, lambda: grpo.grpo_step(model, rows, adv_B, 5, ratio_cap=1.1))
    assert loss == pytest.approx(want, rel=1e-4)
    torch.testing.assert_close(grad, want_grad, atol=1e-6, rtol=1e-3)


def test_where_engine_and_trainer_agree_a_cap_changes_nothing(teacher, tok, tool):
    model = copy.deepcopy(teacher)
    rows, adv_B = rolled(model, tok)
    for row in rows:  # noted is what the trainer finds for the row alone, so the ratio is 1 to the last bit
        signed_rows = [grpo.signed_row(row)]
        ids_BT, targets_BT = to_batch(signed_rows, len(signed_rows[0]))
        logp_T = -model(ids_BT, targets_BT, reduction="none").detach()[0]
        at = len(row.prompt) - 1
        row.logp = [logp_T[at + k].item() if own else None for k, own in enumerate(row.sampled)]
    (want, gaps_N), want_grad = gradient(model, lambda: grpo.grpo_step(model, rows, adv_B, 1))
    (loss, _), grad = gradient(model, lambda: grpo.grpo_step(model, rows, adv_B, 1, ratio_cap=2.0))
    assert not gaps_N.any()
    assert loss == want and all(torch.equal(grad[name], want_grad[name]) for name in want_grad)


def test_the_stage_hands_its_cap_to_the_step(teacher, tok, monkeypatch):
    calls, real = [], grpo.capped_ratio
    monkeypatch.setattr(grpo, "capped_ratio", lambda *args: calls.append(args[1]) or real(*args))
    for cap in (0.0, 1.5):
        model = copy.deepcopy(teacher)
        step(model, MuonAdamW(param_groups(model)), tok, Larger(), ratio_cap=cap)
    assert calls and set(calls) == {1.5}


# ---- questions that do not fit ----


class Mixed(Larger):
    "One question in three is longer than any row"

    def train_item(self, rng):
        item = super().train_item(rng)
        return dict(item, question="x" * 200 + item["question"]) if rng.random() < 1 / 3 else item


def test_questions_that_do_not_fit_are_passed_over_and_counted(teacher, tok):
    model = copy.deepcopy(teacher)
    engine, opt = Engine(model, max_rows=64), MuonAdamW(param_groups(model))
    found, too_long = grpo.fitting_questions(Mixed(), tok, 8, 0, 0, engine.max_len)
    plain = [it for it in grpo.questions(Mixed(), 8 + too_long, 0, 0) if "x" not in it["question"]]
    assert found == plain and too_long > 0, "the first that fit, in their order"
    out = step(model, opt, tok, Mixed())
    assert out["too_long"] == too_long and opt.t == 1


def test_one_that_fits_is_asked_in_turn_and_none_is_one_clear_line(tok):
    class Rare(Larger):
        def __init__(self, one_in):
            self.one_in, self.n = one_in, 0

        def train_item(self, rng):
            self.n += 1
            return dict(
                super().train_item(rng), question="1 or 2?" if self.n % self.one_in == 0 else "y" * 99
            )

    found, too_long = grpo.fitting_questions(Rare(350), tok, 4, 0, 0, 64)
    assert [it["question"] for it in found] == ["1 or 2?"] * 4 and too_long == 399
    with pytest.raises(UserError, match="none of 400 questions fits") as e:
        grpo.fitting_questions(Rare(1000), tok, 4, 0, 0, 64)
    assert "seq_len" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.slow
def test_the_smoke_tier_with_short_rows_of_bytes_is_reinforced(tmp_path):
    run = Run(tmp_path, "short")
    run_module(
        "pretrain",
        "--run",
        run.name,
        "--tier",
        "smoke",
        "--seq_len",
        64,
        "--vocab_size",
        265,
        "--num_iterations",
        2,
        "--dtype",
        "float32",
        base=tmp_path,
    )
    run.change(**{stage: dict(steps=2, save_every=2) for stage in ("mid", "sft", "rl")})
    for stage in ("mid", "sft"):
        said = run.train(stage).stderr
        talks = json.loads((run.dir / "results" / f"{stage}.json").read_text())["conversations"]
        assert talks["left_out"] > 0 and f"cut: {talks['cut']:,} of {talks['taken']:,} conversations" in said
    said = run.train("rl").stderr
    assert "do not fit" in said and [l["step"] for l in lines_of(run.dir, "rl")] == [1, 2]
    assert all(l["too_long"] > 0 for l in lines_of(run.dir, "rl"))
    byte_level = Tokenizer.train(["a"], 265)  # and where nothing fits at all
    with pytest.raises(UserError, match="none of .* questions fits"):
        grpo.fitting_questions(
            tasks.world_tasks(read_plan(run.dir))["word_problems"], byte_level, 4, 0, 0, 64
        )


# ---- the same from any number of processes ----


def test_shares_of_the_questions_draw_the_answers_of_the_whole(teacher, tok):
    items, engine = grpo.questions(Larger(), 8, 0, 0), Engine(teacher.eval(), max_rows=64)
    whole, rewards = grpo.rollout(engine, tok, Larger(), items, 4, 4, seed=5)
    for world in (2, 4, 8):
        n = 8 // world
        parts = [
            grpo.rollout(engine, tok, Larger(), items[k : k + n], 4, 4, seed=5, first=k)
            for k in range(0, 8, n)
        ]
        assert [row.ids for rows, _ in parts for row in rows] == [row.ids for row in whole]
        assert torch.equal(torch.cat([r for _, r in parts]), rewards)


NOTED = """
import json, os, sys, torch
from pathlib import Path
from nanochat import grpo, tasks
from nanochat.runs import rank

# on the smoke tier no word problem is solved yet; a reward that many answers earn in part moves the model
tasks.WordProblems.right = lambda self, item, text: len(text) % 3 / 3
tasks.WordProblems.max_tokens, tasks.WordProblems.must_end = 32, False
notes, calls = Path(sys.argv.pop(1)), dict(rollout=0, grpo_step=0)
# in which call of a function memory is too small, in process 1
short = json.loads(os.environ.get("SHORT", "{}")) if rank() == 1 else {}

def watched(name):
    real = getattr(grpo, name)

    def work(*args, **kwargs):
        calls[name] += 1
        if calls[name] == short.get(name):
            raise torch.OutOfMemoryError("out of memory (injected)")
        out = real(*args, **kwargs)
        if name == "rollout":
            with open(notes/f"{rank()}.jsonl", "a") as f:
                f.write(json.dumps([kwargs["seed"], [row.ids for row in out[0]], out[1].tolist()])+"\\n")
        return out
    setattr(grpo, name, work)

watched("rollout")
watched("grpo_step")
grpo.main()
"""


def launch(processes, command, base, **env):
    "A Python program in one process, or in several; what it said"
    command = [warm.LAUNCH, processes, *command] if processes > 1 else command
    done = warmly(command, base, 300, env)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def in_float32(run, stage, **changes):
    "The run computes in float32 from here on, with shorter stages"
    (run.dir / "dtype.json").write_text('{"dtype": "float32", "threads": null}\n')
    run.change(**{stage: changes})
    return run


def same_weights(a, b, start, stage):
    "Equal to within a small part of what was learned"
    from safetensors.torch import load_file

    one, two, before = (load_file(p / "model.safetensors") for p in (a.last(stage), b.last(stage), start))
    moved = {k: (one[k] - before[k]).norm() for k in one}
    assert sum(m > 0 for m in moved.values()) > len(one) / 2, "it learned"
    # a single scale is left out: its slope is one sum over the whole batch, and where that nearly cancels,
    # Adam steps on its rounding
    matrices = max(((one[k] - two[k]).norm() / moved[k]).item() for k in one if one[k].ndim == 2)
    whole = sum((one[k] - two[k]).norm() ** 2 for k in one) ** 0.5 / sum(m**2 for m in moved.values()) ** 0.5
    print(
        f"{stage}: apart by {matrices:.1e} of what a matrix learned, "
        f"by {whole:.1e} of what the whole model learned"
    )
    assert matrices < 3e-2 and whole < 2e-3


def reinforced_by(processes, smoke, base, **env):
    "Three steps of reinforcement by some processes: the run, answers and rewards of each step, what was said"
    script = base / "noted.py"
    base.mkdir()
    script.write_text(NOTED)
    run = in_float32(smoke.before("rl", base), "rl", steps=3, save_every=3, prompts=8, samples=2)
    said = launch(processes, [script, base, "--run", run.name], base, **env)
    steps = {}
    for rank in range(processes):
        mine = [json.loads(line) for line in (base / f"{rank}.jsonl").open()]
        kept = {seed: (answers, rewards) for seed, answers, rewards in mine}
        assert all(kept[seed] == (answers, rewards) for seed, answers, rewards in mine), "twice the same"
        for seed, (answers, rewards) in kept.items():
            both = steps.setdefault(seed, ([], []))
            both[0].extend(answers)
            both[1].extend(rewards)
    return run, steps, said


@pytest.fixture(scope="module")
def reinforced_alone(smoke, tmp_path_factory):
    return reinforced_by(1, smoke, tmp_path_factory.mktemp("alone") / "1")


@pytest.mark.slow
@pytest.mark.parametrize("processes, short", [(2, dict(rollout=2, grpo_step=3)), (8, {})])
def test_reinforcement_by_several_processes_is_that_of_one(
    smoke, reinforced_alone, tmp_path, processes, short
):
    "Also where memory is too small in one of them, once while it writes and once while it learns"
    alone, steps, _ = reinforced_alone
    run, theirs, said = reinforced_by(processes, smoke, tmp_path / "more", SHORT=json.dumps(short))
    assert theirs == steps and len(steps) == 3, "the same answers and the same rewards"
    assert said.count("memory is too small") == len(short)
    if short:
        assert "writes 4 of its answers at a time and learns from 16;" in said
        assert "writes 2 of its answers at a time and learns from 8;" in said
    one, more = (lines_of(r.dir, "rl") for r in (alone, run))
    for a, b in zip(one, more):
        exact = ("step", "tokens", "length", "mixed", "cut", "too_long")
        assert [a[k] for k in exact] == [b[k] for k in exact]
        assert a["reward"] == pytest.approx(b["reward"])
    assert [a["loss"] for a in one] == pytest.approx([b["loss"] for b in more], rel=2e-4)
    assert any(a["mixed"] > 0 for a in one)
    assert all(line["gap"] <= line["gap_max"] < 1e-4 for line in (*one, *more))
    same_weights(alone, run, smoke.last("sft"), "rl")


@pytest.mark.slow
def test_fine_tuning_by_several_processes_is_that_of_one(smoke, tmp_path):
    runs = {}
    for processes in (1, 2, 8):
        run = in_float32(smoke.before("sft", tmp_path / str(processes)), "sft", steps=3, save_every=2)
        launch(processes, ["-m", "nanochat.sft", "--stage", "sft", "--run", run.name], run.base)
        runs[processes] = run

    def found(run):
        "Its losses; where the lanes stand at the end; how many conversations were taken, cut and left out"
        losses = [line["loss"] for line in lines_of(run.dir, "sft")]
        stream = json.loads((run.last("sft") / "stream.json").read_text())
        return losses, stream, json.loads((run.dir / "results" / "sft.json").read_text())["conversations"]

    alone = runs.pop(1)
    one, lanes, talks = found(alone)
    assert len(one) == 3 and talks["taken"] > 48
    for processes, run in runs.items():
        losses, *rest = found(run)
        assert losses == pytest.approx(one, rel=2e-4) and rest == [lanes, talks], processes
        same_weights(alone, run, smoke.last("mid"), "sft")


@pytest.mark.parametrize("rows, at_once", [(24, 8), (12, 8), (8, 3), (8, 100)])
def test_a_step_of_fine_tuning_is_the_same_rows_from_1_2_and_4_processes(words, monkeypatch, rows, at_once):
    plan = make_plan("smoke")
    plan = replace(plan, sft=replace(plan.sft, rows=rows, device_rows=at_once))

    def first_step(world, rank):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(world))
        parts = []
        for ids, _, state in sft.stage_stream(words, plan, "sft"):
            parts.append(ids)
            if state is not None:
                return torch.cat(parts)  # a state comes with the last of a step

    one = first_step(1, 0)
    assert len(one) == rows
    for world in (2, 4):
        assert torch.equal(
            torch.stack([first_step(world, rank) for rank in range(world)], 1).flatten(0, 1), one
        )


def test_shares_that_cannot_be_are_one_line(words, teacher, tok, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError) as e:
        sft.stage_stream(words, make_plan("smoke"), "sft")
    assert "8" in str(e.value) and "3" in str(e.value) and "\n" not in str(e.value)
    with pytest.raises(UserError, match="8 questions a step can't be shared by 3 processes"):
        run = AtWork(None, replace(make_plan("smoke"), rl=STAGE), torch.device("cpu"))
        grpo.train_rl(run, Training(copy.deepcopy(teacher), None), tok, Larger())


# ---- conversations that stay whole ----


@pytest.fixture(scope="module")
def words():
    "A tokenizer of World's text"
    return Tokenizer.train(islice(World(0).documents(), 300), 512)


def pieces(rows, bos):
    "Rows taken apart at BOS, learned or not"
    out = []
    for row in rows:
        at = [i for i, t in enumerate(row) if t in (bos, ~bos)] + [len(row)]
        out += [row[i + 1 : j] for i, j in zip(at, at[1:])]
    return [p for p in out if p]


def starts_and_ends_well(tok, piece):
    "It opens with a user's turn and ends where an answer ends"
    return piece[0] == ~tok.special("<|user_start|>") and piece[-1] == tok.special("<|assistant_end|>")


def check_whole(tok, talks, seq_len, rows=60):
    "Fine-tuning's rows of these conversations hold whole ones, or the first turns of longer ones; the counts"
    lanes = Lanes(
        lambda k: islice(talks, k, None),
        lambda c: [signed(tok, t) for t in c],
        ~tok.bos,
        seq_len + 1,
        4,
        cut=False,
        turn_end=tok.special("<|assistant_end|>"),
    )
    got = [p for p in pieces(lanes.rows(rows), tok.bos)]
    sent = [signed(tok, t) for t in talks]
    prefixes = {
        tuple(s[:n])
        for s in sent
        for n in range(1, len(s) + 1)
        if s[n - 1] == tok.special("<|assistant_end|>")
    }
    assert got and all(starts_and_ends_well(tok, p) for p in got)
    assert all(tuple(p) in prefixes and len(p) <= seq_len for p in got)
    counts = loader.count_talks(lanes.state())
    taken = sum(s["next"] for s in lanes.state().values())
    assert counts["taken"] == taken
    return counts


def test_real_conversations_are_cut_at_the_end_of_an_answer(shared, words):
    with gzip.open(shared / "chat" / "oasst_en_100_paths.jsonl.gz", "rt") as f:
        talks = [json.loads(line)["messages"] for line in f]
    talks = [t for t in talks if t[0]["role"] == "user"]
    counts = check_whole(words, talks, 256)
    assert counts["cut"] > 0 and counts["left_out"] > 0
    assert not check_whole(words, talks, 200_000, rows=3)["cut"]


def invented(rng, turns, longest):
    "A conversation of some turns, here and there with a special token's spelling in it"
    words = ("moon", "river", "who", "the", "seven", "<|bos|>", "<|assistant_end|>")

    def text():
        return " ".join(rng.choices(words, k=rng.randint(0, longest)))

    talk = [
        dict(role=role, content=text())
        for _ in range(rng.randint(1, turns))
        for role in ("user", "assistant")
    ]
    if rng.random() < 0.3:
        talk[-1]["content"] = [
            dict(type="python", text="1+1"),
            dict(type="output", text="2"),
            dict(type="text", text=text()),
        ]
    return talk


@pytest.mark.parametrize("seq_len", [16, 33, 64, 128])
def test_invented_conversations_stay_whole(words, seq_len):
    rng = random.Random(seq_len)
    counts = check_whole(words, [invented(rng, 6, 12) for _ in range(2000)], seq_len, rows=80)
    assert counts["cut"] > 0 and counts["taken"] > counts["cut"] + counts["left_out"]


@pytest.mark.parametrize("stage", ["mid", "sft"])
@pytest.mark.parametrize("seq_len", [48, 128])
def test_no_target_of_a_stage_follows_a_bos_in_mid_conversation(words, stage, seq_len):
    plan = replace(make_plan("smoke"), seq_len=seq_len)
    stream, user, end = (
        sft.stage_stream(words, plan, stage),
        ~words.special("<|user_start|>"),
        words.special("<|assistant_end|>"),
    )
    seen = headless = 0
    for ids, targets, _ in islice(stream, 30):
        for i, t in zip(ids.tolist(), targets.tolist()):
            row = [~words.bos] + [a if b < 0 else b for a, b in zip([~x for x in i[1:]] + [-1], t)]
            for p in pieces([row], words.bos):
                if min(p) >= 0 and end not in p:
                    continue  # plain text
                learned = [x for x in p if x >= 0]
                seen += len(learned)
                if p[0] != user:
                    headless += len(learned)
    assert seen > 500 and headless == 0


def brute_force(tok, plan, stage, state):
    "What happened to the conversations that the lanes took, from the mixture itself"
    mix, n_lanes, out = sft.mixture(tok, plan, stage), len(state), dict(taken=0, cut=0, left_out=0)
    items = mix.encode(list(islice(mix(), max(l["next"] for l in state.values()) * n_lanes)))
    for lane, l in state.items():
        for ids in items[int(lane) :: n_lanes][: l["next"]]:
            if ids[0] >= 0:
                continue
            out["taken"] += 1
            ends = [
                n for n, i in enumerate(ids, 1) if i == tok.special("<|assistant_end|>") and n <= plan.seq_len
            ]
            out["left_out"] += not ends
            out["cut"] += bool(ends) and ends[-1] < len(ids)
    return out


@pytest.mark.parametrize("stage", ["mid", "sft"])
def test_the_counts_are_right_and_survive_a_stop(words, tmp_path, stage):
    plan, before = replace(make_plan("smoke", dtype="float32"), seq_len=48), sft.BEFORE[stage]
    plan = replace(plan, **{stage: replace(plan.stage(stage), steps=5, save_every=2, rows=8, device_rows=4)})
    rdir = tmp_path / "runs" / "demo"
    run = AtWork(rdir, plan, torch.device("cpu"))
    words.save(rdir / "tokenizer")
    write_plan(rdir, plan)
    model = new_model(replace(plan, vocab_size=words.vocab_size), "cpu", torch.float32)
    start = Training(model, MuonAdamW(param_groups(model)), plan.stage(before).steps, 1.0)
    save_checkpoint(rdir, before, start, seed=0, loss=1.0)
    sft.finetune(run, stage)

    def read():
        return json.loads((rdir / "results" / f"{stage}.json").read_text())["conversations"]

    straight, state = read(), json.loads((rdir / stage / "step_5" / "stream.json").read_text())
    assert (
        straight == brute_force(words, plan, stage, state)
        and straight["cut"] > 0
        and straight["left_out"] > 0
    )
    shutil.rmtree(rdir / stage / "step_5")
    (rdir / "results" / f"{stage}.json").unlink()
    sft.finetune(run, stage)
    assert read() == straight


def test_a_stage_in_which_nothing_fits_ends_with_one_line(words):
    with pytest.raises(UserError, match="none of the first 1,000 conversations fits") as e:
        next(sft.stage_stream(words, replace(make_plan("smoke"), seq_len=8), "sft"))
    assert "seq_len" in str(e.value) and "\n" not in str(e.value)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(st.integers(0, 60), st.lists(st.integers(1, 9), min_size=1, max_size=6)), max_size=50),
    st.integers(4, 30),
    st.integers(1, 8),
    st.booleans(),
)
def test_conversations_and_text_in_one_lane(items, size, depth, cut):
    "Text keeps every token; a conversation is in one piece, whole or its first turns"
    end, n, docs, talks, text = 10**6, 0, [], [], 0
    for item in items:
        if isinstance(item, int):
            docs.append(list(range(n, n + item)))
            n += item
            text += item
        else:
            ids = []
            for length in item:
                ids += [~(2 * 10**6 + len(talks)), *range(n, n + length), end]
                n += length
            docs.append(ids)
            talks.append(ids)
    lane, rows = loader.Lane(-(10**9), size, cut=cut, turn_end=end), []
    for d in docs:
        lane.put(d)
        while lane.ready(depth):
            rows.append(lane.row())
    while len(lane):
        rows.append(lane.row())
    parts = pieces(rows, -(10**9))
    said = [p for p in parts if p[0] < 0]
    assert sorted(map(tuple, said)) == sorted(
        tuple(k) for t in talks for k in [loader.whole_turns(t, size - 1, end)] if k
    )
    assert sorted(i for p in parts if p[0] >= 0 for i in p) == sorted(
        i for d in docs if d and d[0] >= 0 for i in d
    )
    assert all(len(r) <= size and r[0] == -(10**9) for r in rows)
    assert lane.talks["taken"] == len(talks)


# ---- answers that wait for a free place ----


def reinforced(folder, teacher, tok, monkeypatch, **stage):
    "Three steps from the teacher: what the log says of them, and how many answers were written at once"
    plan = replace(make_plan("smoke"), dtype="float32", rl=replace(STAGE, **stage))
    run, model, most = AtWork(folder, plan, torch.device("cpu")), copy.deepcopy(teacher), []
    decode = Engine._decode

    def watched(engine):
        most.append(len(engine.rows))
        decode(engine)

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "_decode", watched)
        training = start_stage(run, "rl", model, MuonAdamW(param_groups(model)))
        grpo.train_rl(run, training, tok, Larger())
    return [{**line, "seconds": 0} for line in lines_of(folder, "rl")], max(most)


def test_answers_that_wait_are_the_same(teacher, tok, tmp_path, monkeypatch):
    "All 32 of a step at once, or seven: the same answers, rewards and losses"
    together, most = reinforced(tmp_path / "together", teacher, tok, monkeypatch)
    assert most == 32 and len(together) == 3 and any(0 < line["reward"] < 1 for line in together)
    in_turn, most = reinforced(tmp_path / "in_turn", teacher, tok, monkeypatch, answer_rows=7)
    assert most == 7
    for mine, other in zip(in_turn, together):
        assert mine["reward"] == other["reward"] and mine["tokens"] == other["tokens"]
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-5)


def test_memory_that_is_short_for_one_answer_ends_it(teacher, tok, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("out of memory (injected)")

    monkeypatch.setattr(grpo, "grpo_step", full)
    with pytest.raises(UserError, match="too small for a single answer"):
        reinforced(tmp_path, teacher, tok, monkeypatch)
    assert not list((tmp_path / "rl").glob("*"))


def test_a_plan_names_what_is_practised():
    plan = make_plan("smoke")
    assert grpo.practised(plan).name == plan.rl.task == "word_problems"
    letters = grpo.practised(replace(plan, rl=replace(plan.rl, task="which_letter")))
    item = letters.train_item(random.Random(0))
    letter = "ABCD"[item["gold"]]
    assert f"={letter}" in letters.prompt(item)[0]["content"] and letters.right(item, letter)
    assert not any(letters.right(item, text) for text in ("", "A B C D".replace(letter, "E"), letter * 2))
    for name in ("spelling", "no such"):
        with pytest.raises(UserError, match="can't be practised: there are which_letter, word_problems"):
            grpo.practised(replace(plan, rl=replace(plan.rl, task=name)))


def test_settings_from_before_write_all_answers_at_once(tmp_path):
    plan = replace(make_plan("smoke"), rl=replace(STAGE, answer_rows=2))
    write_plan(tmp_path, plan)
    said = json.loads((tmp_path / "settings.json").read_text())
    assert said["rl"].pop("answer_rows") == grpo.answers_at_once(plan.rl, 1) == 2
    (tmp_path / "settings.json").write_text(json.dumps({k: v for k, v in said.items() if k != "sha256"}))
    old = read_plan(tmp_path).rl
    assert old.answer_rows == 0
    assert [grpo.answers_at_once(old, world) for world in (1, 8)] == [32, 4]
