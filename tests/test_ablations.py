"The screening's design, what the kept runs say, and that every switch changes what it names"

import importlib.util, itertools, json
from pathlib import Path
import pytest, torch

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("ablations", ROOT / "bench" / "ablations.py")
ablations = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ablations)


def signs():
    "A row for each run of the screening, +1 where a column's switch is on"
    plan = ablations.hadamard(16)
    return torch.cat((plan, -plan))


def test_every_switch_is_on_in_half_of_the_runs_and_in_half_of_those_of_any_other():
    runs = ablations.screening()
    assert len(runs) == 32 and len({run.key for run in runs}) == 32
    for name in ablations.SWITCHES:
        assert sum(name in run.on for run in runs) == 16
    for a, b in itertools.combinations(ablations.SWITCHES, 2):
        assert sum(a in run.on and b in run.on for run in runs) == 8


def test_no_switch_is_mixed_up_with_two_others_together():
    design = signs()
    for one in range(16):
        for a, b in itertools.combinations(range(16), 2):
            assert (design[:, one] * design[:, a] * design[:, b]).sum() == 0


def test_effects_are_found_in_scores_made_of_known_ones():
    "Two of them act together as well, which must not reach any single one"
    known = {name: 0.01 * (i - 5) for i, name in enumerate(ablations.SWITCHES)}
    lines = []
    for run in ablations.screening():
        score = 2.0 + sum((known[name] if name in run.on else 0.0) for name in known)
        together = 0.3 if {"smear", "windows"} <= set(run.on) else 0.0
        lines.append(dict(bpb=score + together))
    found = ablations.effects(lines)
    for name, effect in known.items():
        expected = effect + (0.15 if name in ("smear", "windows") else 0.0)  # half of what they do together
        assert found[name] == pytest.approx(expected, abs=1e-6)
    assert all(abs(found[f"empty column {i}"]) < 1e-6 for i in (14, 15))


def test_paired_differences_against_scipy():
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    differences = [-0.011, -0.008, -0.013, -0.006, -0.010, -0.012]
    found = ablations.paired(differences)
    assert found["p"] == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    low, high = stats.ttest_1samp(differences, 0).confidence_interval(0.99)
    assert (found["lo"], found["hi"]) == pytest.approx((low, high))
    assert found["verdict"] == "helps" and ablations.paired([0.01, -0.012])["verdict"] == "?"


@pytest.mark.parametrize("name", list(ablations.ALL))
def test_a_switch_changes_what_it_names_and_trains(name):
    "Model, kinds of parameters or schedule: else the table would compare a thing with itself"
    on, today = ablations.flipped(name), tuple(sorted(ablations.TODAY))
    settings = [
        (ablations.config_of(s), ablations.table_for(s), ablations.ALL[name].momentum and name in s)
        for s in (on, today)
    ]
    assert settings[0] != settings[1]
    model, opt = ablations.build(on, 0, torch.float32)
    ids = torch.randint(ablations.VOCABULARY, (2, 65))
    losses = []
    for step in range(3):
        ablations.set_rates(opt, step, 3, on)
        losses.append(ablations.train_step(model, opt, [(ids[:, :-1], ids[:, 1:], None)]))
    assert losses[2] < losses[0]


def test_the_kept_report_is_what_the_kept_runs_say():
    if not ablations.REPORT.exists():
        pytest.skip("bench/results/ablations.json: no runs are kept")
    pytest.importorskip("scipy.stats", reason="scipy is not installed")
    kept, again = json.loads(ablations.REPORT.read_text()), ablations.report()
    for part in ("screen", "confirm", "equal_time"):
        assert json.loads(json.dumps(again.get(part))) == kept.get(part)


def test_no_difference_at_all_is_no_verdict():
    pytest.importorskip("scipy.stats", reason="scipy is not installed")
    found = ablations.paired([0.0, 0.0, 0.0])
    assert (found["p"], found["verdict"]) == (1.0, "?")


def test_a_line_that_was_cut_off_costs_only_its_own_run(tmp_path, capsys):
    path, trial = tmp_path / "runs.jsonl", ablations.Trial("screen", 1, ("smear",))
    ablations.keep(trial, ablations.Outcome(1.5, 1.0, 9), torch.float32, path)
    with path.open("a") as file:
        file.write('{"part": "screen", "se')
    other = ablations.Trial("screen", 2, ("smear",))
    ablations.keep(other, ablations.Outcome(1.6, 1.0, 9), torch.float32, path)
    assert set(ablations.kept(path)) == {trial.key, other.key}
    assert "line 2 of" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["1/1", "2/2", "0/0", "a/b", "1", "-1/2", ""])
def test_a_share_that_there_is_not(text):
    with pytest.raises(SystemExit, match="error: --share"):
        ablations.share_of(text)
    assert ablations.share_of("1/2") == (1, 2)
