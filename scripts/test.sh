#!/usr/bin/env bash
# Makes the environment where needed, installs the pinned dependencies and runs the tests.
# Arguments go to pytest: ./scripts/test.sh tests/unit -k chunking
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/_environment.sh"

hnet_prepare dev
# Threads that wait must not burn the cores of the others: two test processes share a small machine.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
cd -- "$hnet_root"
exec "$HNET_PYTHON" -m pytest -m "not gpu and not network" -n "${HNET_NTV2_TEST_WORKERS:-2}" --dist worksteal "$@"
