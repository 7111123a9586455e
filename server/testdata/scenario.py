"""The scenario by python's xmlrpc.client. Environment: CTD_URL, CTD_TOKEN, CTD_NETNS, CTD_SRC (an
address for the flows of this client), CTD_BIG_PORT (port of a flow with more than 2 GiB)."""

import os
import subprocess
import xmlrpc.client

URL, TOKEN, NETNS, SRC = (os.environ["CTD_" + n] for n in ("URL", "TOKEN", "NETNS", "SRC"))
BIG_PORT = int(os.environ["CTD_BIG_PORT"])
HALF, ALL = 2**31, 2**32 - 1


def want(condition, what):
    if not condition:
        raise SystemExit("want: %s" % (what,))


def kernel(*args):
    """The lines of conntrack(8) about this client's flows."""
    out = subprocess.run(
        ["ip", "netns", "exec", NETNS, "conntrack", "-L", "-s", SRC, *args],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return out.stdout.splitlines()


def fault(code, call, *args):
    """Expects a fault and returns its text."""
    try:
        result = call(*args)
    except xmlrpc.client.Fault as f:
        want(f.faultCode == code, "fault %d, got %d %s" % (code, f.faultCode, f.faultString))
        return f.faultString
    raise SystemExit("want fault %d, got %r" % (code, result))


def flow(sport):
    return {"protocol": "tcp", "timeout": 300, "state": "ESTABLISHED", "orig": {
        "src": SRC, "dst": "192.0.2.1", "sport": sport, "dport": 443}}


auth = {"headers": [("Authorization", "Bearer " + TOKEN)]}
ctd = xmlrpc.client.ServerProxy(URL + "/RPC2", **auth)
stranger = xmlrpc.client.ServerProxy(URL)  # its path is /RPC2

# Make flows until one has an id that doesn't fit in 31 bits.
for sport in range(40000, 40040):
    made = ctd.conntrack.create({"flow": flow(sport)})
    number = int(made["id"])
    if number >= HALF:
        break
want(number >= HALF, "an id from 2^31 on among 40")
want(made["id"] == str(number), "a large id as text, got %r" % (made["id"],))
want(made["orig"]["sport"] == sport, "the flow that was asked for, got %r" % (made,))

# Find it: by filter as object and as text, by id and by tuple.
found = ctd.conntrack.list({"src": SRC, "sport": sport})
want(found["matched"] == 1 and found["flows"][0]["id"] == made["id"], "the one flow, got %r" % (found,))
found = ctd.conntrack.list({"filter": "src=%s sport=%d" % (SRC, sport), "fields": ["id"], "limit": 5})
want(found["flows"] == [{"id": made["id"]}], "only the id, got %r" % (found,))
want(ctd.conntrack.get(made["id"])["reply"]["dport"] == sport, "the flow by id")
want(ctd.conntrack.get({"flow": flow(sport)})["id"] == made["id"], "the flow by tuple")
want(ctd.conntrack.count("src=" + SRC)["count"] == len(kernel()), "as many flows as conntrack(8) shows")

# Change mark and timeout. Python can't send an int above 2^31: a text will do.
changed = ctd.conntrack.modify({"flows": [made["id"]], "set": {"mark": str(ALL), "timeout": 1299}})
want(changed["modified"] == 1 and changed["changed"] is True, "one flow modified, got %r" % (changed,))
want(int(changed["flows"][0]["mark"]) == ALL, "the mark, got %r" % (changed["flows"],))
want(1200 <= changed["flows"][0]["timeout"] <= 1299, "the timeout, got %r" % (changed["flows"],))
line, = kernel("-m", str(ALL))
want("mark=%d" % ALL in line and "sport=%d" % sport in line and 1200 <= int(line.split()[2]) <= 1299, "the same by conntrack(8), got " + line)
again = ctd.conntrack.modify({"flows": [made["id"]], "set": {"mark": float(ALL)}})
want(again["changed"] is False and again["matched"] == 1, "nothing to change the second time, got %r" % (again,))

# A counter above 2^31.
big, = ctd.conntrack.list({"filter": {"dport": BIG_PORT, "bytes": ">2G"}})["flows"]
want(isinstance(big["orig"]["bytes"], str) and int(big["orig"]["bytes"]) > HALF, "its bytes, got %r" % (big,))

# Many calls in one.
multi = xmlrpc.client.MultiCall(ctd)
multi.conntrack.count({"src": SRC})
multi.conntrack.get(1)
multi.conntrack.get(made["id"])
answers = multi()
want(answers[0]["count"] >= 1, "the count, got %r" % (answers[0],))
fault(-32003, lambda: answers[1])
want(answers[2]["id"] == made["id"], "the flow, got %r" % (answers[2],))

# Mistakes.
want("src" in fault(-32602, ctd.conntrack.kill, {"filter": {"sr": SRC}}), "the nearest name")
fault(-32602, ctd.conntrack.kill, {})
fault(-32601, ctd.conntrack.lst)
fault(-32003, ctd.conntrack.get, {"flow": flow(1)})
want("system.multicall" in ctd.system.listMethods(), "system.multicall in the list")
want(ctd.system.methodHelp("conntrack.kill") != "", "help")
for call in stranger.conntrack.list, stranger.system.listMethods:
    try:
        call()
        raise SystemExit("a stranger was let in")
    except xmlrpc.client.ProtocolError as e:
        want(e.errcode == 401, "401, got %d" % e.errcode)

# Kill it, and see it gone.
dry = ctd.conntrack.kill({"filter": {"src": SRC, "sport": sport}, "dry_run": True})
want(dry["matched"] == 1 and dry["killed"] == 0 and not dry["changed"], "nothing killed, got %r" % (dry,))
killed = ctd.conntrack.kill({"filter": {"src": SRC, "sport": sport}})
want(killed["killed"] == 1 and killed["flows"][0]["id"] == made["id"], "one killed, got %r" % (killed,))
fault(-32003, ctd.conntrack.get, made["id"])
want(not [l for l in kernel() if "sport=%d" % sport in l], "conntrack(8) shows it no more")
want(ctd.conntrack.kill({"flows": [made["id"]]})["changed"] is False, "killing it again changes nothing")

# The same as pyctd's clients did it.
ctd.conntrack.create({"flow": flow(sport)})
fault(-32001, stranger.login)
fault(-32001, stranger.login, "admin", "wrong")
fault(-32001, stranger.view, "no such session")
sid = stranger.login("admin", TOKEN)
rows = stranger.view(sid)
row, = [r for r in rows.values() if r["orig_ipv4_src"] == SRC and r["orig_port_src"] == sport]
want(rows[str(row["id"])] == row, "rows by id")
want((row["orig_l4proto"], row["repl_port_dst"], row["tcp_state"]) == (6, sport, 3), "the flow, got %r" % (row,))
bytes_, = [r["orig_counter_bytes"] for r in rows.values() if r.get("orig_port_dst") == BIG_PORT]
want(int(bytes_) > HALF, "its bytes, got %r" % (bytes_,))
want(not stranger.change(sid, "mark", row["id"], str(ALL)), "nothing in answer")
want(not stranger.change(sid, "timeout", row["id"], 777), "nothing in answer")
line, = kernel("-m", str(ALL))
want(700 <= int(line.split()[2]) <= 777, "mark and timeout by conntrack(8), got " + line)
fault(-32005, stranger.change, sid, "timeout", row["id"], 778)  # the first one fixed it
row2 = stranger.view(sid)[str(row["id"])]
want(int(row2["mark"]) == ALL and row2["status"] & 1 << 10, "mark and fixed timeout, got %r" % (row2,))
want(not stranger.kill(sid, [row["id"]]), "nothing in answer")
want(str(row["id"]) not in stranger.view(sid), "the flow gone")
want(not [l for l in kernel() if "sport=%d" % sport in l], "conntrack(8) shows it no more")
fault(-32003, stranger.change, sid, "mark", row["id"], 1)
print("done")
