#!/usr/bin/env bash
# From text to chat with one command: `bash speedrun.sh` sets up, then trains, scores and reports a small chat model.
# Run it again and it goes on where it stopped. `bash speedrun.sh help` lists the other doors.
[ -n "${BASH_VERSION-}" ] || exec bash "$0" "$@"      # `sh speedrun.sh`: this is written for bash
set +o posix; set -euo pipefail

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

# ---- the doors; what has to be decided is decided in nanochat/runs.py (appendix A1) -------------------------------------
main() {
  local door=train; case "${1-}" in --help|-h) door=help ;; ""|-*) ;; *) door=$1; shift ;; esac
  case "$door" in
    walk)       [ -n "${FINISHED-}" ] || misuse "unknown door 'walk'"; walk "$@"; return ;;     # the second half of `train`
    help)       find_python; runs help; return ;;
    lab|grade)  find_python ;;
    setup|test) case "$door $*" in "setup --newest") NEWEST=newest ;; "test --long") export NANOCHAT_LONG=yes ;; *) [ $# = 0 ] || misuse "unexpected argument '$1'" ;; esac; find_python ;;
    *)          case " $* " in *" --help "*|*" -h "*) main help; return ;; esac
                find_python; runs check "$door" "$@" ;;                          # a mistake is named before anything is made
  esac
  case "$door" in
    train|plan|preflight|chat|serve|report) set_up; exec "$PY" -m nanochat.runs "$door" "$@" ;;
    runs|clean) runs "$door" "$@" ;;
    setup)      RETRY_CRATE=1; set_up; say "set up: $("$PY" --version), tokenizer trainer: $(trainer)" ;;
    test)       set_up; all_tests ;;
    lab)        set_up; [ "$(id -u)" != 0 ] || set -- --allow-root "$@"; exec "$PY" -m jupyterlab --ServerApp.root_dir="$HERE" --LabApp.default_url=/lab/tree/nbs/index.ipynb "$@" ;;
    grade)      set_up; exec "$PY" exercises/grade.py "$@" ;;
    *)          misuse "unknown door '$door'" ;;                                 # what only this script asks of nanochat.runs
  esac
}

walk() {   # walk RUN FOLDER OPTIONS: the run is found, compared and locked (files 8 and 9 of this shell are its locks)
  local began=$SECONDS
  RUN=$1; RUN_DIR=$2; GIVEN=("${@:3}"); STARTED=""; FORESEEN=""; AT=settings; WORKER=""; STOPPING=""
  trap 'hear INT' INT; trap 'hear TERM' TERM; find_python; trap ending EXIT
  road
  if [ -n "$STARTED" ]; then say "run $RUN is finished: $(clock $((SECONDS-began))) in this start"; else say "run $RUN is finished already"; fi
  say "report: $RUN_DIR/report.md"; say "$NEXT"
}
ending() { local status=$?; [ -z "$FRESH" ] || runs forget "$RUN"; [ $status -le 2 ] || say "stopped${NANOCHAT_LIMIT:+$(runs late)} in step '$AT'; the same command goes on from there"; }   # a start that was refused leaves no empty run behind; only 1 and 2 have said what was wrong

step() {   # step NAME MODULE OPTIONS: run one module of the library, unless its work is there and whole
  local name=$1 module=$2 status=0; AT=$1
  case "$STARTED$FINISHED" in *yes*) ;; *" $name "*) return 0 ;; esac       # until a step has run, what was looked up at the start holds
  runs done "$RUN" "$name" || status=$?; case $status in 0) return 0 ;; 10) ;; *) exit $status ;; esac
  [ -z "$READ_ONLY" ] || die "run $RUN is not finished (step '$name' comes next), and $RUN_DIR can't be written: copy it to a NANOCHAT_BASE_DIR that can"
  [ -n "$STARTED$FRESH" ] || say "run $RUN goes on at step '$name'"
  STARTED=yes
  [ "$name" = settings ] || [ -n "$FORESEEN" ] || { attend "$PY" -m nanochat.scaling --estimate --run "$RUN" >&2; FORESEEN=yes; }
  say "== $name =="
  attend "$PY" -m ${LAUNCH-} "nanochat.$module" "${@:3}" --run "$RUN"
  export NANOCHAT_TOLD=yes                                                      # what this step has said of a folder is not said again
}
attend() {   # run a command, and pass SIGTERM on to it: `docker stop` and Slurm send it to this shell alone, which can hear it only in `wait`
  local status=0; HEARD=""
  (trap : INT QUIT; trap - INT QUIT; exec "$@") <&0 8<&- 9>&- & WORKER=$!       # Ctrl-C is for it as well; the locks are this shell's alone
  [ -z "$STOPPING" ] || kill -TERM "$WORKER" || :; wait "$WORKER" || status=$?
  while [ -n "$HEARD" ] && kill -0 "$WORKER" 2>/dev/null; do HEARD=""; status=0; wait "$WORKER" || status=$?; done
  WORKER=""; case "$STOPPING$status" in yes0|yes143) status=75 ;; esac; [ $status = 0 ] || exit $status    # told to stop, with nothing to save
}
hear() { HEARD=yes; [ "$1" = INT ] || { STOPPING=yes; [ -z "$WORKER" ] || kill -TERM "$WORKER" 2>/dev/null || :; }; }

# ---- tests: every part runs, so that one failure does not hide another; the last line says how it went ------------------
all_tests() {
  local began=$SECONDS; FAILED=""; PASSED=""
  export OMP_NUM_THREADS; OMP_NUM_THREADS=$("$PY" -c 'import os; print(max(1, (os.cpu_count() or 2)//2))')    # two at a time share the cores
  part house     "$PY" -m pytest -q tests/test_house.py
  part notebooks "$BIN/nbdev_test" --path nbs --n_workers 2 --timing
  part lectures  "$BIN/nbdev_test" --path lectures --n_workers 2 --timing
  part pytest    "$PY" tests/two_at_once.py
  if command -v cargo >/dev/null 2>&1; then part crate cargo test --quiet --locked --manifest-path rustbpe/Cargo.toml
  else case ",${NANOCHAT_REQUIRE-}," in
    *,crate,*) say "crate: NANOCHAT_REQUIRE asks for it, and there is no cargo on PATH"; FAILED="$FAILED crate" ;;
    *)         PASSED="$PASSED, crate skipped (no cargo on PATH)" ;;
  esac; fi
  [ -z "$FAILED" ] || { say "TESTS FAILED:$FAILED ($(clock $((SECONDS-began))))"; exit 1; }
  say "all tests passed in $(clock $((SECONDS-began))):${PASSED#,}"
}

part() {   # part NAME COMMAND
  local name=$1 t0=$SECONDS; shift; say "== $name =="
  if "$@"; then PASSED="$PASSED, $name $(clock $((SECONDS-t0)))"; else FAILED="$FAILED $name"; fi
}

# ---- set-up: the environment in .venv, made once; again only where what decides it has changed --------------------------
set_up() {   # installs requirements.lock or, where NEWEST is set, the newest that settings.ini allows; that choice holds until the next `setup`
  [ -z "${NANOCHAT_SKIP_SETUP-}" ] || { BIN=$(dirname "$PY"); return 0; }
  local want have venv=$HERE/.venv/bin; have=$(cat .venv/.nanochat-stamp 2>/dev/null || true)
  [ -n "${RETRY_CRATE-}" ] || case "$have" in *newest) NEWEST=newest ;; esac; want="$(runs stamp) ${NEWEST:-locked}"
  if [ "$PY" = "$venv/python" ] && [ "$have" = "$want" ] && [ -z "${RETRY_CRATE:+$NEWEST}" ] && ! crate_came; then BIN=$venv; return 0; fi
  if [ "$PY" != "$venv/python" ]; then                  # none yet, or one that no longer starts
    say "set-up: making .venv with $("$PY" --version)"; rm -rf .venv
    "$PY" -m venv .venv >&2 || { rm -rf .venv; die "python's venv module can't make .venv here (on Debian and Ubuntu: install python3-venv), then run the same command again"; }
  fi
  PY=$venv/python; BIN=$venv; rm -f .venv/.nanochat-stamp; [ -z "$NEWEST" ] || echo newest > .venv/.nanochat-stamp
  say "set-up: installing ${NEWEST:+the newest packages that settings.ini allows, whatever is in }requirements.lock; free disk here: $(runs free "$HERE")"
  command -v cargo >/dev/null 2>&1 || say "set-up: no cargo on PATH, so the Rust crate is left out and tokenizers are trained in Python"
  packages >&2 || die "pip could not install the packages (its own message is above); mend that and run the same command again, or go without the lock: bash speedrun.sh setup --newest"
  printf '%s\n' "$want" > .venv/.nanochat-stamp
}

find_python() {   # .venv's Python where there is one, else $PYTHON, else the first on PATH that is new enough
  local p; if [ -z "${NANOCHAT_SKIP_SETUP-}" ] && .venv/bin/python -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("pip"))' 2>/dev/null; then PY=$HERE/.venv/bin/python
  elif [ -n "${PYTHON-}" ]; then PY=$(command -v "$PYTHON") || die "PYTHON is '$PYTHON', and there is no such program"
  else for p in python3 python3.14 python3.13 python3.12 python3.11; do good_python "$p" && PY=$(command -v "$p") && break; done
    [ -n "${PY-}" ] || die "no Python from 3.11 to 3.14 on PATH: install one, or name it with PYTHON=/path/to/python"
  fi
  good_python "$PY" || die "$PY is $("$PY" --version 2>&1 || true): Python 3.11 to 3.14 is needed; name another with PYTHON=/path/to/python (and remove .venv if it was made by this one)"
}
good_python() { "$1" -c 'import sys; sys.exit(not (3,11) <= sys.version_info < (3,15))' 2>/dev/null; }

trainer()    { if "$PY" -c 'from nanochat import rustbpe' 2>/dev/null; then echo "the Rust crate"; else echo "Python (chapter 01), a few times slower than the Rust crate, which was not built"; fi; }
packages()   { if [ -f requirements.lock ] && [ -z "$NEWEST" ]; then "$PY" .ci/packages.py install; else "$PY" -m pip install -e '.[dev]' ${NEWEST:+--upgrade --upgrade-strategy eager}; fi; }
crate_came() { [ -n "${RETRY_CRATE-}" ] && command -v cargo >/dev/null 2>&1 && ! "$PY" -c 'from nanochat import rustbpe' 2>/dev/null; }   # cargo was installed since
runs()       { "$PY" -m nanochat.runs "$@"; }
say()        { printf '%s\n' "$*" >&2; }
die()        { say "error: $*"; exit 1; }
misuse()     { say "error: $*; \`bash speedrun.sh help\` lists doors and options"; exit 2; }
clock()      { printf '%d:%02d' $(($1/60)) $(($1%60)); }

unset CDPATH; NEWEST=""; HERE=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)      # a link to this script means the folder of the script
export NANOCHAT_CALLER=$PWD; case "${NANOCHAT_BASE_DIR-}" in ""|/*|"~"*) ;; *) export NANOCHAT_BASE_DIR="$PWD/$NANOCHAT_BASE_DIR" ;; esac    # what is relative, is so to the caller
case "${PYTHON-}" in /*) ;; */*) PYTHON=$PWD/$PYTHON ;; esac
cd -- "$HERE"
{ main "$@"; exit; }    # read as one piece: a script that is changed while it runs must not be read on from
