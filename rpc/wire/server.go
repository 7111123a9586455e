package wire

import "time"

// Empty are the parameters of a method that takes none.
type Empty struct{}

// StatsParams are the parameters of conntrack.stats.
type StatsParams struct {
	PerCPU bool `json:"per_cpu,omitempty" doc:"also the counters of each processor"`
}

// StatsResult is the result of conntrack.stats.
type StatsResult struct {
	Entries   uint32     `json:"entries" doc:"entries in the table"`
	Max       uint32     `json:"max" doc:"net.netfilter.nf_conntrack_max"`
	Buckets   uint32     `json:"buckets" doc:"net.netfilter.nf_conntrack_buckets"`
	Expects   uint32     `json:"expects" doc:"expectations pending"`
	ExpectMax uint32     `json:"expect_max" doc:"net.netfilter.nf_conntrack_expect_max, of the whole machine"`
	Total     CPUStats   `json:"total" doc:"sum over the processors, since the namespace was made"`
	PerCPU    []CPUStats `json:"per_cpu,omitempty"`
}

// CPUStats are the counters of one processor, or their sum (CTA_STATS_*).
type CPUStats struct {
	CPU           *uint16 `json:"cpu,omitempty"`
	Found         uint64  `json:"found"`
	Invalid       uint64  `json:"invalid"`
	Insert        uint64  `json:"insert"`
	InsertFailed  uint64  `json:"insert_failed"`
	Drop          uint64  `json:"drop"`
	EarlyDrop     uint64  `json:"early_drop"`
	Error         uint64  `json:"error"`
	SearchRestart uint64  `json:"search_restart"`
	ClashResolve  uint64  `json:"clash_resolve"`
	ChainTooLong  uint64  `json:"chain_toolong"`
}

// InfoResult is the result of server.info.
type InfoResult struct {
	Version      string          `json:"version"`
	Kernel       string          `json:"kernel" doc:"release of the running kernel"`
	Hostname     string          `json:"hostname"`
	NetNS        string          `json:"netns,omitempty" doc:"namespace whose table is managed, where it isn't the daemon's own"`
	Started      time.Time       `json:"started"`
	Capabilities map[string]bool `json:"capabilities" doc:"what kernel and configuration give: accounting, timestamps, events, ..."`
}

// Finding is one thing that the doctor found.
type Finding struct {
	Check    string `json:"check" doc:"stable name of the check, e.g. accounting"`
	Severity string `json:"severity" enum:"ok,info,warning,error"`
	Message  string `json:"message" doc:"what was found and what it means"`
	Mend     string `json:"mend,omitempty" doc:"the command that mends it"`
}

// DoctorResult is the result of server.doctor.
type DoctorResult struct {
	Healthy  bool      `json:"healthy" doc:"no finding is a warning or an error"`
	Findings []Finding `json:"findings"`
}

// WhoamiResult is the result of server.whoami.
type WhoamiResult struct {
	Name string `json:"name"`
	Role Role   `json:"role"`
	Via  string `json:"via" doc:"how the caller was recognised" enum:"unix,token,session"`
}
