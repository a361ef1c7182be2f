#!/usr/bin/env bash
# From nothing to a DET curve of a speaker verifier. With no option it runs everything
# on the voices that this machine can get; ./run.sh --help lists stages and options,
# README.md explains them.
set -euo pipefail
caller_dir=$PWD
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
root=../..
# shellcheck source-path=SCRIPTDIR source=../common.sh
source "$root/egs/common.sh"

about "Speaker verification, trained and scored (egs/${PWD##*/})."
task=speaker # recipes and bundles of others are refused
stage 0 data     "fetch, find or speak the corpus"
stage 1 prepare  "16 kHz speech, train and test speakers, trial lists"
stage 2 train    "learn speaker embeddings"
stage 3 embed    "embed each test and cohort utterance once"
stage 4 score    "score the trials of unseen speakers"
stage 5 report   "results table, DET curve, report.html"
stage 6 pack     "one file of recipe and result, to be shared"

common_options
option recipe "yaml:TASK/NAME" speaker/ecapa_mini \
  "recipes/TASK/NAME.yaml, a path to a YAML file, or a bundle (.zip)"
option corpus "choice:auto|debian|voxceleb1|folder|espeak" auto \
  "auto: debian where its packages can be fetched, else espeak; folder if only --data_folder is given"
option num_test count:N "" "test speakers (default: 22 of debian, else about a third)"
option num_train count:N "" "train speakers (default: all others)"
option split_seed int:N 1 "draws train and test speakers"
option inner_split count:N "" "for tuning: without the test speakers of the split; draws others of its train speakers"
option num_speakers int:N "" "voxceleb1: train speakers drawn, 0 is all; espeak: voices"
option subset_seed int:N "" "voxceleb1: draws its train speakers"
option max_files_per_speaker int:N "" "debian, voxceleb1: files drawn of each speaker; 0 is all"
option chunk_seconds number:S "" "join shorter train utterances to such pieces, too (default: 0, not)"
option max_rejected part:PART 0.2 "stop if a larger part of the files is unusable"
option vad "choice:silero|none" "" "what cuts silence off (default: silero; voxceleb1: none)"
option noise_folder path:DIR "" "noises to train with, such as MUSAN (needs --noise_prob)"
option rir_folder path:DIR "" "impulse responses to train with (needs --reverb_prob)"
option init_from path:CKPT "" "encoder to start from: a file, a save/ or an experiment"
option backend "choice:auto|folds|cosine|center|wccn|as_norm|wccn+as_norm" auto \
  "what compares embeddings; auto: wccn+as_norm if it can be learned; folds: best on folds of train speakers"
option calibrate flag false "scores become log-likelihood ratios"
option nan_trials "choice:count|filter|raise" count "a trial without score: an error, left out, or the end"
option max_nan_trials int:N 0 "more trials without score than this: exit 1"

preset=()
parse "$@"
log "$0$( (($#)) && printf ' %q' "$@")"
find_python

# An experiment that is named has its recipe and its voices from its last run.
source_names=(corpus data_folder datadir num_speakers subset_seed max_files_per_speaker)
split_names=(split_seed inner_split num_test num_train chunk_seconds max_rejected vad)
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
fi
find_recipe                                       # -> recipe_yaml, recipe_name, bundle
if [[ -n $bundle ]]; then recall "$bundle" "${source_names[@]}"; fi
if is_given data_folder && ! is_given corpus; then opt[corpus]=folder; fi
follow_author "${split_names[@]}"

# auto is settled once, in data/corpus, so that all runs speak of the same voices;
# --corpus auto asks again. A dry run writes nothing and tries no network.
choose_corpus() {
  local choice=""
  if ! is_given corpus && [[ -r data/corpus ]]; then
    choice=$(<data/corpus)
  elif [[ ${opt[dry_run]} == true ]]; then
    choice=espeak
    if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then choice=debian; fi
    log "--corpus auto: $choice, unless its packages cannot be fetched"
  else
    choice=$(PYTHONPATH=$checkout${PYTHONPATH:+:$PYTHONPATH} "$python" local/data.py --which)
    tell settle data/corpus "$choice" # written when a stage has succeeded with it
  fi
  [[ $choice == @(debian|espeak) ]] || fail "data/corpus: no corpus '$choice'; remove that file"
  opt[corpus]=$choice
}
if [[ ${opt[corpus]} == auto ]]; then choose_corpus; fi

find_presets "${preset[@]+"${preset[@]}"}"        # -> presets
corpus=${opt[corpus]}
split=split${opt[split_seed]}
if is_given inner_split; then split+=_inner${opt[inner_split]}; fi
tag=${opt[tag]:-${recipe_name}_$corpus}
if ! is_given tag && [[ $split != split1 ]]; then tag+=_$split; fi
expdir=${expdir:-exp/$tag}
if ! is_given data_folder; then recall "$expdir" data_folder; fi
data_folder=${opt[data_folder]}
datadir=${opt[datadir]:-data/$([[ $corpus == folder ]] && echo "${opt[tag]:-folder}" || echo "$corpus")}
splitdir=$datadir/$split
if [[ -z $data_folder && $corpus == @(folder|voxceleb1) ]]; then
  fail "--corpus $corpus needs --data_folder DIR: where the recordings lie"
elif [[ -n $data_folder && ! -d $data_folder ]]; then
  fail "--data_folder $data_folder: no such folder"
elif [[ -n $data_folder && $corpus == espeak ]]; then
  fail "--corpus $corpus makes its own speech; for your recordings: --corpus folder"
fi
for name in noise_folder rir_folder; do
  if is_given "$name" && [[ ! -d ${opt[$name]} ]]; then fail "--$name ${opt[$name]}: no such folder"; fi
done

given_of() { # those of the options NAMES that are given, as --name=value
  local name
  for name in "$@"; do
    if is_given "$name"; then words+=("--$name=${opt[$name]}"); fi
  done
}

words=("--corpus=$corpus" "--datadir=$datadir")
if [[ -n $data_folder ]]; then words+=("--data_folder=$data_folder"); fi
given_of num_speakers subset_seed max_files_per_speaker
source_options=("${words[@]}")
words=("--split_seed=${opt[split_seed]}")
given_of inner_split num_test num_train chunk_seconds max_rejected vad
split_options=("${words[@]}")
words=()
given_of noise_folder rir_folder init_from
recipe_words=(
  "$recipe_yaml" "${presets[@]+"${presets[@]}"}" "${allow[@]+"${allow[@]/#/--allow=}"}"
  "--train_manifest=$splitdir/train.json"
  "--valid_manifest=$splitdir/valid.json"
  "--output_folder=$expdir"
  "${words[@]+"${words[@]}"}" "${overrides[@]+"${overrides[@]}"}"
)
embed_options=()
if ((opt[max_nan_trials])); then embed_options+=(--allow_nonfinite); fi
score_options=(
  "--backend=${opt[backend]}" "--nan_trials=${opt[nan_trials]}"
  "--max_nan_trials=${opt[max_nan_trials]}"
)
if [[ ${opt[calibrate]} == true ]]; then score_options+=(--calibrate); fi

speech() { # what both stages of data read
  if [[ -n $data_folder ]]; then
    watches "$data_folder"
  elif [[ $corpus == espeak ]]; then
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
  lives_in "$datadir/.prepare/$split" # each split is a stage of its own
  needs local/prepare.py local/options.py
  speech
  if [[ -z $data_folder ]]; then needs "$datadir/raw"; fi
  makes "$datadir"/{wav,utterances.json,speakers.tsv,rejected.tsv} "$splitdir"
  runs local/prepare.py "${source_options[@]}" "${split_options[@]}" "--nj=${opt[nj]}"
}

stage_train() {
  lives_in "$expdir"
  needs "$splitdir/train.json" "$splitdir/valid.json"
  needs_recipe "${recipe_words[@]}"
  makes "$expdir/save" "$expdir/hyperparams.yaml" "$expdir/train_log.txt"
  restarts "$expdir"/{save,hyperparams.yaml,train_log.txt,log.txt,env.json,data.json,resumed.json,debug_nan,speakers.json}
  extends num_workers tensorboard wandb test_interval
  grows number_of_epochs
  runs_on_gpus "$(script recipes/speaker/train.py)" "${recipe_words[@]}" \
    "${resume[@]+"${resume[@]}"}" "${device[@]+"${device[@]}"}"
}

stage_embed() {
  lives_in "$expdir"
  needs "$(weights_of "$expdir")" "$expdir/hyperparams.yaml" "$splitdir/test.json" "$splitdir/cohort.json"
  makes "$expdir/embeddings"
  runs "$(script recipes/speaker/embed.py)" "$expdir" "--data=$splitdir" \
    "${embed_options[@]+"${embed_options[@]}"}" "${device[@]+"${device[@]}"}"
}

stage_score() {
  lives_in "$expdir"
  needs "$expdir/embeddings" "$splitdir/trials" "$splitdir/test.json" "$splitdir/cohort.json"
  makes "$expdir/results.json" "$expdir/scores"
  runs "$(script recipes/speaker/score.py)" "$expdir" "--data=$splitdir" "${score_options[@]}"
}

stage_report() {
  lives_in "$expdir"
  needs "$expdir/results.json" "$expdir/train_log.txt"
  makes "$expdir/RESULTS.md" "$expdir/summary.txt" "$expdir/plots" "$expdir/report.html"
  runs -m speechbrain_ext report "$expdir" --quiet
}

stage_pack() {
  lives_in "$expdir"
  needs "$expdir"/{results.json,hyperparams.yaml,train_log.txt} "$(weights_of "$expdir")" "$expdir/scores"
  makes "$(bundle_of "$expdir")"
  runs -m speechbrain_ext pack "$expdir" "--output=$(bundle_of "$expdir")"
}

tell task "$task"
tell check "${recipe_words[@]}"
tell show "$expdir/summary.txt"
tell look Report "$expdir/report.html" Plots "$expdir/plots" Scores "$expdir/scores" \
  "Left out" "$datadir/rejected.tsv" Speakers "$datadir/speakers.tsv" \
  "To share" "$(bundle_of "$expdir")" "To go on" "$expdir/run.sh"
given[recipe]=1 given[corpus]=1 given[split_seed]=1
go "$expdir" recipe "${source_names[*]}" "${split_names[*]}"
