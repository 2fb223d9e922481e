# `make` prints what there is. Everything else is a few lines each, the same that CI calls.
.DEFAULT_GOAL := help
SHELL := /bin/bash
CLUSTER ?= local
REGISTRY ?=
PY := .venv/bin/python
# Most modules of most packages are never imported: those that are get compiled then, in half the time.
PIP := --quiet --disable-pip-version-check --no-compile

help:  ## this list
	@printf 'Veilpod: compute jobs for people who do not trust each other\n\n'
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

demo: venv  ## the main job: a cluster, a chain, ten parties, one task; leaves build/demo/report.html
	@$(PY) -m demo run --cluster $(CLUSTER) $(if $(REGISTRY),--registry $(REGISTRY))

down:  ## remove every trace of the demo and of the local cluster
	@python3 -m demo down --cluster $(CLUSTER)

test: venv  ## every test: lint, types, units, properties, contracts, chart, end to end on a fresh cluster
	@$(PY) -m tests.run

check: venv  ## the quick half of the tests: no cluster
	@$(PY) -m tests.run --quick

bench-contracts: venv  ## gas of every operation, from receipts, beside the bars and the peers
	@test -d contracts/node_modules || npm ci --prefix contracts --no-audit --no-fund --silent
	@$(PY) -m bench.contracts

lock: venv  ## pin and hash the requirements again
	@for set in "base:pyproject.toml" "operator:--extra operator pyproject.toml" "watchtower:--extra watchtower pyproject.toml" \
	    "dev:--extra operator --extra dev pyproject.toml" "contracts:requirements/contracts.in"; do \
	  .venv/bin/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-header --no-emit-index-url --no-emit-find-links \
	    --no-emit-trusted-host --output-file requirements/$${set%%:*}.txt $${set#*:}; done

prove: checkers  ## every symbolic check of the contracts (four minutes; `make check` runs the quick ones)
	@npm ci --prefix contracts --no-audit --no-fund >/dev/null
	@contracts/tools/prove

fuzz: venv  ## coverage-guided fuzzing of what strangers may send to relays and clients: a minute each (SECONDS=...)
	@$(PY) -m tests.fuzz --seconds $(or $(SECONDS),60)

mutation:  ## change the contracts in every small way and see whether a test notices (about half an hour)
	@npm ci --prefix contracts --no-audit --no-fund >/dev/null
	@contracts/tools/mutate

bench-onion: venv  ## the onion network beside a chain of socat and beside Tor: throughput, CPU, delay, fairness, the price of a circuit
	@$(PY) -m bench.onion

bench-cluster: venv  ## a data set's way inside a cluster: from a store's pod over relay pods into a sandbox, beside plain TCP between pods
	@$(PY) -m bench.cluster

bench-virtual: venv  ## a thousand relays on a virtual network: wall time, equal digests, and whether it tells the truth
	@$(PY) -m bench.virtual

bench-channels: venv  ## channel updates: signing on one core, and two operators over loopback
	@$(PY) -m bench.channels

docs: venv  ## generate the reference of CRDs and chart values
	@$(PY) docs/generate.py

venv: .venv/.installed

.venv/.installed: requirements/dev.txt pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	@echo 'Python packages into .venv (pinned and hashed)'
	@python3 -m venv .venv >/dev/null || { apt-get update -qq && apt-get install -y -qq python3-venv && python3 -m venv .venv; }
	@.venv/bin/pip install $(PIP) --require-hashes -r requirements/dev.txt
	@.venv/bin/pip install $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

checkers:  ## the contract checkers, apart from the package: they need an older web3
	@contracts/tools/checkers

.PHONY: help demo down test check bench-contracts bench-onion bench-cluster bench-virtual bench-channels prove fuzz mutation lock docs venv checkers
