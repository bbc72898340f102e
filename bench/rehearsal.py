"""How long the rehearsal of the full road takes, step by step.

    python bench/rehearsal.py                  the road of eight processes
    python bench/rehearsal.py --tier gpu       that of one

The typed command runs on an empty base folder, in an environment that `bash speedrun.sh setup` has made, and
each step lasts from its line `== name ==` to the next one's. Goal: under eight minutes on two quiet cores.
"""

import argparse, json, os, re, subprocess, sys, tempfile, time
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
OUT = here / "bench" / "results" / "rehearsal.json"
GOAL_MINUTES = 8
HEADING = re.compile(r"== (\w+) ==$")


def timed(command, heard=lambda line: None, **env):
    "Run a command, pass its words on, and time what follows each of its headings `== name ==`"
    began, steps, names = time.monotonic(), {}, ["before"]
    around = {**os.environ, **env}
    process = subprocess.Popen(
        command, cwd=here, env=around, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    since = began
    for line in process.stdout:
        print(line, end="", flush=True)
        heard(line.rstrip("\n"))
        if heading := HEADING.match(line):
            steps[names[-1]], since = round(time.monotonic() - since, 1), time.monotonic()
            names.append(heading[1])
    status = process.wait()
    steps[names[-1]] = round(time.monotonic() - since, 1)
    return dict(status=status, seconds=round(time.monotonic() - began, 1), steps=steps)


def main():
    from nanochat.runs import atomic_write
    from nanochat.runtime import provenance

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tier", choices=("full", "gpu"), default="full")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    command, load = ["bash", "speedrun.sh", "--tier", args.tier, "--rehearse"], os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="nanochat-bench-") as base:
        found = timed(command, NANOCHAT_BASE_DIR=base)
    if found.pop("status"):
        sys.exit("error: the rehearsal did not end well; nothing is kept")
    result = dict(command=" ".join(command), **found, load_before=load, versions=provenance())
    atomic_write(args.out, json.dumps(result, indent=1) + "\n")
    minutes = found["seconds"] / 60
    print(f"{minutes:.1f} minutes in all, kept in {args.out}")
    if minutes >= GOAL_MINUTES:
        sys.exit(f"goal missed: under {GOAL_MINUTES} minutes")


if __name__ == "__main__":
    main()
