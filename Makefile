# Everything a developer or an operator types. Each target sets up what it needs.
PY := .venv/bin/python
UV := $(shell command -v uv || echo .tools/bin/uv)
ARGS ?=
# Processes that tests run in; 0 for one, which can be debugged. Three on two processors: much of a test is waiting.
LANES ?= 3
# Python keeps what it compiled, even where the environment says not to: the tests start hundreds of processes, and each
# would spend two seconds on compiling the libraries anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run test test-fast test-deep check check-types check-console check-rest bench docs format lock vulnerabilities livekit console screenshots system clean

run: .venv/run.stamp ## Set up everything and start Butai on this machine
	@scripts/livekit-server --if-possible
	@scripts/console --if-possible
	.venv/bin/butai up $(ARGS)

test: .venv/dev.stamp system livekit console ## All tests but the longest, in three lanes; one after another: make test LANES=0
	$(PY) -m pytest tests -n $(LANES) $(ARGS)

test-fast: .venv/dev.stamp livekit ## The inner loop: no media, no browser, no long faults
	$(PY) -m pytest tests/unit tests/integration -m "not slow and not media and not deep" -n $(LANES) $(ARGS)

test-deep: .venv/dev.stamp system livekit console ## Long tests, properties with many more examples, others each time, the longest list
	$(PY) -m pytest tests/unit tests/integration tests/fuzz -m "hypothesis or deep" --hypothesis-profile=deep -n $(LANES) $(ARGS)
	BUTAI_FUZZ_ARGS="--max-examples 100" BUTAI_TEST_FILES=100000 \
		$(PY) -m pytest tests/fuzz/test_openapi.py tests/e2e/test_console_library.py -k "openapi or stutter"
	BUTAI_TEST_ON_AIR=60 $(PY) -m pytest tests/integration/test_rtmp_real_servers.py

check: .venv/dev.stamp ## Style, types, structure, migrations, documents; two at a time
	@$(MAKE) --no-print-directory --output-sync=target --jobs=2 check-types check-console check-rest

check-types: .venv/dev.stamp
	.venv/bin/basedpyright

check-console:
	scripts/console --check

check-rest: .venv/dev.stamp
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports
	$(PY) scripts/check_schema.py
	$(PY) scripts/write_docs.py --check

bench: .venv/dev.stamp livekit ## All benchmarks, or some: make bench ARGS="list_page upload"; the peers want Node with npm
	scripts/system-packages nginx libnginx-mod-rtmp ffmpeg wrk
	$(PY) bench/run.py $(ARGS)

docs: .venv/dev.stamp ## Write the documents that come from the code
	$(PY) scripts/write_docs.py

screenshots: .venv/dev.stamp livekit console ## Pictures of the console for README and docs, into docs/images
	scripts/system-packages nginx libnginx-mod-rtmp ffmpeg chromium
	$(PY) scripts/screenshots.py $(ARGS)

format: .venv/dev.stamp
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
	scripts/console --format

lock: $(UV) ## Write the locks anew after pyproject.toml or a file requirements/*.in changed
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements/installer.in -o requirements/installer.txt
	$(UV) pip compile -q --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements/build.in -o requirements/build.txt
	$(UV) pip compile -q --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements/audit.in -o requirements/audit.txt
	$(UV) pip compile -q --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra up pyproject.toml -o requirements/run.txt
	$(UV) pip compile -q --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra up pyproject.toml requirements/dev.in -c requirements/run.txt -o requirements/dev.txt

vulnerabilities: .tools/audit/stamp ## Known vulnerabilities of what is pinned, where its databases can be reached; no part of check
	@test -x .tools/bin/govulncheck || GOBIN=$(CURDIR)/.tools/bin go install golang.org/x/vuln/cmd/govulncheck@v1.9.0 || true
	@PATH="$(CURDIR)/.tools/audit/bin:$(CURDIR)/.tools/bin:$$PATH" python3 scripts/vulnerabilities.py

.tools/audit/stamp: requirements/audit.txt | $(UV)
	$(UV) venv -q --clear --python '>=3.11' .tools/audit
	$(UV) pip sync -q --python .tools/audit requirements/audit.txt
	@touch $@

system: ## Programs that tests use and PyPI does not have
	scripts/system-packages nginx libnginx-mod-rtmp librtmp1 ffmpeg chromium npm

livekit: ## A LiveKit server for this machine, built by Go into .tools/bin; minutes the first time
	@scripts/livekit-server

console: ## The web console, built from console/ into the package
	@scripts/console

.tools/bin/uv:
	python3 -m venv .tools
	.tools/bin/pip install -q --require-hashes -r requirements/installer.txt

.venv/bin/python: | $(UV)
	$(UV) venv -q --python '>=3.11' .venv

# A development environment has all that running needs, so the smaller set never takes it away again.
.venv/run.stamp: requirements/run.txt pyproject.toml | .venv/bin/python
	@test -e .venv/dev.stamp || $(UV) pip sync -q --python $(PY) requirements/run.txt
	@test -e .venv/dev.stamp || $(UV) pip install -q --python $(PY) --no-deps --build-constraints requirements/build.txt -e .
	@touch $@

.venv/dev.stamp: requirements/dev.txt pyproject.toml | .venv/bin/python
	$(UV) pip sync -q --python $(PY) requirements/dev.txt
	$(UV) pip install -q --python $(PY) --no-deps --build-constraints requirements/build.txt -e .
	@touch $@ .venv/run.stamp

clean: ## Forget everything that was installed or started here; the data in .butai stays
	rm -rf .venv .tools .pytest_cache .hypothesis .ruff_cache bench/.work bench/results console/node_modules src/butai/console_dist
