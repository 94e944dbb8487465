# shellcheck shell=bash
# Sourced by the scripts beside it: finds a Python, makes the environment once, leaves its Python in HNET_PYTHON.
#
#   HNET_NTV2_PYTHON  a Python whose environment already holds everything; used as it is, nothing is installed
#   HNET_NTV2_VENV    where the environment is made (default: .venv in the repository)

hnet_root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"

hnet_fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

hnet_say() {
  printf '%s\n' "$*" >&2
}

# Runs a Python and prints "X.Y"; fails when it is not there, does not start, or is not 3.11 to 3.13.
# A name on PATH proves nothing: version managers leave commands there that only print an error.
hnet_supported_version() {
  local version
  version="$("$1" -I -c 'import sys; print(".".join(map(str, sys.version_info[:2])))' 2>/dev/null </dev/null)" || return 1
  case "$version" in 3.11 | 3.12 | 3.13) printf '%s\n' "$version" ;; *) return 1 ;; esac
}

# Prints the first usable Python on PATH. Every occurrence of every name is tried, since the first may be broken.
hnet_find_python() {
  local name candidate version without_venv="" seen=""
  for name in python3.12 python3.13 python3.11 python3 python; do
    while IFS= read -r candidate; do
      seen="$seen $candidate"
      version="$(hnet_supported_version "$candidate")" || continue
      if "$candidate" -I -c 'import venv, ensurepip' >/dev/null 2>&1 </dev/null; then
        printf '%s\n' "$candidate"
        return 0
      fi
      without_venv="$candidate lacks the venv or ensurepip module: install python$version-venv (apt-get install python$version-venv)"
    done < <(type -aP "$name" || true)
  done
  [ -z "$without_venv" ] || hnet_fail "$without_venv"
  hnet_fail "no Python 3.11, 3.12 or 3.13 that runs was found on PATH (tried:${seen:- nothing});" \
    "install one, or name one in HNET_NTV2_PYTHON whose environment has this package"
}

# Checks the Python that the user named: it must run, be supported, and import this very clone.
hnet_check_given_python() {
  local wanted="$1"
  hnet_supported_version "$HNET_NTV2_PYTHON" >/dev/null ||
    hnet_fail "HNET_NTV2_PYTHON=$HNET_NTV2_PYTHON does not run, or is not Python 3.11 to 3.13"
  "$HNET_NTV2_PYTHON" -c 'import importlib.util, pathlib, sys
root, wanted = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2]
sys.path = [entry for entry in sys.path if entry]
spec = importlib.util.find_spec("hnet_ntv2")
place = pathlib.Path(spec.origin).resolve() if spec and spec.origin else None
if place is None or root not in place.parents:
    raise SystemExit(f"error: HNET_NTV2_PYTHON={sys.executable} finds hnet_ntv2 at {place}, not in {root}; run: {sys.executable} -m pip install -e {str(root)!r}")
needed = ["torch", "lightning", "hydra"] + (["pytest", "xdist"] if wanted == "dev" else [])
missing = [name for name in needed if importlib.util.find_spec(name) is None]
if missing:
    raise SystemExit(f"error: HNET_NTV2_PYTHON={sys.executable} lacks {missing}; unset it and the script makes its own environment")
' "$hnet_root" "$wanted" || exit 1
  HNET_PYTHON="$HNET_NTV2_PYTHON"
}

# Succeeds when the environment's Python runs, has pip, and is a supported version.
hnet_venv_works() {
  hnet_supported_version "$1/bin/python" >/dev/null && "$1/bin/python" -I -c 'import pip' >/dev/null 2>&1
}

# Prints "dev HASH" or "run HASH": the extras installed last and what they were installed from.
hnet_wanted_stamp() {
  "$1/bin/python" -I -c 'import hashlib, pathlib, sys
root, extras = pathlib.Path(sys.argv[1]), sys.argv[2]
content = b"".join((root / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
print(extras, hashlib.sha256(content + str(root).encode()).hexdigest())' "$hnet_root" "$2"
}

# Succeeds when the environment works and its stamp says that nothing has to be installed; "dev" includes "run".
hnet_is_ready() {
  local venv="$1" extras="$2" stamp wanted
  [ -f "$venv/hnet_ntv2.stamp" ] || return 1
  stamp="$(cat -- "$venv/hnet_ntv2.stamp")"
  wanted="$(hnet_wanted_stamp "$venv" "$extras" 2>/dev/null)" || return 1
  [ "$stamp" = "$wanted" ] || [ "$stamp" = "dev ${wanted#* }" ]
}

hnet_make_venv() {
  local venv="$1" was_locked_before="$2" python
  if hnet_venv_works "$venv"; then
    return 0
  fi
  if [ -e "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ] && [ "$was_locked_before" = no ] &&
    [ -n "$(ls -A -- "$venv" 2>/dev/null)" ]; then
    hnet_fail "$venv exists and is not a Python environment; set HNET_NTV2_VENV to another place"
  fi
  python="$(hnet_find_python)" || exit 1
  [ ! -e "$venv" ] || hnet_say "repairing the unfinished environment $venv"
  hnet_say "making the environment $venv with $python"
  "$python" -I -m venv --clear "$venv" || hnet_fail "$python could not make the environment $venv"
}

hnet_install() {
  local venv="$1" extras="$2" target="." verbosity="--quiet"
  [ ! -t 2 ] || verbosity="--progress-bar=on"
  # An environment that once served the tests keeps its test tools.
  case "$(cat -- "$venv/hnet_ntv2.stamp" 2>/dev/null || true)" in dev*) extras=dev ;; esac
  [ "$extras" = run ] || target=".[$extras]"
  rm -f -- "$venv/hnet_ntv2.stamp"
  hnet_say "installing the pinned dependencies (minutes the first time; torch is the largest)"
  (cd -- "$hnet_root" && "$venv/bin/python" -m pip install --disable-pip-version-check "$verbosity" \
    -c constraints.txt -e "$target") >&2 ||
    hnet_fail "pip could not install the dependencies into $venv (see its message above); run the script again to go on"
  hnet_wanted_stamp "$venv" "$extras" >"$venv/hnet_ntv2.stamp.tmp"
  mv -f -- "$venv/hnet_ntv2.stamp.tmp" "$venv/hnet_ntv2.stamp"
}

# hnet_prepare run|dev [COMMAND...]: afterwards HNET_PYTHON is a Python with this package and its pinned dependencies.
# COMMAND runs before anything is made or installed, and only then.
hnet_prepare() {
  local extras="$1" venv was_locked_before=no
  shift
  if [ -n "${HNET_NTV2_PYTHON:-}" ]; then
    hnet_check_given_python "$extras"
    return 0
  fi
  venv="${HNET_NTV2_VENV:-$hnet_root/.venv}"
  case "$venv" in /*) ;; *) venv="$PWD/$venv" ;; esac
  HNET_PYTHON="$venv/bin/python"
  if hnet_is_ready "$venv" "$extras"; then
    return 0
  fi
  [ $# -eq 0 ] || "$@"
  mkdir -p -- "$(dirname -- "$venv")" || hnet_fail "cannot write $(dirname -- "$venv"); set HNET_NTV2_VENV to another place"
  [ ! -e "$venv.lock" ] || was_locked_before=yes
  { exec 9>"$venv.lock"; } 2>/dev/null || hnet_fail "cannot write $venv.lock; set HNET_NTV2_VENV to another place"
  if type -P flock >/dev/null; then
    flock --nonblock 9 || { hnet_say "waiting: another process is making $venv"; flock 9; }
  fi
  if ! hnet_is_ready "$venv" "$extras"; then # another process may have finished it meanwhile
    hnet_make_venv "$venv" "$was_locked_before"
    hnet_install "$venv" "$extras"
  fi
  exec 9>&-
}
