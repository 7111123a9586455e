package wire

import (
	"strconv"
	"strings"
)

// ProgressHeader asks, with any value, for interim answers (HTTP 102, RFC 2518 section 10.1) while a
// call works, and says in each of them how far it is. Only who asks gets them: there are clients that
// take them for the answer.
const ProgressHeader = "Ctd-Progress"

// Progress is how far a call is: so many flows of so many.
type Progress struct{ Done, Total int }

// String returns the header's value: DONE/TOTAL.
func (p Progress) String() string { return strconv.Itoa(p.Done) + "/" + strconv.Itoa(p.Total) }

// ParseProgress reads the header's value.
func ParseProgress(text string) (p Progress, ok bool) {
	done, total, _ := strings.Cut(text, "/")
	var err1, err2 error
	p.Done, err1 = strconv.Atoi(done)
	p.Total, err2 = strconv.Atoi(total)
	if err1 != nil || err2 != nil || p.Done < 0 || p.Total < p.Done {
		return Progress{}, false
	}
	return p, true
}
