"Checks and known wrong answers for the exercises of chapter 06"
import functools, math, random
from collections import Counter
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.checkpoint import checkpoint
from nanochat.loss import softcap
from grade import Exercise, Wrong, in_child
from graders.common import call, something, written

def plain(a, digits=4):
    "Tensors and numbers as rounded lists, to be compared; what is no number is spelled out"
    if torch.is_tensor(a):
        a = a.detach().double().tolist()
    if isinstance(a, (list, tuple)):
        return [plain(x, digits) for x in a]
    if isinstance(a, (int, float)) and not isinstance(a, bool):
        return round(float(a), digits) if math.isfinite(a) else str(a)
    return plain(a.tolist(), digits) if type(a).__module__ == "numpy" else a

def near(a, b, tol=1e-6):
    if not torch.is_tensor(a) or a.shape != b.shape:
        return False
    return torch.allclose(a.detach().double(), b.detach().double(), rtol=tol, atol=tol)

# ---- 1. the slope of the cap: capped_loss(logits_NV, targets_N, cap) -> losses (N,), gradient (N,V) ----

def capper(slope=True, raw_slope=False, raw_probs=False, mask=True, mean=False, over=False, sign=1, dim=-1,
           hard=False, everywhere=False, scored=False, total=False, turned=False):
    "The answer, with switches for its mistakes"
    def capped_loss(logits_NV, targets_N, cap):
        tanh, ok = torch.tanh(logits_NV/cap), (targets_N >= 0)[:, None]
        capped, index = logits_NV.clamp(-cap, cap) if hard else cap*tanh, targets_N.clamp(min=0)[:, None]
        logp = F.log_softmax(capped, dim)
        p = logits_NV.softmax(-1) if raw_probs else logp.exp()
        grad = sign*(p-1 if everywhere else p.scatter_add(1, index, -torch.ones_like(logp[:, :1])))
        if hard:
            grad = grad*(logits_NV.abs() < cap)
        elif slope:
            grad = grad*(1-(torch.tanh(logits_NV) if raw_slope else tanh)**2)
        if over:
            grad = grad/cap
        if mean:
            grad = grad/(ok.sum().clamp(min=1) if scored else len(targets_N))
        out = (-logp.gather(1, index)*ok)[:, 0], grad*ok if mask else grad
        if total:
            out = out[0].sum(), out[1]
        return out[::-1] if turned else out
    return capped_loss

def by_autograd(logits_NV, targets_N, cap):
    with torch.enable_grad():
        z = logits_NV.clone().requires_grad_()
        losses = F.cross_entropy(softcap(z, cap), targets_N, ignore_index=-1, reduction="none")
        return losses.detach(), torch.autograd.grad(losses.sum(), z)[0]

@in_child
def without_autograd(answer, z, t, cap):
    "What comes back where nobody can switch autograd on again, and the two tensors afterwards"
    with torch.inference_mode():
        return answer(z, t, cap), z, t

def slope_check(answer):
    g = torch.Generator().manual_seed(1)
    cases = []
    for k in range(36):
        N, V = int(torch.randint(1, 7, (), generator=g)), int(torch.randint(2, 9, (), generator=g))
        cap = (15., 2., .7)[k % 3]
        z = (torch.randn(N, V, generator=g, dtype=torch.float64)*(1, 5, 30)[k//3 % 3]).mul(10).round()/10
        cases.append((z, torch.randint(-1, V, (N,), generator=g), cap))
    for z, t, cap in sorted(cases, key=lambda c: c[0].numel()):
        say = f"capped_loss(tensor({z.tolist()}, dtype=float64), tensor({t.tolist()}), cap={cap:g})"
        try:
            got, *mine = without_autograd(answer, z.clone(), t.clone(), cap)
        except RuntimeError as e:
            if "does not require grad" not in str(e) and "nference tensor" not in str(e):
                raise
            told = "autograd is switched off here, and stays off: give the gradient by formula"
            raise AssertionError(told) from None
        something(say, got)
        assert isinstance(got, (tuple, list)) and len(got) == 2 and all(map(torch.is_tensor, got)), (
            f"{say}: two tensors are asked for: the losses (N,) and the gradient (N,V)")
        assert torch.equal(mine[0], z), (
            f"{say}: your code changes the logits; an operation whose name ends in _ works in place")
        assert torch.equal(mine[1], t), (
            f"{say}: your code changes the targets; an operation whose name ends in _, or t[...] = ..., "
            "works in place")
        losses, grad = by_autograd(z, t, cap)
        for what, a, b in (("the losses", got[0], losses), ((
            "the losses are right; the gradient"), got[1], grad)):
            assert a.shape == b.shape, (
                f"{say}: {what} should have the shape {tuple(b.shape)}, not {tuple(a.shape)}")
            assert near(a, b), f"{say}: {what} should be {plain(b, 6)}, not {plain(a, 6)}"

slope = Exercise("1. The slope of the cap", 3, slope_check, capper(),
    probes=[([[.5, -1., 2.]], [2], 2.), ([[3., 1.], [0., 4.]], [0, 1], 5.),
            ([[1., 2., 3.], [3., 2., 1.]], [-1, 0], 1.5),
            ([[-2., 6., 1.], [1., 1., 0.], [9., 0., 0.]], [1, 1, 2], 15.)],
    behave=lambda f, z, t, cap: plain(f(torch.tensor(z, dtype=torch.float64), torch.tensor(t), cap)),
    wrong=[
        Wrong("the cap has no slope",
              "your gradient is that of the *capped* logits. The chain goes one link further, from the "
              "capped logit back to the raw one.",
              capper(slope=False)),
        Wrong("slope at another place",
              "you take tanh of the raw logit for the slope. Which number goes into tanh when the logit is "
              "capped?",
              capper(raw_slope=True)),
        Wrong("probabilities without the cap",
              "the softmax in your gradient is that of the raw logits. The loss saw the capped ones.",
              capper(raw_probs=True)),
        Wrong("masked rows still push",
              "where the target is -1 there is no loss, so nothing may be pushed: the whole row of the "
              "gradient is 0.",
              capper(mask=False)),
        Wrong("the gradient of a mean",
              "the task asks for the gradient of the *sum* of the losses. You have divided by the number of "
              "tokens.",
              capper(mean=True)),
        Wrong("the cap is divided out twice",
              "d/dz of c·tanh(z/c): the c in front and the 1/c from inside cancel. You still have a 1/c.",
              capper(over=True)),
        Wrong("the gradient of a mean",
              "the task asks for the gradient of the *sum* of the losses. You have divided by the number of "
              "scored tokens.",
              capper(mean=True, scored=True)),
        Wrong("cut off instead of bent",
              "`clamp` is a hard edge: beyond it no gradient is left at all. A soft cap is c·tanh(z/c).",
              capper(hard=True)),
        Wrong("the sign of the gradient",
              "this is the direction in which the loss falls. The gradient points to where it rises: p - "
              "one-hot.",
              capper(sign=-1)),
        Wrong("softmax over the tokens",
              "the probabilities of *one* token add up to 1 over the vocabulary, the last dimension. You "
              "add up over the tokens.",
              capper(dim=0)),
        Wrong("1 is subtracted everywhere",
              "one-hot is 1 at the target and 0 elsewhere. You take 1 off everywhere.",
              capper(everywhere=True)),
        Wrong("one loss for all",
              "every token has a loss of its own: a tensor (N,). Only the gradient is that of their sum.",
              capper(total=True)),
        Wrong("gradient first", "the losses come first, then the gradient.", capper(turned=True))])

# ---- 2. one divisor: contributions(processes) -> lists of the same shape ----

def divide(by):
    "An answer that divides the sum of each micro-batch by what `by(processes, r, k)` says"
    def contributions(processes):
        return [[nats.sum()/by(processes, r, k) for k, (nats, _) in enumerate(micro)] for r,
                micro in enumerate(processes)]
    return contributions

def scored(micro): return sum(int((t >= 0).sum()) for _, t in micro)
def everywhere(processes): return sum(map(scored, processes))

def one_divisor(processes, r, k): return everywhere(processes)/len(processes) or 1
def nan_zero(n): return n if n else torch.tensor(0.)      # 0/0 as torch divides

def pieces_of(spec):
    "[[targets of a micro-batch, …] of a process, …] with losses as `token_losses` gives them"
    # They are 0 where the target is -1.
    g = torch.Generator().manual_seed(2)
    def losses(t):
        nats = torch.rand(len(t), generator=g, dtype=torch.float64)+.5
        nats[torch.rand(len(t), generator=g) < .2] = 0                     # a target that was never in doubt
        return (nats*(t >= 0)).requires_grad_()
    return [[(losses(t), t) for t in map(torch.tensor, micro)] for micro in spec]

@in_child
def weights(answer, spec):
    "What every token weighs in the averaged gradient, and the loss that is reported"
    processes = pieces_of(spec)
    got = answer([list(m) for m in processes])
    assert got is not None, f"contributions with targets {spec}: nothing came back: is there a `return`?"
    lists = isinstance(got, (list, tuple)) and all(isinstance(x, (list, tuple)) for x in got)
    assert lists and [len(x) for x in got] == [len(m) for m in processes], (
        "one number for each micro-batch of each process, in lists of the same shape")
    assert all(torch.is_tensor(c) and c.dim() == 0 for m in got for c in m), (
        "each contribution must be a tensor without dimensions, so that backward() can be called on it")
    # micro-batches add up, processes are averaged
    total = sum(c for m in got for c in m)/len(processes)
    leaves = [n for m in processes for n, _ in m]
    grads = [None]*len(leaves)
    if total.requires_grad:
        grads = torch.autograd.grad(total, leaves, allow_unused=True)
    weigh = [(g if g is not None else torch.zeros_like(n)).tolist() for g, n in zip(grads, leaves)]
    targets = [t.tolist() for m in processes for _, t in m]
    return total.item(), sum(n.sum().item() for n in leaves), weigh, targets

def values_check(answer):
    "The numbers themselves, without gradients: each scored token counts alike, whatever the losses are"
    for spec in ([[[1, 2]]], [[[1], [2, 3, 4, -1]]], [[[1, 2], [3]], [[3, -1], [-1]]]):
        processes = [[(nats.detach(), t) for nats, t in m] for m in pieces_of(spec)]
        got = call(f"contributions with targets {spec}", answer, processes)
        for contribution in (c for m in got for c in m):
            assert torch.is_tensor(contribution) and contribution.dim() == 0, (
                "each contribution must be a tensor without dimensions, so that backward() can be called on "
                "it")
        loss = sum(float(c) for m in got for c in m)/len(spec)
        want = sum(float(nats.sum()) for m in processes for nats, _ in m)/everywhere(processes)
        assert math.isclose(loss, want, rel_tol=1e-6), (
            f"targets {spec}: the step's loss should be {want:.4f}, yours is {loss:.4f}")

def divisor_check(answer):
    rng = random.Random(2)
    specs = [[[[1, 2]]], [[[0, 3]]], [[[0], [0, -1]], [[2], [-1]]], [[[1], [2, 3, 4, -1]]],
             [[[1, 2]], [[3, -1]]], [[[-1, -1]]], [[[-1], [-1]], [[-1, -1], [-1]]],
             [[[5, -1], [-1]], [[-1], [-1]]]]
    for _ in range(60):
        world, micro = rng.randrange(1, 5), rng.randrange(1, 4)
        specs.append([[[rng.choice([-1, 0, 1, 2]) for _ in range(rng.randrange(1, 6))] for _ in range(micro)]
                      for _ in range(world)])
    for spec in sorted(specs, key=lambda s: len(str(s))):
        total, nats, got, targets = weights(answer, spec)
        n = sum(x >= 0 for t in targets for x in t)
        say = f"targets {spec} ({len(spec)} {'process' if len(spec) == 1 else 'processes'})"
        assert math.isfinite(total), f"{say}: the loss is {total}" + ((
            ", where nothing is scored it should be 0") if not n else "")
        for w, t in zip(got, targets):
            for a, x in zip(w, t):
                assert math.isfinite(a), f"{say}: a gradient is {a}"
                assert x < 0 or math.isclose(a, 1/n, rel_tol=1e-5), (
                    f"{say}: {n} scored {'token' if n == 1 else 'tokens'} in all, so each should weigh "
                    f"1/{n} = {1/n:.4f} in the averaged gradient; one weighs {a:.4f}")
        should = nats/n if n else 0
        assert math.isclose(total, should, rel_tol=1e-5), (
            f"{say}: the weights are right, and the step's loss should be {should:.4f}, not {total:.4f}")
    values_check(answer)

divisor = Exercise("2. One divisor", 3, divisor_check, divide(one_divisor),
    probes=[([[[1, 2], [3, -1]], [[4, -1], [-1, -1]]],), ([[[1], [2, 3, 4]]],), ([[[5, -1]], [[-1, -1]]],),
            ([[[-1, -1]]],), ([[[-1]], [[-1]]],), ([[[1, 2, 3]], [[4, 5, -1]]],), ([[[0, 1], [0, 0, -1]]],),
            ([[[1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3]], [[1, 0]], [[2]]],)],
    behave=lambda f, spec: plain(weights(f, spec)[::2]),
    wrong=[
        Wrong("mean of means",
              "each micro-batch takes its own mean. A piece with few scored tokens then counts as much as "
              "one with many.",
              divide(lambda ps, r, k: (scored([ps[r][k]]) or 1)*len(ps[r]))),
        Wrong("its own process only",
              "the count runs over the micro-batches of one process. A process with few scored tokens then "
              "weighs as much as one with many: the count must be the same everywhere.",
              divide(lambda ps, r, k: scored(ps[r]) or 1)),
        Wrong("averaged once more",
              "you divide by the count over all processes, and then the gradients are *averaged* over "
              "processes: everything comes out too small by their number.",
              divide(lambda ps, r, k: everywhere(ps) or 1)),
        Wrong("padding counts",
              "you divide by the number of places. Only those with a target of 0 or more are scored.",
              divide(lambda ps, r, k: sum(len(t) for m in ps for _, t in m)/len(ps))),
        Wrong("nothing over nothing",
              "where no token is scored at all you divide 0 by 0, and one such step turns every weight into "
              "NaN.",
              divide(lambda ps, r, k: nan_zero(everywhere(ps)/len(ps)))),
        Wrong("a fraction is lifted to one",
              "the count per process may be less than 1: one scored token on two processes is a half for "
              "each. `max(n, 1)` spoils it; only 0 itself needs a guard.",
              divide(lambda ps, r, k: max(everywhere(ps)/len(ps), 1))),
        Wrong("token 0 does not count",
              "0 is the number of a token like any other. Scored is what has a target of 0 *or more*.",
              divide(lambda ps, r, k: sum(int((t > 0).sum()) for m in ps for _, t in m)/len(ps) or 1)),
        Wrong("losses of 0 do not count",
              "a loss of exactly 0 is a target that was never in doubt, and it is scored. Look at the "
              "targets, not at the losses.",
              divide(lambda ps, r, k: sum(int((n != 0).sum()) for m in ps for n, _ in m)/len(ps) or 1)),
        Wrong("rounded down",
              "the count per process need not be a whole number: divide with /, not with //.",
              divide(lambda ps, r, k: everywhere(ps)//len(ps) or 1)),
        Wrong("multiplied by the processes twice",
              "averaging divides by the number of processes once, so it has to be made good once.",
              divide(lambda ps, r, k: everywhere(ps)/len(ps)**2 or 1)),
        Wrong("the micro-batches are averaged",
              "micro-batches of one process *add up*: nothing has to be divided by their number.",
              divide(lambda ps, r, k: everywhere(ps)/len(ps)*len(ps[r]) or 1)),
        Wrong("no gradient flows",
              "the numbers are right, and cut off from `nats`: backward() on them teaches nothing. No "
              "`detach`, no `item`.",
              lambda ps: [[c.detach() for c in m] for m in divide(one_divisor)(ps)]),
        Wrong("the first process's count",
              "you divide by the count of process 0. The others hold scored tokens, too.",
              divide(lambda ps, r, k: scored(ps[0]) or 1)),
        Wrong("nothing is divided",
              "these are the sums. The step's loss should be a *mean*.",
              divide(lambda ps, r, k: 1))])

# ---- 3. a score too good to be true: text_bits(ids, nats, vocab) -> bits per byte ----

def scorer(count=None, specials=False, log2=True, ratios=False, log=math.log(2), turned=False,
           special_bytes=0):
    "The answer, with switches for its mistakes; count(list of bytes) -> length"
    def text_bits(ids, nats, vocab):
        pairs = [(n, vocab[i]) for i, n in zip(ids, nats)]
        text = [(n, b) for n, b in pairs if b is not None]
        if ratios:
            return sum(n/math.log(2)/len(b) for n, b in text)/max(len(text), 1)
        total = sum(n for n, b in (pairs if specials else text))
        counted = (count or (lambda bs: sum(map(len, bs))))([b for _, b in text])
        size = counted+special_bytes*(len(pairs)-len(text))
        bits = total/(log if log2 else 1)/max(size, 1)
        return (1/bits if bits else 0) if turned else bits
    return text_bits

def one_by_one(errors): return lambda bs: sum(len(b.decode("utf-8", errors).encode()) for b in bs)

VOCAB = [bytes([i]) for i in range(256)] + [b"the", b" hand", "né".encode(), "हि".encode(), "🙂".encode()[:2],
                                            "🙂".encode()[2:], None, None]

def ids_of(text, vocab=VOCAB):
    "Longest pieces first: good enough to make rows of ids"
    data, out, table = text.encode(), [], {b: i for i, b in enumerate(vocab) if b}
    while data:
        n = max(n for n in range(1, 9) if data[:n] in table)
        out.append(table[data[:n]])
        data = data[n:]
    return out

def bytes_check(answer):
    rng, right = random.Random(3), scorer()
    rows = [ids_of(t) for t in ("the hand", "né", "हिन्दी", "🙂🙂 the", "日本", "Ünï")]
    rows += [[261, 97], [97, 262], [262, 263], [], [0xe0], [260, 98], [97, 0x80]]
    rows += [[rng.randrange(len(VOCAB)) for _ in range(rng.randrange(1, 12))] for _ in range(200)]
    # special tokens may stand anywhere in a vocabulary
    turned = [VOCAB[-1], VOCAB[-2], *VOCAB[:-2]]
    rows = [(ids, VOCAB) for ids in rows]+[([(i+2) % len(VOCAB) for i in ids], turned) for ids in rows]
    for ids, vocab in sorted(rows, key=lambda r: len(r[0])):
        nats = [round(rng.random()*8, 2) for _ in ids]
        mine, want = (list(ids), list(nats), list(vocab)), right(ids, nats, vocab)
        say = f"text_bits of tokens {[vocab[i] for i in ids]} with {nats} nats (ids {ids})"
        got = call(say, answer, *mine)
        assert mine == (ids, nats, vocab), f"{say}: your code changes its arguments; only read them"
        assert isinstance(got, (int, float)) or getattr(got, "numel", lambda: 0)() == 1, (
            f"{say}: one number is asked for, not {type(got).__name__}")
        assert math.isclose(float(got), want, rel_tol=1e-9, abs_tol=1e-12), (
            f"{say}: {want:.4f} bits per byte, not {float(got):.4f}")

counted = Exercise("3. A score too good to be true", 3, bytes_check, scorer(),
    probes=[(ids_of("the hand"), [1., 2.]), (ids_of("日本"), [1.]*6), (ids_of("né 🙂"), [.5, 1., 2., 1.]),
            ([262, *ids_of("हि"), 263], [3., 1., 2.]), ([0x80, 97], [1., 1.]), ([260, 97], [2., 1.]),
            ([256, 260, 261], [1., 2., .5]), ([97, 97, 98], [1., 3., 2.])],
    behave=lambda f, ids, nats: plain(f(list(ids), list(nats), list(VOCAB))),
    wrong=[
        Wrong("bytes through decode",
              "this is your friend's code. What does `decode` give for a token that is a third of a "
              "character, and how many bytes has *that*?",
              scorer(one_by_one("replace"))),
        Wrong("halves are dropped",
              "with errors=\"ignore\" a token that is a part of a character counts for nothing, so the "
              "score gets too *bad*.",
              scorer(one_by_one("ignore"))),
        Wrong("characters for bytes",
              "you count characters of the joined text. A Hindi letter is one character and three bytes.",
              scorer(lambda bs: len(b"".join(bs).decode("utf-8", "replace")))),
        Wrong("joined, and then through decode",
              "joining first is right as long as the text is whole. A row may begin or end in the middle of "
              "a character, and there � has three bytes again. Why decode at all?",
              scorer(lambda bs: len(b"".join(bs).decode("utf-8", "replace").encode()))),
        Wrong("special tokens are scored",
              "a special token has no bytes, and you still add its surprise: a model is punished for text "
              "that is not there.",
              scorer(specials=True)),
        Wrong("nats for bits", "the sum is in nats. One bit is log 2 = 0.693 of them.", scorer(log2=False)),
        Wrong("mean of ratios",
              "you take the ratio for each token and then their mean, so a token of one byte weighs as much "
              "as one of eight. Add up first, divide once.",
              scorer(ratios=True)),
        Wrong("one byte for each token",
              "this is bits per *token*. A token has as many bytes as `vocab[i]` is long.",
              scorer(len)),
        Wrong("multiplied by log 2",
              "one bit is log 2 = 0.693 nats, so a number of nats is a *larger* number of bits: divide.",
              scorer(log=1/math.log(2))),
        Wrong("bytes for each bit",
              "this is the other way round: bits per byte are bits divided by bytes.",
              scorer(turned=True)),
        Wrong("special tokens have a byte",
              "a special token is no text: its bytes count as little as its surprise.",
              scorer(special_bytes=1))])

# ---- 4. Francisco: kneser_ney(rows, V, d) -> V lists of V probabilities ----

def smoother(lower="kinds", give="kinds", floor=True, unseen=True, cross=False, swap=False, occurs=False,
             new=None, one=1, below=None, first=False, far=False):
    "The answer, with switches for its mistakes"
    def kneser_ney(rows, V, d):
        rows = [[t for r in rows for t in r]] if cross else rows[:1] if first else rows
        if far:
            rows = [[a, b] for r in rows for i, a in enumerate(r) for b in r[i+1:]]
        n = Counter(p for r in rows for p in zip(r, r[1:]))
        N, T, K, often = Counter(), Counter(), Counter(), Counter()
        for (a, b), c in n.items():
            N[a] += c
            T[a] += 1
            K[b] += 1
            often[b] += c
        if occurs:
            N = Counter(t for r in rows for t in r)
        low = dict(kinds=K, often=often, followers=T, rows=Counter(t for r in rows for t in set(r)))[lower]
        q = [(low[b]+one)/(sum(low.values())+(V*one if below is None else below) or 1) for b in range(V)]
        share = dict(kinds=lambda a: d*T[a], once=lambda a: d, nothing=lambda a: 0)[give]
        def p(a, b):
            if not N[a]:
                return new(V) if new else q[b] if unseen else 0.
            return ((max(n[a, b]-d, 0) if floor else n[a, b]-d) + share(a)*q[b])/N[a]
        P = [[p(a, b) for b in range(V)] for a in range(V)]
        return [list(c) for c in zip(*P)] if swap else P
    return kneser_ney

def kneser_check(answer):
    rng, right = random.Random(4), smoother()
    cases = [([[0, 1, 0, 2], [3, 1, 3, 1]], 5, .75), ([[0, 1]], 3, .5), ([], 3, .75), ([[2]], 3, .75),
             ([[0, 0]], 1, .5), ([[], [0, 1]], 2, .9)]
    cases += [([[rng.randrange(V) for _ in range(rng.randrange(1, 9))] for _ in range(rng.randrange(1, 6))],
               V+rng.randrange(2), rng.choice([.3, .75, .9])) for V in (2, 3, 5, 8) for _ in range(25)]
    for rows, V, d in sorted(cases, key=lambda c: (c[1], len(str(c[0])))):
        say, mine = written("kneser_ney", rows, V, d), [list(r) for r in rows]
        got, want = call(say, answer, mine, V, d), right(rows, V, d)
        assert mine == rows, f"{say}: your code changes `rows`; only count"
        array = torch.is_tensor(got) or type(got).__module__ == "numpy"
        assert isinstance(got, (list, tuple)) or array, (
            f"{say}: {V} rows of {V} probabilities are asked for, not a {type(got).__name__}")
        got = plain(got if array else list(got), 12)
        assert isinstance(got, list) and len(got) == V and all(isinstance(r, list) and len(r) == V
            for r in got), (
            f"{say}: {V} rows of {V} probabilities are asked for")
        for a in range(V):
            assert all(isinstance(x, float) for x in got[a]), f"{say}: after token {a} there is {got[a]}"
            total = sum(got[a])
            assert math.isclose(total, 1, rel_tol=1e-6), (
                f"{say}: the probabilities after token {a} add up to {total:.4f}: "
                f"{[round(x, 4) for x in got[a]]} should be {[round(x, 4) for x in want[a]]}")
            for b in range(V):
                assert math.isclose(got[a][b], want[a][b], rel_tol=1e-6, abs_tol=1e-9), (
                f"{say}: p({b} after {a}) should be {want[a][b]:.4f}, not {got[a][b]:.4f}")

kneser = Exercise("4. Francisco", 4, kneser_check, smoother(),
    probes=[([[0, 1, 0, 2], [3, 1, 3, 1]], 5, .75), ([[0, 1, 0, 1], [2, 3]], 4, .5),
            ([[0, 0, 1], [2, 1, 2]], 4, .75), ([[0, 1, 1, 2, 0, 2]], 3, .3),
            ([[0, 1], [0, 1, 1], [2, 1]], 4, .5)],
    behave=lambda f, rows, V, d: plain(f(rows, V, d)),
    wrong=[
        Wrong("how often, not where",
              "your q counts how *often* a token came. Francisco comes often, and always after San: count "
              "the different tokens that stood before it.",
              smoother(lower="often")),
        Wrong("the discount is lost",
              "d was taken from every pair that was seen and given to nobody: the row adds up to less than "
              "1.",
              smoother(give="nothing")),
        Wrong("one discount for a context",
              "d is taken once from *each* different follower, so d·T(a)/N(a) is there to be given away, "
              "not d/N(a).",
              smoother(give="once")),
        Wrong("discounts the unseen",
              "a pair that was never seen has 0 - d, a negative count. Nothing can be taken from nothing.",
              smoother(floor=False)),
        Wrong("a new context knows nothing",
              "after a token that never had a follower every probability is 0. There q is all we have.",
              smoother(unseen=False)),
        Wrong("over the ends of rows",
              "the last token of a row and the first of the next were never neighbours.",
              smoother(cross=True)),
        Wrong("rows for columns",
              "P[a][b] is the probability of b *after* a. Yours is the other way round.",
              smoother(swap=True)),
        Wrong("followers for predecessors",
              "your q counts how many different tokens come *after* b. What is asked is in how many places "
              "b itself fits: how many different ones come before it.",
              smoother(lower="followers")),
        Wrong("N counts occurrences",
              "N(a) is how often *something stood after* a. The last token of a row occurs, and nothing "
              "follows it there: add up n(a, b).",
              smoother(occurs=True)),
        Wrong("uniform after a new context",
              "where nothing ever followed a, the humbler model q speaks, and it knows more than 1/V.",
              smoother(new=lambda V: 1/V)),
        Wrong("the one is missing",
              "without the +1 (and the V below the line) a token that follows nothing is impossible "
              "everywhere.",
              smoother(one=0)),
        Wrong("0 over 0",
              "after a token that never had a follower N(a) is 0, and your table holds NaN there. Look at "
              "that case first: p = q.",
              smoother(new=lambda V: math.nan)),
        Wrong("one for all, V forgotten",
              "each of the V tokens gets one more, so V more are counted together.",
              smoother(below=1)),
        Wrong("where a token is, not after what",
              "you count in how many rows a token is. What is asked is after how many different tokens it "
              "comes.",
              smoother(lower="rows")),
        Wrong("one row only", "only the first row is counted.", smoother(first=True)),
        Wrong("every pair of a row is counted",
              "only neighbours make a pair: b comes *right* after a.",
              smoother(far=True))])

# ---- 5. never all at once: chunked_losses(x_NC, w_VC, targets_N, rows, smoothing) -> losses (N,) ----

class Watchman(TorchDispatchMode):
    "Notes the largest tensor that any operation makes, also in the backward pass"
    def __init__(self):
        super().__init__()
        self.numel = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for a in tree_flatten(out)[0]:
            if torch.is_tensor(a):
                self.numel = max(self.numel, a.numel())
        return out

def smoothed(x, w, t, smoothing): return F.cross_entropy(F.linear(x, w), t, ignore_index=-1, reduction="none",
                                                         label_smoothing=smoothing)

def some_numbers(N, V, C, seed=5):
    "A stream, a matrix, targets, and what each loss counts"
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(N, C, generator=g, dtype=torch.float64).requires_grad_()
    w = torch.randn(V, C, generator=g, dtype=torch.float64).requires_grad_()
    return x, w, torch.randint(-1, V, (N,), generator=g), torch.rand(N, generator=g, dtype=torch.float64)

def wanted(N, V, C, smoothing):
    "Losses and gradients as they should be"
    x, w, t, g_N = some_numbers(N, V, C)
    losses = smoothed(x, w, t, smoothing)
    return losses, torch.autograd.grad((losses*g_N).sum(), (x, w))

def said_of(N, V, C, rows, smoothing):
    "The case in words"
    targets = some_numbers(N, V, C)[2].tolist()
    return (f"chunked_losses with N={N}, V={V}, C={C}, rows={rows}, smoothing={smoothing:g}, "
            f"targets {targets[:8]}{'…' if N > 8 else ''}")

@in_child
def watched(answer, N, V, C, rows, smoothing):
    "Losses, gradients, largest tensor, numbers kept for the backward pass"
    (x, w, t, g_N), kept = some_numbers(N, V, C), {}
    say, before = said_of(N, V, C, rows, smoothing), t.clone()
    def note(a):
        kept[a.untyped_storage().data_ptr()] = a.untyped_storage().nbytes()//a.element_size()
        return a
    with Watchman() as seen:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda a: a):
            losses = answer(x, w, t, rows,
            smoothing)
        assert losses is not None, f"{say}: nothing came back: is there a `return`?"
        found = f"a {type(losses).__name__}"
        assert torch.is_tensor(losses), f"{say}: a tensor of shape ({N},) is asked for, not {found}"
        found = tuple(losses.shape)
        assert found == (N,), f"{say}: losses of shape ({N},) are asked for, not {found}"
        assert torch.equal(t, before), f"{say}: your code changes the targets"
        assert losses.requires_grad, f"{say}: no gradient flows through your losses"
        grads = torch.autograd.grad((losses*g_N).sum(), (x, w), allow_unused=True)
    return losses, grads, seen.numel, sum(kept.values())

def by_parts(x, w, t, smoothing, masked=True, others=False):
    "Label smoothing written out, with two of its mistakes"
    logp, scored = F.log_softmax(F.linear(x, w), -1), t >= 0
    hit = logp.gather(1, t.clamp(min=0)[:, None])[:, 0]
    rest = (logp.sum(-1)-hit)/(w.size(0)-1) if others else logp.mean(-1)
    return -(1-smoothing)*hit*scored - smoothing*rest*(scored if masked else 1)

def chunker(keep=False, whole=False, last=True, mean=False, mask=True, flow=True, to_w=True, smooth=True,
            loss=smoothed):
    "The answer, with switches for its mistakes"
    def one(x, w, t, s):
        out = loss(x if flow else x.detach(), w if flow and to_w else w.detach(),
                   t if mask else t.clamp(min=0), s if smooth else 0.)
        return out.mean().expand(len(t)) if mean else out
    def chunked_losses(x_NC, w_VC, targets_N, rows, smoothing):
        if whole:
            settings = dict(ignore_index=-1, reduction="none", label_smoothing=smoothing)
            cut = zip((x_NC @ w_VC.T).split(rows), targets_N.split(rows))
            return torch.cat([F.cross_entropy(z, t, **settings) for z, t in cut])
        N = len(targets_N)
        starts = range(0, N if last else N//rows*rows, rows)
        run = one if keep or not flow else lambda *a: checkpoint(one, *a, use_reentrant=False)
        return torch.cat([run(x_NC[i:i+rows], w_VC, targets_N[i:i+rows], smoothing) for i in starts]
                         or [x_NC.new_zeros(0)])
    return chunked_losses

def chunk_check(answer):
    for N, V, C, rows, smoothing in ((1, 4, 2, 1, 0.), (3, 5, 2, 8, .2), (5, 6, 2, 1, .1), (8, 9, 3, 4, 0.),
                                     (10, 7, 3, 4, .1), (7, 30, 4, 3, .5)):
        say = said_of(N, V, C, rows, smoothing)
        got, grads, *_ = watched(answer, N, V, C, rows, smoothing)
        want, want_grads = wanted(N, V, C, smoothing)
        assert near(got, want), f"{say}: the losses should be {plain(want, 3)}, not {plain(got, 3)}"
        for name, a, b in zip(("x", "w"), grads, want_grads):
            assert a is not None, f"{say}: the losses are right, no gradient reaches {name}"
            assert near(a, b), f"{say}: the losses are right, the gradient of {name} is not"
    N, V, C, rows = 60, 700, 4, 7
    say = said_of(N, V, C, rows, .1)
    *_, largest, kept = watched(answer, N, V, C, rows, .1)
    assert largest <= rows*V, (f"{say}: the watchman saw a tensor of {largest:,} numbers; no more than "
                               f"{rows} × {V} = {rows*V:,} were allowed at once")
    assert kept < N*V/3, (
        f"{say}: no single tensor was too large, but {kept:,} numbers wait for the backward pass, "
        f"and all logits together are only {N*V:,}")

def chunk_behave(f, N, V, C, rows, smoothing):
    try:
        losses, grads, largest, kept = watched(f, N, V, C, rows, smoothing)
    except AssertionError as e:
        return str(e).split(": ", 1)[-1]
    return plain(losses), plain(grads[0]), grads[1] is None, largest <= max(rows*V, V*C, N*C), kept < N*V/3

chunks = Exercise("5. Never all at once", 3, chunk_check, chunker(),
    probes=[(10, 7, 3, 4, .1), (20, 300, 3, 7, .2)], behave=chunk_behave,
    wrong=[
        Wrong("cut after the fact",
              "you cut the logits into chunks, and to cut them you made them all. Cut the stream x instead.",
              chunker(whole=True)),
        Wrong("nothing is thrown away",
              "each chunk is small, but autograd keeps the softmax of every chunk until the backward pass, "
              "and together they are as large as the whole. Something must be forgotten and computed again.",
              chunker(keep=True)),
        Wrong("the last chunk is lost",
              "N need not be a multiple of rows: the last chunk may be shorter, and you leave it out.",
              chunker(last=False)),
        Wrong("a mean per chunk",
              "every token has its own loss. You take the mean of each chunk.",
              chunker(mean=True)),
        Wrong("masked tokens are scored",
              "a target of -1 became token 0 and is scored. Its loss must be 0.",
              chunker(mask=False)),
        Wrong("masked tokens are smoothed",
              "where the target is -1 the whole loss is 0, the smoothed part of it as well.",
              chunker(loss=functools.partial(by_parts, masked=False))),
        Wrong("smoothing is not looked at",
              "these are the losses without smoothing, which the library's `token_losses` gives as well. "
              "`F.cross_entropy` has an argument for it.",
              chunker(smooth=False)),
        Wrong("smoothing goes to the others only",
              "the share `smoothing` is spread over *all* V tokens, the target among them.",
              chunker(loss=functools.partial(by_parts, others=True))),
        Wrong("cut off from the weights",
              "the numbers are right, and detached: no gradient reaches x and w, so nothing would be "
              "learned.",
              chunker(flow=False)),
        Wrong("no gradient to w",
              "the gradient reaches x and not w: the head would never learn. Hand w to each chunk as it is.",
              chunker(to_w=False))])

EXERCISES = dict(slope=slope, divisor=divisor, bytes=counted, kneser=kneser, chunks=chunks)
