"""The laptop speedrun: who reaches the target for the least arithmetic? Rules and records: records/README.md

    python bench/speedrun.py try records/04_mine            train and score every seed, write record.json
    python bench/speedrun.py one records/04_mine --seed 0   one seed, shown and not kept
    python bench/speedrun.py table                          all records, as Markdown (--readme: into the page)
    python bench/speedrun.py check                          are p, cost and table what the kept runs say?

A record is a folder with a recipe.py, which defines STEPS and a class Learner:

    Learner(seed, steps, text)         builds a model; `text` gives World's training documents, tokenized
    learner.train(n)                   n of its steps
    learner.losses(ids_BT, targets_BT) nats of each token, as `bits_per_byte` wants them

Each seed has a process of its own. The clock runs from the opening of recipe.py to the end of training, so
compiling, writing the text and packing it count; starting Python and torch, and scoring, don't. One thread
computes, unless OMP_NUM_THREADS says otherwise, and another writes the text: two cores are enough.
"""

import argparse, importlib.util, json, math, os, re, statistics, subprocess, sys, tempfile, time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
import torch
from torch import Tensor
from nanochat.loader import Lanes, batches, prefetch, to_batch, val_rows
from nanochat.loss import bits_per_byte, board_file, board_text
from nanochat.runs import Damaged, UserError, atomic_write, sha256_file
from nanochat.runtime import keep_memory, matmul_flops, provenance
from nanochat.tokenizer import Tokenizer
from nanochat.world import World

RECORDS = here / "records"
TARGET = 1.0  # bits per byte of the course's frozen validation text
FEWEST, ALPHA = 5, 0.01  # seeds, and how unlikely it must be that the mean is at the target by luck
T = 256  # tokens in a row in which the validation text is scored
LAPS = 9  # of the matmul clock, before a run and after it
DTYPES = (torch.float32, torch.bfloat16)


# ---- the text ----


class Text:
    "All that a recipe gets: the frozen tokenizer, and World's training documents without end"

    def __init__(self):
        card = json.loads(board_file("scoreboard/card.json").read_text())
        folder = board_file("scoreboard/tokenizer/tokenizer.json").parent
        if sha256_file(folder / "tokenizer.json") != card["tokenizer"]["sha256"]:
            raise Damaged(f"{folder} is not the tokenizer that was frozen: bring it back with git")
        self.tok = Tokenizer.load(folder)
        self.vocab_size = self.tok.vocab_size

    def documents(self, seed: int, start: int = 0) -> Iterator[str]:
        "World(0)'s training documents from number `start` on: each seed has a stream of its own"
        return islice(World(0).documents("train", seed=seed), start, None)

    def batches(self, seed: int, rows: int, seq_len: int = T) -> Iterator[tuple[Tensor, Tensor]]:
        "Rows packed as in chapter 05, without end: (ids, targets)"

        def documents(start):
            return self.documents(seed, start)

        lanes = Lanes(documents, self.tok.encode_batch, self.tok.bos, seq_len + 1, lanes=4)
        for ids_BT, targets_BT, _ in prefetch(batches(lanes, rows, seq_len)):
            yield ids_BT, targets_BT


class Exam:
    "The validation text, which no recipe sees: a checksum keeps its documents out of the training text"

    def __init__(self, tok: Tokenizer, n_documents: int | None = None):
        self.vocab_size, self.token_bytes = tok.vocab_size, tok.token_bytes()
        rows = val_rows(iter(board_text("val")[:n_documents]), tok.encode, tok.bos, T)
        self.batches = [to_batch(rows[k : k + 32], T + 1) for k in range(0, len(rows), 32)]

    @torch.no_grad()
    def score(self, losses: Callable) -> float:
        "Bits per byte, if the losses are those of an honest model"
        first = losses(*self.batches[0])
        found = bits_per_byte(losses, self.batches, self.token_bytes)
        if not math.isfinite(found):
            raise UserError(f"its score is {found}: the training diverged")
        if (losses(*self.batches[0]) - first).abs().max() > 0.02:
            raise UserError("a second look gives other losses: nothing may be learned from the exam")
        self.refuse_foresight(losses, first)
        self.refuse_free_bits(losses)
        return found

    def refuse_foresight(self, losses: Callable, first: Tensor):
        "A loss depends on the tokens before it, and on no later one"
        ids_BT, targets_BT = self.batches[0]
        changed_BT = ids_BT.clone()
        changed_BT[:, T // 2 :] = (changed_BT[:, T // 2 :] + 1) % self.vocab_size
        difference = losses(changed_BT, targets_BT) - first
        if difference[:, : T // 2].abs().max() > 0.02:
            raise UserError("a loss changes with tokens that come later: the model sees the future")

    def refuse_free_bits(self, losses: Callable):
        "Of all tokens that could come next, the probabilities have the sum 1"
        V = self.vocab_size
        ids_VT = self.batches[0][0][:1, :8].expand(V, -1)
        total_T = (-losses(ids_VT, torch.arange(V)[:, None].expand(-1, 8))).double().exp().sum(0)
        if (total_T - 1).abs().max() > 0.02:
            raise UserError(
                f"the probabilities of all next tokens add up to {total_T[-1]:.3f} and not to 1: "
                "losses are -log of a distribution"
            )


# ---- a recipe ----


@contextmanager
def named(path: Path):
    "Whatever is wrong with a recipe becomes one line: where, and what"
    try:
        yield
    except UserError as e:
        raise UserError(f"{path}: {e}") from None
    except Exception as e:
        frames = traceback.extract_tb(e.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        at = lines[-1] if lines else getattr(e, "lineno", "?")
        what = (str(e).splitlines() or [""])[0]
        raise UserError(f"{path}, line {at}: {type(e).__name__}: {what}") from None


def open_recipe(folder: Path):
    "The module records/NN_name/recipe.py, with STEPS and Learner"
    path = folder.resolve() / "recipe.py"
    if not path.is_file():
        raise UserError(f"{folder}: no recipe.py in it; records/README.md says what belongs there")
    spec = importlib.util.spec_from_file_location("recipe", path)
    recipe = sys.modules["recipe"] = importlib.util.module_from_spec(spec)
    with named(path):
        spec.loader.exec_module(recipe)
        if type(getattr(recipe, "STEPS", None)) is not int or recipe.STEPS < 1:
            raise UserError("define STEPS, a whole number above 0")
        if not callable(getattr(recipe, "Learner", None)):
            raise UserError("define a class Learner(seed, steps, text)")
        if not (recipe.__doc__ or "").strip():
            raise UserError("open it with a docstring: its first line is the idea, as the table shows it")
    return recipe


# ---- one run ----


def matmul_gflops() -> dict:
    "Matmul speed now, of each dtype: the median of a few laps in turns, so that no one second decides"
    laps = {dtype: [] for dtype in DTYPES}
    for _ in range(LAPS):
        for dtype, speeds in laps.items():
            speeds.append(matmul_flops(dtype) / 1e9)
    return {str(dtype)[6:]: round(statistics.median(speeds), 1) for dtype, speeds in laps.items()}


@dataclass(frozen=True)
class Run:
    "What came of one seed"

    seed: int
    bits_per_byte: float
    seconds: float  # from the opening of recipe.py to the end of training
    gflops: dict  # {dtype: matmul GFLOP/s [before, after]}

    @property
    def speed(self) -> float:
        "GFLOP/s of the fastest dtype, the mean of before and after"
        return max(statistics.mean(pair) for pair in self.gflops.values())

    @property
    def cost(self) -> float:
        "Matmul-seconds: how long it would take where matmuls run at 1 TFLOP/s"
        return self.seconds * self.speed / 1000


def run_seed(folder: Path, seed: int, steps: int | None = None) -> Run:
    "Train on the clock, then score"
    text, path = Text(), folder.resolve() / "recipe.py"
    before = matmul_gflops()
    began = time.perf_counter()
    recipe = open_recipe(folder)
    steps = steps or recipe.STEPS
    with named(path):
        learner = recipe.Learner(seed, steps, text)
        for part in range(10):
            learner.train(steps * (part + 1) // 10 - steps * part // 10)
            print(f"  seed {seed}: {part + 1}0% in {time.perf_counter() - began:.1f} s", flush=True)
    seconds = time.perf_counter() - began
    after = matmul_gflops()
    with named(path):
        score = Exam(text.tok).score(learner.losses)
    return Run(seed, score, round(seconds, 3), {dtype: [before[dtype], after[dtype]] for dtype in before})


def run_apart(folder: Path, seed: int) -> Run:
    "The same in a process of its own, which finds nothing compiled by the seeds before"
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "run.json"
        env = dict(os.environ, TORCHINDUCTOR_CACHE_DIR=f"{place}/inductor", CUDA_VISIBLE_DEVICES="")
        command = [sys.executable, str(Path(__file__).resolve()), "one", str(folder)]
        done = subprocess.run([*command, "--seed", str(seed), "--out", str(out)], env=env)
        if done.returncode == 2:
            raise SystemExit(2)  # the line that says why is on the screen already
        if done.returncode:
            raise UserError(f"{folder}: seed {seed} ended with status {done.returncode} before it was scored")
        return Run(**json.loads(out.read_text()))


# ---- a record ----


@dataclass(frozen=True)
class Verdict:
    "What the runs of a record say; None where there are too few of them for it"

    mean: float | None  # bits per byte
    sd: float | None
    p: float | None  # how often such a mean would come by luck, were the true one at the target
    cost: float | None  # matmul-seconds, the median
    seconds: float | None  # likewise
    reached: bool  # the target, with enough seeds


def statistics_of_scipy():
    "scipy's tests, wanted by nothing else here"
    try:
        from scipy import stats
    except ImportError:
        raise UserError("p-values need scipy: bash speedrun.sh setup installs it") from None
    return stats


def judge(runs: list[Run]) -> Verdict:
    "Mean, p and cost of all seeds"
    if len(runs) < 2:
        return Verdict(None, None, None, None, None, False)
    scores = [run.bits_per_byte for run in runs]
    p = 1.0  # where all seeds score alike there is no spread that a test could go by
    if len(set(scores)) > 1:
        p = float(statistics_of_scipy().ttest_1samp(scores, TARGET, alternative="less").pvalue)
    return Verdict(
        mean=statistics.mean(scores),
        sd=statistics.stdev(scores),
        p=p,
        cost=statistics.median(run.cost for run in runs),
        seconds=statistics.median(run.seconds for run in runs),
        reached=len(runs) >= FEWEST and p < ALPHA,
    )


def cheaper_p(runs: list[Run], others: list[Run]) -> float:
    "How often costs would differ so by luck: a rank test, which asks nothing of their distribution"
    costs, before = [run.cost for run in runs], [run.cost for run in others]
    return float(statistics_of_scipy().mannwhitneyu(costs, before, alternative="less").pvalue)


@dataclass
class Record:
    "A folder of records/: the recipe, and the runs that record.json keeps"

    folder: Path
    idea: str
    steps: int
    recipe_sha256: str
    val_sha256: str
    target: float
    seeds: list  # fixed before the first run
    machine: dict
    runs: list

    @property
    def path(self) -> Path:
        return self.folder / "record.json"

    @property
    def complete(self) -> bool:
        return [run.seed for run in self.runs] == self.seeds

    def save(self):
        "Write record.json: what was measured, and what follows from it"
        said = {name: value for name, value in vars(self).items() if name != "folder"}
        said["runs"] = [dict(asdict(run), cost=run.cost) for run in self.runs]
        said["verdict"] = asdict(judge(self.runs))
        said["commit"] = provenance()["commit"]
        atomic_write(self.path, json.dumps(said, indent=1) + "\n")


def run_of(said: dict) -> Run:
    "A run as record.json keeps it"
    return Run(**{name: said[name] for name in Run.__dataclass_fields__})


def read_json(path: Path) -> dict:
    "What record.json says"
    try:
        said = json.loads(path.read_text())
        for name in ("runs", "seeds", "machine", "verdict", "idea", "steps"):
            said[name]
        for run in said["runs"]:
            run_of(run).cost, run["cost"]
        return said
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(f"{path}: not a record ({type(e).__name__}: {e}); bring it back with git") from None


def read_record(folder: Path) -> Record:
    "A record from its folder"
    said = read_json(folder / "record.json")
    kept = {name: said.get(name) for name in Record.__dataclass_fields__ if name != "folder"}
    return Record(folder=folder, **dict(kept, runs=[run_of(run) for run in said["runs"]]))


def this_machine() -> dict:
    "What must stay the same over all seeds of a record"
    known = provenance()
    kept = {name: known[name] for name in ("cpu", "cores", "python", "torch")}
    return dict(kept, threads=torch.get_num_threads())


def val_sha256() -> str:
    return json.loads(board_file("scoreboard/card.json").read_text())["val"]["sha256"]


def begin(folder: Path, seeds: list) -> Record:
    "A new record, or the one that was begun, if nothing about it has changed"
    recipe = open_recipe(folder)
    new = Record(
        folder=folder,
        idea=recipe.__doc__.strip().splitlines()[0],
        steps=recipe.STEPS,
        recipe_sha256=sha256_file(folder / "recipe.py"),
        val_sha256=val_sha256(),
        target=TARGET,
        seeds=seeds,
        machine=this_machine(),
        runs=[],
    )
    if not new.path.exists():
        return new
    old = read_record(folder)
    for name in ("recipe_sha256", "val_sha256", "target", "seeds", "machine"):
        if getattr(old, name) != getattr(new, name):
            raise UserError(
                f"{old.path} was begun with {name} {getattr(old, name)}, now it is {getattr(new, name)}: "
                "remove it to begin anew"
            )
    return old


def attempt(folder: Path, seeds: list):
    "Run the seeds that are missing, and say what came of them"
    statistics_of_scipy()  # missing, it is missed now and not after the first seed
    record = begin(folder, seeds)
    done = {run.seed for run in record.runs}
    for seed in seeds:
        if seed not in done:
            record.runs.append(run_apart(folder, seed))
            record.runs.sort(key=lambda run: run.seed)
            record.save()
            print(said_of(record.runs[-1]), flush=True)
    print(verdict_line(record))


def said_of(run: Run) -> str:
    "One line"
    score = f"seed {run.seed}: {run.bits_per_byte:.4f} bits per byte"
    return f"{score}, {run.seconds:.1f} s at {run.speed:.0f} GFLOP/s, {run.cost:.2f} matmul-seconds"


def verdict_line(record: Record) -> str:
    "One sentence"
    found = judge(record.runs)
    if found.p is None:
        return f"{record.folder.name}: one seed says nothing; a record takes {FEWEST}"
    n = len(record.runs)
    line = f"{record.folder.name}: {found.mean:.4f} bits per byte over {n} seeds, p = {found.p:.2g}"
    if not found.reached:
        why = f"fewer than {FEWEST} seeds" if n < FEWEST else f"not below {TARGET} at p < {ALPHA}"
        return f"{line}: no record, {why}"
    return f"{line}: below {TARGET}, for {found.cost:.2f} matmul-seconds"


# ---- all records ----


def all_records(folder: Path = RECORDS) -> list[Record]:
    "Those that were run, in order"
    places = [place for place in sorted(folder.glob("*")) if re.fullmatch(r"\d\d_\w+", place.name)]
    return [read_record(place) for place in places if (place / "record.json").exists()]


@dataclass(frozen=True)
class Line:
    "A record among the others"

    record: Record
    found: Verdict
    rival: "Line | None"  # the cheapest of those above that reached the target on the same machine
    counts: bool


def same_machine(one: Record, other: Record) -> bool:
    "Costs of two machines are not compared"
    return all(one.machine.get(name) == other.machine.get(name) for name in ("cpu", "cores", "threads"))


def standings(records: list[Record]) -> list[Line]:
    "Which of them count: the target is reached, for less than by the record so far on the same machine"
    lines, reigning = [], None
    for record in records:
        found = judge(record.runs)
        rivals = [line for line in lines if line.found.reached and same_machine(line.record, record)]
        rival = min(rivals, key=lambda line: line.found.cost, default=None)
        met = {line.record.recipe_sha256 for line in rivals}
        cheaper = reigning is None or reigning.recipe_sha256 in met and found.cost < rival.found.cost
        lines.append(Line(record, found, rival, found.reached and record.complete and cheaper))
        if lines[-1].counts:
            reigning = record
    return lines


def table(records: list[Record]) -> str:
    "As Markdown"
    head = "| record | idea | bits per byte (seeds) | p | matmul-seconds | of the best before (p) | seconds |"
    rows = [head, "|---|---|---|---:|---:|---:|---:|"]
    for line in standings(records):
        record, found = line.record, line.found
        if found.p is None:
            continue
        share = "–"
        if line.rival:
            luck = cheaper_p(record.runs, line.rival.record.runs)
            share = f"{found.cost / line.rival.found.cost:.2f} ({luck:.1g})"
        name = f"[{record.folder.name}]({record.folder.name}/recipe.py)"
        name += "" if line.counts else " (does not count)"
        score = f"{found.mean:.3f} ± {found.sd:.3f} ({len(record.runs)})"
        rows.append(
            f"| {name} | {record.idea} | {score} | {found.p:.1g} | {found.cost:.2f} | {share} "
            f"| {found.seconds:.0f} |"
        )
    return "\n".join(rows)


BETWEEN = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- /table -->)", re.S)


def page_with(page: str, rows: str) -> str:
    "The page of the records with this table in it"
    if not BETWEEN.search(page):
        raise UserError("records/README.md: the comments that mark its table are gone")
    return BETWEEN.sub(lambda _: rows + "\n", page, count=1)


def alike(kept, now) -> bool:
    "The same but for the last digits, in which two versions of scipy may differ"
    if isinstance(now, dict):
        return kept.keys() == now.keys() and all(alike(kept[name], now[name]) for name in now)
    if isinstance(now, float) and isinstance(kept, float):
        return math.isclose(kept, now, rel_tol=1e-6)
    return kept == now


def faults(folder: Path = RECORDS) -> list[str]:
    "What does not follow from the kept runs"
    out, records = [], all_records(folder)
    for record in records:
        said = read_json(record.path)
        name = record.folder.name
        if not alike(said["verdict"], asdict(judge(record.runs))):
            out.append(f"{name}: the verdict is not what the kept runs say")
        if not all(alike(kept["cost"], run.cost) for kept, run in zip(said["runs"], record.runs)):
            out.append(f"{name}: a cost is not seconds times speed")
        if record.seeds != list(range(len(record.seeds))) or not record.complete:
            out.append(f"{name}: the seeds must be 0, 1, 2 and so on, and none may be missing")
        if record.recipe_sha256 != sha256_file(record.folder / "recipe.py"):
            out.append(f"{name}: recipe.py is not the one that was run")
        if (record.target, record.val_sha256) != (TARGET, val_sha256()):
            out.append(f"{name}: another target, or another validation text")
    page = (folder / "README.md").read_text(encoding="utf-8") if (folder / "README.md").exists() else ""
    if page and page_with(page, table(records)) != page:
        out.append("README.md: not the table of the records: python bench/speedrun.py table --readme")
    return out


# ---- the door ----


def seed_list(words: str) -> list[int]:
    "0,1,2 as numbers"
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", words):
        raise argparse.ArgumentTypeError(f"takes numbers with commas, as 0,1,2,3,4, not {words!r}")
    seeds = [int(word) for word in words.split(",")]
    if seeds != list(range(len(seeds))):
        raise argparse.ArgumentTypeError(f"takes 0, 1, 2 and so on, so that none is picked, not {words}")
    return seeds


def positive(word: str) -> int:
    "A number of steps"
    if not re.fullmatch(r"[1-9]\d{0,8}", word):
        raise argparse.ArgumentTypeError(f"takes a whole number above 0, not {word!r}")
    return int(word)


def parser() -> argparse.ArgumentParser:
    "The command line"
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = ap.add_subparsers(dest="part", required=True)
    trying = parts.add_parser("try", help="run all seeds of a recipe; one that was stopped goes on")
    trying.add_argument("folder", type=Path, help="records/NN_name, with a recipe.py in it")
    trying.add_argument("--seeds", type=seed_list, default=list(range(FEWEST)), help="0,1,2,3,4 or more")
    one = parts.add_parser("one", help="one seed, shown and not kept")
    one.add_argument("folder", type=Path, help="records/NN_name, with a recipe.py in it")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--steps", type=positive, help="instead of the recipe's STEPS")
    one.add_argument("--out", type=Path, help="a file that takes the result, as JSON")
    tables = parts.add_parser("table", help="all records as Markdown")
    tables.add_argument("--readme", action="store_true", help="write it into records/README.md")
    parts.add_parser("check", help="do verdicts, costs and table follow from the kept runs?")
    return ap


def main():
    a = parser().parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    try:
        if a.part == "try":
            attempt(a.folder, a.seeds)
        elif a.part == "one":
            keep_memory()
            run = run_seed(a.folder, a.seed, a.steps)
            if a.out:
                a.out.write_text(json.dumps(asdict(run)))
            else:
                print(said_of(run))
        elif a.part == "check":
            found = faults()
            print("\n".join(found) or "every verdict follows from its runs")
            sys.exit(1 if found else 0)
        else:
            rows = table(all_records())
            if a.readme:
                page = RECORDS / "README.md"
                atomic_write(page, page_with(page.read_text(encoding="utf-8"), rows))
            print(rows)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on with the missing seeds" if a.part == "try" else 130)


if __name__ == "__main__":
    main()
