# Everything a developer types. Each target sets up first; that costs nothing when nothing changed.
# PYTHON=python3.12 names another interpreter, ARGS="-k gate -x" goes to pytest, UPGRADE=--upgrade to the locks.

.PHONY: help setup run test chaos rollout contracts lint format bench bench-telemetry bench-queue manifests image push binary
.PHONY: package readme lock clean
export PYTHON BASE BUILDER IMAGE IMAGE_FLAGS RUN_FLAGS SOURCE LICENSES

BIN = .venv/bin

help:  ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup:  ## Make .venv with everything, from the hash-locked files
	@sh tools/setup.sh

run: setup  ## Serve on SQLite with the outbox; prints the URL, a key and a curl line
	@exec sh tools/run.sh

# A process for each core; more than four would share their time with the processes that tests start. Without
# reordering, what takes longest is not last. `ARGS=-n0` is one process.
PARALLEL = --numprocesses=logical --maxprocesses=4 --no-loadscope-reorder

test: setup  ## Run the tests
	$(BIN)/python -m pytest $(PARALLEL) --durations=20 $(ARGS)

chaos: setup  ## Look for new trouble: other simulated worlds, processes killed and stopped, Postgres restarted, for longer
	SIMULATIONS=1000 $(BIN)/python -m pytest --hypothesis-profile=news tests/simulation -k breaks_an_invariant
	CHAOS_EMAILS=5000 $(BIN)/python -m pytest -s tests/faults/test_cluster.py -k "killed or stands_still or stopped"

rollout: setup  ## Replace every process under load (FROM=../hes-before: the old ones are of that checkout)
	ROLLOUT_FROM=$(or $(FROM),.) ROLLOUT_SECONDS=10 ROLLOUT_RATE=40 $(BIN)/python -m pytest -s tests/faults/test_rollout.py

contracts: setup  ## Write contracts/ anew from the tests; what changes there changes for others
	WRITE_CONTRACTS=1 $(BIN)/python -m pytest -q tests/contracts

lint: setup  ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup  ## Format, and mend what the linter can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: setup  ## Measure emails per second, end to end (ARGS=--postgres)
	$(BIN)/python -m benchmarks.end_to_end $(ARGS)

bench-telemetry: setup  ## Measure what metrics and traces cost at full load, in turns (ARGS="--rounds 3")
	$(BIN)/python -m benchmarks.telemetry $(ARGS)

bench-queue: setup  ## Measure what claiming costs on Postgres, however much waits (ARGS="--waiting 1000,10000")
	$(BIN)/python -m benchmarks.queue $(ARGS)

manifests: setup  ## Render kustomize/ into dist/manifests and check it (needs kubectl or kustomize)
	$(BIN)/python -m tools.manifests
	$(BIN)/python -m pytest -q tests/ship/test_manifests.py

image: setup  ## Build the image, try it, list what is in it (BASE=, BUILDER=, IMAGE=, IMAGE_FLAGS=, RUN_FLAGS=)
	$(BIN)/python -m tools.image build
	$(BIN)/python -m tools.image try
	$(BIN)/python -m tools.image list

push: setup  ## Push the image that was built (IMAGE=registry.example.com/hes:0.1.0)
	$(BIN)/python -m tools.image push

binary: setup  ## Pack all of it into one file, dist/hes, that wants only python3; try it
	$(BIN)/python -m tools.binary

package: setup  ## Build wheel, sdist and SBOM into dist; try the first two in a fresh environment
	$(BIN)/python -m tools.package

# Why pip options and not uv.lock: uv.lock names a host on each line. dev.txt leaves out what runtime.txt holds, so
# that no package is pinned twice; they are installed together.
COMPILE = UV_PYTHON_DOWNLOADS=never $(BIN)/uv pip compile --quiet --python $(BIN)/python --python-version 3.11 \
	--universal --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links $(UPGRADE)

readme: setup  ## Fill the README's tables that are made from the code
	$(BIN)/python -m tools.readme

lock: setup  ## Write the two lock files anew (UPGRADE=--upgrade takes the newest versions)
	$(COMPILE) pyproject.toml requirements/runtime.in -o requirements/runtime.txt
	$(COMPILE) requirements/dev.in -c requirements/runtime.txt -o requirements/dev.txt \
		$$(sed -n 's/^\([a-z0-9][a-z0-9._-]*\)[=[].*/--no-emit-package \1/p' requirements/runtime.txt)

clean:  ## Remove .venv and caches; keeps hes.db, outbox and .hes-key
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
