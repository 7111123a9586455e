package cli

import "ctd/rpc/wire"

type getCmd struct {
	Flow []string `arg:"" help:"The flow: its id, or words proto= src= dst= sport= dport= (icmp_type= icmp_code= icmp_id=, gre_key=, zone=); reply_src= and so on for the other direction."`
}

func (getCmd) Help() string {
	return `Examples:

  ctd get 1234567890
  ctd get proto=tcp src=192.168.1.2 dst=19.2.3.216 sport=59480 dport=22`
}

func (g *getCmd) Run(s *session) error {
	sel, err := selector(g.Flow)
	if err != nil {
		return err
	}
	var f wire.Flow
	printed, err := s.call("conntrack.get", wire.GetParams{Flow: sel}, &f)
	if err != nil || printed {
		return err
	}
	return s.flows([]wire.Flow{f})
}
