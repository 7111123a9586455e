#!/bin/bash
# The scenario by curl, in both protocols. Environment: CTD_URL, CTD_TOKEN, CTD_NETNS, CTD_SRC,
# CTD_BIG_PORT.
set -euo pipefail

fail() { echo "want: $*" >&2; exit 1; }

# json METHOD PARAMS [JQ...]: calls and prints what jq makes of the answer.
json() {
	local method=$1 params=$2
	shift 2
	curl -sS -H "Authorization: Bearer $CTD_TOKEN" -H 'Content-Type: application/json' \
		-d "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"$method\",\"params\":$params}" "$CTD_URL/rpc" | jq -ce "$@"
}

# xml METHOD VALUE...: calls and prints the document.
xml() {
	local method=$1 params='' value
	shift
	for value; do params+="<param><value>$value</value></param>"; done
	curl -sS -u "curl:$CTD_TOKEN" -H 'Content-Type: text/xml' \
		-d "<?xml version='1.0'?><methodCall><methodName>$method</methodName><params>$params</params></methodCall>" "$CTD_URL/RPC2"
}

kernel() { ip netns exec "$CTD_NETNS" conntrack -L -s "$CTD_SRC" "$@" 2>/dev/null; }

flow() { echo "{\"protocol\":\"tcp\",\"timeout\":300,\"state\":\"ESTABLISHED\",\"orig\":{\"src\":\"$CTD_SRC\",\"dst\":\"192.0.2.1\",\"sport\":$1,\"dport\":443}}"; }

# jq 1.6 rounds numbers only above 2^53, so ids pass.
for ((sport = 40000; sport < 40040; sport++)); do
	id=$(json conntrack.create "{\"flow\":$(flow $sport)}" .result.id)
	((id < 2147483648)) || break
done
((id >= 2147483648)) || fail "an id from 2^31 on"

[[ $(json conntrack.list "{\"filter\":\"src=$CTD_SRC sport=$sport\"}" '[.result.matched, .result.flows[].id]') == "[1,$id]" ]] || fail "the flow by filter"
[[ $(json conntrack.modify "{\"flows\":[$id],\"set\":{\"mark\":4294967295,\"timeout\":1299}}" '[.result.modified, .result.flows[].mark]') == "[1,4294967295]" ]] || fail "the flow modified"
kernel -m 4294967295 | grep -Eq "^tcp +6 12[0-9][0-9] .*sport=$sport .*mark=4294967295" || fail "mark and timeout by conntrack(8)"
[[ $(json conntrack.list "{\"filter\":{\"dport\":$CTD_BIG_PORT,\"bytes\":\">2G\"}}" '.result.flows[].orig.bytes > 2147483648') == true ]] || fail "a counter above 2^31"
[[ $(json conntrack.kill "{\"filter\":{\"srcc\":\"$CTD_SRC\"}}" '[.error.code, .error.data.code]') == '[-32602,"invalid_params"]' ]] || fail "an unknown field refused"
[[ $(json conntrack.kill "{\"filter\":{\"src\":\"$CTD_SRC\",\"sport\":$sport}}" '[.result.killed, .result.changed]') == '[1,true]' ]] || fail "the flow killed"
[[ $(json conntrack.get "{\"flow\":$id}" .error.data.code) == '"not_found"' ]] || fail "the flow gone"
! kernel | grep -q "sport=$sport " || fail "conntrack(8) shows it no more"

# A batch, with a notification in it.
batch=$(curl -sS -H "Authorization: Bearer $CTD_TOKEN" -H 'Content-Type: application/json' "$CTD_URL/" -d "[
	{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"method\":\"conntrack.count\",\"params\":[\"dport=$CTD_BIG_PORT\"]},
	{\"jsonrpc\":\"2.0\",\"method\":\"conntrack.count\"},
	{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"conntrack.conut\"}]")
[[ $(jq -c '[.[] | .id, .result.count, .error.code]' <<<"$batch") == '["a",1,null,2,null,-32601]' ]] || fail "two answers, got $batch"

# XML-RPC.
member() { echo "<member><name>$1</name><value>$2</value></member>"; }
tuple="<struct>$(member src "$CTD_SRC")$(member dst 192.0.2.1)$(member sport "<int>$sport</int>")$(member dport '<i4>443</i4>')</struct>"
doc=$(xml conntrack.create "<struct>$(member flow "<struct>$(member protocol tcp)$(member timeout '<int>300</int>')$(member orig "$tuple")</struct>")</struct>")
id=$(sed -n 's:.*<member><name>id</name><value><[a-z]*>\([0-9]*\)</.*:\1:p' <<<"$doc")
[[ $id ]] || fail "an id in $doc"
doc=$(xml conntrack.modify "<struct>$(member flows "<array><data><value>$id</value></data></array>")$(member set "<struct>$(member mark '<i8>4294967295</i8>')</struct>")</struct>")
grep -q '<name>mark</name><value><string>4294967295</string>' <<<"$doc" || fail "the mark as text in $doc"
kernel -m 4294967295 | grep -q "sport=$sport .*mark=4294967295" || fail "the mark by conntrack(8)"
doc=$(xml conntrack.list "<struct>$(member dport "<int>$CTD_BIG_PORT</int>")</struct>")
grep -Eq '<name>bytes</name><value><string>[0-9]{10,}</string>' <<<"$doc" || fail "a counter above 2^31 in $doc"
doc=$(xml conntrack.kill "<struct>$(member src "$CTD_SRC")$(member sport "<int>$sport</int>")</struct>")
grep -q '<name>killed</name><value><int>1</int>' <<<"$doc" || fail "the flow killed in $doc"
doc=$(xml conntrack.get "$id")
grep -q '<name>faultCode</name><value><int>-32003</int>' <<<"$doc" || fail "the flow gone, got $doc"
! kernel | grep -q "sport=$sport " || fail "conntrack(8) shows it no more"

# A stranger.
status=$(curl -sS -o /dev/null -w '%{http_code}' -H 'Content-Type: application/json' -d '{}' "$CTD_URL/rpc")
[[ $status == 401 ]] || fail "401 for a stranger, got $status"
[[ $(curl -sS "$CTD_URL/healthz") == ok ]] || fail "healthz"
[[ $(curl -sS "$CTD_URL/readyz") == ready ]] || fail "readyz"
[[ $(curl -sS -H "Authorization: Bearer $CTD_TOKEN" "$CTD_URL/openrpc.json" | jq -r .openrpc) == 1.3* ]] || fail "an OpenRPC document"
echo "done"
