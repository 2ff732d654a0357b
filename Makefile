# What is built, tested and released, and how. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO        ?= go
FUZZTIME  ?= 20s
BENCH     ?= .
BENCHTIME ?= 1s
BENCHFLAGS ?=
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
PLATFORMS ?= linux/amd64 linux/arm64

# A checkout that another user owns must build as well as one's own: the version
# comes from VERSION, not from what the compiler reads out of .git.
export GOFLAGS := $(filter-out -buildvcs=%,$(GOFLAGS)) -buildvcs=false

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## the program, as bin/fingerpost
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/fingerpost ./cmd/fingerpost

.PHONY: check
check: ## formatting, vet, staticcheck, go.mod
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "gofmt -w is due on:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool -modfile=tools/go.mod staticcheck ./...
	$(GO) mod verify
	$(GO) mod tidy -diff

.PHONY: test
test: ## all tests, end to end too; installs what they need
	tools/install.sh test
	$(GO) test ./...
	$(GO) run ./cmd/fingerpost demo --check

.PHONY: test-short
test-short: ## the tests that are quick
	$(GO) test -short ./...

.PHONY: race
race: ## all tests under the race detector
	tools/install.sh test race
	CGO_ENABLED=1 $(GO) test -race ./...

.PHONY: conformance
conformance: ## h2spec against HTTP/2, sslscan and testssl.sh against https, slowhttptest against http (six minutes)
	tools/install.sh test conformance
	$(GO) test -count=1 -tags conformance -run Conformance -v ./e2e

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (20s)
	tools/fuzz.sh $(FUZZTIME)

.PHONY: bench
bench: ## what is promised and what is measured, as a table (ten minutes); BENCHFLAGS="-only edit" chooses
	tools/install.sh test
	$(GO) run ./bench $(BENCHFLAGS)

.PHONY: bench-peers
bench-peers: ## beside nginx, HAProxy and Caddy on the same core, into bench/RESULTS.md (a quarter of an hour)
	tools/install.sh peers
	$(GO) run ./bench/peers -results bench/RESULTS.md $(BENCHFLAGS)

.PHONY: bench-go
bench-go: ## the benchmarks of the packages; BENCH=REGEXP chooses
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -benchmem -timeout 30m ./...

.PHONY: dist
dist: ## static binaries for linux, with checksums, in dist/
	rm -rf dist
	mkdir dist
	for platform in $(PLATFORMS); do \
		os=$${platform%/*} arch=$${platform#*/}; \
		echo "dist/fingerpost-$$os-$$arch"; \
		CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch $(GO) build -trimpath \
			-ldflags '-s -w -buildid= -X main.version=$(VERSION)' \
			-o dist/fingerpost-$$os-$$arch ./cmd/fingerpost; \
	done
	cd dist && sha256sum fingerpost-* > SHA256SUMS
	cat dist/SHA256SUMS

.PHONY: clean
clean: ## remove bin/ and dist/
	rm -rf bin dist
