#!/bin/sh
# Entry point for Google Cloud: Vertex AI says by AIP_* where to listen and where the model lies; elsewhere port 8080.
set -eu

export PORT="${AIP_HTTP_PORT:-${PORT:-8080}}"

case ${AIP_STORAGE_URI:-} in
gs://*)
    folder=${TMPDIR:-/tmp}/model
    python3 "$(dirname "$0")/fetch_gcs.py" "$AIP_STORAGE_URI" "$folder"
    export MODEL_ID="$folder"
    ;;
"") ;;
*)
    echo "AIP_STORAGE_URI must begin with gs://, but is $AIP_STORAGE_URI" >&2
    exit 1
    ;;
esac

exec "$(dirname "$0")/entrypoint.sh" "$@"
