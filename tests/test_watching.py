"Who follows a training: other programs, a judge with bands over seeds, and a picture in a notebook"

import importlib.util, json, math, sys, time, types
from dataclasses import replace
import pytest, torch
from conftest import ROOT, TINY, lines_of, one_line, run_module

from nanochat import pretrain, runtime
from nanochat.pretrain import Band, Judge, LivePlot, band_for, losses_until, marks_of, mean_log, onlookers
from nanochat.runs import Log, UserError, run_dir
from nanochat.runtime import Run
from nanochat.scaling import LAPTOP, SMOKE, make_plan

spec = importlib.util.spec_from_file_location("bands", ROOT / "bench" / "bands.py")
bands = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bands)
KEPT = json.loads((ROOT / "bench" / "results" / "bands.json").read_text())
CPU = torch.device("cpu")


# ---- the same lines elsewhere ----


class Calls(list):
    "Writes down every call of every method, whatever its name"

    def __getattr__(self, name):
        def note(*args, **kwargs):
            self.append((name, args, kwargs))
            return self

        return note

    def of(self, name):
        return [call for call in self if call[0] == name]


@pytest.fixture
def stand_ins(monkeypatch):
    "Packages that only write down what they are asked: {name: calls}"
    calls = {name: Calls() for name in runtime.LOGGERS}
    monkeypatch.setitem(sys.modules, "wandb", calls["wandb"])
    monkeypatch.setitem(sys.modules, "trackio", calls["trackio"])
    monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
    board = types.ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = lambda *args: calls["tensorboard"].SummaryWriter(*args)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setattr(runtime.atexit, "register", lambda act: calls["trackio"].append(("at exit", act, {})))
    monkeypatch.setenv("NANOCHAT_LOGGER", "tensorboard, wandb,trackio")
    return calls


def log_steps(run, stage, first, last, **listeners):
    log = run.log(stage, first, listeners)
    for step in range(first + 1, last + 1):
        log.add(step=step, loss=9.0 - step, tokens=512, seconds=0.5 * step, said="words")


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "runs" / "moon", SMOKE, CPU)


def test_each_logger_gets_the_calls_that_it_knows(run, stand_ins):
    log_steps(run, "base", 0, 2)
    log_steps(run, "mid", 0, 1)
    assert stand_ins["tensorboard"].of("SummaryWriter") == [
        ("SummaryWriter", (str(run.folder / "tensorboard" / stage),), {}) for stage in ("base", "mid")
    ]
    assert ("add_scalar", ("loss", 7.0, 2), {}) in stand_ins["tensorboard"]
    (init, _) = stand_ins["wandb"].of("init")
    assert init[2]["name"] == "moon" and init[2]["resume"] == "allow"
    assert init[2]["id"].startswith("moon-") and len(init[2]["id"]) == len("moon-") + 6
    assert init[2]["config"]["base"]["steps"] == SMOKE.base.steps
    assert ("define_metric", ("mid/*",), dict(step_metric="mid/step")) in stand_ins["wandb"]
    last = {"base/step": 2, "base/loss": 7.0, "base/tokens": 512, "base/seconds": 1.0}
    assert ("log", (last,), {}) in stand_ins["wandb"]
    assert stand_ins["trackio"].of("init")[0][2]["name"] == init[2]["id"]
    del last["base/step"]
    assert ("log", (last,), dict(step=2)) in stand_ins["trackio"]
    assert len(stand_ins["trackio"].of("at exit")) == 2


def test_tensorboard_itself_keeps_the_numbers_of_a_resumed_stage(run, monkeypatch):
    "The package in place of a stand-in: what was sent is read back from its files"
    why = "tensorboard is not installed; pip install -e '.[loggers]' brings it"
    pytest.importorskip("tensorboard", reason=why)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("NANOCHAT_LOGGER", "tensorboard")
    for first, last in ((0, 4), (2, 5)):
        log_steps(run, "base", first, last)
    kept = EventAccumulator(str(run.folder / "tensorboard" / "base"))
    kept.Reload()
    assert set(kept.Tags()["scalars"]) == {"loss", "tokens", "seconds"}
    assert [(e.step, e.value) for e in kept.Scalars("loss")] == [(n, 9.0 - n) for n in range(1, 6)]


def test_the_log_is_the_same_with_them_and_without(run, stand_ins, monkeypatch, tmp_path):
    log_steps(run, "base", 0, 3)
    monkeypatch.delenv("NANOCHAT_LOGGER")
    alone = Log(tmp_path / "alone", "base")
    for step in (1, 2, 3):
        alone.add(step=step, loss=9.0 - step, tokens=512, seconds=0.5 * step, said="words")
    assert (run.folder / "log.jsonl").read_bytes() == alone.path.read_bytes()


def test_a_resumed_run_sends_no_step_twice(run, stand_ins):
    "Killed after step 7, resumed from 4, killed after 5, resumed from 4; another stage counts for itself"
    for first, last in ((0, 7), (4, 5), (4, 9)):
        log_steps(run, "base", first, last)
    log_steps(run, "mid", 0, 2)
    for name in ("wandb", "trackio"):
        sent = [call[1][0].get("base/loss") for call in stand_ins[name].of("log")]
        assert [loss for loss in sent if loss is not None] == [9.0 - step for step in range(1, 10)]
        assert sum("mid/loss" in call[1][0] for call in stand_ins[name].of("log")) == 2
    assert len({call[2]["id"] for call in stand_ins["wandb"].of("init")}) == 1, "the same run goes on"


def test_a_logger_that_fails_is_named_once_and_ends_nothing(run, stand_ins, capfd):
    def refuse(*args, **kwargs):
        raise ConnectionError("no route to host")

    stand_ins["wandb"].log = refuse
    stand_ins["trackio"].init = refuse
    log_steps(run, "base", 0, 4)
    said = capfd.readouterr().err
    assert said.count("wandb failed after step 1 (no route to host)") == 1
    assert said.count("trackio can't begin (no route to host)") == 1
    assert [line["step"] for line in lines_of(run.folder, "base")] == [1, 2, 3, 4]
    assert len(stand_ins["tensorboard"].of("flush")) == 4


def test_only_the_first_process_speaks(run, stand_ins, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert run.log("base", 0) is None and onlookers(run, "base", 0) == {}
    assert not any(stand_ins.values()) and not run.folder.exists()


def test_what_is_missing_or_unknown_is_refused_before_the_run_begins(base, monkeypatch):
    with monkeypatch.context() as without:
        without.setattr(runtime.importlib.util, "find_spec", lambda name: None)
        without.delitem(sys.modules, "wandb", raising=False)
        without.setenv("NANOCHAT_LOGGER", "wandb")
        with pytest.raises(UserError, match=r"wandb.*not installed.*\[loggers\]"):
            with Run(run_dir("moon"), SMOKE, CPU).at_work():
                pass
    done = run_module("pretrain", *TINY, base=base, check=False, NANOCHAT_LOGGER="tensorbord")
    one_line(done, "NANOCHAT_LOGGER 'tensorbord': use tensorboard, wandb, trackio", status=1)
    assert not list((base / "runs").glob("*/log.jsonl")) and not list((base / "runs").glob("*/base"))


def test_the_extra_names_every_logger_and_the_core_none():
    settings = (ROOT / "settings.ini").read_text()
    listed = dict(line.split(" = ", 1) for line in settings.splitlines() if "requirements = " in line)
    names = {name.split(">")[0] for name in listed["loggers_requirements"].split()}
    assert names == set(runtime.LOGGERS)
    for name in names:
        assert name not in listed["requirements"] and name not in listed["dev_requirements"]
    assert 'cfg["loggers_requirements"]' in (ROOT / "setup.py").read_text()


# ---- bands ----


def test_marks_begin_at_50_and_are_a_tenth_apart():
    marks = marks_of(3600)
    assert marks[:4] == [50, 55, 60, 66] and marks_of(49) == [] and marks_of(50) == [50]
    assert all(1.05 < b / a < 1.13 for a, b in zip(marks, marks[1:])) and marks[-1] > 3600 / 1.1


def test_the_mean_is_over_the_second_half_and_never_over_more_than_a_hundred():
    assert mean_log([9.0] * 5 + [math.e] * 5) == pytest.approx(1.0)
    assert mean_log([9.0] * 900 + [math.e] * 100) == pytest.approx(1.0)


@pytest.mark.parametrize("tier", ["smoke", "laptop"])
def test_a_tier_has_its_band_whatever_the_seed_and_the_way_of_computing(tier):
    band = band_for(make_plan(tier, seed=11, dtype="float32", compile="on", save_every=7), "base")
    assert band, f"the settings of tier {tier} have changed since its band was made: bench/bands.py"
    assert band.seeds >= 3 and band.marks == marks_of(make_plan(tier).base.steps)
    assert all(low < high for low, high in zip(band.low, band.high))


def test_other_settings_have_no_band():
    assert band_for(LAPTOP, "rl") is None
    half = replace(LAPTOP, base=replace(LAPTOP.base, rows=2))
    for other in (half, replace(LAPTOP, depth=5), replace(LAPTOP, corpus="a folder"), make_plan("full")):
        assert band_for(other, "base") is None
    # what comes after a stage can't change its losses
    assert band_for(replace(LAPTOP, rl=replace(LAPTOP.rl, steps=1), sft=half.mid), "base")


def test_the_table_is_what_the_kept_runs_make():
    for tier, stages in KEPT["bands"].items():
        for stage, kept in stages.items():
            if stage == "versions":
                continue
            low, high = bands.band_of(list(kept["means"].values()))
            band = band_for(make_plan(tier), stage)
            assert (band.low, band.high, band.seeds) == (low, high, len(kept["means"]))


def test_an_interval_for_one_more_seed_against_scipy():
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    means = [[1.0], [1.1], [1.3], [1.25]]
    values = [m[0] for m in means]
    spread = torch.tensor(values).std().item() * math.sqrt(1 + 1 / 4)
    low, high = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=spread)
    found = bands.band_of(means)
    assert found[0][0] == pytest.approx(low - math.log(1.01), abs=1e-4)
    assert found[1][0] == pytest.approx(high + math.log(1.01), abs=1e-4)


# ---- the judge ----

LEVEL = Band("smoke", "base", 6, [10, 12, 14, 16, 18, 20], [math.log(2.0)] * 6, [math.log(3.0)] * 6, None)


def judged(levels, band=LEVEL):
    "The steps at which a judge speaks, of losses that are at `levels` around each mark"
    judge, spoke = Judge(band), []
    for step in range(1, band.marks[-1] + 1):
        mark = next(k for k, mark in enumerate(band.marks) if step <= mark)
        if judge.look(levels[mark]):
            spoke.append(step)
    return spoke


def test_the_judge_speaks_at_the_third_mark_outside_and_once():
    assert judged([9.0] * 6) == [14] and judged([1.0] * 6) == [14]
    assert judged([2.5] * 6) == []


def test_both_sides_do_not_add_up(monkeypatch):
    sides = iter([1, 1, -1, -1, 1, 1])
    monkeypatch.setattr(Band, "side", lambda self, losses: next(sides))
    assert judged([2.5] * 6) == []
    sides = iter([1, 0, 1, 1, 1, 0])
    assert judged([2.5] * 6) == [18]


def test_losses_are_read_until_the_checkpoint_and_the_verdict_is_not_said_again(run, monkeypatch, capfd):
    monkeypatch.setattr(pretrain, "tier_band", lambda tier, stage: LEVEL)
    run.log("mid", 0).add(step=1, loss=5.0)
    log_steps = run.log("base", 0, onlookers(run, "base", 0))
    for step in range(1, 17):
        log_steps.add(step=step, loss=9.0)
    assert capfd.readouterr().err.count("not a normal run") == 1
    assert len(losses_until(run.folder, "base", 15)) == 15
    resumed = onlookers(run, "base", 15)["judge"]
    assert len(resumed.losses) == 15 and resumed.verdict
    log_steps = run.log("base", 15, dict(judge=resumed))
    for step in range(16, 21):
        log_steps.add(step=step, loss=9.0)
    assert "not a normal run" not in capfd.readouterr().err


def test_a_run_that_is_set_otherwise_than_its_band_says_so_first(tmp_path):
    "Dtype, batch, length and data are told from the plan, before what the losses look like"
    base = replace(SMOKE.base, rows=4, steps=90)
    plan = replace(SMOKE, dtype="float16", corpus="tinystories", seq_len=64, base=base)
    judge = onlookers(Run(tmp_path, plan, CPU), "base", 0)["judge"]
    ill = KEPT["ill"]["smoke"]
    said = next(filter(None, map(judge.look, ill["half a batch"]["6"])))
    assert said.startswith(
        "base: it is set otherwise than the runs of its band: data tinystories (theirs: world), "
        "length of a row 64 (theirs: 128), length 90 (theirs: 60), batch 4 (theirs: 8), "
        "dtype float16 (theirs: float32). Up to step 60"
    )
    assert said.endswith(pretrain.CAUSES["settings"])
    judge = Judge(judge.band, unlike=judge.unlike)
    assert "rates that are too low" in next(filter(None, map(judge.look, ill["rates / 4"]["6"])))
    judge = onlookers(Run(tmp_path, replace(SMOKE, seed=9, dtype="float32"), CPU), "base", 0)["judge"]
    assert judge.unlike == ["dtype float16 (theirs: float32)"], "what was chosen at the first step holds"


def test_of_another_shape_every_setting_is_named():
    deeper = pretrain.unlike(make_plan("smoke", depth=3), "base", band_for(SMOKE, "base"), None)
    assert deeper == ["depth 3 (theirs: 2)", "width 96 (theirs: 64)", "heads 3 (theirs: 2)"]
    later = replace(LAPTOP, base=replace(LAPTOP.base, rows=2))
    assert pretrain.unlike(later, "sft", band_for(LAPTOP, "sft"), None) == ["batch of base 2 (theirs: 4)"]


def test_without_all_earlier_losses_there_is_no_judge(run):
    assert "judge" in onlookers(run, "base", 0) and "judge" not in onlookers(run, "base", 20)


# ---- the picture ----


@pytest.fixture
def notebook(monkeypatch):
    "A stand-in for IPython in a kernel, which writes down what is displayed"
    calls = Calls()
    ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.version_info = (9, 0)  # matplotlib asks
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel="a kernel")
    display.display = lambda image, display_id: calls.display(image)
    display.Image = bytes
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return calls


def test_outside_a_notebook_there_is_no_picture(run, notebook, monkeypatch):
    assert "plot" in onlookers(run, "base", 0)
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: None)
    assert "plot" not in onlookers(run, "base", 0)
    monkeypatch.delitem(sys.modules, "IPython")
    assert "plot" not in onlookers(run, "base", 0)


def test_without_matplotlib_there_is_no_picture(run, notebook, monkeypatch):
    monkeypatch.setattr(pretrain.importlib.util, "find_spec", lambda name: None)
    assert "plot" not in onlookers(run, "base", 0)


def test_one_picture_is_drawn_again_now_and_then(notebook, monkeypatch):
    "A hundred steps in ten seconds: nothing for five, then one picture, renewed at most every two"
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    plot = LivePlot("base", 100, [], band_for(SMOKE, "base"))
    for step in range(1, 101):
        clock.now += 0.1
        plot(dict(step=step, loss=6.0 / step**0.2))
    assert len(notebook.of("display")) == 1
    assert 2 <= len(notebook.of("update")) <= 4, "two more while it trains, and one at the last step"
    assert all(call[1][0].startswith(b"\x89PNG") for call in notebook)


def test_a_short_stage_has_none(notebook):
    plot = LivePlot("base", 3, [])
    for step in (1, 2, 3):
        plot(dict(step=step, loss=5.0))
    assert not notebook


def test_the_chapter_keeps_one_frame_of_its_live_plot():
    cells = json.loads((ROOT / "nbs" / "14_pretrain.ipynb").read_text())["cells"]
    live = [cell for cell in cells if "LivePlot(" in "".join(cell["source"]) and not
            "".join(cell["source"]).startswith("#| export")]
    assert live
    for cell in live:
        assert sum("image/png" in out.get("data", {}) for out in cell["outputs"]) == 1


@pytest.mark.parametrize("rest", ["", ', "loss": null', ', "loss": "low"'])
def test_a_line_without_a_loss_stops_no_resume(run, rest):
    from nanochat.pretrain import losses_until, onlookers

    log = run.log("base", 0)
    for step in (1, 2):
        log.add(step=step, loss=9.0 - step, tokens=512, seconds=0.5)
    with (run.folder / "log.jsonl").open("a") as file:
        file.write('{"stage": "base", "step": 3%s}\n' % rest)
    assert losses_until(run.folder, "base", 3) == [8.0, 7.0]
    assert "judge" not in onlookers(run, "base", 3), "a judge that missed a step would judge other losses"
