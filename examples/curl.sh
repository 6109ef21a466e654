#!/usr/bin/env bash
# A tour with curl alone: publish, follow, look back, resume. Start `make run` first.
set -euo pipefail
url=${PLEXUS_URL:-http://127.0.0.1:8080}

echo "== publish"
receipt=$(curl -fsS -d 'hello from curl' "$url/v1/topics/tour/messages")
echo "$receipt"
position=$(sed -E 's/.*"position":"([^"]+)".*/\1/' <<<"$receipt")

echo "== look back"
curl -fsS "$url/v1/topics/tour/messages?view=TEXT"
echo

echo "== follow what comes after $position, for two messages"
curl -fsSN "$url/v1/topics/tour/messages?after=$position&limit=2" -H 'accept: text/event-stream' &
follow=$!
sleep 1
curl -fsS -d 'one' "$url/v1/topics/tour/messages" >/dev/null
curl -fsS -d 'two' "$url/v1/topics/tour/messages" >/dev/null
wait $follow

echo "== who the node is"
curl -fsS "$url/v1/nodes/default/identity"
echo
