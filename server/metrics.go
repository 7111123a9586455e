package server

import (
	"context"
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"ctd/helper"
)

// metricsPath is where Prometheus asks.
const metricsPath = "/metrics"

// metrics returns what answers a scrape, in the text format or OpenMetrics.
func (s *Server) metrics() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(
		newCollector(s),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{EnableOpenMetrics: true})
}

// helperCounter is one member of helper.Counters as a metric.
type helperCounter struct {
	name, help string
	value      func(c *helper.Counters) uint64
}

func helperCounters() []helperCounter {
	return []helperCounter{
		{"packets", "Packets read from the queue.", func(c *helper.Counters) uint64 { return c.Packets }},
		{"malformed", "Packets that could not be read as IP and TCP; they passed.", func(c *helper.Counters) uint64 { return c.Malformed }},
		{"lost", "Packets that the kernel could not queue; they passed unseen.", func(c *helper.Counters) uint64 { return c.Lost }},
		{"requests", "RTSP requests.", func(c *helper.Counters) uint64 { return c.Requests }},
		{"replies", "RTSP replies.", func(c *helper.Counters) uint64 { return c.Replies }},
		{"not_rtsp", "Connections left alone because they don't speak RTSP, or no longer.", func(c *helper.Counters) uint64 { return c.NotRTSP }},
		{"setups", "Streams that a server agreed to and that were let in.", func(c *helper.Counters) uint64 { return c.Setups }},
		{"refused", "Streams that were not let in for safety: ports, destination, source, limits.", func(c *helper.Counters) uint64 { return c.Refused }},
		{"limited", "Connections, SETUP requests and streams over a limit, each time it is met.", func(c *helper.Counters) uint64 { return c.Limited }},
		{"failed", "Registrations that the kernel refused.", func(c *helper.Counters) uint64 { return c.Failed }},
		{"rewritten", "Messages that were rewritten.", func(c *helper.Counters) uint64 { return c.Rewritten }},
		{"rerewritten", "Segments that were sent again and rewritten again.", func(c *helper.Counters) uint64 { return c.Rerewritten }},
		{"unwritable", "Messages that should have been rewritten and could not be.", func(c *helper.Counters) uint64 { return c.Unwritable }},
		{"held", "Segments that were held until their message was whole.", func(c *helper.Counters) uint64 { return c.Held }},
		{"interleaved", "Connections that left the queue because their media go inside them.", func(c *helper.Counters) uint64 { return c.Interleaved }},
		{"adopted_streams", "Streams picked up from a daemon before.", func(c *helper.Counters) uint64 { return c.AdoptedStreams }},
		{"ended", "Streams that ended.", func(c *helper.Counters) uint64 { return c.Ended }},
	}
}

// helperGauge is what the helper has at present as a metric.
type helperGauge struct {
	name, help string
	value      func(st *helper.Status) int
}

func helperGauges() []helperGauge {
	return []helperGauge{
		{"connections", "RTSP connections that are followed.", func(st *helper.Status) int { return st.Connections }},
		{"sessions", "RTSP sessions.", func(st *helper.Status) int { return st.Sessions }},
		{"streams", "Streams of RTSP sessions.", func(st *helper.Status) int { return st.Streams }},
		{"expectations", "Expectations of the RTSP helper's that wait.", func(st *helper.Status) int { return st.Expects }},
		{"flows", "Related flows of the RTSP helper's.", func(st *helper.Status) int { return st.Flows }},
	}
}

// collector is a prometheus.Collector of the daemon's own metrics. They are read at each scrape.
type collector struct {
	s                        *Server
	build                    prometheus.Metric
	entries, max             *prometheus.Desc
	certificateEnd           *prometheus.Desc
	enabled, up              *prometheus.Desc
	audited, auditErrors     *prometheus.Desc
	counterDescs, gaugeDescs []*prometheus.Desc
	counterValues            []helperCounter
	gaugeValues              []helperGauge
}

var _ prometheus.Collector = (*collector)(nil)

func newCollector(s *Server) *collector {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }
	c := &collector{
		s: s,
		build: prometheus.MustNewConstMetric(
			prometheus.NewDesc("ctd_build_info", "The daemon's version; the value is always 1.", []string{"version", "goversion"}, nil),
			prometheus.GaugeValue, 1, s.cfg.Version, runtime.Version()),
		entries:     desc("ctd_conntrack_entries", "Entries in the connection tracking table."),
		max:         desc("ctd_conntrack_entries_limit", "How many entries the table may have (net.netfilter.nf_conntrack_max)."),
		enabled:     desc("ctd_rtsp_enabled", "Whether the configuration asks for the RTSP helper."),
		up:          desc("ctd_rtsp_up", "Whether the RTSP helper follows connections."),
		audited:     desc("ctd_audit_records_total", "Records that were written of changes and refusals."),
		auditErrors: desc("ctd_audit_errors_total", "Records that could not be written; a change that can't be recorded isn't made."),
		certificateEnd: desc("ctd_tls_certificate_expiry_timestamp_seconds",
			"When the daemon's TLS certificate expires, in seconds since 1970; only with TLS."),
		counterValues: helperCounters(), gaugeValues: helperGauges(),
	}
	for _, m := range c.counterValues {
		c.counterDescs = append(c.counterDescs, desc("ctd_rtsp_"+m.name+"_total", m.help))
	}
	for _, m := range c.gaugeValues {
		c.gaugeDescs = append(c.gaugeDescs, desc("ctd_rtsp_"+m.name, m.help))
	}
	return c
}

// Describe is prometheus.Collector's.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range append([]*prometheus.Desc{c.build.Desc(), c.entries, c.max, c.certificateEnd, c.enabled, c.up, c.audited, c.auditErrors}, append(c.counterDescs, c.gaugeDescs...)...) {
		to <- d
	}
}

// Collect is prometheus.Collector's. What can't be read is left out.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64) { to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	to <- c.build
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	if st, err := c.s.table.Stats(ctx); err != nil {
		c.s.logger.Warn("the table's size is missing from the metrics", "error", err)
	} else {
		gauge(c.entries, float64(st.Entries))
		gauge(c.max, float64(st.Max))
	}
	if a := c.s.auditor; a != nil {
		st := a.log.Load().Status()
		to <- prometheus.MustNewConstMetric(c.audited, prometheus.CounterValue, float64(st.Written))
		to <- prometheus.MustNewConstMetric(c.auditErrors, prometheus.CounterValue, float64(st.Failed))
	}
	if ring := c.s.keys(); ring != nil {
		gauge(c.certificateEnd, float64(ring.now().leaf.NotAfter.Unix()))
	}
	gauge(c.enabled, oneIf(c.s.helper.cfg.Enabled))
	st, _ := c.s.helper.status()
	gauge(c.up, oneIf(st != nil))
	if st == nil {
		return
	}
	for i, m := range c.counterValues {
		to <- prometheus.MustNewConstMetric(c.counterDescs[i], prometheus.CounterValue, float64(m.value(&st.Counters)))
	}
	for i, m := range c.gaugeValues {
		gauge(c.gaugeDescs[i], float64(m.value(st)))
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
