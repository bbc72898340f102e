#!/usr/bin/env bash
# From text to chat with one command: `bash speedrun.sh` sets up, then trains, scores and reports a small chat model.
# Run it again and it goes on where it stopped. `bash speedrun.sh help` lists the other doors.
set -euo pipefail

# ---- the road: one line per step; a step whose work is there and whole is passed over ----------------------------------
road() {
  step settings            scaling ${GIVEN[@]+"${GIVEN[@]}"}   # the plan: shape of the model, data, length of every stage
  step tokenizer           tokenizer                    # text becomes pieces: byte pair encoding
  step evaluate_tokenizer  evaluate --stage tokenizer   # bits per byte of guessing without a network: the numbers to beat
  step base                pretrain                     # learn to predict the next token
  step evaluate_base       evaluate --stage base        # bits per byte on text not seen
  step tasks_base          tasks    --stage base        # scores, each with n and an interval
  step mid                 sft      --stage mid         # learn the form of questions, answers and tool calls
  step evaluate_mid        evaluate --stage mid
  step tasks_mid           tasks    --stage mid
  step sft                 sft      --stage sft         # learn to answer well, and who it is
  step tasks_sft           tasks    --stage sft
  step rl                  grpo                         # practise word problems, rewarded when right
  step tasks_rl            tasks    --stage rl
  step report              report                       # report.md with its figures
}

usage() {
  cat <<'TXT'
bash speedrun.sh [options]       set up, then train, score and report; run it again to go on
  --tier smoke|laptop|gpu|full     size of the whole job (default laptop; smoke is the quick rehearsal)
  --corpus world|DIR               the built-in world, or a folder of .txt, .jsonl or .parquet files (also .gz, .xz)
           fineweb-edu|climbmix|tinystories   shards fetched from the hub as they are needed
  --depth N   --seed N   --run NAME   --dtype auto|float32|bfloat16   --vocab_size N   --seq_len N
bash speedrun.sh DOOR
  setup                            set up only
  test                             run every test
  lab                              JupyterLab at the course map
  chat   [--run NAME] [--stage S]  talk to a model in the terminal (default: the newest run, its last stage)
  serve  [--run NAME] [--stage S] [--port N]   talk to it in the browser
  report [--run NAME]              write its report card again
  grade  [NN] [--file F] [--folder DIR]   scores of your exercises, of a copy, of everybody's copies
  plan   [options]                 print the plan of a job, train nothing
  runs                             list the runs
  clean  NAME                      remove a run
Settings from outside: NANOCHAT_BASE_DIR (where runs lie), NANOCHAT_MIRROR or HF_ENDPOINT (another hub), NANOCHAT_SHARDS (so many shards of it
at most), PYTHON (makes the environment), and pip's own (mirrors, proxies, wheels).
TXT
}

# ---- doors -------------------------------------------------------------------------------------------------------------
main() {
  local door=train
  case "${1-}" in --help|-h) door=help ;; ""|-*) ;; *) door=$1; shift ;; esac
  case "$door" in
    train)  options "tier corpus depth run seed dtype vocab_size seq_len" "$@"; set_up; built; train ;;
    plan)   options "tier corpus depth run seed dtype vocab_size seq_len" "$@"; set_up; nano scaling --dry_run ${GIVEN[@]+"${GIVEN[@]}"} ;;
    setup)  options "" "$@"; RETRY_CRATE=1; set_up; say "set up: $("$PY" --version), tokenizer trainer: $(trainer)" ;;
    test)   options "" "$@"; set_up; all_tests ;;
    chat)   options "run stage" "$@"; set_up; of_run; exec "$PY" -m nanochat.chat --run "$RUN" ${GIVEN[@]+"${GIVEN[@]}"} ;;
    serve)  options "run stage port" "$@"; set_up; of_run; exec "$PY" -m nanochat.serve --run "$RUN" ${GIVEN[@]+"${GIVEN[@]}"} ;;
    report) options "run" "$@"; set_up; of_run; nano report --run "$RUN" ;;
    lab)    set_up; exec "$PY" -m jupyterlab --ServerApp.root_dir="$HERE" --LabApp.default_url=/lab/tree/nbs/index.ipynb "$@" ;;
    grade)  set_up; NANOCHAT_CALLER=$CALLER exec "$PY" exercises/grade.py "$@" ;;
    runs)   options "" "$@"; find_python; house runs ;;
    clean)  [ $# -eq 1 ] || misuse "clean takes the name of one run; \`bash speedrun.sh runs\` lists them"
            find_python; house clean "$1" ;;
    help)   usage ;;
    *)      misuse "unknown door '$door'" ;;
  esac
}

train() {
  local began=$SECONDS fresh=0
  name_run; RUN_DIR=$(house path "$RUN")
  [ -f "$RUN_DIR/settings.json" ] || fresh=1
  house compare "$RUN" ${GIVEN[@]+"${GIVEN[@]}"}       # a changed setting under an old name is an error that names it
  lock
  [ $fresh = 0 ] || trap 'house forget "$RUN"' EXIT    # a start that is refused leaves no empty run behind
  STARTED=""
  road
  if [ -n "$STARTED" ]; then say "run $RUN is finished: $(clock $((SECONDS-began))) in this start"; else say "run $RUN is finished already"; fi
  say "report: $RUN_DIR/report.md"
  say "talk to it: bash speedrun.sh chat --run $RUN"
}

step() {   # step NAME MODULE OPTIONS: run one module of the library, unless its work is there and whole
  local name=$1 status=0; shift
  house done "$RUN" "$name" || status=$?
  [ $status != 0 ] || return 0
  [ $status = 10 ] || exit $status
  status=0
  if [ -z "$STARTED" ]; then STARTED=yes; [ $fresh = 1 ] || say "run $RUN goes on at step '$name'"; fi
  [ "$name" = settings ] || foresee
  say "== $name =="
  nano "$@" --run "$RUN" || status=$?
  if [ $status -gt 2 ]; then say "stopped in step '$name'; the same command goes on from there"; fi    # 1 and 2 have said what was wrong
  [ $status = 0 ] || exit $status
}

all_tests() {   # every part runs, so that one failure does not hide another; the last line says how it went
  local began=$SECONDS threads
  FAILED=""; PASSED=""
  threads=$("$PY" -c 'import os; print(max(1, (os.cpu_count() or 2)//2))')      # two notebooks at a time share the cores
  part house     "$PY" -m pytest -q tests/test_house.py
  part notebooks env OMP_NUM_THREADS="$threads" "$BIN/nbdev_test" --path nbs --n_workers 2 --timing
  part lectures  env OMP_NUM_THREADS="$threads" "$BIN/nbdev_test" --path lectures --n_workers 2 --timing
  part pytest    "$PY" -m pytest -q tests --ignore=tests/test_house.py
  if command -v cargo >/dev/null 2>&1; then part crate cargo test --quiet --locked --manifest-path rustbpe/Cargo.toml
  else case ",${NANOCHAT_REQUIRE-}," in
    *,crate,*) say "crate: NANOCHAT_REQUIRE asks for it, and there is no cargo on PATH"; FAILED="$FAILED crate" ;;
    *)         PASSED="$PASSED, crate skipped (no cargo on PATH)" ;;
  esac; fi
  if [ -n "$FAILED" ]; then say "TESTS FAILED:$FAILED ($(clock $((SECONDS-began))))"; exit 1; fi
  say "all tests passed in $(clock $((SECONDS-began))):${PASSED#,}"
}

part() {   # part NAME COMMAND: one part of the tests
  local name=$1 t0=$SECONDS; shift
  say "== $name =="
  if "$@"; then PASSED="$PASSED, $name $(clock $((SECONDS-t0)))"; else FAILED="$FAILED $name"; fi
}

# ---- set-up ------------------------------------------------------------------------------------------------------------
set_up() {   # the environment in .venv, made once; again only where settings.ini, setup.py or rustbpe/ changed
  find_python
  if [ -n "${NANOCHAT_SKIP_SETUP-}" ]; then BIN=$(dirname "$PY"); return 0; fi
  local want; want=$(house stamp)
  if [ "$PY" = "$HERE/.venv/bin/python" ] && [ "$(cat .venv/.nanochat-stamp 2>/dev/null || true)" = "$want" ] && ! crate_came; then BIN=$HERE/.venv/bin; return 0; fi
  if [ "$PY" != "$HERE/.venv/bin/python" ]; then       # none yet, or one that no longer starts
    say "set-up: making .venv with $("$PY" --version)"
    rm -rf .venv
    "$PY" -m venv .venv >&2 || die "python's venv module can't make .venv here (on Debian and Ubuntu: install python3-venv), then run the same command again"
  fi
  PY=$HERE/.venv/bin/python; BIN=$HERE/.venv/bin
  rm -f .venv/.nanochat-stamp
  say "set-up: installing the packages of settings.ini; free disk here: $(house free "$HERE")"
  command -v cargo >/dev/null 2>&1 || say "set-up: no cargo on PATH, so the Rust crate is left out and tokenizers are trained in Python"
  "$PY" -m pip install -e '.[dev]' >&2 || die "pip could not install the packages (its own message is above); mend that and run the same command again"
  printf '%s\n' "$want" > .venv/.nanochat-stamp
}

find_python() {   # .venv's Python where there is one, else $PYTHON, else the first on PATH that is new enough
  local p
  if [ -z "${NANOCHAT_SKIP_SETUP-}" ] && .venv/bin/python -c '' 2>/dev/null; then PY=$HERE/.venv/bin/python
  elif [ -n "${PYTHON-}" ]; then PY=$(command -v "$PYTHON") || die "PYTHON is '$PYTHON', and there is no such program"
  else
    PY=""
    for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
      if good_python "$p"; then PY=$(command -v "$p"); break; fi
    done
    [ -n "$PY" ] || die "no Python from 3.10 to 3.14 on PATH: install one, or name it with PYTHON=/path/to/python"
  fi
  good_python "$PY" || die "$PY is $("$PY" --version 2>&1 || true): Python 3.10 to 3.14 is needed; name another with PYTHON=/path/to/python (and remove .venv if it was made by this one)"
}
good_python() { "$1" -c 'import sys; sys.exit(not (3,10) <= sys.version_info < (3,15))' 2>/dev/null; }

trainer() { if "$PY" -c 'from nanochat import rustbpe' 2>/dev/null; then echo "the Rust crate"; else echo "Python (chapter 01), a few times slower than the Rust crate, which was not built"; fi; }
crate_came() { [ -n "${RETRY_CRATE-}" ] && command -v cargo >/dev/null 2>&1 && ! "$PY" -c 'from nanochat import rustbpe' 2>/dev/null; }   # cargo was installed since

foresee() {   # once, before the first step that computes: what it will run on and how long it will take
  [ -z "${FORESEEN-}" ] || return 0
  FORESEEN=yes
  say "$("$PY" --version), tokenizer trainer: $(trainer)"
  say "free disk: $(house free "$RUN_DIR") where the run is kept ($RUN_DIR)"
  "$PY" -c "$ESTIMATE" "$RUN_DIR" >&2
}

# ---- options and runs --------------------------------------------------------------------------------------------------
options() {   # options "NAMES THAT APPLY" ARGUMENTS: fills GIVEN (all but --run) and RUN, TIER, CORPUS, DEPTH, SEED
  local known=$1 key value; shift
  GIVEN=(); RUN=""; TIER=""; CORPUS=""; DEPTH=""; SEED=""
  while [ $# -gt 0 ]; do
    case "$1" in
      --help|-h) usage; exit 0 ;;
      --*=*) key=${1%%=*}; value=${1#*=}; shift ;;
      --*)   key=$1; shift; [ $# -gt 0 ] || misuse "option $key needs a value"; value=$1; shift ;;
      *)     misuse "unexpected argument '$1'" ;;
    esac
    key=${key#--}
    case " $known " in *" $key "*) ;; *) misuse "unknown option '--$key'${known:+; here there are --${known// / --}}" ;; esac
    [ -n "$value" ] || misuse "option --$key needs a value"
    case "$key" in depth|seed|vocab_size|seq_len|port) case "$value" in *[!0-9]*) misuse "option --$key takes a whole number, not '$value'" ;; esac ;; esac
    case "$key" in
      run) RUN=$value; continue ;;
      corpus) value=$(folder "$value"); CORPUS=$value ;;
      tier) TIER=$value ;; depth) DEPTH=$value ;; seed) SEED=$value ;;
    esac
    GIVEN+=("--$key" "$value")
  done
}

folder() {   # a corpus is a name, or a folder, which is kept by its full path so that it can be found from anywhere
  case "$1" in world|fineweb-edu|climbmix|tinystories) printf '%s' "$1"; return ;; esac
  (cd "$CALLER" && cd "$1" 2>/dev/null && pwd) || die "corpus '$1': no such folder; give world, or a folder of .txt, .jsonl or .parquet files (also .gz, .xz)"
}

built() {   # a tier that is planned and not built: its plan, what is missing, and status 2
  local missing=""
  case "$TIER" in gpu|full) missing="tier '$TIER' is not built yet: training on GPUs at that scale is missing; give --tier laptop (it uses a GPU where there is one) or smoke" ;; esac
  [ -n "$missing" ] || return 0
  nano scaling --dry_run ${GIVEN[@]+"${GIVEN[@]}"}
  say "error: $missing"; exit 2
}

name_run() { [ -n "$RUN" ] || RUN=$(house name "${TIER:-laptop}" "${CORPUS:-world}" "${DEPTH:--}" "${SEED:-0}"); }
of_run()   { RUN=$(house find "$RUN"); }

lock() {   # held by this shell as an open file, and handed down to every step; the kernel lets go of it when the job ends, however it ends
  mkdir -p "$RUN_DIR" || die "can't make $RUN_DIR: see that the folder may be written, or set NANOCHAT_BASE_DIR to another"
  exec 9>>"$RUN_DIR/.lock"
  house lock "$RUN" $$
  export NANOCHAT_LOCK_FD=9
}

# ---- small things ------------------------------------------------------------------------------------------------------
say()    { printf '%s\n' "$*" >&2; }
die()    { say "error: $*"; exit 1; }
misuse() { say "error: $*; \`bash speedrun.sh help\` lists doors and options"; exit 2; }
clock()  { printf '%d:%02d' $(($1/60)) $(($1%60)); }
nano()   { local module=$1; shift; "$PY" -m "nanochat.$module" "$@"; }
house()  { "$PY" -c "$HOUSE" "$@"; }

# Everything that must answer at once, before torch is loaded or even installed: names, locks, and whether the work of a step is whole.
IFS= read -r -d '' HOUSE <<'PY' || true
import ast, fcntl, hashlib, json, os, re, shutil, sys
from pathlib import Path

BASE = Path(os.environ.get("NANOCHAT_BASE_DIR") or Path.home()/".cache"/"nanochat").expanduser()
RUNS = BASE/"runs"
STAGES = ("base", "mid", "sft", "rl")
def fail(line): sys.exit(f"error: {line}")

def path(run):
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", run):
        fail(f"run name {run!r}: use letters, digits, '.', '_' and '-' only, beginning with a letter or digit")
    return RUNS/run

def load(file):
    "A JSON file; None where it is missing, or no JSON (its step is then done again)"
    try: return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError: return None
    except ValueError:
        print(f"warning: {file} is damaged; it is made again", file=sys.stderr)
        file.unlink()

def settings(run):
    file = path(run)/"settings.json"
    try: return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError: return None
    except ValueError: fail(f"{file} is damaged: remove the run with `bash speedrun.sh clean {run}`, or put the file back")

def names():
    "Runs, the newest first"
    def when(d): return max(f.stat().st_mtime for f in (d/"log.jsonl", d) if f.exists())
    return [d.name for d in sorted((d for d in RUNS.glob("*") if (d/"settings.json").exists()), key=when, reverse=True)]

def name(tier, corpus, depth, seed):
    "The default name of a run; the depth of a tier is read from the chapter's own table, without importing it"
    if depth == "-":
        tree = ast.parse(Path("nanochat/scaling.py").read_text(encoding="utf-8"))
        table = next(n.value for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "TIERS")
        tiers = {k.arg: {o.arg: o.value for o in k.value.keywords} for k in table.keywords}
        depth = ast.literal_eval(tiers[tier]["depth"]) if tier in tiers else 0
    folder = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(corpus).name)[:60]
    return f"{tier}-{folder}-d{int(depth)}-s{int(seed)}"

def compare(run, *given):
    "Options that differ from those that a run was made with"
    have = settings(run)
    if have is None: return
    for key, new in zip(given[::2], given[1::2]):
        old = have.get(key[2:])
        same = os.path.realpath(new) == os.path.realpath(str(old)) if key == "--corpus" else str(old) == str(int(new) if isinstance(old, int) else new)
        if not same: fail(f"run {run!r} was made with {key[2:]} {old}, now {new}: give this one another --run name, or remove the old one with `bash speedrun.sh clean {run}`")

def holder(file):
    "The process that holds a lock, or None"
    try:
        with open(file, "r+") as f: fcntl.flock(f, fcntl.LOCK_EX|fcntl.LOCK_NB)
    except FileNotFoundError: return None
    except OSError: return file.read_text().strip() or "?"

def lock(run, pid):
    try: fcntl.flock(9, fcntl.LOCK_EX|fcntl.LOCK_NB)
    except OSError: fail(f"run {run!r} is in use by process {(path(run)/'.lock').read_text().strip() or '?'}: wait for it, or give this one another --run name")
    os.ftruncate(9, 0); os.write(9, pid.encode())
    for half in [*path(run).rglob(".*")]:              # what a kill in the middle of a write left beside its place
        if re.fullmatch(r"\..+\.[a-z0-9_]{8}", half.name): shutil.rmtree(half) if half.is_dir() else half.unlink()

def whole(checkpoint):
    "True where every byte of a checkpoint is the one that was written"
    try:
        text = (checkpoint/"meta.json").read_bytes()
        listing = {name: f["sha256"] for name, f in json.loads(text)["files"].items()}
        return hashlib.sha256(text).hexdigest() == (checkpoint/"meta.sha256").read_text().strip() and all(digest(checkpoint/n) == h for n, h in listing.items())
    except (OSError, ValueError, KeyError): return False

def digest(file):
    h = hashlib.sha256()
    with open(file, "rb") as f:
        while b := f.read(1 << 20): h.update(b)
    return h.hexdigest()

def done(run, step):
    "Is the work of a step there and whole? A stage whose newest checkpoint is damaged is not: its module goes back and finishes it again"
    d, s = path(run), settings(run)
    if step == "settings": return s is not None
    if step == "report":
        return (d/"report.md").exists() and (d/"report.md").stat().st_mtime >= max(f.stat().st_mtime for f in (d/"results").glob("*.json"))
    if load(d/"results"/f"{step}.json") is None: return False
    if step == "tokenizer": return load(d/"tokenizer"/"tokenizer.json") is not None
    if step in STAGES:
        last = max((int(c.name[5:]) for c in (d/step).glob("step_*") if c.name[5:].isdigit()), default=None)
        return last == s[step]["steps"] and whole(d/step/f"step_{last}")
    return True

def where(run):
    "How far a run is, in two words"
    d, s = RUNS/run, settings(run)
    if (d/"report.md").exists() and all((d/"results"/f"{st}.json").exists() for st in STAGES): return "finished"
    try: last = json.loads((d/"log.jsonl").read_text().splitlines()[-1])
    except (OSError, ValueError, IndexError): return "tokenizer" if (d/"tokenizer").is_dir() else "planned"
    return f"{last['stage']} {last['step']}/{s[last['stage']]['steps']}"

def runs():
    for run in names():
        mb = sum(f.stat().st_size for f in (RUNS/run).rglob("*") if f.is_file())/1e6
        pid = holder(RUNS/run/".lock")
        print(f"{run:<40} {where(run):<16} {mb:8.1f} MB{f'   in use by process {pid}' if pid else ''}")
    if not names(): print(f"no run yet in {RUNS}: `bash speedrun.sh` makes one")

def find(run):
    "A run that is there: the one named, else the newest"
    if run and not path(run).is_dir(): fail(f"no run named {run!r} in {RUNS}: there {'is ' + ', '.join(names()) if names() else 'are none yet'}")
    if not run and not names(): fail(f"no run yet in {RUNS}: `bash speedrun.sh` makes one")
    print(run or names()[0])

def clean(run):
    d = Path(path(run))
    if not d.is_dir() or d.is_symlink(): fail(f"no run named {run!r} in {RUNS}: `bash speedrun.sh runs` lists them")
    with open(d/".lock", "a") as f:
        try: fcntl.flock(f, fcntl.LOCK_EX|fcntl.LOCK_NB)
        except OSError: fail(f"run {run!r} is in use by process {(d/'.lock').read_text().strip() or '?'}: stop it first")
        gone = RUNS/f".{run}.{os.getpid()}"
        d.rename(gone)                                # out of sight in one move, so that no half of a run is ever found
        shutil.rmtree(gone)
    print(f"run {run} is removed")

def forget(run):
    "Remove the folder of a run that was refused before it had settings"
    d = path(run)
    if not (d/"settings.json").exists() and [f.name for f in d.glob("*")] == [".lock"]: shutil.rmtree(d)

def free(folder):
    folder = Path(folder)
    while not folder.exists(): folder = folder.parent
    return f"{shutil.disk_usage(folder).free/1e9:.1f} GB"

def stamp():
    "Fingerprint of what decides the environment"
    h = hashlib.sha256()
    crate = sorted(p for p in Path("rustbpe").rglob("*") if p.is_file() and "target" not in p.parts)
    for p in [Path("settings.ini"), Path("setup.py"), *crate]: h.update(f"{p.as_posix()} {digest(p)}\n".encode())
    return h.hexdigest()

do, args = sys.argv[1], sys.argv[2:]
answer = globals()[do](*args)
if do == "done": sys.exit(0 if answer else 10)
if answer is not None: print(answer)
PY

# The expected minutes, and how they were found: from a recorded run and the speeds of a matmul then and now, or else a lower bound from the FLOPs.
IFS= read -r -d '' ESTIMATE <<'PY' || true
import json, sys
from pathlib import Path
import torch
from nanochat.gpt import flops_per_token, n_params
from nanochat.pretrain import new_model
from nanochat.runtime import matmul_flops, pick_device

run = Path(sys.argv[1]); s = json.loads((run/"settings.json").read_text()); device = pick_device()
def records():
    for f in sorted(Path("bench/results").glob(f"{s['tier']}_seed*.json")):
        r = json.loads(f.read_text())
        if s["corpus"] == "world" and r["params"] == n_params(new_model(s, 0, "cpu", torch.float32))[0]: yield r
found = sorted(records(), key=lambda r: r["wall_seconds"]*r["machine"]["peak_flops"])       # one measured peak may be off: the middle one of the records
kept = found[len(found)//2] if found else None; machine = kept["machine"] if kept else {}
here = matmul_flops(getattr(torch, machine.get("dtype", "float32")), device)
if kept:
    minutes, there = kept["wall_seconds"]/60, machine["peak_flops"]
    print(f"expected: about {minutes*there/here:.0f} minutes for all steps together (a recorded run took {minutes:.1f} where a {machine['dtype']} matmul runs at {there/1e9:.0f} GFLOP/s; here it runs at {here/1e9:.0f})")
else:
    tokens = sum(s[k]["steps"]*s[k]["rows"]*s["seq_len"] for k in ("base", "mid", "sft"))
    flops = tokens*flops_per_token(new_model(s, 0, "cpu", torch.float32))
    print(f"expected: at least {flops/here/60:.1f} minutes (no recorded run of this kind: {flops:.1e} FLOPs of training at the {here/1e9:.0f} GFLOP/s that a float32 matmul reaches here; scoring comes on top)")
PY

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd); CALLER=$PWD
case "${NANOCHAT_BASE_DIR-}" in ""|/*|"~"*) ;; *) export NANOCHAT_BASE_DIR="$CALLER/$NANOCHAT_BASE_DIR" ;; esac    # what is relative, is so to the caller
case "${PYTHON-}" in /*) ;; */*) PYTHON=$CALLER/$PYTHON ;; esac
cd "$HERE"
{ main "$@"; exit; }    # read as one piece: a script that is changed while it runs must not be read on from
