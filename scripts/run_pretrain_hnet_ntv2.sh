#!/usr/bin/env bash
# Pre-trains HNet-NTv2: makes the environment once, then runs `hnet-ntv2 pretrain` with the same arguments.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/_environment.sh"

# Runs only where the environment has to be made, with any Python: a misspelled option must not cost gigabytes.
check_options() {
  local python status=0
  python="$(hnet_find_python)" || exit 1
  "$python" -I "$hnet_root/hnet_ntv2/cli/pretrain_options.py" "$@" || status=$?
  [ "$status" -ne 10 ] || exit 0 # the help was shown
  [ "$status" -eq 0 ] || exit "$status"
}

hnet_prepare run check_options "$@"
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
exec "$HNET_PYTHON" -P -m hnet_ntv2.cli.main pretrain "$@"
