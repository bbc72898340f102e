"Answers to the exercises of chapter 06"
import math
from collections import Counter, defaultdict

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from nanochat.loss import token_losses
from answers import Answers

answers = Answers()

# ---- 1. the slope of the cap ----

@answers.right("slope")
def row_by_row(logits_NV, targets_N, cap):
    losses, gradient = torch.zeros(len(targets_N), dtype=logits_NV.dtype), torch.zeros_like(logits_NV)
    for k, t in enumerate(targets_N.tolist()):
        if t < 0:
            continue
        y = cap*torch.tanh(logits_NV[k]/cap)
        p = (y-y.logsumexp(0)).exp()
        losses[k] = y.logsumexp(0)-y[t]
        p[t] -= 1
        gradient[k] = p/torch.cosh(logits_NV[k]/cap)**2
    return losses, gradient

@answers.right("slope")
def by_one_hot(logits_NV, targets_N, cap):
    t = torch.tanh(logits_NV/cap)
    mask = (targets_N >= 0).to(logits_NV.dtype)
    hot = F.one_hot(targets_N.clamp(min=0), logits_NV.size(1))
    log_p = F.log_softmax(cap*t, -1)
    return [-(log_p*hot).sum(-1)*mask, (log_p.exp()-hot)*(1-t)*(1+t)*mask[:, None]]

def capped(z, t, cap, scale=1., mask=True, slope=True, cast=None):
    z = z if cast is None else z.to(cast)
    bent = torch.tanh(z/cap)
    keep = (t >= 0).to(z.dtype) if mask else torch.ones(len(t), dtype=z.dtype)
    hot = F.one_hot(t.clamp(min=0), z.size(1))
    log_p = F.log_softmax(cap*bent, -1)
    inner = 1-bent**2 if slope else 1.
    return -(log_p*hot).sum(-1)*keep, (log_p.exp()-hot)*inner*keep[:, None]*scale

@answers.wrong("slope")
def with_autograd_switched_on(z, t, cap):
    with torch.enable_grad():
        leaf = z.clone().requires_grad_()
        losses = F.cross_entropy(cap*torch.tanh(leaf/cap), t, ignore_index=-1, reduction="none")
        return losses.detach(), torch.autograd.grad(losses.sum(), leaf)[0]

@answers.wrong("slope")
def clamps_the_targets_in_place(z, t, cap):
    out = capped(z, t.clone(), cap)
    t.clamp_(min=0)
    return out

@answers.wrong("slope")
def bends_the_logits_in_place(z, t, cap):
    out = capped(z.clone(), t, cap)
    z.div_(cap).tanh_().mul_(cap)
    return out

@answers.wrong("slope")
def cap_of_fifteen(z, t, cap): return capped(z, t, 15.)

@answers.wrong("slope", named="cut off instead of bent")
def clamped(z, t, cap):
    y = z.clamp(-cap, cap)
    losses, gradient = capped(y, t, 1e9)
    return losses, gradient*(z.abs() < cap)

@answers.wrong("slope", named="the gradient of a mean")
def mean_over_the_scored(z, t, cap): return capped(z, t, cap, scale=1/max(int((t >= 0).sum()), 1))

@answers.wrong("slope", named="the sign of the gradient")
def sign_turned(z, t, cap): return capped(z, t, cap, scale=-1.)

@answers.wrong("slope", named="softmax over the tokens")
def softmax_along_the_batch(z, t, cap):
    bent = torch.tanh(z/cap)
    log_p = F.log_softmax(cap*bent, 0)
    hot, keep = F.one_hot(t.clamp(min=0), z.size(1)), (t >= 0).to(z.dtype)
    return -(log_p*hot).sum(-1)*keep, (log_p.exp()-hot)*(1-bent**2)*keep[:, None]

@answers.wrong("slope", named="one loss for all")
def summed_loss(z, t, cap):
    losses, gradient = capped(z, t, cap)
    return losses.sum(), gradient

@answers.wrong("slope", named="1 is subtracted everywhere")
def one_everywhere(z, t, cap):
    losses, _ = capped(z, t, cap)
    bent, keep = torch.tanh(z/cap), (t >= 0).to(z.dtype)
    return losses, (F.softmax(cap*bent, -1)-1)*(1-bent**2)*keep[:, None]

@answers.wrong("slope")
def target_zero_is_masked(z, t, cap):
    losses, gradient = capped(z, t, cap)
    return losses*(t > 0), gradient*(t > 0)[:, None]

@answers.wrong("slope")
def half_precision(z, t, cap): return capped(z, t, cap, cast=torch.float16)

@answers.wrong("slope")
def slope_of_one_minus_tanh(z, t, cap):
    losses, gradient = capped(z, t, cap, slope=False)
    return losses, gradient*(1-torch.tanh(z/cap))

@answers.wrong("slope", named="gradient first")
def gradient_first(z, t, cap): return capped(z, t, cap)[::-1]

# ---- 2. one divisor ----

def scored(processes): return sum(int((t >= 0).sum()) for micro in processes for _, t in micro)

@answers.right("divisor")
def by_weights(processes):
    n, world = scored(processes), len(processes)
    return [[nats[t >= 0].sum()*(world/n if n else 0.) for nats, t in micro] for micro in processes]

@answers.right("divisor")
def with_where(processes):
    total = torch.stack([(t >= 0).sum() for micro in processes for _, t in micro]).sum()
    each = total/len(processes)
    def share(nats): return torch.where(total > 0, nats.sum()/each.clamp(min=1e-9), nats.sum()*0)
    return tuple(tuple(share(nats) for nats, _ in micro) for micro in processes)

def divided(processes, by):
    return [[nats.sum()/by(processes, micro, nats, t) for nats, t in micro] for micro in processes]

@answers.wrong("divisor", named="token 0 does not count")
def zero_is_not_scored(processes):
    n = sum(int((t > 0).sum()) for micro in processes for _, t in micro)
    return divided(processes, lambda *_: n/len(processes) or 1)

@answers.wrong("divisor", named="losses of 0 do not count")
def zero_losses_not_scored(processes):
    n = sum(int((nats != 0).sum()) for micro in processes for nats, _ in micro)
    return divided(processes, lambda *_: n/len(processes) or 1)

@answers.wrong("divisor", named="rounded down")
def whole_division(processes): return divided(processes, lambda *_: scored(processes)//len(processes) or 1)

@answers.wrong("divisor")
def rounded_up(processes):
    return divided(processes, lambda *_: math.ceil(scored(processes)/len(processes)) or 1)

@answers.wrong("divisor", named="multiplied by the processes twice")
def processes_twice(processes): return divided(processes, lambda *_: scored(processes)/len(processes)**2 or 1)

@answers.wrong("divisor", named="the micro-batches are averaged")
def divided_by_micro_batches(processes):
    return divided(processes, lambda ps, micro, *_: scored(ps)/len(ps)*len(micro) or 1)

@answers.wrong("divisor")
def plain_numbers(processes): return [[float(c.detach()) for c in micro] for micro in by_weights(processes)]

@answers.wrong("divisor", named="no gradient flows")
def detached(processes): return [[c.detach() for c in micro] for micro in by_weights(processes)]

@answers.wrong("divisor", named="the first process's count")
def count_of_the_first_process(processes): return divided(processes, lambda ps, *_: scored(ps[:1]) or 1)

@answers.wrong("divisor")
def one_number_for_each_process(processes):
    return [torch.stack(list(micro)).sum() for micro in by_weights(processes)]

@answers.wrong("divisor")
def losses_of_tokens(processes):
    n = scored(processes)/len(processes) or 1
    return [[nats/n for nats, _ in micro] for micro in processes]

@answers.wrong("divisor", named="nothing is divided")
def sums_only(processes): return divided(processes, lambda *_: 1)

@answers.wrong("divisor")
def with_a_small_number(processes):
    return divided(processes, lambda *_: scored(processes)/len(processes)+1e-3)

@answers.wrong("divisor")
def loss_of_the_average(processes):
    nats = torch.cat([n for micro in processes for n, _ in micro])
    return [[nats.sum()/max(scored(processes), 1) for _ in micro] for micro in processes]

# ---- 3. a score too good to be true ----

@answers.right("bytes")
def by_loop(ids, nats, vocab):
    bits = size = 0
    for i, n in zip(ids, nats):
        if vocab[i] is not None:
            bits += n/math.log(2)
            size += len(vocab[i])
    return bits/size if size else 0

@answers.right("bytes")
def with_torch(ids, nats, vocab):
    text = torch.tensor([vocab[i] is not None for i in ids], dtype=torch.bool)
    size = sum(len(vocab[i] or b"") for i in ids)
    total = (torch.tensor(nats, dtype=torch.float64)*text).sum()
    return total/math.log(2)/max(size, 1)

def bits(ids, nats, vocab, size=lambda b: len(b), special=lambda i, vocab: vocab[i] is None, log=math.log(2)):
    text = [(n, vocab[i]) for i, n in zip(ids, nats) if not special(i, vocab)]
    return sum(n for n, _ in text)/log/(sum(size(b) for _, b in text) or 1)

@answers.wrong("bytes")
def specials_come_last(ids, nats, vocab):
    return bits(ids, nats, vocab, special=lambda i, v: i >= len(v)-2, size=lambda b: len(b or b""))

@answers.wrong("bytes", named="one byte for each token")
def one_byte_a_token(ids, nats, vocab): return bits(ids, nats, vocab, size=lambda b: 1)

@answers.wrong("bytes")
def zero_without_a_guard(ids, nats, vocab):
    text = [i for i in ids if vocab[i] is not None]
    total = sum(n for i, n in zip(ids, nats) if vocab[i] is not None)
    return total/math.log(2)/sum(len(vocab[i]) for i in text)

@answers.wrong("bytes", named="multiplied by log 2")
def multiplied_by_log_two(ids, nats, vocab): return bits(ids, nats, vocab, log=1/math.log(2))

@answers.wrong("bytes")
def log_ten(ids, nats, vocab): return bits(ids, nats, vocab, log=math.log(10))

@answers.wrong("bytes", named="bytes for each bit")
def turned(ids, nats, vocab):
    value = bits(ids, nats, vocab)
    return 1/value if value else 0

@answers.wrong("bytes", named="special tokens have a byte")
def special_has_a_byte(ids, nats, vocab):
    size = sum(1 if vocab[i] is None else len(vocab[i]) for i in ids)
    return sum(n for i, n in zip(ids, nats) if vocab[i] is not None)/math.log(2)/max(size, 1)

@answers.wrong("bytes")
def different_ids_only(ids, nats, vocab):
    seen = dict(zip(ids, nats))
    return bits(list(seen), list(seen.values()), vocab)

@answers.wrong("bytes")
def latin_letters(ids, nats, vocab):
    return bits(ids, nats, vocab, size=lambda b: len(b.decode("latin-1").encode()))

@answers.wrong("bytes")
def nan_for_nothing(ids, nats, vocab):
    return bits(ids, nats, vocab) if any(vocab[i] is not None for i in ids) else math.nan

@answers.wrong("bytes")
def at_least_one_byte_more(ids, nats, vocab): return bits(ids, nats, vocab)*1.001

@answers.wrong("bytes")
def first_token_left_out(ids, nats, vocab): return bits(ids[1:], nats[1:], vocab)

@answers.wrong("bytes")
def rounded(ids, nats, vocab): return round(bits(ids, nats, vocab), 3)

@answers.wrong("bytes")
def takes_tokens_out(ids, nats, vocab):
    value = bits(ids, nats, vocab)
    for k in [k for k, i in enumerate(ids) if vocab[i] is None][::-1]:
        del ids[k], nats[k]
    return value

@answers.wrong("bytes")
def per_token(ids, nats, vocab):
    text = [n for i, n in zip(ids, nats) if vocab[i] is not None]
    return sum(text)/math.log(2)/max(len(text), 1)

# ---- 4. Francisco ----

@answers.right("kneser")
def with_tensors(rows, V, d):
    n = torch.zeros(V, V, dtype=torch.float64)
    for row in rows:
        for a, b in zip(row, row[1:]):
            n[a, b] += 1
    q = ((n > 0).sum(0)+1)/((n > 0).sum()+V)
    P = ((n-d).clamp(min=0)+d*(n > 0).sum(1, keepdim=True)*q)/n.sum(1, keepdim=True)
    return torch.where(n.sum(1, keepdim=True) > 0, P, q.expand(V, V))

@answers.right("kneser")
def with_dicts(rows, V, d):
    after = defaultdict(Counter)
    for row in rows:
        for k in range(len(row)-1):
            after[row[k]][row[k+1]] += 1
    kinds = Counter(b for a in after for b in after[a])
    q = [(kinds[b]+1)/(sum(kinds.values())+V) for b in range(V)]
    out = []
    for a in range(V):
        total = sum(after[a].values()) if a in after else 0
        if not total:
            out.append(tuple(q))
            continue
        give = d*len(after[a])
        out.append([(max(after[a][b]-d, 0)+give*q[b])/total for b in range(V)])
    return out

def kneser(rows, V, d, total=None, q=None, unseen=None, one=1, lower=None, kinds=None):
    n = Counter(p for row in rows for p in zip(row, row[1:]))
    N, T, K = Counter(), Counter(), Counter()
    for (a, b), c in n.items():
        N[a] += c
        T[a] += 1
        K[b] += 1
    occurs = Counter(t for row in rows for t in row)
    if total == "occurrences":
        N = occurs
    if kinds == "all":
        T = Counter({a: len(n) for a in T})
    K = lower(n, occurs) if lower else K
    q = q(K, V) if q else [(K[b]+one)/(sum(K.values())+one*V or 1) for b in range(V)]
    rest = q if unseen is None else [unseen(V)]*V
    return [[(max(n[a, b]-d, 0)+d*T[a]*q[b])/N[a] if N[a] else rest[b] for b in range(V)] for a in range(V)]

@answers.wrong("kneser", named="N counts occurrences")
def by_occurrences(rows, V, d): return kneser(rows, V, d, total="occurrences")

@answers.wrong("kneser", named="uniform after a new context")
def uniform_where_nothing_followed(rows, V, d): return kneser(rows, V, d, unseen=lambda V: 1/V)

@answers.wrong("kneser", named="the one is missing")
def one_is_missing(rows, V, d): return kneser(rows, V, d, one=0)

@answers.wrong("kneser", named="0 over 0")
def nothing_over_nothing(rows, V, d): return kneser(rows, V, d, unseen=lambda V: math.nan)

@answers.wrong("kneser", named="rows for columns")
def wrong_axis(rows, V, d): return [list(column) for column in zip(*kneser(rows, V, d))]

@answers.wrong("kneser")
def wrong_sum(rows, V, d):
    n = torch.zeros(V, V, dtype=torch.float64)
    for row in rows:
        for a, b in zip(row, row[1:]):
            n[a, b] += 1
    q = ((n > 0).sum(0)+1)/((n > 0).sum()+V)
    total = n.sum(0, keepdim=True).T
    P = ((n-d).clamp(min=0)+d*(n > 0).sum(0)[:, None]*q)/total
    return torch.where(total > 0, P, q.expand(V, V))

@answers.wrong("kneser")
def discount_of_three_quarters(rows, V, d): return kneser(rows, V, .75)

@answers.wrong("kneser")
def vocabulary_of_what_was_seen(rows, V, d):
    return kneser(rows, max((t for r in rows for t in r), default=0)+1, d)

@answers.wrong("kneser", named="one for all, V forgotten")
def without_V_below(rows, V, d):
    return kneser(rows, V, d, q=lambda K, V: [(K[b]+1)/(sum(K.values())+1) for b in range(V)])

@answers.wrong("kneser", named="where a token is, not after what")
def different_rows(rows, V, d):
    return kneser(rows, V, d, lower=lambda n, occurs: Counter(t for r in rows for t in set(r)))

@answers.wrong("kneser", named="one row only")
def first_row_only(rows, V, d): return kneser(rows[:1], V, d)

@answers.wrong("kneser")
def pairs_counted_once(rows, V, d): return kneser([list(r) for r in {tuple(r) for r in rows}], V, d)

@answers.wrong("kneser", named="every pair of a row is counted")
def all_pairs_in_a_row(rows, V, d):
    return kneser([[a, b] for r in rows for i, a in enumerate(r) for b in r[i+1:]], V, d)

@answers.wrong("kneser")
def interpolated_with_one(rows, V, d): return [[(1-d)*p+d/V for p in row] for row in kneser(rows, V, d)]

@answers.wrong("kneser")
def dictionaries(rows, V, d): return {a: row for a, row in enumerate(kneser(rows, V, d))}

@answers.wrong("kneser")
def appends_to_the_rows(rows, V, d):
    out = kneser(rows, V, d)
    for row in rows:
        row.append(0)
    return out

@answers.wrong("kneser")
def logarithms(rows, V, d): return [[math.log(p) for p in row] for row in kneser(rows, V, d)]

# ---- 5. never all at once ----

def smoothed(x, w, t, s):
    return F.cross_entropy(x @ w.T, t, ignore_index=-1, reduction="none", label_smoothing=s)

class ByHand(torch.autograd.Function):
    "Losses of a piece, and their gradients in the backward pass, with the logits made twice"
    @staticmethod
    def forward(ctx, x, w, t, s):
        ctx.save_for_backward(x, w, t)
        ctx.s = s
        return smoothed(x, w, t, s)

    @staticmethod
    def backward(ctx, g):
        x, w, t = ctx.saved_tensors
        p = (x @ w.T).softmax(-1)
        p -= ctx.s/w.size(0)
        p[torch.arange(len(t)), t.clamp(min=0)] -= 1-ctx.s
        p *= (g*(t >= 0))[:, None]
        return p @ w, p.T @ x, None, None

@answers.right("chunks")
def by_hand(x_NC, w_VC, targets_N, rows, smoothing):
    parts = zip(x_NC.split(rows), targets_N.split(rows))
    return torch.cat([ByHand.apply(x, w_VC, t, smoothing) for x, t in parts])

@answers.right("chunks")
def one_by_one(x_NC, w_VC, targets_N, rows, smoothing):
    def one(x, w, t):
        log_p = F.log_softmax(x @ w.T, -1)
        return torch.where(t >= 0, -(1-smoothing)*log_p[0, t.clamp(min=0)]-smoothing*log_p.mean(), 0.)
    pairs = zip(x_NC.split(1), targets_N.split(1))
    return torch.cat([checkpoint(one, x, w_VC, t, use_reentrant=False) for x, t in pairs])

def in_chunks(x_NC, w_VC, targets_N, rows, smoothing, loss=smoothed, forget=True):
    run = (lambda *a: checkpoint(loss, *a, use_reentrant=False)) if forget else loss
    return torch.cat([run(x, w_VC, t, smoothing) for x, t in zip(x_NC.split(rows), targets_N.split(rows))])

@answers.wrong("chunks", named="smoothing is not looked at")
def the_librarys_own(x_NC, w_VC, targets_N, rows, smoothing):
    return token_losses(x_NC[None], w_VC, targets_N[None], 0., rows*w_VC.size(0))[0]

@answers.wrong("chunks")
def the_librarys_own_capped(x_NC, w_VC, targets_N, rows, smoothing):
    return token_losses(x_NC[None], w_VC, targets_N[None], chunk=rows*w_VC.size(0))[0]

@answers.wrong("chunks", named="smoothing is not looked at")
def without_smoothing(x_NC, w_VC, targets_N, rows, smoothing):
    return in_chunks(x_NC, w_VC, targets_N, rows, 0.)

@answers.wrong("chunks")
def always_a_tenth(x_NC, w_VC, targets_N, rows, smoothing): return in_chunks(x_NC, w_VC, targets_N, rows, .1)

@answers.wrong("chunks", named="nothing is thrown away")
def keeps_everything(x_NC, w_VC, targets_N, rows, smoothing):
    return in_chunks(x_NC, w_VC, targets_N, rows, smoothing, forget=False)

@answers.wrong("chunks")
def two_times_rows(x_NC, w_VC, targets_N, rows, smoothing):
    return in_chunks(x_NC, w_VC, targets_N, 2*rows, smoothing)

@answers.wrong("chunks")
def chunks_of_seven(x_NC, w_VC, targets_N, rows, smoothing):
    return in_chunks(x_NC, w_VC, targets_N, 64, smoothing)

@answers.wrong("chunks", named="cut off from the weights")
def no_gradient(x_NC, w_VC, targets_N, rows, smoothing):
    with torch.no_grad():
        return in_chunks(x_NC, w_VC, targets_N, rows, smoothing)

@answers.wrong("chunks", named="no gradient to w")
def weights_detached(x_NC, w_VC, targets_N, rows, smoothing):
    return in_chunks(x_NC, w_VC.detach(), targets_N, rows, smoothing)

@answers.wrong("chunks", named="the last chunk is lost")
def whole_chunks_only(x_NC, w_VC, targets_N, rows, smoothing):
    n = len(targets_N)//rows*rows
    return in_chunks(x_NC[:n], w_VC, targets_N[:n], rows, smoothing)

@answers.wrong("chunks")
def the_mean(x_NC, w_VC, targets_N, rows, smoothing):
    return in_chunks(x_NC, w_VC, targets_N, rows, smoothing).mean()

@answers.wrong("chunks")
def a_list_of_chunks(x_NC, w_VC, targets_N, rows, smoothing):
    return list(in_chunks(x_NC, w_VC, targets_N, rows, smoothing).split(rows))

@answers.wrong("chunks")
def soft_capped(x_NC, w_VC, targets_N, rows, smoothing):
    def loss(x, w, t, s):
        logits = 15*torch.tanh(x @ w.T/15)
        return F.cross_entropy(logits, t, ignore_index=-1, reduction="none", label_smoothing=s)
    return in_chunks(x_NC, w_VC, targets_N, rows, smoothing, loss)

@answers.wrong("chunks", named="masked tokens are scored")
def masked_are_token_zero(x_NC, w_VC, targets_N, rows, smoothing):
    return in_chunks(x_NC, w_VC, targets_N.clamp(min=0), rows, smoothing)

@answers.wrong("chunks", named="masked tokens are smoothed")
def masked_are_smoothed(x_NC, w_VC, targets_N, rows, smoothing):
    def loss(x, w, t, s):
        log_p = F.log_softmax(x @ w.T, -1)
        hit = log_p.gather(1, t.clamp(min=0)[:, None])[:, 0]*(t >= 0)
        return -(1-s)*hit-s*log_p.mean(-1)
    return in_chunks(x_NC, w_VC, targets_N, rows, smoothing, loss)

@answers.wrong("chunks", named="smoothing goes to the others only")
def smoothing_to_the_others(x_NC, w_VC, targets_N, rows, smoothing):
    def loss(x, w, t, s):
        log_p = F.log_softmax(x @ w.T, -1)
        hit = log_p.gather(1, t.clamp(min=0)[:, None])[:, 0]
        others = (log_p.sum(-1)-hit)/(w.size(0)-1)
        return (-(1-s)*hit-s*others)*(t >= 0)
    return in_chunks(x_NC, w_VC, targets_N, rows, smoothing, loss)

@answers.wrong("chunks")
def vocabulary_in_chunks(x_NC, w_VC, targets_N, rows, smoothing):
    parts = [smoothed(x_NC, w, targets_N.clamp(max=len(w)-1), smoothing) for w in w_VC.split(rows)]
    return torch.cat(parts)[:len(targets_N)]
