#!/usr/bin/env bash
# Turn ten minutes on a GPU into evidence: the GPU tests, then the runs of experiment=gpu_suite, the best evidence first.
set -uo pipefail

readonly TESTS_S=90    # the GPU tests are ended after this
readonly SLICE_S=475   # one slice, tests and installation included
readonly TINY_MINUTES=4  # estimates of the runs that --tiny makes: the first three

usage() {
    cat <<'END'
Usage: scripts/gpu_evidence.sh [OPTION ...] [-- OVERRIDE ...]

Runs the GPU tests, then the runs of experiment=gpu_suite, and leaves at most six files, each under 16 MiB. Nothing is
downloaded: the weights are seeded and LPIPS is left out, unless overrides after -- say otherwise.

  --slice N         one slice of the suite, under 8 minutes; without it all slices, 41 minutes
  --tiny            the first runs (with --slice those of the slice) as small as can be, also without a GPU
  --resume FOLDER   the files of an earlier call: runs that have a result there are not made again; else all are
  --wheels FOLDER   wheels for packages that python lacks (make gpu-wheels); by default wheels/, where it exists
  --out FOLDER      where the files go; by default $OUT, else evidence/
  -h, --help        this text

PYTHON names the interpreter; by default .venv/bin/python, where it exists, else python3. PROPAINTER_BENCH_COMMIT names
the commit of a copy without .git. Exit code: 0; 1 where a test or a run failed, or nothing could be run; 2 for a wrong
option or variable; 130 where it was interrupted.
END
}

fail() {
    echo "$2" >&2
    exit "$1"
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
slice='' tiny='' resume='' wheels='' out=${OUT:-evidence}
extra=(quality.lpips=false)
while (($#)); do
    case $1 in
        --tiny) tiny=yes ;;
        --slice | --resume | --wheels | --out)
            [[ -n ${2-} ]] || fail 2 "$1 needs a value; see scripts/gpu_evidence.sh --help"
            declare "${1#--}=$2"
            shift
            ;;
        -h | --help) usage && exit ;;
        --)
            shift
            extra+=("$@")
            break
            ;;
        *) fail 2 "$1 is no option; see scripts/gpu_evidence.sh --help (overrides of the runs come after --)" ;;
    esac
    shift
done
[[ -z $slice || $slice =~ ^[1-9][0-9]*$ ]] || fail 2 "--slice is $slice; give a number from 1"
for item in ${extra[@]+"${extra[@]}"}; do
    [[ $item == ?*=* ]] || fail 2 "$item is no override; after -- give GROUP=OPTION or KEY=VALUE"
done
[[ -z $resume || -f $resume/records.tar ]] || fail 2 "$resume has no records.tar; --resume takes the files of an earlier call"
if [[ -n $wheels ]]; then
    compgen -G "$wheels/*.whl" >/dev/null || fail 2 "$wheels has no wheels; fill it with make gpu-wheels, or leave out --wheels"
elif compgen -G "$root/wheels/*.whl" >/dev/null; then
    wheels=$root/wheels
fi
[[ ! -f $out/records.tar || $out/records.tar -ef $resume/records.tar ]] ||
    fail 2 "$out has the records of an earlier call; go on from them with --resume, or give another folder with --out"
commit=${PROPAINTER_BENCH_COMMIT:-}
[[ -z $commit || $commit =~ ^[0-9a-f]{7,40}(-dirty)?$ ]] ||
    fail 2 "PROPAINTER_BENCH_COMMIT is $commit; give the 7 to 40 hex digits of a commit, or leave it unset"
python=${PYTHON:-}
[[ -n $python ]] || { [[ -x $root/.venv/bin/python ]] && python=$root/.venv/bin/python; } || python=python3

# What torch sees: 0 with a GPU, 10 without.
machine=$(
    "$python" - <<'END' 2>&1
import platform, sys, torch
sees = torch.cuda.is_available()
names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())] if sees else []
print(f"{sys.executable}: Python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
print("GPU:", ", ".join(names) or "none that torch sees")
sys.exit(0 if names else 10)
END
)
case $? in
    0) ;;
    10) [[ -n $tiny ]] || fail 1 "torch sees no CUDA device here; without one only --tiny runs (${machine%%$'\n'*})" ;;
    *) fail 1 "$python has no torch that can be imported (${machine##*$'\n'}); name another interpreter with PYTHON=..." ;;
esac

{ mkdir -p "$out" && out=$(cd "$out" && pwd) && : >"$out/log.txt"; } || fail 1 "$out can't be written; give another folder with --out"
for given in resume wheels; do # as typed, they are relative to the caller's folder
    [[ -z ${!given} ]] || declare "$given=$(cd "${!given}" && pwd)"
done
cd "$root" || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
exec > >(exec tee -ia "$out/log.txt") 2>&1
set -m # each job in a process group of its own, which can be ended whole

job=''
run() { # run a command that a signal to this script ends at once
    "$@" </dev/null &
    job=$!
    wait "$job"
    local code=$?
    job=''
    return "$code"
}

interrupted() {
    trap '' INT TERM
    echo "interrupted; what is done so far is in $out"
    [[ -z $job ]] || { kill -TERM "$job" 2>/dev/null && wait "$job"; }
    exit 130
}
trap interrupted INT TERM

install_wheels() {
    if "$python" -m pip --version &>/dev/null; then
        run "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --target "$work/packages" \
            "$wheels"/*.whl
        return
    fi
    local wheel # an environment of uv has no pip; a wheel is a zip of what belongs on the path
    for wheel in "$wheels"/*.whl; do
        run "$python" -m zipfile -e "$wheel" "$work/packages" || return
    done
}

gpu_state() {
    command -v nvidia-smi >/dev/null || { echo "no nvidia-smi here" && return; }
    echo "== $1"
    [[ $1 == after ]] || timeout 20 nvidia-smi -q
    timeout 20 nvidia-smi --format=csv \
        --query-gpu=timestamp,name,driver_version,pstate,temperature.gpu,power.draw,clocks.sm,clocks.mem,memory.used
}

echo "== machine"
echo "$machine"
uname -srm
gpu_state before >"$out/nvidia-smi.txt" 2>&1
if [[ -n $wheels ]]; then
    install_wheels || fail 1 "the wheels in $wheels could not be installed for $python; make them anew with make gpu-wheels"
    export PYTHONPATH=$work/packages${PYTHONPATH:+:$PYTHONPATH}
    echo "$(find "$wheels" -name '*.whl' | wc -l) wheels from $wheels, after $SECONDS s"
fi
# Triton compiles by a C compiler with Python's headers, into a folder that has to be writable.
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$work/triton} TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$work/inductor}
compiler=$(command -v "${CC:-cc}" || command -v gcc || command -v clang)
headers=$("$python" -c 'import os, sysconfig; print(os.path.join(sysconfig.get_paths()["include"], "Python.h"))')
if [[ -n $compiler && -f $headers ]]; then
    echo "C compiler for Triton: $compiler, with Python.h"
else
    echo "NO TRITON: it needs a C compiler (found: ${compiler:-none}) and $headers; torch's operations will take its place"
fi
"$python" - <<'END' || exit 1
import importlib.metadata as installed, re
from pathlib import Path
listed = Path("pyproject.toml").read_text().split("\ndependencies = [")[1].split("]")[0]
unused = Path("scripts/gpu_not_needed.txt").read_text().split("\n")
lacking = []
try:
    from packaging.requirements import Requirement
except ImportError:
    lacking.append("packaging")
for text in [] if lacking else [*re.findall('"(.+)"', listed), "pytest"]:
    needed = Requirement(text)
    if needed.name in unused:
        continue
    try:
        version = installed.version(needed.name)
        lacking += [] if needed.specifier.contains(version, prereleases=True) else [f"{needed} (it has {version})"]
    except installed.PackageNotFoundError:
        lacking.append(text)
if lacking:
    raise SystemExit(f"python lacks {', '.join(lacking)}; bring wheels (make gpu-wheels, --wheels FOLDER), or make setup")
END

echo "== tests"
tests=5 # pytest's code for none
if [[ -d tests/gpu ]]; then
    run timeout --signal=INT --kill-after=10 "$TESTS_S" \
        "$python" -m pytest tests/gpu -v -ra --durations=15 -p no:cacheprovider --junitxml "$out/tests.xml"
    tests=$?
fi
case $tests in
    0) verdict='passed, or skipped without a GPU' ;;
    5) verdict='there are none here' tests=0 ;;
    124 | 137) verdict="ended after $TESTS_S s, before all were done" ;;
    *) verdict="failed, with exit code $tests" ;;
esac
verdict="tests: $verdict, after $SECONDS s"
echo "$verdict"

echo "== suite"
folder=suites/gpu_suite${tiny:+_tiny}_$(date +%Y-%m-%d_%H-%M-%S) # new: only --resume brings results
if [[ -n $resume ]]; then
    for tar in "$resume"/records.tar "$resume"/previews.tar; do
        [[ -f $tar ]] || continue
        { mkdir -p "$folder" && tar -xf "$tar" -C "$folder"; } ||
            fail 1 "$tar can't be unpacked into $folder; give the files of an earlier call, undamaged"
    done
    [[ ! -f $resume/trace.json.gz || -f $out/trace.json.gz ]] || cp "$resume/trace.json.gz" "$out"
fi
quoted=()
for item in "${extra[@]}"; do
    item=${item//\\/\\\\}
    quoted+=("\"${item//\"/\\\"}\"")
done
settings=(weights=seeded report=false "hydra.run.dir=$folder" "suite.packed='${out//\'/\\\'}'" "suite.extra=[$(IFS=, && echo "${quoted[*]}")]")
[[ -z $slice ]] || settings+=("suite.slice=$slice")
[[ -z $tiny ]] || settings+=(suite.tiny=true)
[[ -z $tiny || -n $slice ]] || settings+=("suite.minutes=$TINY_MINUTES")
limit=()
[[ -z $slice ]] || limit=(timeout --kill-after=15 "$((SLICE_S - SECONDS))")
suite=0
run ${limit[@]+"${limit[@]}"} "$python" -u run.py experiment=gpu_suite "${settings[@]}" || suite=$?

gpu_state after >>"$out/nvidia-smi.txt" 2>&1
echo "== summary, after $SECONDS s"
echo "$verdict"
if ((suite == 0)); then echo "suite: every run that was made has a result"; else echo "suite: a run failed or was ended (exit code $suite)"; fi
(cd "$out" && du -k -- *)
((tests == 0 && suite == 0))
