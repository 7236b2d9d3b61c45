# Each target sets up what it needs by itself. CONTRIBUTING.md says which one to use when.
VENV   := .venv/bin
PYTEST := $(VENV)/pytest

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev setup-lab packages-demo packages-lab demo check lint test bench conformance pages deb

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

setup: ## make .venv with the program in it (.venv/bin/cardferry)
	@scripts/setup program

setup-dev:
	@scripts/setup dev

setup-lab: packages-lab
	@scripts/setup lab

packages-demo:
	@scripts/debian-packages demo

packages-lab:
	@scripts/debian-packages lab

demo: packages-demo setup ## see it work: two computers and a card on this machine
	@$(VENV)/cardferry demo

lint: setup-dev ## linters, types and import walls
	$(VENV)/ruff check
	$(VENV)/ruff format --check
	$(VENV)/mypy
	$(VENV)/lint-imports

check: lint ## lint and the fast tests; run it before each commit
	$(PYTEST) -q -m "not real and not slow"

test: setup-lab ## all tests, with real pcscd, OpenSSH and PC/SC programs (ARGS="--slow" for more)
	$(PYTEST) -n 3 --dist loadfile --no-loadscope-reorder -m "not alone" $(ARGS)
	$(PYTEST) -m alone $(ARGS)

pages: setup-dev ## write man pages and completions anew (contrib/), after a change of a command or an option
	$(VENV)/python -m cardferry.cli.manual contrib

deb: ## make a Debian package for this release: dist/cardferry_*.deb
	@scripts/debian-package

bench: setup-lab ## measure against plain ssh forwarding, side by side (ARGS=... are passed on)
	$(VENV)/python -m bench $(ARGS)

conformance: setup-lab ## run pcsc-lite's own tests in each way of deploying; you fetched them: make conformance UNITARY_TESTS=PCSC/UnitaryTests
	@test -d "$(UNITARY_TESTS)" || { \
	  echo "error: UNITARY_TESTS does not name a folder" >&2; \
	  echo "hint: get pcsc-lite's source and run: make conformance UNITARY_TESTS=.../PCSC/UnitaryTests" >&2; exit 2; }
	$(VENV)/python -m bench.conformance "$(UNITARY_TESTS)" $(ARGS)
