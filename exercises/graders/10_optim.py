"Checks and known wrong answers for the exercises of chapter 10"
import math, random
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from grade import Exercise, Wrong, in_child
from graders.common import call, something, written

def rounded(a, digits=4):
    "Tensors and numbers as rounded lists, to be compared; what is no number is spelled out"
    if torch.is_tensor(a):
        a = a.detach().double().tolist()
    if isinstance(a, (list, tuple)):
        return [rounded(x, digits) for x in a]
    if isinstance(a, (int, float)) and not isinstance(a, bool):
        return float(f"{a:.{digits}g}") if math.isfinite(a) else str(a)
    return a

@in_child
def with_arguments(answer, *args):
    "What comes back, and the arguments as they are afterwards"
    return answer(*args), args

# ---- 1. Muon from matrix products: muon(W, G, M, lr) -> new W, new M ----

JORDAN = (3.4445, -4.7750, 2.0315)

def by_products(X, steps=5, coefs=JORDAN, start="length", fifth=True):
    "Five odd polynomials of a matrix, with switches for mistakes"
    a, b, c = coefs
    turn = X.size(0) > X.size(1)
    X = X.T if turn else X
    if start == "length":
        X = X/(X.norm()+1e-12)
    elif start == "largest":
        X = X/(X.abs().max()+1e-12)
    elif start == "unsafe":
        X = X/X.norm()
    for _ in range(steps):
        A = X @ X.T
        X = a*X + (b*A + (c*A@A if fifth else 0*A))@X
    return X.T if turn else X

def muon_maker(look=True, mean=True, scale="tall", sign=1, momentum=0.95, keep=True, fresh=False,
               **how):
    "The answer, with switches for its mistakes"
    def muon(W, G, M, lr):
        new = momentum*M + (1-momentum)*G if mean else momentum*M + G
        if look:
            ahead = momentum*new + (1-momentum if mean else 1)*G
        else:
            ahead = G if fresh else new
        rows, columns = W.shape
        factor = {"tall": max(1, rows/columns)**.5, "none": 1, "wide": max(1, columns/rows)**.5,
                  "any": (rows/columns)**.5, "no root": max(1, rows/columns)}[scale]
        return W - sign*lr*factor*by_products(ahead, **how), new if keep else M
    return muon

right_muon = muon_maker()

def matrices(rows, columns, seed):
    "A weight, a gradient with strong and weak pieces, and a running mean, in float64"
    g = torch.Generator().manual_seed(abs(seed))
    W, G, M = (torch.randn(rows, columns, generator=g, dtype=torch.float64) for _ in range(3))
    if seed < 0:
        return W, 0*G, 0*M
    return W, G*torch.logspace(0, -1, columns, dtype=torch.float64), 0.3*M

@in_child
def watched(answer, W, G, M, lr):
    "Names of the operations in one call, and FLOPs of its matrix products"
    class Watch(TorchDispatchMode):
        names, flops = [], 0
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            name = str(func).split(".")[1]
            self.names.append(name)
            if name in ("mm", "bmm", "addmm", "baddbmm"):
                a, b = [x for x in args if torch.is_tensor(x)][-2:]
                self.flops += 2*a.numel()*b.size(-1)
            return out
    with torch.no_grad(), Watch() as seen:
        answer(W, G, M, lr)
    return sorted(set(seen.names)), seen.flops

def enough(rows, columns):
    "FLOPs that five steps take, on the smaller side"
    small, large = sorted((rows, columns))
    return 5*(4*small*small*large+2*small**3)

def muon_does(answer, rows, columns, seed):
    "What comes back"
    return rounded(answer(*matrices(rows, columns, seed), 0.1))

def muon_check(answer):
    shapes = [(1, 1), (2, 3), (3, 2), (4, 4), (1, 5), (5, 1), (6, 9), (16, 4), (8, 8)]
    for k, (rows, columns) in enumerate(shapes):
        W, G, M = matrices(rows, columns, k)
        lr = (0.1, 0.02, 1.)[k % 3]
        say = (f"muon(W, G, M, lr={lr:g}) with W of shape {rows} × {columns} "
               f"(W {rounded(W, 3)}, G {rounded(G, 3)}, M {rounded(M, 3)})" if W.numel() <= 6 else
               f"muon(W, G, M, lr={lr:g}) with random matrices of shape {rows} × {columns}")
        got, mine = with_arguments(answer, W.clone(), G.clone(), M.clone(), lr)
        something(say, got)
        assert isinstance(got, (tuple, list)) and len(got) == 2 and all(map(torch.is_tensor, got)), (
            f"{say}: two tensors are asked for, the new W and the new M")
        for name, before, now in zip("WGM", (W, G, M), mine):
            assert torch.equal(before, now), (
                f"{say}: your code changes {name} in place; give back new tensors")
        for name, a, b in zip(("M", "W"), got[::-1], right_muon(W, G, M, lr)[::-1]):
            assert a.shape == b.shape, f"{say}: the new {name} should have the shape {tuple(b.shape)}"
            off = (a.double()-b).norm()/(b-W if name == "W" else b).norm().clamp(min=1e-12)
            assert off < 1e-3, (f"{say}: the new {name} is off by {off:.0%} of "
                                f"{'the step' if name == 'W' else 'its length'}")
    W, G, M = matrices(3, 4, -1)
    got = call("muon(W, G, M, lr) with G and M zero", answer, W.clone(), G, M, 0.1)
    assert torch.equal(got[0], W) and not got[1].any(), (
        "where G and M are zero nothing may move: the new W should be W, and is "
        + ("no number" if not got[0].isfinite().all() else "another"))
    for rows, columns in ((40, 8), (8, 40)):
        names, flops = watched(answer, *matrices(rows, columns, 3), 0.1)
        barred = ("svd", "eig", "qr", "inv", "cholesky", "solve")
        chain = [name for name in names if any(word in name for word in barred)]
        assert not chain, f"{', '.join(chain)} was called: the task asks for matrix products only"
        most = enough(rows, columns)
        assert flops <= 1.05*most, (
            f"a matrix of {rows} × {columns} takes {flops:,} FLOPs in your products, and {most:,} are "
            "enough: which of X Xᵀ and Xᵀ X is the small one?")

lab = Exercise("1. Lab: Muon from matrix products", 4, muon_check, right_muon,
    probes=[(2, 3, 0), (3, 2, 1), (4, 4, 2), (8, 2, 3), (2, 8, 4), (2, 3, -1)], behave=muon_does,
    wrong=[
        Wrong("no look ahead",
              "your polar factor is that of M itself. Nesterov mixes the newest gradient in once more.",
              muon_maker(look=False)),
        Wrong("no memory", "the polar factor is that of this step's gradient alone: M is never used.",
              muon_maker(look=False, fresh=True)),
        Wrong("a sum and not a mean",
              "the step is right, and M grows to twenty times the gradient's size: the task wants the mean, "
              "with 1 - momentum before G.",
              muon_maker(mean=False)),
        Wrong("the mean is not handed back", "W is right, and M comes back as it went in: the next step "
              "forgets this gradient.", muon_maker(keep=False)),
        Wrong("up the hill", "the sign: a step goes *against* the gradient.", muon_maker(sign=-1)),
        Wrong("tall matrices move too little",
              "a tall factor's rows are short: the factor √(rows/columns), where it is above 1, is missing.",
              muon_maker(scale="none")),
        Wrong("the factor of wide matrices",
              "you have √(columns/rows). W maps columns to rows: which of the two is `out`?",
              muon_maker(scale="wide")),
        Wrong("wide matrices are slowed down",
              "√(rows/columns) is right where it is above 1. A wide matrix needs no factor: max(1, …).",
              muon_maker(scale="any")),
        Wrong("the root is missing",
              "the factor is the *root* of rows/columns.", muon_maker(scale="no root")),
        Wrong("σ begins above 1",
              "you divide by the largest number. The polynomials expect σ of at most 1, and a matrix of "
              "numbers of at most 1 can have far larger σ. Which norm is never below the largest σ?",
              muon_maker(start="largest")),
        Wrong("not scaled at all",
              "the polynomials expect σ of at most 1; you start from the gradient as it comes.",
              muon_maker(start="none")),
        Wrong("zero over zero",
              "where the gradient is zero its length is too. Something small has to stand beside it.",
              muon_maker(start="unsafe")),
        Wrong("four steps", "the factor is not yet flat: how many steps does the task ask for?",
              muon_maker(steps=4)),
        Wrong("a cubic", "the term with A² is missing: c·A² belongs into the brackets beside b·A.",
              muon_maker(fifth=False)),
        Wrong("b and c are changed over", "b stands before A, c before A².",
              muon_maker(coefs=(JORDAN[0], JORDAN[2], JORDAN[1])))])

# ---- 2. a small network under your Muon: train(weights, x, y) -> weights ----

def two_layers(seed, rows=512):
    "Start weights, inputs and targets to learn from, and as many unseen ones: a teacher, correlated inputs"
    g = torch.Generator().manual_seed(seed)
    def draw(*shape): return torch.randn(*shape, generator=g)
    turn = torch.linalg.qr(draw(16, 16))[0]
    mix = turn*torch.logspace(0, -1.5, 16) @ torch.linalg.qr(draw(16, 16))[0]
    x = draw(2*rows, 16) @ mix*4
    teacher = draw(48, 16)/4, draw(8, 48)/48**.5
    y = torch.relu(x @ teacher[0].T) @ teacher[1].T
    return [draw(48, 16)/4, draw(8, 48)/48**.5], (x[:rows], y[:rows]), (x[rows:], y[rows:])

def squared_error(weights, x, y):
    return (torch.relu(x @ weights[0].T) @ weights[1].T - y).square().mean()

def descend(weights, x, y, kind="muon", lr=0.15, steps=200, falls=True, old=False):
    "Weights after training by one of three optimizers"
    weights = [w.clone() for w in weights]
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    begin = [w.clone() for w in weights]
    for t in range(steps):
        with torch.enable_grad():
            at = [w.detach().requires_grad_() for w in (begin if old else weights)]
            grads = torch.autograd.grad(squared_error(at, x, y), at)
        rate = lr*(1-t/steps) if falls else lr
        for i, g in enumerate(grads):
            if kind == "muon":
                weights[i], first[i] = right_muon(weights[i], g, first[i], rate)
            elif kind == "sgd":
                weights[i] = weights[i] - rate*g
            else:
                first[i], second[i] = 0.9*first[i]+0.1*g, 0.95*second[i]+0.05*g*g
                size = (second[i]/(1-0.95**(t+1))).sqrt()+1e-8
                weights[i] = weights[i] - rate*first[i]/(1-0.9**(t+1))/size
    return weights

def trainer(**how): return lambda weights, x, y: descend(weights, x, y, **how)

SHARE = 0.85      # of AdamW's loss, which has to be reached

def race_check(answer):
    for seed in (11, 12):
        start, seen, unseen = two_layers(seed)
        say = f"train(weights, x, y) on the problem of seed {seed}"
        got = call(say, answer, [w.clone() for w in start], *(t.clone() for t in seen))
        assert isinstance(got, (tuple, list)) and len(got) == 2 and all(map(torch.is_tensor, got)), (
            f"{say}: the two trained matrices are asked for")
        assert [tuple(w.shape) for w in got] == [tuple(w.shape) for w in start], (
            f"{say}: the matrices should keep their shapes, {[tuple(w.shape) for w in start]}")
        assert all(w.isfinite().all() for w in got), f"{say}: there are weights that are no numbers"
        adamw = min(squared_error(descend(start, *seen, "adamw", lr), *unseen) for lr in (0.1, 0.03, 0.01))
        mine, before = squared_error(got, *unseen), squared_error(start, *unseen)
        assert mine < SHARE*adamw, (
            f"{say}: the error on unseen inputs is {mine:.4f} ({before:.3f} before training). AdamW gets to "
            f"{adamw:.4f} in 200 steps at its best learning rate, and you should get below {SHARE*adamw:.4f}")

race = Exercise("2. Lab: train with it", 3, race_check, trainer(), seconds=60,
    probes=[(0,), (1,)],
    behave=lambda f, seed: rounded([w.sum() for w in f(*sum_of(two_layers(seed, 64)))], 2),
    wrong=[
        Wrong("nothing was trained", "the weights come back as they went in.", lambda weights, x, y: weights),
        Wrong("this is AdamW", "it trains, and no better than AdamW, which is what it has to beat.",
              trainer(kind="adamw", lr=0.03)),
        Wrong("this is gradient descent", "plain gradient descent is far behind AdamW here: the inputs are "
              "correlated.", trainer(kind="sgd", lr=0.05)),
        Wrong("a rate for AdamW",
              "with Muon every singular value moves by lr, and 0.003 in each of 200 steps can't get far.",
              trainer(lr=0.003)),
        Wrong("the gradient of the start",
              "the gradient is computed at the first weights in every step: it must be that of the weights "
              "as they are now.",
              trainer(old=True)),
        Wrong("a rate that never falls",
              "with a constant learning rate the last steps are as long as the first: the weights dance "
              "round the minimum.",
              trainer(lr=0.3, falls=False))])

def sum_of(problem):
    "Arguments for `train` from a problem"
    start, seen, _ = problem
    return [w.clone() for w in start], *seen

# ---- 3. which Adam is it? which(adam) -> a word; adam(grads, eps, beta1, beta2) -> steps ----

KINDS = ("right", "eps early", "eps inside", "no correction", "half correction")

def adam_of(kind):
    "An Adam for one weight with a learning rate of 1, right or wrong in one of four ways"
    def adam(grads, eps, beta1=0.9, beta2=0.95):
        m = v = 0.
        out = []
        for t, g in enumerate(grads, 1):
            m, v = beta1*m+(1-beta1)*g, beta2*v+(1-beta2)*g*g
            fix1, fix2 = 1-beta1**t, 1-beta2**t
            root = math.sqrt(v)
            down = {"right": math.sqrt(v/fix2)+eps, "eps early": (root+eps)/math.sqrt(fix2),
                    "eps inside": math.sqrt(v/fix2+eps), "no correction": root+eps,
                    "half correction": root+eps}[kind]
            up = m if kind == "no correction" else m/fix1
            out.append(float(f"{-up/down:.4g}"))                  # as it would be printed
        return out
    return adam

@in_child
def verdict(answer, kind):
    "What an answer says of such an Adam"
    return answer(adam_of(kind))

def detective(grads=(1.,), eps=1., beta1=0.9, beta2=0.95, at=0, words=None, blind=()):
    "Says whose step is nearest; `words` renames, `blind` are kinds that it does not know"
    def which(adam):
        got = adam(list(grads), eps, beta1, beta2)[at]
        known = [kind for kind in KINDS if kind not in blind]
        far = {kind: abs(got-adam_of(kind)(list(grads), eps, beta1, beta2)[at]) for kind in known}
        word = min(known, key=far.get)
        return (words or {}).get(word, word)
    return which

def which_check(answer):
    for kind in (*KINDS, *random.Random(3).choices(KINDS, k=10)):
        got = verdict(answer, kind)
        something(f"which(adam) for an Adam that is {kind!r}", got)
        assert got in KINDS, f"which(adam) should give back one of {', '.join(KINDS)}, not {got!r}"
        first = [f"{x:.3g}" for x in adam_of(kind)([1., 1.], 1e-8)]
        assert got == kind, (f"an Adam whose first two steps for gradients 1, 1 and eps 1e-8 are {first[0]}, "
                             f"{first[1]} is {kind!r}, and you say {got!r}")

swap = {"eps early": "eps inside", "eps inside": "eps early"}
which_one = Exercise("3. Which Adam is it?", 3, which_check, detective(),
    probes=[(kind,) for kind in KINDS], behave=verdict,
    wrong=[
        Wrong("epsilon is invisible",
              "with a gradient of about 1 an eps of 1e-8 changes nothing in four digits. Nobody says that "
              "eps has to be small.",
              detective(eps=1e-8)),
        Wrong("too late to see",
              "after a hundred steps `1-βᵗ` is 1, and all corrections look alike. When do they differ most?",
              detective(grads=(1.,)*200, at=199)),
        Wrong("early and inside are changed over",
              "√v + eps, divided by the correction afterwards: that is early. Under the root together with "
              "v: that is inside.",
              detective(words=swap)),
        Wrong("half a correction is none",
              "m may be corrected while v is not. Then the first step is too *long*; without any correction "
              "it is too short.",
              detective(words={"half correction": "no correction"})),
        Wrong("everything is right", "this answer trusts everybody.", lambda adam: "right"),
        Wrong("no eye for the root",
              "you don't tell an eps under the root from one outside it: with v = 1 and eps = 1 the one "
              "divides by √2, the other by 2.",
              detective(blind=("eps inside",)))])

# ---- 4. backwards: first_wrong(factors, warmup, warmdown, final) -> step or None ----

def auditor(up="next", down="left", ends=False, last=False, final_used=True, nan=True, tolerance=1e-6,
            range_only=False, missing=None, skip_flat=False):
    "The answer, with switches for its mistakes"
    def first_wrong(factors, warmup, warmdown, final):
        steps, bad = len(factors), []
        end = final if final_used else 0.
        for i, factor in enumerate(factors):
            left = (steps-i)/warmdown if warmdown else 1
            if i < warmup:
                want = (i+1)/warmup if up == "next" else i/warmup
            elif i >= steps-warmdown:
                want = end+(1-end)*(left if down == "left" else 1-left)
            elif skip_flat:
                continue
            else:
                want = 1.
            if ends and 0 < i < steps-1:
                continue
            wrong = abs(factor-want) > tolerance
            if range_only:
                wrong = not 0 < factor <= 1
            if wrong or nan and factor != factor:
                bad.append(i)
        return (bad[-1] if last else bad[0]) if bad else missing
    return first_wrong

def plan(steps, warmup, warmdown, final):
    "The factors as they should be"
    down = [final+(1-final)*(steps-i)/warmdown if warmdown else 1. for i in range(steps)]
    return [(i+1)/warmup if i < warmup else down[i] if i >= steps-warmdown else 1. for i in range(steps)]

def backwards(steps, warmup, warmdown, final):
    "The factor of the bug: what has been done, where what is left is meant"
    right = plan(steps, warmup, warmdown, final)
    return [final+(1-final)*(1-(steps-i)/warmdown) if i >= steps-warmdown else f for i, f in enumerate(right)]

def spoiled(seed):
    "A schedule, right or wrong somewhere"
    rng = random.Random(seed)
    steps = rng.randrange(4, 30)
    warmup, warmdown = rng.randrange(0, steps//2), rng.randrange(0, steps//2)
    final = rng.choice([0., 0.1, 0.5])
    args = (steps, warmup, warmdown, final)
    factors, kind = plan(*args), seed % 8
    if kind == 1:
        factors = backwards(*args)
    if kind == 2:
        factors[rng.randrange(steps)] = float("nan")
    if kind == 3:
        factors = [max(f, 0.3) for f in factors]
    if kind == 4:
        factors = [i/warmup if i < warmup else f for i, f in enumerate(factors)]
    if kind == 5:
        factors = plan(steps, warmup, warmdown, 0.25)
    if kind == 6:
        for i in rng.sample(range(steps), 2):
            factors[i] += rng.choice([-.01, .01, 1.])
    if kind == 7:
        factors = [2*f-1 if i >= steps-warmdown else f for i, f in enumerate(factors)]
    return factors, warmup, warmdown, final

def audit_check(answer):
    right, cases = auditor(), [spoiled(seed) for seed in range(200)]
    cases += [([1.], 0, 0, 0.), ([1.], 1, 0, .1), ([.5, 1., 1., .55], 2, 2, .1), ([1., 1., 0.5], 0, 2, 0.)]
    for factors, warmup, warmdown, final in sorted(cases, key=lambda c: len(c[0])):
        say = written("first_wrong", [float(f"{f:.4g}") for f in factors], warmup, warmdown, final)
        mine = list(factors)
        got, want = answer(mine, warmup, warmdown, final), right(factors, warmup, warmdown, final)
        assert [str(f) for f in mine] == [str(f) for f in factors], (
            f"{say}: your code changes the list; only read it")
        if want is None:
            assert got is None, f"{say}: every factor is as the plan says, so None; you say {got!r}"
        else:
            assert type(got) is int and got == want, (
                f"{say}: the first wrong factor is that of step {want}, {factors[want]:.4g}; you say {got!r}")

audit = Exercise("4. Backwards", 3, audit_check, auditor(),
    probes=[(plan(9, 2, 4, .1), 2, 4, .1), *map(spoiled, (*range(1, 8), 9, 12, 14, 17, 20, 21, 22, 23))],
    behave=lambda f, *args: f(*args),
    wrong=[
        Wrong("the same bug again",
              "your plan for the way down rises, too: it counts the steps *done* since the way down began. "
              "The factor shrinks with the steps that are left.",
              auditor(down="done")),
        Wrong("a way up that begins at 0",
              "the plan's first step has the factor 1/warmup, not 0: a step at rate 0 would be a "
              "step thrown away.",
              auditor(up="this")),
        Wrong("only the range is looked at",
              "0.9 and 0.1 are both between 0 and 1. The bug was never out of range.",
              auditor(range_only=True)),
        Wrong("only the ends are looked at", "first and last can be right, and all between them wrong.",
              auditor(ends=True)),
        Wrong("the last one", "the *first* wrong step is asked for.", auditor(last=True)),
        Wrong("the end is always 0", "the way down ends at `final`.", auditor(final_used=False)),
        Wrong("NaN passes",
              "every comparison with NaN is False, `abs(NaN - 1) > 1e-6` too. Ask the other way "
              "round: not near.",
              auditor(nan=False)),
        Wrong("a percent is near enough", "factors differ by rounding only: 1e-6 is generous.",
              auditor(tolerance=0.02)),
        Wrong("-1 for none", "where nothing is wrong the task wants None.", auditor(missing=-1)),
        Wrong("the flat part is not looked at", "between the way up and the way down every factor must be 1.",
              auditor(skip_flat=True))])

# ---- 5. a scale that cannot learn: exact_step(scale, lost, change) -> scale, lost ----

def bits_kept(cut="trunc", use_lost=True, signed=True, keep_lost=True, update="float"):
    "The answer, with switches for its mistakes"
    def exact_step(scale, lost, change):
        high = scale.view(torch.int16).int() << 16
        low = lost.int() & 0xFFFF if signed else lost.int()
        whole = (high | low).view(torch.float32) if use_lost else scale.float()
        if update == "bf16":
            new = (whole.bfloat16()+change.bfloat16()).float()
        else:
            new = whole - change if update == "minus" else whole + change
        word = new.view(torch.int32)
        top = (word >> 16).short().view(torch.bfloat16) if cut == "trunc" else new.bfloat16()
        return top, (word & 0xFFFF).short() if keep_lost else lost
    return exact_step

right_bits = bits_kept()

def walk(answer, start, changes):
    "The scales after each change, and the float32 numbers that scale and lost bits make up"
    scale, lost = start.bfloat16(), torch.zeros(len(start), dtype=torch.int16)
    out = []
    for change in changes:
        scale, lost = answer(scale.clone(), lost.clone(), change.clone())
        out.append((scale, lost))
    return out

def joined(scale, lost):
    return ((scale.view(torch.int16).int() << 16) | (lost.int() & 0xFFFF)).view(torch.float32)

def bits_check(answer):
    g = torch.Generator().manual_seed(5)
    starts = {0.001: [1.], -0.001: [1., -1.], 0.0005: [0.5, 2., -3.], 0.5: [1., 1.], 1e-4: [0., -0.1]}
    for step, start in starts.items():
        start = torch.tensor(start).bfloat16().float()
        true = start.clone()
        scale, lost = start.bfloat16(), torch.zeros(len(start), dtype=torch.int16)
        for t in range(60):
            change = torch.full_like(true, step)*(1+0.1*torch.randn(len(true), generator=g))
            say = (f"step {t+1} from {start.tolist()} by about {step:g}: "
                   f"exact_step({scale.tolist()} as bfloat16, "
                   f"{lost.tolist()} as int16, {rounded(change, 6)})")
            got, mine = with_arguments(answer, scale.clone(), lost.clone(), change.clone())
            something(say, got)
            assert isinstance(got, (tuple, list)) and len(got) == 2 and all(map(torch.is_tensor, got)), (
                f"{say}: two tensors are asked for")
            assert got[0].dtype == torch.bfloat16 and got[1].dtype == torch.int16, (
                f"{say}: the dtypes should be bfloat16 and int16, not {got[0].dtype} and {got[1].dtype}")
            assert got[0].shape == got[1].shape == scale.shape, f"{say}: the shapes should stay"
            assert all(map(torch.equal, mine, (scale, lost, change))), (
                f"{say}: your code changes its arguments")
            scale, lost, true = got[0], got[1], true+change
            whole = joined(scale, lost)
            assert torch.equal(whole, true), (
                f"{say}: both parts together should be {rounded(true, 9)}, and are {rounded(whole, 9)}")

bits = Exercise("5. A scale that cannot learn", 3, bits_check, right_bits,
    probes=[([1.], [.001]*9), ([-1., 2.], [.003]*9), ([.5, -.1], [-.0007]*9), ([1.], [.5, .25, .002, -.004])],
    behave=lambda f, start, changes: rounded([[scale, lost.int()] for scale, lost in walk(
        f, torch.tensor(start), [torch.full((len(start),), c) for c in changes])], 9),
    wrong=[
        Wrong("it does not learn",
              "the scale is stepped in bfloat16: 1 + 0.001 is 1 again, a thousand times over.",
              bits_kept(use_lost=False, update="bf16")),
        Wrong("the lost bits are never read",
              "they are kept and not used: the step must start from scale and lost bits *together*.",
              bits_kept(use_lost=False)),
        Wrong("the lost bits are never kept", "what comes back as lost is what went in.",
              bits_kept(keep_lost=False)),
        Wrong("rounded and cut",
              "`.bfloat16()` rounds to the nearest, and then the lower half belongs to another upper half: "
              "cut the bits off instead.",
              bits_kept(cut="round")),
        Wrong("a sign comes in",
              "an int16 with its highest bit set is negative, and becomes a negative int32 with sixteen more "
              "ones: mask it with 0xFFFF.",
              bits_kept(signed=False)),
        Wrong("backwards", "`change` is to be added.", bits_kept(update="minus"))])

EXERCISES = dict(muon=lab, train=race, which=which_one, backwards=audit, bits=bits)
