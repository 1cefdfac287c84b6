# Sourced by the other scripts: makes a virtual environment when none is active, and installs what is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -x .venv/bin/python ] || python3 -m venv .venv
    source .venv/bin/activate
fi
# Every process of a launcher gets its share of the cores; more threads would fight for them.
CORES=$(python -c 'import os; print(len(os.sched_getaffinity(0)))')
STAMP="$VIRTUAL_ENV/.uni_sign_$(sha256sum pyproject.toml | cut -c1-16)"
# Looked up, not imported: importing takes seconds at every start, on every machine.
FOUND='from importlib.util import find_spec; exit(not all(map(find_spec, ("uni_sign", "torch", "deepspeed"))))'
if [ ! -e "$STAMP" ] || ! python -c "$FOUND"; then
    # torch first and by itself, so that nothing else chooses its build. What is never imported needs no compiling.
    python -c 'import torch' 2>/dev/null || pip install --quiet --no-compile torch==2.13.0
    pip install --quiet --no-compile --editable '.[test]'
    touch "$STAMP"
fi
# Processes of the Demo runs: two, where there are two GPUs, or no GPU and two cores.
PLACES=$(python -c 'import os, torch; print(torch.cuda.device_count() or len(os.sched_getaffinity(0)))')
PROCESSES=$(( PLACES < 2 ? 1 : 2 ))
