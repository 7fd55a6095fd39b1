#!/bin/sh
# start_or_resume.sh OUT WORDS...: python -m sweep.run WORDS --out OUT, with --resume if there is a run in OUT
out=$1
shift
[ ! -e "$out/plan.json" ] || set -- "$@" --resume
exec python -m sweep.run "$@" --out "$out"
