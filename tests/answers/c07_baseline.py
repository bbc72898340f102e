"Answers to the exercises of chapter 07"
import math

import torch
import torch.nn.functional as F

from answers import Answers

answers = Answers()

# ---- 1. your own block ----

@answers.right("block")
def head_by_head(x, w, n_head):
    B, T, C = x.shape
    D = C//n_head
    centred = x - x.mean(-1, keepdim=True)
    y = centred/(centred.square().mean(-1, keepdim=True)+1e-5).sqrt()*w["ln.weight"]
    found = []
    for h in range(n_head):
        q, k, v = (y @ w["c_attn.weight"][i*C+h*D:i*C+(h+1)*D].T for i in range(3))
        bias = torch.tensor([[-2.0**(-8*(h+1)/n_head)*(t-s) if s <= t else -math.inf for s in range(T)]
                             for t in range(T)], dtype=x.dtype)
        found.append((q @ k.transpose(1, 2)*D**-0.5+bias).softmax(2) @ v)
    attended = torch.cat(found, 2) @ w["attn_proj.weight"].T
    return x + attended + F.linear(F.gelu(F.linear(y, w["c_fc.weight"])), w["mlp_proj.weight"])

@answers.right("block")
def by_torchs_own_attention(x, w, n_head):
    B, T, C = x.shape
    y = F.layer_norm(x, (C,), w["ln.weight"])
    q, k, v = F.linear(y, w["c_attn.weight"]).view(B, T, 3, n_head, -1).permute(2, 0, 3, 1, 4)
    at = torch.arange(T)
    slopes = torch.tensor([2.0**(-8*(h+1)/n_head) for h in range(n_head)], dtype=x.dtype).view(-1, 1, 1)
    bias = -slopes*(at[:, None]-at)
    bias = bias.masked_fill(at[:, None] < at, -math.inf)
    z = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
    attended = z.transpose(1, 2).flatten(2) @ w["attn_proj.weight"].T
    return x + attended + F.gelu(y @ w["c_fc.weight"].T) @ w["mlp_proj.weight"].T

def variant(x, w, n_head, change=""):
    "The block in plain words, with one thing changed"
    B, T, C = x.shape
    D = C//n_head
    y = F.layer_norm(x, (C,), w["ln.weight"], None, 1e-2 if change == "eps" else 1e-5)
    q, k, v = (y @ w["c_attn.weight"].mT).view(B, T, 3, n_head, D).permute(2, 0, 3, 1, 4)
    at = torch.arange(T, dtype=x.dtype)
    heads = torch.arange(n_head, dtype=x.dtype).view(-1, 1, 1)
    if change == "slopes backwards":
        heads = heads.flip(0)
    slopes = 2**(-8*(heads+1)/n_head)
    if change == "half slopes":
        slopes = slopes/2
    if change == "one slope":
        slopes = slopes[:1]
    distance = at[:, None]-at
    if change == "distance from the end":
        distance = (T-1-at)[None].expand(T, T)
    scores = q @ k.mT/math.sqrt(D) - slopes*distance
    if change == "slope before the root":
        scores = (q @ k.mT - slopes*distance)/math.sqrt(D)
    if change == "abs":
        scores = (q @ k.mT/math.sqrt(D)).abs() - slopes*distance
    future = at[:, None] < at
    z = scores.masked_fill(future, -9 if change == "minus nine" else -math.inf).softmax(-1) @ v
    if change == "values add up":
        z = scores.exp().masked_fill(future, 0) @ v
    attended = z.transpose(1, 2).reshape(B, T, C) @ w["attn_proj.weight"].mT
    mlp = F.gelu(y @ w["c_fc.weight"].mT) @ w["mlp_proj.weight"].mT
    if change == "attention twice":
        return x + 2*attended + mlp
    if change == "no mlp":
        return x + attended
    if change == "no attention":
        return x + mlp
    if change == "detached":
        return x + (attended + mlp).detach()
    if change == "shared norm outside":
        return F.layer_norm(x + attended + mlp, (C,))
    return x + attended + mlp

CHANGES = ("eps", "slopes backwards", "half slopes", "one slope",
           "slope before the root", "abs", "minus nine", "values add up", "attention twice", "no mlp",
           "no attention", "detached", "shared norm outside")

def changed(change):
    return lambda x, w, n_head: variant(x, w, n_head, change)

# a row of scores may be shifted as a whole: softmax does not see it
answers.right("block", "distance from the end")(changed("distance from the end"))
for change in CHANGES:
    answers.wrong("block", change)(changed(change))

@answers.wrong("block")
def adds_in_place(x, w, n_head):
    x += variant(x.clone(), w, n_head) - x
    return x

@answers.wrong("block")
def works_in_float32(x, w, n_head):
    w = {name: weight.float() for name, weight in w.items()}
    return variant(x.float(), w, n_head).to(x.dtype)

@answers.wrong("block", named="mask after softmax")
def masks_late(x, w, n_head):
    B, T, C = x.shape
    y = F.layer_norm(x, (C,), w["ln.weight"])
    q, k, v = (y @ w["c_attn.weight"].mT).view(B, T, 3, n_head, -1).permute(2, 0, 3, 1, 4)
    at = torch.arange(T)
    slopes = torch.tensor([2.0**(-8*(h+1)/n_head) for h in range(n_head)], dtype=x.dtype).view(-1, 1, 1)
    weights = (q @ k.mT/math.sqrt(C//n_head) - slopes*(at[:, None]-at)).softmax(-1).tril()
    z = (weights @ v).transpose(1, 2).reshape(B, T, C) @ w["attn_proj.weight"].mT
    return x + z + F.gelu(y @ w["c_fc.weight"].mT) @ w["mlp_proj.weight"].mT

@answers.wrong("block", named="no slopes")
def without_distances(x, w, n_head):
    B, T, C = x.shape
    y = F.layer_norm(x, (C,), w["ln.weight"])
    q, k, v = (y @ w["c_attn.weight"].mT).view(B, T, 3, n_head, -1).permute(2, 0, 3, 1, 4)
    z = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    return x + z @ w["attn_proj.weight"].mT + F.gelu(y @ w["c_fc.weight"].mT) @ w["mlp_proj.weight"].mT

# ---- 2. it trains too well ----

@answers.right("weights")
def place_by_place(scores, starts):
    rows = []
    for b, start in enumerate(starts.tolist()):
        for t in range(scores.size(1)):
            row = torch.zeros_like(scores[b, t])
            if t >= start:
                row = F.pad(scores[b, t, start:t+1].softmax(0), (start, len(row)-t-1))
            rows.append(row)
    return torch.stack(rows).view_as(scores) + 0*scores

@answers.right("weights")
def by_where_before_and_after(scores, starts):
    at = torch.arange(scores.size(-1))
    seen = (at <= at[:, None])[None] & (at[None, None] >= starts[:, None, None])
    safe = torch.where(seen, scores, torch.full_like(scores, -1e20))
    top = safe.amax(-1, keepdim=True).detach()
    e = torch.where(seen, (safe-top).exp(), torch.zeros_like(scores))
    return e/e.sum(-1, keepdim=True).clamp(min=1)

def see(scores, starts):
    at = torch.arange(scores.size(-1))
    return (at <= at[:, None])[None] & (at[None, None] >= starts[:, None, None])

@answers.wrong("weights", named="mask after softmax")
def late(scores, starts): return scores.softmax(-1)*see(scores, starts)

@answers.wrong("weights", named="mended after softmax")
def late_and_divided(scores, starts):
    w = scores.softmax(-1)*see(scores, starts)
    return w/w.sum(-1, keepdim=True)

@answers.wrong("weights")
def late_and_divided_with_care(scores, starts):
    w = scores.softmax(-1)*see(scores, starts)
    return w/w.sum(-1, keepdim=True).clamp(min=1e-9)

@answers.wrong("weights", named="NaN is swept away")
def added_and_swept(scores, starts):
    hidden = torch.zeros_like(scores).masked_fill(~see(scores, starts), -math.inf)
    return (scores+hidden).softmax(-1).nan_to_num(0.0)

@answers.right("weights")
def filled_and_swept(scores, starts):
    return scores.masked_fill(~see(scores, starts), -math.inf).softmax(-1).nan_to_num(0.0)

@answers.wrong("weights", named="NaN where nothing can be seen")
def bare(scores, starts): return scores.masked_fill(~see(scores, starts), -math.inf).softmax(-1)

@answers.wrong("weights", named="equal weights in the padding")
def minus_a_lot(scores, starts): return scores.masked_fill(~see(scores, starts), -1e9).softmax(-1)

@answers.wrong("weights")
def minus_a_hundred(scores, starts):
    seen = see(scores, starts)
    return scores.masked_fill(~seen, -100.).softmax(-1).where(seen, 0.)

@answers.wrong("weights", named="the padding is looked at")
def only_causal(scores, starts):
    return scores.masked_fill(torch.ones_like(scores[0], dtype=torch.bool).triu(1), -math.inf).softmax(-1)

@answers.wrong("weights")
def only_padding(scores, starts):
    at = torch.arange(scores.size(-1))
    seen = (at[None, None] >= starts[:, None, None]).expand_as(scores)
    return scores.masked_fill(~seen, -1e30).softmax(-1).where(seen, 0.)

@answers.wrong("weights")
def unsafe_exp(scores, starts):
    e = scores.exp()*see(scores, starts)
    return e/(e.sum(-1, keepdim=True)+1e-12)

@answers.wrong("weights")
def in_place(scores, starts):
    seen = see(scores, starts)
    scores.data.masked_fill_(~seen, -1e30)
    return scores.softmax(-1).where(seen, 0.)

@answers.wrong("weights")
def detached(scores, starts): return minus_a_lot(scores, starts).where(see(scores, starts), 0.).detach()

@answers.wrong("weights")
def padded_on_the_right(scores, starts):
    at = torch.arange(scores.size(-1))
    seen = (at <= at[:, None])[None] & (at[None, None] < (scores.size(-1)-starts)[:, None, None])
    return scores.masked_fill(~seen, -1e30).softmax(-1).where(seen, 0.)

@answers.wrong("weights", named="the first token is cut off")
def first_cut(scores, starts):
    seen = see(scores, starts+1)
    return scores.masked_fill(~seen, -1e30).softmax(-1).where(seen, 0.)

@answers.wrong("weights")
def first_row_for_all(scores, starts):
    seen = see(scores, starts[:1].expand_as(starts))
    return scores.masked_fill(~seen, -1e30).softmax(-1).where(seen, 0.)

# ---- 3. up a line, down a cosine, and again ----

@answers.right("rate")
def by_a_list(step, lr, min_lr, warmup, period, factor):
    rates = [lr*(i+1)/(warmup+1) for i in range(warmup)]
    while len(rates) <= step:
        rates += [lr if period == 1 else min_lr+(lr-min_lr)*math.cos(math.pi/2*k/(period-1))**2
                  for k in range(period)]
        period *= factor
    return rates[step]

@answers.right("rate")
def by_recursion(step, lr, min_lr, warmup, period, factor):
    if step < warmup:
        return lr*(step+1)/(warmup+1)
    step -= warmup
    if step >= period:
        return by_recursion(step-period, lr, min_lr, 0, period*factor, factor)
    return lr-(lr-min_lr)*(1-math.cos(math.pi*step/max(period-1, 1)))/2

def course(step, lr, min_lr, warmup, period, factor, start=1, top=1, gaps=1, reach=0.5, late=0, lower=1.0):
    if step < warmup:
        return lr*(step+start)/(warmup+top)
    place = step-warmup-late
    while place >= period:
        place, period, lr = place-period, period*factor, lr*lower
    share = place/max(period-gaps, 1)
    return min_lr+(lr-min_lr)*(1+math.cos(2*math.pi*reach*share))/2

@answers.wrong("rate", named="the first step is lost")
def from_zero(*a): return course(*a, start=0)

@answers.wrong("rate", named="the way up ends too early")
def reaches_the_top(*a): return course(*a, top=0)

@answers.wrong("rate", named="never quite at the bottom")
def n_gaps(*a): return course(*a, gaps=0)

@answers.wrong("rate", named="a whole cosine")
def whole_turn(*a): return course(*a, reach=1)

@answers.wrong("rate")
def quarter_turn(*a): return course(*a, reach=0.25)

@answers.wrong("rate")
def one_step_late(*a): return course(*a, late=1)

@answers.wrong("rate")
def each_top_is_lower(*a): return course(*a, lower=0.5)

@answers.wrong("rate")
def two_gaps_too_few(*a): return course(*a, gaps=2)

@answers.wrong("rate", named="all cycles are equally long")
def same_length(step, lr, min_lr, warmup, period, factor):
    return course(step, lr, min_lr, warmup, period, 1)

@answers.wrong("rate")
def divides_by_zero(step, lr, min_lr, warmup, period, factor):
    if step < warmup:
        return lr*(step+1)/(warmup+1)
    place = step-warmup
    while place >= period:
        place, period = place-period, period*factor
    return min_lr+(lr-min_lr)*(1+math.cos(math.pi*place/(period-1)))/2

@answers.wrong("rate")
def stays_down_after_the_first(step, lr, min_lr, warmup, period, factor):
    return min_lr if step >= warmup+period else course(step, lr, min_lr, warmup, period, factor)

@answers.wrong("rate", named="a cycle of one step")
def one_step_at_the_bottom(step, lr, min_lr, warmup, period, factor):
    at, n = step-warmup, period
    while at >= n:
        at, n = at-n, n*factor
    return min_lr if at == 0 and n == 1 else course(step, lr, min_lr, warmup, period, factor)

@answers.wrong("rate")
def degrees(step, lr, min_lr, warmup, period, factor):
    if step < warmup:
        return lr*(step+1)/(warmup+1)
    at = step-warmup
    while at >= period:
        at, period = at-period, period*factor
    return min_lr+(lr-min_lr)*(1+math.cos(180*at/max(period-1, 1)))/2

# ---- 4. who decays? ----

@answers.right("groups")
def by_dictionary(parameters):
    first = {}
    for p in parameters:
        if p[3]:
            first.setdefault(p[2], p)
    decays = [len([n for n in p[1] if n > 1]) > 1 for p in first.values()]
    names = [p[0] for p in first.values()]
    return [n for n, d in zip(names, decays) if d], [n for n, d in zip(names, decays) if not d]

@answers.right("groups")
def by_largest_and_product(parameters):
    out, known = ([], []), []
    for name, shape, number, learns in parameters:
        if learns and number not in known:
            known.append(number)
            out[0 if math.prod(shape) > max(shape, default=1) else 1].append(name)
    return out

def pick(parameters, decays, keep=lambda p: p[3], tied=True):
    known, out = set(), ([], [])
    for p in parameters:
        if not keep(p) or tied and p[2] in known:
            continue
        known.add(p[2])
        out[0 if decays(p) else 1].append(p[0])
    return out

def is_matrix(p): return sum(n > 1 for n in p[1]) >= 2

@answers.wrong("groups", named="dimensions of length 1")
def two_dimensions(parameters): return pick(parameters, lambda p: len(p[1]) >= 2)

@answers.wrong("groups")
def squeezed_once(parameters): return pick(parameters, lambda p: len(p[1]) >= 2 and p[1][0] > 1)

@answers.wrong("groups")
def more_numbers_than_32(parameters): return pick(parameters, lambda p: math.prod(p[1]) > 32)

@answers.wrong("groups", named="the name decides")
def not_bias(parameters): return pick(parameters, lambda p: not p[0].endswith("bias"))

@answers.wrong("groups", named="tied, and in twice")
def twice(parameters): return pick(parameters, is_matrix, tied=False)

@answers.wrong("groups", named="frozen, and in a group")
def frozen_too(parameters): return pick(parameters, is_matrix, keep=lambda p: True)

@answers.wrong("groups")
def frozen_do_not_decay(parameters):
    return pick(parameters, lambda p: is_matrix(p) and p[3], keep=lambda p: True)

@answers.wrong("groups", named="the other way round")
def turned(parameters): return pick(parameters, is_matrix)[::-1]

@answers.wrong("groups")
def tied_by_shape(parameters):
    known, out = set(), ([], [])
    for name, shape, _, learns in parameters:
        if learns and shape not in known:
            known.add(shape)
            out[0 if is_matrix((name, shape)) else 1].append(name)
    return out

@answers.wrong("groups")
def tied_by_name(parameters):
    return pick([p for p in parameters if p[0] != "lm_head.weight"], is_matrix)

@answers.wrong("groups")
def sorted_by_name(parameters): return tuple(map(sorted, pick(parameters, is_matrix)))

@answers.wrong("groups")
def exactly_two(parameters): return pick(parameters, lambda p: sum(n > 1 for n in p[1]) == 2)

@answers.wrong("groups")
def as_sets(parameters): return tuple(map(set, pick(parameters, is_matrix)))
