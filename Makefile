# Every target sets up what it needs; run them in any order, as often as you like.
.DEFAULT_GOAL := help
.PHONY: help setup build install uninstall release-archive demo serve demo-smollm2 test test-dashboard test-interop schemathesis fuzz sim sim-plants chaos bench-control bench-web bench-text bench-train bench-gpu gpu-check pictures lint fmt openapi sqlx clean

CARGO_FLAGS ?=

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 16

setup: ## install what building needs: libtorch, Postgres, the dashboard's packages (each script says what it does)
	@scripts/setup-rust
	@scripts/setup-libtorch
	@scripts/setup-postgres
	@scripts/setup-web

build: setup ## build the server, the worker and the senmon command (release)
	@cargo build --release --locked -p senmon-server -p senmon-cli -p senmon-worker $(CARGO_FLAGS)

install: build ## install programs, man pages and completions below PREFIX (~/.local); it says what it did
	@PREFIX="$(PREFIX)" scripts/install

uninstall: ## take away what make install put below PREFIX; data and settings stay
	@PREFIX="$(PREFIX)" scripts/install --remove

release-archive: build ## pack programs, configuration, documents and licence, the same bytes each time: target/release-archive
	@scripts/release-archive

demo: build ## the whole method on real text, here, in about ten minutes; starts clean, keeps serving until Ctrl-C (DEMO_KEEP=0: exits)
	@scripts/setup-corpus
	@scripts/demo

serve: build ## serve what make demo left, without deleting anything, until Ctrl-C
	@scripts/serve

demo-smollm2: build ## a real pre-trained model (SmolLM2-135M) continued on one domain, in about ten minutes
	@scripts/setup-corpus
	@scripts/setup-smollm2
	@DEMO_EXPERIMENT=configs/experiments/smollm2.yaml scripts/demo

test: setup ## all checks and tests: format, lints, docs, generated files, web, Rust
	@scripts/setup-rust --test
	@scripts/setup-corpus
	@scripts/setup-chromium
	@scripts/setup-s3
	@scripts/setup-chaos
	@scripts/setup-nvrtc
	@scripts/test

test-interop: setup ## tests against the real PyTorch and transformers (fetches gigabytes)
	@scripts/setup-interop
	@scripts/setup-corpus
	@scripts/setup-smollm2
	@scripts/test-interop

test-dashboard: setup ## the dashboard's end-to-end test whole: ten tabs, states, people, axe on every page; some minutes
	@scripts/setup-chromium
	@scripts/setup-corpus
	@SENMON_PARTS=all cargo nextest run --workspace --locked -E 'test(the_dashboard_shows_a_living_experiment)'

schemathesis: setup ## every operation of a running server against its own description: target/schemathesis/report.json
	@scripts/setup-interop
	@scripts/setup-corpus
	@scripts/setup-schemathesis
	@scripts/test-interop tests/interop/test_schemathesis.py

fuzz: setup ## odd bytes through every parser of foreign bytes, FUZZ_SECONDS=60 each (FUZZ_TARGET, FUZZ_SEED): target/fuzz/report.json
	@cargo build -p senmon-tests --bin fuzz --locked
	@target/debug/fuzz

chaos: setup ## kill, freeze, cut off and starve everything for ten minutes (CHAOS_MINUTES, CHAOS_SEED): target/chaos/report.json
	@scripts/setup-corpus
	@scripts/setup-chaos
	@cargo build --workspace --all-targets --locked $(CARGO_FLAGS)
	@$${CARGO_TARGET_DIR:-target}/debug/chaos

bench-control: setup ## the control plane under 1,000 workers, 10,000 queued branches, 10^8 points: target/bench/control.json
	@cargo build --release --locked -p senmon-server -p senmon-tests
	@target/release/bench_control

bench-web: setup ## the dashboard in Chromium on stored curves, beside TensorBoard and MLflow: target/bench/web.json
	@scripts/setup-chromium
	@scripts/setup-bench-web
	@scripts/bench-web

bench-text: setup ## how assignment, tokenising and sharding scale with threads: target/bench/text.json
	@scripts/setup-corpus
	@cargo build --release --locked -p senmon-server -p senmon-tests
	@target/release/bench_text

bench-train: setup ## our training step beside PyTorch's, eager and compiled: target/bench/train.json (half an hour)
	@scripts/setup-interop
	@scripts/bench-train

bench-gpu: setup ## our training step beside PyTorch's on cuda:0: target/bench/gpu.json (says so where there is no card)
	@PARTS=bench scripts/gpu-check

gpu-check: setup ## all that must hold on a card, in under eight minutes (scripts/gpu-check pack FILE: for another machine)
	@scripts/gpu-check

pictures: ## the documentation's pictures, of what make demo left
	@scripts/pictures

sim: setup ## days of simulated time with hundreds of faults: SEEDS=500 of them (SEED=n replays one): target/sim/report.json
	@cargo build --workspace --bin sim --locked
	@target/debug/sim

sim-plants: setup ## builds the simulator with each planted bug, which it must find: target/sim/plants.json
	@scripts/sim-plants

lint: ## clippy, with warnings as errors
	@cargo clippy --workspace --all-targets --locked -- -D warnings

fmt: ## format the Rust sources
	@cargo fmt --all

openapi: ## regenerate server/openapi.json, the dashboard's API types and docs/reference from the code
	@scripts/generate

sqlx: ## regenerate .sqlx, the checked queries' data, from migrations/ (starts a scratch Postgres)
	@scripts/sqlx-prepare

clean: ## delete what was built and the demo's data; keeps downloads (.deps)
	@rm -rf target var/demo web/dist
