"Answers to the exercises of chapter 10"
import math

import torch

from nanochat.optim import NEWTON_SCHULZ
from answers import Answers

answers = Answers()

# ---- 1. Muon from matrix products ----

A, B, C = NEWTON_SCHULZ[0]

def lifted(X, steps=5, a=A, b=B, c=C):
    for _ in range(steps):
        gram = X @ X.T
        X = a*X + (b*gram + c*gram@gram)@X
    return X

def factor_of(X, **how):
    X = X/(X.norm()+1e-12)
    return lifted(X.T, **how).T if X.size(0) > X.size(1) else lifted(X, **how)

def look(G, M, momentum=.95):
    M = momentum*M + (1-momentum)*G
    return M, momentum*M + (1-momentum)*G

def scale(W): return max(1, W.size(0)/W.size(1))**.5

@answers.right("muon")
def in_place_on_copies(W, G, M, lr):
    W, M = W.clone(), M.clone()
    M.lerp_(G, .05)
    return [W.sub_(factor_of(G.lerp(M, .95)), alpha=lr*scale(W)), M]

@answers.right("muon")
def by_columns(W, G, M, lr):
    "A tall matrix by X (a + b XᵀX + …), without turning it"
    M, X = look(G, M)
    X = X/X.norm().clamp(min=1e-12)
    for _ in range(5):
        if X.size(0) > X.size(1):
            gram = X.T @ X
            X = A*X + X@(B*gram + C*gram@gram)
        else:
            gram = X @ X.T
            X = torch.addmm(X, B*gram + C*gram@gram, X, beta=A)
    return W - lr*scale(W)*X, M

@answers.wrong("muon")
def by_svd(W, G, M, lr):
    M, X = look(G, M)
    U, S, Vt = torch.linalg.svd(X, full_matrices=False)
    s = S/(X.norm()+1e-12)
    for _ in range(5):
        s = A*s + B*s**3 + C*s**5
    return W - lr*scale(W)*(U*s)@Vt, M

@answers.wrong("muon")
def exact_polar_factor(W, G, M, lr):
    M, X = look(G, M)
    U, _, Vt = torch.linalg.svd(X, full_matrices=False)
    return W - lr*scale(W)*U@Vt, M

@answers.wrong("muon")
def the_large_product(W, G, M, lr):
    M, X = look(G, M)
    return W - lr*scale(W)*lifted(X/(X.norm()+1e-12)), M

@answers.wrong("muon", named="no look ahead")
def mean_only(W, G, M, lr):
    M = .95*M + .05*G
    return W - lr*scale(W)*factor_of(M), M

@answers.wrong("muon")
def momentum_of_a_half(W, G, M, lr):
    M, X = look(G, M, .5)
    return W - lr*scale(W)*factor_of(X), M

@answers.wrong("muon")
def means_changed_over(W, G, M, lr):
    M = .05*M + .95*G
    return W - lr*scale(W)*factor_of(.05*M + .95*G), M

@answers.wrong("muon")
def mean_in_place(W, G, M, lr):
    M.mul_(.95).add_(.05*G)
    return W - lr*scale(W)*factor_of(.95*M+.05*G), M

@answers.wrong("muon")
def weight_in_place(W, G, M, lr):
    M, X = look(G, M)
    W -= lr*scale(W)*factor_of(X)
    return W, M

@answers.wrong("muon", named="tall matrices move too little")
def no_factor(W, G, M, lr):
    M, X = look(G, M)
    return W - lr*factor_of(X), M

@answers.wrong("muon")
def matched_to_adamw(W, G, M, lr):
    M, X = look(G, M)
    return W - .2*lr*max(W.shape)**.5*factor_of(X), M

@answers.wrong("muon")
def six_steps(W, G, M, lr):
    M, X = look(G, M)
    return W - lr*scale(W)*factor_of(X, steps=6), M

@answers.wrong("muon")
def classic_coefficients(W, G, M, lr):
    M, X = look(G, M)
    return W - lr*scale(W)*factor_of(X, a=1.5, b=-.5, c=0.), M

@answers.wrong("muon", named="up the hill")
def uphill(W, G, M, lr):
    M, X = look(G, M)
    return W + lr*scale(W)*factor_of(X), M

@answers.wrong("muon")
def never_turned_back(W, G, M, lr):
    M, X = look(G, M)
    X = X/(X.norm()+1e-12)
    return W - lr*scale(W)*lifted(X.T if X.size(0) > X.size(1) else X), M

@answers.wrong("muon")
def mean_first(W, G, M, lr):
    M, X = look(G, M)
    return M, W - lr*scale(W)*factor_of(X)

# ---- 2. train with it ----

def gradients(weights, x, y):
    with torch.enable_grad():
        ps = [w.detach().requires_grad_() for w in weights]
        return torch.autograd.grad((torch.relu(x@ps[0].T)@ps[1].T-y).square().mean(), ps)

def trained(weights, x, y, lr=.15, steps=200, falls=True, first=True, second=True, y_scale=1., turn=None):
    weights, means = [w.clone() for w in weights], [torch.zeros_like(w) for w in weights]
    for t in range(steps):
        rate = lr*(1-t/steps) if falls else lr
        for i, g in enumerate(gradients(weights, x, y*y_scale)):
            if (first, second)[i]:
                weights[i], means[i] = in_place_on_copies(weights[i], g, means[i], rate)
    return weights if turn is None else [weights[k] for k in turn]

@answers.right("train")
def larger_rate(weights, x, y): return trained(weights, x, y, lr=.25)

@answers.right("train")
def more_steps(weights, x, y): return tuple(trained(weights, x, y, lr=.2, steps=250))

@answers.wrong("train")
def a_handful_of_steps(weights, x, y): return trained(weights, x, y, steps=10)

@answers.wrong("train")
def only_the_first_layer(weights, x, y): return trained(weights, x, y, second=False)

@answers.wrong("train")
def only_the_second_layer(weights, x, y): return trained(weights, x, y, first=False)

@answers.wrong("train")
def layers_changed_over(weights, x, y): return trained(weights, x, y, turn=(1, 0))

@answers.wrong("train")
def a_third_is_missing(weights, x, y): return trained(weights, x, y, turn=(0,))

@answers.wrong("train")
def rate_of_ten(weights, x, y): return trained(weights, x, y, lr=10., falls=False)

@answers.wrong("train")
def rate_of_adam(weights, x, y): return trained(weights, x, y, lr=.001)

@answers.wrong("train")
def other_targets(weights, x, y): return trained(weights, x, y, y_scale=.5)

@answers.wrong("train")
def targets_in_another_order(weights, x, y): return trained(weights, x, y.flip(0))

@answers.wrong("train")
def gives_the_error(weights, x, y):
    w = trained(weights, x, y, steps=5)
    return (torch.relu(x@w[0].T)@w[1].T-y).square().mean()

@answers.wrong("train")
def not_a_number(weights, x, y): return [w*float("nan") for w in weights]

@answers.wrong("train")
def transposed(weights, x, y): return [w.T for w in trained(weights, x, y, steps=5)]

@answers.wrong("train")
def torchs_adamw(weights, x, y):
    ps = [torch.nn.Parameter(w.clone()) for w in weights]
    opt = torch.optim.AdamW(ps, lr=.03, betas=(.9, .95), weight_decay=0.)
    for t in range(200):
        opt.param_groups[0]["lr"] = .03*(1-t/200)
        for p, g in zip(ps, gradients(ps, x, y)):
            p.grad = g
        opt.step()
    return [p.detach() for p in ps]

# ---- 3. which Adam is it? ----

FIRST = {"right": .5, "eps early": .1827, "eps inside": .7071, "no correction": .08173,
         "half correction": .8173}

@answers.right("which")
def by_table(adam):
    step = -adam([1.], 1., .9, .95)[0]
    return min(FIRST, key=lambda word: abs(FIRST[word]-step))

@answers.right("which")
def by_several_questions(adam):
    one, late, large = adam([1.], 1e-8)[0], adam([1.]*3, 1e-8)[2], adam([1.], 1.)[0]
    if abs(one+1) > .01:
        return "no correction" if abs(one) < 1 else "half correction"
    assert abs(late+1) < .01
    return "right" if abs(large+.5) < .01 else "eps early" if abs(large) < .5 else "eps inside"

def nearest(step, table=FIRST, other="right"):
    word = min(table, key=lambda word: abs(table[word]-step))
    return word if abs(table[word]-step) < .02 else other

@answers.wrong("which", named="everything is right")
def trusting(adam): return "right" if adam([1.], 1e-8) else "right"

@answers.wrong("which")
def always_early(adam): return "eps early"

@answers.wrong("which")
def signs_forgotten(adam): return nearest(adam([1.], 1.)[0])

@answers.wrong("which")
def twice_too_large(adam): return nearest(-2*adam([1.], 1.)[0])

@answers.wrong("which")
def second_step(adam): return nearest(-adam([1., 1.], 1.)[1])

@answers.wrong("which")
def a_gradient_of_ten(adam): return nearest(-adam([10.], 1.)[0])

@answers.wrong("which")
def another_beta(adam): return nearest(-adam([1.], 1., .9, .999)[0])

@answers.wrong("which", named="epsilon is invisible")
def small_epsilon(adam):
    one = -adam([1.], 1e-8)[0]
    return "right" if abs(one-1) < .01 else "no correction" if one < 1 else "half correction"

@answers.wrong("which")
def sorts_by_size(adam): return sorted(FIRST)[min(4, int(-adam([1.], 1.)[0]*5))]

@answers.wrong("which")
def a_number(adam): return -adam([1.], 1.)[0]

@answers.wrong("which")
def another_word(adam): return nearest(-adam([1.], 1.)[0]).replace(" ", "_")

@answers.wrong("which")
def capital_letters(adam): return nearest(-adam([1.], 1.)[0]).upper()

# ---- 4. backwards ----

def audit(factors, warmup, warmdown, final, want=None, near=1e-6, strict=False):
    steps = len(factors)
    for t, factor in enumerate(factors):
        left = steps-t
        should = 1.
        if t < warmup:
            should = (t+1)/warmup
        elif left <= warmdown:
            should = final+(1-final)*left/warmdown
        if want is not None:
            should = want(t, steps, should)
        if not (abs(factor-should) < near if strict else abs(factor-should) <= near):
            return t

@answers.right("backwards")
def by_lists(factors, warmup, warmdown, final):
    plan = [(t+1)/warmup for t in range(warmup)] + [1.]*(len(factors)-warmup-warmdown)
    plan += [1-(1-final)*k/warmdown for k in range(warmdown)]
    bad = [t for t, (a, b) in enumerate(zip(factors, plan)) if math.isnan(a) or abs(a-b) > 1e-6]
    return min(bad, default=None)

@answers.right("backwards")
def by_torch(factors, warmup, warmdown, final):
    t = torch.arange(len(factors), dtype=torch.float64)
    up = ((t+1)/warmup).clamp(max=1) if warmup else torch.ones_like(t)
    down = final+(1-final)*((len(factors)-t)/warmdown).clamp(max=1) if warmdown else torch.ones_like(t)
    logged = torch.tensor(factors, dtype=torch.float64)
    near = torch.isclose(logged, torch.minimum(up, down), rtol=0., atol=1e-6)
    return None if near.all() else int((~near).nonzero()[0])

@answers.wrong("backwards")
def counts_from_one(factors, warmup, warmdown, final):
    found = audit(factors, warmup, warmdown, final)
    return None if found is None else found+1

@answers.wrong("backwards")
def only_looks_for_rises(factors, warmup, warmdown, final):
    for t in range(max(warmup, 1), len(factors)):
        if factors[t] > factors[t-1]:
            return t

@answers.wrong("backwards")
def reaches_final_too_early(factors, warmup, warmdown, final):
    def want(t, steps, should):
        left = steps-1-t
        return final+(1-final)*left/max(warmdown-1, 1) if left < warmdown else should
    return audit(factors, warmup, warmdown, final, want)

@answers.wrong("backwards")
def falls_to_zero(factors, warmup, warmdown, final):
    return audit(factors, warmup, warmdown, 0.)

@answers.wrong("backwards")
def starts_at_final(factors, warmup, warmdown, final):
    def want(t, steps, should): return final+(1-final)*(t+1)/warmup if t < warmup else should
    return audit(factors, warmup, warmdown, final, want)

@answers.wrong("backwards")
def a_cosine(factors, warmup, warmdown, final):
    def want(t, steps, should):
        left = (steps-t)/warmdown if warmdown else 2
        return final+(1-final)*.5*(1-math.cos(math.pi*left)) if left <= 1 else should
    return audit(factors, warmup, warmdown, final, want)

@answers.wrong("backwards")
def says_the_length_for_none(factors, warmup, warmdown, final):
    found = audit(factors, warmup, warmdown, final)
    return len(factors) if found is None else found

@answers.wrong("backwards")
def says_whether(factors, warmup, warmdown, final): return audit(factors, warmup, warmdown, final) is not None

@answers.wrong("backwards")
def gives_the_factor(factors, warmup, warmdown, final):
    found = audit(factors, warmup, warmdown, final)
    return None if found is None else factors[found]

@answers.wrong("backwards")
def sorts_the_list(factors, warmup, warmdown, final):
    factors.sort()
    return audit(factors, warmup, warmdown, final)

@answers.wrong("backwards")
def the_way_up_only(factors, warmup, warmdown, final):
    return audit(factors[:warmup], warmup, 0, final)

@answers.wrong("backwards", named="NaN passes")
def compares_the_other_way_round(factors, warmup, warmdown, final):
    steps = len(factors)
    for t, factor in enumerate(factors):
        left = steps-t
        want = (t+1)/warmup if t < warmup else final+(1-final)*left/warmdown if left <= warmdown else 1.
        if abs(factor-want) > 1e-6:
            return t

# ---- 5. a scale that cannot learn ----

def whole(scale, lost):
    return ((scale.view(torch.int16).int() << 16) | (lost.int() & 0xFFFF)).view(torch.float32)

def halves(number):
    word = number.contiguous().view(torch.int32)
    return (word >> 16).to(torch.int16).view(torch.bfloat16), (word & 0xFFFF).to(torch.int16)

@answers.right("bits")
def by_two_words(scale, lost, change):
    pair = torch.stack((lost, scale.view(torch.int16)), -1).contiguous()      # little end first
    new = (pair.view(torch.float32)[..., 0]+change).contiguous().view(torch.int16).view(-1, 2)
    low, high = new.T.tolist()
    return torch.tensor(high, dtype=torch.int16).view(torch.bfloat16), torch.tensor(low, dtype=torch.int16)

@answers.right("bits")
def with_python_ints(scale, lost, change):
    pairs = zip(scale.view(torch.int16).tolist(), lost.tolist())
    words = [((high & 0xFFFF) << 16) | (low & 0xFFFF) for high, low in pairs]
    signed = [w-(1 << 32) if w >= 1 << 31 else w for w in words]
    return halves(torch.tensor(signed, dtype=torch.int32).view(torch.float32)+change)

@answers.wrong("bits")
def float32_scale(scale, lost, change):
    new = whole(scale, lost)+change
    return new, halves(new)[1]

@answers.wrong("bits")
def lost_as_int32(scale, lost, change):
    new = halves(whole(scale, lost)+change)
    return new[0], new[1].int()

@answers.wrong("bits", named="it does not learn")
def bfloat16_sum(scale, lost, change):
    return scale+change.bfloat16(), torch.zeros_like(lost)

@answers.wrong("bits")
def rounding_error_as_float16(scale, lost, change):
    new = scale.float()+lost.view(torch.float16).float()+change
    top = new.bfloat16()
    return top, (new-top.float()).half().view(torch.int16)

@answers.wrong("bits")
def kahan_in_bfloat16(scale, lost, change):
    new = scale.float()+lost.view(torch.bfloat16).float()+change
    top = new.bfloat16()
    return top, (new-top.float()).bfloat16().view(torch.int16)

@answers.wrong("bits")
def halves_changed_over(scale, lost, change):
    new = halves(whole(scale, lost)+change)
    return new[1].view(torch.bfloat16), new[0].view(torch.int16)

@answers.wrong("bits", named="backwards")
def subtracted(scale, lost, change): return halves(whole(scale, lost)-change)

@answers.wrong("bits")
def lost_is_doubled(scale, lost, change):
    top, low = halves(whole(scale, lost)+change)
    return top, low*2

@answers.wrong("bits")
def in_place(scale, lost, change):
    top, low = halves(whole(scale, lost)+change)
    scale.copy_(top)
    lost.copy_(low)
    return scale, lost

@answers.wrong("bits")
def fifteen_bits(scale, lost, change):
    top, low = halves(whole(scale, lost)+change)
    return top, low & 0x7FFF

@answers.wrong("bits")
def added_and_not_joined(scale, lost, change):
    word = (scale.view(torch.int16).int() << 16) + lost.int()
    return halves(word.view(torch.float32)+change)

@answers.wrong("bits")
def change_is_rounded(scale, lost, change): return halves(whole(scale, lost)+change.bfloat16().float())
