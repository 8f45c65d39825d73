# All commands that are needed. `make` alone lists them.
.DEFAULT_GOAL := help
BIN := target/x86_64-unknown-linux-gnu/release
# Where `make image` puts what it makes.
DIST ?= dist
# The tests run the programs that `make image` made.
# Two tests more at once than there are processors: machines often wait.
SHIPPED = RUST_TEST_THREADS=$(shell expr $$(nproc) + 2) RESCUE_AGENT=$(abspath $(DIST))/bin/rescue-agent RESCUE_IMAGE=$(abspath $(DIST))/bin/rescue-image

# What is tested with random cases gets the same ones each time; `make test-deep` and `make fuzz` look for new ones.
check test: export PROPTEST_RNG_SEED ?= 1

.PHONY: help image check test test-boot test-deep test-hosts release bench screenshot demo fuzz clean

help:   ## list the commands
	@sed -n 's/^\([a-z-]*\): *## */  make \1\t/p' $(MAKEFILE_LIST)

image:  ## build ISO, USB image and netboot tree in dist/, the programs in dist/bin/ (NET=1: network drivers on the ISO too)
	scripts/setup.sh image
	CARGO_INCREMENTAL=0 cargo build --quiet --locked --release -p rescue-agent -p rescue-image
	$(BIN)/rescue-image build --out $(DIST) $(if $(NET),--net) $(IMAGE_ARGS)
	$(BIN)/rescue-image manual $(DIST)/man
	$(BIN)/rescue-image fleet $(DIST)/fleet
	install -D -t $(DIST)/bin $(BIN)/rescue-agent $(BIN)/rescue-image

check:  ## format, clippy, unit tests, fuzz targets, documentation, licences: run it after each change
	scripts/setup.sh check
	cargo fmt --all --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
	cargo test --quiet --locked --workspace --lib
	cargo check --quiet --locked --manifest-path fuzz/Cargo.toml --no-default-features --target-dir target
	RUSTDOCFLAGS='-D warnings' cargo doc --quiet --locked --workspace --no-deps --document-private-items
	scripts/deny.sh

test:   ## build the image and run all tests but the unit tests (those are in check), with virtual machines
	scripts/setup.sh test
	$(MAKE) --no-print-directory image
	$(SHIPPED) cargo test --locked --release --workspace --no-fail-fast --test '*'

test-boot: ## run all boot tests: every boot method, firmware and controller, and the commands of docs/fleet.md
	scripts/setup.sh test
	$(MAKE) --no-print-directory image
	$(SHIPPED) cargo test --locked --release --workspace --no-fail-fast --test fast --test machines -- \
		--include-ignored --nocapture boot_devices:: boot_routes:: boot_controllers:: boot_matrix:: \
		partition_tables:: menu::a_key_stops_the_countdown fleet_page::

test-deep: ## run many more power cuts and kills (takes hours)
	scripts/setup.sh test
	$(MAKE) --no-print-directory image
	RESCUE_DEEP=1 $(SHIPPED) cargo test --locked --release --workspace --no-fail-fast

screenshot: ## make screenshots of a repair in a virtual machine, for the documentation
	scripts/setup.sh test
	$(MAKE) --no-print-directory image
	cargo build --quiet --locked --release --workspace --bins
	$(SHIPPED) $(BIN)/screenshot

demo:   ## show a repair in a virtual machine: the disk before, the boot, the disk after
	scripts/setup.sh test
	$(MAKE) --no-print-directory image
	cargo build --quiet --locked --release --workspace --bins
	$(SHIPPED) $(BIN)/demo

bench:  ## measure the promised values (14 minutes, on an idle machine) and write dist/bench.json
	scripts/setup.sh test
	$(MAKE) --no-print-directory image
	CARGO_INCREMENTAL=0 cargo build --quiet --locked --release --workspace --bins
	$(SHIPPED) $(BIN)/bench

release: ## make the folder of a release, signed with KEY, from a tagged commit (docs/release.md)
	@[ -n '$(KEY)' ] || { echo 'usage: make release KEY=NAME' >&2; exit 2; }
	scripts/setup.sh release
	$(MAKE) --no-print-directory image
	scripts/release.sh '$(KEY)' target/release-$$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

test-hosts: ## build on fresh Debian 12 and 13, compare, and make test on the one that this machine is not (root; 35 minutes)
	scripts/setup.sh hosts
	scripts/test-hosts.sh $(or $(HOSTS),target/hosts)

fuzz:   ## fuzz everything that is read from a disk (nightly Rust, cargo-fuzz)
	scripts/fuzz.sh

clean:  ## remove everything that was built or downloaded
	rm -rf dist .cache
	cargo clean
