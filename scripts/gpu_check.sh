#!/usr/bin/env bash
# Proves Rales on this machine's GPU in at most 8 minutes: parity with the processor, speed beside the public way,
# memory, two processes, a killed run, out of memory. Prints a table and writes gpu_check.json.
#
#     scripts/gpu_check.sh [--out FOLDER] [--device cuda|cpu] [--only PART ...]
#
# A Python with torch is enough: what else is missing is installed if a package index can be reached. Without a GPU the
# same runs in small, so that the check itself is tested.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}"

needed="torch numpy pandas scipy sklearn soundfile safetensors cyclopts tqdm"
if ! "$python" -c "import ${needed// /, }" 2>/dev/null; then
    echo "gpu_check: installing what $("$python" --version) lacks"
    "$python" -m pip install --quiet --disable-pip-version-check -e . || {
        echo "gpu_check: expected a Python with $needed, and no package index could be reached"
        exit 1
    }
fi
exec "$python" benchmarks/gpu_check.py "$@"
