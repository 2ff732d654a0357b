#!/usr/bin/env bash
# Runs each fuzz target of the repository for a time. What it finds is written
# to the package's testdata/fuzz, to be committed with the repair.
# Usage: tools/fuzz.sh [TIME] [NAME-PATTERN]
set -euo pipefail
time=${1:-20s}
pattern=${2:-.}

ran=0
while IFS=: read -r file name; do
  [[ $name =~ $pattern ]] || continue
  dir=$(dirname "$file")
  echo "== $dir $name for $time"
  go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "$dir"
  ran=$((ran + 1))
done < <(grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed 's/:func /:/' | sort)
if [ "$ran" -eq 0 ]; then
  echo "error: no fuzz target matches $pattern" >&2
  exit 1
fi
