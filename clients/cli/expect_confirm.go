package cli

import (
	"fmt"

	"ctd/rpc/wire"
)

// confirmExpectKill asks before expectations are killed, and narrows the parameters to those that were
// counted. none says that there is nothing to kill: r is the result then.
func (s *session) confirmExpectKill(p *wire.ExpectKillParams, r *wire.ExpectKillResult) (none bool, err error) {
	dry := *p
	dry.DryRun, dry.Reason = true, ""
	if _, err := s.call("expect.kill", dry, r); err != nil || r.Matched == 0 {
		return true, err
	}
	question := fmt.Sprintf("Kill these %s?", plural(r.Matched, "expectation"))
	if r.Matched == 1 {
		question = "Kill this expectation?"
	}
	if err := s.ask(question); err != nil {
		return true, err
	}
	p.Filter, p.Expects, p.All = nil, expectSelectors(r.Expects), false
	*r = wire.ExpectKillResult{}
	return false, nil
}

// expectSelectors names expectations by all that tells them from those that come after them.
func expectSelectors(es []wire.Expect) []any {
	named := make([]any, len(es))
	for i, e := range es {
		named[i] = wire.Expect{
			ID: e.ID, Family: e.Family, Protocol: e.Protocol, ProtoNum: e.ProtoNum, Zone: e.Zone, Tuple: e.Tuple, Master: e.Master,
		}
	}
	return named
}

// confirmExpectFlush asks before all expectations are deleted. none says that there is none.
func (s *session) confirmExpectFlush(p wire.ExpectFlushParams) (none bool, err error) {
	p.DryRun = true
	var r wire.FlushResult
	if _, err := s.call("expect.flush", p, &r); err != nil || r.Killed == 0 {
		return true, err
	}
	return false, s.ask("Delete " + plural(r.Killed, "expectation") + "?")
}
