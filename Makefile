# The targets; `make` alone prints them.

GO       ?= go
FUZZTIME ?= 30s
RACE     ?= -race

# What `ctd version` says. A checkout without git or without history still builds.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# The version comes from above, so the go command needn't ask git, which may be missing or refuse.
export GOFLAGS := $(GOFLAGS) -buildvcs=false

# The daemon that tests start. They run as root, who may have neither the user's settings of go nor
# its caches: nothing is built there.
TESTENV := CTD_KERNEL_TESTS=1 CTD_BINARY=$(CURDIR)/bin/ctd

# The kernel's table is root's. Only the programs that touch it run as root: what go builds and
# caches stays the user's.
ifneq ($(shell id -u),0)
SUDO := sudo
EXEC := -exec 'sudo env "PATH=$(PATH):/usr/sbin:/sbin" $(TESTENV)'
endif

# What make test runs under Debian's kernel: what no test of the machine's own may be able to show.
KERNELTESTS := ^TestKernel(Probe|Helper|ScriptNFT|RTSP(OwnHelper|Forwarded|SamePort|Lengthened))$$$$

TOOL := $(GO) tool -modfile=deploy/tools.mod

.DEFAULT_GOAL := help
.PHONY: help build run test test-kernel fuzz bench lint vuln format docs clean

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/ctd, one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ctd .

run: build ## start the daemon over a small demonstration network (Ctrl-C ends both)
	@deploy/dev/install-deps run
	CGO_ENABLED=0 $(GO) build -o bin/ctd-demo ./deploy/demo
	@$(SUDO) bin/ctd-demo -ctd bin/ctd

test: build ## install what is missing and run every check and test
	@deploy/dev/install-deps test
	@$(MAKE) --no-print-directory lint
	CGO_ENABLED=$(if $(RACE),1,0) $(TESTENV) $(GO) test $(RACE) -count=1 $(EXEC) ./...
	@OPTIONAL=1 GO=$(GO) deploy/dev/test-kernel -r '$(KERNELTESTS)' ./helper

test-kernel: build ## run kernel tests under Debian's own kernel, in QEMU (PACKAGES=./conntrack RUN=TestKernelGet)
	@GO=$(GO) deploy/dev/test-kernel $(if $(V),-v) $(if $(RUN),-r '$(RUN)') $(PACKAGES)

fuzz: ## run every fuzz target for FUZZTIME (30s)
	@GO=$(GO) FUZZTIME=$(FUZZTIME) deploy/dev/fuzz

bench: build ## measure against conntrack(8) and write docs/benchmarks.md
	@deploy/dev/install-deps bench
	CGO_ENABLED=0 $(GO) build -o bin/ctd-bench ./deploy/bench
	$(SUDO) bin/ctd-bench -ctd bin/ctd $(BENCHFLAGS) >bin/benchmarks.md
	mv bin/benchmarks.md docs/benchmarks.md

# What gosec tells of and is meant so: words of help that look like secrets (G101), calls of the kernel that
# need unsafe, each of which says why (G103), errors of closing what has failed already (G104), files whose path
# somebody on this machine names (G304), and in big.Rat what Go mended long ago (G113). What only
# tests and developers run is left out.
GOSECFLAGS := -quiet -exclude=G101,G103,G104,G113,G304 -exclude-dir=bin -exclude-dir=deploy -exclude-dir=conntracktest -exclude-dir=rtsptest

lint: ## check format, go vet, staticcheck and gosec
	@GO=$(GO) deploy/dev/gofumpt
	$(GO) vet ./...
	$(TOOL) staticcheck ./...
	$(TOOL) gosec $(GOSECFLAGS) ./...

vuln: ## look for known vulnerabilities in what is built in (asks the database of Go's)
	$(TOOL) govulncheck ./...

format: ## format the Go files
	$(TOOL) gofumpt -w .

docs: ## write docs/api.md and docs/configuration.md anew from the code
	$(GO) test ./server -run 'TestAPIDocs|TestConfigDocs' -update

clean: ## remove what was built
	rm -rf bin
