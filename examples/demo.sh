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

ask() {
  say "decant search \"$1\""
  "$bin/decant" search "$1" --store "$store" -k "${2:-2}"
}

ask "scale an app down when nobody is using it"
ask "why do I forget what I have learned"
ask "bring a cluster back after most servers died"

say "Words alone find other things: decant search --mode lexical \"why do I forget what I have learned\""
"$bin/decant" search "why do I forget what I have learned" --mode lexical --store "$store" -k 2

say "Try your own: $bin/decant index FOLDER, then $bin/decant search \"a question\""
