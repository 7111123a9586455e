package rpc

import (
	"context"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

func (s *Service) registerServer(r *Registry) {
	Register(r, Method{
		Name: "conntrack.stats", Role: wire.RoleViewer, Result: wire.StatsResult{},
		Summary: "Returns how full the table is and the kernel's counters.",
		Example: `{"per_cpu": true}`,
	}, s.stats)
	Register(r, Method{
		Name: "server.info", Role: wire.RoleViewer, Result: wire.InfoResult{},
		Summary: "Returns the daemon's version and what kernel and configuration give.",
	}, func(ctx context.Context, _ *wire.Empty) (any, error) { return s.Info(ctx) })
	Register(r, Method{
		Name: "server.doctor", Role: wire.RoleViewer, Result: wire.DoctorResult{},
		Summary: "Names what keeps the table from being useful, and the command that mends each.",
	}, func(ctx context.Context, _ *wire.Empty) (any, error) { return s.Doctor(ctx) })
	Register(r, Method{
		Name: "server.whoami", Role: wire.RoleViewer, Result: wire.WhoamiResult{},
		Summary: "Returns who the caller is.",
	}, s.whoami)
	Register(r, Method{
		Name: "server.audit", Role: wire.RoleAdmin, Result: wire.AuditResult{},
		Summary: "Returns what callers changed and what they were refused.",
		Example: `{"kind": "refusal", "limit": 20}`,
	}, func(ctx context.Context, p *wire.AuditParams) (any, error) { return s.Audit(ctx, *p) })
}

func (s *Service) whoami(ctx context.Context, _ *wire.Empty) (any, error) {
	p := PrincipalFrom(ctx)
	result := wire.WhoamiResult{Name: p.Name(), Role: p.Role(), Via: p.Via(), Credential: p.Credential()}
	for _, n := range p.Networks() {
		result.Networks = append(result.Networks, n.String())
	}
	if at := p.Expires(); !at.IsZero() {
		result.Expires = &at
	}
	return result, nil
}

func (s *Service) stats(ctx context.Context, p *wire.StatsParams) (any, error) {
	t, err := s.Table.Stats(ctx)
	if err != nil {
		return nil, err
	}
	cpus, err := s.Table.PerCPU(ctx)
	if err != nil {
		return nil, err
	}
	result := wire.StatsResult{
		Entries: t.Entries, Max: t.Max, Buckets: t.Buckets, ExpectMax: t.ExpectMax,
	}
	for _, err := range s.Table.Expects(ctx) {
		if err != nil {
			return nil, err
		}
		result.Expects++
	}
	for i := range cpus {
		addStats(&result.Total, &cpus[i])
		if p.PerCPU {
			one := wire.CPUStats{CPU: &cpus[i].CPU}
			addStats(&one, &cpus[i])
			result.PerCPU = append(result.PerCPU, one)
		}
	}
	return result, nil
}

func addStats(to *wire.CPUStats, c *conntrack.CPUStats) {
	to.Found += uint64(c.Found)
	to.Invalid += uint64(c.Invalid)
	to.Insert += uint64(c.Insert)
	to.InsertFailed += uint64(c.InsertFailed)
	to.Drop += uint64(c.Drop)
	to.EarlyDrop += uint64(c.EarlyDrop)
	to.Error += uint64(c.Error)
	to.SearchRestart += uint64(c.SearchRestart)
	to.ClashResolve += uint64(c.ClashResolve)
	to.ChainTooLong += uint64(c.ChainTooLong)
}
