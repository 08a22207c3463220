# What a developer and the CI call. `make` alone lists it.

SHELL := /bin/bash
CARGO ?= cargo
DESTDIR ?=
PREFIX ?= /usr
# Where mount(8) looks for its helpers; /sbin leads here on a merged /usr.
SBINDIR ?= /usr/sbin
BINARY ?= target/release/leasefs
INSTALL_PROGRAM ?= install
# zsh of Debian looks elsewhere than that of everybody else.
ZSHDIR ?= $(PREFIX)/share/zsh/$(if $(and $(wildcard /etc/debian_version),$(filter /usr,$(PREFIX))),vendor-completions,site-functions)
# Where the Debian package is put, how it is made, and what of.
DEB ?= target/debian/
DEBFLAGS ?=
staged := target/package

helpers := mount.leasefs mount.fuse.leasefs
units := $(PREFIX)/lib/systemd/system
sysusers := $(PREFIX)/lib/sysusers.d/leasefs.conf
man := $(PREFIX)/share/man/man8
bash := $(PREFIX)/share/bash-completion/completions
fish := $(PREFIX)/share/fish/vendor_completions.d
doc := $(PREFIX)/share/doc/leasefs

.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 17

.PHONY: deps
deps: ## install what the tests and the demo use and this machine lacks
	@.ci/deps

.PHONY: build
build: ## the release binary, target/release/leasefs
	$(CARGO) build --release --locked

.PHONY: demo
demo: ## a real server, a real database, a mount: about a minute to watch
	@.ci/deps demo
	@demo/run

.PHONY: check
check: ## formatting and lints
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

# Results go to standard output, the runner's summary last. The documentation's examples, which cargo-nextest
# does not run, therefore come first. Some tests mount: they need root and /dev/fuse, and say so if they
# have not got them.
.PHONY: test
test: deps ## every test
	$(CARGO) test --locked --doc 2>&1
	@if $(CARGO) nextest --version >/dev/null 2>&1; then set -x; \
	  $(CARGO) nextest run --locked 2>&1; \
	else set -x; \
	  $(CARGO) test --locked --lib --bins --tests --no-fail-fast 2>&1; \
	fi

# Longer forms of what `make test` runs in seconds.
.PHONY: soak
soak: deps ## half an hour of load, faults and restarts; a million random operations, 100 killed servers, and more
	LEASEFS_MODEL_CASES=20000 $(CARGO) test --locked --release --test model -- --nocapture 2>&1
	LEASEFS_HANDOVER_KILLS=100 $(CARGO) test --locked --test handover -- --nocapture --test-threads=1 2>&1
	LEASEFS_SOAK_MINUTES=$${LEASEFS_SOAK_MINUTES:-30} $(CARGO) test --locked --test soak -- --nocapture 2>&1
	for round in {1..10}; do \
	  $(CARGO) test --locked --test mount_leases --test mount_shutdown --test leaks 2>&1 || exit 1; \
	done

.PHONY: mutants
mutants: ## break the engine in one place at a time: the model test must notice each time
	tests/model/mutants/run

.PHONY: bench
bench: deps ## leasefs beside tmpfs, a bare FUSE file system and plain HTTP; `make bench ARGS=--json` for programs
	$(CARGO) build --release --locked
	$(CARGO) bench --locked --bench compare -- $(ARGS)

.PHONY: compare
compare: deps ## leasefs beside `bao agent`, what programs notice of each; two minutes, writes docs/comparison.md
	$(CARGO) build --release --locked
	$(CARGO) bench --locked --bench peers

.PHONY: scale
scale: deps ## 10,000 leases for a simulated week, an outage in it; four minutes, writes docs/scale.md
	$(CARGO) bench --locked --bench scale

.PHONY: outages
outages: deps ## what a program notices of each outage of Vault, five minutes; `make outages ARGS=--json` for programs
	$(CARGO) build --release --locked
	$(CARGO) bench --locked --bench outages -- $(ARGS)

.PHONY: install
install: ## binary, helpers, unit, user, manual, completions and examples, below $(DESTDIR); run `make build` first
	$(INSTALL_PROGRAM) -D -m 0755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/leasefs
	install -d $(foreach folder,$(SBINDIR) $(units) $(man) $(bash) $(ZSHDIR) $(fish) $(doc)/docs $(doc)/examples,$(DESTDIR)$(folder))
	for helper in $(helpers); do \
	  ln -sfnr $(DESTDIR)$(PREFIX)/bin/leasefs $(DESTDIR)$(SBINDIR)/$$helper; \
	done
	sed 's|=/usr/bin/leasefs|=$(PREFIX)/bin/leasefs|' systemd/leasefs@.service \
	  > $(DESTDIR)$(units)/leasefs@.service
	install -D -m 0644 systemd/leasefs.sysusers $(DESTDIR)$(sysusers)
	$(BINARY) generate man $(DESTDIR)$(man)
	ln -sfn mount.leasefs.8 $(DESTDIR)$(man)/mount.fuse.leasefs.8
	$(BINARY) generate completions bash > $(DESTDIR)$(bash)/leasefs
	$(BINARY) generate completions zsh > $(DESTDIR)$(ZSHDIR)/_leasefs
	$(BINARY) generate completions fish > $(DESTDIR)$(fish)/leasefs.fish
	mkdir -p $(DESTDIR)/etc/leasefs
	install -m 0644 README.md CHANGELOG.md $(DESTDIR)$(doc)
	install -m 0644 docs/*.md $(DESTDIR)$(doc)/docs
	install -m 0644 mount-config/*.toml $(DESTDIR)$(doc)/examples
	sed 's|=/usr/bin/leasefs|=$(PREFIX)/bin/leasefs|' systemd/agent.conf.example \
	  > $(DESTDIR)$(doc)/examples/agent.conf.example
ifeq ($(DESTDIR),)
	if command -v systemd-sysusers >/dev/null; then systemd-sysusers $(sysusers); fi
endif

.PHONY: uninstall
uninstall: ## takes away what `make install` has brought, but for the user; configurations in /etc/leasefs stay
	rm -f $(DESTDIR)$(PREFIX)/bin/leasefs $(helpers:%=$(DESTDIR)$(SBINDIR)/%) $(DESTDIR)$(units)/leasefs@.service \
	  $(DESTDIR)$(sysusers) $(helpers:%=$(DESTDIR)$(man)/%.8) $(DESTDIR)$(man)/leasefs.8 $(DESTDIR)$(man)/leasefs-*.8 \
	  $(DESTDIR)$(bash)/leasefs $(DESTDIR)$(ZSHDIR)/_leasefs $(DESTDIR)$(fish)/leasefs.fish
	rm -rf $(DESTDIR)$(doc)
	-rmdir --ignore-fail-on-non-empty $(DESTDIR)/etc/leasefs

.PHONY: deb
deb: build ## the Debian package, target/debian/*.deb
	@.ci/deps package
	@$(MAKE) --no-print-directory package

# Of a binary that is there. `make install` says what belongs into it.
.PHONY: package
package:
	rm -rf $(staged)
	@$(MAKE) --no-print-directory install DESTDIR=$(staged) PREFIX=/usr SBINDIR=/usr/sbin \
	  ZSHDIR=/usr/share/zsh/vendor-completions
	.tools/bin/cargo-deb deb --no-build --locked --compress-system $(DEBFLAGS) --output $(DEB)
