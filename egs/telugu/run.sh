#!/usr/bin/env bash
# From nothing to a scored speech codec. With no option it runs everything on the
# embedded corpus; ./run.sh --help lists stages and options, README.md explains them.
set -euo pipefail
caller_dir=$PWD
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
root=../..
# shellcheck source-path=SCRIPTDIR source=../common.sh
source "$root/egs/common.sh"

about "A neural speech codec, trained and scored (egs/${PWD##*/})."
task=codec # recipes and bundles of others are refused
stage 0 data     "fetch or speak the corpus"
stage 1 prepare  "16 kHz audio, splits and manifests"
stage 2 train    "learn the codec"
stage 3 evaluate "score it on the test files, beside Opus"
stage 4 tokenize "the corpus as tokens of the codec, for a language model"
stage 5 report   "results table, plots, report.html"
stage 6 pack     "one file of recipe and result, to be shared"

common_options
option recipe "yaml:TASK/NAME" codec/transform \
  "recipes/TASK/NAME.yaml, a path to a YAML file, or a bundle (.zip)"
option corpus "choice:espeak|festival|openslr66|commonvoice|folder" espeak \
  "where the speech comes from; folder if only --data_folder is given"
option num_train count:N "" "training utterances (default: 33 if spoken, else what remains)"
option num_valid count:N "" "validation utterances"
option num_test count:N "" "test utterances"
option split_by "choice:auto|speaker|utterance" auto "what is kept apart in the splits"
option split_seed int:N 1 "draws the splits"
option speaker_from_folder flag false "corpus folder: the first sub-folder names the speaker"
option max_rejected part:PART 0.2 "stop if a larger part of the files is unusable"
option codebooks count:N "" "tokens: of the codec's first N codebooks (default: 2)"
option token_kbps number:KBPS "" "tokens: the same by the nominal rate of the codes"
option interleaving "choice:flat|delay|coarse_first" coarse_first "tokens: order of the codes"
option vocab_size count:N "" "tokens: how many there are (default: what suits the valid files)"
option init_from path:CKPT "" "weights to start from: a file, a save/ or an experiment"

preset=()
parse "$@"
log "$0$( (($#)) && printf ' %q' "$@")"
find_python

# An experiment that is named has its recipe and its speech from its last run.
source_names=(corpus data_folder datadir)
token_names=(codebooks token_kbps interleaving vocab_size)
split_names=(num_train num_valid num_test split_by split_seed speaker_from_folder max_rejected)
if is_given expdir; then
  expdir=${opt[expdir]}
elif is_given tag; then
  check_tag "${opt[tag]}"
  expdir=exp/${opt[tag]}
fi
if [[ -n ${expdir-} ]]; then
  recall "$expdir" recipe
  from_bundle "$expdir"
  recall "$expdir" "${source_names[@]}"
  recall "$expdir" "${split_names[@]}"
  recall "$expdir" "${token_names[@]}"
fi
find_recipe                                       # -> recipe_yaml, recipe_name, bundle
if [[ -n $bundle ]]; then recall "$bundle" "${source_names[@]}"; fi
if is_given data_folder && ! is_given corpus; then opt[corpus]=folder; fi
follow_author "${split_names[@]}"
find_presets "${preset[@]+"${preset[@]}"}"        # -> presets
corpus=${opt[corpus]}
tag=${opt[tag]:-${recipe_name}_$corpus}
expdir=${expdir:-exp/$tag}
if ! is_given data_folder; then recall "$expdir" data_folder; fi
data_folder=${opt[data_folder]}
datadir=${opt[datadir]:-data/$([[ $corpus == folder ]] && echo "$tag" || echo "$corpus")}
if [[ -z $data_folder && $corpus == @(folder|openslr66|commonvoice) ]]; then
  fail "--corpus $corpus needs --data_folder DIR: where the recordings lie"
elif [[ -n $data_folder && ! -d $data_folder ]]; then
  fail "--data_folder $data_folder: no such folder"
elif [[ -n $data_folder && $corpus == @(espeak|festival) ]]; then
  fail "--corpus $corpus makes its own speech; for your recordings: --corpus folder"
fi

source_options=("--corpus=$corpus" "--datadir=$datadir")
if [[ -n $data_folder ]]; then source_options+=("--data_folder=$data_folder"); fi
if [[ ${opt[speaker_from_folder]} == true ]]; then source_options+=(--speaker_from_folder); fi
split_options=()
for name in num_train num_valid num_test split_by max_rejected; do
  if is_given "$name"; then split_options+=("--$name=${opt[$name]}"); fi
done
if is_given split_seed; then split_options+=("--seed=${opt[split_seed]}"); fi
token_options=("--interleaving=${opt[interleaving]}")
for name in codebooks token_kbps vocab_size; do
  if is_given "$name"; then token_options+=("--$name=${opt[$name]}"); fi
done
if is_given init_from; then overrides+=("--init_from=${opt[init_from]}"); fi
recipe_words=(
  "$recipe_yaml" "${presets[@]+"${presets[@]}"}" "${allow[@]+"${allow[@]/#/--allow=}"}"
  "--train_manifest=$datadir/train.json"
  "--valid_manifest=$datadir/valid.json"
  "--output_folder=$expdir"
  "${overrides[@]+"${overrides[@]}"}"
)

speech() { # what both stages of data read
  if [[ -n $data_folder ]]; then
    watches "$data_folder"
  else
    needs local/sentences.txt
  fi
}

stage_data() {
  lives_in "$datadir"
  needs local/data.py local/options.py # their defaults, too, decide what is made
  speech
  if [[ -z $data_folder ]]; then makes "$datadir/raw"; fi
  runs local/data.py "${source_options[@]}" "--nj=${opt[nj]}"
}

stage_prepare() {
  lives_in "$datadir"
  needs local/prepare.py local/options.py
  speech
  if [[ -z $data_folder ]]; then needs "$datadir/raw"; fi
  makes "$datadir"/{wav,train.json,valid.json,test.json,rejected.tsv}
  runs local/prepare.py "${source_options[@]}" "${split_options[@]+"${split_options[@]}"}" \
    "--nj=${opt[nj]}"
}

stage_train() {
  lives_in "$expdir"
  needs "$datadir/train.json" "$datadir/valid.json"
  needs_recipe "${recipe_words[@]}"
  makes "$expdir/save" "$expdir/hyperparams.yaml" "$expdir/train_log.txt"
  restarts "$expdir"/{save,hyperparams.yaml,train_log.txt,log.txt,env.json,data.json,resumed.json,debug_nan}
  extends num_workers tensorboard wandb test_interval eval_kbps eval_snr code_steps
  grows number_of_epochs
  runs_on_gpus "$(script recipes/codec/train.py)" "${recipe_words[@]}" \
    "${resume[@]+"${resume[@]}"}" "${device[@]+"${device[@]}"}"
}

stage_evaluate() {
  lives_in "$expdir"
  needs "$(weights_of "$expdir")" "$expdir/hyperparams.yaml" "$datadir/test.json"
  makes "$expdir/results.json" "$expdir/reconstructions"
  runs "$(script recipes/codec/evaluate.py)" "$expdir" "--test_manifest=$datadir/test.json" "--nj=${opt[nj]}" \
    "${device[@]+"${device[@]}"}"
}

stage_tokenize() {
  lives_in "$expdir"
  needs "$(weights_of "$expdir")" "$expdir/hyperparams.yaml" "$datadir"/{train,valid,test}.json
  makes "$expdir/tokens"
  runs "$(script recipes/codec/tokenize.py)" "$expdir" "--data=$datadir" \
    "${token_options[@]}" --skip_without_codes "${device[@]+"${device[@]}"}"
}

stage_report() {
  lives_in "$expdir"
  needs "$expdir/results.json" "$expdir/train_log.txt"
  # Of what was scored and never tokenized a report can be made, too.
  if [[ -d $expdir/tokens || ${opt[stage]} != @(5|6|report|pack) ]]; then needs "$expdir/tokens"; fi
  makes "$expdir/RESULTS.md" "$expdir/summary.txt" "$expdir/plots" "$expdir/report.html"
  runs -m speechbrain_ext report "$expdir" --quiet
}

stage_pack() {
  lives_in "$expdir"
  needs "$expdir"/{results.json,hyperparams.yaml,train_log.txt} "$(weights_of "$expdir")"
  makes "$(bundle_of "$expdir")"
  runs -m speechbrain_ext pack "$expdir" "--output=$(bundle_of "$expdir")"
}

tell task "$task"
tell check "${recipe_words[@]}"
tell show "$expdir/summary.txt"
tell look Report "$expdir/report.html" Plots "$expdir/plots" \
  Reconstructions "$expdir/reconstructions" Tokens "$expdir/tokens/tokens.jsonl" \
  "To share" "$(bundle_of "$expdir")" "To go on" "$expdir/run.sh"
given[recipe]=1 given[corpus]=1
go "$expdir" recipe "${source_names[*]}" "${split_names[*]}" "${token_names[*]}"
