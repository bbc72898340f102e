"Checks and known wrong answers for the exercises of chapter 13"
import copy, functools, math, random
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from grade import Exercise, Wrong, in_child
from graders.common import many, number, something

def shown(value):
    "A value as text that can be copied into a cell, with numbers as people write them"
    if isinstance(value, dict):
        return f"dict({', '.join(f'{key}={shown(v)}' for key, v in value.items())})"
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(shown, value))})"
    return number(value)

def call_text(name, args):
    "A call as text"
    return f"{name}({', '.join(map(shown, args))})"

def asked(say, answer, args):
    "What comes back of a call, None too; an answer that changes its arguments is told so"
    mine = copy.deepcopy(args)
    got = answer(*mine)
    assert mine == args, f"{say}: your code changes its arguments; only read them"
    return got

def plain(x):
    "A number, also where it comes in a tensor"
    return x.item() if torch.is_tensor(x) and x.numel() == 1 else x

def answered_first(right, cases):
    "Cases in their order, but those with an answer before those where the answer is None"
    return sorted(cases, key=lambda args: right(*args) is None)

def is_number(x):
    "Something finite to calculate with"
    return type(x) in (int, float) and -1e300 < x < 1e300

def numbers_of(say, got, names):
    "As many plain numbers as there are names"
    assert isinstance(got, (tuple, list)) and len(got) == len(names), (
        f"{say}: {len(names)} things are asked for: {', '.join(names)}")
    values = [plain(x) for x in got]
    for name, value in zip(names, values):
        assert is_number(value), f"{say}: {name} should be a number, not {value!r}"
    return values

def near(got, wanted, tolerance):
    "Is a number right, as a share of what it should be?"
    return abs(got-wanted) <= tolerance*abs(wanted)

def rounded(a, digits=4):
    "Numbers with a few digits, to be compared, within whatever holds them"
    a = plain(a)
    if isinstance(a, dict):
        return {str(key): rounded(v, digits) for key, v in a.items()}
    if isinstance(a, (list, tuple)):
        return [rounded(x, digits) for x in a]
    if isinstance(a, (int, float)) and not isinstance(a, bool):
        return float(f"{a:.{digits}g}") if math.isfinite(a) else str(a)
    return a

# ---- 1. weigh(shape, rows, size) -> bytes by part ----

SIZES = "layers", "width", "heads", "inner", "vocabulary", "length"
PARTS = "weights", "gradients", "state", "copies", "kept"

def product(x, matrix):
    "A product in the dtype of x: a float32 matrix is copied to it first"
    return F.linear(x, matrix.to(x.dtype))

class Block(nn.Module):
    "Attention written out, and an MLP with a gate"
    def __init__(self, width, heads, inner):
        super().__init__()
        def matrix(rows, columns):
            return nn.Parameter(torch.randn(rows, columns)/columns**0.5)
        self.heads = heads
        self.qkv, self.out = matrix(3*width, width), matrix(width, width)
        self.gate, self.up, self.down = matrix(inner, width), matrix(inner, width), matrix(width, inner)

    def forward(self, x):
        B, T, C = x.shape
        normed = F.layer_norm(x, (C,))
        q, k, v = product(normed, self.qkv).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        future = torch.full((T, T), -math.inf, dtype=x.dtype, device=x.device).triu(1)
        scores = q @ k.transpose(-1, -2)*(C//self.heads)**-0.5 + future
        y = scores.softmax(-1) @ v
        x = x + product(y.transpose(1, 2).reshape(B, T, C), self.out)
        normed = F.layer_norm(x, (C,))
        return x + product(F.silu(product(normed, self.gate))*product(normed, self.up), self.down)

class Model(nn.Module):
    "Embedding, blocks and head"
    def __init__(self, layers, width, heads, inner, vocabulary, length):
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocabulary, width))
        self.place = nn.Parameter(torch.randn(length, width))
        self.blocks = nn.ModuleList(Block(width, heads, inner) for _ in range(layers))
        self.head = nn.Parameter(torch.randn(vocabulary, width)/width**0.5)

    def forward(self, ids, targets, dtype):
        x = F.embedding(ids, self.table).to(dtype) + self.place.to(dtype)
        for block in self.blocks:
            x = block(x)
        logits = product(F.layer_norm(x, x.shape[-1:]), self.head)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

def kept_bytes(model, rows, length, dtype):
    "Bytes that the forward pass keeps for the backward pass, copies of matrices among them"
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept = {}
    def keep(tensor):
        storage = tensor.untyped_storage()
        if tensor.ndim and storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor
    ids, targets = torch.zeros(2, rows, length, dtype=torch.long, device="meta")
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(ids, targets, dtype)
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in kept.values())

@functools.cache
def weighed(sizes, size):
    "(parameters, bytes of the copies, bytes kept for each row) of a shape, measured on `meta`"
    with torch.device("meta"):
        model = Model(*sizes)
    dtype = torch.bfloat16 if size == 2 else torch.float32
    one, two = (kept_bytes(model, rows, sizes[-1], dtype) for rows in (1, 2))
    return sum(p.numel() for p in model.parameters()), 2*one-two, two-one

def measured(shape, rows, size):
    "Bytes by part"
    params, copies, kept = weighed(tuple(shape[name] for name in SIZES), size)
    return dict(weights=4*params, gradients=4*params, state=8*params, copies=copies, kept=rows*kept)

def weigher(streams=8, inside=4, scores="heads", logit=4, state=8, master=4, tables=2, places=1,
            copied="matrices", use_rows=True, use_layers=True, last=2, half_state=False):
    "The answer, with switches for its mistakes"
    def weigh(shape, rows, size):
        layers, width, heads, inner, vocabulary, length = (shape[name] for name in SIZES)
        block = 4*width*width + 3*width*inner
        matrices = layers*block + vocabulary*width
        params = layers*block + tables*vocabulary*width + places*length*width
        each = master or size
        kept_scores = dict(heads=heads*length, one=length, none=0, twice=2*heads*length)[scores]
        of_layers = size*(streams*width + inside*inner + kept_scores)*(layers if use_layers else 1)
        at_the_end = size*last*width + (size if logit == "size" else logit)*vocabulary
        copies = 2*dict(matrices=matrices, all=params, blocks=layers*block, none=0, always=matrices)[copied]
        if size == 4 and copied != "always":
            copies = 0
        running = state*params*(size/4 if half_state else 1)
        return dict(weights=each*params, gradients=each*params, state=running, copies=copies,
                    kept=(rows if use_rows else 1)*length*(of_layers + at_the_end))
    return weigh

right_weigh = weigher()

def some_shape(seed):
    "A shape, rows, and the bytes of a number"
    rng = random.Random(seed)
    heads = rng.choice([1, 2, 3, 4, 6])
    width = heads*rng.choice([32, 48, 64]) if heads > 1 else rng.choice([64, 96])
    shape = dict(layers=rng.randrange(1, 5), width=width, heads=heads, inner=rng.randrange(width, 4*width, 8),
                 vocabulary=rng.randrange(100, 3000), length=rng.randrange(16, 400))
    return shape, rng.randrange(1, 9), rng.choice([2, 4])

@in_child
def weighed_by(answer, shape, rows, size):
    "What comes back, the shape afterwards, and how often torch was called"
    class Watch(TorchDispatchMode):
        calls = 0
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            Watch.calls += 1
            return func(*args, **(kwargs or {}))
    mine = dict(shape)
    with Watch():
        got = answer(mine, rows, size)
    return got, mine, Watch.calls

def weigh_check(answer):
    cases = [some_shape(seed) for seed in range(14)]
    for shape, rows, size in sorted(cases, key=lambda case: case[0]["layers"]):
        say = call_text("weigh", (shape, rows, size))
        got, mine, calls = weighed_by(answer, shape, rows, size)
        something(say, got)
        assert mine == shape, f"{say}: your code changes the shape; only read it"
        assert isinstance(got, dict) and set(got) == set(PARTS), (
            f"{say}: a dict with the keys {', '.join(PARTS)} is asked for")
        values = {part: plain(got[part]) for part in PARTS}
        for part, value in values.items():
            assert is_number(value), f"{say}: {part} should be a number of bytes, not {value!r}"
        for part, wanted in measured(shape, rows, size).items():
            share = 0.02 if part == "kept" else 0.001
            assert near(values[part], wanted, share), (
                f"{say}: {part} should be {wanted:,} bytes, by measurement, and you say {values[part]:,.0f}")
        assert not calls, (f"{say}: the numbers are right, and your code made tensors or called torch for "
                           "them: the task asks for arithmetic only")

weigh_lab = Exercise("1. Lab: weigh a model", 4, weigh_check, right_weigh,
    probes=[some_shape(seed) for seed in (0, 1, 2, 5, 8, 11)],
    behave=lambda f, shape, rows, size: rounded(f(shape, rows, size), 5),
    wrong=[
        Wrong("the scores are forgotten",
              "attention keeps the result of its softmax: one number for each head and each *pair* of "
              "positions. What grows with the square of the length in your sum?", weigher(scores="none")),
        Wrong("one head's scores", "every head has scores of its own.", weigher(scores="one")),
        Wrong("the scores are kept twice",
              "a softmax needs its own result for the derivative, and not what went in; the product with "
              "the values needs that same tensor.", weigher(scores="twice")),
        Wrong("logits of the size of all others",
              "the logits are turned into float32 before the loss, whatever the model computes in.",
              weigher(logit="size")),
        Wrong("the logits are forgotten",
              "the loss keeps log-probabilities for the whole vocabulary, at every position.",
              weigher(logit=0)),
        Wrong("the gate keeps only one side",
              "a product of two tensors needs both of them for its two derivatives: silu's result, and what "
              "`up` gives.", weigher(inside=3)),
        Wrong("only the last of the MLP",
              "of the four tensors of the inner width all are kept: what went into silu, what came out, what "
              "`up` gave, and their product.", weigher(inside=1)),
        Wrong("the stream is not kept",
              "both norms of a block need what went into them: the stream, before and after attention.",
              weigher(streams=6)),
        Wrong("what two operations need is counted twice",
              "`gate` and `up` read the same normed stream. One tensor is kept once, however many need it.",
              weigher(streams=9)),
        Wrong("one running mean", "AdamW has two of them, for the gradient and for its square.",
              weigher(state=4)),
        Wrong("weights in short numbers",
              "weights and gradients stay in float32: only the copies of matrices are short.",
              weigher(master=None)),
        Wrong("a state in short numbers", "AdamW's means belong to float32 weights, and are float32 too.",
              weigher(half_state=True)),
        Wrong("one table for both ends", "embedding and head are two tables here.", weigher(tables=1)),
        Wrong("positions are forgotten", "`place` has a row of numbers for each position.",
              weigher(places=0)),
        Wrong("tables are copied, too",
              "a table is only looked up: the rows that come out are shortened, not the table. `place` is "
              "added, and a sum keeps nothing.", weigher(copied="all")),
        Wrong("the head's copy is forgotten",
              "the head is a matrix that multiplies, like those of the blocks.", weigher(copied="blocks")),
        Wrong("no copies", "in bfloat16 each product makes a short copy of its matrix, and keeps it.",
              weigher(copied="none")),
        Wrong("copies in float32", "a float32 matrix is already what a product in float32 needs: `.to` gives "
              "back the matrix itself.", weigher(copied="always")),
        Wrong("one row", "what is kept grows with the rows.", weigher(use_rows=False)),
        Wrong("one layer", "what is kept grows with the layers.", weigher(use_layers=False)),
        Wrong("the end is forgotten",
              "after the last block comes one more norm, which needs the stream, and the head's product, "
              "which needs the normed stream.", weigher(last=0))])

# ---- 2. fill(shape, size, memory, step_rows, gpus) -> rows, count ----

def need(shape, size, rows, gpus, state="shared", fixed=True):
    "Bytes on one GPU"
    parts = right_weigh(shape, rows, size)
    held = parts["weights"] + parts["gradients"] + parts["copies"]
    if state == "all shared":
        return (held + parts["state"])/gpus + parts["kept"]
    held += parts["state"]/(gpus if state == "shared" else 1)
    return parts["kept"] + (held if fixed else 0)

def filler(free=0.1, divides=True, powers=False, use_gpus=True, none="none", pick=max, counted="each",
           refuse=True, **how):
    "The answer, with switches for its mistakes"
    def fill(shape, size, memory, step_rows, gpus):
        if refuse and step_rows % gpus:
            return None
        own = step_rows//gpus if use_gpus else step_rows
        fitting = [rows for rows in range(1, own+1) if not (divides and own % rows)
                   and need(shape, size, rows, gpus, **how) <= (1-free)*memory]
        if powers:
            fitting = [rows for rows in fitting if rows & (rows-1) == 0]
        if not fitting:
            return dict(none=None, one=(1, own), zero=(0, 0))[none]
        rows = pick(fitting)
        count = own//rows
        return rows, count*gpus if counted == "all" else count
    return fill

right_fill = filler()

@functools.cache
def some_card(seed):
    "Arguments of `fill`, no closer to a border than 3%"
    rng = random.Random(seed)
    while True:
        shape, _, size = some_shape(rng.randrange(10**6))
        shape["vocabulary"] *= rng.choice([1, 1, 10, 100])
        shape["length"] = rng.choice([shape["length"], 24, 64])
        gpus, own = rng.choice([1, 1, 2, 4, 8]), rng.choice([1, 4, 6, 7, 12, 24, 30, 36, 48])
        divisors = [rows for rows in range(1, own+1) if own % rows == 0]
        at = rng.randrange(-1, len(divisors))
        high = need(shape, size, divisors[at+1], gpus) if at+1 < len(divisors) else None
        low = need(shape, size, divisors[at], gpus) if at >= 0 else high/rng.uniform(1.1, 1.5)
        high = high or low*rng.uniform(1.1, 1.5)
        if high/low < 1.1:
            continue
        between = math.sqrt(low*high) if high/low < 1.3 else low*rng.uniform(1.05, high/low/1.05)
        step_rows = own*gpus + (1 if gpus > 1 and seed % 9 == 8 else 0)
        return shape, size, round(between/0.9, -3), step_rows, gpus

def fill_check(answer):
    for args in answered_first(right_fill, map(some_card, range(100))):
        say = call_text("fill", args)
        got, wanted = asked(say, answer, args), right_fill(*args)
        shape, size, memory, step_rows, gpus = args
        if wanted is None:
            why = ("the rows can't be shared equally" if step_rows % gpus
                   else f"one row takes {need(shape, size, 1, gpus):,.0f} bytes")
            assert got is None, f"{say}: {why}, so None; you say {got!r}"
            continue
        assert got is not None, (
            f"{say}: {many(wanted[0], 'row')} at once can be held, and None came back: is there a `return`?")
        rows, count = numbers_of(say, got, ("the rows at once", "how many times"))
        assert rows*count*gpus == step_rows, (
            f"{say}: {many(rows, 'row')}, {many(count, 'time')}, on {many(gpus, 'GPU')} make "
            f"{rows*count*gpus} and not {step_rows}")
        taken, limit = need(shape, size, int(rows), gpus), 0.9*memory
        assert rows == int(rows) and (int(rows), count) == wanted, (
            f"{say}: with {many(rows, 'row')} at once a GPU holds {taken:,.0f} bytes, of {limit:,.0f} that "
            f"may be taken; with {many(wanted[0], 'row')} it holds {need(shape, size, wanted[0], gpus):,.0f}")

fill_lab = Exercise("2. Lab: fill the card", 3, fill_check, right_fill,
    probes=[some_card(seed) for seed in range(40)], behave=lambda f, *args: rounded(f(*args), 6),
    wrong=[
        Wrong("the whole card", "a tenth of the memory is to stay free.", filler(free=0.)),
        Wrong("a remainder is left",
              "your rows fit, and some rows of the step are never computed: rows × count × GPUs must be the "
              "step's rows exactly.", filler(divides=False)),
        Wrong("powers of two only", "6 rows at once divide 24 as well as 4 and 8 do.", filler(powers=True)),
        Wrong("only what is kept", "weights, gradients, copies and state take memory whatever the rows.",
              filler(fixed=False)),
        Wrong("every GPU holds the whole state", "the state is shared: each GPU has 1/gpus of it.",
              filler(state="own")),
        Wrong("weights are shared, too",
              "you divide weights and gradients by the GPUs. Here only the state is shared; every GPU holds "
              "the rest in full.", filler(state="all shared")),
        Wrong("one GPU does it all", "the rows of a step are those of all GPUs together.",
              filler(use_gpus=False)),
        Wrong("the fewest rows", "the *largest* number of rows that fits is asked for.", filler(pick=min)),
        Wrong("micro-batches of all GPUs", "the count is that of one GPU: rows × count × GPUs is the step.",
              filler(counted="all")),
        Wrong("one row, and it doesn't fit", "where not even one row fits the answer is None.",
              filler(none="one")),
        Wrong("no rows", "where not even one row fits the answer is None, and not 0 rows.",
              filler(none="zero")),
        Wrong("shared with a remainder",
              "where the GPUs can't share the rows of a step equally the answer is None; rounding down drops "
              "rows without a word.", filler(refuse=False))])

# ---- 3. valley(points, budget) -> params, tokens ----

def parabola(xs, ys):
    "(curvature, slope, height, centre) of the least-squares parabola in x - centre"
    x, y = torch.tensor(xs, dtype=torch.float64), torch.tensor(ys, dtype=torch.float64)
    centre = x.mean()
    reach = (x-centre).abs().max()
    z = (x-centre)/reach
    curvature, slope, height = torch.linalg.lstsq(torch.stack((z*z, z, torch.ones_like(z)), 1), y).solution
    return (curvature/reach**2).item(), (slope/reach).item(), height.item(), centre.item()

def finder(fit="all", log=math.log, back=math.exp, edges="none", hill="none", cost=6, tokens=None, order=1,
           swap=False):
    "The answer, with switches for its mistakes"
    def valley(points, budget):
        ordered = sorted(points)
        lowest = min(range(len(ordered)), key=lambda i: ordered[i][1])
        if fit == "best":
            params = ordered[lowest][0]
        else:
            used = ordered
            if fit == "three":
                middle = min(max(lowest, 1), len(ordered)-2)
                used = ordered[middle-1:middle+2]
            xs, ys = [log(n) for n, _ in used], [loss for _, loss in used]
            curvature, slope, _, centre = parabola(xs, ys)
            bottom = centre - slope/(2*curvature)
            ends = log(ordered[0][0]), log(ordered[-1][0])
            if curvature <= 0 and hill == "none":
                return None
            if not ends[0] <= bottom <= ends[1]:
                if edges == "none":
                    return None
                bottom = min(max(bottom, ends[0]), ends[1]) if edges == "clamp" else bottom
            params = back(min(bottom, 700.)) if back is math.exp else back(bottom)
        read = tokens*params if tokens else budget/(cost*params)
        return (read, params) if swap else (params, read)
    return valley

right_valley = finder()

@functools.cache
def some_valley(seed):
    "Noisy losses of runs that cost the same; the bottom is not near an end of what was tried"
    rng = random.Random(seed)
    while True:
        budget = rng.choice([1e17, 3e17, 1e18, 6e18, 1e19, 1e20])
        centre, count, step = math.log(budget/120)/2, rng.randrange(5, 10), rng.uniform(0.3, 0.7)
        start = centre - rng.uniform(-0.2, 1.2)*count*step
        bend = rng.uniform(0.03, 0.1) if seed % 6 else -rng.uniform(0.03, 0.1)
        base, noise = rng.uniform(2, 4), rng.choice([0, 0.01, 0.03])
        points = []
        for i in range(count):
            params = float(f"{math.exp(start+i*step):.3g}")
            loss = base + bend*(math.log(params)-centre)**2 + rng.gauss(0, noise)
            points.append((params, round(loss, 4)))
        rng.shuffle(points)
        curvature, slope, _, middle = parabola([math.log(n) for n, _ in points], [y for _, y in points])
        bottom = middle - slope/(2*curvature)
        ends = [math.log(f(n for n, _ in points)) for f in (min, max)]
        clear = all(abs(bottom-end) > 0.1 for end in ends) and abs(curvature) > 0.01
        if clear and (curvature > 0 or ends[0] < bottom < ends[1]):
            return points, budget

def valley_check(answer):
    for args in answered_first(right_valley, map(some_valley, range(72))):
        say = call_text("valley", args)
        got, wanted = asked(say, answer, args), right_valley(*args)
        if wanted is None:
            xs, ys = [math.log(n) for n, _ in args[0]], [y for _, y in args[0]]
            why = ("the parabola has no bottom" if parabola(xs, ys)[0] < 0
                   else "the bottom lies outside the sizes that were tried")
            assert got is None, f"{say}: {why}, so None; you say {shown(got)}"
            continue
        assert got is not None, (
            f"{say}: the bottom is at {wanted[0]:.4g} parameters, and None came back: is there a `return`?")
        params, tokens = numbers_of(say, got, ("parameters", "tokens"))
        assert near(params, wanted[0], 0.005), (
            f"{say}: the bottom is at {wanted[0]:.4g} parameters, and you say {params:.4g}")
        assert near(tokens, wanted[1], 0.005), (
            f"{say}: with {params:.4g} parameters the budget is enough for {wanted[1]:.4g} tokens; you say "
            f"{tokens:.4g}")

bottom = Exercise("3. The bottom of the valley", 3, valley_check, right_valley,
    probes=[some_valley(seed) for seed in range(24)], behave=lambda f, *args: rounded(f(*args), 3),
    wrong=[
        Wrong("the best run",
              "you take the run with the lowest loss. With noise that is often a lucky one beside the "
              "bottom; the parabola listens to all runs.", finder(fit="best")),
        Wrong("three runs", "your parabola passes through the lowest run and its neighbours and forgets the "
              "others, so their noise is all yours.", finder(fit="three")),
        Wrong("sizes on a plain axis",
              "your parabola is one in N. The valley is a parabola in the *logarithm* of N: the steps from "
              "size to size are factors.", finder(log=float, back=float)),
        Wrong("a bottom where nobody was",
              "the lowest point lies outside the sizes that were tried, which is a guess and no measurement: "
              "None.", finder(edges="extend")),
        Wrong("the edge for the bottom",
              "where the loss still falls at the edge, the edge is not the bottom: None, and try more sizes.",
              finder(edges="clamp")),
        Wrong("the top of a hill", "a parabola that opens downwards has a highest point and no lowest: None.",
              finder(hill="any", edges="none")),
        Wrong("never None",
              "you always name a lowest point: also where the parabola opens downwards, and where the bottom "
              "lies outside the sizes that were tried.", finder(hill="any", edges="extend")),
        Wrong("forward only",
              "your tokens are three times too many: training takes 6 operations for each parameter and "
              "token, not 2.", finder(cost=2)),
        Wrong("the backward pass alone", "4 operations of 6: the forward pass costs 2 more.", finder(cost=4)),
        Wrong("twenty for each",
              "20 tokens for each parameter is what Hoffmann's measurement *came to*. Here the budget "
              "decides: D = C/6N.", finder(tokens=20)),
        Wrong("still a logarithm", "your first number is log N: go back to N.", finder(back=float)),
        Wrong("two kinds of logarithm", "log10 on the way there, e on the way back.", finder(log=math.log10)),
        Wrong("tokens first", "the parameters come first, then the tokens.", finder(swap=True))])

# ---- 4. worth(baseline, flops, bpb) -> factor ----

def judge_of(x="log", y="log", upside=False, ends="none", ordered=True, way="between", strict=False,
             compare="flops"):
    "The answer, with switches for its mistakes"
    def worth(baseline, flops, bpb):
        points = sorted(baseline) if ordered else list(baseline)
        to_x, from_x = (math.log, math.exp) if x == "log" else (float, float)
        to_y = math.log if y == "log" else float
        curve = [(to_x(c), to_y(b)) for c, b in points]
        if compare == "percent":
            inside = points[-1][1] <= bpb <= points[0][1]
            return min(points, key=lambda p: abs(math.log(p[0]/flops)))[1]/bpb if inside else None
        target = to_y(bpb)
        lowest, highest = min(b for _, b in curve), max(b for _, b in curve)
        outside = not (lowest < target < highest if strict else lowest <= target <= highest)
        if outside and ends == "none":
            return None
        if outside and ends == "clamp":
            at = min(curve, key=lambda p: abs(p[1]-target))[0]
        elif way == "nearest":
            at = min(curve, key=lambda p: abs(p[1]-target))[0]
        elif way == "one line":
            mean_x, mean_y = (sum(p[i] for p in curve)/len(curve) for i in (0, 1))
            slope = (sum((a-mean_x)*(b-mean_y) for a, b in curve)/sum((a-mean_x)**2 for a, _ in curve))
            at = mean_x + (target-mean_y)/slope
        elif way == "larger":
            at = min(a for a, b in curve if b <= target)
        else:
            pairs = list(zip(curve, curve[1:]))
            holding = [pair for pair in pairs if pair[1][1] <= target <= pair[0][1]]
            (a, above), (b, below) = holding[0] if holding else pairs[-1 if target < lowest else 0]
            at = a + (b-a)*(above-target)/(above-below)
        factor = (from_x(min(at, 700.)) if x == "log" else at)/flops
        return 1/factor if upside else factor
    return worth

right_worth = judge_of()

@functools.cache
def some_change(seed):
    "Runs of a baseline, and one run of a variant"
    rng = random.Random(seed)
    start, drop, floor = 10**rng.uniform(15, 19), rng.uniform(0.08, 0.2), rng.uniform(0.2, 0.5)
    budgets, at = [], start
    for _ in range(rng.randrange(3, 7)):
        budgets.append(float(f"{at:.3g}"))
        at *= rng.uniform(3, 12)
    losses = [round(floor + (c/start)**-drop*rng.uniform(0.99, 1.01), 4) for c in budgets]
    baseline = list(zip(budgets, losses))
    rng.shuffle(baseline)
    kind = seed % 8
    if kind == 0:
        bpb = losses[-1]*rng.uniform(0.93, 0.99)
    elif kind == 1:
        bpb = losses[0]*rng.uniform(1.01, 1.05)
    elif kind == 2:
        bpb = rng.choice(losses)
    elif kind == 3:
        bpb = rng.choice((losses[0], losses[-1]))
    else:
        i = rng.randrange(len(losses)-1)
        bpb = losses[i] + (losses[i+1]-losses[i])*rng.uniform(0.2, 0.8)
    flops = float(f"{start*10**rng.uniform(-0.3, 1.5):.3g}")
    return baseline, flops, round(bpb, 4)

def worth_check(answer):
    simple = ([(1e18, 1.0), (1e20, 0.8)], 5e18, 0.9)
    for args in (simple, *answered_first(right_worth, map(some_change, range(96)))):
        say = call_text("worth", args)
        got, wanted = asked(say, answer, args), right_worth(*args)
        if wanted is None:
            assert got is None, (f"{say}: {args[2]} bits per byte lie outside the measured runs of the "
                                 f"baseline, so None; you say {shown(got)}")
            continue
        assert got is not None, f"{say}: the factor is {wanted:.4g}, and None came back: is there a `return`?"
        got = plain(got)
        assert is_number(got), f"{say}: a number is asked for, or None, not {shown(got)}"
        assert near(got, wanted, 0.002), (
            f"{say}: the baseline needs {wanted*args[1]:.4g} FLOPs for {args[2]} bits per byte, which is "
            f"{wanted:.4g} times the variant's; you say {got:.4g}")

change = Exercise("4. What is a change worth?", 3, worth_check, right_worth,
    probes=[some_change(seed) for seed in range(24)], behave=lambda f, *args: rounded(f(*args), 3),
    wrong=[
        Wrong("upside down", "the baseline's operations over the variant's: above 1 where the change saves "
              "some.", judge_of(upside=True)),
        Wrong("a ratio of bits per byte",
              "you compare bits per byte with that of the baseline nearest in FLOPs. What is asked for is "
              "a ratio of operations at equal bits per byte.", judge_of(compare="percent")),
        Wrong("the line goes on",
              "you follow the last line beyond the last run. Nobody has been there: None.",
              judge_of(ends="extend")),
        Wrong("the last run for all that is better",
              "beyond the measured runs you answer with the last one: None is the honest answer.",
              judge_of(ends="clamp")),
        Wrong("the nearest run", "between two runs the curve is a straight line; you jump to the nearer one.",
              judge_of(way="nearest")),
        Wrong("the next larger run", "you take the first run that is as good. Between two runs the curve is "
              "a straight line.", judge_of(way="larger")),
        Wrong("plain paper", "neither axis has a logarithm: budgets differ by factors.",
              judge_of(x="plain", y="plain")),
        Wrong("operations on a plain axis", "bits per byte have their logarithm, and operations don't.",
              judge_of(x="plain")),
        Wrong("bits per byte on a plain axis", "operations have their logarithm, and bits per byte don't.",
              judge_of(y="plain")),
        Wrong("one line for all", "you fit a single line to all runs. The curve bends: take the two runs on "
              "either side.", judge_of(way="one line")),
        Wrong("as they come", "the runs come in any order: sort them first.", judge_of(ordered=False)),
        Wrong("the ends don't count", "as good as the first or the last run is still measured.",
              judge_of(strict=True))])

# ---- 5. bill(params, tokens, cards, deadline) -> name, gpus, hours, dollars ----

def biller(cost=6, believe=False, share=True, priced="gpus", choose="dollars", counts="powers", late=False,
           seconds=3600, least=True, halve_all=False):
    "The answer, with switches for its mistakes"
    def bill(params, tokens, cards, deadline):
        offers = []
        for name, card in cards.items():
            peak = card["sheet"]
            if halve_all or card["sparse"] and not believe:
                peak = peak/2
            alone = cost*params*tokens/(peak*(card["share"] if share else 1))/seconds
            numbers = [2**k for k in range(20) if 2**k <= card["most"]]
            if counts == "any":
                numbers = range(1, card["most"]+1)
            if counts == "all":
                numbers = numbers[-1:]
            in_time = [n for n in numbers if alone/n <= deadline or late]
            if in_time:
                n = in_time[0] if least else in_time[-1]
                hours = alone/n
                price = hours*card["dollars"]*dict(gpus=n, one=1, twice=n*n)[priced]
                offers.append((name, n, hours, price))
        keys = dict(dollars=lambda o: o[3], rate=lambda o: cards[o[0]]["dollars"], hours=lambda o: o[2],
                    sheet=lambda o: -cards[o[0]]["sheet"], gpus=lambda o: o[1])
        return min(offers, key=keys[choose], default=None)
    return bill

right_bill = biller()

SHEETS = dict(h100=(1979e12, True), a100=(312e12, False), l40s=(733e12, True), ada=(165e12, False))

@functools.cache
def some_run(seed):
    "Arguments of `bill`, no closer to a border than 1%"
    rng = random.Random(seed)
    while True:
        params = rng.choice([1.2e8, 5e8, 1e9, 3e9, 7e9])
        tokens = params*rng.choice([8, 20, 100])
        cards = {}
        for name in rng.sample(sorted(SHEETS), rng.randrange(2, 5)):
            sheet, sparse = SHEETS[name]
            dense = sheet/2 if sparse else sheet
            cards[name] = dict(sheet=sheet, sparse=sparse, share=rng.choice([0.3, 0.4, 0.5, 0.55]),
                               most=rng.choice([1, 2, 6, 8, 12, 64, 100]),
                               dollars=round(dense/989e12*rng.uniform(1.5, 5), 2))
        alone = [6*params*tokens/(card["sheet"]/(1+card["sparse"])*card["share"])/3600
                 for card in cards.values()]
        deadline = float(f"{rng.choice(alone)/rng.choice([0.7, 1.5, 3, 5, 11, 23]):.3g}")
        if seed % 10 == 9:
            deadline = float(f"{min(a/card['most'] for a, card in zip(alone, cards.values()))*0.8:.3g}")
        borders = [abs(math.log(a/n/deadline)) for a in alone for n in range(1, 101)]
        bills = sorted(a*card["dollars"] for a, card in zip(alone, cards.values()))
        apart = all(b/a > 1.01 for a, b in zip(bills, bills[1:]))
        if min(borders) > 0.001 and apart and 0.1 < deadline < 3000:
            return params, tokens, cards, deadline

def bill_check(answer):
    for args in answered_first(right_bill, map(some_run, range(80))):
        say = call_text("bill", args)
        got, wanted = asked(say, answer, args), right_bill(*args)
        if wanted is None:
            assert got is None, f"{say}: no card finishes in time, so None; you say {shown(got)}"
            continue
        assert got is not None, (f"{say}: {wanted[1]} x {wanted[0]} finish in time, and None came back: is "
                                 "there a `return`?")
        assert isinstance(got, (tuple, list)) and len(got) == 4, (
            f"{say}: four things are asked for: the card's name, GPUs, hours, dollars")
        assert isinstance(got[0], str) and got[0] in args[2], (
            f"{say}: the first of the four should be one of {', '.join(args[2])}, not {got[0]!r}")
        gpus, hours, dollars = numbers_of(say, got[1:], ("GPUs", "hours", "dollars"))
        told = f"{wanted[1]} x {wanted[0]} take {wanted[2]:.4g} hours and cost ${wanted[3]:.4g}"
        yours = f"{gpus} x {got[0]}, {hours:.4g} hours, ${dollars:.4g}"
        right = (got[0] == wanted[0] and gpus == wanted[1] and near(hours, wanted[2], 0.002)
                 and near(dollars, wanted[3], 0.002))
        assert right, f"{say}: {told}; you say {yours}"

costs = Exercise("5. The bill", 3, bill_check, right_bill,
    probes=[some_run(seed) for seed in range(30)], behave=lambda f, *args: rounded(f(*args), 4),
    wrong=[
        Wrong("forward only", "2 operations for each parameter and token are the forward pass alone; the "
              "backward pass takes 4 more.", biller(cost=2)),
        Wrong("the sparse peak is believed",
              "where `sparse` is True the sheet's number counts zeros that nobody computes: half of it is "
              "the speed of ordinary matrices.", biller(believe=True)),
        Wrong("every sheet is halved", "only the sheets with `sparse` True are twice too high.",
              biller(halve_all=True)),
        Wrong("the peak is reached", "a run reaches only a share of the peak.", biller(share=False)),
        Wrong("the price of one GPU", "your dollars are hours times the price of a single GPU: all of them "
              "are rented.", biller(priced="one")),
        Wrong("GPUs count twice",
              "the hours of the run times GPUs are GPU-hours already; you multiply by GPUs once more.",
              biller(priced="twice")),
        Wrong("the cheapest hour", "you take the card whose hour is cheapest. A slow card needs more hours.",
              biller(choose="rate")),
        Wrong("the fastest", "you take what finishes first; asked for is the lowest bill in time.",
              biller(choose="hours")),
        Wrong("the largest sheet", "you take the card with the largest number on its sheet.",
              biller(choose="sheet")),
        Wrong("the fewest GPUs of all", "fewest GPUs decide for each card; between cards it is dollars.",
              biller(choose="gpus")),
        Wrong("any number of GPUs", "GPUs come in 1, 2, 4, 8 …: a step's rows must be shared equally.",
              biller(counts="any")),
        Wrong("all there are", "the bill is right, and fewer GPUs would also be in time.",
              biller(least=False)),
        Wrong("too late", "the deadline is not looked at.", biller(late=True)),
        Wrong("minutes", "a peak is operations a *second*: 3,600 of them are an hour.", biller(seconds=60))])

EXERCISES = dict(weigh=weigh_lab, fill=fill_lab, valley=bottom, worth=change, bill=costs)
