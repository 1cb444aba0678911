# Each target does its own set-up: `make demo` and `make test` work as the first command typed in a fresh clone.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo

PROGRAMS := target/release
GUEST := $(PROGRAMS)/guest
BLOBS := $(PROGRAMS)/blobs
CACHE := $(or $(ENCLAVE_CACHE_DIR),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/enclave)
# Python programs that tests use and this project did not write.
FOREIGN := $(CACHE)/foreign-verifiers-$(shell sha256sum tests/foreign/requirements.txt | cut -c1-12)

export ENCLAVE_CACHE_DIR := $(CACHE)

.DEFAULT_GOAL := help
.PHONY: help build programs guest kernel demo test test-fast test-end-to-end lint test-full deny install uninstall clean setup-build setup-machine setup-test

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

setup-build:
	@./setup build kernel

setup-machine:
	@./setup machine

setup-test: setup-build setup-machine
	@./setup test
	@test -f $(FOREIGN)/complete || { \
	  echo "setup: installing the foreign verifiers of tests/foreign/requirements.txt into $(FOREIGN)" >&2; \
	  python3 -m venv --clear $(FOREIGN) && $(FOREIGN)/bin/pip install -q -r tests/foreign/requirements.txt && touch $(FOREIGN)/complete; }

build: setup-build programs guest kernel ## everything, into target/release

programs:
	$(CARGO) build --release --locked -p enclave-cli -p enclave-vmm -p eif-builder -p parent-proxy

guest: ## programs that run inside an enclave or as PID 1 of the machine: static, the same bytes everywhere
	./guest-build $(GUEST) enclave-init hello machine-agent
	@mkdir -p $(BLOBS)
	@install -m 0755 $(GUEST)/enclave-init $(BLOBS)/init
	@install -m 0755 $(GUEST)/machine-agent $(PROGRAMS)/machine-agent

kernel: ## the guest kernel, built once and cached
	@mkdir -p $(BLOBS)
	@kernel=$$(guest-kernel/build) && install -m 0644 $$kernel/bzImage $$kernel/bzImage.config $$kernel/cmdline $(BLOBS)/

demo: build setup-machine ## build an image, boot a parent, run, attest and terminate an enclave in it
	@PATH="$(CURDIR)/$(PROGRAMS):$$PATH" examples/hello/demo

test: setup-test build lint test-fast test-end-to-end ## every test
	@PATH="$(CURDIR)/$(PROGRAMS):$$PATH" examples/hello/demo

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked --quiet
	shellcheck setup guest-build guest-kernel/build guest-kernel/check guest-kernel/test examples/hello/make-oci-layout examples/hello/demo .ci/run

test-fast: ## unit and property tests: no KVM, no root
	guest-kernel/test
	$(CARGO) test --workspace --locked --quiet --exclude tests

test-end-to-end: ## enclaves in a parent, foreign verifiers and clients
	./guest-build $(GUEST) nsm-client
	FOREIGN_PYTHON=$(FOREIGN)/bin/python $(CARGO) test --locked --quiet -p tests

test-full: test deny ## test, and what takes long

deny:
	$(CARGO) deny check

install: ## into PREFIX (/usr/local); run `make build` first
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/enclave $(DESTDIR)$(PREFIX)/share/enclave/blobs
	install -m 0755 $(PROGRAMS)/enclave-cli $(PROGRAMS)/eif-builder $(PROGRAMS)/parent-proxy $(DESTDIR)$(PREFIX)/bin/
	install -m 0755 $(PROGRAMS)/enclave-vmm $(PROGRAMS)/machine-agent $(DESTDIR)$(PREFIX)/lib/enclave/
	install -m 0644 $(BLOBS)/bzImage $(BLOBS)/bzImage.config $(BLOBS)/cmdline $(DESTDIR)$(PREFIX)/share/enclave/blobs/
	install -m 0755 $(BLOBS)/init $(DESTDIR)$(PREFIX)/share/enclave/blobs/
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	$(PROGRAMS)/enclave-cli man $(DESTDIR)$(PREFIX)/share/man/man1
	$(PROGRAMS)/enclave-cli completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/enclave-cli

uninstall: ## what install put there
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,enclave-cli eif-builder parent-proxy)
	rm -f $(DESTDIR)$(PREFIX)/share/man/man1/enclave-cli*.1 $(DESTDIR)$(PREFIX)/share/bash-completion/completions/enclave-cli
	rm -rf $(DESTDIR)$(PREFIX)/lib/enclave $(DESTDIR)$(PREFIX)/share/enclave

clean: ## build results; the caches under ~/.cache/enclave stay
	$(CARGO) clean
