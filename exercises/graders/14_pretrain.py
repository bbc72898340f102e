"Checks and known wrong answers for the exercises of chapter 14"
import functools, io, itertools, math, random, statistics
from collections import Counter
import torch
import torch.nn.functional as F
from grade import Exercise, Wrong, in_child
from graders.common import call, many, something, whole, written

# ---- 1. train(job) -> losses ----

class Killed(BaseException):
    "The process is gone"

class Small(torch.nn.Module):
    "Two layers with dropout between them; called with a batch it gives the loss"
    def __init__(self, counted, dropout):
        super().__init__()
        self.first = torch.nn.Parameter(torch.randn(6, 8)/6**0.5)
        self.second = torch.nn.Parameter(torch.randn(8, 2)/8**0.5)
        self.counted, self.dropout = counted, dropout

    def forward(self, x, y):
        self.counted("model")
        hidden = F.dropout(torch.tanh(x @ self.first), self.dropout)
        return (hidden @ self.second - y).square().mean()

class Job:
    "One process, and the disk that outlives it; `kill` = (kind of call, which one of them) ends it"
    def __init__(self, disk, seed=0, kill=None, optimizer="adamw", dropout=0.2):
        self.steps, self.every = 11, 3
        self.disk, self.seed, self.kill = disk, seed, kill
        self.dead, self.counts, self.fetched, self.rated = False, Counter(), [], []
        torch.manual_seed(seed)                        # each process starts alike, as a program does
        self.model = Small(self.counted, dropout)
        groups = [dict(params=[p]) for p in self.model.parameters()]
        if optimizer == "adamw":
            self.opt = torch.optim.AdamW(groups, lr=0.03, betas=(0.9, 0.95))
        else:
            self.opt = torch.optim.SGD(groups, lr=0.03, momentum=0.9)
        g = torch.Generator().manual_seed(seed)
        self.x, self.y = torch.randn(20, 6, generator=g), torch.randn(20, 2, generator=g)

    def counted(self, kind):
        "Count a call, and die at the one that is meant; a dead process can do nothing more"
        if self.dead:
            raise Killed
        self.counts[kind] += 1
        if self.kill == (kind, self.counts[kind]):
            self.dead = True
            raise Killed

    def rate(self, step):
        "The learning rate of a step, counted from 0"
        self.rated.append(step)
        return 0.1*(1-step/self.steps)

    def batches(self, state=None):
        "(x, y, state) for ever: four batches an epoch, each epoch in an order of its own"
        at = dict(epoch=0, batch=0) if state is None else dict(state)
        while True:
            g = torch.Generator().manual_seed(1000*self.seed+at["epoch"])
            order = torch.randperm(20, generator=g).view(4, 5)
            while at["batch"] < 4:
                self.counted("batch")
                self.fetched.append(4*at["epoch"]+at["batch"])
                rows = order[at["batch"]]
                at = dict(at, batch=at["batch"]+1)
                yield self.x[rows], self.y[rows], dict(at)
            at = dict(epoch=at["epoch"]+1, batch=0)

    def names(self):
        "The files that are there"
        return sorted(self.disk)

    def read(self, name):
        "A file's bytes"
        return self.disk[name]

    def write(self, name, data):
        "Write a file; who is killed meanwhile leaves half of it"
        data = bytes(memoryview(data))
        try:
            self.counted("write")
        except Killed:
            if self.kill == ("write", self.counts["write"]):
                self.disk[name] = data[:len(data)//2]
            raise
        self.disk[name] = data

    def rename(self, old, new):
        "Give a file another name, and replace what had that name: done or not done"
        self.counted("rename")
        self.disk[new] = self.disk.pop(old)

    def remove(self, name):
        "Remove a file: done or not done"
        self.counted("remove")
        del self.disk[name]

def live(answer, job):
    "One process from its start to its end or its kill, and what is known of it"
    try:
        with torch.enable_grad():
            out = answer(job)
    except Killed:
        out = None
    weights = [p.detach().flatten().tolist() for p in job.model.parameters()]
    return dict(out=None if job.dead else out, killed=job.dead, fetched=job.fetched, rated=job.rated,
                counts=dict(job.counts), weights=weights)

@in_child
def lives(answer, seed, kills, optimizer="adamw", dropout=0.2, copies=False):
    "All processes of a run, the last not killed; `copies`: one more from a copy of its disk, one afterwards"
    disk, told, dice = {}, [], torch.get_rng_state()
    try:
        for kill in kills:
            told.append(live(answer, Job(disk, seed, kill, optimizer, dropout)))
        kept = dict(disk)
        for its_disk in (disk, kept, disk) if copies else (disk,):
            told.append(live(answer, Job(its_disk, seed, None, optimizer, dropout)))
    finally:
        torch.set_rng_state(dice)
    return told

def packed(state):
    "Numbers, lists, dicts and tensors as bytes"
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()

def unpacked(raw): return torch.load(io.BytesIO(raw), weights_only=True)

def loaded(job, careful):
    "What an earlier process saved; None where there is nothing, or (carefully) nothing that can be read"
    if "checkpoint" not in job.names():
        return None
    try:
        return unpacked(job.read("checkpoint"))
    except Exception:
        if not careful:
            raise
        return None

def trainer(forget=(), beside=True, careful=False, use=True, early=False, before=False, log=False, clear=True,
            groups=None, late=False, own_dice=False):
    "The answer, with switches for its mistakes"
    def set_rate(job, step):
        for group in job.opt.param_groups[:groups]:
            group["lr"] = job.rate(step)
    def train(job):
        start, losses, place = 0, [], None
        saved = loaded(job, careful) if use else None
        if saved:
            start, losses, place = saved["step"], saved["losses"], saved["place"]
            for name, load in (("model", job.model.load_state_dict), ("opt", job.opt.load_state_dict),
                               ("dice", torch.set_rng_state)):
                if name not in forget:
                    load(saved[name])
        if "losses" in forget:
            losses = []
        if log and "log" in job.names():
            losses = unpacked(job.read("log"))
        stream = job.batches(None if "place" in forget else place)
        for step in range(start, job.steps):
            if own_dice:
                torch.manual_seed(step)
            old_place = place
            x, y, place = next(stream)
            if not late:
                set_rate(job, step-start if "schedule" in forget else step)
            if clear:
                job.opt.zero_grad()
            loss = job.model(x, y)
            loss.backward()
            job.opt.step()
            if late:
                set_rate(job, step)
            losses.append(loss.item())
            if log:
                job.write("log.new", packed(losses))
                job.rename("log.new", "log")
            if (step+1) % job.every == 0:
                done = step if early else step+1
                raw = packed(dict(step=done, losses=losses[:done], place=old_place if before else place,
                                  model=job.model.state_dict(), opt=job.opt.state_dict(),
                                  dice=torch.get_rng_state()))
                job.write("new" if beside else "checkpoint", raw)
                if beside:
                    job.rename("new", "checkpoint")
        return losses
    return train

right_train = trainer()

STEPS, EVERY = 11, 3

@functools.cache
def straight_run(seed, optimizer):
    "The right answer's process, never killed"
    return lives(right_train, seed, [], optimizer)[0]

def of_lives(say, answer, *args):
    "All processes of a run; what the answer raises is told with the kill"
    try:
        return lives(answer, *args)
    except NotImplementedError:
        raise
    except Exception as e:
        if hasattr(e, "told"):
            e.told = f"{say}: {e.told}"
        raise

def must_be_losses(say, out):
    "One float for each step of the whole run"
    something(say, out)
    assert isinstance(out, (list, tuple)) and all(type(x) is float for x in out), (
        f"{say}: a list of floats is asked for, `loss.item()` of each step")
    assert len(out) == STEPS, (
        f"{say}: {len(out)} losses came back for {STEPS} steps. Each step of the whole run stands in the "
        "list once, also those that an earlier process did")

def place_of_kill(kill):
    "Where a process was killed, in words"
    kind, number = kill
    return {"batch": f"while batch {number-1} was fetched",
            "model": f"while the loss of step {number-1} was computed",
            "write": f"in the middle of its write number {number}, half of the bytes are there",
            "rename": f"just before its rename number {number}",
            "remove": f"just before its remove number {number}"}[kind]

def must_go_on(say, straight, last):
    "Is the end of a run that was killed the end of the straight one?"
    must_be_losses(say, last["out"])
    begun = [f"batch {last['fetched'][0]}"] if last["fetched"] else []
    begun += [f"the rate of step {last['rated'][0]}"] if last["rated"] else []
    trail = f"It began with {' and '.join(begun)} (counted from 0)" if begun else "It did no step"
    apart = [k for k, (a, b) in enumerate(zip(straight["out"], last["out"])) if a != b]
    if apart:
        k, began = apart[0], STEPS-last["counts"].get("model", 0)
        how = {began: "its first loss is already another one",
               began+1: "its first loss is right, the second is not"}.get(k, f"the loss of step {k} differs")
        raise AssertionError(
            f"{say}, and the next process went on as another run: {how} ({last['out'][k]:.6f}, in a run that "
            f"was not killed {straight['out'][k]:.6f}). {trail}")
    assert straight["weights"] == last["weights"], (
        f"{say}, and the next process gave back the right losses, but `job.model` does not hold the weights "
        f"of the straight run at the end. {trail}")

def must_not_repeat(say, first, last):
    "Was no more computed again than what was done since the last checkpoint?"
    done = first["counts"].get("model", 0) - (first["killed"] == "model")
    left, again = STEPS-EVERY*max(0, (done-1)//EVERY), last["counts"].get("model", 0)
    assert again <= left, (
        f"{say}, after {many(done, 'whole step')}, and the next process computed {again} of {STEPS}. Saved "
        f"after every {EVERY} steps, and always with a whole checkpoint on the disk, at most {left} are left")

# where processes are killed: the kind of call, and which ones of them
KILLS = dict(model=(1, 4, 6, 7, 9, 11), write=(1, 2, 3, 4), rename=(1, 2, 3), remove=(1, 2), batch=(1, 5, 8))

def resume_check(answer):
    runs = {}
    for seed, optimizer in enumerate(("adamw", "sgd")):
        say = f"a run with {optimizer} that is never killed"
        straight, = of_lives(say, answer, seed, [], optimizer)
        must_be_losses(say, straight["out"])
        right = straight_run(seed, optimizer)
        for step, (mine, wanted) in enumerate(zip(straight["out"], right["out"])):
            assert math.isclose(mine, wanted, rel_tol=1e-5), (
                f"{say}: the loss of step {step} is {mine:.5f} and should be {wanted:.5f}")
        near = [math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6)
                for a, b in zip(sum(straight["weights"], []), sum(right["weights"], []))]
        assert all(near), f"{say}: the losses are right, and the weights after the last step are not"
        runs[optimizer] = straight
    for seed, (optimizer, straight) in enumerate(runs.items()):
        kills = [(kind, n) for kind, numbers in KILLS.items() for n in numbers
                 if n <= straight["counts"].get(kind, 0)]
        for kill in kills if optimizer == "adamw" else kills[2::5]:
            say = f"{optimizer}: the process was killed {place_of_kill(kill)}"
            first, last = of_lives(say, answer, seed, [kill], optimizer)
            assert first["killed"] is True, (
                f"{optimizer}: a process was to be killed {place_of_kill(kill)}, and it lived. The job stays "
                "as it is, and the same job is always done in the same way")
            must_go_on(say, straight, last)
            must_not_repeat(say, dict(first, killed=kill[0]), last)
    for kills in ([("model", 5), ("write", 1), ("batch", 4)], [("write", 1)]*3+[("model", 11)],
                  [("model", 8), ("rename", 1), ("rename", 1)]):
        straight = runs["adamw"]
        say = "adamw: " + ", then ".join(f"a process was killed {place_of_kill(kill)}" for kill in kills)
        *_, last, copy, finished = of_lives(say, answer, 0, kills, "adamw", 0.2, True)
        must_go_on(say, straight, last)
        must_go_on(f"{say}, the disk was copied, one process went on to the end and then one from the copy: "
                   "nothing may be kept outside the disk", straight, copy)
        must_go_on(f"{say}, the run was finished and `train` called once more", straight, finished)

def shape_of_run(answer, seed, kills, optimizer, dropout):
    "A run in coarse numbers, so that two answers with the same mistake look the same"
    try:
        straight, = lives(answer, seed, [], optimizer, dropout)
        *_, last = lives(answer, seed, kills, optimizer, dropout)
        losses, done = last["out"], last["counts"].get("model", 0)
        apart = [k for k, (a, b) in enumerate(zip(straight["out"], losses)) if a != b]
        late = min(apart[0]-(STEPS-done), 2) if apart else None
        return (last["fetched"][:1], last["rated"][:1], done, len(losses), late,
                [float(f"{x:.4g}") for x in straight["out"][:4]])
    except Exception:
        return "fails"

WEIGHTS_ONLY = ("opt", "dice", "place", "schedule", "losses")

lab = Exercise("1. Lab: kill and resume", 5, resume_check, right_train, seconds=60,
    probes=[(0, [], "adamw", 0.2), (0, [("model", 6)], "adamw", 0.2), (0, [("model", 6)], "adamw", 0.),
            (1, [("model", 9)], "sgd", 0.2), (0, [("write", 2)], "adamw", 0.2)],
    behave=shape_of_run,
    wrong=[
        Wrong("the optimizer starts cold",
              "the first loss after the restart is right and the next one isn't: weights, text and dice are "
              "back, and the optimizer's running means are empty.", trainer(forget=("opt",))),
        Wrong("the schedule begins again",
              "after the restart you ask for the rate of step 0. The next process has to know how many steps "
              "were done.", trainer(forget=("schedule",))),
        Wrong("the text begins again",
              "after the restart you read the first batch once more. The losses even look better: this text "
              "is known already.", trainer(forget=("place",))),
        Wrong("other dice",
              "all is as it should be but dropout: the generator of the new process stands where a fresh one "
              "stands.", trainer(forget=("dice",))),
        Wrong("weights only",
              "weights are the smallest part of what the next step depends on. What else does it read?",
              trainer(forget=WEIGHTS_ONLY)),
        Wrong("all but the weights",
              "the weights of the checkpoint never reach `job.model`.", trainer(forget=("model",))),
        Wrong("saved before it was counted",
              "the step that was just done counts as not done in your checkpoint: the next process does it "
              "again, with the next batch.", trainer(early=True)),
        Wrong("the last batch twice",
              "you save where the stream stood *before* the last batch, and that batch is read again.",
              trainer(before=True)),
        Wrong("half a checkpoint",
              "killed while it is written, your only checkpoint is half a file. Write beside it, and rename.",
              trainer(beside=False)),
        Wrong("one copy only",
              "you notice that the checkpoint is half a file, and by then the one before it is overwritten. "
              "Write beside it, and rename.", trainer(beside=False, careful=True)),
        Wrong("from the first step",
              "every process begins with step 0. The losses are right, and the work of all earlier "
              "processes is lost: save, and look for what was saved.", trainer(use=False)),
        Wrong("the old losses are gone",
              "you give back the losses since the restart. The list has to hold those of earlier processes.",
              trainer(forget=("losses",))),
        Wrong("a log that is not cut back",
              "losses are written after each step and the checkpoint after every third: after a kill the "
              "list holds steps that the checkpoint does not know, and they come twice. Cut the list back.",
              trainer(log=True)),
        Wrong("gradients pile up", "`backward` adds to the gradients that are there: clear them each step.",
              trainer(clear=False)),
        Wrong("one group only", "the optimizer has two parameter groups, and each has a rate to be set.",
              trainer(groups=1)),
        Wrong("a step late", "the rate is set after `opt.step`, and acts on the next step.",
              trainer(late=True)),
        Wrong("dice of your own",
              "you seed the generator in the loop. That makes runs equal, and throws the same dice at every "
              "seed: leave the generator as it is, save its state, and put it back.",
              trainer(own_dice=True))])

# ---- 2. spikes(losses) -> steps ----

TAIL = 8             # steps from the beginning of a spike in which an alarm disturbs nobody
MOST_FALSE = 5       # false alarms on all curves

def curve(seed, kind="fall", steps=400):
    "(losses, steps at which a spike begins, the noise): a made-up run"
    rng = random.Random(f"{seed} {kind}")
    noise = rng.choice([0.01, 0.02, 0.05])
    top, floor, slow = rng.uniform(6, 11), rng.uniform(2, 3.5), rng.uniform(6, 12)
    losses, begins = [], []
    for k in range(steps):
        fall = 0. if kind == "flat" else (top-floor)*math.exp(-k/slow)
        losses.append(floor+fall-0.15*k/steps+rng.gauss(0, noise))
    def spike(at, height):
        begins.append(at)
        for k in range(at, min(at+6, steps)):
            losses[k] += height*noise*0.6**(k-at)
    if kind in ("fall", "flat"):
        for at in (rng.randrange(150, 180), rng.randrange(240, 280), rng.randrange(340, 390)):
            spike(at, rng.uniform(18, 50))
    if kind == "pair":
        at = rng.randrange(200, 300)
        spike(at, 90)
        spike(at+rng.randrange(14, 20), 18)
    if kind == "drop":
        losses = [x-20*noise if k >= 200 else x for k, x in enumerate(losses)]
        spike(330, 25)
    if kind in ("nan", "inf"):
        losses[200] = float(kind)
        begins.append(200)
        spike(225, 25)
    return losses, begins, noise

def watcher(window=40, times=7., mean=False, least=20, forget_alarms=True, itself=False, both=False, ahead=0,
            nan="alarm", first=0, fixed=None):
    "The answer, with switches for its mistakes"
    def measured(past):
        if mean:
            middle = sum(past)/len(past)
            return middle, math.sqrt(sum((x-middle)**2 for x in past)/len(past))
        middle = statistics.median(past)
        return middle, 1.4826*statistics.median(abs(x-middle) for x in past)
    def spikes(losses):
        alarms, past = [], []
        for step, loss in enumerate(losses):
            if nan != "remember" and not math.isfinite(loss):
                alarms += [step+first] if nan == "alarm" else []
                continue
            known = past[-window:] if window else past
            if itself:
                known = [*past, loss][-window:]
            if ahead:
                known = [*known, *(x for x in losses[step+1:step+1+ahead] if math.isfinite(x))]
            ring = False
            if fixed is not None:
                ring = bool(past) and loss > past[-1]+fixed
            elif len(known) >= least:
                middle, spread = measured(known)
                ring = loss > middle+times*spread or both and loss < middle-times*spread
            alarms += [step+first] if ring else []
            if not (ring and forget_alarms):
                past.append(loss)
        return alarms
    return spikes

KINDS = dict(fall=4, flat=8, pair=3, drop=3, nan=2, inf=1, calm=3)
CURVES = [(seed, kind) for kind, n in KINDS.items() for seed in range(n)]

def alarms_of(say, answer, losses):
    "Steps, as a list of whole numbers that rise"
    got = call(say, answer, list(losses))
    assert isinstance(got, (list, tuple)) and all(map(whole, got)), (
        f"{say}: a list of steps is asked for, whole numbers")
    got = list(got)
    assert got == sorted(set(got)), f"{say}: the steps should rise, each once; you give {got[:8]}"
    assert not got or 0 <= got[0] and got[-1] < len(losses), (
        f"{say}: there is no step {got[-1] if got[-1] >= len(losses) else got[0]}: steps are counted from 0, "
        f"and there are {len(losses)}")
    return got

def false_ones(alarms, begins):
    "Alarms that belong to no spike"
    return [a for a in alarms if not any(0 <= a-b < TAIL for b in begins)]

FEW = [3., 3., 3., 3.01, 3., 3.02]

def watch_check(answer):
    false = []
    for short, want in (([], []), ([5.], []), ([5., math.nan], [1]), ([math.inf], [0])):
        got = alarms_of(written("spikes", short), answer, short)
        assert got == want, f"{written('spikes', short)} is {want}, and you say {got}"
    got = alarms_of(written("spikes", FEW), answer, FEW)
    assert not got, (
        f"{written('spikes', FEW)}: six losses don't say yet what the noise is, and you ring at {got}")
    for seed, kind in CURVES:
        losses, begins, noise = curve(seed, kind)
        say = f"spikes(losses) for `losses, begins, noise = curve({seed}, {kind!r})`"
        alarms = alarms_of(say, answer, losses)
        for at in begins:
            before = ", ".join(f"{x:.3f}" for x in losses[at-4:at])
            assert at in alarms, (
                f"{say}: no alarm at step {at}. The losses before it are {before}, and there it is "
                f"{losses[at]:.3f} (the noise is {noise}). Your alarms: {alarms[:8]}")
        wrong = false_ones(alarms, begins)
        false += [f"step {a} of curve({seed}, {kind!r})" for a in wrong]
        assert len(false) <= MOST_FALSE, (
            f"{len(false)} false alarms so far, and {MOST_FALSE} are allowed on all {len(CURVES)} curves: "
            f"{', '.join(false[-4:])}")
        for end in () if seed else (begins[0]+1, begins[-1]+1) if begins else (170,):
            early = alarms_of(f"{say}, cut off after {end} steps", answer, losses[:end])
            known = [a for a in alarms if a < end]
            assert early == known, (
                f"{say}: cut off after {end} steps it gives {early[-4:]}, and for the same steps of the "
                f"whole curve {known[-4:]}. A watchdog knows nothing of what is yet to come")

def watch_does(answer, seed, kind, steps=400):
    "Spikes found (2), late (1) or missed (0), false alarms in three sizes, and whether the past decides"
    losses, begins, _ = (FEW, [], 0.) if kind == "few" else curve(seed, kind, steps)
    alarms = list(answer(list(losses)))
    found = [2 if b in alarms else int(any(0 < a-b < TAIL for a in alarms)) for b in begins]
    false = len(false_ones(alarms, begins))
    ends = {b+later for b in begins[:2] for later in (1, 2)} if kind == "pair" else {170}
    causal = all(list(answer(losses[:end])) == [a for a in alarms if a < end] for end in ends)
    return found, 0 if false < 2 else 1 if false < 21 else 2, causal

watchdog = Exercise("2. The watchdog", 4, watch_check, watcher(),
    probes=[(0, "pair"), (0, "drop"), (0, "nan"), (0, "calm", 3000), (0, "few")] +
           [(seed, kind) for kind in ("fall", "flat") for seed in range(4)],
    behave=watch_does,
    wrong=[
        Wrong("a fixed threshold",
              "a jump of half a nat is nothing in one run and a catastrophe in another. Measure the noise of "
              "this run.", watcher(fixed=0.5)),
        Wrong("all that ever was",
              "the spread of all losses so far is the fall from 10 to 3 at the beginning, and next to that "
              "no spike is large. Look at the last few dozen steps.",
              watcher(window=0, mean=True, times=5.)),
        Wrong("measured with itself",
              "the loss that is judged is part of its own measure. Of n numbers none can lie more than "
              "(n-1)/√n standard deviations from their mean: with 20 that is 4.2.",
              watcher(window=20, mean=True, times=5., itself=True)),
        Wrong("three deviations",
              "one step in 700 lies more than three standard deviations above the mean, with nothing wrong. "
              "A run has thousands of steps.", watcher(times=3.)),
        Wrong("a fall rings, too", "a loss that drops is no spike: look upwards only.", watcher(both=True)),
        Wrong("it knows the future",
              "you use losses after the step that is judged. When the alarm should ring, they don't exist.",
              watcher(window=20, ahead=20)),
        Wrong("spoiled by the first",
              "after a spike your measure is full of it, and the next one, soon after, goes unseen. Keep "
              "what rang out of the measure, or measure with medians.",
              watcher(mean=True, times=6., forget_alarms=False)),
        Wrong("a NaN is no alarm", "a loss that is no number is the worst spike there is.",
              watcher(nan="skip")),
        Wrong("a NaN in the measure",
              "one NaN in a mean makes the mean NaN, and nothing is larger than NaN: no alarm rings as long "
              "as it is remembered.", watcher(mean=True, nan="remember")),
        Wrong("counted from one", "steps are counted from 0.", watcher(first=1)),
        Wrong("too little past",
              "the spread of three losses says nothing. Wait until there are enough of them.",
              watcher(least=2))])

# ---- 3. account(log, flops_per_token, peak) -> a dict ----

KEYS = "tokens", "seconds", "lost", "idle", "mfu"

def some_log(seed, processes=None):
    "Lines of a run that was killed now and then"
    rng = random.Random(seed)
    every, at, saved, log = rng.choice([1, 2, 3, 5]), rng.randrange(1000), [0], []
    sizes = [rng.choice([1024, 1024, 1000, 640]) for _ in range(100)]
    for _ in range(processes or rng.randrange(1, 6)):
        log.append(dict(start=saved[-1], at=at))
        begin = saved[-1]
        for step in range(begin+1, begin+1+rng.choice([0, 1, 3, 4, 6, 9])):
            at += rng.randrange(1, 20)
            log.append(dict(step=step, tokens=sizes[step], at=at))
            if step % every == 0:
                saved.append(step)
        if len(saved) > 1 and rng.random() < 0.3:
            saved.pop()                              # the newest is damaged: one further back
        at += rng.choice([0, 7, 300, 3600])
    return log

def keeper(drop=True, repeated="last", plan=False, night=False, only_last=False, lost_works=False, wall=False,
           loading=True, shares=False):
    "The answer, with switches for its mistakes"
    def account(log, flops_per_token, peak):
        kept, spent, last, first_of = {}, 0, log[0]["at"], False
        for line in log:
            if "start" in line:
                if only_last:
                    kept = {}
                elif drop:
                    kept = {step: v for step, v in kept.items() if step <= line["start"]}
                last, first_of = last if night else line["at"], True
                continue
            took = 0 if first_of and not loading else line["at"]-last
            spent, last, first_of = spent+took, line["at"], False
            key = line["step"] if repeated != "all" else (line["step"], line["at"])
            if repeated != "first" or key not in kept:
                kept[key] = line["tokens"], took
        tokens, seconds = (sum(v[i] for v in kept.values()) for i in range(2))
        if plan:
            tokens = len(kept)*next((line["tokens"] for line in log if "step" in line), 0)
        whole_time = log[-1]["at"]-log[0]["at"]
        lost, idle = spent-seconds, whole_time-spent
        if lost_works:
            seconds, lost = spent, 0
        over = whole_time if wall else seconds
        mfu = flops_per_token*tokens/over/peak if over else 0.
        return dict(tokens=tokens, seconds=seconds, lost=lost, idle=idle, mfu=100*mfu if shares else mfu)
    return account

def shown_log(log):
    "A log as it can be copied into a cell"
    return "["+", ".join(f"dict({', '.join(f'{k}={v}' for k, v in line.items())})" for line in log)+"]"

def account_check(answer):
    right, cases = keeper(), [[dict(start=0, at=5)], [dict(start=0, at=5), dict(start=0, at=9)]]
    cases += [some_log(seed) for seed in range(60)]
    for log in sorted(cases, key=len):
        small = shown_log(log) if len(log) <= 9 else f"a log of {len(log)} lines"
        say = f"account({small}, flops_per_token=100, peak=100_000)"
        mine = [dict(line) for line in log]
        got, want = call(say, answer, mine, 100, 100_000), right(log, 100, 100_000)
        assert mine == log, f"{say}: your code changes the log; only read it"
        assert isinstance(got, dict) and sorted(got, key=str) == sorted(KEYS), (
            f"{say}: a dict with these keys is asked for: {', '.join(KEYS)}")
        for key in KEYS:
            a, b = got[key], want[key]
            number = type(a) in (int, float) and math.isfinite(a)
            assert number and math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12), (
                f"{say}: {key} is {b:g}, and you say {a!r}. You give {got}")

def account_does(answer, log):
    "The five numbers, rounded"
    return {key: float(f"{value:.9g}") for key, value in answer(log, 100, 100_000).items()}

clock = Exercise("3. The clock", 3, account_check, keeper(),
    probes=[(some_log(seed),) for seed in (0, 1, 2, 3, 5, 8, 13, 21, 34)] + [([dict(start=0, at=5)],)],
    behave=account_does,
    wrong=[
        Wrong("every line counts",
              "a step that was done twice stands in your sums twice. The run learned from it once.",
              keeper(drop=False, repeated="all")),
        Wrong("by the plan",
              "you multiply steps by the tokens of one of them. They differ: add up what is written.",
              keeper(plan=True)),
        Wrong("the first time counts",
              "of a step that was repeated you take the seconds of its first time. Those weights were lost "
              "in the kill.", keeper(drop=False, repeated="first")),
        Wrong("not yet done again",
              "a process that starts after step 10 throws all later steps away at once, also those that "
              "nobody has repeated so far.", keeper(drop=False)),
        Wrong("the night counts as work",
              "a process's first step begins with its start, not with the last line before it.",
              keeper(night=True)),
        Wrong("only the last process",
              "what earlier processes did up to the checkpoint was kept, and counts.",
              keeper(only_last=True)),
        Wrong("lost work is work",
              "seconds of steps that were thrown away are `lost`, and not in `seconds`.",
              keeper(lost_works=True)),
        Wrong("over the whole night",
              "you divide by all the time there was. Here the MFU says how fast the run computes while it "
              "computes: tokens that count over the seconds that count.", keeper(wall=True)),
        Wrong("loading is free",
              "a process's first step lasts from its start to its line: loading belongs to it.",
              keeper(loading=False)),
        Wrong("percent", "the MFU is a share, between 0 and 1.", keeper(shares=True))])

# ---- 4. p_value(old, new) -> p ----

def sums_of_flips(gains):
    "How many of the 2ⁿ ways to give each gain a sign lead to each sum"
    ways = Counter({0: 1})
    for gain in gains:
        more = Counter()
        for total, n in ways.items():
            more[total+gain] += n
            more[total-gain] += n
        ways = more
    return ways

def judge_of(paired=True, strict=False, both=False, turned=False, signs=False, how="exact", seeds=None):
    "The answer, with switches for its mistakes"
    def p_value(old, new):
        old, new = old[:seeds], new[:seeds]
        gains = [b-a if turned else a-b for a, b in zip(old, new)]
        if signs:
            gains = [(g > 0)-(g < 0) for g in gains]
        n, seen = len(gains), sum(gains)
        if how == "best":
            return 0. if min(new) < min(old) else 1.
        if how == "losses":
            return sum(g <= 0 for g in gains)/n
        if how == "bell":
            spread = statistics.stdev(gains) if n > 1 else 0.
            return 0.5*math.erfc(seen/n/(spread/n**0.5)/2**0.5) if spread else 1.
        if not paired:
            together, out = old+new, []
            for chosen in itertools.combinations(range(2*n), n):
                part = sum(together[i] for i in chosen)
                out.append(2*part-sum(together) >= seen)
            return sum(out)/len(out)
        ways = sums_of_flips(gains)
        far = sum(k for total, k in ways.items()
                  if (abs(total) >= abs(seen) if both else total > seen if strict else total >= seen))
        return far/2**n
    return p_value

def some_pairs(seed, n=None):
    "Losses of two recipes on the same seeds, in thousandths of a nat"
    rng = random.Random(seed)
    n, gain = n or rng.randrange(1, 13), rng.choice([-5, 0, 5, 15])
    old = [3000+rng.randrange(-60, 61) for _ in range(n)]
    return old, [a-gain-rng.randrange(-15, 16) for a in old]

def luck_check(answer):
    right = judge_of()
    cases = [([3100], [3090]), ([3100], [3110]), ([3100, 3050], [3100, 3050]), ([3100, 3200], [3090, 3190]),
             ([3100, 3200, 3150], [3080, 3190, 3160]), ([3110, 3200, 3150, 3120, 3180], [3100]*5)]
    cases += [some_pairs(seed) for seed in range(50)]
    for old, new in sorted(cases, key=lambda pair: len(pair[0])):
        say = written("p_value", old, new)
        mine = list(old), list(new)
        got, want = call(say, answer, *mine), right(old, new)
        assert mine == (old, new), f"{say}: your code changes the lists; only read them"
        assert type(got) in (int, float) and math.isfinite(got), f"{say}: a number is asked for, not {got!r}"
        n, gain = len(old), sum(old)-sum(new)
        assert abs(got-want) < 1e-9, (
            f"{say}: the gains add up to {gain}. There are {2**n} ways to swap the names within pairs, and "
            f"the gains are at least as large in {round(want*2**n)}: so p is {want:g}, and you say {got:g}")

luck = Exercise("4. Better, or lucky?", 3, luck_check, judge_of(),
    probes=[some_pairs(seed, 2+seed % 5) for seed in range(10)] +
           [([3100], [3090]), ([3100, 3200], [3090, 3190]), ([3100, 3050], [3100, 3050])],
    behave=lambda f, old, new: float(f"{f(old, new):.9g}"),
    wrong=[
        Wrong("not paired",
              "you mix all runs and deal them out anew. Two runs of one seed share data and first weights: "
              "only within a pair may the names be swapped.", judge_of(paired=False)),
        Wrong("more than what was seen",
              "you count the swaps that gain more than the real one. Those that gain as much count, too, and "
              "the real one is among them: p is never 0.", judge_of(strict=True)),
        Wrong("both sides",
              "the question is whether `new` is *better*: only sums in that direction count.",
              judge_of(both=True)),
        Wrong("worse is better", "a gain is a loss that became smaller: old - new.", judge_of(turned=True)),
        Wrong("only who won",
              "you count how many pairs are won. By how much counts, too: add the gains.",
              judge_of(signs=True)),
        Wrong("a bell curve",
              "for five pairs the normal curve promises a p that no five pairs can have. Count.",
              judge_of(how="bell")),
        Wrong("the best of n", "the best run of each recipe says who was luckier once.",
              judge_of(how="best")),
        Wrong("the share of pairs lost",
              "how many pairs `new` lost is no probability of anything.", judge_of(how="losses")),
        Wrong("one seed", "only the first pair is looked at.", judge_of(seeds=1))])

EXERCISES = dict(resume=lab, watchdog=watchdog, account=clock, luck=luck)
