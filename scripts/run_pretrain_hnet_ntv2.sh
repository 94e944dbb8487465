#!/usr/bin/env bash
# Pre-trains HNet-NTv2: checks the options, makes the environment once, then runs `hnet-ntv2 pretrain`.
set -euo pipefail

# One row per option: name | value | kind | what it does. Kinds: flag, text, path, count, number, precision;
# a trailing "?" means that the value may be left out. A test compares this table with the command itself.
options='
--experiment-name | NAME | text | name of the run in logs and W&B (default: hnet_ntv2)
--config-path | YAML | path | your own experiment YAML, from anywhere (default: the hg38 experiment)
--data | FASTA | path | genome: .fa, .fa.gz or .2bit
--intervals | BED | path | chrom start end split; without it the split is by chromosome
--seq-length | L | count | bases per window, up to 131072 (default: 1024)
--output-dir | DIR | path | where the run writes (default: outputs/hnet_ntv2)
--max-steps | N | count | optimiser steps (default: 50000)
--batch-size | N | count | windows per optimiser step over all devices (default: 512)
--learning-rate | LR | number | peak learning rate (default: 6e-4)
--precision | P | precision | 16, bf16 or 32 (default: 16; which one runs is printed)
--devices | N | count | devices per node (default: 1)
--num-nodes | N | count | nodes (default: 1)
--wandb-project | P | text | log to Weights & Biases as well
--wandb-entity | E | text | W&B user or team
--init | DIR | path | start from the weights in this model directory
--resume | PATH | path? | go on from a checkpoint (default: the last one in the output directory)
--demo | | flag | train a tiny model on bundled human DNA; needs no data
--help | | flag | show this and exit
'

usage() {
  printf 'Usage: %s [OPTIONS] [-- HYDRA_OVERRIDE...]\n\n' "${0##*/}"
  printf 'Pre-train HNet-NTv2 on human DNA.\n\nOptions:\n'
  local name value kind text
  while IFS='|' read -r name value kind text; do
    [ -n "$name" ] || continue
    case "$kind" in *\?*) value="[$(trim "$value")]" ;; esac
    printf '  %-26s %s\n' "$(trim "$name") $(trim "$value")" "$(trim "$text")"
  done <<<"$options"
  printf '\nAnything after -- is a Hydra override of the experiment, such as: -- model.n_main_layer=12 data.num_workers=4\n'
}

trim() {
  local text="$1"
  text="${text#"${text%%[![:space:]]*}"}"
  printf '%s' "${text%"${text##*[![:space:]]}"}"
}

reject() {
  printf 'error: %s\n' "$*" >&2
  printf "Run '%s --help' for the options.\n" "${0##*/}" >&2
  exit 2
}

# Prints the kind of an option, or fails.
kind_of() {
  local name value kind text
  while IFS='|' read -r name value kind text; do
    if [ "$(trim "$name")" = "$1" ]; then
      trim "$kind"
      return 0
    fi
  done <<<"$options"
  return 1
}

check_value() {
  local option="$1" kind="$2" value="$3"
  local count='^[1-9][0-9]*$' number='^[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?$'
  case "$kind" in
    count) [[ "$value" =~ $count ]] || reject "$option takes a whole number of at least 1, not '$value'" ;;
    number) [[ "$value" =~ $number ]] || reject "$option takes a positive number, not '$value'" ;;
    precision) case "$value" in 16 | bf16 | 32) ;; *) reject "$option takes 16, bf16 or 32, not '$value'" ;; esac ;;
    *) [ -n "$value" ] || reject "$option needs a value that is not empty" ;;
  esac
}

# Mistakes in the command line are told now, not after an environment of gigabytes was installed.
check_arguments() {
  local option kind
  has_source=no
  while [ $# -gt 0 ]; do
    option="${1%%=*}"
    case "$1" in
      --) shift; check_overrides "$@"; return 0 ;;
      -h) set -- --help "${@:2}"; continue ;;
      -?*) kind="$(kind_of "$option")" || reject "unknown option '$option'" ;;
      *) reject "unexpected argument '$1'; Hydra overrides come after --" ;;
    esac
    case "$option" in
      --help) usage; exit 0 ;;
      --demo | --data | --config-path) has_source=yes ;;
    esac
    if [ "$kind" = flag ]; then
      [ "$1" = "$option" ] || reject "$option takes no value"
    elif [ "$1" != "$option" ]; then
      check_value "$option" "${kind%\?}" "${1#*=}"
    elif [ $# -gt 1 ] && [[ "$2" != -- && "$2" != --* ]]; then
      check_value "$option" "${kind%\?}" "$2"
      shift
    elif [ "${kind%\?}" = "$kind" ]; then
      reject "$option needs a value"
    fi
    shift
  done
}

check_overrides() {
  local override
  for override in "$@"; do
    case "$override" in
      data.fasta=?* | data.bundled=true | data=?* | experiment=?*) has_source=yes ;;
      *=* | '~'*) ;;
      *) reject "after -- come Hydra overrides such as model.n_main_layer=12, not '$override'" ;;
    esac
  done
}

check_arguments "$@"
. "$(dirname -- "${BASH_SOURCE[0]}")/_environment.sh"
if [ "$has_source" = no ]; then
  printf 'error: no genome was given (--data FASTA), and a run without one cannot work.\n\n' >&2
  cat -- "$hnet_root/hnet_ntv2/cli/pretrain_needs.txt" >&2
  exit 2
fi
hnet_prepare run
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
exec "$HNET_PYTHON" -P -m hnet_ntv2.cli.main pretrain "$@"
