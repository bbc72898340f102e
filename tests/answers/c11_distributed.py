"Answers to the exercises of chapter 11"
import heapq
import random

import torch

from nanochat.optim import adamw_update, advance, advance_squares, apply_update
from answers import Answers

answers = Answers()

# ---- 1. own a share ----

def loss_of(weights, x, y):
    w1, b1, w2 = weights
    return (torch.tanh(x @ w1.T + b1) @ w2.T - y).square().mean()

def joined(tensors): return torch.cat([t.flatten() for t in tensors])

def apart(flat, tensors):
    out, at = [], 0
    for t in tensors:
        out.append(flat[at:at+t.numel()].view_as(t))
        at += t.numel()
    return out

def gradient(flat, weights, x, y):
    with torch.enable_grad():
        ps = [p.clone().requires_grad_() for p in apart(flat.detach(), weights)]
        return joined(torch.autograd.grad(loss_of(ps, x, y), ps))

def filled(flat, length):
    out = flat.new_zeros(length)
    out[:len(flat)] = flat
    return out

def means_of(saved, n, rank, k, world):
    "This process's share of both means, of all shares of before"
    if not saved:
        return 0, torch.zeros(k, dtype=torch.float64), torch.zeros(k, dtype=torch.float64)
    wholes = [filled(joined([share[i] for share in saved])[:n], k*world) for i in (1, 2)]
    return saved[0][0], *(whole[rank*k:rank*k+k].clone() for whole in wholes)

def run(rank, world, weights, saved, batches, lr, betas=(0.9, 0.95), eps=1e-8, decay=0., divide="after",
        begin=means_of, shown=None, forgets=False, first_sum=False, gather_old=False, in_run=False,
        quiet=False, pairs=tuple):
    "Training with shares, with switches for whatever is to go wrong"
    flat = joined(weights)
    n = len(flat)
    k = -(-n//world)
    t, m, v = begin(saved, n, rank, k, world)
    start = t
    for x, y in batches:
        if forgets:
            m, v = torch.zeros_like(m), torch.zeros_like(v)
        t += 1
        sent = filled(gradient(flat, weights, x, y), k*world)
        if divide == "before":
            sent = sent/world
        mine = sent if quiet and world == 1 else (yield pairs(("reduce_scatter", sent)))
        mean = mine/world**{"after": 1, "before": 0, "twice": 2}[divide]
        own = filled(flat, k*world)[rank*k:rank*k+k].clone()
        old = own.clone()
        advance([m], [mean], betas[0])
        advance_squares([v], [mine if first_sum else mean], betas[1])
        apply_update([own], adamw_update([m], [v], t, betas, eps), lr, decay)
        shared = own if quiet and world == 1 else (
            yield pairs(("all_gather", old if gather_old else own)))
        flat = shared[:n]
    out = apart(flat, weights), (t-start if in_run else t, m, v)
    return shown(*out) if shown else out

@answers.right("train")
def by_the_library(*args): return run(*args)

@answers.right("train")
def divides_before_sending(*args): return run(*args, divide="before")

@answers.right("train")
def silent_when_alone(*args): return run(*args, quiet=True)

@answers.right("train")
def requests_as_lists(*args): return run(*args, pairs=list)

@answers.right("train")
def without_gradients_all_along(*args):
    "A `no_grad` that is open while others have their turn"
    with torch.no_grad():
        out = yield from run(*args)
    return out

@answers.right("train")
def torchs_own_optimizer(rank, world, weights, saved, batches, lr):
    "One Parameter that holds this process's share"
    flat = joined(weights)
    n = len(flat)
    k = -(-n//world)
    t, m, v = means_of(saved, n, rank, k, world)
    own = torch.nn.Parameter(filled(flat, k*world)[rank*k:rank*k+k].clone())
    opt = torch.optim.AdamW([own], lr=lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.)
    opt.state[own] = dict(step=torch.tensor(float(t)), exp_avg=m, exp_avg_sq=v)
    for x, y in batches:
        own.grad = (yield "reduce_scatter", filled(gradient(flat, weights, x, y), k*world))/world
        opt.step()
        flat = (yield "all_gather", own)[:n]
    return apart(flat, weights), (t+len(batches), m, v)

@answers.wrong("train")
def no_generator(rank, world, weights, saved, batches, lr): return weights, (0, weights[0], weights[0])

@answers.wrong("train")
def tensors_without_a_name(rank, world, weights, saved, batches, lr):
    yield joined(weights)

@answers.wrong("train")
def a_word_that_is_none(rank, world, weights, saved, batches, lr):
    yield "allreduce", joined(weights)

@answers.wrong("train")
def tells_the_old_weights(*args): return run(*args, gather_old=True)

@answers.wrong("train")
def divides_twice(*args): return run(*args, divide="twice")

@answers.wrong("train", named="a sum and not a mean")
def sums(*args): return run(*args) if args[1] == 1 else summing(*args)

def summing(rank, world, weights, saved, batches, lr):
    inner = run(rank, world, weights, saved, batches, lr)
    reply = None
    while True:
        try:
            name, sent = inner.send(reply)
        except StopIteration as end:
            return end.value
        reply = yield name, sent*world if name == "reduce_scatter" else sent

@answers.wrong("train")
def variance_of_the_sum(*args): return run(*args, first_sum=True)

@answers.wrong("train")
def betas_changed_over(*args): return run(*args, betas=(0.95, 0.9))

@answers.wrong("train")
def torchs_default_decay(*args): return run(*args, decay=0.01)

@answers.wrong("train")
def large_epsilon(*args): return run(*args, eps=1e-3)

@answers.wrong("train")
def a_vector_of_weights(*args): return run(*args, shown=lambda weights, state: (joined(weights), state))

@answers.wrong("train")
def weights_in_another_order(*args): return run(*args, shown=lambda weights, state: (weights[::-1], state))

@answers.wrong("train")
def only_the_weights(*args): return run(*args, shown=lambda weights, state: weights)

@answers.wrong("train")
def means_changed_over(*args):
    return run(*args, shown=lambda weights, state: (weights, (state[0], state[2], state[1])))

@answers.wrong("train")
def steps_of_this_run(*args): return run(*args, in_run=True)

@answers.wrong("train")
def begins_anew_each_step(*args): return run(*args, forgets=True)

def zeros_again(saved, n, rank, k, world):
    return (saved[0][0] if saved else 0), *means_of(None, n, rank, k, world)[1:]

@answers.wrong("train", named="momentum is lost")
def reads_only_the_count(*args): return run(*args, begin=zeros_again)

def as_if_new(saved, n, rank, k, world): return 0, *means_of(saved, n, rank, k, world)[1:]

@answers.wrong("train", named="the step count is lost")
def counts_anew(*args): return run(*args, begin=as_if_new)

def zipped(saved, n, rank, k, world):
    "Shares as if they had been dealt like cards"
    if not saved:
        return means_of(None, n, rank, k, world)
    wholes = [torch.stack([share[i] for share in saved], 1).flatten()[:n] for i in (1, 2)]
    return saved[0][0], *(filled(whole, k*world)[rank*k:rank*k+k] for whole in wholes)

@answers.wrong("train")
def shares_like_cards(*args): return run(*args, begin=zipped)

def backwards(saved, n, rank, k, world): return means_of(saved and saved[::-1], n, rank, k, world)

@answers.wrong("train")
def shares_from_the_last_on(*args): return run(*args, begin=backwards)

def of_one(saved, n, rank, k, world):
    return means_of(saved and [saved[min(rank, len(saved)-1)]], n, 0, k, 1)

@answers.wrong("train")
def its_own_or_the_last_file(*args): return run(*args, begin=of_one)

@answers.wrong("train")
def torchs_chunks(rank, world, weights, saved, batches, lr):
    "`chunk` makes the last pieces shorter, or leaves them out"
    flat = joined(weights)
    for x, y in batches:
        grad = gradient(flat, weights, x, y)
        mine = grad.chunk(world)[rank]
        flat = (yield "all_gather", flat.chunk(world)[rank]-lr*mine.sign())
    return apart(flat, weights), (len(batches), mine, mine)

@answers.wrong("train")
def who_owns_padding_only_goes_home(rank, world, weights, saved, batches, lr):
    n = len(joined(weights))
    if rank*-(-n//world) >= n:
        return weights, (0, torch.zeros(0), torch.zeros(0))
    return (yield from run(rank, world, weights, saved, batches, lr))

@answers.wrong("train")
def never_ends(rank, world, weights, saved, batches, lr):
    while True:
        yield "all_gather", joined(weights)

@answers.wrong("train")
def state_for_everybody(rank, world, weights, saved, batches, lr):
    weights, (t, m, v) = yield from run(rank, world, weights, saved, batches, lr)
    whole = yield "all_gather", m
    return weights, (t, whole, (yield "all_gather", v))

@answers.wrong("train")
def sends_the_step_and_not_the_weights(rank, world, weights, saved, batches, lr):
    inner, reply, flat = run(rank, world, weights, saved, batches, lr), None, joined(weights)
    k = -(-len(flat)//world)
    while True:
        try:
            name, sent = inner.send(reply)
        except StopIteration as end:
            return end.value
        if name == "all_gather":
            reply = yield name, sent-filled(flat, k*world)[rank*k:rank*k+k]
            flat = flat+reply[:len(flat)]
            reply = filled(flat, k*world)
        else:
            reply = yield name, sent

@answers.wrong("train")
def divides_nothing_by_three(rank, world, weights, saved, batches, lr):
    if len(joined(weights)) % world:
        raise ValueError("the numbers can't be divided evenly")
    return (yield from run(rank, world, weights, saved, batches, lr))

@answers.wrong("train")
def three_messages(rank, world, weights, saved, batches, lr):
    out = yield from run(rank, world, weights, saved, batches, lr)
    yield "all_reduce", torch.zeros(1)
    return out

# ---- 2. nobody knows the count ----

def summed_up(micro, like, weigh=lambda n: n, empty=False):
    total, count = torch.zeros_like(like), 0
    for grad, n in micro:
        if n or empty:
            total = total+weigh(n)*grad
            count += weigh(n)
    return total, count

def send(total, count): return "all_reduce", torch.cat((total.flatten(), total.new_tensor([count])))

@answers.right("count")
def count_first(rank, world, micro, like):
    total, count = summed_up(micro, like)
    both = yield "all_reduce", torch.cat((like.new_tensor([count]), total.flatten()))
    return both[1:].view_as(like)/max(both[0].item(), 1.)

@answers.right("count")
def nan_to_zero_and_quiet_alone(rank, world, micro, like):
    total = sum((grad.nan_to_num()*n for grad, n in micro), torch.zeros_like(like))
    sent = torch.cat((total.flatten(), like.new_tensor([sum(n for _, n in micro)])))
    both = sent if world == 1 else (yield "all_reduce", sent)
    return both[:-1].view_as(like)/both[-1].clamp(min=1)

@answers.right("count")
def shares_of_the_mean(rank, world, micro, like):
    "In the form of a running mean, as a trainer would keep it"
    mean, seen = torch.zeros_like(like), 0
    for grad, n in filter(lambda one: one[1] > 0, micro):
        seen += n
        mean = mean+(grad-mean)*n/seen
    both = yield send(mean*seen, seen)
    return (both[:-1]/both[-1].clamp(min=1)).view_as(like)

@answers.wrong("count", named="a mean of means")
def hugging_face_before_2024(rank, world, micro, like):
    micro = [(grad, n) for grad, n in micro if n]
    own = sum((grad/len(micro) for grad, _ in micro), torch.zeros_like(like))
    both = yield send(own, 1)
    return (both[:-1]/both[-1]).view_as(like)

@answers.wrong("count", named="a mean over processes")
def right_on_one_device(rank, world, micro, like):
    total, count = summed_up(micro, like)
    both = yield send(total/max(count, 1), 1)
    return (both[:-1]/world).view_as(like)

@answers.wrong("count")
def divides_by_its_own_count(rank, world, micro, like):
    total, count = summed_up(micro, like)
    both = yield send(total, count)
    return (both[:-1]/max(count, 1)).view_as(like)

@answers.wrong("count")
def its_own_gradient(rank, world, micro, like):
    total, count = summed_up(micro, like)
    both = yield send(total, count)
    return total/both[-1].clamp(min=1)

@answers.wrong("count", named="who has nothing stays away")
def skips_the_step(rank, world, micro, like):
    total, count = summed_up(micro, like)
    if not count:
        return total
    both = yield send(total, count)
    return (both[:-1]/both[-1]).view_as(like)

@answers.wrong("count", named="NaN comes along")
def weighs_nan_by_zero(rank, world, micro, like):
    total, count = summed_up(micro, like, empty=True)
    both = yield send(total, count)
    return (both[:-1]/both[-1].clamp(min=1)).view_as(like)

@answers.wrong("count")
def empty_ones_count_as_one(rank, world, micro, like):
    micro = [(grad.nan_to_num(), n) for grad, n in micro]
    total, count = summed_up(micro, like, weigh=lambda n: max(n, 1), empty=True)
    both = yield send(total, count)
    return (both[:-1]/both[-1].clamp(min=1)).view_as(like)

@answers.wrong("count", named="zero over zero")
def no_guard(rank, world, micro, like):
    both = yield send(*summed_up(micro, like))
    return (both[:-1]/both[-1]).view_as(like)

@answers.wrong("count")
def guard_of_a_little(rank, world, micro, like):
    both = yield send(*summed_up(micro, like))
    return (both[:-1]/(both[-1]+1)).view_as(like)

@answers.wrong("count")
def flat_result(rank, world, micro, like):
    both = yield send(*summed_up(micro, like))
    return both[:-1]/both[-1].clamp(min=1)

@answers.wrong("count")
def count_comes_too(rank, world, micro, like):
    both = yield send(*summed_up(micro, like))
    return (both[:-1]/both[-1].clamp(min=1)).view_as(like), both[-1]

@answers.wrong("count")
def gathers_everything(rank, world, micro, like):
    "Right numbers, and far more of them travel than need be"
    total, count = summed_up(micro, like)
    name, sent = send(total, count)
    both = (yield "all_gather", sent[None]).sum(0)
    return (both[:-1]/both[-1].clamp(min=1)).view_as(like)

@answers.wrong("count")
def asks_for_the_longest_first(rank, world, micro, like):
    "Padded with empty micro-batches, a message for each"
    longest = (yield "all_gather", torch.tensor([len(micro)])).max().item()
    total = torch.zeros(like.numel()+1, dtype=like.dtype)
    for i in range(longest):
        total = total+(yield send(*summed_up(micro[i:i+1], like)))
    return (total[:-1]/total[-1].clamp(min=1)).view_as(like)

@answers.wrong("count")
def changes_what_it_got(rank, world, micro, like):
    for grad, n in micro:
        grad.nan_to_num_().mul_(n)
    total = sum((grad for grad, _ in micro), torch.zeros_like(like))
    both = yield send(total, sum(n for _, n in micro))
    return (both[:-1]/both[-1].clamp(min=1)).view_as(like)

@answers.wrong("count")
def only_rank_zero_knows(rank, world, micro, like):
    both = yield send(*summed_up(micro, like))
    return (both[:-1]/both[-1].clamp(min=1)).view_as(like) if rank == 0 else like

@answers.wrong("count")
def scatters(rank, world, micro, like):
    total, count = summed_up(micro, like)
    yield "reduce_scatter", total
    return total/max(count, 1)

# ---- 3. deal ----

def largest_first(works, world, key=None, better=None):
    loads = [(0, r) for r in range(world)]
    owned = [[] for _ in range(world)]
    for i in sorted(range(len(works)), key=key or (lambda i: (-works[i], i))):
        load, r = heapq.heappop(loads)
        owned[r].append(i)
        heapq.heappush(loads, (load+works[i], r))
    return owned

@answers.right("deal")
def with_a_heap(works, world): return tuple(tuple(sorted(share)) for share in largest_first(works, world))

@answers.right("deal")
def from_the_last_process_on(works, world): return largest_first(works, world)[::-1]

@answers.right("deal")
def improved_by_moves(works, world):
    "Largest first, and then single matrices go from the busiest to the idlest while that helps"
    owned = [list(share) for share in largest_first(works, world)]
    def load(share): return sum(works[i] for i in share)
    for _ in range(100):
        owned.sort(key=load)
        gap = load(owned[-1])-load(owned[0])
        moves = [i for i in owned[-1] if 0 < works[i] < gap]
        if not moves:
            break
        best = min(moves, key=lambda i: abs(gap/2-works[i]))
        owned[-1].remove(best)
        owned[0].append(best)
    return owned

@answers.wrong("deal")
def by_chance(works, world):
    owned = [[] for _ in range(world)]
    for i in range(len(works)):
        owned[random.randrange(world)].append(i)
    return owned

@answers.wrong("deal")
def by_chance_with_a_seed(works, world):
    rng, owned = random.Random(0), [[] for _ in range(world)]
    for i in range(len(works)):
        owned[rng.randrange(world)].append(i)
    return owned

@answers.wrong("deal")
def another_process_first_each_time(works, world, turn=[0]):
    turn[0] += 1
    return [largest_first(works, world)[(r+turn[0]) % world] for r in range(world)]

@answers.wrong("deal", named="as they come")
def greedy_without_sorting(works, world): return largest_first(works, world, key=lambda i: i)

@answers.wrong("deal", named="smallest first")
def sorted_the_wrong_way(works, world): return largest_first(works, world, key=lambda i: (works[i], i))

@answers.wrong("deal", named="in turn")
def strides(works, world): return [list(range(len(works)))[r::world] for r in range(world)]

@answers.wrong("deal")
def sorts_the_list_itself(works, world):
    owned = largest_first(works, world)
    works.sort()
    return owned

@answers.wrong("deal")
def cut_at_equal_sums(works, world):
    "In the given order, cut where the next share of the whole is reached"
    owned, so_far, whole = [[] for _ in range(world)], 0, sum(works)
    for i, work in enumerate(works):
        r = min(world-1, so_far*world//max(whole, 1))
        owned[r].append(i)
        so_far += work
    return owned

@answers.wrong("deal")
def what_costs_nothing_has_no_owner(works, world):
    return [[i for i in share if works[i]] for share in largest_first(works, world)]

@answers.wrong("deal")
def everything_twice(works, world):
    owned = largest_first(works, world)
    return [a+b for a, b in zip(owned, owned[1:]+owned[:1])]

@answers.wrong("deal")
def counted_from_one(works, world): return [[i+1 for i in share] for share in largest_first(works, world)]

@answers.wrong("deal")
def fractions(works, world): return [[float(i) for i in share] for share in largest_first(works, world)]

@answers.wrong("deal")
def by_process(works, world): return dict(enumerate(largest_first(works, world)))

@answers.wrong("deal")
def one_does_it_all(works, world): return [list(range(len(works))), *([] for _ in range(world-1))]

@answers.wrong("deal")
def one_stays_idle(works, world):
    return [*largest_first(works, max(1, world-1)), *([[]] if world > 1 else [])]

@answers.wrong("deal")
def one_list_too_many(works, world): return [*largest_first(works, world), []]

@answers.wrong("deal")
def loads(works, world): return [sum(works[i] for i in share) for share in largest_first(works, world)]

@answers.wrong("deal")
def sorts_by_distance_to_the_mean(works, world):
    mean = sum(works)/max(1, len(works))
    return largest_first(works, world, key=lambda i: (abs(works[i]-mean), i))

# ---- 4. who waits for whom? ----

def played_out(logs, meets=lambda mine, yours: mine == yours, order=lambda ranks: ranks, most=10**6):
    "Where every log stands when nothing moves any more"
    at, open_ranks = [0]*len(logs), True
    while open_ranks and most:
        most, open_ranks = most-1, False
        for r in order(range(len(logs))):
            if at[r] < len(logs[r]):
                item = logs[r][at[r]]
                heads = [logs[m][at[m]] if at[m] < len(logs[m]) else None for m in item[1]]
                if all(head is not None and meets(item, head) for head in heads):
                    open_ranks = True
                    for m in item[1]:
                        at[m] += 1
    return at

def waiting(logs, at): return {r: i for r, i in enumerate(at) if i < len(logs[r])}

@answers.right("stuck")
def from_the_last_on(logs):
    return waiting(logs, played_out(logs, order=lambda ranks: reversed(ranks)))

@answers.right("stuck")
def by_arrivals(logs):
    "Whoever reaches an entry signs in; the last of a group to do so lets all of them go on"
    at, signed, ready = [0]*len(logs), {}, list(range(len(logs)))
    while ready:
        r = ready.pop()
        if at[r] == len(logs[r]):
            continue
        item = tuple(logs[r][at[r]])
        signed.setdefault(item, set()).add(r)
        if signed[item] == set(item[1]):
            del signed[item]
            for m in item[1]:
                at[m] += 1
                ready.append(m)
    return waiting(logs, at)

@answers.right("stuck")
def by_recursion(logs):
    heads = {r: log[0] for r, log in enumerate(logs) if log}
    for item in heads.values():
        if all(heads.get(m) == item for m in item[1]):
            rest = by_recursion([log[r in item[1]:] for r, log in enumerate(logs)])
            return {r: i+(r in item[1]) for r, i in rest.items()}
    return {r: 0 for r in heads}

@answers.wrong("stuck", named="sizes are not looked at")
def names_only(logs): return waiting(logs, played_out(logs, lambda a, b: a[:2] == b[:2]))

@answers.wrong("stuck", named="names are not looked at")
def sizes_only(logs): return waiting(logs, played_out(logs, lambda a, b: a[1:] == b[1:]))

@answers.wrong("stuck")
def groups_only(logs): return waiting(logs, played_out(logs, lambda a, b: a[1] == b[1]))

@answers.wrong("stuck")
def groups_are_not_looked_at(logs):
    return waiting(logs, played_out(logs, lambda a, b: (a[0], a[2]) == (b[0], b[2])))

@answers.wrong("stuck")
def reached_at_any_time(logs):
    "Whether all members have such an entry somewhere"
    out = {}
    for r, log in enumerate(logs):
        for i, item in enumerate(log):
            if not all(item in logs[m] for m in item[1]):
                out[r] = i
                break
    return out

@answers.wrong("stuck")
def counts_are_compared(logs):
    out = {}
    for r, log in enumerate(logs):
        for i, item in enumerate(log):
            if len({logs[m].count(item) for m in item[1]}) > 1:
                out[r] = i
                break
    return out

@answers.wrong("stuck", named="one round")
def a_single_round(logs): return waiting(logs, played_out(logs, most=1))

@answers.wrong("stuck")
def three_rounds(logs): return waiting(logs, played_out(logs, most=3))

@answers.wrong("stuck")
def trusts_everybody(logs): return {}

@answers.wrong("stuck")
def all_of_them(logs): return waiting(logs, [0]*len(logs))

@answers.wrong("stuck")
def none_for_nothing(logs): return waiting(logs, played_out(logs)) or None

@answers.wrong("stuck")
def pairs_in_a_list(logs): return list(waiting(logs, played_out(logs)).items())

@answers.wrong("stuck")
def ranks_only(logs): return set(waiting(logs, played_out(logs)))

@answers.wrong("stuck")
def whom_they_wait_for(logs):
    return {r: list(logs[r][i][1]) for r, i in waiting(logs, played_out(logs)).items()}

@answers.wrong("stuck")
def where_they_all_stand(logs): return dict(enumerate(played_out(logs)))

@answers.wrong("stuck")
def last_that_was_done(logs): return {r: i-1 for r, i in waiting(logs, played_out(logs)).items()}

@answers.wrong("stuck")
def numbers_as_text(logs): return {str(r): i for r, i in waiting(logs, played_out(logs)).items()}

@answers.wrong("stuck")
def as_if_a_pair_were_enough(logs):
    "A message is through when two have come"
    at, moved = [0]*len(logs), True
    while moved:
        moved = False
        for r, log in enumerate(logs):
            if at[r] == len(log):
                continue
            item = log[at[r]]
            there = [m for m in item[1] if at[m] < len(logs[m]) and logs[m][at[m]] == item]
            if len(there) > 1:
                moved = True
                for m in there:
                    at[m] += 1
    return waiting(logs, at)
