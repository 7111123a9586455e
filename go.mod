module ctd

go 1.26.0

require (
	github.com/alecthomas/kong v1.12.1
	github.com/google/go-cmp v0.7.0
	github.com/gorilla/rpc v1.2.1
	github.com/kolo/xmlrpc v0.0.0-20220921171641-a4b6fa1dd06b
	github.com/rogpeppe/go-internal v1.14.1
	golang.org/x/net v0.62.0
	golang.org/x/sys v0.49.0
)

require (
	golang.org/x/text v0.43.0 // indirect
	golang.org/x/tools v0.51.0 // indirect
)
