# shellcheck shell=bash
# What every egs/*/run.sh shares: options and stages declared once, and handed to the
# engine (python -m speechbrain_ext.stages). Sourced, after `cd` to the recipe's folder
# and with caller_dir (where the user stands) and root (the checkout) set; needs
# bash >= 4.2. A run.sh then
#   1. declares:  about TEXT / option NAME TYPE DEFAULT HELP / stage NUMBER NAME HELP
#   2. parses:    parse "$@"    -> ${opt[NAME]}; arrays of lists, overrides and device
#   3. describes each stage NAME in a function stage_NAME, by the words below "Stages"
#   4. goes:      go
set -euo pipefail
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 402)); then
  printf '%s\n' "run.sh: bash ${BASH_VERSION} is too old; 4.2 or later is needed" >&2
  exit 2
fi
unset CDPATH
: "${caller_dir:?set by run.sh}" "${root:?set by run.sh}"
checkout=$(cd -- "$root" && pwd) # absolute; $root is not, so commands survive a move
started_as=$0
program=${0##*/}

declare -A opt=() given=() option_type=() option_default=() option_help=()
declare -A stage_help=()
option_names=() stage_numbers=() stage_names=()
arguments=() selection=() overrides=() plan=() device=() resume=()
# shellcheck disable=SC2034 # filled by --allow NAME, for the words of the recipe
allow=()
about_text=""
python=""

# --- messages ---------------------------------------------------------------------

log() { # 2026-01-31T12:00:00 (run.sh:87:main) text
  printf '%(%Y-%m-%dT%H:%M:%S)T (%s:%s:%s) %s\n' -1 "${BASH_SOURCE[1]##*/}" \
    "${BASH_LINENO[0]}" "${FUNCNAME[1]}" "$*"
}

fail() { # a mistake of the user: every argument is a line; exit 2
  printf '%s\n' "$program: $1" "${@:2}" "  $started_as --help lists options and stages" >&2
  exit 2
}

# --- declarations -----------------------------------------------------------------

about() { about_text=$1; }

# TYPE: text:X path:X int:X (>= 0) count:X (>= 1) number:X (>= 0) part:X (0 to 1) flag list:X
# choice:a|b|c yaml:X (a name, or a path that ends in .yaml), where X is how help shows
# the value. A list, of yaml too, fills the array of its name, the others ${opt[NAME]}.
option() {
  [[ -n ${option_type[$1]-} ]] || option_names+=("$1")
  option_type[$1]=$2 option_default[$1]=$3 option_help[$1]=$4 opt[$1]=$3
}

stage() {
  stage_numbers+=("$1") stage_names+=("$2") stage_help[$2]=$3
}

common_options() { # those of every recipe; a run.sh may declare one again to change it
  option stage "text:N|NAME" "" "first stage (default: the first)"
  option stop_stage "text:N|NAME" "" "last stage (default: the last)"
  option force flag false "redo finished stages; earlier checkpoints are set aside"
  option force_resume flag false "go on in an experiment that was trained with other settings or data"
  option dry_run flag false "only say which stages would run, why, and their commands"
  option tag text:NAME "" "the experiment; it remembers its corpus (default: <recipe>_<corpus>)"
  option recipe "yaml:TASK/NAME" "" "recipes/TASK/NAME.yaml, a path to a YAML file, or a bundle (.zip)"
  option trust_code text:SHA256 "" "of a bundle: run the scripts that it carries, if they are these"
  option preset list:NAME "" "hparams/presets/NAME.yaml on top of it; repeatable"
  option allow list:NAME "" "let the recipe name this too: my.Net, my.models.*; repeatable"
  option corpus text:NAME "" "where the speech comes from"
  option data_folder path:DIR "" "folder with your recordings, or with the corpus"
  option datadir path:DIR "" "folder of the manifests (default: data/<corpus>)"
  option expdir path:DIR "" "folder of the experiment (default: exp/<tag>)"
  option ngpu int:N "" "GPUs; 0: none, 2 and more: torchrun (default: one if there)"
  option nj count:N "$(nproc 2>/dev/null || echo 1)" "parallel jobs of data preparation"
  option python text:PATH "" "interpreter (default: the active environment, .venv, python3)"
  option help flag false "this text"
}

# --- parsing ----------------------------------------------------------------------

is_given() { [[ -n ${given[$1]-} ]]; }

parse() {
  local argument name value key has_value
  while (($#)); do
    argument=$1
    shift
    case $argument in
      -h) argument=--help ;;
      --[A-Za-z_]*) ;;
      '') fail "an empty argument" ;;
      *) fail "'$argument' is not an option$(stage_hint "$argument")" ;;
    esac
    key=${argument#--} value="" has_value=false
    if [[ $key == *=* ]]; then
      value=${key#*=} key=${key%%=*} has_value=true
    fi
    name=${key//-/_}
    if [[ -z ${option_type[$name]-} ]]; then
      # Not ours: --key=value and a.b.c are the recipe's, which checks them itself.
      if ! $has_value; then
        if (($#)) && [[ $1 != --* ]]; then
          [[ $name == *.* ]] || unknown "$name" "  for a setting of the recipe: --$key=VALUE"
          value=$1 has_value=true
          shift
        fi
      fi
      [[ $name =~ ^[A-Za-z_][A-Za-z0-9_.]*$ ]] || unknown "$name"
      if $has_value; then overrides+=("--$name=$value"); else overrides+=("--$name"); fi
      continue
    fi
    if [[ ${option_type[$name]} == flag ]]; then
      if ! $has_value; then
        value=true
        if [[ ${1-} == true || ${1-} == false ]]; then
          value=$1
          shift
        fi
      fi
    elif ! $has_value; then
      if ! (($#)) || [[ $1 == --* || -z $1 ]]; then fail "--$key needs a value"; fi
      value=$1
      shift
    fi
    set_option "$name" "$value"
  done
  if [[ ${opt[help]} == true ]]; then
    usage
    exit 0
  fi
  if [[ -z ${opt[recipe]-} ]] && ((${#overrides[@]})); then
    name=${overrides[0]%%=*}
    unknown "${name#--}"
  fi
  # shellcheck disable=SC2034 # resume and device are for the stages
  if [[ ${opt[force_resume]-} == true ]]; then resume=(--force_resume); fi
  # shellcheck disable=SC2034
  case ${opt[ngpu]-} in # none: the scripts choose
    '') ;;
    0) device=(--device=cpu) ;;
    *) device=(--device=cuda) ;;
  esac
}

set_option() {
  local name=$1 value=$2 type=${option_type[$1]}
  [[ -n $value ]] || fail "--$name needs a value"
  [[ $value != *$'\n'* ]] || fail "--$name: the value holds a line break"
  case $type in
    flag)
      [[ $value == true || $value == false ]] || fail "--$name is true or false, not '$value'"
      ;;
    int:* | count:*)
      [[ $value =~ ^[0-9]{1,6}$ ]] || fail "--$name needs a whole number, not '$value'"
      value=$((10#$value))
      [[ $type != count:* || $value -ge 1 ]] || fail "--$name must be at least 1"
      ;;
    number:*)
      [[ $value =~ ^[0-9]*\.?[0-9]+$ ]] || fail "--$name needs a number, not '$value'"
      ;;
    part:*)
      [[ $value =~ ^(0*(\.[0-9]+)?|0*1(\.0*)?|0+\.)$ && $value == *[0-9]* ]] ||
        fail "--$name needs a part, from 0 to 1, not '$value'"
      ;;
    choice:*)
      [[ "|${type#choice:}|" == *"|$value|"* ]] ||
        fail "--$name '$value': no such $name$(nearest "$value" "" "${type#choice:}")" \
          "  known: ${type#choice:}"
      ;;
    path:*) value=$(absolute "$value") ;;
    yaml:* | list:*)
      if [[ $value == *.yaml || $value == *.yml || $value == *.zip ]]; then value=$(absolute "$value"); fi
      ;;
  esac
  if [[ $name == python && $value == */* ]]; then value=$(absolute "$value"); fi
  given[$name]=1
  case $type in
    list:*) printf -v "${name}[${#arguments[@]}]" '%s' "$value" ;;
    path:*) opt[$name]=${value#"$PWD"/} ;; # one name for what lies in this folder
    *) opt[$name]=$value ;;
  esac
  case $name in
    stage | stop_stage | force | force_resume) selection+=("--$name=$value") ;;
    dry_run | help) ;;
    *) arguments+=("--$name=$value") ;;
  esac
}

absolute() { # as the user means it: from where they stand, ~ also after '='
  case $1 in
    \~) printf '%s' "$HOME" ;;
    \~/*) printf '%s' "$HOME/${1#\~/}" ;;
    /*) printf '%s' "$1" ;;
    *) printf '%s' "$caller_dir/$1" ;;
  esac
}

unknown() { # an option that nobody declares; further arguments are lines
  fail "unknown option --$1$(nearest "$1" -- "${option_names[*]}")" "${@:2}" \
    "  options: ${option_names[*]/#/--}"
}

nearest() { # "; did you mean ...?" for WORD out of the NAMES; silent without Python
  local words
  find_python quietly || return 0
  IFS=' |' read -r -a words <<<"$3"
  engine suggest "$1" "$2" "${words[@]}" 2>/dev/null || true
}

stage_hint() {
  if [[ -n ${stage_help[$1]-} ]]; then printf '%s' "; did you mean '--stage $1'?"; fi
}

usage() {
  local i name type shown
  printf '%s\n' "$about_text" "" "Usage: $started_as [options] [--key=value ...]" "" "Stages:"
  for i in "${!stage_numbers[@]}"; do
    printf '  %-2s %-10s %s\n' "${stage_numbers[i]}" "${stage_names[i]}" \
      "${stage_help[${stage_names[i]}]}"
  done
  printf '%s\n' "" "Options (dashes and underscores are the same):"
  for name in "${option_names[@]}"; do
    type=${option_type[$name]}
    case $type in
      flag) shown="--$name" ;;
      *) shown="--$name ${type#*:}" ;;
    esac
    if ((${#shown} > 24)); then
      printf '  %s\n' "$shown"
      shown=""
    fi
    printf '  %-24s %s' "$shown" "${option_help[$name]}"
    case ${option_default[$name]} in
      '' | false) printf '\n' ;;
      *) printf ' (default: %s)\n' "${option_default[$name]}" ;;
    esac
  done
  printf '%s\n' "" \
    "Any other --key=value, or --a.b=value, is a setting of the recipe." \
    "Finished stages whose inputs and options are unchanged are skipped." \
    "Exit codes: 0 done, 2 usage or configuration error, 1 a stage failed, 130 interrupted."
}

# --- where things are -------------------------------------------------------------

engine() { PYTHONPATH=$checkout${PYTHONPATH:+:$PYTHONPATH} "$python" -m speechbrain_ext.stages "$@"; }

# The interpreter: --python, else $SPEECHBRAIN_EXT_PYTHON, as they are; else the first
# that has our packages of: the active environment, <checkout>/.venv, python3 on the PATH
# (there `make VENV=DIR` puts its own).
find_python() {
  local candidate wish=${opt[python]-}
  [[ -z $python ]] || return 0
  wish=${wish:-${SPEECHBRAIN_EXT_PYTHON-}}
  if [[ -n $wish ]]; then
    python=$(command -v -- "$wish") && return
    python=""
    [[ -z ${1-} ]] && fail "no such interpreter: $wish"
    return 1
  fi
  for candidate in "${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}" \
    "${CONDA_PREFIX:+$CONDA_PREFIX/bin/python}" "$checkout/.venv/bin/python" python3; do
    python=$(command -v -- "$candidate") || continue
    if engine environment >/dev/null 2>&1; then return 0; fi
  done
  python=""
  [[ -n ${1-} ]] && return 1
  printf '%s\n' "$program: no Python environment with this project's packages" \
    "  looked at: ${VIRTUAL_ENV:+$VIRTUAL_ENV, }$checkout/.venv, python3 on the PATH" \
    "  type: make -C $(printf '%q' "$checkout") setup" \
    "  or name one: --python PATH, or SPEECHBRAIN_EXT_PYTHON=PATH" >&2
  exit 2
}

yaml_names() { # the YAML files of a folder and of its folders, by name
  local file names=()
  for file in "$1"/*.yaml "$1"/*/*.yaml; do
    if [[ -f $file ]]; then
      file=${file#"$1"/}
      names+=("${file%.yaml}")
    fi
  done
  printf '%s' "${names[*]-none}"
}

# A bundle is unpacked once to exp/.bundles/NAME-DIGEST, checked each time; its recipe
# is then used as any other. Nothing of it runs but with --trust_code. A dry run, which
# writes nothing, looks at it elsewhere; `go` tells of it as if it were there.
bundles=exp/.bundles
shadow=""
unpack_bundle() { # FILE -> bundle
  local words=("$1")
  if is_given trust_code; then words+=("--trust_code=${opt[trust_code]}"); fi
  words+=("${allow[@]+"${allow[@]/#/--allow=}"}")
  if [[ ${opt[dry_run]-} == true ]]; then
    shadow=$(mktemp -d)
    trap 'rm -rf -- "$shadow"' EXIT
    bundle=$(unpacked_below "$shadow/bundles" "${words[@]}") || exit $?
    if [[ ! -d $bundles/${bundle##*/} ]]; then return 0; fi
    rm -rf -- "$shadow"
    shadow=""
  fi
  bundle=$(unpacked_below "$bundles" "${words[@]}") || exit $?
}

unpacked_below() { # DIR WORD...: prints the folder in it
  PYTHONPATH=$checkout${PYTHONPATH:+:$PYTHONPATH} "$python" -m speechbrain_ext unpack "--below=$1" "${@:2}"
}

as_if_there() { # FILE: print it, the bundle being where it would be
  local line
  while IFS= read -r line; do printf '%s\n' "${line//"$shadow/bundles"/$bundles}"; done <"$1"
}

# from_bundle EXPDIR: an experiment that was unpacked has its recipe in it, and until it
# is trained again its weights are those of the bundle.
from_bundle() {
  if ! is_given recipe && [[ -f $1/manifest.json && -f $1/recipe.yaml ]]; then
    opt[recipe]=$1/recipe.yaml given[recipe]=1
  fi
}

weights_of() { # EXPDIR: what a stage after training reads
  local kept
  for kept in "$1"/save/CKPT* "$1"/save/averaged/CKPT*; do
    if [[ -e $kept ]]; then break; fi
  done
  if [[ ! -e $kept && -f $1/manifest.json && -f $1/model.safetensors ]] &&
    [[ ${opt[stage]} != @(|0|1|2|data|prepare|train) ]]; then
    printf '%s' "$1/model.safetensors"
  else
    printf '%s' "$1/save"
  fi
}

bundle_of() { # EXPDIR: the file that stage pack makes
  local folder=${1%/}
  printf '%s' "$folder/${folder##*/}.zip"
}

script() { # recipes/TASK/NAME.py: the installed one, or a bundle's that is trusted
  if [[ $trusted == true && -f $bundle/code/$1 ]]; then
    printf '%s' "$bundle/code/$1"
  else
    printf '%s' "$root/$1"
  fi
}

find_recipe() { # --recipe -> recipe_yaml, recipe_name, bundle, trusted
  local wish=${opt[recipe]} known
  bundle="" trusted=false
  if [[ $wish == *.zip ]]; then
    unpack_bundle "$wish"
    if is_given trust_code; then trusted=true; fi
    wish=$bundle/recipe.yaml opt[recipe]=$bundle/recipe.yaml # remembered without the zip
  elif [[ $wish =~ ^exp/\.bundles/[^/]+/recipe\.yaml$ ]]; then
    # Remembered. A folder of another form is no bundle: what an experiment from
    # somebody else remembers must not choose the scripts that run.
    bundle=${wish%/recipe.yaml}
    if [[ $bundle == *-trusted ]]; then trusted=true; fi
  fi
  if [[ -d $(absolute "$wish") && ! -f $root/recipes/$wish.yaml ]]; then
    known=folder/recipe.yaml
    if [[ -f $(absolute "$wish")/hyperparams.yaml ]]; then known=${wish%/}/hyperparams.yaml; fi
    if [[ -f $(absolute "$wish")/recipe.yaml ]]; then known=${wish%/}/recipe.yaml; fi
    fail "--recipe $wish is a folder; a recipe is a file: --recipe $known"
  fi
  case $wish in
    *.yaml | *.yml) recipe_yaml=$wish ;;
    *) recipe_yaml=$root/recipes/$wish.yaml ;;
  esac
  if [[ ! -f $recipe_yaml ]]; then
    known=$(yaml_names "$root/recipes")
    fail "--recipe $wish: no file $recipe_yaml$(nearest "$wish" "" "$known")" "  known: $known"
  fi
  recipe_name=${recipe_yaml##*/}
  recipe_name=${recipe_name%.y*ml}
  if [[ -n $bundle ]]; then
    recipe_name=${bundle##*/} recipe_name=${recipe_name%-trusted} recipe_name=${recipe_name%-*}
  fi
}

find_presets() { # --preset NAME|FILE ... -> presets, as the training scripts take them
  local name file known
  presets=()
  for name in "$@"; do
    case $name in
      *.yaml | *.yml) file=$name ;;
      *) name=${name//-/_} file=$root/hparams/presets/${name//-/_}.yaml ;;
    esac
    if [[ ! -f $file ]]; then
      known=$(yaml_names "$root/hparams/presets")
      fail "--preset $name: no file $file$(nearest "$name" "" "$known")" "  known: $known"
    fi
    presets+=("--preset=$name")
  done
}

check_tag() {
  case $1 in
    . | .. | -* | */*) fail "--tag '$1': it names a folder, without '/' and a leading '-'" ;;
  esac
}

# recall FOLDER NAME...: take these options from the last run of the experiment in
# FOLDER, unless one of them is given now: --tag mine --stage train means mine's corpus.
recall() {
  local folder=$1 line name taken=()
  shift
  for name in "$@"; do
    if is_given "$name"; then return 0; fi
  done
  [[ -r $folder/.stages/settings ]] || return 0
  while IFS= read -r line; do
    for name in "$@"; do
      if [[ $line == "$name="?* ]]; then
        if [[ ${line#*=} != "${opt[$name]}" ]]; then taken+=("--$line"); fi
        opt[$name]=${line#*=} given[$name]=1
      fi
    done
  done <"$folder/.stages/settings"
  if ((${#taken[@]})); then log "as in $folder before: ${taken[*]}"; fi
}

# --- stages -----------------------------------------------------------------------
# What a function stage_NAME says; each may be repeated. See speechbrain_ext.stages.

tell() { plan+=("$1" "$(($# - 1))" "${@:2}"); }
lives_in() { tell home "$1"; }              # the folder its outputs belong to
needs() { tell needs "$@"; }                # inputs, compared by content
watches() { tell watches "$@"; }            # large inputs, compared by name, size, time
needs_recipe() { tell recipe "$@"; }        # RECIPE.yaml, presets, overrides: by value
makes() { tell makes "$@"; }                # outputs
restarts() { tell restarts "$@"; }          # outputs it resumes from, set aside on a redo
extends() { tell extends "$@"; }            # options that go on from the finished state
grows() { tell grows "$@"; }                # the same, of numbers that become larger
runs() {                                    # the command, after the interpreter
  tell where "${BASH_SOURCE[1]##*/}:${BASH_LINENO[0]}:${FUNCNAME[1]}"
  tell launcher "$python"
  tell command "$@"
}
runs_on_gpus() { # the same under torchrun, if --ngpu asks for several
  tell where "${BASH_SOURCE[1]##*/}:${BASH_LINENO[0]}:${FUNCNAME[1]}"
  if [[ ${opt[ngpu]:-0} -gt 1 ]]; then
    tell launcher "$python" -m torch.distributed.run --standalone "--nproc_per_node=${opt[ngpu]}"
  else
    tell launcher "$python"
  fi
  tell command "$@"
}

# go EXPDIR ["NAME..."...]: hand the plan over, with what was told of the whole (check,
# show, look, settle) and, each group in one word, the options to be recalled: a group is
# remembered once its stages succeed with it. exec: signals shall reach the engine itself.
go() {
  local i name group names whole=("${plan[@]+"${plan[@]}"}")
  plan=()
  tell script "$started_as"
  tell experiment "$1"
  for group in "${@:2}"; do
    tell groups "$group"
    read -r -a names <<<"$group"
    for name in "${names[@]}"; do
      if is_given "$name"; then tell settings "$name=${opt[$name]}"; fi
    done
  done
  tell first "${opt[stage]}"
  tell last "${opt[stop_stage]}"
  tell force "${opt[force]}"
  tell dry_run "${opt[dry_run]}"
  tell force_resume "${opt[force_resume]-false}"
  tell given "${arguments[@]+"${arguments[@]}"}" "${overrides[@]+"${overrides[@]}"}"
  tell range "${selection[@]+"${selection[@]}"}"
  tell options "${option_names[@]}"
  for i in "${!stage_numbers[@]}"; do
    tell stage "${stage_numbers[i]}" "${stage_names[i]}" "${stage_help[${stage_names[i]}]}"
    "stage_${stage_names[i]}"
  done
  export PYTHONPATH=$checkout${PYTHONPATH:+:$PYTHONPATH}
  if [[ -n $shadow ]]; then
    local status=0
    "$python" -m speechbrain_ext.stages run "${whole[@]+"${whole[@]}"}" "${plan[@]}" \
      >"$shadow/out" 2>"$shadow/err" || status=$?
    as_if_there "$shadow/out"
    as_if_there "$shadow/err" >&2
    exit "$status"
  fi
  exec "$python" -m speechbrain_ext.stages run "${whole[@]+"${whole[@]}"}" "${plan[@]}"
}
