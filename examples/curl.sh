#!/usr/bin/env bash
# A tour with curl alone: two nodes that hear each other, history, safe repeats, errors.
# Needs a running `plexus up` (or PLEXUS_URL) and curl.
set -euo pipefail
url=${PLEXUS_URL:-http://127.0.0.1:8080}/v1
topic=tour-$$

say() { printf '\n# %s\n' "$1"; }
# Reads one text or the first of a list out of JSON, without jq.
field() { sed -nE "s/.*\"$1\":\[?\"([^\"]*)\".*/\1/p" | head -n1; }
json() { curl -sS --fail-with-body -H 'content-type: application/json' "$@"; echo; }

say "who node default is; it is made by the first call"
identity=$(curl -sS --fail-with-body "$url/nodes/default/identity")
echo "$identity"
peer=$(field peerId <<<"$identity")
address=$(field listenAddresses <<<"$identity")

say "a second node"
json "$url/nodes" -d "{\"id\": \"tour-$$\"}"
trap 'curl -sS -X DELETE "$url/nodes/tour-$$" >/dev/null' EXIT

if [ -n "$address" ]; then
  say "it connects to the first"
  json "$url/nodes/tour-$$/peers/$peer:connect" -d "{\"addresses\": [\"$address\"]}"
fi

say "the second node follows the topic; the first publishes once somebody does"
curl -sSN --max-time 20 "$url/nodes/tour-$$/topics/$topic/messages?limit=1&view=TEXT" \
  -H 'accept: text/event-stream' &
reader=$!
json "$url/topics/$topic/messages" -d '{"text": "hello over gossipsub", "minPeers": 1, "timeout": "15s"}'
wait $reader || true

say "any bytes as they are, and the same publish again: one message"
for _ in 1 2; do
  curl -sS --fail-with-body -H 'idempotency-key: tour' --data-binary 'raw bytes' "$url/topics/$topic/messages"
  echo
done

say "what is retained"
curl -sS --fail-with-body "$url/topics/$topic/messages?view=TEXT"
echo

say "an error names its reason and what to do"
curl -sS "$url/topics/$topic/messages" -H 'content-type: application/json' -d '{"txt": "typo"}'
echo
