<?php
// The scenario as the PHP pages of pyctd did it: xmlrpc_encode_request and an HTTP POST. php-xmlrpc
// sends an integer above 2^31 as -1 and reads a large <int> as -1, so such numbers are texts both
// ways. Environment: CTD_URL, CTD_TOKEN, CTD_NETNS, CTD_SRC, CTD_BIG_PORT.
error_reporting(E_ALL & ~E_DEPRECATED);

$src = getenv('CTD_SRC');
const ALL = '4294967295';

function want($condition, $what)
{
    if (!$condition) {
        fwrite(STDERR, "want: $what\n");
        exit(1);
    }
}

// answer posts a call and returns what came back, a fault being an array with faultCode.
function answer($method, $params, $token = null)
{
    $header = "Content-Type: text/xml\r\n";
    if ($token !== null) {
        $header .= "Authorization: Basic " . base64_encode("page:$token") . "\r\n";
    }
    $context = stream_context_create(['http' => [
        'method' => 'POST', 'header' => $header, 'content' => xmlrpc_encode_request($method, $params), 'ignore_errors' => true,
    ]]);
    $text = file_get_contents(getenv('CTD_URL') . '/RPC2', false, $context);
    want($text !== false, "$method: an answer");
    return xmlrpc_decode($text, 'UTF-8');
}

function call($method, ...$params)
{
    $result = answer($method, $params);
    want(!(is_array($result) && xmlrpc_is_fault($result)), "$method: no fault, got " . json_encode($result));
    return $result;
}

function api($method, $params)
{
    $result = answer($method, [$params], getenv('CTD_TOKEN'));
    want(!(is_array($result) && xmlrpc_is_fault($result)), "$method: no fault, got " . json_encode($result));
    return $result;
}

function fault($code, $method, ...$params)
{
    $result = answer($method, $params);
    want(is_array($result) && xmlrpc_is_fault($result) && $result['faultCode'] === $code, "$method: fault $code, got " . json_encode($result));
}

// kernel returns conntrack(8)'s lines of this client's flows.
function kernel($args = '')
{
    exec('ip netns exec ' . getenv('CTD_NETNS') . ' conntrack -L -s ' . getenv('CTD_SRC') . " $args 2>/dev/null", $lines);
    return $lines;
}

function exact($v, $least)
{
    return is_string($v) && ctype_digit($v) && bccomp_($v, $least) >= 0;
}

// bccomp_ compares decimals, whatever the size of PHP's integers.
function bccomp_($a, $b)
{
    return strlen($a) <=> strlen($b) ?: strcmp($a, $b);
}

// A flow to work on, with an id that doesn't fit in 31 bits.
for ($sport = 40000; $sport < 40040; $sport++) {
    $flow = ['protocol' => 'tcp', 'timeout' => 300, 'state' => 'ESTABLISHED',
        'orig' => ['src' => $src, 'dst' => '192.0.2.1', 'sport' => $sport, 'dport' => 443]];
    $made = api('conntrack.create', ['flow' => $flow]);
    if (exact($made['id'], '2147483648')) {
        break;
    }
}
want(exact($made['id'], '2147483648'), 'an id from 2^31 on as an exact decimal, got ' . json_encode($made['id']));
want(api('conntrack.get', ['flow' => $made['id']])['orig']['sport'] === $sport, 'the flow by id');

// The page: login, and a table of the connections.
fault(-32001, 'login', 'page', 'wrong');
$sid = call('login', 'page', getenv('CTD_TOKEN'));
want(is_string($sid) && $sid !== '', 'a session');
$rows = call('view', $sid);
$id = null;
echo "<table>\n<tr><th>id<th>protocol<th>source<th>destination<th>bytes<th>mark<th>timeout</tr>\n";
foreach ($rows as $key => $row) {
    want((string) $key === (string) $row['id'], 'rows by id');
    printf("<tr><td>%s<td>%s<td>%s:%s<td>%s:%s<td>%s<td>%s<td>%s</tr>\n", htmlspecialchars($row['id']),
        htmlspecialchars($row['orig_l4proto']), htmlspecialchars($row['orig_ipv4_src'] ?? $row['orig_ipv6_src']),
        htmlspecialchars($row['orig_port_src'] ?? ''), htmlspecialchars($row['orig_ipv4_dst'] ?? $row['orig_ipv6_dst']),
        htmlspecialchars($row['orig_port_dst'] ?? ''), htmlspecialchars($row['orig_counter_bytes'] ?? ''),
        htmlspecialchars($row['mark']), htmlspecialchars($row['timeout']));
    if (($row['orig_ipv4_src'] ?? '') === $src && $row['orig_port_src'] === $sport) {
        $id = $row['id'];
    }
    if (($row['orig_port_dst'] ?? 0) === (int) getenv('CTD_BIG_PORT')) {
        $big = $row['orig_counter_bytes'];
    }
}
echo "</table>\n";
want(is_int($id) && $id > 0, 'the flow in view, with an id that PHP can read');
want(isset($big) && exact($big, '2147483649'), 'the large counter as an exact decimal, got ' . json_encode($big ?? null));

// Change mark and timeout.
want(call('change', $sid, 'mark', $id, ALL) === '', 'nothing in answer');
want(call('change', $sid, 'timeout', $id, 777) === '', 'nothing in answer');
$lines = kernel('-m ' . ALL);
want(count($lines) === 1 && preg_match('/^tcp\s+6 7\d\d .*sport=' . $sport . ' .*mark=4294967295 /', $lines[0]), 'mark and timeout by conntrack(8), got ' . json_encode($lines));
$row = call('view', $sid)[$id];
want($row['mark'] === ALL, 'the mark as an exact decimal, got ' . json_encode($row['mark']));
want($row['timeout'] >= 700 && $row['timeout'] <= 777, 'the timeout, got ' . json_encode($row['timeout']));
$found = api('conntrack.list', ['filter' => ['mark' => ALL, 'src' => $src]]);
want($found['matched'] === 1 && $found['flows'][0]['mark'] === ALL && $found['flows'][0]['id'] === $made['id'], 'the flow by its mark, got ' . json_encode($found));

// Kill it; PHP makes a struct of an array with gaps.
want(call('kill', $sid, [3 => $id]) === '', 'nothing in answer');
want(!isset(call('view', $sid)[$id]), 'the flow gone');
foreach (kernel() as $line) {
    want(!strpos($line, "sport=$sport "), "conntrack(8) shows it no more, got $line");
}
fault(-32003, 'change', $sid, 'mark', $id, 1);
fault(-32001, 'conntrack.list'); // a session is good for pyctd's methods only
echo "done\n";
