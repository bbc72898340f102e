"Laws of finished runs: a known one lies within its interval, what nobody measured is no number, the door"

import importlib.util, json
from dataclasses import asdict, replace
import numpy as np
import pytest
from conftest import ROOT, one_line, run_module
from nanochat.runs import UserError, run_dir, save_result, write_plan
from nanochat.scaling import (
    SMOKE,
    Estimate,
    Measured,
    compute_multiplier,
    describe_law,
    estimate,
    fit_law,
    main,
    read_measured,
    runs_named,
)

BUDGETS = [2e11, 8e11, 3.2e12, 1.28e13, 5e13]
EXPONENT, GAIN, FLOORS = 0.3, 0.4, {0: 0.7, 1: 0.75}


def true_bpb(C, seed=0):
    return FLOORS[seed] + GAIN * (C / 1e12) ** -EXPONENT


def series(rng, budgets=BUDGETS, seeds=(0, 1), noise=0.004):
    "Runs that follow the law, but for their luck"
    return [
        Measured(
            f"C{C:.0e}-s{s}", C, 0, 0, true_bpb(C, s) + noise * rng.standard_normal(), s, "c", 0, f"t{s}"
        )
        for C in budgets
        for s in seeds
    ]


@pytest.fixture(scope="module")
def law():
    return fit_law(series(np.random.default_rng(3)))


# ---- the fit ----


def test_without_luck_the_law_is_found():
    law = fit_law(series(np.random.default_rng(0), noise=0))
    assert law.numbers_MD[0, 0] == pytest.approx(EXPONENT, rel=0.01)
    assert law.bpb(1e12)[0] == pytest.approx(true_bpb(1e12) + 0.025, abs=1e-3)
    assert law.numbers_MD[3, 0] - law.numbers_MD[2, 0] == pytest.approx(0.05, abs=1e-6)


def test_a_fit_is_the_least_of_squares():
    "No exponent of a finer grid, with its own best gain and floors, misses much less"
    rng = np.random.default_rng(5)
    runs = series(rng)
    law = fit_law(runs)
    bpb = np.array([run.bpb for run in runs])
    seed = np.array([[run.seed == 0, run.seed == 1] for run in runs], float)
    ratio = np.array([run.flops for run in runs]) / law.middle

    def missed(exponent):
        columns = np.column_stack((ratio**-exponent, seed))
        return ((bpb - columns @ np.linalg.lstsq(columns, bpb, rcond=None)[0]) ** 2).sum()

    best = min(missed(exponent) for exponent in np.geomspace(0.01, 2, 3000))
    exponent, *weights = law.numbers_MD[:, 0]
    own = ((bpb - np.column_stack((ratio**-exponent, seed)) @ weights) ** 2).sum()
    assert best <= own < 1.02 * best


@pytest.mark.parametrize("seeds, budgets", [((0, 1), BUDGETS), ((0,), BUDGETS)])
def test_intervals_hold_what_they_promise(seeds, budgets, monkeypatch):
    "Of 60 series from a known law, 95% of the intervals should hold it; 85% to be allowed to be unlucky"
    monkeypatch.setattr("nanochat.scaling.SERIES", 200)
    monkeypatch.setattr("nanochat.scaling.EXPONENTS", np.geomspace(0.01, 2, 80))
    rng, held = np.random.default_rng(7), dict(exponent=0, law=0)
    for _ in range(60):
        law = fit_law(series(rng, budgets, seeds))
        exponent, inside = estimate(law.numbers_MD[0]), estimate(law.bpb(4e12))
        truth = np.mean([true_bpb(4e12, seed) for seed in seeds])
        held["exponent"] += exponent.low <= EXPONENT <= exponent.high
        held["law"] += inside.low <= truth <= inside.high
    assert all(51 <= n for n in held.values()), held


def test_more_runs_say_more(law):
    few = fit_law(series(np.random.default_rng(3), seeds=(0,)))
    wide, narrow = estimate(few.numbers_MD[0]), estimate(law.numbers_MD[0])
    assert wide.high - wide.low > narrow.high - narrow.low


def test_a_fit_gives_the_same_answer_twice():
    a, b = (fit_law(series(np.random.default_rng(3))) for _ in range(2))
    assert describe_law(a) == describe_law(b)


def test_budget_and_bits_are_each_others_inverse(law):
    for C in (1e10, 1e12, 1e15):
        assert np.allclose(law.flops(law.bpb(C)), C, rtol=1e-6)
    assert np.isinf(law.flops(law.floor_D)).all() and np.isinf(law.flops(law.floor_D - 1)).all()


# ---- what a change is worth ----


def by_a_change(times, C, rng, seeds=(0, 1), noise=0.004):
    "Runs that reach with C what the baseline needs `times` as much for"
    return [replace(run, flops=C) for run in series(rng, [times * C], seeds, noise)]


@pytest.mark.parametrize("times, C", [(0.5, 3e12), (2.0, 3e12), (5.0, 1e12), (1.0, 8e11)])
def test_a_known_multiplier_is_found(law, times, C):
    found = compute_multiplier(law, by_a_change(times, C, np.random.default_rng(1)))
    assert found.low < times < found.high and found.high < 2 * found.low


def test_what_was_not_measured_is_no_number(law):
    rng = np.random.default_rng(1)
    assert compute_multiplier(law, by_a_change(3, 4e13, rng)) == Estimate(None, None, None)
    assert compute_multiplier(law, by_a_change(0.1, 2e11, rng)) == Estimate(None, None, None)
    at_the_end = compute_multiplier(law, by_a_change(0.9, 5e13, rng))
    assert at_the_end.value and at_the_end.high is None and str(at_the_end).endswith("to ?)")
    below_the_floor = [replace(run, bpb=0.1) for run in by_a_change(1, 1e12, rng)]
    assert str(compute_multiplier(law, below_the_floor)) == "? (? to ?)"


def test_a_harder_text_is_not_a_worse_recipe(law):
    "Only seed 1, whose floor is higher: compared with its own floor, the change is worth nothing"
    found = compute_multiplier(law, by_a_change(1, 3e12, np.random.default_rng(2), seeds=(1,), noise=0))
    assert found.value == pytest.approx(1, rel=0.15)


# ---- what is no series ----


def refused(words, runs):
    with pytest.raises(UserError, match=words) as e:
        fit_law(runs)
    assert "\n" not in str(e.value)


def test_runs_that_make_no_law_are_refused():
    rng = np.random.default_rng(0)
    runs = series(rng)
    refused("three or more sizes", series(rng, BUDGETS[:2]))
    refused("three or more sizes", [runs[0], runs[3], runs[4], runs[7]])  # two sizes of each seed
    refused("leave none to judge it by", series(rng, BUDGETS[:3], (0,)))
    refused("follow no law", [replace(run, bpb=2 - run.bpb) for run in runs])
    refused("too much to tell", series(np.random.default_rng(4), noise=0.5))
    refused("one has read corpus c, the other d", [*runs, replace(runs[0], corpus="d")])
    refused("scored on 0 tokens of text, the other on 9", [*runs, replace(runs[0], val_tokens=9)])
    refused("seed 0, and their tokenizers differ", [*runs, replace(runs[0], tokenizer="x")])


def test_a_variant_must_be_comparable(law):
    with pytest.raises(UserError, match="no run of the baseline has"):
        compute_multiplier(law, [replace(law.runs[0], seed=5)])
    with pytest.raises(UserError, match="their tokenizers differ"):
        compute_multiplier(law, [replace(law.runs[0], tokenizer="x")])


# ---- the door ----


def finished(run, steps, bpb, seed=0, flops_per_token=10**6, tokenizer="a", **changes):
    "A run's folder, as pretraining and evaluation leave it"
    plan = replace(SMOKE, seed=seed, base=replace(SMOKE.base, steps=steps), **changes)
    rdir = run_dir(run)
    write_plan(rdir, plan)
    save_result(rdir, "tokenizer", dict(vocab_size=plan.vocab_size, file=tokenizer))
    save_result(rdir, "base", dict(steps=steps, tokens=plan.tokens("base"), flops_per_token=flops_per_token))
    save_result(rdir, "evaluate_base", dict(bpb=dict(base=bpb), checkpoint=None))


@pytest.fixture
def runs(base):
    "Five sizes that follow a law, and a change that needs half of the FLOPs"
    rng = np.random.default_rng(11)
    for steps in (100, 300, 1000, 3000, 10000):
        bpb = 0.5 + (steps / 1000) ** -0.3 + 0.002 * rng.standard_normal()
        finished(f"mini-{steps}", steps, bpb)
    finished("half-1000", 1000, 0.5 + 2**-0.3)
    finished("half-9000", 9000, 0.5 + 18**-0.3)
    return base


def test_a_run_is_read(runs):
    point = read_measured("mini-1000")
    assert (point.tokens, point.flops, point.seed) == (1000 * 8 * 128, 1e6 * 1000 * 8 * 128, 0)
    assert point.params > 100_000 and Measured(**asdict(point)) == point


def test_the_door_prints_law_and_multiplier(runs, capsys):
    done = run_module("scaling", "fit", "mini-*", "--variant", "half-1000", "half-9000", base=runs)
    assert "from 5 runs" in done.stdout and done.stdout.count("variant") == 2
    assert "needs ? (? to ?) times the FLOPs" in done.stdout and "?: outside" in done.stdout
    main(words=["fit", "mini-*"], variant=["half-*"], as_json=True)
    said = json.loads(capsys.readouterr().out)
    value, low, high = said["variant"][0]["multiplier"]
    assert low < 2 < high and 1.7 < value < 2.3 and said["variant"][1]["multiplier"] == [None] * 3
    assert said["exponent"][1] < 0.3 < said["exponent"][2] and len(said["sizes"]) == 5


@pytest.mark.parametrize(
    "given, answer",
    [
        (dict(words=["fit"]), "fit RUN RUN RUN"),
        (dict(words=["fitt", "mini-100"]), "'fitt mini-100' is none of this"),
        (dict(variant=["half-1000"]), "'--variant' is none of this"),
        (dict(words=["fit", "mini-100", "mini-300"]), "three or more sizes"),
        (dict(words=["fit", "mini-*", "nobody"]), "no run named 'nobody'"),
        (dict(words=["fit", "what*"]), "a name like 'what*'"),
        (dict(words=["fit", "../mini-100", "mini-*"]), "run name '../mini-100'"),
        (dict(words=["fit", "mini-*"], variant=["mini-100"]), "named twice"),
        (dict(words=["fit", "mini-*"], seed=0), "--seed belongs to a run that is still to be made"),
        (dict(words=["fit", "mini-*"], dry_run=True), "--dry_run belongs to"),
    ],
)
def test_the_door_refuses_in_one_line(runs, given, answer):
    with pytest.raises(SystemExit) as e:
        main(**given)
    assert str(e.value).startswith("error: ") and answer in str(e.value) and "\n" not in str(e.value)


def test_a_command_line_is_refused_in_one_line(runs):
    done = run_module(
        "scaling", "fit", "mini-*", "--variant", "mini-100", "--seed", 0, base=runs, check=False
    )
    one_line(done, "--seed belongs to", status=1)


def test_runs_that_cannot_be_read_are_refused(runs):
    def says(run, words):
        with pytest.raises(UserError, match=words) as e:
            read_measured(run)
        assert "\n" not in str(e.value)

    finished("odd", 100, float("nan"))
    says("odd", "nan bits per byte")
    finished("odd", 100, 0.0)
    says("odd", "0.0 bits per byte")
    finished("odd", 100, "low")
    says("odd", "do not have the form")
    finished("odd", 100, 0.9)
    (run_dir("odd") / "results" / "base.json").write_text("{}")
    says("odd", "damaged")
    finished("odd", 100, 0.9)
    (run_dir("odd") / "results" / "evaluate_base.json").unlink()
    says("odd", "no bits per byte of a finished pretraining")
    finished("odd", 100, 0.9)
    save_result(run_dir("odd"), "base", dict(steps=50, tokens=1, flops_per_token=1))
    says("odd", "bash speedrun.sh --run odd")


def test_patterns_name_each_run_once(runs):
    assert runs_named(["mini-100", "mini-*0", "mini-100"])[0] == "mini-100"
    assert len(runs_named(["mini-*", "mini-1*"])) == 5


# ---- the script ----


def test_the_miniseries_is_planned_as_it_says():
    spec = importlib.util.spec_from_file_location("miniseries", ROOT / "bench" / "miniseries.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    jobs = bench.small_jobs(len(bench.SIZES))
    series, change = (
        {job.name.split("-", 1)[1]: job.plan for job in jobs[part]} for part in ("runs", "change")
    )
    assert len(series) == 10 and len(change) == 6
    for name, plan in change.items():
        assert plan.tokens("base") == series[name].tokens("base")
        assert plan.base.rows == 2 * series[name].base.rows
    spent = [bench.per_token(job.plan) * job.plan.tokens("base") for job in jobs["isoflop"]]
    assert max(spent) / min(spent) < 1.03
    large = bench.large_jobs([12, 24], 8, "h100")["runs"]
    assert [job.plan.base.steps for job in large][1] == 5568 and large[0].plan.depth == 12
