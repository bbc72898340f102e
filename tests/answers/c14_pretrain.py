"Answers to the exercises of chapter 14"
import hashlib
import io
import itertools
import json
import math
import random
import statistics

import torch

from answers import Answers

answers = Answers()

# ---- 1. kill and resume ----

def pack(state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()

def unpack(raw): return torch.load(io.BytesIO(raw), weights_only=True)

def state_of(job, losses, place):
    return dict(losses=losses, place=place, model=job.model.state_dict(), opt=job.opt.state_dict(),
                dice=torch.get_rng_state())

def put_back(job, saved):
    job.model.load_state_dict(saved["model"])
    job.opt.load_state_dict(saved["opt"])
    torch.set_rng_state(saved["dice"])
    return saved["losses"], saved["place"]

def one_step(job, step, batch):
    for group in job.opt.param_groups:
        group["lr"] = job.rate(step)
    loss = job.model(*batch[:2])
    job.opt.zero_grad()
    loss.backward()
    job.opt.step()
    return loss.item()

def save(job, losses, place, name="checkpoint"):
    job.write(name+".part", pack(state_of(job, losses, place)))
    job.rename(name+".part", name)

def load(job, name="checkpoint"):
    return put_back(job, unpack(job.read(name))) if name in job.names() else ([], None)

@answers.right("resume")
def a_file_for_each_checkpoint(job):
    "Named by its step; the older ones are removed afterwards"
    def number(name): return int(name.split("_")[1])
    there = sorted((n for n in job.names() if not n.endswith(".part")), key=number)
    losses, place = load(job, there[-1]) if there else ([], None)
    stream = job.batches(place)
    while len(losses) < job.steps:
        batch = next(stream)
        losses.append(one_step(job, len(losses), batch))
        if len(losses) % job.every == 0:
            save(job, losses, batch[2], f"step_{len(losses)}")
            for name in job.names():
                if name.endswith(".part") or number(name) < len(losses):
                    job.remove(name)
    return losses

@answers.right("resume")
def two_slots_and_a_checksum(job):
    "No rename: the older of two slots is overwritten, and a half-written slot is seen by its checksum"
    whole = []
    for slot in "ab":
        raw = job.read(slot) if slot in job.names() else b""
        if raw[:32] == hashlib.sha256(raw[32:]).digest():
            whole.append((unpack(raw[32:]), slot))
    losses, place, newest = [], None, "b"
    if whole:
        saved, newest = max(whole, key=lambda pair: len(pair[0]["losses"]))
        losses, place = put_back(job, saved)
    stream = job.batches(place)
    for step in range(len(losses), job.steps):
        batch = next(stream)
        losses.append(one_step(job, step, batch))
        if (step+1) % job.every == 0:
            raw, newest = pack(state_of(job, losses, batch[2])), "ba"[newest == "b"]
            job.write(newest, hashlib.sha256(raw).digest()+raw)
    return losses

@answers.right("resume")
def after_every_step(job):
    losses, place = load(job)
    stream = job.batches(place)
    for step in range(len(losses), job.steps):
        batch = next(stream)
        losses.append(one_step(job, step, batch))
        save(job, losses, batch[2])
    return losses

@answers.right("resume")
def passes_over_the_batches_that_were_read(job):
    losses, _ = load(job)
    stream = job.batches()
    for _ in losses:
        next(stream)
    for step in range(len(losses), job.steps):
        losses.append(one_step(job, step, next(stream)))
        if (step+1) % job.every == 0:
            save(job, losses, None)
    return tuple(losses)

@answers.right("resume")
def saves_before_the_next_step(job):
    losses, place = load(job)
    stream, saved = job.batches(place), len(losses)
    for step in range(len(losses), job.steps):
        if step and step % job.every == 0 and step > saved:
            save(job, losses, place)
        batch = next(stream)
        losses.append(one_step(job, step, batch))
        place = batch[2]
    return losses

MEMORY = {}

@answers.wrong("resume")
def in_a_global_variable(job):
    losses, place = put_back(job, unpack(MEMORY["run"])) if "run" in MEMORY else ([], None)
    stream = job.batches(place)
    for step in range(len(losses), job.steps):
        batch = next(stream)
        losses.append(one_step(job, step, batch))
        if (step+1) % job.every == 0:
            MEMORY["run"] = pack(state_of(job, losses, batch[2]))
    return losses

@answers.wrong("resume")
def weights_and_the_rest_in_two_files(job):
    losses, place = load(job)
    if "weights" in job.names():
        job.model.load_state_dict(unpack(job.read("weights")))
    stream = job.batches(place)
    for step in range(len(losses), job.steps):
        batch = next(stream)
        losses.append(one_step(job, step, batch))
        if (step+1) % job.every == 0:
            job.write("new", pack(job.model.state_dict()))
            job.rename("new", "weights")
            save(job, losses, batch[2])
    return losses

@answers.wrong("resume")
def removes_the_old_one_first(job):
    losses, place = load(job)
    stream = job.batches(place)
    for step in range(len(losses), job.steps):
        batch = next(stream)
        losses.append(one_step(job, step, batch))
        if (step+1) % job.every == 0:
            if "checkpoint" in job.names():
                job.remove("checkpoint")
            save(job, losses, batch[2])
    return losses

@answers.wrong("resume")
def every_sixth_step(job):
    losses, place = load(job)
    stream = job.batches(place)
    for step in range(len(losses), job.steps):
        batch = next(stream)
        losses.append(one_step(job, step, batch))
        if (step+1) % 6 == 0:
            save(job, losses, batch[2])
    return losses

@answers.wrong("resume")
def checkpoint_in_bfloat16(job):
    losses, place = load(job)
    stream = job.batches(place)
    for step in range(len(losses), job.steps):
        batch = next(stream)
        losses.append(one_step(job, step, batch))
        if (step+1) % job.every == 0:
            state = state_of(job, losses, batch[2])
            state["model"] = {name: w.bfloat16() for name, w in state["model"].items()}
            job.write("new", pack(state))
            job.rename("new", "checkpoint")
    return losses

@answers.wrong("resume")
def losses_rounded_in_the_file(job):
    losses, place = load(job)
    stream = job.batches(place)
    for step in range(len(losses), job.steps):
        batch = next(stream)
        losses.append(one_step(job, step, batch))
        if (step+1) % job.every == 0:
            save(job, [round(x, 4) for x in losses], batch[2])
    return losses

@answers.wrong("resume", named="the optimizer starts cold")
def weights_dice_and_place_by_hand(job):
    losses, place = [], None
    if "model" in job.names():
        saved = unpack(job.read("model"))
        losses, place = saved["losses"], saved["place"]
        for parameter, kept in zip(job.model.parameters(), saved["weights"]):
            parameter.data.copy_(kept)
        torch.set_rng_state(saved["dice"])
    stream = job.batches(place)
    for step in range(len(losses), job.steps):
        batch = next(stream)
        losses.append(one_step(job, step, batch))
        if (step+1) % job.every == 0:
            job.write("m", pack(dict(losses=losses, place=batch[2], dice=torch.get_rng_state(),
                                     weights=[p.data for p in job.model.parameters()])))
            job.rename("m", "model")
    return losses

@answers.wrong("resume", named="the text begins again")
def from_the_first_batch(job):
    losses, _ = load(job)
    stream = job.batches()
    for step in range(len(losses), job.steps):
        batch = next(stream)
        losses.append(one_step(job, step, batch))
        if (step+1) % job.every == 0:
            save(job, losses, batch[2])
    return losses

@answers.wrong("resume", named="half a checkpoint")
def written_in_place(job):
    losses, place = load(job)
    stream = job.batches(place)
    for step in range(len(losses), job.steps):
        batch = next(stream)
        losses.append(one_step(job, step, batch))
        if (step+1) % job.every == 0:
            job.write("checkpoint", pack(state_of(job, losses, batch[2])))
    return losses

@answers.wrong("resume", named="other dice")
def dice_of_the_beginning(job):
    dice = torch.get_rng_state()
    losses, place = load(job)
    torch.set_rng_state(dice)
    stream = job.batches(place)
    for step in range(len(losses), job.steps):
        batch = next(stream)
        losses.append(one_step(job, step, batch))
        if (step+1) % job.every == 0:
            save(job, losses, batch[2])
    return losses

@answers.wrong("resume", named="from the first step")
def never_saves(job):
    stream = job.batches()
    return [one_step(job, step, next(stream)) for step in range(job.steps)]

@answers.wrong("resume")
def disarms_the_kill(job):
    job.kill = None
    return never_saves(job)

@answers.wrong("resume")
def stops_at_the_last_checkpoint(job):
    losses, place = load(job)
    stream = job.batches(place)
    while len(losses)+job.every <= job.steps:
        for _ in range(job.every):
            batch = next(stream)
            losses.append(one_step(job, len(losses), batch))
        save(job, losses, batch[2])
    return losses

@answers.wrong("resume")
def saved_in_the_middle_of_a_step(job):
    "After the backward pass, before the optimizer's step"
    losses, place = load(job)
    stream = job.batches(place)
    for step in range(len(losses), job.steps):
        for group in job.opt.param_groups:
            group["lr"] = job.rate(step)
        x, y, place = next(stream)
        job.opt.zero_grad()
        loss = job.model(x, y)
        loss.backward()
        losses.append(loss.item())
        if (step+1) % job.every == 0:
            save(job, losses, place)
        job.opt.step()
    return losses

@answers.wrong("resume")
def tensors_and_not_floats(job):
    return [torch.tensor(x) for x in after_every_step(job)]

@answers.wrong("resume")
def the_last_loss(job): return after_every_step(job)[-1]

@answers.wrong("resume")
def the_last_step_moves_nothing(job):
    losses, place = load(job)
    stream = job.batches(place)
    for step in range(len(losses), job.steps):
        batch = next(stream)
        if step == job.steps-1:
            return [*losses, job.model(*batch[:2]).item()]
        losses.append(one_step(job, step, batch))
        if (step+1) % job.every == 0:
            save(job, losses, batch[2])

@answers.wrong("resume")
def remembers_losses_and_does_not_train(job):
    if "all" in job.names():
        return json.loads(bytes(job.read("all")))
    losses = after_every_step(job)
    job.write("part", json.dumps(losses).encode())
    job.rename("part", "all")
    return losses

# ---- 2. the watchdog ----

@answers.right("watchdog")
def by_differences(losses):
    "A jump up, measured by the usual size of jumps"
    alarms, known, jumps = [], None, []
    for step, loss in enumerate(losses):
        if not math.isfinite(loss):
            alarms.append(step)
            continue
        if known is not None:
            jump = loss-known
            size = statistics.median(map(abs, jumps[-50:])) if len(jumps) >= 30 else math.inf
            if jump > 9*size:
                alarms.append(step)
            jumps.append(jump)
        known = loss
    return alarms

@answers.right("watchdog")
def by_running_means(losses):
    "Mean and mean deviation that forget slowly and never learn from what rang"
    alarms, mean, size, seen = [], None, 0., 0
    for step, loss in enumerate(losses):
        if not math.isfinite(loss):
            alarms.append(step)
            continue
        if mean is None:
            mean = loss
        off = loss-mean
        if seen > 60 and off > 8*size:
            alarms.append(step)
            continue
        seen += 1
        mean += 0.1*off
        size += 0.05*(abs(off)-size)
    return tuple(alarms)

@answers.right("watchdog")
def by_the_largest_of_the_past(losses):
    "Above the last fifty by more than twice their range; alarms don't count"
    alarms, past = [], []
    for step, loss in enumerate(losses):
        last = sorted(past[-50:])
        known = len(last) >= 40
        if not math.isfinite(loss) or known and loss > last[-1]+(last[44 if len(last) == 50 else -1]-last[5]):
            alarms.append(step)
        else:
            past.append(loss)
    return alarms

def robust(losses, window=40, times=7., least=20):
    alarms, past = [], []
    for step, loss in enumerate(losses):
        if not math.isfinite(loss):
            alarms.append(step)
            continue
        last = past[-window:]
        if len(last) >= least:
            middle = statistics.median(last)
            if loss > middle+times*1.4826*statistics.median(abs(x-middle) for x in last):
                alarms.append(step)
                continue
        past.append(loss)
    return alarms

@answers.wrong("watchdog")
def never(losses): return []

@answers.wrong("watchdog")
def always(losses): return list(range(len(losses)))

@answers.wrong("watchdog")
def a_tenth_more_than_before(losses):
    return [k for k in range(1, len(losses)) if not losses[k] <= 1.1*losses[k-1]]

@answers.wrong("watchdog")
def only_numbers_that_are_none(losses): return [k for k, x in enumerate(losses) if not math.isfinite(x)]

@answers.wrong("watchdog")
def only_the_first_spike(losses): return robust(losses)[:1]

@answers.wrong("watchdog")
def only_the_largest(losses):
    return [max(range(len(losses)), key=losses.__getitem__)] if losses else []

@answers.wrong("watchdog")
def whole_curve_at_once(losses):
    finite = [x for x in losses if math.isfinite(x)] or [0.]
    middle = statistics.median(finite)
    size = statistics.median(abs(x-middle) for x in finite)
    return [k for k, x in enumerate(losses) if not x <= middle+8*size]

@answers.wrong("watchdog")
def judged_when_the_next_has_come(losses):
    return [k+1 for k in robust(losses) if k+1 < len(losses)]

@answers.wrong("watchdog")
def two_deviations(losses): return robust(losses, times=2.)

@answers.wrong("watchdog", named="three deviations")
def three_deviations(losses): return robust(losses, 50, 3.)

@answers.wrong("watchdog")
def forty_deviations(losses): return robust(losses, times=40.)

@answers.wrong("watchdog")
def the_losses_and_not_the_steps(losses): return [losses[k] for k in robust(losses)]

@answers.wrong("watchdog")
def yes_and_no(losses): return [k in set(robust(losses)) for k in range(len(losses))]

@answers.wrong("watchdog")
def newest_first(losses): return robust(losses)[::-1]

@answers.wrong("watchdog")
def text(losses): return ", ".join(map(str, robust(losses)))

@answers.wrong("watchdog", named="counted from one")
def from_one(losses): return [k+1 for k in robust(losses)]

@answers.wrong("watchdog", named="a NaN is no alarm")
def not_a_number_is_left_out(losses):
    return [k for k in robust(losses) if math.isfinite(losses[k])]

@answers.wrong("watchdog", named="measured with itself")
def z_score_of_the_last_window(losses):
    alarms = []
    for k in range(19, len(losses)):
        last = losses[k-19:k+1]
        if not math.isfinite(losses[k]):
            alarms.append(k)
        elif all(map(math.isfinite, last)) and losses[k] > statistics.mean(last)+5*statistics.pstdev(last):
            alarms.append(k)
    return alarms

# ---- 3. the clock ----

def steps_of(log):
    "(process, step, tokens, seconds) of each line"
    process, last, out = -1, 0, []
    for line in log:
        if "start" in line:
            process += 1
        else:
            out.append((process, line["step"], line["tokens"], line["at"]-last))
        last = line["at"]
    return out

def summed(log, flops, peak, kept):
    tokens, seconds = sum(s[2] for s in kept), sum(s[3] for s in kept)
    spent, whole = sum(s[3] for s in steps_of(log)), log[-1]["at"]-log[0]["at"]
    return dict(tokens=tokens, seconds=seconds, lost=spent-seconds, idle=whole-spent,
                mfu=flops*tokens/(seconds*peak) if seconds else 0)

@answers.right("account")
def by_looking_at_later_starts(log, flops_per_token, peak):
    starts = [line["start"] for line in log if "start" in line]
    kept = [s for s in steps_of(log) if all(s[1] <= start for start in starts[s[0]+1:])]
    return summed(log, flops_per_token, peak, kept)

@answers.right("account")
def from_the_end(log, flops_per_token, peak):
    "Backwards: the lowest start so far is the last step that survives"
    most, kept, found = math.inf, [], steps_of(log)
    starts = [line["start"] for line in log if "start" in line]
    for process in range(len(starts)-1, -1, -1):
        kept += [s for s in found if s[0] == process and s[1] <= most]
        most = min(most, starts[process])
    return summed(log, flops_per_token, peak, kept)

@answers.wrong("account", named="every line counts")
def all_lines(log, flops_per_token, peak): return summed(log, flops_per_token, peak, steps_of(log))

@answers.wrong("account")
def last_process_alone(log, flops_per_token, peak):
    found = steps_of(log)
    last = sum("start" in line for line in log)-1
    return summed(log, flops_per_token, peak, [s for s in found if s[0] == last])

@answers.wrong("account", named="not yet done again")
def one_for_each_step(log, flops_per_token, peak):
    return summed(log, flops_per_token, peak, list({s[1]: s for s in steps_of(log)}.values()))

@answers.wrong("account")
def the_slower_of_two(log, flops_per_token, peak):
    best = {}
    for s in steps_of(log):
        if s[1] not in best or s[3] > best[s[1]][3]:
            best[s[1]] = s
    return summed(log, flops_per_token, peak, list(best.values()))

@answers.wrong("account")
def only_the_next_start_counts(log, flops_per_token, peak):
    starts = [line["start"] for line in log if "start" in line]
    kept = [s for s in steps_of(log) if s[1] <= (starts[s[0]+1] if s[0]+1 < len(starts) else math.inf)]
    return summed(log, flops_per_token, peak, kept)

@answers.wrong("account")
def the_step_of_the_checkpoint_is_lost(log, flops_per_token, peak):
    starts = [line["start"] for line in log if "start" in line]
    kept = [s for s in steps_of(log) if all(s[1] < start for start in starts[s[0]+1:])]
    return summed(log, flops_per_token, peak, kept)

@answers.wrong("account")
def idle_is_lost(log, flops_per_token, peak):
    out = by_looking_at_later_starts(log, flops_per_token, peak)
    return dict(out, lost=out["lost"]+out["idle"], idle=0)

@answers.wrong("account", named="percent")
def a_hundred_times(log, flops_per_token, peak):
    out = by_looking_at_later_starts(log, flops_per_token, peak)
    return dict(out, mfu=100*out["mfu"])

@answers.wrong("account")
def three_times_forward(log, flops_per_token, peak):
    out = by_looking_at_later_starts(log, flops_per_token, peak)
    return dict(out, mfu=3*out["mfu"])

@answers.wrong("account")
def without_mfu(log, flops_per_token, peak):
    out = by_looking_at_later_starts(log, flops_per_token, peak)
    return {key: out[key] for key in ("tokens", "seconds", "lost", "idle")}

@answers.wrong("account")
def a_tuple(log, flops_per_token, peak):
    return tuple(by_looking_at_later_starts(log, flops_per_token, peak).values())

@answers.wrong("account")
def cuts_the_log(log, flops_per_token, peak):
    out = by_looking_at_later_starts(log, flops_per_token, peak)
    log[:] = log[-1:]
    return out

@answers.wrong("account")
def divides_by_nothing(log, flops_per_token, peak):
    out = by_looking_at_later_starts(log, flops_per_token, peak)
    return dict(out, mfu=flops_per_token*out["tokens"]/out["seconds"]/peak)

@answers.wrong("account")
def not_a_number_for_nothing(log, flops_per_token, peak):
    out = by_looking_at_later_starts(log, flops_per_token, peak)
    return out if out["seconds"] else dict(out, mfu=math.nan)

@answers.wrong("account", named="by the plan")
def steps_times_the_first(log, flops_per_token, peak):
    out, found = by_looking_at_later_starts(log, flops_per_token, peak), steps_of(log)
    starts = [line["start"] for line in log if "start" in line]
    kept = sum(all(s[1] <= start for start in starts[s[0]+1:]) for s in found)
    tokens = kept*found[0][2] if found else 0
    rate = flops_per_token*tokens/out["seconds"]/peak if out["seconds"] else 0.
    return dict(out, tokens=tokens, mfu=rate)

# ---- 4. better, or lucky? ----

def flips(gains):
    return [sum(s*g for s, g in zip(signs, gains)) for signs in itertools.product((1, -1), repeat=len(gains))]

@answers.right("luck")
def all_ways(old, new):
    gains = [a-b for a, b in zip(old, new)]
    sums = flips(gains)
    return sum(s >= sum(gains) for s in sums)/len(sums)

@answers.right("luck")
def by_bits(old, new):
    n, count = len(old), 0
    for swapped in range(2**n):
        a = sum(new[k] if swapped >> k & 1 else old[k] for k in range(n))
        b = sum(old[k] if swapped >> k & 1 else new[k] for k in range(n))
        count += a-b >= sum(old)-sum(new)
    return count/2**n

@answers.right("luck")
def by_torch(old, new):
    gains = torch.tensor(old)-torch.tensor(new)
    signs = 1-2*(torch.arange(2**len(gains))[:, None] >> torch.arange(len(gains)) & 1)
    return ((signs*gains).sum(1) >= gains.sum()).double().mean().item()

@answers.wrong("luck")
def by_dice(old, new):
    rng, gains = random.Random(0), [a-b for a, b in zip(old, new)]
    sums = [sum(rng.choice((1, -1))*g for g in gains) for _ in range(1000)]
    return sum(s >= sum(gains) for s in sums)/1000

@answers.wrong("luck", named="both sides")
def two_sided(old, new):
    gains = [a-b for a, b in zip(old, new)]
    return sum(abs(s) >= abs(sum(gains)) for s in flips(gains))/2**len(gains)

@answers.wrong("luck", named="more than what was seen")
def strictly_more(old, new):
    gains = [a-b for a, b in zip(old, new)]
    return sum(s > sum(gains) for s in flips(gains))/2**len(gains)

@answers.wrong("luck", named="worse is better")
def a_gain_is_a_rise(old, new): return all_ways(new, old)

@answers.wrong("luck", named="not paired")
def dealt_anew(old, new):
    both, out = [*old, *new], []
    for chosen in itertools.combinations(range(len(both)), len(old)):
        out.append(2*sum(both[k] for k in chosen)-sum(both) >= sum(old)-sum(new))
    return sum(out)/len(out)

@answers.wrong("luck")
def how_many_swaps(old, new): return round(all_ways(old, new)*2**len(old))

@answers.wrong("luck")
def the_other_way_round(old, new): return 1-all_ways(old, new)

@answers.wrong("luck")
def half_of_two_sided(old, new): return two_sided(old, new)/2

@answers.wrong("luck")
def is_it_real(old, new): return all_ways(old, new) < 0.01

@answers.wrong("luck")
def medians_compared(old, new):
    gains = [a-b for a, b in zip(old, new)]
    ways = [statistics.median(s*g for s, g in zip(signs, gains))
            for signs in itertools.product((1, -1), repeat=len(gains))]
    return sum(w >= statistics.median(gains) for w in ways)/len(ways)

@answers.wrong("luck")
def the_real_one_left_out(old, new):
    gains = [a-b for a, b in zip(old, new)]
    others = flips(gains)[1:]
    return sum(s >= sum(gains) for s in others)/len(others)

@answers.wrong("luck")
def sorted_before_pairing(old, new): return all_ways(sorted(old), sorted(new))

@answers.wrong("luck")
def sorts_the_lists(old, new):
    out = all_ways(old, new)
    old.sort()
    return out

@answers.wrong("luck")
def a_sign_test(old, new):
    n, won = len(old), sum(a > b for a, b in zip(old, new))
    return sum(math.comb(n, k) for k in range(won, n+1))/2**n

@answers.wrong("luck")
def as_text(old, new): return f"{all_ways(old, new):.3f}"
