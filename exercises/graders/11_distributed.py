"Checks and known wrong answers for the exercises of chapter 11"
import math, random, types
from contextlib import suppress
import torch
from grade import Exercise, Wrong, in_child
from graders.common import many, something, written

F64 = torch.float64

def rounded(a, digits=4):
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
    got, wanted = got.double(), wanted.double()
    return ((got-wanted).norm()/wanted.norm().clamp(min=1e-12)).item()

# ---- processes that are played in turns: each is a generator, and yields what it sends ----

MESSAGES = ("reduce_scatter", "all_gather", "all_reduce")
MOST_MESSAGES = 300

def complaint(asked, ended):
    "Why the requests of some processes can't be served; None where they can"
    world = len(asked)+len(ended)
    for rank, request in asked.items():
        pair = isinstance(request, (tuple, list)) and len(request) == 2
        if not pair or type(request[0]) is not str or not torch.is_tensor(request[1]):
            return f'process {rank} should yield a pair like ("all_gather", tensor)'
        name, t = request
        if name not in MESSAGES:
            return f"process {rank} yields {name!r}; there are {', '.join(MESSAGES)}"
    at = {rank: (name, tuple(t.shape), t.dtype) for rank, (name, t) in asked.items()}
    said = [f"process {rank} waits in {name} of {shape}, {str(dtype)[6:]}"
            for rank, (name, shape, dtype) in at.items()]
    if ended:
        over = ", ".join(map(str, ended))
        return f"they wait for ever: process {over} has ended, and {said[0]}"
    if len(set(at.values())) > 1:
        other = next(rank for rank in at if at[rank] != at[0])
        return f"they wait for ever: {said[0]}, and {said[other]}"
    name, shape, _ = at[0]
    if name != "all_reduce" and not shape:
        return f"{name} of a single number: a tensor with rows is needed"
    if name == "reduce_scatter" and shape[0] % world:
        return f"reduce_scatter of {many(shape[0], 'row')} can't be cut into {world} equal chunks"
    return None

def delivered(name, sent):
    "What each process gets, when all have sent"
    if name == "all_gather":
        return [torch.cat(sent) for _ in sent]
    total = torch.stack(sent).sum(0)
    if name == "all_reduce":
        return [total.clone() for _ in sent]
    return [chunk.clone() for chunk in total.chunk(len(sent))]

def in_turns(processes):
    "Play generators until all have ended: what they return and the messages, or what went wrong"
    world, log = len(processes), []
    replies, modes = [None]*world, [True]*world
    for _ in range(MOST_MESSAGES):
        asked, ended = {}, {}
        for rank, process in enumerate(processes):
            torch.set_grad_enabled(modes[rank])       # a `with torch.no_grad()` holds in one process only
            try:
                asked[rank] = process.send(replies[rank])
            except StopIteration as end:
                ended[rank] = end.value
            modes[rank] = torch.is_grad_enabled()
        if not asked:
            return dict(returned=list(ended.values()), log=log)
        wrong = complaint(asked, ended)
        if wrong:
            return dict(wrong=f"at message {len(log)+1} {wrong}", log=log)
        name = asked[0][0]
        sent = [t.detach().clone() for _, t in asked.values()]
        log.append((name, sent))
        replies = delivered(name, sent)
    return dict(wrong=f"they are still sending after {MOST_MESSAGES} messages", log=log)

def played(processes):
    "The same, for whatever an answer gave back, and with everything closed afterwards"
    for process in processes:
        if not isinstance(process, types.GeneratorType):
            return dict(wrong=f"a process should be a generator, and what came back is of the type "
                              f"{type(process).__name__}: is there a `yield`?", log=[])
    before = torch.is_grad_enabled()
    try:
        return in_turns(processes)
    finally:
        for process in processes:
            with suppress(Exception):
                process.close()
        torch.set_grad_enabled(before)

# ---- 1. train(rank, world, weights, saved, batches, lr) -> weights, share of the state ----

BETAS, EPS = (0.9, 0.95), 1e-8

def error(weights, x, y):
    "The loss of a network of two layers"
    w1, b1, w2 = weights
    return (torch.tanh(x @ w1.T + b1) @ w2.T - y).square().mean()

def problem(seed, sizes, steps, rows=12):
    "First weights, and a batch for each step"
    g = torch.Generator().manual_seed(seed)
    def draw(*shape): return torch.randn(*shape, generator=g, dtype=F64)
    inputs, hidden, outputs = sizes
    weights = [draw(hidden, inputs)/2, draw(hidden)/4, draw(outputs, hidden)/2]
    return weights, [(draw(rows, inputs), draw(rows, outputs)) for _ in range(steps)]

def end_to_end(tensors): return torch.cat([t.detach().reshape(-1) for t in tensors])

def padded(flat, world): return torch.cat((flat, flat.new_zeros(-len(flat) % world)))

def shares(flat, world): return list(padded(flat, world).view(world, -1))

def one_process(weights, batches, lr):
    "torch's AdamW on whole batches: after each step the weights, and the two means end to end"
    ps = [torch.nn.Parameter(w.clone()) for w in weights]
    opt, out = torch.optim.AdamW(ps, lr=lr, betas=BETAS, eps=EPS, weight_decay=0.), []
    zeros = torch.zeros_like(end_to_end(weights))
    out.append(([w.clone() for w in weights], zeros, zeros))
    with torch.enable_grad():
        for x, y in batches:
            opt.zero_grad()
            error(ps, x, y).backward()
            opt.step()
            kept = [opt.state[p] for p in ps]
            means = [end_to_end([s[name] for s in kept]) for name in ("exp_avg", "exp_avg_sq")]
            out.append(([p.detach().clone() for p in ps], *means))
    return out

def dealt(batches, world):
    "For each process its rows of every batch"
    cut = [(x.chunk(world), y.chunk(world)) for x, y in batches]
    return [[(xs[rank], ys[rank]) for xs, ys in cut] for rank in range(world)]

def saved_by(world, t, exp_avg, exp_avg_sq):
    "What all processes of an earlier run returned as their state"
    return [(t, m, v) for m, v in zip(shares(exp_avg, world), shares(exp_avg_sq, world))]

@in_child
def trained(answer, world, weights, saved, parts, lr):
    "What comes of training in so many processes"
    playing = []
    for rank in range(world):
        kept = saved and [(t, m.clone(), v.clone()) for t, m, v in saved]
        mine = [(x.clone(), y.clone()) for x, y in parts[rank]]
        playing.append(answer(rank, world, [w.clone() for w in weights], kept, mine, lr))
    return played(playing)

def trainer(mean=True, local=False, chunk="own", restore="whole", count=True, gather=True, pad=True,
            whole_state=False, reduce="scatter", each=False, late=False, stale=False, keep_padding=True):
    "The answer, with switches for its mistakes"
    def restored(saved, rank, world, n):
        if saved is None or restore == "nothing":
            return (saved[0][0] if saved and count else 0), None
        t = saved[0][0] if count else 0
        if restore == "mine":
            m, v = saved[rank % len(saved)][1:]
            k = -(-n//world)
            return t, [torch.cat((a, a.new_zeros(k)))[:k] for a in (m, v)]
        wholes = [torch.cat([share[i] for share in saved]) for i in (1, 2)]
        if restore == "padding":
            k = -(-len(wholes[0])//world)
            k_now = -(-n//world)
            return t, [torch.cat((a, a.new_zeros(world*k+k_now)))[rank*k:rank*k+k_now] for a in wholes]
        return t, [shares(a[:n], world)[rank] for a in wholes]

    def gradient(flat, weights, x, y):
        with torch.enable_grad():
            pieces = flat.split([w.numel() for w in weights])
            ps = [p.view_as(w).detach().requires_grad_() for p, w in zip(pieces, weights)]
            return end_to_end(torch.autograd.grad(error(ps, x, y), ps))

    def cut(flat, world, rank):
        return shares(flat, world)[rank]

    def adamw(w, g, m, v, t, lr):
        m, v = BETAS[0]*m+(1-BETAS[0])*g, BETAS[1]*v+(1-BETAS[1])*g*g
        c = t-1 if late else t
        return w-lr*(m/(1-BETAS[0]**c))/((v/(1-BETAS[1]**c)).sqrt()+EPS), m, v

    def train(rank, world, weights, saved, batches, lr):
        flat = first = end_to_end(weights)
        n, at = len(flat), 0 if chunk == "first" else rank
        t, kept = restored(saved, rank, world, n)
        m, v = kept or [torch.zeros_like(cut(flat, world, at)) for _ in range(2)]
        if whole_state:
            m, v = [torch.cat([s[i] for s in saved])[:n] if saved else 0*flat for i in (1, 2)]
        for x, y in batches:
            t += 1
            grad = gradient(first if stale else flat, weights, x, y)
            sent = padded(grad, world) if pad else grad
            if whole_state:
                mine = yield "reduce_scatter", sent
                grad = (yield "all_gather", mine/world)[:n]
                flat, m, v = adamw(flat, grad, m, v, t, lr)
                continue
            if reduce == "all":
                mine = cut((yield "all_reduce", grad), world, at)
            elif each:
                sizes, got = [w.numel() for w in weights], []
                for piece in grad.split(sizes):
                    back = yield "reduce_scatter", padded(piece, world)
                    got.append((yield "all_gather", back)[:len(piece)])
                mine = cut(torch.cat(got), world, at)
            else:
                mine = yield "reduce_scatter", sent
            if local:
                mine = cut(grad, world, at)*world
            own, m, v = adamw(cut(flat, world, at), mine/world if mean else mine, m, v, t, lr)
            if gather:
                flat = (yield "all_gather", own)[:n]
            else:
                whole = padded(flat, world).clone()
                whole.view(world, -1)[rank] = own
                flat = whole[:n]
        pieces = flat.split([w.numel() for w in weights])
        if not keep_padding:
            real = max(0, min(len(m), n-rank*len(m)))
            m, v = m[:real], v[:real]
        return [p.view_as(w) for p, w in zip(pieces, weights)], (t, m, v)
    return train

right_train = trainer()

# (processes, seed, (inputs, hidden, outputs), steps, steps before, processes before)
TRAININGS = [(1, 0, (2, 3, 1), 2, 0, 0), (2, 1, (2, 4, 2), 3, 0, 0), (3, 2, (3, 4, 2), 3, 0, 0),
             (4, 3, (2, 3, 2), 2, 0, 0), (3, 4, (1, 1, 1), 3, 0, 0), (4, 5, (1, 2, 1), 2, 0, 0),
             (2, 6, (2, 4, 2), 2, 2, 2), (3, 7, (3, 4, 2), 2, 3, 2), (3, 8, (2, 3, 2), 2, 2, 4),
             (4, 9, (3, 4, 2), 2, 2, 3), (1, 10, (2, 3, 1), 2, 2, 3), (3, 11, (2, 4, 2), 2, 3, 1)]

def training(world, seed, sizes, steps, before=0, world_before=0):
    "Arguments of `trained`, and what one process does from where they begin"
    lr = (0.05, 0.01, 0.2)[seed % 3]
    weights, batches = problem(seed, sizes, before+steps)
    states = one_process(weights, batches, lr)[before:]
    saved = saved_by(world_before, before, *states[0][1:]) if before else None
    return (world, states[0][0], saved, dealt(batches[before:], world), lr), states

def processes(n): return f"{n} process{'es' if n > 1 else ''}"

def check_messages(say, log, world, n, states):
    "One reduce-scatter and one all-gather a step, of the right numbers"
    k = -(-n//world)
    wanted = ["reduce_scatter", "all_gather"]*(len(states)-1)
    names = [name for name, _ in log]
    assert names == wanted, (
        f"{say}: a step takes two messages, a reduce_scatter and then an all_gather, {len(wanted)} in all; "
        f"yours are {', '.join(names) if names else 'none'}")
    for i, (name, sent) in enumerate(log):
        step, rows = i//2+1, k if name == "all_gather" else k*world
        assert all(tuple(t.shape) == (rows,) for t in sent), (
            f"{say}: the {name} of step {step} should send a vector of {many(rows, 'number')}, and not "
            f"{tuple(sent[0].shape)}: {n} numbers, padded to {k*world}")
        if name == "all_gather":
            new = shares(end_to_end(states[step][0]), world)
            for rank, (t, share) in enumerate(zip(sent, new)):
                assert off(t, share) < 1e-6, (
                    f"{say}: in step {step} process {rank} should send its share of the new weights, "
                    f"{rounded(share)}, and sends {rounded(t)}")

def check_returned(say, returned, world, n, states, steps_in_all):
    "Weights and state of every process"
    weights, *means = states[-1]
    k = -(-n//world)
    for rank, got in enumerate(returned):
        who = f"{say}: process {rank}"
        something(who, got)
        pair = isinstance(got, (tuple, list)) and len(got) == 2
        assert pair, f"{who} should return two things, the weights and its share of the state"
        lists = isinstance(got[0], (tuple, list)) and all(map(torch.is_tensor, got[0]))
        assert lists and [t.shape for t in got[0]] == [w.shape for w in weights], (
            f"{who}: the weights should be a list of tensors of the shapes "
            f"{', '.join(str(tuple(w.shape)) for w in weights)}")
        triple = isinstance(got[1], (tuple, list)) and len(got[1]) == 3
        assert triple and all(map(torch.is_tensor, got[1][1:])), (
            f"{who}: the state should be (t, exp_avg, exp_avg_sq), a number and two tensors")
        for name, a, b in zip(("w1", "b1", "w2"), got[0], weights):
            assert off(a, b) < 1e-6, (
                f"{who}: {name} is off by {off(a, b):.2g} of its length from what one process gets")
        t, *mine = got[1]
        for name, a, mean in zip(("exp_avg", "exp_avg_sq"), mine, means):
            assert tuple(a.shape) == (k,), (
                f"{who}: its share of {name} should hold {many(k, 'number')}, ⌈{n}/{world}⌉, and has the "
                f"shape {tuple(a.shape)}")
            share = shares(mean, world)[rank]
            assert off(a, share) < 1e-6, f"{who}: {name} should be {rounded(share)}, and is {rounded(a)}"
        assert type(t) is int and t == steps_in_all, (
            f"{who}: t should be {steps_in_all}, the steps taken in all, and is {t!r}")

def train_check(answer):
    for world, seed, sizes, steps, before, world_before in TRAININGS:
        arguments, states = training(world, seed, sizes, steps, before, world_before)
        n = sum(w.numel() for w in states[0][0])
        say = f"{written('problem', seed, *sizes, before+steps)} with lr={arguments[-1]:g}, "
        if before:
            say += f"first {many(before, 'step')} on {processes(world_before)}, then {steps} "
        say += f"on {processes(world)}"
        got = trained(answer, *arguments)
        assert "wrong" not in got, f"{say}: {got['wrong']}"
        if world > 1 or got["log"]:
            check_messages(say, got["log"], world, n, states)
        check_returned(say, got["returned"], world, n, states, before+steps)

def train_does(answer, *case):
    "What comes of one training, in few digits"
    got = trained(answer, *training(*case)[0])
    sizes = [(name, sent[0].numel()) for name, sent in got["log"]]
    return [sizes, got.get("wrong"), rounded(got.get("returned"))]

lab = Exercise("1. Lab: own a share", 5, train_check, right_train,
    probes=[(2, 1, (2, 4, 2), 2), (3, 2, (3, 4, 2), 2), (4, 3, (2, 3, 2), 2), (2, 6, (2, 4, 2), 2, 2, 2),
            (3, 7, (3, 4, 2), 2, 3, 2), (3, 8, (2, 3, 2), 2, 2, 4), (4, 9, (3, 4, 2), 2, 2, 3)],
    behave=train_does, seconds=30,
    wrong=[
        Wrong("a sum and not a mean",
              "reduce_scatter adds up, and you never divide by the number of processes. Look at the state: "
              "AdamW divides a gradient by its own size, so the weights hardly show it.",
              trainer(mean=False)),
        Wrong("everybody keeps everything",
              "you gather the mean gradient and step all of it everywhere: right weights, and as much state "
              "and work on each process as with one. Step between the two messages.",
              trainer(whole_state=True)),
        Wrong("an all-reduce before the step",
              "an all_reduce is a reduce_scatter and an all_gather in one: each process gets numbers that "
              "it does not own, and half as much again travels.",
              trainer(reduce="all")),
        Wrong("messages for every tensor",
              "you send each tensor by itself. Laid end to end they need one message, with one padding.",
              trainer(each=True)),
        Wrong("no padding",
              "where `world` does not divide n, the vector can't be cut into equal chunks: zeros at its end.",
              trainer(pad=False)),
        Wrong("its own gradient",
              "what comes back from reduce_scatter is not used: each process steps by the gradient of its "
              "own rows.",
              trainer(local=True)),
        Wrong("all own the first share",
              "you always take chunk 0 of the weights, whatever the rank.",
              trainer(chunk="first")),
        Wrong("nobody is told", "the new weights stay where they were made: the all_gather is missing.",
              trainer(gather=False)),
        Wrong("momentum is lost",
              "`saved` is not read: both means begin at zero again.",
              trainer(restore="nothing")),
        Wrong("the step count is lost",
              "the means come back, and t begins at 1 again. Then the corrections 1-βᵗ blow them up.",
              trainer(count=False)),
        Wrong("only its own file",
              "you take saved[rank], as if the earlier run had had as many processes. With another number "
              "the shares begin elsewhere: lay all of them end to end, then cut anew.",
              trainer(restore="mine")),
        Wrong("the old padding is cut along",
              "all shares laid end to end are longer than n. Cut the padding of the earlier run off before "
              "you pad and cut for this one.",
              trainer(restore="padding")),
        Wrong("the gradient of the start",
              "from the second step on the gradient must be that of the weights as they are now.",
              trainer(stale=True)),
        Wrong("a correction too late",
              "the first step has t = 1. With t = 0 the corrections 1-βᵗ are zero, and all is NaN: count "
              "before you step.",
              trainer(late=True)),
        Wrong("shares of different lengths",
              "your last shares are shorter, without their padding. Each process keeps k numbers of each "
              "mean: equal shares can be gathered and cut without asking who has how many.",
              trainer(keep_padding=False))])

# ---- 2. batch_gradient(rank, world, micro, like) -> gradient of the mean over all targets ----

@in_child
def accumulated(answer, micros, like):
    "What all processes make of their micro-batches, and these afterwards"
    mine = [[(grad.clone(), n) for grad, n in micro] for micro in micros]
    world = len(micros)
    out = played([answer(rank, world, mine[rank], like.clone()) for rank in range(world)])
    return {**out, "after": [[grad for grad, _ in micro] for micro in mine]}

def accumulator(within="targets", across="targets", empty="skip", absent=True, each=False, apart=False,
                guard=True, total=False, twice=False):
    "The answer, with switches for its mistakes"
    def batch_gradient(rank, world, micro, like):
        micro = [(grad, n) for grad, n in micro if n or empty != "skip"]
        if each:
            out, n_all = torch.zeros_like(like), 0
            for grad, n in micro:
                got = yield "all_reduce", torch.cat((n*grad.reshape(-1), like.new_tensor([n])))
                out, n_all = out+got[:-1].view_as(like), n_all+got[-1]
            return out/max(1, n_all)
        if not absent and not micro:
            return torch.zeros_like(like)
        n_mine = sum(n for _, n in micro)
        if within == "targets":
            own = sum((n*grad for grad, n in micro), torch.zeros_like(like))
            own = own if across == "targets" else own/max(1, n_mine)
        else:
            own = sum((grad for grad, _ in micro), torch.zeros_like(like))/max(1, len(micro))
            own = own*n_mine if across == "targets" else own
        weight = {"targets": n_mine, "ranks": 1, "micro": len(micro), "heard": int(n_mine > 0)}[across]
        if across == "micro":
            own = own*len(micro)
        if apart:
            got = yield "all_reduce", own.reshape(-1)
            n_all = (yield "all_reduce", like.new_tensor([weight]))[0]
        else:
            both = yield "all_reduce", torch.cat((own.reshape(-1), like.new_tensor([weight])))
            got, n_all = both[:-1], both[-1]
        if not total:
            got = got/(n_all.clamp(min=1) if guard else n_all)
        return (got/world if twice else got).view_as(like)
    return batch_gradient

right_accumulator = accumulator()

def micro_batches(seed):
    "For each process some micro-batches (gradient of the mean, targets); NaN where there are none"
    rng, g = random.Random(seed), torch.Generator().manual_seed(seed)
    world, shape = 1+seed % 4, [(3,), (2, 2), (1,), (2, 3)][rng.randrange(4)]
    counts = [[rng.choice([0, 0, 1, 2, 5, 9]) for _ in range(rng.randrange(4))] for _ in range(world)]
    if seed % 9 == 7:
        counts = [[0]*len(ns) for ns in counts]
    if seed % 9 == 5:
        counts[-1] = []
    def draw(n):
        grad = torch.randn(shape, generator=g, dtype=F64)
        return (grad if n else torch.full_like(grad, math.nan)), n
    return [[draw(n) for n in ns] for ns in counts], torch.zeros(shape, dtype=F64)

def pair(*rows):
    "Processes by hand: numbers as gradients"
    like = torch.zeros(1, dtype=F64)
    return [[(like.new_tensor([g]), n) for g, n in row] for row in rows], like

NAN = math.nan
BY_HAND = [pair([(1, 3), (5, 1)]), pair([(1, 3)], [(5, 1)]), pair([(1, 3), (NAN, 0)], [(5, 1)]),
           pair([(4, 2), (1, 1)], [(2, 5)]), pair([(1, 3)], []), pair([(NAN, 0)], [(6, 2)]),
           pair([], [(NAN, 0)])]

def of_all(micros, like):
    "The gradient of the mean over all targets of all processes"
    counted = [(grad, n) for micro in micros for grad, n in micro if n]
    total = sum((n*grad for grad, n in counted), torch.zeros_like(like))
    return total/max(1, sum(n for _, n in counted))

def gather_check(answer):
    for micros, like in (*BY_HAND, *map(micro_batches, range(36))):
        shown = [[(rounded(grad, 3), n) for grad, n in micro] for micro in micros]
        say = f"processes with (gradient, targets) {shown}"
        got, wanted = accumulated(answer, micros, like), of_all(micros, like)
        assert "wrong" not in got, f"{say}: {got['wrong']}"
        same = all(torch.equal(a.nan_to_num(), b.nan_to_num())
                   for after, micro in zip(got["after"], micros) for a, (b, _) in zip(after, micro))
        assert same, f"{say}: your code changes the gradients in place; make new tensors"
        log = got["log"]
        if len(micros) > 1 or log:
            numbers = sum(sent[0].numel() for _, sent in log)
            names = ", ".join(name for name, _ in log) or "none"
            assert len(log) == 1 and log[0][0] == "all_reduce" and numbers <= like.numel()+1, (
                f"{say}: one all_reduce of {like.numel()+1} numbers is enough, the gradient's and the count; "
                f"your messages are {names}, of {many(numbers, 'number')} in all")
        for rank, g in enumerate(got["returned"]):
            something(f"{say}: process {rank}", g)
            assert torch.is_tensor(g) and g.shape == like.shape, (
                f"{say}: process {rank} should return a tensor of the shape {tuple(like.shape)}")
            assert g.isfinite().all() and (g-wanted).norm() <= 1e-6*(1+wanted.norm()), (
                f"{say}: process {rank} should get {rounded(wanted, 5)}, and gets {rounded(g, 5)}")

def gather_does(answer, k):
    "What comes of some micro-batches"
    got = accumulated(answer, *(BY_HAND[k] if k < len(BY_HAND) else micro_batches(k)))
    sizes = [(name, sent[0].numel()) for name, sent in got["log"]]
    return [sizes, got.get("wrong"), rounded(got.get("returned"))]

count = Exercise("2. Nobody knows the count", 3, gather_check, right_accumulator,
    probes=[(k,) for k in (*range(8), 10, 11, 13, 14, 15, 18, 19)], behave=gather_does,
    wrong=[
        Wrong("a mean of means",
              "you average micro-batches, and then processes. One target in a short micro-batch then weighs "
              "more than one in a long one.",
              accumulator(within="micro", across="ranks")),
        Wrong("a mean over processes",
              "within a process every target weighs the same; between processes you take a plain mean, "
              "whatever their counts.",
              accumulator(across="ranks")),
        Wrong("a mean over processes that have something",
              "processes without targets are left out, which is right; the others count as one each, which "
              "is not: weigh them by their targets.",
              accumulator(across="heard")),
        Wrong("a mean over micro-batches",
              "between processes the targets count; within one you take the plain mean of its micro-batches.",
              accumulator(within="micro")),
        Wrong("micro-batches are counted, not targets",
              "each process weighs as much as it has micro-batches. Long and short ones are not alike.",
              accumulator(across="micro")),
        Wrong("NaN comes along",
              "a micro-batch without targets has the gradient NaN, and 0·NaN is NaN: leave it out.",
              accumulator(empty="keep")),
        Wrong("who has nothing stays away",
              "a process without targets returns early, and the others wait for its message for ever. Zeros "
              "are a message, too.",
              accumulator(absent=False)),
        Wrong("a message for each micro-batch",
              "processes have different numbers of micro-batches: after the last one of the shortest "
              "process the others wait. Add up first, then send once.",
              accumulator(each=True)),
        Wrong("two messages", "gradient and count travel apart; the count fits at the gradient's end.",
              accumulator(apart=True)),
        Wrong("zero over zero", "where nobody has a target the gradient is zero, not 0/0.",
              accumulator(guard=False)),
        Wrong("a sum over all targets", "the sum is right; divide it by the count of all processes.",
              accumulator(total=True)),
        Wrong("divided twice", "after dividing by all targets you divide by the number of processes as well.",
              accumulator(twice=True))])

# ---- 3. deal(works, world) -> for each process the indices of its matrices ----

@in_child
def asked_again(answer, works, world):
    "Three answers to one question, and the list afterwards"
    mine = list(works)
    return [answer(mine, world) for _ in range(3)], mine

def dealer(order="largest", to="least", out="indices"):
    "The answer, with switches for its mistakes"
    def deal(works, world):
        indices = list(range(len(works)))
        if order != "given":
            indices.sort(key=lambda i: works[i], reverse=order == "largest")
        owned, load = [[] for _ in range(world)], [0]*world
        for at, i in enumerate(indices):
            if to == "least":
                r = min(range(world), key=lambda r: load[r])
            elif to == "fewest":
                r = min(range(world), key=lambda r: len(owned[r]))
            elif to == "stack":
                r = at//-(-len(works)//world)
            elif to == "there and back":
                r = at % (2*world)
                r = r if r < world else 2*world-1-r
            else:
                r = load.index(max(load)) if to == "most" else at % world
            owned[r].append({"indices": i, "positions": at, "works": works[i]}.get(out, i))
            load[r] += works[i]
        if out == "owners":
            return [next(r for r in range(world) if i in owned[r]) for i in range(len(works))]
        return [o for o in owned if o or out != "no empty ones"]
    return deal

right_deal = dealer()

def cut_up(seed):
    "Works that can be dealt evenly, since they were cut from equal pieces; and what a piece was"
    rng = random.Random(seed)
    world, piece, works = rng.randrange(1, 7), rng.choice([12, 60, 1000]), []
    for _ in range(world):
        cuts = sorted(rng.randrange(piece+1) for _ in range(rng.randrange(5)))
        works += [b-a for a, b in zip([0, *cuts], [*cuts, piece])]
    rng.shuffle(works)
    return works, world, piece

def deals():
    "(works, world, what the busiest has at best)"
    small = [([], 2, 0), ([5], 1, 5), ([5], 3, 5), ([3, 1, 2], 1, 6), ([1, 2, 3], 2, 3), ([1, 1, 2], 2, 2),
             ([1, 1, 1, 1, 4], 2, 4), ([8, 1, 1, 1, 1, 1, 1, 1, 1], 2, 8), ([0, 0, 7], 2, 7),
             ([2, 2, 2, 2], 2, 4), ([1]*12+[4], 4, 4)]
    layers = [3, 3]*20+[1]*80
    return [*small, (layers, 8, 25), ([1, 1, 1, 1, 3, 3]*20, 8, 25), ([1, 3, 1, 3]*6, 6, 8),
            *sorted(map(cut_up, range(60)), key=lambda case: len(case[0]))]

def shortened(works):
    return f"{works[:12]} … {len(works)} in all" if len(works) > 14 else works

def deal_check(answer):
    for works, world, best in deals():
        say = f"deal({shortened(works)}, {world})"
        (got, *again), after = asked_again(answer, works, world)
        something(say, got)
        assert after == works, f"{say}: your code changes the list; only read it"
        lists = isinstance(got, (tuple, list)) and all(isinstance(share, (tuple, list)) for share in got)
        assert lists and len(got) == world, (
            f"{say}: a list of indices for each of the {world} processes is asked for, and you give "
            f"{rounded(got) if lists or isinstance(got, (tuple, list)) else repr(got)[:80]}")
        flat = [i for share in got for i in share]
        assert all(type(i) is int for i in flat), f"{say}: the indices should be whole numbers"
        twice = sorted({i for i in flat if flat.count(i) > 1})
        lost = sorted(set(range(len(works)))-set(flat))
        wild = sorted(set(flat)-set(range(len(works))))
        assert not wild, f"{say}: there is no matrix {wild[0]}"
        assert not twice, f"{say}: matrix {twice[0]} has more than one owner"
        assert not lost, f"{say}: matrix {lost[0]} has no owner"
        assert all(other == got for other in again), (
            f"{say}: asked again, your code answers otherwise. Every process asks for itself, and all must "
            "come to the same answer")
        busiest, limit = max(sum(works[i] for i in share) for share in got), (4/3-1/(3*world))*best
        assert busiest <= limit+1e-9, (
            f"{say}: the busiest process has {busiest} to do. With {best} at best, {limit:.4g} is allowed")

PROBES = [([1, 2, 3], 2), ([1, 1, 1, 1, 4], 2), ([8, 1, 1, 1, 1, 1, 1, 1, 1], 2), ([1]*12+[4], 4), ([5], 3),
          ([7, 2, 9, 4, 4, 1], 3), ([3, 3, 1, 1, 1, 1], 2), ([0, 0, 7], 2)]

def deal_does(answer, works, world):
    "Loads of the processes, or what came instead"
    got = answer(list(works), world)
    try:
        return [sorted(share) for share in got]
    except TypeError:
        return got

fair = Exercise("3. Deal", 3, deal_check, right_deal, probes=PROBES, behave=deal_does,
    wrong=[
        Wrong("in turn", "this deals matrices like cards. It evens out their number, and not their work.",
              dealer("given", "turn")),
        Wrong("in turn, largest first",
              "sorting alone is not enough: process 0 gets the largest of every round.",
              dealer(to="turn")),
        Wrong("there and back again",
              "after the turn the last process goes first: better than in turn, and one large matrix among "
              "small ones still spoils it. Look at what each has already.",
              dealer(to="there and back")),
        Wrong("as they come",
              "each goes to the process that has least to do, which is right; but a large one that comes "
              "last has nowhere to go. In which order should they come?",
              dealer("given")),
        Wrong("smallest first", "the large ones come last, when all processes are equally full.",
              dealer("smallest")),
        Wrong("chapter 11's stacks", "this gives each process ⌈n/N⌉ in a row: of the last there may be none.",
              dealer("given", "stack")),
        Wrong("to the busiest", "you give to the process that has most to do already.", dealer(to="most")),
        Wrong("positions in the sorted list",
              "you return places in the sorted list; `works[i]` needs the index in the list as it came.",
              dealer(out="positions")),
        Wrong("works, not indices", "you return the works themselves: which matrices are they?",
              dealer(out="works")),
        Wrong("an owner for each matrix", "asked is for the list of each process, not for a process of each "
              "matrix.", dealer(out="owners")),
        Wrong("those with nothing are left out", "a process that owns nothing has an empty list.",
              dealer(out="no empty ones"))])

# ---- 4. stuck(logs) -> for each process that never ends, at which entry it waits ----

def detective(op=True, size=True, how="simulate", ended=False, one=False, plus=0, nothing=None, entry=False,
              rounds=None, alone=False):
    "The answer, with switches for its mistakes"
    def key(item):
        return (item[0] if op else "", item[1], item[2] if size else 0)

    def by_position(logs):
        "All processes compared line by line"
        for i in range(max(map(len, logs), default=0)):
            if len({key(log[i]) if i < len(log) else None for log in logs}) > 1:
                return [min(i, len(log)) for log in logs]
        return list(map(len, logs))

    def by_group(logs):
        "Each group by itself: do all of its members see the same?"
        at = list(map(len, logs))
        for group in {item[1] for log in logs for item in log}:
            lists = {r: [i for i, item in enumerate(logs[r]) if item[1] == group] for r in group}
            for k in range(max(map(len, lists.values()))):
                seen = {r: key(logs[r][lists[r][k]]) if k < len(lists[r]) else None for r in group}
                if len(set(seen.values())) > 1:
                    for r in group:
                        if k < len(lists[r]):
                            at[r] = min(at[r], lists[r][k])
                    break
        return at

    def simulate(logs):
        at, turns, moved = [0]*len(logs), 0, True
        while moved and (rounds is None or turns < rounds):
            moved, turns = False, turns+1
            for r, log in enumerate(logs):
                if at[r] == len(log):
                    continue
                head = key(log[at[r]])
                group = [r] if alone else head[1]
                if all(at[m] < len(logs[m]) and key(logs[m][at[m]]) == head for m in group):
                    moved = True
                    for m in group:
                        at[m] += 1
        return at

    def stuck(logs):
        at = dict(simulate=simulate, position=by_position, group=by_group)[how](logs)
        out = {r: i+plus for r, i in enumerate(at) if i < len(logs[r])}
        if ended and out:
            out = {r: i+plus for r, i in enumerate(at)}
        if one:
            out = dict(list(out.items())[:1])
        if entry:
            out = {r: logs[r][i] for r, i in out.items()}
        return out if out or nothing is None else nothing
    return stuck

right_stuck = detective()

def in_order(world, items):
    "Logs in which every process has its part of these messages, in their order: nobody waits for ever"
    return [[item for item in items if r in item[1]] for r in range(world)]

def logs_of(seed):
    "Logs of some processes in several groups, whole or spoiled in one way"
    rng = random.Random(seed)
    world = rng.randrange(2, 6)
    groups = [tuple(range(world))]
    for _ in range(rng.randrange(4)):
        groups.append(tuple(sorted(rng.sample(range(world), rng.randrange(2, world+1)))))
    def draw(): return rng.choice(MESSAGES), rng.choice(groups), rng.choice([4, 8])
    logs = in_order(world, [draw() for _ in range(rng.randrange(1, 7))])
    kind, r = seed % 5, rng.randrange(world)
    log = logs[r]
    if kind == 1 and log:
        del log[rng.randrange(len(log))]
    if kind == 2 and len(log) > 1:
        i = rng.randrange(len(log)-1)
        log[i:i+2] = log[i:i+2][::-1]
    if kind in (3, 4) and log:
        i = rng.randrange(len(log))
        name, group, size = log[i]
        log[i] = (name, group, size+1) if kind == 3 else (rng.choice(MESSAGES), group, size)
    return logs

A, B, C = (0, 1), (1, 2), (0, 2)
LOGS = [
    [[], []], [[("all_reduce", A, 4)], []], [[("all_reduce", A, 4)], [("all_reduce", A, 4)]],
    [[("all_reduce", A, 4)], [("all_reduce", A, 5)]], [[("all_reduce", A, 4)], [("all_gather", A, 4)]],
    [[("all_gather", A, 4), ("all_reduce", A, 4)], [("all_gather", A, 4)]],
    [[("all_reduce", A, 4), ("all_gather", A, 4)], [("all_gather", A, 4), ("all_reduce", A, 4)]],
    [[("all_reduce", C, 4)], [], [("all_reduce", C, 4)]],
    [[("all_reduce", A, 4), ("all_reduce", C, 4)], [("all_reduce", B, 4), ("all_reduce", A, 4)],
     [("all_reduce", C, 4), ("all_reduce", B, 4)]],
    [[("all_reduce", A, 4), ("all_reduce", C, 4)], [("all_reduce", A, 4), ("all_reduce", B, 4)],
     [("all_reduce", B, 4), ("all_reduce", C, 4)]],
    [[("all_gather", A, 8)], [("all_gather", A, 8), ("all_reduce", B, 4)], [("all_reduce", B, 4)]],
    [[("all_gather", A, 8)], [("all_reduce", B, 4), ("all_gather", A, 8)], []],
    in_order(4, [("all_reduce", group, 4) for group in [(2, 3), B, A]*3])]

def stuck_check(answer):
    cases = LOGS+sorted(map(logs_of, range(150)), key=lambda logs: sum(map(len, logs)))
    for logs in cases:
        say, wanted = written("stuck", logs), right_stuck(logs)
        got = answer([list(log) for log in logs])
        something(say, got)
        ints = type(got) is dict and all(type(x) is int for pair in got.items() for x in pair)
        assert ints, f"{say}: a dict with whole numbers is asked for, process: entry; you give {got!r}"
        if got == wanted:
            continue
        assert wanted, f"{say}: nobody waits for ever, so {{}}; you say {got}"
        raise AssertionError(f"{say}: it should give {wanted}, and you say {got}")

hang = Exercise("4. Who waits for whom?", 3, stuck_check, right_stuck,
    probes=[(logs,) for logs in (*LOGS, *map(logs_of, range(30)))],
    behave=lambda f, logs: f(logs),
    wrong=[
        Wrong("line by line",
              "you compare entry i of one process with entry i of the others. In different groups processes "
              "need not be at the same line.",
              detective(how="position")),
        Wrong("every group by itself",
              "within each group everybody agrees, and still nobody may get on: 0 waits for 1, 1 for 2, and "
              "2 for 0. Play the messages through.",
              detective(how="group")),
        Wrong("sizes are not looked at", "a message of 4 numbers and one of 5 do not meet.",
              detective(size=False)),
        Wrong("names are not looked at", "an all_gather and an all_reduce do not meet.", detective(op=False)),
        Wrong("those that have ended", "a process at the end of its log waits for nobody: leave it out.",
              detective(ended=True)),
        Wrong("one round",
              "after a message is through, processes that came too early may go on: again, until nothing "
              "moves.",
              detective(rounds=1)),
        Wrong("the first of them", "all who wait for ever are asked for, not one.", detective(one=True)),
        Wrong("counted from one", "entries are counted from 0.", detective(plus=1)),
        Wrong("entries, not their numbers", "asked is for the number of the entry in the process's log.",
              detective(entry=True)),
        Wrong("nobody is asked",
              "each process goes on by itself; a message needs all members of its group at the same entry.",
              detective(alone=True)),
        Wrong("a word for nothing", "where nobody waits, the dict is empty: {}.", detective(nothing=[]))])

EXERCISES = dict(train=lab, count=count, deal=fair, stuck=hang)
