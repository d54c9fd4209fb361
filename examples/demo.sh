#!/usr/bin/env bash
# Indexes examples/corpus and runs three searches whose words are not the words of the answer. Safe to run again:
# the second run finds nothing changed and goes straight to the searches.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin=${BIN:-.venv/bin}
store=${STORE:-.decant-demo}

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "Indexing examples/corpus into $store (the model is part of the package)"
"$bin/decant" index examples/corpus --store "$store"

ask() { # by meaning (or what else the second argument says), then what the same words find as keywords
  local question=$1 mode=${2:-dense}
  say "decant search \"$question\" --mode $mode"
  "$bin/decant" search "$question" --mode "$mode" --store "$store" -k 2
  printf '\033[2mKeywords alone put first:\033[0m\n'
  "$bin/decant" search "$question" --mode lexical --store "$store" -k 1
}

# examples/README.md says why these three.
ask "how does my body cool down on a hot day"
ask "bring a cluster back after most servers died"
ask "stuck being poor because working more does not pay" hybrid

say "Your own: $bin/decant index FOLDER, then $bin/decant search \"a question\""
