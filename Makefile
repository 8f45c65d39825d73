# The only commands a person needs. `make` alone lists them.
.DEFAULT_GOAL := help
BIN := target/x86_64-unknown-linux-gnu/release

.PHONY: help image test test-boot test-deep lint bench screenshot demo fuzz clean

help:   ## list the commands
	@sed -n 's/^\([a-z-]*\): *## */  make \1\t/p' $(MAKEFILE_LIST)

image:  ## build ISO, USB image and netboot tree in dist/, the programs in dist/bin/ (NET=1: network drivers on the ISO too)
	scripts/setup.sh image
	cargo build --quiet --locked --release -p rescue-agent -p rescue-image
	$(BIN)/rescue-image build $(if $(NET),--net) $(IMAGE_ARGS)
	$(BIN)/rescue-image manual dist/man
	install -D -t dist/bin $(BIN)/rescue-agent $(BIN)/rescue-image

test:   ## build the image and run all tests, with virtual machines
	scripts/setup.sh test
	$(MAKE) --no-print-directory image
	cargo test --locked --release --workspace --no-fail-fast

test-boot: ## run all of the boot matrix: every route, firmware and controller
	scripts/setup.sh test
	$(MAKE) --no-print-directory image
	cargo test --locked --release -p esxi-rescue-tests --no-fail-fast --test fast --test machines -- \
		--include-ignored --nocapture boot_devices:: boot_routes:: boot_controllers:: boot_matrix:: partition_tables::

test-deep: ## run the tests of power cuts and kills for long
	scripts/setup.sh test
	$(MAKE) --no-print-directory image
	RESCUE_DEEP=1 cargo test --locked --release --workspace --no-fail-fast

lint:   ## format, clippy, and cargo-deny if it is installed
	cargo fmt --all --check
	cargo clippy --locked --release --workspace --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny check; \
	else echo 'cargo-deny is not installed: licences, advisories and sources were not checked'; fi

screenshot: ## photograph the screen of a repair in a virtual machine, for the docs
	scripts/setup.sh test
	$(MAKE) --no-print-directory image
	cargo run --quiet --locked --release -p esxi-rescue-tests --bin screenshot

demo:   ## watch a repair in a virtual machine: before, the boot, after
	scripts/setup.sh test
	$(MAKE) --no-print-directory image
	cargo run --quiet --locked --release -p esxi-rescue-tests --bin demo

bench:  ## measure the promised numbers (4 minutes, on a quiet machine) into dist/bench.json
	scripts/setup.sh test
	$(MAKE) --no-print-directory image
	cargo build --quiet --locked --release -p esxi-rescue-tests --bins
	$(BIN)/bench

fuzz:   ## fuzz everything that is read from a disk (nightly Rust, cargo-fuzz)
	scripts/fuzz.sh

clean:  ## remove everything that was built or downloaded
	rm -rf dist .cache
	cargo clean
