#!/usr/bin/env bash
# From text to chat with one command: `bash speedrun.sh` sets up, then trains, scores and reports a small chat model.
# Run it again and it goes on where it stopped. `bash speedrun.sh help` lists the other doors.
[ -n "${BASH_VERSION-}" ] || exec bash "$0" "$@"      # `sh speedrun.sh`: this is written for bash
set +o posix
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
  --corpus world|DIR               the built-in world, or a folder of .txt, .md, .jsonl, .csv or .parquet files (also .gz, .xz, .zst)
           fineweb-edu|climbmix|tinystories   shards fetched from the hub as they are needed
  --depth N   --seed N   --run NAME   --dtype auto|float32|bfloat16   --vocab_size N   --seq_len N
bash speedrun.sh DOOR
  setup                            set up only
  test                             run every test
  lab                              JupyterLab at the course map
  chat   [--run NAME] [--stage S]  talk to a model in the terminal (default: the newest run, its last stage)
  serve  [--run NAME] [--stage S] [--port N] [--host ADDRESS] [--allowed_hosts NAMES]   talk to it in the browser
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
    serve)  options "run stage port host allowed_hosts" "$@"; set_up; of_run; exec "$PY" -m nanochat.serve --run "$RUN" ${GIVEN[@]+"${GIVEN[@]}"} ;;
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
  READ_ONLY=""
  if [ -d "$RUN_DIR" ] && [ ! -w "$RUN_DIR" ]; then READ_ONLY=yes; else lock; fi    # a store that can only be read may hold a finished run
  [ $fresh = 0 ] || trap 'house forget "$RUN"' EXIT    # a start that is refused leaves no empty run behind
  STARTED=""; FINISHED=" $(house finished "$RUN") "
  road
  if [ -n "$STARTED" ]; then say "run $RUN is finished: $(clock $((SECONDS-began))) in this start"; else say "run $RUN is finished already"; fi
  say "report: $RUN_DIR/report.md"
  say "talk to it: bash speedrun.sh chat --run $RUN"
}

step() {   # step NAME MODULE OPTIONS: run one module of the library, unless its work is there and whole
  local name=$1 status=0; shift
  case "$STARTED$FINISHED" in *yes*) ;; *" $name "*) return 0 ;; esac       # until a step has run, what was looked up at the start holds
  house done "$RUN" "$name" || status=$?
  [ $status != 0 ] || return 0
  [ $status = 10 ] || exit $status
  [ -z "$READ_ONLY" ] || die "run $RUN is not finished (step '$name' comes next), and $RUN_DIR can't be written: copy it to a NANOCHAT_BASE_DIR that can"
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
  part pytest    two_halves
  if command -v cargo >/dev/null 2>&1; then part crate cargo test --quiet --locked --manifest-path rustbpe/Cargo.toml
  else case ",${NANOCHAT_REQUIRE-}," in
    *,crate,*) say "crate: NANOCHAT_REQUIRE asks for it, and there is no cargo on PATH"; FAILED="$FAILED crate" ;;
    *)         PASSED="$PASSED, crate skipped (no cargo on PATH)" ;;
  esac; fi
  if [ -n "$FAILED" ]; then say "TESTS FAILED:$FAILED ($(clock $((SECONDS-began))))"; exit 1; fi
  say "all tests passed in $(clock $((SECONDS-began))):${PASSED#,}"
}

two_halves() (   # tests of exercises and sandboxes need no trained run, so they run beside the others; in a shell of its own, for the trap
  set +e
  export OMP_NUM_THREADS=$threads
  beside=(tests/test_exercises.py tests/test_graders.py tests/test_grade_hostile.py tests/test_judge.py tests/test_isolation.py)
  said=$(mktemp)
  "$PY" -m pytest -q "${beside[@]}" >"$said" 2>&1 & other=$!
  trap 'kill $other 2>/dev/null; rm -f "$said"' EXIT
  "$PY" -m pytest -q tests --ignore=tests/test_house.py "${beside[@]/#/--ignore=}"
  first=$?
  wait $other
  second=$?
  cat "$said"
  exit $((first > second ? first : second))
)

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
    case "$key" in depth|seed|vocab_size|seq_len|port)
      case "$value" in *[!0-9]*) misuse "option --$key takes a whole number, not '$value'" ;; esac
      [ ${#value} -le 18 ] || misuse "option --$key takes a whole number of at most 18 digits, not '$value'" ;;
    esac
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
  local path=$1
  case "$path" in /*) ;; *) path=$CALLER/$path ;; esac          # never as an option, and never as the "-" of cd
  (cd -- "$path" 2>/dev/null && pwd) || die "corpus '$1': no such folder; give world, or a folder of .txt, .md, .jsonl, .csv or .parquet files (also .gz, .xz, .zst)"
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

lock() {   # held by this shell as an open file: the kernel lets go of it when the job ends, however it ends. Steps get a token (chapter 00)
  local token
  [ ! -L "$RUN_DIR/.lock" ] || die "$RUN_DIR/.lock is a link, where a file belongs: remove it and run the same command again"
  # the folder is locked, too: who removes the lock file of a running job lets nobody in
  mkdir -p -- "$RUN_DIR" 2>/dev/null && { exec 9>>"$RUN_DIR/.lock" 8<"$RUN_DIR"; } 2>/dev/null || die "$RUN_DIR can't be written: set NANOCHAT_BASE_DIR to a folder that can"
  token=$(house lock "$RUN" $$)
  export NANOCHAT_LOCK; NANOCHAT_LOCK=$(cd "$RUN_DIR" && pwd -P):$token
  house mend "$RUN"
}

# ---- small things ------------------------------------------------------------------------------------------------------
say()    { printf '%s\n' "$*" >&2; }
die()    { say "error: $*"; exit 1; }
misuse() { say "error: $*; \`bash speedrun.sh help\` lists doors and options"; exit 2; }
clock()  { printf '%d:%02d' $(($1/60)) $(($1%60)); }
nano()   { local module=$1; shift; "$PY" -m "nanochat.$module" "$@" 8<&- 9>&-; }    # the locks are this shell's alone, and are not handed down
house()  { "$PY" -c "$HOUSE" "$@"; }

# Everything that must answer at once, before torch is loaded or even installed: names, locks, and whether the work of a step is whole.
IFS= read -r -d '' HOUSE <<'PY' || true
import ast, contextlib, fcntl, hashlib, json, os, re, secrets, shutil, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.SIG_DFL)

STAGES = ("base", "mid", "sft", "rl")
def fail(line): sys.exit(f"error: {line}")
def warn(line): print(f"warning: {line}", file=sys.stderr)

def base():
    given = os.environ.get("NANOCHAT_BASE_DIR") or "~/.cache/nanochat"
    try: return Path(given).expanduser()
    except RuntimeError: fail(f"NANOCHAT_BASE_DIR {given!r}: there is no such home; give a whole path")
RUNS = base()/"runs"

def path(run):
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", run):
        fail(f"run name {run!r}: use letters, digits, '.', '_' and '-' only, beginning with a letter or digit")
    return RUNS/run

def sealed(file):
    "What a JSON file of a run says; ValueError says why it can't be believed (chapter 00, section 7)"
    try: said = json.loads(file.read_text(encoding="utf-8"))
    except OSError as e: raise ValueError(e.strerror) from None
    except RecursionError: raise ValueError("no JSON") from None
    if not isinstance(said, dict) or not said: raise ValueError(f"it holds {json.dumps(said)[:40]}, not an object with names")
    sealed = "sha256" in said
    seal = said.pop("sha256", None)
    try: differs = sealed and seal != hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    except RecursionError: differs = True
    if differs: raise ValueError("it is not what was written, its sha256 differs")
    if said.get("result", file.stem) != file.stem: raise ValueError(f"it is the result {said['result']!r}")
    return said

def traces(run):
    "What only a run with settings leaves"
    d = path(run)
    found = [p for p in d.glob("*/step_*") if not p.name.startswith(".")] + list(d.glob("dtype.json"))
    return found + [p for p in d.glob("results/*.json") if p.stem not in ("tokenizer", "summary")]

def plan(run):
    "The settings of a run, None where there are none yet; ValueError says what is wrong with them"
    file = path(run)/"settings.json"
    if not os.path.lexists(file):
        if left := traces(run): raise ValueError(f"is gone, and {left[0].relative_to(file.parent)} was made by it")
        return None
    try:
        s = sealed(file)
        missing = [k for k in ("tier", "corpus", "seed", "depth", "base") if k not in s]
        missing += [f"{k}.steps" for k in STAGES if k in s and not (isinstance(s[k], dict) and isinstance(s[k].get("steps"), int))]
        if missing: raise ValueError(f"it has no {missing[0]}")
        return s
    except ValueError as e: raise ValueError(f"is damaged ({e})") from None

def settings(run):
    "The settings of a run, None where there are none yet; a run whose settings are lost or damaged ends here"
    try: return plan(run)
    except ValueError as e:
        fail(f"{path(run)/'settings.json'} {e}: put it back, or remove the run with `bash speedrun.sh clean {run}`; "
             "if the change was yours, take out its line sha256")

def names(lost=False):
    "Runs, the newest first; `lost`: those that have lost their settings, too"
    def when(d): return max((f.stat().st_mtime for f in (d/"log.jsonl", d) if f.exists()), default=0)
    found = [d for d in RUNS.glob("*") if not d.name.startswith(".") and ((d/"settings.json").exists() or lost and d.is_dir() and traces(d.name))]
    return [d.name for d in sorted(found, key=when, reverse=True)]

def name(tier, corpus, depth, seed):
    "The default name of a run; the depth of a tier is read from the chapter's own table, without importing it"
    if depth == "-":
        tree = ast.parse(Path("nanochat/scaling.py").read_text(encoding="utf-8"))
        table = next(n.value for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "TIERS")
        tiers = {k.arg: {o.arg: o.value for o in k.value.keywords} for k in table.keywords}
        depth = ast.literal_eval(tiers[tier]["depth"]) if tier in tiers else 0
    folder = Path(corpus).name
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", folder)[:60]
    if label != folder or not label: label = f"{label.strip('-')}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:6]}".strip("-")
    return f"{tier}-{label}-d{int(depth)}-s{int(seed)}"

def compare(run, *given):
    "Options that differ from those that a run was made with"
    have = settings(run)
    if have is None: return
    for key, new in zip(given[::2], given[1::2]):
        old = have.get(key[2:])
        if key == "--corpus": same = os.path.realpath(new) == os.path.realpath(str(old))
        else: same = str(old) == (str(int(new)) if new.isdigit() else new)
        if not same: fail(f"run {run!r} was made with {key[2:]} {old}, now {new}: give this one another --run name, or remove the old one with `bash speedrun.sh clean {run}`")

def named(file):
    "The process that a lock file names"
    try: return (file.read_text(errors="replace").split() or ["?"])[0]
    except OSError: return "?"

def taken(file, how, tries=1):
    "Is this lock held by somebody else?"
    for left in reversed(range(tries)):
        try: fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if not left: return True
            time.sleep(0.05)
        except OSError: return False                   # a file system without locks
        else: return False

@contextlib.contextmanager
def opened_folder(d):
    fd = os.open(d, os.O_RDONLY)
    try: yield fd
    finally: os.close(fd)

def busy(run):
    "Who works on a run, in words, or None: the job that holds it, or a step that has outlived its job"
    d = path(run)
    for file, how, words in ((d/".lock", fcntl.LOCK_SH, "in use by process"), (d/".workers", fcntl.LOCK_EX, "its job has ended, and its last step still runs: process")):
        try:
            with open(file) as f:
                if taken(f, how): return f"{words} {named(file)}"
        except OSError: pass
    try:
        with opened_folder(d) as folder:
            if taken(folder, fcntl.LOCK_SH): return "in use by a process (its lock file was removed)"
    except OSError: pass

def hold(run, lock, folder, workers):
    "Take all locks of a run for a moment, or say who has them"
    d = path(run)
    if taken(lock, fcntl.LOCK_EX, tries=5) or taken(folder, fcntl.LOCK_EX, tries=5): fail(f"run {run!r} is in use by process {named(d/'.lock')}: wait for it, or give this one another --run name")
    if taken(workers, fcntl.LOCK_EX, tries=5):
        fail(f"run {run!r}: the job that held it has ended, and its last step, process {named(d/'.workers')}, is still running: wait for it, or end it")

def lock(run, pid):
    "Hold a run through files 9 and 8 of the shell; prints the token that lets its steps in"
    with open(path(run)/".workers", "a") as workers:
        hold(run, 9, 8, workers)
        token = secrets.token_hex(16)
        os.ftruncate(9, 0)
        os.write(9, f"{pid} {token}".encode())
    return token

def remove(p): shutil.rmtree(p) if p.is_dir() and not p.is_symlink() else p.unlink(missing_ok=True)

def mend(run):
    "What a kill left half written goes, and results that can't be believed, so that their steps are done again"
    d = path(run)
    for half in [*d.rglob(".*.part")]: remove(half)
    for folder in ("tokenizer", "results", *STAGES):
        if os.path.lexists(d/folder) and not (d/folder).is_dir(): fail(f"{d/folder} is a file, where a folder belongs: move it away and run the same command again")
    for file in (d/"log.jsonl", *d.glob("results/*.json")):
        if file.is_dir(): fail(f"{file} is a folder, where a file belongs: move it away and run the same command again")
    for file in [*d.glob("results/*.json"), *d.glob("tokenizer/tokenizer.json")]:
        why = tokens_damaged(file) if file.parent.name == "tokenizer" else unbelievable(file)
        if not why: continue
        if file.parent.name == "tokenizer" and settings(run)["corpus"] != "world" and any(steps(run, stage) for stage in STAGES):
            fail(f"{file} is damaged ({why}), and models were trained on it: put it back, or remove the run with `bash speedrun.sh clean {run}`")
        warn(f"{file} is damaged ({why}); it is made again")
        file.unlink()

def tokens_damaged(file):
    "What is wrong with a tokenizer's file, or None; it has a fingerprint of its own (chapter 04)"
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        made = hashlib.sha256(json.dumps([said["pattern"], said["special_tokens"], said["ranks"]]).encode()).hexdigest()
        return None if said["sha256"] == made else "its contents do not fit its sha256"
    except (OSError, ValueError, RecursionError, LookupError, TypeError) as e: return f"{type(e).__name__}: {e}"[:100]

def unbelievable(file):
    "What is wrong with a result, or None"
    try: said = sealed(file)
    except ValueError as e: return str(e)
    mark = file.with_suffix(".sha256")
    if file.stem == "summary":
        if mark.exists() and mark.read_text(errors="replace").split()[:1] != [digest(file)]: return f"its sha256 is not the one in {mark.name}"
        return next((f"it has no {k}" for k in ("scores", "bpb", "seconds", "tokens") if not isinstance(said.get(k), dict)), None)

def steps(run, stage):
    "The checkpoints of a stage: {step: folder}"
    found = [(re.fullmatch(r"step_(0|[1-9][0-9]{0,11})", c.name), c) for c in (path(run)/stage).glob("step_*") if c.is_dir()]
    return {int(m[1]): c for m, c in found if m}

def whole(checkpoint):
    "True where every byte of a checkpoint is the one that was written"
    try:
        text = (checkpoint/"meta.json").read_bytes()
        listing = {name: f["sha256"] for name, f in json.loads(text)["files"].items()}
        return bool(listing) and hashlib.sha256(text).hexdigest() == (checkpoint/"meta.sha256").read_text().strip() and all(digest(checkpoint/n) == h for n, h in listing.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError): return False

def digest(file):
    h = hashlib.sha256()
    with open(file, "rb") as f:
        while b := f.read(1 << 20): h.update(b)
    return h.hexdigest()

def done(run, step):
    "Is the work of a step there and whole? A stage whose newest checkpoint is damaged is not: its module goes back and finishes it again"
    d, s = path(run), settings(run)
    if s is None or step == "settings": return s is not None
    if step == "report":
        made = [f.stat().st_mtime for f in (d/"results").glob("*.json")]
        return (d/"report.md").exists() and (d/"results"/"summary.json").exists() and (d/"report.md").stat().st_mtime >= max(made)
    file = d/"results"/f"{step}.json"
    if not file.exists() or unbelievable(file): return False
    if step == "tokenizer": return (d/"tokenizer"/"tokenizer.json").exists()
    if step in STAGES:
        there = steps(run, step); last = max(there, default=None)
        return last == s[step]["steps"] and whole(there[last])
    return True

def finished(run):
    "All steps whose work is there and whole"
    road = ["settings", "tokenizer", "evaluate_tokenizer", *(f"{kind}{st}" for st in STAGES for kind in ("", "evaluate_", "tasks_")), "report"]
    return " ".join(step for step in road if done(run, step))

def where(run):
    "How far a run is, in two words"
    d = RUNS/run
    try: s = plan(run)
    except ValueError as e: return "settings lost" if "is gone" in str(e) else "settings damaged"
    if (d/"report.md").exists() and all((d/"results"/f"{st}.json").exists() for st in STAGES): return "finished"
    try:
        last = json.loads((d/"log.jsonl").read_text(errors="replace").splitlines()[-1])
        return f"{last['stage']} {last['step']}/{s[last['stage']]['steps']}"
    except (OSError, ValueError, IndexError, KeyError, TypeError): return "tokenizer" if (d/"tokenizer").is_dir() else "planned"

def runs():
    for run in names(lost=True):
        mb = sum(f.stat().st_size for f in (RUNS/run).rglob("*") if f.is_file())/1e6
        who = busy(run)
        print(f"{run:<40} {where(run):<16} {mb:8.1f} MB{f'   {who}' if who else ''}")
    if not names(lost=True): print(f"no run yet in {RUNS}: `bash speedrun.sh` makes one")

def find(run):
    "A run that is there: the one named, else the newest"
    if run and not path(run).is_dir(): fail(f"no run named {run!r} in {RUNS}: there {'is ' + ', '.join(names()) if names() else 'are none yet'}")
    if not run and not names(): fail(f"no run yet in {RUNS}: `bash speedrun.sh` makes one")
    return run or names()[0]

def clean(run):
    d = Path(path(run))
    if not d.is_dir() or d.is_symlink(): fail(f"no run named {run!r} in {RUNS}: `bash speedrun.sh runs` lists them")
    try:
        with open(d/".lock", "a") as lock, open(d/".workers", "a") as workers, opened_folder(d) as folder:
            hold(run, lock, folder, workers)
            gone = RUNS/f".{run}.{os.getpid()}"
            d.rename(gone)                            # out of sight in one move, so that no half of a run is ever found
            shutil.rmtree(gone)
    except OSError as e: fail(f"{e.filename or d} can't be removed ({e.strerror}): see that {RUNS} can be written")
    print(f"run {run} is removed")

def forget(run):
    "Remove the folder of a run that was refused before it had settings"
    d = path(run)
    if d.is_dir() and {f.name for f in d.glob("*")} <= {".lock", ".workers"}: shutil.rmtree(d)

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
try: answer = globals()[do](*args)
except OSError as e: fail(f"{e.filename or RUNS} can't be used ({e.strerror}): set NANOCHAT_BASE_DIR to a folder that can be read and written")
if do == "done": sys.exit(0 if answer else 10)
if answer is not None: sys.stdout.buffer.write(os.fsencode(f"{answer}\n"))      # the very bytes of a path, whatever the terminal can show
PY

# The expected minutes, and how they were found: from a recorded run and the speeds of a matmul then and now, or else a lower bound from the FLOPs.
IFS= read -r -d '' ESTIMATE <<'PY' || true
import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)       # Ctrl-C while torch is imported: no traceback
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
        comparable = s["corpus"] == "world" and r["machine"]["peak_flops"]          # unknown on some GPUs
        if comparable and r["params"] == n_params(new_model(s, 0, "cpu", torch.float32))[0]: yield r
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

unset CDPATH
SELF=${BASH_SOURCE[0]}
while [ -L "$SELF" ]; do                               # a link to this script, wherever it is, means the folder of the script
  case "$(readlink "$SELF")" in /*) SELF=$(readlink "$SELF") ;; *) SELF=$(dirname -- "$SELF")/$(readlink "$SELF") ;; esac
done
case "$SELF" in /*) ;; *) SELF=./$SELF ;; esac
HERE=$(cd -- "$(dirname -- "$SELF")" && pwd); CALLER=$PWD
case "${NANOCHAT_BASE_DIR-}" in ""|/*|"~"*) ;; *) export NANOCHAT_BASE_DIR="$CALLER/$NANOCHAT_BASE_DIR" ;; esac    # what is relative, is so to the caller
case "${PYTHON-}" in /*) ;; */*) PYTHON=$CALLER/$PYTHON ;; esac
cd -- "$HERE"
{ main "$@"; exit; }    # read as one piece: a script that is changed while it runs must not be read on from
