"""Which switch helps: sixteen columns screened at once, then eight switches confirmed with paired seeds.

    screen    32 runs: every switch on in half of them, off in the other half
    confirm   today's recipe beside the same with one switch turned, seed by seed: the eight of CONFIRMED,
              or --switch NAME ...
    speed     what each switch costs: steps timed in turns, on a quiet machine
    time      --switch NAME ...: the turned recipe again, with as many steps as fit into today's time
    report    effects, intervals and power from all runs kept so far
    one       --switch NAME --seed N: a single pair, shown and not kept

Every run is one process's work on one thread, and its result is one line of bench/results/ablations.jsonl;
what stands there is not run again, so that the list may be worked off by several processes (`--share 0/2`
and `--share 1/2`) and may be stopped at any time. Two runs with one seed read the same rows in the same
order. Shape, length and rates are those of the laptop tier, on prose; the text is the books' first nine
tenths, the score bits per byte on what follows.
"""

import argparse, json, math, os, statistics, sys, time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
import torch
from nanochat.corpus import Corpus
from nanochat.distributed import MuonAdamW, param_groups
from nanochat.evaluate import model_bpb
from nanochat.gpt import GPT
from nanochat.loader import Lanes, batches, val_rows
from nanochat.optim import COURSE, NANOCHAT_2026, MuonSettings, momentum_at, weight_decay_at
from nanochat.pretrain import lr_at, train_step
from nanochat.runs import atomic_write
from nanochat.runtime import keep_memory, provenance, seed_all
from nanochat.scaling import config_for
from nanochat.tokenizer import Tokenizer

RUNS = here / "bench" / "results" / "ablations.jsonl"
REPORT = here / "bench" / "results" / "ablations.json"

# the laptop tier's shape, batch and rates; a quarter of its steps
SHAPE = dict(depth=4, n_embd=128, n_head=2, seq_len=256)
VOCABULARY, ROWS, LANES, STEPS, WARMDOWN = 2048, 4, 4, 900, 0.4
RATES = dict(matrix_lr=0.01, embed_lr=0.1, head_lr=0.002)  # half of COURSE's, as the tier has them
VAL_TOKENS = 120_000
SCREEN_SEED, CONFIRM_SEEDS = 100, range(6)
FEWEST_PAIRS = 3  # of which the report speaks: from two pairs no spread can be told
# lr x decay x steps as at nanochat's depth 12 (0.02 x 0.28 x about 2,500), for our rate and steps
DECAY = 0.28 * (0.02 / RATES["matrix_lr"]) * (2500 / STEPS)


@dataclass(frozen=True)
class Switch:
    "One idea that can be on or off, and what it changes"

    what: str
    model: tuple = ()  # fields of GPTConfig where it is on
    off: tuple = ()  # and where it is off
    muon: tuple = ()  # fields of MuonSettings
    rates_2026: bool = False  # all that AdamW steps: rates, betas and decay of nanochat's table
    decay: bool = False  # cautious weight decay on matrices, half a cosine
    momentum: bool = False  # Muon's momentum up to 0.97, and down to 0.9 during the warm-down
    today: bool = False  # is it on in today's recipe?


SWITCHES = {
    "value embeddings": Switch(
        "a second table added to the values of every other layer",
        (("value_embeds", True),),
        (("value_embeds", False),),
        today=True,
    ),
    "x0 residual": Switch(
        "learned scales on the stream and on the first embedding",
        (("x0_residual", True),),
        (("x0_residual", False),),
        today=True,
    ),
    "smear": Switch(
        "a share of the token before in every embedding", (("smear", True),), (("smear", False),), today=True
    ),
    "backout": Switch(
        "part of the middle layer's stream taken out again",
        (("backout", True),),
        (("backout", False),),
        today=True,
    ),
    "windows": Switch("three of four layers see 64 tokens", (("window", 64),), (("window", 0),)),
    "RoPE base 100,000": Switch(
        "slower angles", (("rope_base", 100_000.0),), (("rope_base", 10_000.0),)
    ),
    "q and k by 1.2": Switch(
        "sharper attention after QK-norm", (("qk_scale", 1.2),), (("qk_scale", 1.0),)
    ),
    "first weights of 2026": Switch("nanochat's of 2026", (("first", "2026"),), (("first", "2025"),)),
    "rates of 2026": Switch("nanochat's rates, betas and decay for all that AdamW steps", rates_2026=True),
    "cautious decay": Switch("matrices decay where the update agrees", decay=True),
    "NorMuon, longer side": Switch(
        "even lengths along the longer side, beta2 0.9", muon=(("side", "longer"), ("beta2", 0.9))
    ),
    "MuonEq": Switch("rows of one length before the polar factor", muon=(("equalize", True),)),
    "Muon+": Switch("the polar factor's full length after it", muon=(("renormalize", True),)),
    "momentum up and down": Switch("up to 0.97, down to 0.9 at the end", momentum=True),
}
TODAY = frozenset(name for name, switch in SWITCHES.items() if switch.today)
# the four that helped most in the screening, and the four of the others that the field holds dearest
CONFIRMED = ("value embeddings", "smear", "windows", "Muon+") + (
    "x0 residual", "NorMuon, longer side", "cautious decay", "momentum up and down"
)

# asked after the screening: fewer polynomials, by chapter 10's design(l=0.003, n=4) and design(l=0.01, n=3)
FOUR = (
    (8.089256959, -22.297789245, 15.747758401),
    (3.943378132, -2.784615047, 0.503808707),
    (3.472945651, -2.500502056, 0.478927525),
    (2.552322206, -1.886821974, 0.442619509),
)
THREE = (
    (7.862295017, -21.672175597, 15.305920312),
    (3.580197525, -2.575292244, 0.487098920),
    (2.701537312, -2.010005971, 0.456266675),
)
ALL = SWITCHES | {
    "four polar steps": Switch("four polynomials in place of five", muon=(("coefs", FOUR),)),
    "three polar steps": Switch("three polynomials in place of five", muon=(("coefs", THREE),)),
}


@dataclass(frozen=True)
class Trial:
    "One training run"

    part: str  # screen, confirm, time, or polar: pairs that were asked before the others, on older code
    seed: int
    on: tuple  # names of the switches that are on
    steps: int = STEPS

    @property
    def key(self):
        return json.dumps([self.part, self.seed, sorted(self.on), self.steps])


@dataclass
class Outcome:
    "What came of it"

    bpb: float
    seconds: float  # of the training steps; on a shared machine worth nothing
    params: int
    curve: list = field(default_factory=list)  # mean loss of every 50 steps, in nats a token


# ---- the design ----


def hadamard(n: int) -> torch.Tensor:
    "Sylvester's matrix of +1 and -1, n a power of two: any two columns agree in half of the rows"
    matrix = torch.ones(1, 1)
    while len(matrix) < n:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix


def screening() -> list[Trial]:
    "Sixteen rows and their opposites: no switch is mixed up with another, or with two others together"
    plan = hadamard(16)
    trials = []
    for row in torch.cat((plan, -plan)):
        on = tuple(name for name, sign in zip(SWITCHES, row.tolist()) if sign > 0)
        trials.append(Trial("screen", SCREEN_SEED, on))
    return trials


def flipped(name: str) -> tuple:
    "Today's recipe with one switch turned"
    return tuple(sorted(TODAY ^ {name}))


def confirming(names: list, seeds=CONFIRM_SEEDS) -> list[Trial]:
    "Today's recipe and its neighbours, seed by seed, so that whatever is finished is paired"
    trials = []
    for seed in seeds:
        trials.append(Trial("confirm", seed, tuple(sorted(TODAY))))
        trials += [Trial("confirm", seed, flipped(name)) for name in names]
    return trials


# ---- one run ----


class Text:
    "The corpus, its tokenizer and its validation rows, made once for a process"

    def __init__(self, folder: str):
        self.folder = folder
        self.tok = Tokenizer.train(Corpus(folder, 0).documents(epochs=1), VOCABULARY)
        docs = Corpus(folder, 0).documents("val")
        self.rows = val_rows(docs, self.tok.encode, self.tok.bos, SHAPE["seq_len"], VAL_TOKENS)

    def stream(self, seed: int):
        "Batches of the training text in this seed's order"
        T = SHAPE["seq_len"]

        def docs(at=0):
            return Corpus(self.folder, seed).documents("train", at)

        return batches(Lanes(docs, self.tok.encode_batch, self.tok.bos, T + 1, LANES), ROWS, T)


def table_for(on: tuple):
    "Kinds of parameters with the switches that are on"
    matrices = dict(pair for name in on for pair in ALL[name].muon)
    kinds = NANOCHAT_2026.kinds if any(ALL[name].rates_2026 for name in on) else COURSE.kinds
    base = NANOCHAT_2026 if kinds is NANOCHAT_2026.kinds else COURSE
    scale = RATES["matrix_lr"] / COURSE.matrix_lr  # the tier takes half; so of 2026's
    decay = DECAY if any(ALL[name].decay for name in on) else 0.0
    muon = MuonSettings(**matrices)
    ours = []
    for kind in kinds:
        if kind.muon:
            kind = replace(kind, muon=muon, weight_decay=decay, cautious=bool(decay))
        elif kind.base == "scalar":
            kind = replace(kind, eps=1e-6)  # in both tables: rounding is no step (chapter 10)
        ours.append(kind)
    return replace(
        base,
        kinds=tuple(ours),
        matrix_lr=scale * COURSE.matrix_lr,
        embed_lr=scale * base.embed_lr,
        head_lr=scale * base.head_lr,
        scalar_lr=base.scalar_lr,
    )


def config_of(on: tuple):
    "The model's shape and switches"
    chosen = {}
    for name, switch in SWITCHES.items():
        chosen |= dict(switch.model if name in on else switch.off)
    return config_for(vocab_size=VOCABULARY, modern=False, **SHAPE, **chosen)


def set_rates(opt, step: int, steps: int, on: tuple):
    "Rates, decay and momentum of a step"
    factor = lr_at(step, steps, 0, WARMDOWN, 0.0)
    moving = any(ALL[name].momentum for name in on)
    for group in opt.groups:
        group["lr"] = group["base_lr"] * factor
        if group["kind"] != "muon":
            continue
        group["weight_decay"] = group["base_decay"] * weight_decay_at(step, steps)
        if moving:
            group["momentum"] = momentum_at(step, 200, 0.85, 0.97, steps, WARMDOWN, 0.9)
        else:
            group["momentum"] = momentum_at(step)


def build(on: tuple, seed: int, dtype):
    "Model and optimizer"
    seed_all(seed)
    model = GPT(config_of(on), dtype).train()
    return model, MuonAdamW(param_groups(model, table=table_for(on)))


def run(trial: Trial, text: Text, dtype) -> Outcome:
    "Train and score"
    model, opt = build(trial.on, trial.seed, dtype)
    stream, losses, curve = text.stream(trial.seed), [], []
    began = time.perf_counter()
    for step in range(trial.steps):
        set_rates(opt, step, trial.steps, trial.on)
        losses.append(train_step(model, opt, [next(stream)]))
        if len(losses) == 50:
            curve.append(round(statistics.mean(losses), 4))
            losses = []
    seconds = time.perf_counter() - began
    model.eval()
    bpb = model_bpb(model, text.rows, text.tok, SHAPE["seq_len"])
    return Outcome(round(bpb, 5), round(seconds, 1), sum(p.numel() for p in model.parameters()), curve)


# ---- keeping ----


def kept(path: Path = RUNS) -> dict:
    "Outcomes by the key of their trial"
    if not path.exists():
        return {}
    return {trial_of(line).key: line for line in whole_lines(path)}


def whole_lines(path: Path) -> list:
    "What each line says; one that was cut off by a full disk or a power cut is named and passed over"
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            found.append(json.loads(line))
        except ValueError:
            print(f"warning: line {number} of {path} is broken and counts as not run", file=sys.stderr)
    return found


def append(path: Path, line: dict):
    "One line, on a line of its own even behind one that was cut off"
    text = path.read_text() if path.exists() else ""
    with path.open("a") as file:
        file.write("\n" * bool(text and not text.endswith("\n")) + json.dumps(line) + "\n")


def share_of(text: str) -> tuple:
    "0/2: the first of two shares"
    number, _, of = text.partition("/")
    if not (number.isdigit() and of.isdigit() and int(number) < int(of)):
        sys.exit(f"error: --share {text}: give 0/2 and 1/2, or 0/1 for all")
    return int(number), int(of)


def trial_of(line: dict) -> Trial:
    return Trial(line["part"], line["seed"], tuple(line["on"]), line["steps"])


def keep(trial: Trial, outcome: Outcome, dtype, path: Path = RUNS):
    "Append one line"
    line = {**asdict(trial), **asdict(outcome), "dtype": str(dtype)[6:]}
    append(path, line)


def work_off(trials: list, text: Text, dtype, share: tuple):
    "Run what is not there yet, this process's share of it"
    number, of = share
    for trial in trials[number::of]:
        if trial.key in kept():
            continue
        outcome = run(trial, text, dtype)
        keep(trial, outcome, dtype)
        turned = sorted(TODAY ^ set(trial.on))
        said = f"{trial.part} seed {trial.seed}: {outcome.bpb:.4f} in {outcome.seconds:.0f} s; {turned}"
        print(said, flush=True)


# ---- what it costs ----


def speed(laps: int, dtype) -> dict:
    "Median seconds of a step with each switch turned, in turns with today's recipe, over today's"
    recipes = {"today": tuple(TODAY), **{name: flipped(name) for name in ALL}}
    made = {name: build(on, 0, dtype) for name, on in recipes.items()}
    ids = torch.randint(VOCABULARY, (ROWS, SHAPE["seq_len"] + 1))
    batch = (ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), None)
    times = {name: [] for name in made}
    for lap in range(laps + 2):
        for name, (model, opt) in made.items():
            began = time.perf_counter()
            train_step(model, opt, [batch])
            if lap > 1:
                times[name].append(time.perf_counter() - began)
    today = times["today"]
    return {
        name: statistics.median(a / b for a, b in zip(taken, today))
        for name, taken in times.items()
    } | {"seconds": statistics.median(today)}


# ---- what it says ----


def effects(lines: list) -> dict:
    "Mean bits per byte with a switch on less that with it off; two columns belong to no switch"
    plan = hadamard(16)
    signs = torch.cat((plan, -plan))
    scores = torch.tensor([line["bpb"] for line in lines], dtype=torch.float64)
    names = [*SWITCHES, *(f"empty column {i}" for i in range(len(SWITCHES), 16))]
    return {
        name: float((scores * signs[:, column].double()).sum() / 16) for column, name in enumerate(names)
    }


def pseudo_error(values: list) -> float:
    "Standard error of an effect, from the effects themselves, most of which are small (Lenth, 1989)"
    sizes = sorted(abs(v) for v in values)
    first = 1.5 * statistics.median(sizes)
    return 1.5 * statistics.median([v for v in sizes if v < 2.5 * first])


def paired(differences: list) -> dict:
    "Mean of paired differences with its 99% interval, p, and what so many pairs could have shown"
    from scipy import stats

    n = len(differences)
    mean = statistics.mean(differences)
    out = dict(n=n, mean=mean, differences=differences)
    if n < 2:
        return out
    error = statistics.stdev(differences) / math.sqrt(n)
    reach = stats.t.ppf(0.995, n - 1)
    # a true difference of this size is found at p < 0.01 in four of five such experiments
    shown = (reach + stats.t.ppf(0.8, n - 1)) * error
    p = 2 * stats.t.sf(abs(mean) / error, n - 1) if error else float(mean == 0)
    verdict = ("helps" if mean < 0 else "hurts") if p < 0.01 else "?"
    return dict(
        out, sd=error * math.sqrt(n), lo=mean - reach * error, hi=mean + reach * error, p=p,
        could_show=shown, verdict=verdict,
    )


def compare(lines: dict, name: str, part: str = "confirm", steps: int | None = None) -> dict:
    "Differences on minus off, over the seeds for which both stand"
    on_is_today = ALL[name].today
    differences, beside = [], "polar" if part == "polar" else "confirm"
    for seed in CONFIRM_SEEDS:
        today = lines.get(Trial(beside, seed, tuple(sorted(TODAY))).key)
        other = lines.get(Trial(part, seed, flipped(name), steps or STEPS).key)
        if today and other:
            change = other["bpb"] - today["bpb"]
            differences.append(round(-change if on_is_today else change, 5))
    return paired(differences) if differences else {}


def report() -> dict:
    "Everything that the kept runs say"
    lines = kept()
    screen = [lines.get(trial.key) for trial in screening()]
    old = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    out = dict(
        what="bits per byte with a switch on less those with it off; negative: it helps",
        shape={**SHAPE, "vocab_size": VOCABULARY, "rows": ROWS, "steps": STEPS, **RATES, "decay": DECAY},
        switches={name: dict(what=switch.what, today=switch.today) for name, switch in SWITCHES.items()},
        asked_later={name: switch.what for name, switch in ALL.items() if name not in SWITCHES},
        speed=old.get("speed", {}),
        versions=provenance(),
    )
    if all(screen):
        found = effects(screen)
        error = pseudo_error(list(found.values()))
        out["screen"] = dict(effects=found, pseudo_error=error, scores=[line["bpb"] for line in screen])
    asked = {name: (compare(lines, name), compare(lines, name, "polar")) for name in ALL}
    found = {name: max(both, key=lambda pairs: pairs.get("n", 0)) for name, both in asked.items()}
    out["confirm"] = {name: pairs for name, pairs in found.items() if pairs.get("n", 0) >= FEWEST_PAIRS}
    equal = {}
    for line in lines.values():
        if line["part"] == "time":
            (name,) = TODAY ^ set(line["on"])
            equal[name] = compare(lines, name, "time", line["steps"]) | dict(steps=line["steps"])
    out["equal_time"] = equal
    out["hours"] = hours(lines.values())
    return out


def hours(lines) -> dict:
    "What the kept runs took, part by part; on a busy machine more than the work is worth"
    parts = {line["part"]: 0.0 for line in lines}
    for line in lines:
        parts[line["part"]] += line["seconds"] / 3600
    return {name: round(spent, 2) for name, spent in parts.items()} | {"all": round(sum(parts.values()), 2)}


def show(out: dict):
    "Two tables, and the hours that the runs took"
    if "screen" in out:
        error = out["screen"]["pseudo_error"]
        print(f"screening, 32 runs; an effect's pseudo standard error {error:.4f}")
        for name, effect in sorted(out["screen"]["effects"].items(), key=lambda pair: pair[1]):
            print(f"  {name:24} {effect:+.4f}  {effect / error:+5.1f}")
    for title in ("confirm", "equal_time"):
        for name, found in out[title].items():
            if "p" in found:
                print(
                    f"{title:10} {name:24} n={found['n']} {found['mean']:+.4f} "
                    f"[{found['lo']:+.4f}, {found['hi']:+.4f}] p={found['p']:.3g} "
                    f"could show {found['could_show']:.4f}: {found['verdict']}"
                )
    print("hours of one core:", ", ".join(f"{part} {spent}" for part, spent in out["hours"].items()))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("part", choices=["screen", "confirm", "time", "speed", "report", "one"])
    p.add_argument("--corpus", default=str(here.parent / "shared" / "data" / "books"))
    p.add_argument("--share", default="0/1", help="this process's share of the list, as 0/2 and 1/2")
    p.add_argument("--switch", action="append", default=[], choices=list(ALL))
    p.add_argument("--seed", type=int)
    p.add_argument("--laps", type=int, default=30)
    a = p.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    keep_memory()
    dtype = torch.float32  # every machine has it, and scores of two dtypes are never compared
    if a.part == "report":
        out = report()
        atomic_write(REPORT, json.dumps(out, indent=1) + "\n")
        return show(out)
    if a.part == "speed":
        out = report() | dict(speed=speed(a.laps, dtype))
        atomic_write(REPORT, json.dumps(out, indent=1) + "\n")
        return print(json.dumps(out["speed"], indent=1))
    if not Path(a.corpus).exists():
        sys.exit(f"error: no such folder: {a.corpus}; give --corpus DIR with books in it")
    text = Text(a.corpus)
    seeds = CONFIRM_SEEDS if a.seed is None else [a.seed]
    share = share_of(a.share)
    if a.part == "screen":
        return work_off(screening(), text, dtype, share)
    if a.part == "confirm":
        return work_off(confirming(a.switch or CONFIRMED, seeds), text, dtype, share)
    if a.part == "time":
        cost = json.loads(REPORT.read_text()).get("speed") if REPORT.exists() else None
        if not cost:
            sys.exit("error: what a switch costs is not known yet: run the part `speed` first")
        steps = {name: round(STEPS / cost[name]) for name in a.switch}
        trials = [Trial("time", seed, flipped(name), steps[name]) for seed in seeds for name in a.switch]
        return work_off(trials, text, dtype, share)
    for name in a.switch:
        pair = [run(Trial("one", seeds[0], on), text, dtype) for on in (tuple(sorted(TODAY)), flipped(name))]
        print(f"{name}: today {pair[0].bpb:.4f}, turned {pair[1].bpb:.4f}")


if __name__ == "__main__":
    main()
