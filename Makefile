# Bare `make` lists what there is. Every target prepares the environment first, which is quick
# when nothing changed. Tried with GNU make 4.3; nothing here is newer than 3.81 (macOS) but
# .SHELLFLAGS, which that ignores.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# What was typed on the command line; set-up refuses a name that is not among `names`.
names := PROFILE NB PARAMS DATA SCHEMA MAPPING RUN FROM YES FORCE JOBS RECORD ARGS VENV PYTHON
typed := $(strip $(foreach v,$(.VARIABLES),$(if $(filter command,$(origin $v)),$v)))

PROFILE ?= cpu
NB ?=
PARAMS ?=
DATA ?=
SCHEMA ?=
MAPPING ?=
RUN ?=
FROM ?=
YES ?=
FORCE ?=
# Not from the environment, where other tools keep a JOBS of their own.
JOBS = 1
RECORD =
ARGS ?=
VENV ?= .venv
PYTHON ?= python3
# Values stay as typed, a "$" in them too, and reach the tools through the environment, where
# quotes, spaces and other shell characters are safe.
$(foreach v,$(names),$(eval override $v := $$(value $v)))
export PROFILE NB PARAMS DATA SCHEMA MAPPING RUN FROM JOBS VENV

# Switches: 1, yes or true is on; nothing, 0, no or false is off.
$(foreach v,YES FORCE RECORD,$(if $(filter-out 1 yes true 0 no false,$($v)),\
  $(error $v=$($v): 1 means yes, 0 or nothing means no)))
on = $(if $(filter 1 yes true,$($1)),$2)

py := "$$VENV/bin/python"
nbrun := $(py) -m sft_utils.runner.nbrun
# A value goes over as one argument: nbrun takes everything behind the first "=" of NAME==VALUE.
own := $(if $(DATA),--param "data==$$DATA") $(if $(SCHEMA),--param "schema==$$SCHEMA") \
  $(if $(MAPPING),--param "mapping==$$MAPPING")
params := $(if $(PARAMS),--param "$$PARAMS") $(own) $(call on,FORCE,--force)

# Refused before anything is set up: a target without its value, or with one that it would ignore.
ifneq (,$(filter nb adopt,$(MAKECMDGOALS)))
ifeq (,$(NB))
$(error this target needs NB=, for example: make nb NB=03)
endif
endif
ifneq (,$(filter reproduce,$(MAKECMDGOALS)))
ifeq (,$(RUN))
$(error this target needs RUN=, for example: make reproduce RUN=3fa9)
endif
endif
ifneq (,$(filter run-all,$(MAKECMDGOALS)))
ifneq (,$(NB))
$(error run-all runs every notebook; for one alone: make nb NB=$(NB))
endif
endif

# What a target reads, besides VENV and PYTHON; `make clean PROFILE=smoke` removed all profiles.
file := PROFILE PARAMS FORCE DATA SCHEMA MAPPING
reads := help=PROFILE nb=NB $(file:%=nb=%) $(file:%=run-all=%) run-all=JOBS run-all=RECORD \
  list=PROFILE times=PROFILE publish=NB publish=PROFILE adopt=NB adopt=FROM adopt=YES regress=NB \
  regress=PROFILE reproduce=RUN test=JOBS test=ARGS gpu-check=ARGS bench=ARGS
goals := $(or $(MAKECMDGOALS),help)
read := VENV PYTHON $(foreach t,$(goals),$(patsubst $t=%,%,$(filter $t=%,$(reads))))
unread := $(firstword $(filter-out $(read),$(filter $(names),$(typed))))
$(if $(unread),$(error nothing was done: make $(goals) does not read $(unread)=, leave it out))

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  PROFILE=$$PROFILE (smoke cpu gpu-16gb gpu-24gb gpu-80gb multi-gpu)  VENV=$$VENV"
	@echo "  for example: make nb NB=01 PARAMS=\"seed=3\""

.PHONY: setup
setup: ## create or update the environment and the base model (PYTHON=, VENV=)
	@$(PYTHON) sft_utils/bootstrap.py --venv "$$VENV" --names "$(names)" --typed "$(typed)"

.PHONY: nb
nb: setup ## run one notebook: NB=03, PROFILE=, PARAMS=, FORCE=1; your file: DATA=, SCHEMA=, MAPPING=
	@$(nbrun) run --nb "$$NB" --profile "$$PROFILE" $(params)

.PHONY: run-all
run-all: setup ## run all notebooks, JOBS=2 at a time; skips unchanged ones (RECORD=1: time for README)
	@$(nbrun) run-all --profile "$$PROFILE" --jobs "$$JOBS" $(call on,RECORD,--record) $(params)

.PHONY: list
list: setup ## list the notebooks, their questions, times and needs
	@$(nbrun) list --profile "$$PROFILE"

.PHONY: times
times: setup ## where the time of the last runs went: kinds of work, slowest cells (PROFILE=)
	@$(nbrun) times --profile "$$PROFILE"

.PHONY: publish
publish: setup ## publish finished runs: notebooks (cpu), reference results, README tables (NB=)
	@$(nbrun) publish --nb "$${NB:-all}" --profile "$$PROFILE"

.PHONY: renew
renew: setup ## bring text, tables and setup cells of published notebooks up to date (no results change)
	@$(nbrun) renew

.PHONY: adopt
adopt: setup ## bring an edited notebook back into notebooks/src: NB=03, FROM=file.ipynb, YES=1
	@$(nbrun) adopt --nb "$$NB" $(if $(FROM),--from "$$FROM") $(call on,YES,--yes)

.PHONY: verify
verify: setup ## name every published notebook that is stale, edited by hand or unfit
	@$(nbrun) verify

.PHONY: regress
regress: setup ## compare this machine's results with the committed ones (PROFILE=, NB=)
	@$(py) -m sft_utils.runner.regress compare --profile "$$PROFILE" $(if $(NB),--nb "$$NB")

.PHONY: reproduce
reproduce: setup ## replay a recorded run and compare exactly: RUN=id
	@$(py) -m sft_utils.runner.regress reproduce --run "$$RUN"

.PHONY: test
test: setup ## run the tests, JOBS=2 files at a time (ARGS= for pytest)
	@$(py) -m pytest $(if $(filter-out 1,$(JOBS)),-n "$$JOBS" --dist loadfile) $(ARGS)

.PHONY: mutation
mutation: setup ## the full mutation benchmark of the preflight (a quarter of an hour)
	@$(py) -m tests.mutation.run --baseline --json outputs/reference/mutation.json

.PHONY: gpu-check
gpu-check: setup ## what this machine's GPU does, in at most 9 minutes; resumes (ARGS=--force)
	@$(py) -m sft_utils.gpu.gpucheck $(ARGS)

.PHONY: bench
bench: setup ## speed against the usual ways, half an hour; ARGS="--only train" takes a part
	@$(py) -m tests.bench.run $(ARGS)

.PHONY: lint
lint: setup ## check style
	@$(py) -m ruff check .
	@$(py) -m ruff format --check sft_utils

.PHONY: format
format: setup ## format the package
	@$(py) -m ruff check --fix .
	@$(py) -m ruff format sft_utils

.PHONY: data
data: setup ## regenerate data/tickets from its phrases
	@$(py) data/tickets/generate.py

.PHONY: lab
lab: setup ## open JupyterLab
	@"$$VENV/bin/jupyter" lab notebooks

.PHONY: clean
clean: ## list and remove outputs/runs and outputs/reproduce
	@$(PYTHON) sft_utils/bootstrap.py --idle
	@for part in outputs/runs outputs/reproduce; do \
	  if [ -d "$$part" ]; then du -h -d 1 "$$part"; rm -rf "$$part"; fi; done

.PHONY: distclean
distclean: clean ## also remove the converted base model and the environment
	@if [ -d outputs/models ]; then du -h -d 1 outputs/models; rm -rf outputs/models; fi
	@$(PYTHON) sft_utils/bootstrap.py --venv "$$VENV" --remove
