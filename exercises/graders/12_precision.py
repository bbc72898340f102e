"Checks and known wrong answers for the exercises of chapter 12"
import math, random
import torch
from grade import Exercise, Wrong, in_child
from graders.common import something, written

F64 = torch.float64

def rounded(a, digits=5):
    "Tensors and numbers as rounded lists, to be compared; what is no number is spelled out"
    if torch.is_tensor(a):
        a = a.detach().double().tolist()
    if isinstance(a, (list, tuple)):
        return [rounded(x, digits) for x in a]
    if isinstance(a, (int, float)) and not isinstance(a, bool):
        return float(f"{a:.{digits}g}") if math.isfinite(a) else str(a)
    return a

def off(got, wanted):
    "How far a tensor is from another, as a share of its length"
    wanted = wanted.double()
    return ((got.double()-wanted).norm()/wanted.norm().clamp(min=1e-300)).item()

def must_be(say, got, wanted, names, tolerance=1e-6):
    "Tensors of the right shape and with the right numbers"
    assert isinstance(got, (tuple, list)) and len(got) == len(wanted) and all(map(torch.is_tensor, got)), (
        f"{say}: {len(wanted)} tensors are asked for: {', '.join(names)}")
    for name, a, b in zip(names, got, wanted):
        assert a.shape == b.shape, (
            f"{say}: {name} should have the shape {tuple(b.shape)}, not {tuple(a.shape)}")
        assert a.isfinite().all(), f"{say}: {name} holds numbers that are not finite"
        assert off(a, b) < tolerance, f"{say}: {name} is off by {off(a, b):.2g} of its length"

# ---- 1. whole_layer(x, w, top) -> y, back ----

def by_rows(a, top, whole=False, floor=False, safe=True, spread=1.):
    "A matrix as whole multiples of a factor for each row, with switches for mistakes"
    factor = (a.abs().max() if whole else a.abs().amax(-1, keepdim=True))/top*spread
    if safe:
        factor = torch.where(factor > 0, factor, torch.ones_like(factor))
    steps = a/factor
    return (steps.floor() if floor else steps.round().clamp(-top, top))*factor

def layer_of(turn=True, swap=False, exact_back=False, forget_w=False, **how):
    "The answer, with switches for its mistakes"
    def product(a, b, top):
        return by_rows(a, top, **how) @ (b if forget_w else by_rows(b, top, **how)).T
    def whole_layer(x, w, top):
        def back(grad):
            if exact_back:
                out = grad @ w, grad.T @ x
            elif turn:
                out = product(grad, w.T, top), product(grad.T, x.T, top)
            else:
                kept_x, kept_w, rows = (by_rows(a, top, **how) for a in (x, w, grad))
                out = rows @ kept_w, rows.T @ kept_x
            return out[::-1] if swap else out
        return product(x, w, top), back
    return whole_layer

right_layer = layer_of()

def matrices(N, K, O, seed):
    "Inputs, a weight and a gradient with rows and columns of very different sizes"
    g = torch.Generator().manual_seed(seed)
    def draw(a, b):
        sizes = torch.logspace(0, -2, a, dtype=F64)[:, None]*torch.logspace(-1, 1, b, dtype=F64)
        return torch.randn(a, b, generator=g, dtype=F64)*sizes[torch.randperm(a, generator=g)]
    return draw(N, K), draw(O, K), draw(N, O)

@in_child
def three_of(answer, x, w, grad, top):
    "What a layer says: its output and both gradients"
    mine = [a.clone() for a in (x, w, grad)]
    out = answer(mine[0], mine[1], top)
    if out is None:
        return "nothing came back: is there a `return`?"
    if not (isinstance(out, (tuple, list)) and len(out) == 2 and callable(out[1])):
        return "two things are asked for: y, and a function `back`"
    grads = out[1](mine[2])
    if not (isinstance(grads, (tuple, list)) and len(grads) == 2):
        return "back(grad) should return two tensors, the gradients of x and of w"
    if not all(torch.equal(a, b) for a, b in zip(mine, (x, w, grad))):
        return "your code changes its arguments; make new tensors"
    return [out[0], *grads]

NAMES = "y", "the gradient of x", "the gradient of w"

def layer_check(answer):
    shapes = [(1, 1, 1), (2, 3, 1), (3, 2, 4), (8, 16, 4), (33, 7, 5)]
    for k, (N, K, O) in enumerate(shapes):
        for top in (7, 127):
            x, w, grad = matrices(N, K, O, k)
            say = f"whole_layer(x, w, top={top}) with N={N}, K={K}, O={O}"
            got = three_of(answer, x, w, grad, top)
            assert not isinstance(got, str), f"{say}: {got}"
            must_be(say, got, three_of(right_layer, x, w, grad, top), NAMES)
    x, w, grad = matrices(4, 6, 3, 9)
    x[1], w[2], grad[:, 0] = 0, 0, 0
    got = three_of(answer, x, w, grad, 127)
    say = "whole_layer with a row of zeros in x, one in w, a column of zeros in grad"
    assert not isinstance(got, str), f"{say}: {got}"
    must_be(say, got, three_of(right_layer, x, w, grad, 127), NAMES)

def layer_behaves(answer, N, K, O, seed, zeros=False):
    x, w, grad = matrices(N, K, O, seed)
    if zeros:
        x[0] = 0
    return rounded(three_of(answer, x, w, grad, 7))

lab = Exercise("1. Lab: a layer in whole numbers", 4, layer_check, right_layer,
    probes=[(3, 4, 2, 0), (5, 6, 4, 1), (8, 3, 5, 2), (4, 4, 4, 3, True)], behave=layer_behaves,
    wrong=[
        Wrong("rounded once, turned afterwards",
              "y is right. In the backward pass you use the matrices that were rounded for the forward one: "
              "their factors lie along K, and the two other products sum over O and over N.",
              layer_of(turn=False)),
        Wrong("one factor for all",
              "you take the largest number of the whole matrix. Each row has a factor of its own here.",
              layer_of(whole=True)),
        Wrong("only forward", "the gradients are exact: all three products should be in whole numbers.",
              layer_of(exact_back=True)),
        Wrong("one of two", "only the first matrix of each product is rounded.", layer_of(forget_w=True)),
        Wrong("cut off, not rounded", "`floor` pulls every number down; take the *nearest* whole number.",
              layer_of(floor=True)),
        Wrong("half of the range",
              "your largest number becomes half of `top`: a bit is wasted. The factor is the largest "
              "absolute value over `top`.", layer_of(spread=2.)),
        Wrong("zero over zero", "a row of zeros has a factor of 0, and 0/0 is NaN.", layer_of(safe=False)),
        Wrong("w before x", "back(grad) returns the gradient of x first.", layer_of(swap=True))])

# ---- 2. step(w1, w2, x, y, lr, top) -> w1, w2 ----

def teacher(seed, rows=256):
    "First weights, inputs and targets of a small problem"
    g = torch.Generator().manual_seed(seed)
    def draw(*shape): return torch.randn(*shape, generator=g, dtype=F64)
    x = draw(rows, 16)
    y = torch.relu(x @ draw(16, 16).T/4) @ draw(4, 16).T/4
    return draw(32, 16)/4, draw(4, 32)/6, x, y

def stepper(layer=right_layer, gate=True, over="all", master=True, sign=1, late=False, plain=False):
    "The answer, with switches for its mistakes"
    def step(w1, w2, x, y, lr, top):
        def exact(a, b, top):
            return a @ b.T, lambda g: (g @ b, g.T @ a)
        run = exact if plain else layer
        before, back1 = run(x, w1, top)
        out, back2 = run(torch.relu(before), w2, top)
        grad = 2*(out-y)/(out.numel() if over == "all" else len(out) if over == "rows" else 1)
        grad_hidden, grad_w2 = back2(grad)
        new_w2 = w2 - sign*lr*grad_w2
        if late:
            grad_hidden = run(torch.relu(before), new_w2, top)[1](grad)[0]
        grad_w1 = back1(grad_hidden*(before > 0) if gate else grad_hidden)[1]
        new = w1 - sign*lr*grad_w1, new_w2
        return new if master else tuple(by_rows(w, top) for w in new)
    return step

right_step = stepper()

def error_of(w1, w2, x, y):
    return (torch.relu(x @ w1.T) @ w2.T - y).square().mean().item()

@in_child
def after(answer, seed, steps, lr, top):
    "Both weights after some steps"
    w1, w2, x, y = teacher(seed)
    for _ in range(steps):
        out = answer(w1.clone(), w2.clone(), x.clone(), y.clone(), lr, top)
        if out is None:
            return "nothing came back: is there a `return`?"
        if not isinstance(out, (tuple, list)) or len(out) != 2 or not all(map(torch.is_tensor, out)):
            return "two tensors are asked for, the new w1 and the new w2"
        w1, w2 = out
    return [w1, w2]

def step_check(answer):
    for seed, lr, top in ((0, 0.5, 127), (1, 0.1, 7), (2, 1., 31)):
        say = f"one step on the problem of seed {seed}, lr={lr:g}, top={top}"
        got = after(answer, seed, 1, lr, top)
        assert not isinstance(got, str), f"{say}: {got}"
        w1, w2, *_ = teacher(seed)
        wanted = after(right_step, seed, 1, lr, top)
        must_be(say, got, wanted, ("the new w1", "the new w2"))
        moves = [(a-b, c-b) for a, b, c in zip(got, (w1, w2), wanted)]
        for name, (mine, right) in zip(("w1", "w2"), moves):
            assert off(mine, right) < 1e-4, f"{say}: the step of {name} is off by {off(mine, right):.1%}"
    got = after(answer, 3, 400, 0.5, 7)
    assert not isinstance(got, str), f"400 steps in four bits: {got}"
    w1, w2, x, y = teacher(3)
    start, end = error_of(w1, w2, x, y), error_of(*got, x, y)
    bound = 1.1*error_of(*after(right_step, 3, 400, 0.5, 7), x, y)
    assert end < bound, (
        f"400 steps in four bits: the error went from {start:.3f} to {end:.3f}, not below {bound:.3f}")

train = Exercise("2. Lab: train with it", 3, step_check, right_step, seconds=60,
    probes=[(0, 1, 0.5, 7), (1, 2, 0.5, 31)],
    behave=lambda f, *args: rounded(after(f, *args), 4),
    wrong=[
        Wrong("the weights are rounded",
              "what comes back are weights of few values. The master copy is never rounded, or small steps "
              "can't add up.", stepper(master=False)),
        Wrong("no gate",
              "where the ReLU gave 0 nothing may flow back: the gradient between the layers passes only "
              "where `before` was above 0.", stepper(gate=False)),
        Wrong("a mean over rows", "you divide by the number of rows. The loss is the mean over all numbers "
              "of the output.", stepper(over="rows")),
        Wrong("a sum and no mean", "the loss is a mean: divide its gradient by the numbers in the output.",
              stepper(over="sum")),
        Wrong("up the hill", "the sign: a step goes *against* the gradient.", stepper(sign=-1)),
        Wrong("no whole numbers", "this is the exact step: the products do not go through `whole_layer`.",
              stepper(plain=True)),
        Wrong("factors along the wrong dimension",
              "your layer reuses the matrices rounded for the forward pass: see exercise 1.",
              stepper(layer=layer_of(turn=False))),
        Wrong("the second layer moved first",
              "the gradient that goes back to the first layer must pass through the *old* w2.",
              stepper(late=True))])

# ---- 3. ready(grads, scale, max_norm) -> true gradients, or None ----

def readier(order="undo first", skip=True, notice="both", together=True, stretch=False, undo=1, values=False,
            first_only=False, zeros=False):
    "The answer, with switches for its mistakes"
    def bad(g):
        return not g.isfinite().all() if notice == "both" else bool(g.isinf().any())
    def clipped(grads, max_norm):
        if values:
            return [g.clamp(-max_norm, max_norm) for g in grads]
        norms = [g.norm().item() for g in grads]
        whole = math.sqrt(sum(n*n for n in norms)) if together is True else sum(norms)
        out = []
        for g, n in zip(grads, norms):
            size = n if together == "alone" else whole
            factor = max_norm/size if size > 0 else 1.
            out.append(g*(factor if stretch else min(1., factor)))
        return out
    def ready(grads, scale, max_norm):
        if skip and any(map(bad, grads[:1] if first_only else grads)):
            return [torch.zeros_like(g) for g in grads] if zeros else None
        if order == "clip first":
            return [g/scale for g in clipped(grads, max_norm)]
        return clipped([g/scale**undo for g in grads], max_norm)
    return ready

right_ready = readier()

def some_gradients(seed):
    "(gradients with a scale in them, the scale, the norm to clip at)"
    rng, g = random.Random(seed), torch.Generator().manual_seed(seed)
    scale, size = 2.**rng.choice([0, 8, 16, 40]), rng.choice([0.01, 0.3, 3., 30.])
    shapes = [[(3,)], [(2, 2), (3,)], [(4,), (1, 2), ()]][seed % 3]
    grads = [torch.randn(shape, generator=g)*size*scale for shape in shapes]
    if seed % 7 in (3, 4):
        grads[-1].view(-1)[-1] = math.inf if seed % 7 == 3 else math.nan
    if seed % 7 == 5:
        grads = [torch.zeros_like(t) for t in grads]
    return grads, scale, rng.choice([0.5, 1., 5.])

@in_child
def readied(answer, grads, scale, max_norm):
    "What comes back, and the arguments afterwards"
    mine = [g.clone() for g in grads]
    return answer(mine, scale, max_norm), mine

def ready_check(answer):
    for seed in range(60):
        grads, scale, max_norm = some_gradients(seed)
        shown = [rounded(g, 4) for g in grads]
        say = written("ready", shown, scale, max_norm)
        got, mine = readied(answer, grads, scale, max_norm)
        kept = all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(mine, grads))
        assert kept, f"{say}: your code changes the gradients in place; make new tensors"
        wanted = right_ready(grads, scale, max_norm)
        if wanted is None:
            assert got is None, f"{say}: not all numbers are finite, so the step is skipped: None"
            continue
        assert got is not None, f"{say}: all numbers are finite, and None came back: is there a `return`?"
        must_be(say, got, wanted, [f"gradient {i}" for i in range(len(wanted))], 1e-4)

clip = Exercise("3. Clipped to nothing", 3, ready_check, right_ready,
    probes=[(seed,) for seed in range(14)],
    behave=lambda f, seed: rounded(readied(f, *some_gradients(seed))[0], 4),
    wrong=[
        Wrong("clipped with the scale in it",
              "you clip first and divide by the scale afterwards. With the scale still in them, nearly all "
              "gradients are longer than max_norm.", readier(order="clip first")),
        Wrong("the scale stays in", "the gradients that come back are not divided by the scale.",
              readier(undo=0)),
        Wrong("undone twice", "the scale is divided out two times.", readier(undo=2)),
        Wrong("no step is skipped",
              "a gradient that is not finite makes every weight NaN at the next step: return None.",
              readier(skip=False)),
        Wrong("NaN passes", "you look for infinities only. An infinity minus an infinity is NaN.",
              readier(notice="inf")),
        Wrong("only the first is looked at", "any tensor may hold the number that is not finite.",
              readier(first_only=True)),
        Wrong("zeros are no skipped step",
              "with zeros the optimizer still steps: its means decay, and so do its weights. Return None.",
              readier(zeros=True)),
        Wrong("each by itself",
              "you clip every tensor by its own norm, which changes the direction of the whole gradient.",
              readier(together="alone")),
        Wrong("norms added up",
              "the norm of all together is the root of the sum of *squares*, not the sum of the norms.",
              readier(together="sum")),
        Wrong("short ones are stretched",
              "a gradient shorter than max_norm stays as it is: the factor is at most 1.",
              readier(stretch=True)),
        Wrong("numbers are clipped", "you clip every number at max_norm. The *norm* is to be clipped.",
              readier(values=True))])

# ---- 4. which(head) -> a word; head(logits, cap) -> capped logits ----

KINDS = ("right", "cap early", "hard", "twice", "no cap")

def capped(kind, logits, cap):
    "Capped logits, right or wrong in one of four ways"
    z = torch.tensor(logits).bfloat16()
    def soft(a): return cap*torch.tanh(a/cap)
    whole = z.float()
    out = {"right": lambda: soft(whole), "cap early": lambda: soft(z).float(),
           "hard": lambda: whole.clamp(-cap, cap), "twice": lambda: soft(soft(whole)),
           "no cap": lambda: whole}[kind]()
    return [float(f"{v:.6g}") for v in out.tolist()]

def head_of(kind): return lambda logits, cap: capped(kind, list(logits), cap)

@in_child
def verdict(answer, kind):
    "What an answer says of such a head"
    return answer(head_of(kind))

def detective(question=20.125, cap=15., words=None, blind=(), loose=0.):
    "Says whose answer is nearest; `words` renames, `blind` are kinds that it does not know"
    def which(head):
        got = head([question], cap)[0]
        known = [kind for kind in KINDS if kind not in blind]
        far = {kind: abs(got-capped(kind, [question], cap)[0]) for kind in known}
        best = min(far.values())
        word = next(kind for kind in known if far[kind] <= best+loose)
        return (words or {}).get(word, word)
    return which

def which_check(answer):
    for kind in (*KINDS, *random.Random(3).choices(KINDS, k=10)):
        got = something(f"which(head) for a head that is {kind!r}", verdict(answer, kind))
        assert got in KINDS, f"which(head) should give back one of {', '.join(KINDS)}, not {got!r}"
        shown = head_of(kind)([12., 12.0625, 20.], 15.)
        assert got == kind, (f"a head that makes {shown} of [12, 12.0625, 20] with a cap of 15 is {kind!r}, "
                             f"and you say {got!r}")

heads = Exercise("4. Which head is it?", 3, which_check, detective(),
    probes=[(kind,) for kind in KINDS], behave=verdict,
    wrong=[
        Wrong("a question below the cap",
              "below the cap, cut off at the edge and left alone are the same. Ask about a logit above it.",
              detective(question=2.)),
        Wrong("a tenth is near enough",
              "rounding to bfloat16 moves a capped logit by a few hundredths only. Compare all digits.",
              detective(loose=0.1)),
        Wrong("everything is right", "this answer trusts everybody.", lambda head: "right"),
        Wrong("early and right are changed over",
              "the early cap is the one whose answer is a multiple of 1/16: it was made in bfloat16.",
              detective(words={"right": "cap early", "cap early": "right"})),
        Wrong("an edge is no bend",
              "a hard cap gives exactly `cap` above the cap, and no cap at all gives the logit itself.",
              detective(words={"hard": "no cap", "no cap": "hard"})),
        Wrong("once is not twice", "you never say 'twice': two soft caps in a row give smaller logits.",
              detective(blind=("twice",)))])

# ---- 5. by_chance(x, noise) -> bfloat16 ----

def rounder(how="carry", share=1., turned=False, floor_negative=False, again=False):
    "The answer, with switches for its mistakes"
    def by_chance(x, noise):
        word = x.view(torch.int32)
        if how == "nearest":
            return x.bfloat16()
        if how == "down":
            return (word >> 16).short().view(torch.bfloat16)
        if how == "value":
            return (x + noise*2**-7).bfloat16()
        if how == "coin":
            low = (word & 0xFFFF) > 0
            return ((word >> 16) + (low & (noise >= 0.5))).short().view(torch.bfloat16)
        add = ((1-noise if turned else noise)*65536*share).int().clamp(max=65535)
        if floor_negative:
            add = torch.where(x < 0, 65535-add, add)
        total = word + add
        if again:
            return total.view(torch.float32).bfloat16()
        return (total >> 16).short().view(torch.bfloat16)
    return by_chance

right_rounder = rounder()

def numbers(seed, n=64):
    "Numbers of all sizes, some of which bfloat16 has, and noise"
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, generator=g)*10**torch.randint(-6, 7, (n,), generator=g).float()
    x[::5] = x[::5].bfloat16().float()
    x[1] = 0.
    return x, torch.rand(n, generator=g)

def borders():
    "Numbers and noise that together just reach the next code, and just don't"
    for top in (0x3F80, 0xBF80, 0x4049):
        for low in (0, 1, 1000, 65535):
            for total in (65535, 65536):
                if 0 <= total-low < 65536:
                    word = torch.tensor([top << 16 | low]).int()
                    yield word.view(torch.float32), torch.tensor([(total-low)/65536])

@in_child
def rounded_by(answer, x, noise):
    "What comes back, and the arguments afterwards"
    mine = x.clone(), noise.clone()
    return answer(*mine), *mine

def chance_check(answer):
    cases = [(torch.tensor([v]), torch.tensor([u])) for v in (1.001, -1.001, 1.0078125, 3.14, -0.02)
             for u in (0., 0.5, 0.875, 0.99)]
    for x, noise in (*cases, *borders(), *map(numbers, range(20))):
        got, *mine = rounded_by(answer, x, noise)
        say = (f"by_chance(tensor({rounded(x, 8)}), tensor({rounded(noise, 4)}))" if len(x) == 1
               else f"by_chance of {len(x)} numbers of all sizes")
        something(say, got)
        assert torch.is_tensor(got) and got.dtype == torch.bfloat16 and got.shape == x.shape, (
            f"{say}: a bfloat16 tensor of the shape {tuple(x.shape)} is asked for")
        assert torch.equal(mine[0], x) and torch.equal(mine[1], noise), (
            f"{say}: your code changes its arguments")
        wanted = right_rounder(x, noise)
        wrong = (got != wanted).nonzero().flatten()
        if len(wrong):
            i = wrong[0].item()
            raise AssertionError(f"{say}: {x[i].item():.8g} with the noise {noise[i].item():.4f} should "
                                 f"become {wanted[i].item():.8g}, not {got[i].item():.8g}")

chance = Exercise("5. Up or down by chance", 3, chance_check, right_rounder,
    probes=[(seed,) for seed in range(3)],
    behave=lambda f, seed: rounded(rounded_by(f, *numbers(seed))[0], 7),
    wrong=[
        Wrong("always the nearest", "the noise is not used: 1.001 becomes 1 every time, and never learns.",
              rounder("nearest")),
        Wrong("always towards zero", "cutting the bits off is no rounding by chance.", rounder("down")),
        Wrong("a fair coin",
              "you go up with a probability of one half, wherever x lies. It should be the share of the way.",
              rounder("coin")),
        Wrong("noise of one size",
              "you add noise to the *value*. The gap between two bfloat16 numbers depends on their size: "
              "near 1,000 it is 4.", rounder("value")),
        Wrong("half of the noise", "your noise reaches 32,768 only: numbers are rounded up too seldom.",
              rounder(share=0.5)),
        Wrong("the noise is turned round",
              "share plus noise must reach 1. You use 1 minus the noise.", rounder(turned=True)),
        Wrong("another way below zero",
              "for a negative number, too, it is the neighbour *away from zero* that wants share plus noise "
              "to reach 1.", rounder(floor_negative=True)),
        Wrong("rounded twice", "after the noise is added the lower bits are cut off. `.bfloat16()` rounds "
              "once more, to the nearest.", rounder(again=True))])

EXERCISES = dict(layer=lab, step=train, ready=clip, which=heads, chance=chance)
