"The laptop speedrun: what a record is, what is refused, and that the kept ones say what their runs say"

import importlib.util, json, re, shlex, subprocess, sys
from itertools import islice
import pytest, torch
from conftest import ROOT, environment, one_line
from nanochat.loss import board_text
from nanochat.runs import UserError
from nanochat.world import in_val

spec = importlib.util.spec_from_file_location("speedrun", ROOT / "bench" / "speedrun.py")
speedrun = sys.modules["speedrun"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(speedrun)
Record, Run = speedrun.Record, speedrun.Run

TINY = '''"""A table of what follows what, learned by gradient steps"""
import torch
from torch.nn.functional import cross_entropy
STEPS = 20
class Learner:
    def __init__(self, seed, steps, text):
        torch.manual_seed(seed)
        self.table_VV = (0.01 * torch.randn(text.vocab_size, text.vocab_size)).requires_grad_()
        self.optimizer = torch.optim.Adam([self.table_VV], lr=0.3)
        self.batches = text.batches(seed, 2)
    def train(self, n):
        for _ in range(n):
            self.losses(*next(self.batches)).mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
    def losses(self, ids_BT, targets_BT):
        logits_BVT = self.table_VV[ids_BT].transpose(1, 2)
        return cross_entropy(logits_BVT, targets_BT, reduction="none", ignore_index=-1)
'''


@pytest.fixture(scope="module")
def text():
    return speedrun.Text()


@pytest.fixture(scope="module")
def exam(text):
    return speedrun.Exam(text.tok, 40)


@pytest.fixture
def quick(monkeypatch):
    "A short exam and a short clock, and seeds that run in this process"
    whole = speedrun.Exam
    monkeypatch.setattr(speedrun, "Exam", lambda tok: whole(tok, 40))
    monkeypatch.setattr(speedrun, "LAPS", 1)
    monkeypatch.setattr(speedrun, "run_apart", speedrun.run_seed)


def written(folder, code=TINY):
    "A record's folder with this recipe in it"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.py").write_text(code)
    return folder


def runs(scores, costs):
    "As if seeds had ended so: at 1 TFLOP/s a second is a matmul-second"
    gflops = dict(float32=[100.0, 300.0], bfloat16=[900.0, 1100.0])
    return [Run(seed, score, cost, gflops) for seed, (score, cost) in enumerate(zip(scores, costs))]


def record(folder, kept, cpu="this", recipe=TINY):
    "A record of these runs, on disk"
    written(folder, recipe)
    made = speedrun.begin(folder, [run.seed for run in kept])
    made.machine, made.runs = dict(made.machine, cpu=cpu), kept
    made.save()
    return made


LOW, HIGH = [0.98, 0.97, 0.99, 0.96, 0.98], [1.01, 0.97, 0.99, 1.02, 0.98]


# ---- the text ----


def test_nothing_of_the_exam_is_trained_on(text):
    "By checksum: an eighth of all texts is held out, and the frozen validation text is all of that kind"
    held_out = board_text("val")
    assert all(map(in_val, held_out))
    for seed in (0, 1):
        read = list(islice(text.documents(seed), 400))
        assert not any(map(in_val, read)) and not set(read) & set(held_out)


def test_seeds_read_texts_of_their_own_and_twice_the_same(text):
    first, again, other = (list(islice(text.documents(seed), 5)) for seed in (0, 0, 1))
    assert first == again != other
    assert list(islice(text.documents(0, 2), 3)) == first[2:]
    ids_BT, targets_BT = next(text.batches(0, 3))
    assert ids_BT.shape == (3, 256) and (ids_BT[:, 0] == text.tok.bos).all()
    assert torch.equal(ids_BT[:, 1:], targets_BT[:, :-1])


# ---- the exam ----


class Guesser:
    "Every token is as likely as any other"

    def __init__(self, vocab_size):
        self.nats = torch.tensor(float(vocab_size)).log()

    def losses(self, ids_BT, targets_BT):
        return self.nats.expand(ids_BT.shape)


def test_an_honest_guess_is_scored(text, exam):
    assert 3 < exam.score(Guesser(text.vocab_size).losses) < 4


def test_foresight_free_bits_and_learning_from_the_exam_are_refused(text, exam):
    honest = Guesser(text.vocab_size).losses

    def foresees(ids_BT, targets_BT):
        return honest(ids_BT, targets_BT) + 0.1 * (ids_BT.sum(1, keepdim=True) % 7)

    def gives_away(ids_BT, targets_BT):
        return honest(ids_BT, targets_BT) - 0.1

    calls = []

    def learns(ids_BT, targets_BT):
        calls.append(1)
        return honest(ids_BT, targets_BT) - 0.1 * len(calls)

    def diverged(ids_BT, targets_BT):
        return honest(ids_BT, targets_BT) * float("nan")

    for losses, words in (
        (foresees, "sees the future"),
        (gives_away, "add up to 1.1"),
        (learns, "learned from the exam"),
        (diverged, "diverged"),
    ):
        with pytest.raises(UserError, match=words):
            exam.score(losses)


# ---- one run ----


def test_a_table_learns_on_the_clock_and_costs_what_it_took(tmp_path, quick):
    run = speedrun.run_seed(written(tmp_path / "01_tiny"), 0)
    few = speedrun.run_seed(tmp_path / "01_tiny", 0, steps=1)
    assert run.bits_per_byte < few.bits_per_byte - 0.3 and run.seconds > 0
    speeds = [sum(pair) / 2 for pair in run.gflops.values()]
    assert run.cost == pytest.approx(run.seconds * max(speeds) / 1000)


def test_a_matmul_second_is_a_second_at_one_teraflop():
    run = Run(0, 1.0, 60.0, dict(float32=[100.0, 140.0], bfloat16=[400.0, 600.0]))
    assert run.speed == 500 and run.cost == 30


# ---- a record ----


def test_what_was_stopped_goes_on_with_the_missing_seeds(tmp_path, quick, monkeypatch, capsys):
    folder = written(tmp_path / "01_tiny")
    seen, run_one = [], speedrun.run_apart

    def dies_at_one(folder, seed):
        seen.append(seed)
        if seed == 1 and len(seen) == 2:
            raise KeyboardInterrupt
        return run_one(folder, seed)

    monkeypatch.setattr(speedrun, "run_apart", dies_at_one)
    with pytest.raises(KeyboardInterrupt):
        speedrun.attempt(folder, [0, 1])
    kept = json.loads((folder / "record.json").read_text())
    assert [run["seed"] for run in kept["runs"]] == [0]
    speedrun.attempt(folder, [0, 1])
    assert seen == [0, 1, 1]
    made = speedrun.read_record(folder)
    assert made.complete and made.idea == "A table of what follows what, learned by gradient steps"
    assert made.runs[0] == Run(**{name: kept["runs"][0][name] for name in Run.__dataclass_fields__})
    assert made.runs[0].bits_per_byte != made.runs[1].bits_per_byte
    assert "no record, fewer than 5 seeds" in capsys.readouterr().out


def test_a_begun_record_is_not_mixed_with_another(tmp_path):
    folder = tmp_path / "01_a"
    record(folder, runs(LOW, [9] * 5), cpu=speedrun.this_machine()["cpu"])
    with pytest.raises(UserError, match="begun with seeds"):
        speedrun.begin(folder, list(range(6)))
    written(folder, TINY.replace("0.3", "0.2"))
    with pytest.raises(UserError, match="begun with recipe_sha256"):
        speedrun.begin(folder, list(range(5)))
    record(tmp_path / "02_b", runs(LOW, [9] * 5), cpu="another")
    with pytest.raises(UserError, match="begun with machine"):
        speedrun.begin(tmp_path / "02_b", list(range(5)))


def test_verdicts_against_scipy():
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    found = speedrun.judge(runs(LOW, [10, 30, 20, 50, 40]))
    assert found.p == pytest.approx(stats.ttest_1samp(LOW, 1.0, alternative="less").pvalue)
    assert found.reached and found.cost == 30 and found.mean == pytest.approx(0.976)
    assert not speedrun.judge(runs(HIGH, [9] * 5)).reached
    assert not speedrun.judge(runs(LOW[:4], [9] * 4)).reached
    assert speedrun.judge(runs([0.9] * 5, [9] * 5)).p == 1, "without spread there is nothing to go by"
    assert speedrun.judge(runs([0.9], [9])).p is None
    costs = speedrun.cheaper_p(runs(LOW, [1, 2, 3, 4, 5]), runs(LOW, [6, 7, 8, 9, 10]))
    assert costs == pytest.approx(1 / 252)


def test_which_records_count(tmp_path):
    pytest.importorskip("scipy.stats", reason="scipy is not installed")
    first = record(tmp_path / "01_first", runs(LOW, [50] * 5), recipe=TINY + "# 1\n")
    record(tmp_path / "02_slower", runs(LOW, [60] * 5), recipe=TINY + "# 2\n")
    record(tmp_path / "03_worse", runs(HIGH, [10] * 5), recipe=TINY + "# 3\n")
    record(tmp_path / "04_faster", runs(LOW, [40, 41, 42, 43, 44]), recipe=TINY + "# 4\n")
    record(tmp_path / "05_elsewhere", runs(LOW, [20] * 5), cpu="other", recipe=TINY + "# 5\n")
    record(tmp_path / "06_again", runs(LOW, [30] * 5), cpu="other", recipe=TINY + "# 4\n")
    record(tmp_path / "07_beside", runs(LOW, [19] * 5), cpu="other", recipe=TINY + "# 7\n")
    (tmp_path / "08_not_run").mkdir()
    records = speedrun.all_records(tmp_path)
    lines = speedrun.standings(records)
    assert [line.record.folder.name[:2] for line in lines if line.counts] == ["01", "04", "07"]
    assert lines[3].rival.record.runs == first.runs
    table = speedrun.table(records).splitlines()
    assert len(table) == 2 + 7 and {row.count("|") for row in table} == {8}
    assert "0.84 (0.004)" in table[5] and "(does not count)" in table[3]
    assert speedrun.faults(tmp_path) == []


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda said: said["verdict"].update(p=1e-9), "verdict"),
        (lambda said: said["runs"][0].update(bits_per_byte=0.5), "verdict"),
        (lambda said: said["runs"][0].update(cost=1.0), "seconds times speed"),
        (lambda said: said["runs"].pop(2), "none may be missing"),
        (lambda said: said.update(seeds=[0, 1, 2, 3, 7]), "none may be missing"),
        (lambda said: said.update(recipe_sha256="0"), "not the one that was run"),
        (lambda said: said.update(target=2.0), "another target"),
    ],
)
def test_a_record_that_was_touched_is_found_out(tmp_path, change, words):
    pytest.importorskip("scipy.stats", reason="scipy is not installed")
    path = record(tmp_path / "01_a", runs(LOW, [9] * 5)).path
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))
    assert any(words in fault for fault in speedrun.faults(tmp_path))


# ---- the command ----


def command(*words, cwd=ROOT):
    script = [sys.executable, str(ROOT / "bench" / "speedrun.py")]
    return subprocess.run(
        [*script, *map(str, words)], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120
    )


def test_a_seed_has_a_process_of_its_own(tmp_path):
    folder = written(tmp_path / "01_tiny", TINY.replace("STEPS = 20", "import os\nSTEPS = os.getpid()"))
    out = tmp_path / "run.json"
    done = command("one", folder, "--steps", 10, "--seed", 3, "--out", out)
    assert done.returncode == 0, done.stderr
    run = Run(**json.loads(out.read_text()))
    assert run.seed == 3 and set(run.gflops) == {"float32", "bfloat16"} and "100% in" in done.stdout


@pytest.mark.parametrize(
    "code, words",
    [
        (None, "no recipe.py in it"),
        (TINY.replace("STEPS = 20", ""), "define STEPS"),
        (TINY.replace("STEPS = 20", "STEPS = 0"), "define STEPS"),
        (TINY.replace("class Learner", "class Learned"), "define a class Learner"),
        (TINY.split('"""')[2], "docstring"),
        (TINY.replace("STEPS = 20", "STEPS = 20 +"), "line 4: SyntaxError"),
        (TINY.replace("import torch\n", "import torhc\n"), "line 2: ModuleNotFoundError"),
    ],
)
def test_a_recipe_that_is_none_gets_one_line(tmp_path, code, words):
    folder = tmp_path / "01_a"
    folder.mkdir()
    if code:
        written(folder, code)
    with pytest.raises(UserError, match=words) as e:
        speedrun.open_recipe(folder)
    assert "\n" not in str(e.value) and str(folder) in str(e.value)


def test_a_recipe_that_fails_while_it_trains_gets_one_line(tmp_path, quick):
    folder = written(tmp_path / "01_a", TINY.replace("self.optimizer.step()", "self.optimizer.stop()"))
    with pytest.raises(UserError, match="recipe.py, line 14: AttributeError"):
        speedrun.run_seed(folder, 0)


@pytest.mark.parametrize(
    "words, said",
    [
        (["try", "nowhere"], "no recipe.py"),
        (["try", "records/01_baseline", "--seeds", "0,1,x"], "numbers with commas"),
        (["try", "records/01_baseline", "--seeds", "0,1,7"], "0, 1, 2 and so on"),
        (["one", "records/01_baseline", "--steps", "0"], "above 0"),
        (["race"], "invalid choice"),
        ([], "required"),
    ],
)
def test_bad_input_gets_one_line(words, said, capsys, monkeypatch):
    "In this process, but for the first: its line is the program's own"
    if words[:2] == ["try", "nowhere"]:
        return one_line(command(*words), said, status=2)
    monkeypatch.setattr(sys, "argv", ["speedrun.py", *words])
    with pytest.raises(SystemExit) as e:
        speedrun.main()
    assert e.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]


def test_a_damaged_record_gets_one_line(tmp_path):
    path = record(tmp_path / "01_a", runs(LOW, [9] * 5)).path
    whole = path.read_text()
    for damaged in (whole[:50], whole.replace('"gflops"', '"speed"'), "[]", '{"runs": 3}'):
        path.write_text(damaged)
        with pytest.raises(UserError, match="not a record"):
            speedrun.all_records(tmp_path)


# ---- what is kept ----

PAGE = ROOT / "records" / "README.md"


def test_the_kept_records_say_what_their_runs_say():
    pytest.importorskip("scipy.stats", reason="scipy is not installed")
    assert speedrun.faults() == []


def test_the_page_shows_commands_that_can_be_typed():
    commands = re.findall(r"python bench/speedrun\.py ([^`\n]*)", PAGE.read_text(encoding="utf-8"))
    assert len(commands) >= 3
    for line in commands:
        speedrun.parser().parse_args(shlex.split(line.split("#")[0]))


def test_the_pages_example_is_what_the_test_says():
    pytest.importorskip("scipy.stats", reason="scipy is not installed")
    words = re.search(r"An example, with invented scores: (.*)", PAGE.read_text(encoding="utf-8"))[1]
    scores = [float(word) for word in re.findall(r"\d\.\d+", words.split(" Their")[0])]
    found = speedrun.judge(runs(scores, [9] * 5))
    assert f"p = {found.p:.3f}, and no record" in words and not found.reached
    assert f"mean is {found.mean:.3f} and their standard deviation {found.sd:.4f}" in words
    lower = speedrun.judge(runs([score - 0.0051 for score in scores], [9] * 5))
    assert f"p = {lower.p:.4f}: a record" in words and lower.reached


@pytest.mark.parametrize("folder", sorted((ROOT / "records").glob("[0-9]*")), ids=lambda folder: folder.name)
def test_every_recipe_of_the_course_learns(folder, text, exam):
    "A few steps of each"
    recipe = speedrun.open_recipe(folder)
    learner = recipe.Learner(0, 6, text)
    before = exam.score(learner.losses)
    learner.train(6)
    assert exam.score(learner.losses) < before - 0.02
