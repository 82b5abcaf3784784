#!/bin/bash
# Judge mutants of files whose code runs on GPUs only, by tests that need GPUs, several at a time.
#
#     tests/mutation/on_gpus.sh FOLDER PROCESSES SECONDS "FILE ..." "TEST ..."
set -u
folder=$1 processes=$2 seconds=$3 files=$4 tests=$5
export OMP_NUM_THREADS=1
for ((k = 0; k < processes; k++)); do
    # shellcheck disable=SC2086
    timeout "$seconds" python3 -m tests.mutation.run $files --every "$processes" --first "$k" --all --seconds 150 \
        --only $tests >"$folder/mutants-$k.log" 2>&1 &
done
wait
