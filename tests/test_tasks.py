"Tasks against what others wrote: HumanEval's programs through our judge; and one mixture in every process"

import gzip, json, random, subprocess, sys
from conftest import ROOT, environment
from nanochat.tasks import Code, identity_questions, world_tasks
from nanochat.scaling import make_plan


def test_humaneval_solutions_are_right_and_stubs_are_not(shared):
    rows = [json.loads(l) for l in gzip.open(shared / "humaneval" / "HumanEval.jsonl.gz", "rt")]
    judge = Code.__new__(Code)  # its verdict needs no world
    for row in random.Random(0).sample(rows, 20):
        item = dict(entry_point=row["entry_point"], tests=row["test"] + f"\ncheck({row['entry_point']})\n")
        assert judge.right(item, row["prompt"] + row["canonical_solution"]), row["task_id"]
        for wrong in (
            "    return None\n",
            "    raise SystemExit(0)\n",
            row["canonical_solution"] + "\nraise SystemExit(0)\n",
            row["canonical_solution"].replace("return", "return not "),
        ):
            assert not judge.right(item, row["prompt"] + wrong), (row["task_id"], wrong)


def test_a_mixture_is_the_same_in_every_process():
    code = """import hashlib, itertools
from nanochat.scaling import make_plan
from nanochat.sft import mixture
for stage in ("mid", "sft"):
    items = list(itertools.islice(mixture(None, make_plan("laptop", seed=3), stage)(40), 400))
    print(hashlib.sha256(repr(items).encode()).hexdigest())
"""
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment(PYTHONHASHSEED=h),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for h in (0, 1)
    }
    assert len(said) == 1


def test_what_is_taught_would_be_scored_as_right():
    "The answers of training conversations, judged as answers to their own items"
    tasks = world_tasks(make_plan("laptop", seed=1))
    w, rng = tasks["mc_hard"].world, random.Random(0)

    def text(c):
        return c if isinstance(c, str) else "".join(p["text"] for p in c if p["type"] == "text")

    for split in ("train", "test"):
        for p in w.word_problems(split, 100):
            assert tasks["word_problems"].right(p, text(tasks["word_problems"].conversation(p)[1]["content"]))
        for q in identity_questions(w, split, 300):
            for a in tasks["identity"].answers[q["kind"]]["say"]:
                assert tasks["identity"].right(q, a.format(**tasks["identity"].facts))
    for name in ("spelling", "sums"):
        for it in getattr(w, name)("test", 50):
            assert tasks[name].right(
                it, it["answer"] if name == "spelling" else f"The answer is {it['answer']}."
            )
    for p in rng.sample(w.programs("test"), 5):
        assert tasks["code"].right(p, p["prompt"] + p["solution"].rstrip("\n"))
