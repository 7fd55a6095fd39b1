#!/bin/sh
# start_or_resume.sh OUT WORDS...: python -m sweep.run WORDS --out OUT --start-or-resume. What starts it again after a
# failure runs the same words, and these can stand in a place without quotes.
out=$1
shift
exec python -m sweep.run "$@" --out "$out" --start-or-resume
