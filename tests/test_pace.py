"How fast a run is: as planned, in its first steps and as a whole; and what the loop does around a step"

import gc, json
import pytest, torch
from conftest import ROOT, lines_of
from nanochat.runs import run_dir, write_plan
from nanochat.scaling import SMOKE, foresee, keep_pace, make_plan, open_run, read_pace


def short_run(monkeypatch, base, steps):
    "A base model of so many steps, whose plan counted on a thousand tokens a second"
    from nanochat.pretrain import pretrain

    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base))
    given = dict(tier="smoke", dtype="float32", num_iterations=steps, save_every=10, compile="off")
    opened = open_run("short", "cpu", **given)
    keep_pace(opened.folder, {"base": dict(planned=1000.0)})
    with opened.at_work() as run:
        pretrain(run)
    return run


def test_the_speed_of_the_first_steps_is_kept_beside_the_planned_one(tmp_path, monkeypatch):
    run = short_run(monkeypatch, tmp_path, 24)
    result, pace = run.result("base"), read_pace(run.folder)["base"]
    assert pace["planned"] == result["planned_tokens_per_second"] == 1000.0
    assert pace["first"] == result["first_tokens_per_second"]
    # step 1 isn't timed, steps 2 to 21 are
    seconds = [line["seconds"] for line in lines_of(run.folder, "base")]
    tokens = run.plan.base.rows * run.plan.seq_len
    assert pace["first"] == pytest.approx(20 * tokens / (seconds[20] - seconds[0]), rel=0.5)


def test_a_stage_that_ends_before_has_none(tmp_path, monkeypatch):
    run = short_run(monkeypatch, tmp_path, 20)  # the first step doesn't count, so nineteen were timed
    assert run.result("base")["first_tokens_per_second"] is None
    assert read_pace(run.folder) == {"base": {"planned": 1000.0}}


def test_the_first_start_is_believed(tmp_path):
    keep_pace(tmp_path, {"base": dict(planned=6.0), "mid": dict(planned=6.0)})
    keep_pace(tmp_path, {"base": dict(first=5.0)})
    # a later start on other GPUs: what has begun stays, what has not is planned anew
    keep_pace(tmp_path, {"base": dict(planned=3.0, first=7.0), "mid": dict(planned=3.0)})
    assert read_pace(tmp_path) == {"base": {"first": 5.0, "planned": 6.0}, "mid": {"planned": 3.0}}


def test_what_is_known_already_is_not_written_again(tmp_path):
    keep_pace(tmp_path, {"base": dict(planned=6.0)})
    written = (tmp_path / "pace.json").stat().st_mtime_ns
    keep_pace(tmp_path, {"base": dict(planned=6.0)})
    assert (tmp_path / "pace.json").stat().st_mtime_ns == written


NO_SPEED = ('"fast"', "1" + "0" * 400, "NaN", "Infinity", "-5", "0", "true", "null", "[1]")
DAMAGED = ("", "{", "[]", "7", '{"base": 3}', "[" * 100_000)


@pytest.mark.parametrize("text", [*DAMAGED, *('{"base": {"first": %s}}' % value for value in NO_SPEED)])
def test_a_damaged_note_is_as_none(text, tmp_path):
    (tmp_path / "pace.json").write_text(text)
    assert not read_pace(tmp_path).get("base")
    keep_pace(tmp_path, {"base": dict(first=5.0)})
    assert read_pace(tmp_path)["base"] == {"first": 5.0}


def test_what_was_planned_is_written_down_before_a_run_begins(tmp_path, monkeypatch, capsys):
    "The laptop tier's, from a kept run: stages and exams together take the minutes that are announced"
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.chdir(ROOT)
    plan, rdir = make_plan("laptop"), run_dir("planned")
    write_plan(rdir, plan)
    foresee(rdir)
    assert read_pace(rdir) == {}, "whoever only asks leaves the run as it is"
    capsys.readouterr()
    monkeypatch.setenv("NANOCHAT_LOCK", "held")
    foresee(rdir)
    minutes = float(capsys.readouterr().out.partition("expected: about ")[2].split()[0])
    pace = read_pace(rdir)
    assert set(pace) == {"base", "mid", "sft"}
    training = sum(plan.tokens(stage) / pace[stage]["planned"] for stage in pace) / 60
    kept = [json.loads(path.read_text()) for path in (ROOT / "bench" / "results").glob("laptop_seed*.json")]
    shares = [sum(run["seconds"][stage] for stage in pace) / run["wall_seconds"] for run in kept]
    assert min(shares) * (minutes - 1) < training < max(shares) * (minutes + 1)


def test_where_nobody_knows_nothing_is_planned(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.setenv("NANOCHAT_LOCK", "held")
    monkeypatch.chdir(ROOT)
    write_plan(run_dir("other"), SMOKE)
    foresee(run_dir("other"))
    assert read_pace(run_dir("other")) == {}


def test_what_is_left_is_said_where_it_takes_a_minute(tmp_path, monkeypatch, capsys):
    from nanochat.pretrain import note_pace
    from nanochat.runtime import Run

    run = Run(tmp_path, make_plan("laptop"), torch.device("cpu"))
    keep_pace(tmp_path, {"base": dict(planned=20_000.0)})
    note_pace(run, "base", 10_240.0, left=1200)  # of 1,024 tokens
    said = "base: 10,240 tokens a second in 20 steps (planned: 20,000); 2 min to go"
    assert said in "".join(capsys.readouterr())
    note_pace(run, "base", 10_240.0, left=100)
    assert not "".join(capsys.readouterr())


def test_the_loss_is_read_before_the_step_is_taken(monkeypatch):
    "On a GPU the read would otherwise wait for the optimizer, and the GPU for the next batch"
    from nanochat import pretrain
    from nanochat.distributed import MuonAdamW, param_groups
    from nanochat.gpt import MODERN, GPT, GPTConfig

    model = GPT(GPTConfig(vocab_size=300, seq_len=16, n_layer=2, n_embd=32, **MODERN))
    opt, order = MuonAdamW(param_groups(model)), []
    read, step = pretrain.mean_of, opt.step
    monkeypatch.setattr(pretrain, "mean_of", lambda total: (order.append("read"), read(total))[1])
    monkeypatch.setattr(opt, "step", lambda: (order.append("step"), step())[1])
    ids = torch.randint(300, (2, 17))
    loss = pretrain.train_step(model, opt, [(ids[:, :-1], ids[:, 1:], None)])
    assert order == ["read", "step"] and 5 < loss < 7


def test_the_pace_is_that_of_twenty_steps(monkeypatch):
    from nanochat import pretrain

    clock = iter([10.0, *(100.0 + 2 * k for k in range(1, 21)), 999.0])
    monkeypatch.setattr(pretrain.time, "perf_counter", lambda: next(clock))
    pace = pretrain.Pace(step_tokens=65)
    assert [pace.found() for _ in range(22)] == [False] * 20 + [True, False]
    assert pace.speed == 20 * 65 / (140.0 - 10.0)


def test_one_gpu_fewer_is_planned_for(tmp_path, monkeypatch, capsys):
    from nanochat import scaling
    from nanochat.scaling import plan_tier, recipe_plan

    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.setenv("NANOCHAT_LOCK", "held")
    monkeypatch.setattr(scaling, "preflight_checks", lambda plan, rdir, gpus: iter(()))
    planned = {}
    for gpus in (8, 4):
        rdir = run_dir(f"on{gpus}")
        write_plan(rdir, recipe_plan(plan_tier("full")))
        monkeypatch.setenv("GPUS", str(gpus))
        foresee(rdir)
        planned[gpus] = read_pace(rdir)["base"]["planned"]
    assert planned[8] == pytest.approx(2 * planned[4])


def test_the_collector_works_again_after_an_error():
    from nanochat.pretrain import resting_collector

    with pytest.raises(KeyError):
        with resting_collector() as freeze:
            freeze()
            assert gc.get_freeze_count() > 1000
            raise KeyError
    assert gc.get_freeze_count() == 0 and gc.isenabled()


def test_a_cycle_that_training_leaves_is_still_found():
    import weakref

    from nanochat.pretrain import resting_collector

    class Knot:
        pass

    with resting_collector() as freeze:
        freeze()
        assert gc.isenabled(), "it looks for them by itself"
        knot = Knot()
        knot.itself, seen = knot, weakref.ref(knot)
        del knot
        gc.collect()
        assert seen() is None


@pytest.mark.cuda
def test_batches_for_a_gpu_are_pinned():
    from nanochat.pretrain import ready_for

    ids = torch.zeros(2, 8, dtype=torch.long)
    (got, targets, state), = ready_for(torch.device("cuda"), iter([(ids, ids, 7)]))
    assert got.is_pinned() and targets.is_pinned() and state == 7


def test_elsewhere_they_stay_what_they_are():
    from nanochat.pretrain import ready_for

    ids = torch.zeros(2, 8, dtype=torch.long)
    ((got, targets, state),) = ready_for(torch.device("cpu"), iter([(ids, ids, None)]))
    assert got is targets is ids and state is None


def test_a_result_without_a_pace_makes_no_table():
    from nanochat.report import pace_table

    took = dict(tokens_per_second=900.0)
    assert pace_table(dict(base=took)) == ""
    text = pace_table(dict(base=took | dict(planned_tokens_per_second=1000.0), mid=took))
    assert "| BASE | 1,000 | – | 900 |" in text and "MID" not in text
